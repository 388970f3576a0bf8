"""Whether a difference is found, and only a difference."""

import dataclasses

import pytest
import tokenizers
import torch

from tests.small_models import END, random_model, tokenizer
from transformerlm.config import GenerationConfig
from transformerlm.conversion.parity import (
    TEXTS,
    check_ids,
    check_logits,
    check_prompts,
    expectations,
    loading,
    tokenizers_tokenizer,
)
from transformerlm.errors import CheckpointError
from transformerlm.tokenizer.formats.tokenizer_json_writer import tokenizer_json


@pytest.fixture(scope="module")
def model():
    return random_model()


def expected_of(model, **settings):
    return expectations(model, tokenizer(), GenerationConfig(eos_token="", **settings))


def logits_of(model, change=lambda logits, ids: logits):
    return lambda ids: change(model(torch.tensor([ids]))[0].clone(), ids)


def test_the_same_model_is_the_same(model):
    assert check_logits(expected_of(model), logits_of(model), "peer") == 0.0


def test_more_rows_than_there_are_ids_do_not_count(model):
    wide = random_model(vocab_size=400)
    noisy = logits_of(
        wide, lambda logits, ids: torch.cat([logits[:, : tokenizer().vocab_size], logits[:, :50] + 9], 1)
    )
    assert check_logits(expected_of(wide), noisy, "peer") == 0.0


@pytest.mark.parametrize("length", [1, 2, 17])
def test_a_short_context_is_no_hindrance(length):
    model = random_model(context_length=length)
    seen = []

    def logits(ids):
        seen.append(len(ids))
        return model(torch.tensor([ids]))[0]

    check_logits(expected_of(model), logits, "peer")
    assert max(seen) == length


def test_the_largest_difference_is_told(model):
    def shift(logits, ids):
        logits[-1, 3] += 5e-5
        return logits

    assert check_logits(expected_of(model), logits_of(model, shift), "peer") == pytest.approx(5e-5, rel=0.02)


@pytest.mark.parametrize("wrong", [1e-2, -1e-2, torch.nan, torch.inf])
def test_one_wrong_logit_is_found_and_placed(model, wrong):
    def change(logits, ids):
        if len(ids) > 20:
            logits[20, 7] += wrong
        return logits

    with pytest.raises(
        CheckpointError, match=r"^peer: other logits: .* apart after token 21 of \d+; expected at"
    ):
        check_logits(expected_of(model), logits_of(model, change), "peer")


def test_a_continuation_is_looked_at_too(model):
    """A difference that begins behind the end of every text, and behind the random ids."""
    ends = {len(tokenizer().encode(text)) for text in TEXTS}
    seen = []

    def change(logits, ids):
        seen.append(len(ids))
        return logits

    check_logits(expected_of(model), logits_of(model, change), "peer")
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


class Peer:
    """A peer that gives what our model gives, but for the changes."""

    def __init__(self, expected, prompt=lambda ids: ids, new=lambda ids: ids):
        self.expected, self.prompt, self.new = {one.text: one for one in expected}, prompt, new

    def prompt_ids(self, text):
        return self.prompt(self.expected[text].prompt_ids)

    def continuation(self, ids, max_new_tokens):
        found = next(one for one in self.expected.values() if one.given_ids == ids and one.text)
        return self.new(found.new_ids)


@pytest.fixture(scope="module")
def expected(model):
    return expected_of(model, bos_token=END)


def test_prompts_begin_with_their_token_and_a_peer_without_it_is_found(expected):
    bos = tokenizer().special_token_ids[END]
    assert all(one.prompt_ids == [bos, *tokenizer().encode(one.text)] for one in expected if one.text)
    check_prompts(expected, Peer(expected), "peer")
    message = rf"peer: other ids than this package's: id 0 of the prompt .Once.*: {bos} here"
    with pytest.raises(CheckpointError, match=message):
        check_prompts(expected, Peer(expected, prompt=lambda ids: ids[1:]), "peer")


@pytest.mark.parametrize(
    "change", [lambda ids: ids[:-1], lambda ids: [*ids, 7], lambda ids: [(ids[0] + 1) % 300, *ids[1:]]]
)
def test_another_greedy_text_is_found(expected, change):
    with pytest.raises(CheckpointError, match=r"peer: other ids .* of the greedy continuation of .Once"):
        check_prompts(expected, Peer(expected, new=change), "peer")


def test_a_tie_is_no_difference(expected):
    """Of two logits that are equal but for rounding, either may be taken; what follows is another text."""
    one = next(one for one in expected if one.text)
    logits = one.logits.clone()
    other = (one.new_ids[3] + 1) % tokenizer().vocab_size
    logits[one.num_given + 2, other] = logits[one.num_given + 2, one.new_ids[3]] - 1e-6
    tied = [dataclasses.replace(one, logits=logits)]
    check_prompts(tied, Peer(tied, new=lambda ids: [*ids[:3], other, 1, 2]), "peer")
    with pytest.raises(CheckpointError, match="id 3 of the greedy continuation"):
        check_prompts([one], Peer([one], new=lambda ids: [*ids[:3], other, 1, 2]), "peer")


def test_a_length_in_the_file_neither_fills_up_nor_cuts_texts(tmp_path):
    own, path = tokenizer(), tmp_path / "tokenizer.json"
    peer = tokenizers.Tokenizer.from_str(tokenizer_json(own))
    peer.enable_padding(length=200)
    peer.enable_truncation(3)
    peer.save(str(path))
    for text in TEXTS:
        assert tokenizers_tokenizer(path)(text) == own.encode(text)
