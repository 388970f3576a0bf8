import dataclasses
import random

import pytest

from transformerlm.config import DataConfig, TokenizerConfig
from transformerlm.data import prepare_data, prepare_tokenizer
from transformerlm.data.verify import verify_token_files, verify_tokenizer
from transformerlm.errors import DataError
from transformerlm.progress import SilentReporter
from transformerlm.tokenizer import Tokenizer

EOT = "<|endoftext|>"


class Listener(SilentReporter):
    def __init__(self):
        self.messages = []

    def say(self, message):
        self.messages.append(message)


@pytest.fixture
def road(tmp_path):
    """A corpus of its own, and both sections of a config for it."""
    stories = [f"story {i}: the cat number {i * i} sat on the mat. " * 3 for i in range(60)]
    (tmp_path / "stories.txt").write_text(EOT.join(stories))
    data = DataConfig(corpus=str(tmp_path / "stories.txt"))
    return data, TokenizerConfig(tokenizer_dir=str(tmp_path / "{corpus}" / "tok"), vocab_size=300)


@pytest.mark.parametrize(("num_workers", "pattern"), [(1, r"\S+|\s+"), (2, TokenizerConfig().pattern)])
def test_what_was_just_trained_is_right(road, tmp_path, num_workers, pattern):
    data = dataclasses.replace(road[0], num_workers=num_workers)
    config = dataclasses.replace(road[1], pattern=pattern)
    listener = Listener()
    verify_tokenizer(data, config, prepare_tokenizer(data, config), listener)
    folder = tmp_path / "stories" / "tok"
    assert listener.messages == [f"tokenizer {folder}: merges verified: 43 of 43 are of maximal count"]


def test_two_merges_swapped_are_found(road, tmp_path):
    tokenizer = prepare_tokenizer(*road)
    merges = list(tokenizer.merges)
    merges[0], merges[20] = merges[20], merges[0]
    wrong = Tokenizer(tokenizer.vocab, merges, tokenizer.special_token_ids)
    folder = tmp_path / "stories" / "tok"
    with pytest.raises(
        DataError, match=rf"^tokenizer {folder}: in this corpus merge 0 is of .* while"
    ) as caught:
        verify_tokenizer(*road, wrong)
    (line,) = caught.value.lines
    assert line.endswith("the tokenizer was learned from other text, or not by counting pairs")


def test_a_tokenizer_of_other_text_is_found_whatever_part_of_it_is_the_same(road, tmp_path):
    tokenizer = prepare_tokenizer(*road)
    with (tmp_path / "stories.txt").open("a") as file:
        file.write(EOT + "zq zq zq " * 500)
    with pytest.raises(DataError, match=r"which occurs \d+ times, while \(b'z', b'q'\)|while \(b' ', b'z'\)"):
        verify_tokenizer(*road, tokenizer)


def test_only_the_training_split_counts(road):
    data, config = road
    whole = dataclasses.replace(data, validation_fraction=0.0)
    half = dataclasses.replace(data, validation_fraction=0.5, validation_split="tail")
    tokenizer = prepare_tokenizer(half, config)
    verify_tokenizer(half, config, tokenizer)
    with pytest.raises(DataError, match="in this corpus merge"):
        verify_tokenizer(whole, config, tokenizer)


def test_nothing_to_merge_is_right(road):
    data, config = road
    config = dataclasses.replace(config, vocab_size=257)
    listener = Listener()
    verify_tokenizer(data, config, prepare_tokenizer(data, config), listener)
    assert listener.messages[0].endswith("merges verified: 0 of 0 are of maximal count")


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def test_token_files_are_what_was_written(road, tmp_path):
    data, config = road
    data = dataclasses.replace(data, token_dir=str(tmp_path / "tokens"))
    listener = Listener()
    made = prepare_data(data, config, prepare_tokenizer(data, config))
    verify_token_files(data, listener)
    assert listener.messages == [
        f"{file.path}: verified: all {file.num_tokens:,} tokens are as they were written"
        for file in (made.train, made.val)
    ]


def test_every_flipped_bit_is_found_and_all_files_are_looked_at(road, tmp_path):
    data, config = road
    data = dataclasses.replace(data, token_dir=str(tmp_path / "tokens"))
    prepare_data(data, config, prepare_tokenizer(data, config))
    paths = [tmp_path / "tokens" / f"{name}.memmap" for name in ("train", "val")]
    sizes = [path.stat().st_size for path in paths]
    generator = random.Random(0)
    for _ in range(30):
        places = [generator.randrange(8 * size) for size in sizes]
        for path, place in zip(paths, places, strict=True):
            flip(path, place)
        with pytest.raises(DataError) as caught:
            verify_token_files(data)
        for path, place, size, line in zip(paths, places, sizes, caught.value.lines, strict=True):
            assert line.startswith(f"{path}: damaged: bytes 0 to {size} are not those that were written")
            flip(path, place)
    verify_token_files(data)
