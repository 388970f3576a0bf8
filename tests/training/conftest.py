"""Fixtures of all tests of training."""

import functools

import pytest
import torch

from tests.training.tiny_runs import write_tokens
from transformerlm.data import TokenData
from transformerlm.training import trainer


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


@pytest.fixture(autouse=True)
def ceiling_measured_once(monkeypatch):
    # It is for one figure in the records, and takes a quarter of a second in each of some hundred runs.
    monkeypatch.setattr(trainer, "measured_flops_ceiling", measured_once)


measured_once = functools.cache(trainer.measured_flops_ceiling)
