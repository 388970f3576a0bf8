import itertools
import pickle
import unicodedata

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tokenizer.costs import is_linear, seconds
from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import ConfigError
from transformerlm.tokenizer.pretokenize import Pretokenizer
from transformerlm.tokenizer.splits import Split, split_text

PATTERNS = [
    GPT2_PATTERN,
    r"\w+",  # leaves gaps
    r"(\w)+|\s*",  # has a group, and matches nothing too
    r"(?<=a)b|[^b]+",  # looks back
    r"\p{N}{1,3}|\p{L}+|\s+",
]
SPECIAL_SETS = [
    [],
    ["<|e|>"],
    ["<|e|>", "<|e|><|e|>"],
    ["ab", "bc", "abcd"],
    ["aa"],
    [" ", "\n\n", "  "],
    ["a b", "b", "👍🏽", "👍"],
    ["\n'", "'s", "s"],
]

# Everything that the rules tell apart, and pieces of the special tokens above.
FRAGMENTS = [
    *"abcdsZ1٣'!< \n\t\r|>é中",
    "\u0301",
    "\x1c",
    "\u00a0",
    "👍",
    "🏽",
    "<|",
    "e|>",
    "<|e|>",
    "ll",
    "'s",
]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)
special_sets = st.sampled_from(SPECIAL_SETS)


def units(pretokenizer, text):
    """All that encoding sees of a text: its special tokens and pre-tokens, told apart."""
    return [
        (unit, is_special)
        for segment, is_special in pretokenizer.split_special(text)
        for unit in ([segment] if is_special else pretokenizer.pretokens(segment))
    ]


def test_gpt2_pattern_divides_as_documented():
    pretokens = Pretokenizer().pretokens("I'll  say: 42 times\n\n  no")
    assert pretokens == ["I", "'ll", " ", " say", ":", " 42", " times", "\n\n ", " no"]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(text=texts)
def test_nothing_is_lost(pattern, text):
    pretokens = Pretokenizer(pattern).pretokens(text)
    assert "".join(pretokens) == text
    assert "" not in pretokens


def test_a_single_isolated_split_is_its_pattern():
    assert Pretokenizer([Split(r"\d")]).pattern == r"\d"
    assert Pretokenizer([Split(r"\d", invert=True)]).pattern == (Split(r"\d", invert=True),)


@given(text=texts, special_tokens=special_sets)
def test_splits_divide_what_is_between_special_tokens(text, special_tokens):
    splits = [Split(r"\s", "removed"), Split(r"\p{N}")]
    pretokenizer = Pretokenizer(splits, special_tokens)
    for segment, is_special in pretokenizer.split_special(text):
        if not is_special:
            assert pretokenizer.pretokens(segment) == split_text(splits, segment)
    assert pretokenizer.allowing("none").pretokens(text) == split_text(splits, text)


@given(text=texts)
def test_general_path_equals_the_quick_one(text):
    same_pattern_written_otherwise = f"(?:{GPT2_PATTERN})"
    assert Pretokenizer(same_pattern_written_otherwise).pretokens(text) == Pretokenizer().pretokens(text)


@given(text=texts, special_tokens=special_sets)
def test_special_tokens_are_found_leftmost_and_longest(text, special_tokens):
    def slowly():
        position = start = 0
        while position < len(text):
            found = [token for token in special_tokens if text.startswith(token, position)]
            if found:
                if start < position:
                    yield text[start:position], False
                yield max(found, key=len), True
                position = start = position + len(max(found, key=len))
            else:
                position += 1
        if start < position:
            yield text[start:], False

    assert list(Pretokenizer(special_tokens=special_tokens).split_special(text)) == list(slowly())


@settings(max_examples=200, deadline=None)
@given(text=texts, more=texts, special_tokens=special_sets, pattern=st.sampled_from(PATTERNS))
@example(text="ab", more="c", special_tokens=["bc"], pattern=GPT2_PATTERN)
@example(text="x  ", more=" y", special_tokens=[], pattern=GPT2_PATTERN)
@example(text="a'", more="s", special_tokens=[], pattern=GPT2_PATTERN)
def test_a_safe_cut_changes_nothing_whatever_follows(text, more, special_tokens, pattern):
    pretokenizer = Pretokenizer(pattern, special_tokens)
    cut = pretokenizer.safe_cut(text)
    assert 0 <= cut <= len(text)
    whole = units(pretokenizer, text + more)
    assert units(pretokenizer, text[:cut]) + units(pretokenizer, text[cut:] + more) == whole


