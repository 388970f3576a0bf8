"""The families' patterns on the kernels and in plain Python; what has no automaton; safe cuts."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarking.pattern_families import FAMILIES, IN_ONE_PATTERN
from benchmarking.tokenizer_peers import huggingface_pre_tokenizer
from tests.tokenizer.patterns.texts import FRAGMENTS, plainly_counted, random_text
from transformerlm.kernels.bpe_layout import WINDOW
from transformerlm.tokenizer import Tokenizer, encode_kernels, train_bpe_from_texts, train_kernels
from transformerlm.tokenizer.patterns.compiled import compile_cuts, compile_pattern, why_unsupported
from transformerlm.tokenizer.pretokenize import Pretokenizer, bytes_of, text_of
from transformerlm.tokenizer.splits import Split
from transformerlm.tokenizer.train_kernels import WordCounter

pytestmark = pytest.mark.parametrize("kernels", ["always"], indirect=True, scope="session")

OTHERS = {
    "gaps": r"\p{L}+|\d{2}",
    "lazy": r"a+?b|[^a]{1,2}?|ab*+c",
    "behind": r"(?<=a)b|(?<!\s)[tT]+|[^b]+",
    "conditions": r"(?=\p{L})[^a-z]{2,}|a(?! )|\S+(?=\s)",
    "contiguous": (Split(r"\p{P}", "contiguous"), Split(r"\s+|[^\s]{1,3}(?!\p{L})")),
    "scripts": r"\p{Han}+|\p{Script=Latin}{1,4}|\w+|[\p{Alphabetic}\W]\s?",
    "previous": (Split(r"\d{1,3}", "merged_with_previous"),),
    "next": (Split(r"\p{P}+", "merged_with_next"),),
    "inverted next": (Split(r"\s", "merged_with_next", invert=True),),
    "two runs": (Split(r"\p{L}+"), Split(r"[\d_]{1,2}"), Split(r"[\p{Lu}\p{M}]+|\p{Z}+(?!\p{L})")),
}
ALL = FAMILIES | OTHERS
FALCON = (
    Split(r"\p{P}", "contiguous"),
    Split(FAMILIES["gpt2"]),
    Split(r"\p{Nd}", "contiguous"),
    Split("[0-9][0-9][0-9]"),
)
SPECIAL = ["<|e|>", "中", "'s"]


def check(pattern, text, special_tokens=()):
    counter = WordCounter(special_tokens, Pretokenizer(pattern).pattern)
    counter.add(bytes_of(text))
    assert dict(counter.words().items()) == plainly_counted(pattern, special_tokens, text), (pattern, text)


def check_many(pattern, draw, number):
    for index in range(number):
        check(pattern, random_text(draw), SPECIAL if index % 3 == 0 else ())


@pytest.mark.parametrize("name", ALL)
def test_kernels_divide_as_plain_python_does(name):
    check_many(ALL[name], random.Random(name), 150)


@pytest.mark.parametrize("name", ALL)
def test_kernels_encode_as_plain_python_does(name, monkeypatch):
    """With tables so small that they grow and are emptied again and again."""
    monkeypatch.setattr(encode_kernels, "_FIRST_CAPACITY", 1 << 6)
    monkeypatch.setattr(encode_kernels, "_MAX_WORDS", 1 << 9)
    draw = random.Random(name)
    texts = [random_text(draw, 300) for _ in range(30)]
    texts[0] += "long" * 40 + "".join(draw.choices("x!\n ", k=200)) + "日本" * 60
    merges = train_bpe_from_texts(texts, 600, SPECIAL, pattern=ALL[name], num_workers=1)
    tokenizer = Tokenizer(*merges, SPECIAL, pattern=ALL[name], whole_words=name == "llama3")
    for text in [*texts, *texts[:3]]:
        content = bytes_of(text)
        expected = tokenizer._python_encoder.encode(content, tokenizer.pretokenizer)
        assert tokenizer.encode_bytes(content).tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["llama3", "gaps", "deepseek"])
def test_small_tables_of_stretches_change_no_counts(name, monkeypatch):
    monkeypatch.setattr(train_kernels, "_FIRST_CAPACITY", 1 << 4)
    monkeypatch.setattr(train_kernels, "_MAX_STRETCHES", 1 << 6)
    draw = random.Random(name)
    texts = [random_text(draw, 300) for _ in range(20)]
    counters = [WordCounter(SPECIAL, Pretokenizer(ALL[name]).pattern) for _ in range(2)]
    for index, text in enumerate(texts):
        counters[index % 2].add(bytes_of(text))
    counters[0].absorb(counters[1])
    expected = sum((Counter(plainly_counted(ALL[name], SPECIAL, text)) for text in texts), Counter())
    assert dict(counters[0].words().items()) == expected


@pytest.mark.slow
@pytest.mark.endurance
@pytest.mark.parametrize("name", ALL)
def test_kernels_divide_100_000_texts_as_plain_python_does(name):
    draw = random.Random(1)
    for _ in range(500):  # special tokens are between the texts
        check(ALL[name], "<|e|>".join(random_text(draw) for _ in range(200)), ["<|e|>"])


@pytest.mark.parametrize("name", ALL)
def test_kernels_divide_real_texts_as_plain_python_does(name, hard_texts):
    source = Path(random.__file__).read_text()[:30_000]
    check(ALL[name], source + "".join(hard_texts) * 3, ["def", "<|endoftext|>"])


@pytest.mark.parametrize(
    "run", [" ", "a", "A", "1", "!", "\n", " \n", "中", "\u3000", "\u200b", "\udcff", "\u0301"]
)
def test_runs_longer_than_a_window(run):
    for name in FAMILIES:
        long = run * (WINDOW + 9)
        check(FAMILIES[name], f"x{long}'s<|e|>{long}", ["<|e|>"])


def test_a_window_s_end_changes_nothing():
    for name in FAMILIES:
        for length in (WINDOW - 10, WINDOW - 4, WINDOW + 2):
            check(FAMILIES[name], "w " * (length // 2) + "  naïve 中文 12345's\r\n\n \udcffx")


@settings(max_examples=300, deadline=None)
@given(
    text=st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join),
    more=st.lists(st.sampled_from(FRAGMENTS), max_size=6).map("".join),
    name=st.sampled_from([*ALL]),
)
def test_safe_cuts_change_nothing(text, more, name):
    text, more = (text_of(bytes_of(part)) for part in (text, more))
    pretokens = Pretokenizer(ALL[name]).pretokens
    cuts = compile_cuts(Pretokenizer(ALL[name]).pattern)
    for end in range(len(text) + 1):
        cut = cuts.last_cut(text[:end])
        assert pretokens(text[:cut]) + pretokens(text[cut:] + more) == pretokens(text + more)


@pytest.mark.parametrize("name", FAMILIES)
def test_real_texts_have_many_safe_cuts(name, corpus):
    cuts = compile_cuts(Pretokenizer(FAMILIES[name]).pattern)
    for start in range(0, 100_000, 1000):
        assert cuts.last_cut(corpus[start : start + 200]) > 100


def test_the_first_of_several_splits_serves_for_cuts():
    assert compile_pattern(FALCON) is None
    assert compile_cuts(FALCON).last_cut("so, 1234 and then. x") == len("so, 1234 and then.")
    assert compile_cuts((Split(r"\s", "removed"), Split("a"))).last_cut("ab cd") == len("ab ")
    assert compile_cuts((Split(r"ab", "merged_with_next"), Split("a"))) is None


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        (r"\X", r"\\X"),
        (r"(?i:\p{Han})", "case"),
        (r"a|\b", r"\\b"),
        (r"a*", "empty"),
        (r"(?:a?)+b", "may be empty"),
        (r"(?=ab)a", "more than one character"),
        (r"(?:ab)++c", "possessive"),
        (r"a$", r"\$"),
        (r"(a)\1", r"\\1"),
        (r"(?>a)b", r"\(\?>"),
        (r"[a&&b]", "&&"),
        (r"a{2000}", "2000"),
        (r"(?i:é)", "case"),
        (r"(?:a{900}){900}", "size"),
        (r"[ab]*a[ab]{14}", "states"),
        ("(?:" * 900 + "a" + ")" * 900, "groups"),
        ((Split(r"\p{L}+", "removed"),), "removed"),
        ((Split(r"\p{L}+", "removed", invert=True),), "removing"),
        ((Split(r"a+b"), Split("a")), "several steps"),
        ((Split(r"\d{1,3}"), Split(r"\d\d|\d")), "numbers of characters"),
    ],
)
def test_what_has_no_automaton_is_named(pattern, what):
    assert compile_pattern(pattern) is None
    assert regex.search(what, why_unsupported(pattern))


def test_symbols_of_bytes_that_are_not_utf8():
    table = compile_pattern(FAMILIES["llama3"]).arguments["classes"]
    assert len(table) == 1 << 21
    assert np.all(table[0xD800:0xE000] == 255)
    assert np.all(table[0x110000:] == 255)
    assert np.all(table[:0xD800] < 255)


@pytest.mark.parametrize("name", FAMILIES)
def test_families_divide_as_in_tokenizers(name, hard_texts, corpus):
    divide = huggingface_pre_tokenizer(name).pre_tokenize_str
    for text in [*hard_texts, corpus[:50_000]]:
        theirs = [text[begin:end] for _, (begin, end) in divide(text)]

        assert Pretokenizer(FAMILIES[name]).pretokens(text) == theirs


@pytest.mark.parametrize("name", IN_ONE_PATTERN)
def test_one_pattern_divides_as_several_splits(name):
    draw = random.Random(2)
    for text in (random_text(draw) for _ in range(300)):
        several, one = Pretokenizer(FAMILIES[name]), Pretokenizer(IN_ONE_PATTERN[name])
        assert several.pretokens(text) == one.pretokens(text)


@pytest.mark.parametrize("name", [*FAMILIES, "falcon"])
def test_a_stream_is_divided_into_pieces_of_the_size_asked_for(name, corpus):
    pretokenizer = Pretokenizer((FAMILIES | {"falcon": FALCON})[name], ["<|e|>"])
    text = corpus[:100_000]
    chunks = (text[start : start + 700] for start in range(0, len(text), 700))
    pieces = list(pretokenizer.pieces(chunks, 2000))
    assert "".join(pieces) == text
    assert max(map(len, pieces)) < 3500
