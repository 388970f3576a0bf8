import os
import random
import subprocess
import sys
import tracemalloc
from collections import Counter

import pytest

from transformerlm.errors import ConfigError, DataError
from transformerlm.tokenizer import Pretokenizer, train_bpe, train_bpe_from_texts
from transformerlm.tokenizer.bpe import train_from_counts
from transformerlm.tokenizer.reference import train_slowly
from transformerlm.tokenizer.train import (
    count_pretokens,
    read_text,
)

SPECIAL = "<|endoftext|>"


def prose(num_characters, seed=0):
    """Words, white space of all kinds, several scripts, special tokens."""
    generator = random.Random(seed)
    words = [
        "the",
        "they'll",
        "don't",
        "naïve",
        "中文",
        "x1",
        "--",
        "👍🏽",
        "low",
        "lower",
        "lowest",
        SPECIAL,
        "!?",
    ]
    gaps = [" ", " ", " ", "  ", "\n", "\n\n", "\r\n", "\t", ""]
    parts = (generator.choice(words) + generator.choice(gaps) for _ in range(num_characters // 5))
    return "".join(parts)[:num_characters]


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "a text.txt"
    path.write_bytes(prose(20_000).encode())
    return path


@pytest.fixture(scope="module")
def expected(text_file):
    """By the definition: the whole text divided at special tokens, counted, and trained on slowly."""
    text = text_file.read_bytes().decode()
    counts = Counter(
        pretoken for document in text.split(SPECIAL) for pretoken in Pretokenizer().pretokens(document)
    )
    return train_slowly(counts, 60)


@pytest.mark.parametrize(
    ("num_workers", "chunk_bytes"), [(1, 7), (1, 1 << 20), (2, 1000), (2, 1 << 20), (4, 11_111)]
)
def test_neither_workers_nor_chunks_change_the_result(text_file, expected, num_workers, chunk_bytes):
    vocab, merges = train_bpe(
        text_file, 256 + 61, [SPECIAL], num_workers=num_workers, chunk_bytes=chunk_bytes
    )
    assert merges == expected
    assert vocab[316] == SPECIAL.encode()


@pytest.mark.parametrize("hash_seed", ["4711"])
def test_the_hash_seed_does_not_change_the_result(text_file, expected, hash_seed):
    program = (
        "import sys; from transformerlm.tokenizer import train_bpe;"
        f"print(train_bpe(sys.argv[1], 317, ['{SPECIAL}'], num_workers=2, chunk_bytes=5000)[1])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", program, str(text_file)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(expected)


def test_special_tokens_contribute_nothing(tmp_path):
    path = tmp_path / "text"
    path.write_text(f"ab{SPECIAL}" * 9 + "cd cd cd")
    _, merges = train_bpe(path, 256 + 1 + 3, [SPECIAL], num_workers=1)
    assert merges[0] == (b"a", b"b")
    assert not any(b"<" in left + right or b"|" in left + right for left, right in merges)
    _, merges = train_bpe(path, 256 + 20, [], num_workers=1)
    assert any(b"<|" in left + right for left, right in merges)


def test_texts_are_independent_of_each_other():
    _, merges = train_bpe_from_texts(["a", "b"] * 50 + ["cd"], 300, [], num_workers=1)
    assert merges == [(b"c", b"d")]


def test_texts_and_a_file_give_the_same(text_file, expected):
    documents = text_file.read_bytes().decode().split(SPECIAL)
    assert train_bpe_from_texts(iter(documents), 256 + 60, [], num_workers=2)[1] == expected


def test_several_files_begin_anew_each(tmp_path):
    for name, content in ("1", "ab"), ("2", "cab"), ("3", "b"):
        (tmp_path / name).write_text(content)
    _, merges = train_bpe([tmp_path / "1", str(tmp_path / "2"), tmp_path / "3"], 300, [], num_workers=1)
    assert merges == train_from_counts({"ab": 1, "cab": 1, "b": 1}, 300)[1]


@pytest.mark.slow
def test_long_texts_are_divided_among_the_workers():
    text = prose(1_200_000)
    assert count_pretokens([text], [SPECIAL], num_workers=2) == count_pretokens(
        [text], [SPECIAL], num_workers=1
    )
    assert count_pretokens([text], []) == Counter(word.encode() for word in Pretokenizer().pretokens(text))


def test_another_pattern(text_file):
    text = text_file.read_bytes().decode()
    pattern = r"\p{L}+|\P{L}+"
    counts = Counter(Pretokenizer(pattern).pretokens(text))
    assert train_bpe(text_file, 300, [], pattern=pattern, num_workers=2)[1] == train_slowly(counts, 44)


def test_progress_counts_every_byte_and_every_merge(text_file):
    counted, merged = [], []
    _, merges = train_bpe(
        text_file,
        280,
        [],
        num_workers=2,
        chunk_bytes=2000,
        progress=counted.append,
        merge_progress=merged.append,
    )
    assert sum(counted) == text_file.stat().st_size
    assert len(counted) > 3
    assert sum(merged) == len(merges)


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 5, 1000])
def test_reading_never_splits_a_character_and_keeps_line_ends(tmp_path, chunk_bytes):
    text = "\ufeffaé中👍\r\n\u2028end\r"
    path = tmp_path / "text"
    path.write_bytes(text.encode())
    assert "".join(read_text(path, chunk_bytes)) == text


@pytest.mark.parametrize("chunk_bytes", [1, 1000])
@pytest.mark.parametrize(
    ("content", "offset"),
    [(b"abc\xffdef", 3), ("é中".encode() + b"\x80", 5), ("ok 👍".encode()[:-1], 3), (b"a\xed\xa0\x80", 1)],
)
def test_bytes_that_are_not_utf8_are_named(tmp_path, content, offset, chunk_bytes):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"bad\.txt: not UTF-8 at byte {offset}:") as caught:
        train_bpe(path, 300, [], chunk_bytes=chunk_bytes, num_workers=1)
    assert len(caught.value.lines) == 1


def test_what_cannot_be_used_is_said_in_one_line(tmp_path):
    with pytest.raises(DataError, match="nowhere: No such file"):
        train_bpe(tmp_path / "nowhere", 300, [])
    with pytest.raises(DataError, match="Is a directory"):
        train_bpe(tmp_path, 300, [])
    with pytest.raises(ConfigError, match="vocab_size: expected at least 257"):
        train_bpe_from_texts([], 256, [SPECIAL])
    with pytest.raises(DataError, match=r"'\\ud800' in a text"):
        train_bpe_from_texts(["a\ud800"], 300, [])


def test_memory_is_bounded_by_the_distinct_pre_tokens(tmp_path):
    def peak(num_copies):
        path = tmp_path / f"{num_copies}.txt"
        with path.open("wb") as file:
            for _ in range(num_copies):
                file.write(prose(100_000).encode())
        tracemalloc.start()
        train_bpe(path, 300, [SPECIAL], num_workers=1, chunk_bytes=1 << 16)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(1)  # loads the kernels and their tables, once
    assert peak(10) < 1.5 * peak(2)


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [5, pytest.param(100, marks=pytest.mark.endurance)])
def test_one_long_line(tmp_path, megabytes):
    path = tmp_path / "line.txt"
    text = prose(1_000_000).replace("\n", " ").replace("\r", " ") + SPECIAL
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(text.encode())
    # A multiple of each count: the same pairs are the most frequent.
    assert train_bpe(path, 400, [SPECIAL]) == train_bpe_from_texts([text], 400, [SPECIAL])
