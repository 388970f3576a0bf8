"""Counting and learning on the kernels, where they differ from the plain path: tables, threads, sizes."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformerlm.errors import ConfigError, DataError
from transformerlm.kernels.bpe_layout import WINDOW
from transformerlm.tokenizer import Pretokenizer, train_kernels
from transformerlm.tokenizer.bpe import train_from_counts
from transformerlm.tokenizer.reference import train_slowly
from transformerlm.tokenizer.train_kernels import WordCounter, WordList, count_words, learn_merges
from transformerlm.tokenizer.verify import verify_merges

SPECIAL = ["<|e|>", "<|e|><|e|>", "a b"]


pytestmark = pytest.mark.parametrize("kernels", ["always"], indirect=True, scope="session")


def plainly(texts, special_tokens=()):
    """Words of two bytes and more, as the definition counts them."""
    pretokenizer = Pretokenizer(special_tokens=special_tokens)
    counts = Counter()
    for text in texts:
        for segment, is_special in pretokenizer.split_special(text):
            if not is_special:
                counts.update(word.encode() for word in pretokenizer.pretokens(segment))
    return {word: count for word, count in counts.items() if len(word) > 1}


def counted(texts, special_tokens=()):
    counter = WordCounter(special_tokens)
    for text in texts:
        assert counter.add(text) == len(text.encode())
    return dict(counter.words().items())


@settings(max_examples=120, deadline=None)
@given(texts=st.lists(st.text(max_size=60), max_size=4))
def test_counts_as_the_pattern_divides(texts):
    assert counted(texts) == plainly(texts)


@settings(max_examples=120, deadline=None)
@given(text=st.text(alphabet="ab <|e>'sl\n\u3000é", max_size=80))
def test_special_tokens_part_the_text(text):
    assert counted([text], SPECIAL) == plainly([text], SPECIAL)


@pytest.mark.parametrize("shift", [-8, -1, 0, 1, 7])
def test_a_window_s_end_divides_nothing(hard_texts, shift):
    for text in hard_texts:
        filler = "word " * ((WINDOW + shift - len(text.encode()) // 2) // 5)
        for whole in (filler + text + " more", filler + "x" * (shift % 5) + text):
            assert counted([whole], ["<|endoftext|>"]) == plainly([whole], ["<|endoftext|>"])


@pytest.mark.parametrize("length", [7, 8, 9, 15, 16, 17, 1025, WINDOW - 1, WINDOW, WINDOW + 1])
def test_words_of_every_length(length):
    texts = [character * length + end for character in "a!5 é\u3000" for end in ("", " x", "\n\n", "<|e|>  ")]
    assert counted(texts, SPECIAL) == plainly(texts, SPECIAL)
    # The same length, and different only at the end or in the middle.
    texts = ["a" * (length - 1) + "b", "a" * (length // 2) + "b" + "a" * (length - length // 2 - 1)]
    assert counted(texts * 3) == plainly(texts * 3)


def test_tables_grow(monkeypatch):
    monkeypatch.setattr(train_kernels, "_FIRST_CAPACITY", 16)
    texts = [f"{number} word{number} {'very' * (number % 40)}long{number}" for number in range(3000)]
    assert counted([" ".join(texts)]) == plainly([" ".join(texts)])


def test_tables_grow_for_long_words(monkeypatch):
    monkeypatch.setattr(train_kernels, "_FIRST_CAPACITY", 1 << 12)
    texts = [chr(97 + number % 26) * (WINDOW // 2 + 150 * number) for number in range(50)]
    assert counted([" ".join(texts)]) == plainly([" ".join(texts)])


def test_counters_add_up():
    one, other = WordCounter([]), WordCounter([])
    one.add("some words and some that are much longer than fifteen bytes: extraordinarily")
    other.add("other words, extraordinarily extraordinarily, and some")
    one.absorb(other)
    texts = [
        "some words and some that are much longer than fifteen bytes: extraordinarily",
        "other words, extraordinarily extraordinarily, and some",
    ]
    assert dict(one.words().items()) == plainly(texts)


@pytest.mark.parametrize("num_threads", [1, 4])
def test_threads_change_nothing(hard_texts, num_threads):
    pieces = [f"{text} {number}" for number in range(10) for text in hard_texts]
    words = count_words(pieces, ["<|endoftext|>"], num_threads)
    assert dict(words.items()) == plainly(pieces, ["<|endoftext|>"])
    assert (words.counts[:-1] >= words.counts[1:]).all()


def test_nothing_to_count():
    assert dict(count_words([], [], 2).items()) == {}
    assert learn_merges(count_words(["a\nb!"], [], 1), 300)[1] == []


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_slow_trainer(seed):
    generator = random.Random(seed)
    alphabet = generator.choice(["ab", "abc", "abcdefghij ", "aé文\0"])
    longest = generator.choice([3, 12, 60])
    words = {
        "".join(generator.choices(alphabet, k=generator.randint(1, longest))): generator.randint(1, 9)
        for _ in range(generator.randint(1, 40))
    }
    num_merges = generator.randint(0, 80)
    assert learn_merges(WordList.from_counts(words), 256 + num_merges)[1] == train_slowly(words, num_merges)


def test_the_table_of_pairs_grows(monkeypatch):
    generator = random.Random(0)
    words = {bytes(generator.choices(range(97, 123), k=8)): generator.randint(1, 5) for _ in range(2000)}
    expected = train_from_counts(words, 1200)
    monkeypatch.setattr(train_kernels, "_FIRST_PAIRS", 1 << 12)
    assert learn_merges(WordList.from_counts(words), 1200) == expected


def test_ties_of_long_tokens_are_told_apart():
    words = {b"aaaaaaaaaaaaaaaaX" + bytes([byte]): 3 for byte in b"zqbm\0\xff"}
    assert learn_merges(WordList.from_counts(words), 300)[1] == train_slowly(words, 300 - 256)


@pytest.mark.slow
def test_corpora_train_as_in_plain_python(corpus):
    words = count_words([corpus], [], 2)
    vocab, merges = learn_merges(words, 500)
    counts = plainly([corpus])
    assert (vocab, merges) == train_from_counts(counts, 500)
    assert verify_merges(counts, merges) is None


@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.parametrize("python_source", [100e6], indirect=True)
def test_a_hundred_megabytes_of_source_train_as_in_plain_python(python_source):
    words = count_words(Pretokenizer().pieces([python_source], 1 << 20), [], 2)
    counts = dict(words.items())
    assert counts == plainly([python_source])
    vocab, merges = learn_merges(words, 1000)
    assert (vocab, merges) == train_from_counts(counts, 1000)
    assert verify_merges(counts, merges) is None


def test_progress_and_limits(monkeypatch):
    done = []
    words = WordList.from_counts({"abcdefgh": 2, "bcdefghi": 1})
    _, merges = learn_merges(words, 5000, progress=done.append)
    assert sum(done) == len(merges) == 8
    with pytest.raises(ConfigError, match="vocab_size: expected at least 257"):
        learn_merges(words, 256, ["<|e|>"])
    monkeypatch.setattr(train_kernels, "_MAX_BYTES", 10)
    with pytest.raises(DataError, match="expected at most 10 bytes of different words, got 19"):
        learn_merges(words, 300)
