"""Streams: in whatever chunks a text comes the ids are those of the whole, in little memory, and so back."""

import itertools
import random
import subprocess
import sys
import unicodedata

import pytest
import regex

from transformerlm.tokenizer import StreamDecoder, Tokenizer, kernel_library, train_bpe_from_texts

OVERLAPPING = [
    ["<|e|>", "<|e|><|e|>", "|><|"],
    ["ab", "bc", "abcd", "cda"],
    ["aa", "aaa", "aba"],
    [" ", "  ", "\n\n", "\n "],
    ["a b", "b", "👍🏽", "👍", "🏽"],
    ["'s", "s ", " s", "\n'"],
]
FRAGMENTS = [
    *(*"abcds1'! \n>", "é", "中", "👍", "🏽", "\u3000", "\r\n", "<|", "|>", "e"),
    *itertools.chain.from_iterable(OVERLAPPING),
]


def random_texts(number, num_fragments):
    """Texts, each with its special tokens."""
    for seed in range(number):
        generator = random.Random(seed)
        special_tokens = OVERLAPPING[seed % len(OVERLAPPING)]
        parts = generator.choices([*FRAGMENTS, *special_tokens * 3], k=num_fragments)
        yield "".join(parts), special_tokens


@pytest.fixture(scope="module")
def overlapping(kernels):
    """A tokenizer for each set of special tokens."""
    texts = [text for text, _ in random_texts(100, 40)]
    return {
        tuple(special_tokens): Tokenizer(
            *train_bpe_from_texts(texts, 256 + 100 + len(special_tokens), special_tokens, num_workers=1),
            special_tokens,
        )
        for special_tokens in OVERLAPPING
    }


def test_every_one_and_two_cuts_change_nothing(overlapping, kernels):
    step = 1 if kernels == "never" else 5  # where a text is cut is decided before the kernels see it
    for text, special_tokens in itertools.islice(random_texts(36, 8), None, None, step):
        tokenizer = overlapping[tuple(special_tokens)]
        whole = tokenizer.encode(text)
        for start, end in itertools.combinations_with_replacement(range(len(text) + 1), 2):
            chunks = [text[:start], text[start:end], text[end:]]
            assert list(tokenizer.encode_iterable(chunks, piece_size=1)) == whole, (chunks, special_tokens)


@pytest.mark.parametrize(
    "number", [120, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.endurance])]
)
def test_random_chunks_of_random_sizes_change_nothing(overlapping, number):
    for seed, (text, special_tokens) in enumerate(random_texts(number, 60)):
        generator = random.Random(seed)
        cuts = sorted(generator.choices(range(len(text) + 1), k=generator.randint(0, len(text))))
        chunks = [text[start:end] for start, end in itertools.pairwise([0, *cuts, len(text)])]
        tokenizer = overlapping[tuple(special_tokens)]
        for piece_size in (generator.randint(1, 50), 1 << 16):
            stream = tokenizer.encode_iterable(iter(chunks), piece_size=piece_size)
            assert list(stream) == tokenizer.encode(text), (chunks, special_tokens, piece_size)


CONSUME = """
import itertools, random, sys
from transformerlm.tokenizer import Tokenizer, train_bpe_from_texts

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024

generator = random.Random(0)
letters = "abcdefghijklmnopqrstuvwxyzäé中"
words = ["".join(generator.choices(letters, k=generator.randint(1, 15))) for _ in range(2000)]
tokenizer = Tokenizer(*train_bpe_from_texts([" ".join(words)] * 9, 8000, ["<|e|>"], num_workers=1), ["<|e|>"])
text = " ".join(generator.choices(words, k=200_000))

def chunks(megabytes):  # of all sizes, and in each a word that has not been before
    number, size = 0, 0
    while size < megabytes * 1e6:
        start = generator.randrange(len(text))
        chunk = f"{text[start : start + generator.choice([5, 500, 50_000, 500_000])]} {number}x{start}\\n"
        number, size = number + 1, size + len(chunk)
        yield chunk

stream = tokenizer.encode_iterable(chunks(float(sys.argv[1])))
base, highest, num_ids = 0, 0, 0
while number := sum(1 for _ in itertools.islice(stream, 100_000)):
    num_ids += number
    highest = max(highest, resident())
    base = base or highest
print(num_ids, base, highest)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kernels", "megabytes"),
    [
        ("always", 60),
        pytest.param("always", 200, marks=pytest.mark.endurance),
        pytest.param("never", 200, marks=pytest.mark.endurance),
    ],
    indirect=["kernels"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_a_long_stream_is_consumed_in_bounded_memory(kernels, megabytes):
    kernel_library.kernels()  # compiled here, if they have to be, and not in what is measured
    command = [sys.executable, "-c", CONSUME, str(megabytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    num_ids, base, highest = map(float, done.stdout.split())
    assert num_ids > megabytes * 1e5
    # MB after the first 100,000 ids, and the most from there on. What the words that are remembered take is
    # within that, with and without the kernels; the text is larger, and a list of its ids would be too.
    assert highest - base < 32, (num_ids, base, highest)


def character_samples():
    """Every script that this Python knows, and emoji of several code points, as lists of characters."""
    scripts = {}
    for code in itertools.chain(range(0x30000), range(0xE0100, 0xE01F0)):
        character = chr(code)
        if unicodedata.category(character) not in ("Cn", "Cs", "Co"):
            scripts.setdefault(unicodedata.name(character, "?").split()[0], []).append(character)
    emoji = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "🇫🇷", "1️⃣", "☝🏿", "🧑🏻‍🚀", "e\u0301\u0302", "\u200d", "\ufe0f"]
    return [*scripts.values(), *[emoji] * 20]


def test_decoding_token_by_token_never_shows_half_a_character(overlapping, gpt2):
    samples = character_samples()
    assert len(samples) > 300
    num_split = 0
    for seed in range(330):
        generator = random.Random(seed)
        tokenizer = gpt2 if seed % 2 else generator.choice(list(overlapping.values()))
        some = [generator.choice(samples) for _ in range(4)] + [
            samples[seed % len(samples)],
            ["a", " ", "\n"],
        ]
        text = "".join(generator.choice(generator.choice(some)) for _ in range(40)).replace("\ufffd", "")
        decoder = StreamDecoder(tokenizer)
        parts = [decoder.feed(token_id) for token_id in tokenizer.encode(text)]
        num_split += parts.count("")
        assert "".join(parts) == text
        assert decoder.flush() == ""
        assert not any("\ufffd" in part for part in parts)
    assert (
        num_split > 3_000
    )  # tokens within a character: what goes wrong with a decoder that holds nothing back


def test_the_samples_are_of_all_scripts():
    text = "".join(itertools.chain.from_iterable(character_samples()))
    scripts = [
        "Latin",
        "Greek",
        "Cyrillic",
        "Arabic",
        "Hebrew",
        "Devanagari",
        "Thai",
        "Tibetan",
        "Hangul",
        "Han",
    ]
    scripts += ["Hiragana", "Ethiopic", "Cherokee", "Mongolian", "Gothic", "Cuneiform", "Tamil", "Georgian"]
    for script in scripts:
        assert len(regex.findall(rf"\p{{Script={script}}}", text)) > 20
