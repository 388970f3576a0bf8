"""Fixtures of all tests of training."""

import pytest
import torch

from tests.training.tiny_runs import write_tokens
from transformerlm.data import TokenData


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> TokenData:
    return write_tokens(tmp_path_factory.mktemp("tokens"))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    # More only wait for each other with models this small.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
