import json
import random

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizer.costs import DOUBLINGS, is_linear, lines, seconds
from transformerlm.errors import ConfigError
from transformerlm.tokenizer import train_bpe_from_texts
from transformerlm.tokenizer.bpe import (
    MergeRules,
    apply_merges,
    train_from_counts,
)
from transformerlm.tokenizer.byte_alphabet import text_to_token, token_to_text
from transformerlm.tokenizer.reference import (
    count_pairs,
    encode_slowly,
    merge_word,
    split_bytes,
    train_slowly,
)
from transformerlm.tokenizer.train_kernels import WordList, learn_merges
from transformerlm.tokenizer.verify import verify_merges


@pytest.fixture(scope="session")
def train(kernels):
    """Both trainers: the one that is read, and the one on compiled kernels."""
    if kernels == "never":
        return train_from_counts
    return lambda counts, *rest, **named: learn_merges(WordList.from_counts(counts), *rest, **named)


# Few letters, so that pairs overlap and tie; and bytes above 127, which sort after them.
words = st.text(alphabet="abé", min_size=1, max_size=25)
corpora = st.dictionaries(words, st.integers(1, 6), max_size=8)


@settings(max_examples=100, deadline=None)
@given(counts=corpora, num_merges=st.integers(0, 60))
def test_equals_the_slow_trainer(train, counts, num_merges):
    vocab, merges = train(counts, 256 + num_merges)
    assert merges == train_slowly(counts, num_merges)
    learned = [bytes([byte]) for byte in range(256)] + [left + right for left, right in merges]
    assert vocab == dict(enumerate(learned))


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_slow_trainer_on_larger_corpora(train, seed):
    generator = random.Random(seed)
    letters = "abcdefgh"[: generator.randint(2, 8)]
    lengths = [generator.randint(1, 12) for _ in range(40)]
    counts = {"".join(generator.choices(letters, k=length)): generator.randint(1, 9) for length in lengths}
    assert train(counts, 256 + 150)[1] == train_slowly(counts, 150)


def test_a_tie_goes_to_the_greatest_pair_of_byte_strings(train):
    # All occur once. "c" > "b" > "a", and a longer string is greater than one that it begins with.
    _, merges = train({"ab": 1, "ca": 1, "cb": 1, "é": 1, "bc": 1}, 256 + 5)
    assert merges == [(b"\xc3", b"\xa9"), (b"c", b"b"), (b"c", b"a"), (b"b", b"c"), (b"a", b"b")]
    _, merges = train({"ab": 9, "abc": 2, "ac": 2}, 256 + 3)
    assert merges == [(b"a", b"b"), (b"ab", b"c"), (b"a", b"c")]


def test_overlapping_pairs_count_and_merge_from_left_to_right(train):
    assert count_pairs({split_bytes("aaa"): 5}) == {(b"a", b"a"): 10}
    assert merge_word(split_bytes("aaaaa"), (b"a", b"a")) == (b"aa", b"aa", b"a")
    # "aaa" holds (a, a) twice, which is more than (c, d) once with its count of 3.
    _, merges = train({"aaa": 2, "cd": 3}, 256 + 3)
    assert merges == [(b"a", b"a"), (b"c", b"d"), (b"aa", b"a")]


def test_order_and_kind_of_the_counts_do_not_matter(train):
    counts = {"low": 5, "lower": 2, "newest": 6, "widest": 3, "müde": 2}
    expected = train(counts, 280)
    assert train(dict(reversed(counts.items())), 280) == expected
    assert train({word.encode(): count for word, count in counts.items()}, 280) == expected


def test_counts_beyond_32_bits_rank_correctly(train):
    counts = {"ab": 2**40, "cd": 2**40 + 1, "ef": 2**40 - 1, "gh": 2**32 + 5, "ij": 6}
    _, merges = train(counts, 256 + 5)
    assert [left + right for left, right in merges] == [b"cd", b"ab", b"ef", b"gh", b"ij"]


