"""The definition against cases worked out by hand: everything else is judged by it."""

from transformerlm.tokenizer.reference import encode_slowly, merge_word, split_bytes, train_slowly


def test_a_word_starts_as_its_bytes():
    assert split_bytes("aé") == (b"a", b"\xc3", b"\xa9")
    assert split_bytes(b"\xff\x00") == (b"\xff", b"\x00")


def test_the_example_of_the_paper():
    # Sennrich et al. 2016, algorithm 1, without its end-of-word marks. (e, s) and (s, t) both occur 9
    # times, and (s, t) is the greater pair; then `w` and `est` in newest tie with `n` and `e`.
    assert train_slowly({"low": 5, "lower": 2, "newest": 6, "widest": 3}, 6) == [
        (b"s", b"t"),
        (b"e", b"st"),
        (b"o", b"w"),
        (b"l", b"ow"),
        (b"w", b"est"),
        (b"n", b"e"),
    ]


def test_merging_runs_from_left_to_right():
    assert merge_word(split_bytes("aaa"), (b"a", b"a")) == (b"aa", b"a")
    assert merge_word(split_bytes("abab"), (b"a", b"b")) == (b"ab", b"ab")
    assert merge_word(split_bytes("ba"), (b"a", b"b")) == (b"b", b"a")


def test_encoding_takes_the_earliest_learned_pair_first():
    merges = [(b"b", b"c"), (b"a", b"b"), (b"a", b"bc")]
    assert encode_slowly("abc", merges) == (b"abc",)
    assert encode_slowly("abab", merges) == (b"ab", b"ab")
    assert encode_slowly("abc", [(b"a", b"b"), (b"b", b"c")]) == (b"ab", b"c")
    assert encode_slowly("", merges) == ()
