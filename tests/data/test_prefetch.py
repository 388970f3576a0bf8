import threading

import pytest
import torch

from transformerlm.data import BatchSampler, Prefetcher
from transformerlm.errors import DataError

SAMPLER = BatchSampler(torch.arange(500).numpy(), 3, 8)
CPU = torch.device("cpu")


def test_batches_are_those_of_their_steps_in_any_order():
    with Prefetcher(SAMPLER.batch, CPU) as prefetcher:
        # On from the beginning, resumed, batches left out, gone back, asked twice.
        for step in (0, 1, 2, 3, 90, 91, 95, 4, 5, 5, 0):
            got, expected = prefetcher.batch(step), SAMPLER.batch(step)
            assert all(map(torch.equal, got, expected))


def test_only_so_many_are_prepared_ahead_and_on_a_thread():
    made, threads = [], set()

    def make(step):
        made.append(step)
        threads.add(threading.current_thread())
        return SAMPLER.batch(step)

    with Prefetcher(make, CPU, depth=3) as prefetcher:
        prefetcher.batch(7)
        prefetcher.batch(8)
    assert made[:2] == [7, 8]
    assert made == sorted(made)
    assert max(made) <= 8 + 3
    (thread,) = threads
    assert thread is not threading.current_thread()
    assert not thread.is_alive()


def test_an_error_comes_with_its_own_batch():
    def make(step):
        if step == 2:
            raise DataError("the file is gone")
        return SAMPLER.batch(step)

    with Prefetcher(make, CPU) as prefetcher:
        prefetcher.batch(0)
        prefetcher.batch(1)
        with pytest.raises(DataError, match="gone"):
            prefetcher.batch(2)
        prefetcher.batch(3)
