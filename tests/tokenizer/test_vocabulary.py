import re

import pytest

from transformerlm.tokenizer.vocabulary import find_merges_fault, find_vocab_fault

BYTES = [(bytes([byte]), byte) for byte in range(256)]


def test_sound_ones_have_no_fault():
    assert find_vocab_fault([*BYTES, (b"ab", 256)]) is None
    assert find_vocab_fault([(b"ab", 256), *reversed(BYTES)]) is None
    assert find_merges_fault([(b"a", b"b")], {**{i: token for token, i in BYTES}, 256: b"ab"}) is None


@pytest.mark.parametrize(
    ("entries", "index", "what"),
    [
        (
            [*BYTES, (b"ab", 257)],
            256,
            "expected the ids 0 to 256, one for each of 257 tokens, got 257 for b'ab'",
        ),
        ([(b"ab", -1), *BYTES], 0, "got -1 for"),
        ([*BYTES, (b"ab", 3)], 256, r"id 3 is given twice, to b'\\x03' and b'ab'"),
        ([*BYTES, (b"a", 256)], 256, "token b'a' is there twice"),
        ([*BYTES[:7], (b"ab", 7), *BYTES[8:]], 0, "expected a token for every byte, got none for 0x07"),
        ([*BYTES, (b"ab", True)], 256, "got True for b'ab'"),
        ([*BYTES, (b"ab", 256.0)], 256, "got 256.0 for b'ab'"),
        ([], 0, "got none for 0x00"),
    ],
)
def test_faults_of_a_vocabulary(entries, index, what):
    fault = find_vocab_fault(entries)
    assert fault.index == index
    assert re.search(what, fault.what)


@pytest.mark.parametrize(
    ("merges", "index", "what"),
    [
        ([(b"a", b"b"), (b"x", b"y")], 1, "b'x' + b'y': b'xy' is not in the vocabulary"),
        ([(b"a", b"bc")], 0, "b'a' + b'bc': b'bc' is not in the vocabulary"),
        ([(b"a", b"b"), (b"a", b"b")], 1, "b'a' + b'b' is there twice"),
    ],
)
def test_faults_of_merges(merges, index, what):
    fault = find_merges_fault(merges, {**{i: token for token, i in BYTES}, 256: b"ab"})
    assert (fault.index, fault.what) == (index, what)
