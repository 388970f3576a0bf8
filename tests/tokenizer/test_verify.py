import random
from collections import Counter

import pytest

from transformerlm.tokenizer import Pretokenizer, verify_merges
from transformerlm.tokenizer.bpe import train_from_counts
from transformerlm.tokenizer.reference import count_pairs, merge_word, split_bytes, train_slowly


def slowly_verified(counts, merges):
    """Index of the first merge that is not of maximal count, by counting everything at every step."""
    words = Counter({split_bytes(text): count for text, count in counts.items()})
    for index, merge in enumerate(merges):
        pairs = +count_pairs(words)
        if not pairs or pairs[merge] < max(pairs.values()):
            return index
        words = Counter({merge_word(word, merge): count for word, count in words.items()})
    return None


@pytest.mark.parametrize("seed", range(12))
def test_finds_the_same_first_fault_as_counting_everything(seed):
    generator = random.Random(seed)
    counts = {
        "".join(generator.choices("abc", k=generator.randint(1, 9))): generator.randint(1, 9)
        for _ in range(15)
    }
    merges = train_slowly(counts, 30)
    assert verify_merges(counts, merges) is None
    swapped = generator.randrange(len(merges) - 1)
    merges[swapped : swapped + 2] = reversed(merges[swapped : swapped + 2])
    fault = verify_merges(counts, merges)
    assert (fault and fault.index) == slowly_verified(counts, merges)


def test_needs_no_tie_rule():
    counts = {"ab": 2, "cd": 2}
    for merges in ([(b"a", b"b"), (b"c", b"d")], [(b"c", b"d"), (b"a", b"b")]):
        assert verify_merges(counts, merges) is None


def test_says_what_is_wrong():
    fault = verify_merges({"ab": 5, "cd": 3}, [(b"c", b"d")])
    assert (fault.index, fault.pair, fault.count) == (0, (b"c", b"d"), 3)
    assert (fault.better_pair, fault.better_count) == ((b"a", b"b"), 5)
    assert str(fault) == "merge 0 is of (b'c', b'd'), which occurs 3 times, while (b'a', b'b') occurs 5 times"


def test_refuses_a_merge_of_what_does_not_occur():
    assert verify_merges({"ab": 5}, [(b"a", b"b"), (b"x", b"y")]).index == 1
    assert verify_merges({}, [(b"a", b"b")]).index == 0


def test_accepts_the_trainer_on_a_corpus_and_refuses_it_with_two_merges_swapped(corpus):
    counts = Counter(Pretokenizer().pretokens(corpus[:100_000]))
    _, merges = train_from_counts(counts, 256 + 600)
    assert verify_merges(counts, merges) is None
    merges[10], merges[500] = merges[500], merges[10]
    assert verify_merges(counts, merges).index == 10
