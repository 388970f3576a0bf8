"""The number of threads for a model, by what is measured."""

import pytest
import torch

from transformerlm.config import ModelConfig
from transformerlm.runtime import choose_num_threads, thread_count
from transformerlm.runtime.thread_count import candidates, thread_seconds

MODEL = ModelConfig(vocab_size=64, context_length=16, d_model=16, num_layers=2, num_heads=2, d_ff=32)


@pytest.fixture(autouse=True)
def eight_processors(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFORMERLM_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(thread_count, "available_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def measured(seconds):
    """A measurement with this result for each number of threads."""
    return lambda model, num_tokens, dtype, numbers: {number: float(seconds(number)) for number in numbers}


def choose(measure, num_tokens=256):
    return choose_num_threads(MODEL, num_tokens, "float32", measure)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda number: 1 / number, 8),
        (lambda number: number, 1),  # a small model: threads only wait
        (lambda number: max(1 / number, 0.25), 4),  # hyper-threads: no more arithmetic
        (lambda number: 1 / number if number < 8 else 0.249, 4),  # not worth four processors
    ],
)
def test_the_fewest_that_are_about_the_fastest(seconds, expected):
    assert choose(measured(seconds)) == expected


def test_the_answer_stays_for_the_same_sizes():
    assert choose(measured(lambda number: number)) == 1
    assert choose(measured(lambda number: 1 / number)) == 1
    assert choose(measured(lambda number: 1 / number), num_tokens=512) == 8


def test_what_is_measured_beside_other_work_is_not_kept():
    assert choose(lambda *arguments: None) == 8
    assert choose(measured(lambda number: number)) == 1


def test_a_number_in_the_environment_is_the_users_choice(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    assert choose(measured(lambda number: 1 / number)) == torch.get_num_threads()
    monkeypatch.setattr(thread_count, "available_cores", lambda: 1)
    assert choose(measured(lambda number: 1 / number)) == 1


@pytest.mark.parametrize(
    ("num_cores", "usual", "expected"),
    [(1, 1, [1]), (2, 2, [1, 2]), (6, 3, [1, 2, 3, 4, 6]), (2, 64, [1, 2])],
)
def test_numbers_to_choose_from(num_cores, usual, expected):
    assert candidates(num_cores, usual) == expected


@pytest.mark.parametrize("is_quiet", [True, False])
def test_measuring_leaves_the_number_of_threads(is_quiet, monkeypatch):
    monkeypatch.setattr(thread_count, "is_quiet", lambda since=None: is_quiet)
    before = torch.get_num_threads()
    seconds = thread_seconds(MODEL, 64, "float32", [1, 2])
    assert (seconds is not None and all(seconds[number] > 0 for number in (1, 2))) == is_quiet
    assert torch.get_num_threads() == before