@settings(max_examples=150, deadline=None)
@given(before=texts, text=texts, more=texts, special_tokens=special_sets, pattern=st.sampled_from(PATTERNS))
@example(before="<|", text="e|> x y", more="", special_tokens=["<|e|>", "> x"], pattern=GPT2_PATTERN)
def test_a_safe_cut_of_a_tail_changes_nothing_whatever_comes_before(
    before, text, more, special_tokens, pattern
):
    pretokenizer = Pretokenizer(pattern, special_tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformerlm.tokenizer.pretokenize._WINDOW", 1)
        cut = pretokenizer.safe_cut(text, is_tail=True)
    if cut:
        text, cut = before + text, len(before) + cut
        whole = units(pretokenizer, text + more)
        assert units(pretokenizer, text[:cut]) + units(pretokenizer, text[cut:] + more) == whole


def test_other_cuts_do_change_something():
    """The property above can fail: these cuts are refused for a reason."""
    pretokenizer = Pretokenizer(special_tokens=["<|e|>"])
    for text, cut in [
        ("x  y", 3),
        ("it's", 3),
        ("word", 2),
        ("<|e|>", 1),
        ("a\n\n\nb", 2),
        ("a\r\n\r\nb", 3),
    ]:
        apart = units(pretokenizer, text[:cut]) + units(pretokenizer, text[cut:])
        assert apart != units(pretokenizer, text)
        assert pretokenizer.safe_cut(text) != cut


def character_class(character):
    if character in " \n\t\r\u00a0":
        return "S"
    return {"L": "L", "N": "N"}.get(unicodedata.category(character)[0], "P")


@given(text=texts)
def test_without_special_tokens_the_cut_is_the_last_that_the_rules_allow(text):
    allowed = {"LN", "LP", "LS", "NL", "NP", "NS", "PN", "PS"}
    classes = "".join(map(character_class, text))
    cuts = [index for index in range(1, len(text)) if classes[index - 1 : index + 1] in allowed]
    assert Pretokenizer().safe_cut(text) == max(cuts, default=0)


@pytest.mark.parametrize(
    ("special_tokens", "text", "cut"),
    [
        (["<|e|>"], "hello <|e|>", 11),
        (["<|e|>"], "hello <|e|> world", 11),
        (["<|e|>"], "hello<|e|> ", 10),
        (["<|e|>"], "hello <|e", 5),
        (["<|e|>"], "<|e|>", 5),
        (["<|e|>"], "<|e|", 0),
        (["<|e|>", "<|e|><|e|>"], "a <|e|>", 2),
        (["<|e|>", "<|e|><|e|>"], "a <|e|><|e|>", 12),
        (["<|e|>", "<|e|><|e|>"], "a <|e|>b", 7),
        (["aa"], "aaaaa", 4),
        (["ab", "bc"], "abc", 2),
    ],
)
def test_cuts_at_special_tokens(special_tokens, text, cut):
    assert Pretokenizer(special_tokens=special_tokens).safe_cut(text) == cut


def test_patterns_without_an_automaton_are_cut_at_special_tokens_only():
    without_automaton = r"\b\w+|\W+"
    pretokenizer = Pretokenizer(without_automaton, ["<|e|>"])
    assert pretokenizer.safe_cut("one, two<|e|>three, four") == 13
    assert Pretokenizer(without_automaton).safe_cut("one, two, three") == 0
    assert Pretokenizer(r"\w+|\W+").safe_cut("one, two, three") == 10


@pytest.mark.parametrize("special_tokens", [[], ["<|e|>"], ["aa"]])
def test_a_cut_looks_only_at_the_end_of_the_text(special_tokens):
    pretokenizer = Pretokenizer(special_tokens=special_tokens)

    def cut(number):
        text = texts[number]
        for _ in range(30):
            assert pretokenizer.safe_cut(text) > len(text) - 10

    texts = {number: "some text of no great length, <|e|> " * number for number in (500, 20_000)}
    assert is_linear(seconds, cut, 500, 20_000, max_ratio=4)  # looking at the whole text would give 40


def test_a_cut_is_found_far_from_the_end():
    for run in "a", " ", "!":
        text = "one two<|e|>" + run * 50_000
        assert Pretokenizer(special_tokens=["<|e|>"]).safe_cut(text) == 12
        assert Pretokenizer(special_tokens=["<|e|>", run * 2]).safe_cut(text) >= len(text) - 1
    assert Pretokenizer().safe_cut("one two" + " " * 50_000) == 7


@settings(max_examples=150, deadline=None)
@given(
    chunks=st.lists(texts, max_size=6), size=st.integers(1, 9), special_tokens=special_sets,
    pattern=st.sampled_from(PATTERNS),
)  # fmt: skip
def test_pieces_change_nothing(chunks, size, special_tokens, pattern):
    pretokenizer = Pretokenizer(pattern, special_tokens)
    pieces = list(pretokenizer.pieces(chunks, size))
    apart = itertools.chain.from_iterable(units(pretokenizer, piece) for piece in pieces)
    assert list(apart) == units(pretokenizer, "".join(chunks))
    assert "" not in pieces


def test_pieces_come_before_their_text_ends():
    endless = itertools.repeat("a few words and ")
    pieces = Pretokenizer(special_tokens=["<|e|>"]).pieces(endless, 100)
    lengths = [len(piece) for piece in itertools.islice(pieces, 50)]
    assert max(lengths) < 200


def test_text_without_a_cut_is_not_searched_again_and_again(monkeypatch):
    searched = []
    safe_cut = Pretokenizer.safe_cut
    monkeypatch.setattr(
        Pretokenizer, "safe_cut", lambda own, text: (searched.append(len(text)), safe_cut(own, text))[1]
    )
    assert sum(map(len, Pretokenizer().pieces(itertools.repeat("a", 100_000), 10))) == 100_000
    assert sum(searched) < 3 * 100_000


def test_white_space_is_unicodes_and_not_pythons():
    assert "\x1c".isspace()
    assert not regex.match(r"\s", "\x1c")
    assert Pretokenizer().pretokens("a\x1cb") == ["a", "\x1c", "b"]


def test_survives_pickling():
    pretokenizer = Pretokenizer(r"\w+", ["<|e|>"])
    copy = pickle.loads(pickle.dumps(pretokenizer))
    assert units(copy, "one, <|e|>") == units(pretokenizer, "one, <|e|>")


def test_refuses_what_it_cannot_use():
    with pytest.raises(ConfigError, match=r"pre-tokenisation pattern: .*\(unclosed"):
        Pretokenizer("(unclosed")
    with pytest.raises(ConfigError, match="special token"):
        Pretokenizer(special_tokens=["<|e|>", ""])
