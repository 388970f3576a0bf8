import weakref

import pytest
import torch

from transformerlm.errors import TransformerLMError
from transformerlm.progress import SilentReporter
from transformerlm.runtime import is_out_of_memory, memory_for
from transformerlm.training.microbatch import MicroBatches, largest_divisor


class Heard(SilentReporter):
    def __init__(self):
        self.messages = []

    def say(self, message):
        self.messages.append(message)


def no_memory():
    """More than any address space has, asked of PyTorch itself."""
    return torch.empty(2**60, dtype=torch.uint8)


def test_what_pytorch_says_when_there_is_no_memory_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        no_memory()
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."))


@pytest.mark.parametrize(
    "error",
    [RuntimeError("expected scalar type Float but found Long"), MemoryError("Unable to allocate 20.0 GiB")],
)
def test_other_failures_are_not(error):
    assert not is_out_of_memory(error)
    heard = Heard()

    def attempt(size):
        raise error

    with pytest.raises(type(error)):
        MicroBatches(8, 8, heard).run(attempt, clear=lambda: None)
    assert heard.messages == []


@pytest.mark.parametrize(
    ("number", "limit", "expected"), [(12, 12, 12), (12, 11, 6), (12, 5, 4), (7, 6, 1), (8, 0, 1), (1, 1, 1)]
)
def test_the_largest_divisor(number, limit, expected):
    assert largest_divisor(number, limit) == expected


def test_it_goes_down_the_divisors_until_it_fits_and_stays_there():
    heard, tried, cleared = Heard(), [], []
    micro_batches = MicroBatches(12, 12, heard)

    def attempt(size):
        tried.append(size)
        return no_memory() if size > 3 else size

    assert micro_batches.run(attempt, clear=lambda: cleared.append(tried[-1])) == 3
    assert tried == [12, 6, 4, 3]
    assert cleared == [12, 6, 4]
    assert micro_batches.run(attempt, clear=pytest.fail) == 3
    assert (micro_batches.size, micro_batches.limit) == (3, 3)
    assert heard.messages[0] == (
        "out of memory: going on with 6 sequences at a time instead of 12; the mathematics is the same"
    )
    assert len(heard.messages) == 3


def test_at_one_sequence_there_is_one_clear_line():
    micro_batches = MicroBatches(4, 1, SilentReporter())
    with pytest.raises(TransformerLMError, match="out of memory with one sequence at a time") as caught:
        micro_batches.run(lambda size: no_memory(), clear=lambda: None)
    assert len(caught.value.lines) == 1
    assert caught.value.__context__ is None  # nothing holds on to the failed attempt


def test_what_has_no_smaller_parts_ends_in_one_line_too():
    with (
        pytest.raises(TransformerLMError, match="out of memory for the optimizer: take a smaller") as caught,
        memory_for("the optimizer"),
    ):
        no_memory()
    assert len(caught.value.lines) == 1
    with pytest.raises(RuntimeError, match="another"), memory_for("the optimizer"):
        raise RuntimeError("another")


def test_what_the_failed_attempt_held_is_free_before_the_next_one():
    alive = []

    def attempt(size):
        alive.append(sum(reference() is not None for reference in held))
        tensor = torch.zeros(10)
        held.append(weakref.ref(tensor))
        return no_memory() if size > 1 else tensor

    held = []
    MicroBatches(4, 4, SilentReporter()).run(attempt, clear=lambda: None)
    assert alive == [0, 0, 0]


def test_a_limit_of_an_earlier_process_holds():
    micro_batches = MicroBatches(12, 12, SilentReporter())
    micro_batches.restrict(None)
    assert (micro_batches.size, micro_batches.limit) == (12, None)
    micro_batches.restrict(4)
    assert (micro_batches.size, micro_batches.limit) == (4, 4)
    other = MicroBatches(6, 2, SilentReporter())
    other.restrict(4)
    assert other.size == 2
