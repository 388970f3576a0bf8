"""The sorted training tokens against the definition; what is saved, and what is refused when it is read."""

import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import torch

from tests.ngrams.sequences import cases, noise, phrases
from tests.small_disk import small_disk
from transformerlm.errors import CheckpointError, OutputError
from transformerlm.ngrams import NgramIndex
from transformerlm.ngrams import index as index_module
from transformerlm.ngrams.index import FILE, MANIFEST
from transformerlm.ngrams.reference import sorted_places
from transformerlm.storage.checksummed_json import dump
from transformerlm.storage.safetensors import tensor_chunks

ADVICE = "remove the folder to go on without the memory of n-grams"


def built(tokens: list[int], vocab_size: int, dtype=np.uint16) -> NgramIndex:
    return NgramIndex.build([np.array(tokens, dtype)], vocab_size, made_from="abc", tokenizer="def")


@pytest.mark.parametrize("name", cases())
def test_the_order_is_that_of_the_definition(name):
    training, _, vocab_size = cases()[name]
    index = built(training, vocab_size)
    assert index.order.tolist() == sorted_places(training)
    assert index.tokens.tolist() == training
    for token in {0, vocab_size - 1}:
        own = index.order[index.starts[token] : index.starts[token + 1]]
        assert sorted(own) == [place for place in range(1, len(training)) if training[place - 1] == token]


@pytest.mark.parametrize("length", [1, 2, 30, 31, 32, 33, 34, 100])
def test_texts_of_about_the_longest_context(length):
    assert built([0] * length, 1).order.tolist() == sorted_places([0] * length)
    assert built(noise(length, length, 2), 2).order.tolist() == sorted_places(noise(length, length, 2))


def test_contexts_that_differ_only_beyond_the_longest_are_equal():
    passage = noise(0, 32, 4)
    tokens = [3, *passage, 0, 1, *passage, 0]
    assert built(tokens, 4).order.tolist() == sorted_places(tokens)


def test_files_are_joined():
    tokens = phrases(0, 200, 12)
    parts = [np.array(part, dtype) for part, dtype in ((tokens[:70], np.uint16), ([], np.uint16))]
    index = NgramIndex.build([*parts, np.array(tokens[70:], np.uint32)], 12)
    whole = built(tokens, 12)
    assert (index.tokens == whole.tokens).all()
    assert (index.order == whole.order).all()
    assert len(NgramIndex.build([], 12).tokens) == 0


def test_ids_outside_of_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="expected ids below 5, got 7"):
        built([1, 7], 5)
    with pytest.raises(ValueError, match="expected a vocabulary of 1"):
        built([], 0)


def test_too_many_tokens_are_refused(monkeypatch):
    monkeypatch.setattr(index_module, "MAX_TOKENS", 9)
    assert len(built([0] * 9, 1).order) == 8
    with pytest.raises(ValueError, match="expected at most 9 tokens, got 10"):
        built([0] * 10, 1)


@pytest.mark.parametrize("name", ["phrases 0", "no training text", "one training token", "ids at the edge"])
def test_what_is_saved_is_read_again(name, tmp_path):
    training, _, vocab_size = cases()[name]
    index = built(training, vocab_size)
    index.save(tmp_path / "run" / "ngrams")
    found = NgramIndex.read(tmp_path / "run" / "ngrams")
    assert (found.vocab_size, found.made_from, found.tokenizer) == (vocab_size, "abc", "def")
    for part in ("tokens", "order", "starts"):
        assert getattr(found, part).dtype == getattr(index, part).dtype
        assert (getattr(found, part) == getattr(index, part)).all()


def test_a_missing_folder_is_none(tmp_path):
    assert NgramIndex.read(tmp_path / "ngrams") is None


def test_one_that_is_there_is_replaced(tmp_path):
    folder = tmp_path / "ngrams"
    for tokens in ([1, 2, 3], [3, 2]):
        built(tokens, 4).save(folder)
    assert NgramIndex.read(folder).tokens.tolist() == [3, 2]
    assert os.listdir(tmp_path) == ["ngrams"]


def test_a_full_disk_leaves_the_one_that_was_there(tmp_path):
    folder = tmp_path / "disk" / "ngrams"
    with small_disk(tmp_path / "disk", 200_000):
        with pytest.raises(OutputError, match=f"^{folder}: cannot be written: No space left"):
            built(noise(0, 50_000, 9), 9).save(folder)
        assert not os.listdir(folder.parent)
        built([1, 2, 3], 4).save(folder)
        with pytest.raises(OutputError, match="what was there before is as it was"):
            built(noise(0, 50_000, 9), 9).save(folder)
        assert os.listdir(folder.parent) == ["ngrams"]
        assert NgramIndex.read(folder).tokens.tolist() == [1, 2, 3]


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "ngrams"
    built(phrases(0, 20, 12), 12).save(folder)
    return folder


def refusal(folder) -> str:
    """The line about a folder that is refused, without its beginning and end, which are the same for all."""
    with pytest.raises(CheckpointError) as caught:
        NgramIndex.read(folder)
    line = str(caught.value)
    assert line.startswith(f"{folder}: damaged: ")
    assert line.endswith(f"; {ADVICE}")
    assert "\n" not in line
    return line.removeprefix(f"{folder}: damaged: ").removesuffix(f"; {ADVICE}")


