"""Bytes that are not UTF-8: nothing of them is lost, and where they divide is defined."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import DataError
from transformerlm.tokenizer import Pretokenizer, Tokenizer, train_bpe_from_texts
from transformerlm.tokenizer.pretokenize import bytes_of, text_of
from transformerlm.tokenizer.reference import encode_slowly, train_slowly
from transformerlm.tokenizer.train import count_words, learn_merges

SPECIAL_TOKENS = ["<|e|>", "<|e|><|e|>", "é", "\u0301x", "\ufffd"]
TEXT = "the cat's cafe\u0301 naïve 中文 \ufffd 12 1234 !! 👍🏽\n\n  low lower lowest <|e|>" * 4

# One of each kind of byte that UTF-8 tells apart, at both ends of each kind.
KINDS = bytes.fromhex(
    "00 20 27 31 61 73 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 e1 ec ed ee ef f0 f1 f3 f4 f5 f8 ff"
)
FRAGMENTS = [
    *(bytes([byte]) for byte in KINDS),
    *(
        text.encode()
        for text in ("é", "中", "👍", "\u3000", "\u00a0", "٣", "'s", " a", "<|e|>", "<|", "e|>", "\n\n")
    ),
    b"\xe4\xb8",  # a character without its end
    b"\xf0\x9f\x91",
    b"\xb8\xad",  # and one without its beginning
    b"\xed\xa0\x80",  # half a surrogate pair
    b"\xc0\xaf",  # too many bytes for "/"
    b"\xe0\x80\xaf",
    b"\xf0\x82\x82\xac",
    b"\xf4\x90\x80\x80",  # behind the last code point
    b"\xf8\x90\x80\x80",
    b"\xff\xbf\xbf\xbf",
]
any_bytes = st.binary(max_size=60) | st.lists(st.sampled_from(FRAGMENTS), max_size=14).map(b"".join)


@pytest.fixture(scope="module")
def small(kernels):
    """A tokenizer that has merged bytes that are not UTF-8, too."""
    damaged = text_of(
        TEXT.encode().replace("中".encode(), b"\xe4\xb8").replace(b"12", b"\xff\xfe")[:-3] + b"\xff"
    )
    vocab, merges = train_bpe_from_texts([TEXT, damaged] * 2, 256 + 90, SPECIAL_TOKENS, num_workers=1)
    return Tokenizer(vocab, merges, SPECIAL_TOKENS)


def divide_slowly(content, special_tokens):
    """The definition: a byte that Python's decoder finds no place for is an emoji, to the pattern."""
    characters = []
    while content:
        for length in range(1, 5):
            try:
                characters.append((content[:length].decode(), content[:length]))
                break
            except UnicodeDecodeError:
                continue
        else:
            length = 1
            characters.append(("\U0001f600", content[:1]))
        content = content[length:]
    yield from _divided(
        characters, [tuple(zip(token, map(str.encode, token), strict=True)) for token in special_tokens]
    )


def _divided(characters, special_tokens):
    longest_first = sorted(special_tokens, key=len, reverse=True)
    position = start = 0
    while position <= len(characters):
        rest = characters[position:]
        found = next((token for token in longest_first if tuple(rest[: len(token)]) == token), None)
        if found or position == len(characters):
            segment = characters[start:position]
            for match in regex.finditer(GPT2_PATTERN, "".join(character for character, _ in segment)):
                yield b"".join(own for _, own in segment[match.start() : match.end()]), False
        if found:
            yield b"".join(own for _, own in found), True
            start = position + len(found)
        position += len(found) if found else 1


def encode_bytes_slowly(tokenizer, content):
    for part, is_special in divide_slowly(content, list(tokenizer.special_token_ids)):
        yield from [part] if is_special else encode_slowly(part, tokenizer.merges)


@settings(max_examples=120, deadline=None)
@given(content=any_bytes)
@example(content=b"\xc3a")  # a lead byte and a letter are no letter
@example(content=b" \xc3 \xc3a'\xffs")
@example(content=b"\xe3\x80 \xe3\x80\x80")
@example(content=b"  \xff  \xff")
@example(content=b"<|e|\xff><|e|>\xc3")
def test_any_bytes_come_back_and_divide_as_defined(small, content):
    ids = small.encode_bytes(content)
    assert small.decode_bytes(ids) == content
    tokens = [small.vocab[token_id] for token_id in ids.tolist()]
    assert tokens == list(encode_bytes_slowly(small, content))


