import gc

import pytest

from benchmarking import timing
from tests.benchmarking.tiny_bench import LocalContestant


@pytest.fixture
def in_this_process(monkeypatch):
    """Contestants work in this process, which has imported what they need."""
    monkeypatch.setattr(timing, "Contestant", LocalContestant)
    gc.freeze()  # before each measurement garbage is collected: not among all that this process holds
    yield
    gc.unfreeze()