def test_special_tokens_come_last_and_count(train):
    vocab, merges = train({"abab": 3}, 259, ["<|e|>", "👍"])
    assert len(merges) == 1
    assert list(vocab) == list(range(259))
    assert [vocab[256], vocab[257], vocab[258]] == [b"ab", b"<|e|>", "👍".encode()]


def test_a_special_token_that_is_learned_has_one_id(train):
    vocab, _ = train({"ab": 3, "xy": 2}, 259, ["ab", "<|e|>", "x"])
    assert [vocab[256], vocab[257], vocab[258]] == [b"ab", b"xy", b"<|e|>"]


def test_too_few_pairs_are_no_error(train):
    vocab, merges = train({"ab": 1}, 1000, ["<|e|>"])
    assert merges == [(b"a", b"b")]
    assert len(vocab) == 258
    assert train({}, 300) == ({byte: bytes([byte]) for byte in range(256)}, [])


def test_too_small_a_vocabulary_is_refused(train):
    with pytest.raises(
        ConfigError, match=r"expected at least 258 \(256 bytes and 2 special tokens\), got 257"
    ):
        train({"ab": 1}, 257, ["<|e|>", "<|f|>"])
    assert len(train({"ab": 1}, 256)[0]) == 256


def test_progress_is_reported_merge_by_merge(train):
    done = []
    _, merges = train({"abcd": 1}, 300, progress=done.append)
    assert sum(done) == len(merges) == 3