@settings(max_examples=40, deadline=None)
@given(content=any_bytes, times=st.sampled_from([1, 300, 3000]))
def test_any_bytes_come_back_with_gpt2s_vocabulary_wherever_a_window_ends(gpt2, content, times):
    content = b"".join([content] * times)[:50_000]
    ids = gpt2.encode_bytes(content)
    assert gpt2.decode_bytes(ids) == content
    assert ids.dtype == np.uint16
    assert ids.tolist() == gpt2._python_encoder.encode(content, gpt2.pretokenizer).tolist()


def test_every_sequence_of_kinds_of_bytes_divides_as_python_decodes_it():
    """So the kernels and Python's own decoder agree on what UTF-8 is."""
    leads = bytes.fromhex("e0 ed ef f0 f3 f4 f5 f8 fb fc ff")
    continuations = bytes.fromhex("7f 80 8f 90 9f a0 bf c0")
    fours = itertools.product(leads, continuations, continuations, continuations)
    for sequences in (itertools.product(KINDS, repeat=3), fours):
        content = b"".join(b"a%sa " % bytes(sequence) for sequence in sequences)
        expected = Counter(map(bytes_of, Pretokenizer().pretokens(text_of(content))))
        found = dict(count_words([text_of(content)], [], num_workers=1).items())
        assert {word: found.get(word) for word in expected if len(word) > 1} == {
            word: count for word, count in expected.items() if len(word) > 1
        }


@settings(max_examples=50, deadline=None)
@given(text=st.text() | st.text(alphabet="aelowst 12\n'é中👍🏽<|>"))
def test_of_valid_text_the_bytes_have_the_ids_of_the_text(small, text):
    assert small.encode_bytes(text.encode()).tolist() == small.encode(text)
    for allowed in ("none", ["<|e|>", "é"]):
        expected = small.encode(text, allowed_special=allowed)
        assert small.encode_bytes(text.encode(), allowed_special=allowed).tolist() == expected


@given(content=any_bytes)
def test_text_of_bytes_and_back(content):
    assert bytes_of(text_of(content)) == content


@pytest.mark.parametrize("code", [0xD83D, 0xDCFF, 0xDC80, 0xDE00])
def test_where_text_is_asked_for_half_a_surrogate_pair_stays_an_error(small, code):
    half = chr(code)
    small.encode_bytes(bytes_of("a\udcff \udc80 \udcff"))  # what is remembered of bytes is not of text
    for text in (f"a{half}", half, f"x {half} y"):
        with pytest.raises(DataError, match="half of a surrogate pair is no character"):
            small.encode(text)
    if not 0xDC80 <= code <= 0xDCFF:
        with pytest.raises(DataError, match="half of a surrogate pair is no character"):
            bytes_of(half)


@pytest.mark.parametrize(("seed", "num_workers"), [(0, 1), (1, 2), (2, 1)])
def test_training_counts_such_bytes_as_the_definition_divides_them(seed, num_workers):
    generator = random.Random(seed)
    contents = [b"".join(generator.choices(FRAGMENTS, k=300)) for _ in range(4)]
    special_tokens = SPECIAL_TOKENS[: generator.randint(0, 5)]
    counts = {}
    for content in contents:
        for part, is_special in divide_slowly(content, special_tokens):
            if not is_special:
                counts[part] = counts.get(part, 0) + 1
    words = count_words(map(text_of, contents), special_tokens, num_workers=num_workers)
    found = {word: count for word, count in words.items() if len(word) > 1}
    assert found == {word: count for word, count in counts.items() if len(word) > 1}
    _, merges = learn_merges(words, 256 + 60 + len(special_tokens), special_tokens)
    assert merges == train_slowly(counts, 60)[: len(merges)]
    assert len(merges) >= 60


@settings(max_examples=80, deadline=None)
@given(content=any_bytes, more=any_bytes, size=st.integers(1, 9))
def test_a_safe_cut_of_such_text_is_safe(content, more, size):
    def units(content):
        return list(divide_slowly(content, SPECIAL_TOKENS))

    pretokenizer = Pretokenizer(special_tokens=SPECIAL_TOKENS)
    whole = text_of(content + more)
    pieces = map(bytes_of, pretokenizer.pieces([whole], size))
    assert list(itertools.chain.from_iterable(map(units, pieces))) == units(content + more)
