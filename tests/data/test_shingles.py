import hashlib
import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data import copies_oracle
from transformerlm.data import shingles
from transformerlm.data.shingles import (
    SHINGLE_CHARACTERS,
    Shingler,
    SignatureBuilder,
    bands,
    characters,
    jaccard,
    sampling,
    shingle_hashes,
    shingle_set,
)

TEXTS = st.text(alphabet="ab \n漢字é😀", max_size=60)
MASK = 2**64 - 1


def mixed_slowly(value):
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def hashes_slowly(text):
    """Each shingle as a polynomial in its characters, with Python's own integers."""
    codes, found = list(map(ord, text)), []
    for at in range(len(codes) - SHINGLE_CHARACTERS + 1):
        value = 0
        for code in codes[at : at + SHINGLE_CHARACTERS]:
            value = (value * 0x9E3779B97F4A7C15 + code) & MASK
        found.append(mixed_slowly(value))
    return found


def joined(text):
    return copies_oracle.SPACE.sub(" ", text)


@given(TEXTS)
def test_hashes_are_polynomials_of_the_characters(text):
    assert shingle_hashes(characters(text.encode())).tolist() == hashes_slowly(text)


@given(TEXTS, st.lists(st.integers(0, 60)))
def test_a_text_in_parts_has_the_shingles_of_the_whole(text, places):
    edges = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    parts = [text[start:stop] for start, stop in itertools.pairwise(edges)]
    shingler = Shingler()
    found = [value for part in parts for value in shingler.add(characters(part.encode())).tolist()]
    assert found == hashes_slowly(joined(text))
    assert shingle_set(part.encode() for part in parts).tolist() == sorted(set(found))


@given(TEXTS, TEXTS)
def test_the_similarity_is_that_of_sets_of_substrings(one, other):
    found = jaccard(shingle_set([one.encode()]), shingle_set([other.encode()]))
    assert found == copies_oracle.similarity(one, other)


def signatures_of(texts):
    builder = SignatureBuilder()
    for text in texts:
        builder.begin()
        builder.add(Shingler().add(characters(text.encode())))
    return builder.signatures(), builder.counts


@pytest.mark.parametrize("batch", [1, 7, 100, 2**17])
def test_a_signature_is_the_least_of_every_permutation(batch, monkeypatch):
    monkeypatch.setattr(shingles, "_BATCH", batch)
    texts = ["", "too short", "the cat sat on the mat. " * 3, "漢字かな交じり文の例です。", "123456789"]
    found, counts = signatures_of(texts)
    assert counts == [max(0, len(joined(text)) - SHINGLE_CHARACTERS + 1) for text in texts]
    for row, text in zip(found.tolist(), texts, strict=True):
        values = [value >> 32 for value in hashes_slowly(joined(text))]
        pairs = zip(shingles._FACTORS.tolist(), shingles._SUMMANDS.tolist(), strict=True)
        least = [min(((a * value + b) % 2**32 for value in values), default=2**32 - 1) for a, b in pairs]
        assert row == [value % 2**16 for value in least]


def test_signatures_are_the_same_on_every_machine():
    found, _ = signatures_of(
        ["It was the best of times, it was the worst of times", "漢字かな交じり文の例です。"]
    )
    digest = hashlib.sha256(found.astype("<u2").tobytes()).hexdigest()
    assert digest == "ca3644d610a1093eed10919f9c06b99c28d1db8e28903ab787d5312023dd26dd"


def test_equal_rows_are_equal_in_a_band_and_others_are_not():
    found, _ = signatures_of(
        ["one text that is long enough", "one text that is long enough", "another text, longer"]
    )
    keys = np.array(list(bands(found)))
    assert (keys[:, 0] == keys[:, 1]).all()
    assert (keys[:, 0] != keys[:, 2]).all()
    assert len(keys) == shingles.NUM_BANDS


def test_of_a_long_document_a_part_of_the_shingles_tells_the_similarity(monkeypatch):
    rng = random.Random(0)
    text = copies_oracle.random_text(rng, 30_000)
    other = copies_oracle.edited(rng, text, 500)
    whole = jaccard(shingle_set([text.encode()]), shingle_set([other.encode()]))
    monkeypatch.setattr(shingles, "MAX_SET", 20_000)
    one_in = sampling([len(text), len(other)])
    assert one_in == 16
    sets = [shingle_set([one.encode()], one_in) for one in (text, other)]
    assert max(map(len, sets)) < 25_000
    assert jaccard(*sets) == pytest.approx(whole, abs=0.01)
    assert (sampling([20_000]), sampling([20_001]), sampling([40_001, 5])) == (1, 2, 4)