@pytest.mark.parametrize("letters", ["a", "abcdefghijklmnop"])
def test_one_long_word_is_not_quadratic(train, kernels, letters):
    """Going through the word for every merge would take a time that grows with the square of its length."""

    def learn(num_letters):
        word = "".join(random.Random(0).choices(letters, k=num_letters))
        train({word: 1}, 256 + num_letters // 20)

    cost, length = (lines, 3200) if kernels == "never" else (seconds, 64_000)
    assert is_linear(cost, learn, length // 2**DOUBLINGS, length)


def test_one_word_of_equal_letters_equals_the_slow_trainer(train):
    assert train({"a" * 20_000: 1}, 256 + 15)[1] == train_slowly({"a" * 20_000: 1}, 15)


def huggingface_merges(texts, vocab_size, special_tokens=()):
    """What Hugging Face's trainer learns, as byte strings."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(special_tokens), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [(text_to_token(left), text_to_token(right)) for left, right in merges]


def merges_before_the_first_tie(counts, num_merges):
    """The slow trainer's merges as long as its choice needed no tie rule."""
    words = {split_bytes(text): count for text, count in counts.items()}
    merges = []
    while len(merges) < num_merges and (pairs := count_pairs(words)):
        (best, highest), *others = pairs.most_common(2)
        if others and others[0][1] == highest:
            break
        merges.append(best)
        words = {merge_word(word, best): count for word, count in words.items()}
    return merges


def test_equals_huggingface_where_nothing_ties(train):
    num_compared = 0
    for seed in range(20):
        generator = random.Random(seed)
        lengths = [generator.choice([2, 2, 2, 3]) for _ in range(60)]
        counts = {
            "".join(generator.choices("abcdefghijkl", k=length)): generator.randint(1, 999)
            for length in lengths
        }
        expected = merges_before_the_first_tie(counts, 100)
        texts = [word for word, count in counts.items() for _ in range(count)]
        assert huggingface_merges(texts, 256 + 100)[: len(expected)] == expected
        assert train(counts, 256 + 100)[1][: len(expected)] == expected
        num_compared += len(expected)
    assert num_compared > 150


def test_equals_huggingface_made_to_follow_our_tie_rule(corpus):
    """Its rule is the smaller pair of ids, and tokens named beforehand get their ids in the order named."""
    num_merges = 500
    text = corpus[:100_000]
    vocab, merges = train_bpe_from_texts([text], 256 + num_merges, [], num_workers=1)
    descending = [token_to_text(token) for token in sorted(vocab.values(), reverse=True)]
    # One id more than is named: the trainer stops when it has made a token that is not among them.
    theirs = huggingface_merges([text], len(descending) + 1, descending)
    assert theirs[:num_merges] == merges
    assert huggingface_merges([text], len(descending))[:num_merges] != merges


def random_counts(generator, highest):
    """Words of a few letters, so that pairs overlap and tie, or of many. Each is a pre-token."""
    letters = generator.choice(["ab", "abc", "abcdefgh", "aé中𐐷", "abcdefghijklmnopqrstuvwxyz"])
    longest = generator.choice([2, 4, 12])
    words = ("".join(generator.choices(letters, k=generator.randint(1, longest))) for _ in range(40))
    return {word: generator.choice([1, 1, 2, generator.randint(1, highest)]) for word in words}


@pytest.mark.parametrize("seed", range(20))
def test_all_agree_on_the_rule(train, seed):
    """The definition written slowly, this trainer, the replay that knows no tie rule, and Hugging Face."""
    counts = random_counts(random.Random(seed), highest=60)
    vocab, merges = train(counts, 256 + 80)
    assert merges == train_slowly(counts, 80)
    assert verify_merges(counts, merges) is None
    descending = [token_to_text(token) for token in sorted(vocab.values(), reverse=True)]
    texts = [word for word, count in counts.items() for _ in range(count)]
    assert huggingface_merges(texts, len(descending) + 1, descending)[: len(merges)] == merges


@pytest.mark.parametrize("seed", range(8))
def test_all_agree_on_counts_up_to_2_to_the_40(train, seed):
    """Hugging Face's are of 32 bits. Sums of such counts go beyond 2**40, and so differ by 1 in 2**43."""
    generator = random.Random(seed)
    counts = random_counts(generator, highest=6)
    counts = {word: count * 2**40 + generator.randint(-1, 1) for word, count in counts.items()}
    merges = train(counts, 256 + 80)[1]
    assert merges == train_slowly(counts, 80)
    assert verify_merges(counts, merges) is None


# Merges in any order, also such as no trainer learns: "abc" from two pairs, a part learned after its use.
HARD_MERGES = [
    [("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc")],
    [("b", "c"), ("abc", "a"), ("a", "bc"), ("c", "a"), ("ab", "c"), ("a", "b")],
    [("a", "a"), ("aa", "a"), ("aa", "aa"), ("aaa", "aa")],
    [("aa", "aa"), ("a", "a"), ("b", "a"), ("ba", "b")],
]


def rules_of(merges):
    """Ids for merges given as byte strings: the bytes, then the results as they come."""
    tokens = list(
        dict.fromkeys([*(bytes([byte]) for byte in range(256)), *(left + right for left, right in merges)])
    )
    id_of = {token: index for index, token in enumerate(tokens)}
    ranks = {(id_of[left], id_of[right]): rank for rank, (left, right) in enumerate(merges)}
    return MergeRules(ranks, [id_of[left + right] for left, right in merges]), tokens


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_applying_merges_equals_the_slow_encoder(data):
    if data.draw(st.booleans()):
        merges = train_slowly(data.draw(corpora), 40)
    else:
        merges = [(left.encode(), right.encode()) for left, right in data.draw(st.sampled_from(HARD_MERGES))]
    rules, tokens = rules_of(merges)
    word = data.draw(st.text(alphabet="abcé", max_size=40))
    ids = apply_merges(list(word.encode()), rules)
    assert tuple(tokens[token_id] for token_id in ids) == encode_slowly(word, merges)


def test_applying_merges_to_a_long_pre_token_equals_the_slow_encoder():
    generator = random.Random(0)
    merges = train_slowly({"".join(generator.choices("ab", k=200)): 1}, 60)
    rules, tokens = rules_of(merges)
    word = "".join(generator.choices("ab", k=2000))
    ids = apply_merges(list(word.encode()), rules)
    assert tuple(tokens[token_id] for token_id in ids) == encode_slowly(word, merges)
