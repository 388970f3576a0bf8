"""Whether a difference is found, and only a difference."""

import pytest
import torch

from tests.small_models import END, random_model, tokenizer
from transformerlm.conversion.parity import TEXTS, check_ids, check_logits, differing_tensor, loading
from transformerlm.errors import CheckpointError


@pytest.fixture(scope="module")
def model():
    return random_model()


def logits_of(model, change=lambda logits, ids: logits):
    return lambda ids: change(model(torch.tensor([ids]))[0].clone(), ids)


def test_the_same_model_is_the_same(model):
    assert check_logits(model, tokenizer(), logits_of(model), "peer") == 0.0


def test_more_rows_than_there_are_ids_do_not_count(model):
    wide = random_model(vocab_size=400)
    noisy = logits_of(
        wide, lambda logits, ids: torch.cat([logits[:, : tokenizer().vocab_size], logits[:, :50] + 9], 1)
    )
    assert check_logits(wide, tokenizer(), noisy, "peer") == 0.0


@pytest.mark.parametrize("length", [1, 2, 17])
def test_a_short_context_is_no_hindrance(length):
    model = random_model(context_length=length)
    seen = []

    def logits(ids):
        seen.append(len(ids))
        return model(torch.tensor([ids]))[0]

    check_logits(model, tokenizer(), logits, "peer")
    assert max(seen) == length


def test_the_largest_difference_is_told(model):
    def shift(logits, ids):
        logits[-1, 3] += 5e-5
        return logits

    assert check_logits(model, tokenizer(), logits_of(model, shift), "peer") == pytest.approx(5e-5, rel=0.02)


@pytest.mark.parametrize("wrong", [1e-2, -1e-2, torch.nan, torch.inf])
def test_one_wrong_logit_is_found_and_placed(model, wrong):
    def change(logits, ids):
        if len(ids) > 20:
            logits[20, 7] += wrong
        return logits

    with pytest.raises(
        CheckpointError, match=r"^peer: other logits: .* apart after token 21 of \d+; expected at"
    ):
        check_logits(model, tokenizer(), logits_of(model, change), "peer")


def test_a_continuation_is_looked_at_too(model):
    """A difference that begins behind the end of every text, and behind the random ids."""
    ends = {len(tokenizer().encode(text)) for text in TEXTS}
    seen = []

    def change(logits, ids):
        seen.append(len(ids))
        return logits

    check_logits(model, tokenizer(), logits_of(model, change), "peer")
    assert all(length in seen or length + 16 in seen or length + 16 > 48 for length in ends)
    assert min(len(tokenizer().encode("x")) + 16, 48) in seen


def test_other_ids_are_named_with_their_text():
    check_ids(tokenizer(), tokenizer().encode, "peer")
    with pytest.raises(
        CheckpointError, match=r"peer: other ids than this package's: id 1 of .Once upon"
    ) as caught:
        check_ids(tokenizer(), lambda text: [tokenizer().encode(text)[0], 0], "peer")
    assert "0 there" in str(caught.value)
    without_end = lambda text: tokenizer().encode(text, allowed_special="none")  # noqa: E731
    with pytest.raises(CheckpointError, match="other ids") as caught:
        check_ids(tokenizer(), without_end, "peer")
    assert END in str(caught.value)


def test_ids_that_only_end_sooner_are_other_ids():
    with pytest.raises(CheckpointError, match="None there"):
        check_ids(tokenizer(), lambda text: tokenizer().encode(text)[:-1], "peer")


def test_what_another_program_raises_is_one_line():
    with (
        pytest.raises(CheckpointError, match=r"^peer cannot load it: OSError: no such thing$"),
        loading("peer"),
    ):
        raise OSError("no such thing")


def test_tensors_that_differ_in_a_bit_or_in_being_there():
    one = {"a": torch.zeros(2), "b": torch.ones(2)}
    assert differing_tensor(one, dict(one)) is None
    assert differing_tensor(one, one | {"b": torch.ones(2) + 1e-7}) == "b"
    assert differing_tensor(one, {"a": one["a"]}) == "b"
    assert differing_tensor({"a": one["a"]}, one) == "b"