@pytest.mark.parametrize("name", [FILE, MANIFEST])
def test_every_damaged_byte_is_found(saved, name):
    content = (saved / name).read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        (saved / name).write_bytes(damaged)
        assert refusal(saved)
    (saved / name).write_bytes(content)
    assert NgramIndex.read(saved)


@pytest.mark.parametrize("name", [FILE, MANIFEST])
def test_every_truncated_file_is_found(saved, name):
    content = (saved / name).read_bytes()
    for length in (*range(0, len(content), 7), len(content) - 1):
        (saved / name).write_bytes(content[:length])
        assert refusal(saved)


@pytest.mark.parametrize("name", [FILE, MANIFEST])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    assert refusal(saved) == f"{name}: No such file or directory"


@pytest.mark.parametrize("name", [FILE, MANIFEST])
def test_what_is_no_file_is_refused_at_once(saved, name):
    (saved / name).unlink()
    os.mkfifo(saved / name)
    assert "expected a file, got a FIFO" in refusal(saved)


def test_the_file_of_another_index_is_refused(saved, tmp_path):
    built(noise(1, 20, 12), 12).save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / FILE, saved / FILE)
    assert refusal(saved) == f"{FILE} is not what was written (SHA-256 differs)"


def write_hostile(folder, tensors: dict[str, torch.Tensor], **about) -> None:
    """Write what `save` does not, with checksums that fit."""
    folder.mkdir(exist_ok=True)
    content = b"".join(bytes(chunk) for chunk in tensor_chunks(tensors, {"format": "pt"})[1])
    (folder / FILE).write_bytes(content)
    values = {"format_version": 1, "tokenizer": "", "tokens": "", "vocab_size": 9}
    values |= {"sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_bytes(dump(values | about))


def tensor(values, dtype=torch.uint32) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).to(dtype)


HOSTILE = {
    "places out of range": ({"tokens": tensor([1, 2, 3]), "order": tensor([1, 3])}, {}),
    "places far out of range": ({"tokens": tensor([1, 2, 3]), "order": tensor([1, 2**32 - 1])}, {}),
    "ids out of range": ({"tokens": tensor([1, 9, 3]), "order": tensor([1, 2])}, {}),
    "a shorter order": ({"tokens": tensor([1, 2, 3]), "order": tensor([1])}, {}),
    "a longer order": ({"tokens": tensor([1, 2, 3]), "order": tensor([0, 1, 2])}, {}),
    "an order without tokens": ({"tokens": tensor([]), "order": tensor([0])}, {}),
    "no order": ({"tokens": tensor([1, 2, 3])}, {}),
    "one tensor more": (
        {"tokens": tensor([1, 2]), "order": tensor([1]), "starts": tensor([0, 0, 1])},
        {},
    ),
    "fractions": (
        {"tokens": tensor([1, 2, 3], torch.float32), "order": tensor([1, 2], torch.float32)},
        {},
    ),
    "other integers": ({"tokens": tensor([1, 2, 3], torch.int64), "order": tensor([1, 2])}, {}),
    "negative places": ({"tokens": tensor([1, 2, 3]), "order": tensor([1, -2], torch.int32)}, {}),
    "negative ids": ({"tokens": tensor([1, -2, 3], torch.int32), "order": tensor([1, 2])}, {}),
    "two dimensions": ({"tokens": tensor([[1, 2], [3, 4]]), "order": tensor([1])}, {}),
    "no dimension": ({"tokens": tensor(1), "order": tensor([])}, {}),
    "no vocabulary": ({"tokens": tensor([]), "order": tensor([])}, {"vocab_size": 0}),
    "a negative vocabulary": ({"tokens": tensor([]), "order": tensor([])}, {"vocab_size": -1}),
    "a huge vocabulary": ({"tokens": tensor([1]), "order": tensor([])}, {"vocab_size": 10**30}),
    "a vocabulary for all memory": ({"tokens": tensor([1]), "order": tensor([])}, {"vocab_size": 2**40}),
    "text for a number": ({"tokens": tensor([1]), "order": tensor([])}, {"vocab_size": "9"}),
    "a later format": ({"tokens": tensor([1]), "order": tensor([])}, {"format_version": 2}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_content_is_refused(name, tmp_path):
    tensors, about = HOSTILE[name]
    write_hostile(tmp_path / "ngrams", tensors, **about)
    assert refusal(tmp_path / "ngrams")


def test_what_the_hostile_ones_are_made_from_is_read(tmp_path):
    write_hostile(tmp_path / "ngrams", {"tokens": tensor([1, 2, 3]), "order": tensor([1, 2])})
    assert NgramIndex.read(tmp_path / "ngrams").tokens.tolist() == [1, 2, 3]


def test_a_manifest_of_any_size_is_refused(saved):
    (saved / MANIFEST).write_text(json.dumps({"format_version": 1, "much": "x" * 10**6}))
    assert "not valid JSON" in refusal(saved)


def test_an_order_that_is_none_is_read_and_harmless(tmp_path):
    """Checking that places are sorted would take as long as sorting; lookups stay inside of the tokens."""
    from transformerlm.ngrams import NgramMemory

    tokens = phrases(0, 400, 5)
    for places in ([0] * 399, [399] * 399, noise(0, 399, 400)):
        write_hostile(tmp_path / "ngrams", {"tokens": tensor(tokens), "order": tensor(places)})
        weights, totals = NgramMemory(NgramIndex.read(tmp_path / "ngrams")).score(np.array(tokens))
        assert np.isfinite(weights).all()
        assert np.isfinite(totals).all()
