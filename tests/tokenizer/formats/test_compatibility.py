import itertools
import random
import re
import string
import unicodedata

import pytest
import regex
import tiktoken
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from transformerlm.config import GPT2_PATTERN
from transformerlm.tokenizer import Pretokenizer
from transformerlm.tokenizer.bpe import MergeRules, apply_merges, train_from_counts
from transformerlm.tokenizer.byte_alphabet import token_to_text
from transformerlm.tokenizer.formats.compatibility import find_pattern_fault, without_idle_possessives
from transformerlm.tokenizer.reachable import BYTE, UNMADE, last_merges, reachable_merges

BYTES = [bytes([byte]) for byte in range(256)]

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace("{1,3}", "")
POSSESSIVE = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|"
    r"\s*[\r\n]|\s+(?!\S)|\s"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PUBLISHED = [GPT2_PATTERN, LLAMA3, QWEN, POSSESSIVE, O200K]

# U+0295 has changed its category since the Unicode version of Python and of the other programs.
assigned = st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\u0295")
texts = st.text(assigned) | st.text("aAbsStTlLvVrRedmD'\u017f\u212a 12\n\r\t.,-é中")

ATOMS = [
    *("a", "b", " ", "'", "é", "中", "-", r"\.", r"\-", r"\[", r"\s", r"\S", r"\d", r"\D", r"\n", r"\p{L}"),
    *(
        r"\P{N}",
        r"\p{Lu}",
        r"\p{Han}",
        r"[ab]",
        r"[^\s\p{L}\p{N}]",
        r"[a-z\p{N}]",
        r"[^'\r\n ]",
        r"(?i:'s|'ll)",
    ),
    *(r"(?=a)", r"(?!\S)", r"(?! )", "."),
]
patterns = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map("".join)
        | st.lists(inner, min_size=2, max_size=3).map(lambda parts: f"(?:{'|'.join(parts)})")
        | inner.map(lambda part: f"(?>{part})")
        | st.builds(
            lambda part, times: f"(?:{part}){times}",
            inner,
            st.sampled_from(["*", "+", "?", "*+", "++", "?+", "*?", "+?", "??", "{2}", "{1,3}", "{2,}"]),
        )
    ),
    max_leaves=6,
)


@pytest.fixture(scope="session", autouse=True)
def kernels():
    """Nothing here depends on them: once is enough."""


def oniguruma(pattern, text):
    """The pieces into which tokenizers divides a text."""
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    return [piece for piece, _ in split.pre_tokenize_str(text)]


def fancy_regex(pattern, text):
    """The pieces into which tiktoken divides a text; any stretch of it is a token, so all stay whole."""
    stretches = {text[i:j].encode() for i, j in itertools.combinations(range(len(text) + 1), 2)}
    tokens = [*BYTES, *(stretches - set(BYTES))]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    pattern = rf"{pattern}|(?:(?!{pattern})[\s\S])+"
    encoding = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return [encoding.decode([token_id]) for token_id in encoding.encode_ordinary(text)]


@settings(max_examples=60, deadline=None)
@given(pattern=patterns | st.sampled_from(PUBLISHED), text=texts)
def test_a_pattern_without_fault_divides_every_text_alike_everywhere(pattern, text):
    assume(find_pattern_fault(pattern) is None)
    assert Pretokenizer(pattern).pretokens(text) == oniguruma(pattern, text)
    short = text[:12]
    assert Pretokenizer(pattern).pretokens(short) == fancy_regex(pattern, short)


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_published_patterns_have_no_fault_and_divide_corpora_alike(pattern, corpus):
    assert find_pattern_fault(pattern) is None
    text = corpus[:40_000]
    assert Pretokenizer(pattern).pretokens(text) == oniguruma(pattern, text)


PROPERTIES = [
    "L",
    "Lu",
    "Ll",
    "Lt",
    "Lm",
    "Lo",
    "M",
    "Mn",
    "Mc",
    "Me",
    "N",
    "Nd",
    "Nl",
    "No",
    "P",
    "Pc",
    "Pd",
]
PROPERTIES += ["Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "Arabic"]
PROPERTIES += ["Cyrillic", "Greek", "Han", "Hangul", "Hebrew", "Hiragana", "Katakana", "Latin", "Thai"]
CLASSES = [*(rf"\p{{{name}}}" for name in PROPERTIES), r"\s", r"\S", r"\d", r"\D", "."]
FOLDED = [f"(?i:{letter})" for letter in string.ascii_lowercase if letter != "i"]
QUICK = [r"\p{L}", r"\s", "(?i:s)"]
SLOW = [r"\p{N}", r"\p{Lu}", r"\p{Han}", r"\d", "(?i:t)"]


def marked(pattern):
    marks = [] if pattern in QUICK else [pytest.mark.slow]
    marks += [] if pattern in QUICK + SLOW else [pytest.mark.endurance]
    return pytest.param(pattern, marks=marks)


@pytest.fixture(scope="module")
def all_characters():
    characters = (chr(code) for code in range(0x110000))
    return "".join(c for c in characters if unicodedata.category(c) not in ("Cs", "Cn") and c != "\u0295")


@pytest.mark.parametrize("pattern", [marked(pattern) for pattern in CLASSES + FOLDED])
def test_classes_hold_the_same_characters_everywhere(pattern, all_characters):
    text = all_characters
    ours = set(regex.findall(pattern, text))
    assert find_pattern_fault(pattern) is None
    removed = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "removed")
    assert set(text) - set("".join(piece for piece, _ in removed.pre_tokenize_str(text))) == ours
    ranks = {token: rank for rank, token in enumerate(BYTES)}
    peer = tiktoken.Encoding("x", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    assert set(peer.decode(peer.encode_ordinary(text))) == ours


@pytest.mark.parametrize(
    ("pattern", "what"),
    [
        ("(", r"missing \)"),
        (r"\w+", r"'\\\\w\+' at character 0 may mean something else"),
        (r"a|\b", r"'\\\\b' at character 2"),
        (r"a|^b", r"'\^b' at character 2"),
        (r"a$", r"'\$' at character 1"),
        (r"\p{N}{1,3}+", r"at character 5"),
        (r"[a&&[b]]", "at character 0"),
        (r"[[:alpha:]]", "at character 0"),
        (r"(?i:strasse)", "at character 0"),
        (r"(?i)a", "at character 0"),
        (r"(?i:i)", "at character 0"),
        (r"(?<=a)b", "at character 0"),
        (r"(a)\1", "at character 3"),
        (r"\pL", "at character 0"),
        (r"\h", "at character 0"),
        ("a*", "match at least a character: a"),
        ("a|(?=b)", "match at least a character"),
        ("a|(?:b?)*", "match at least a character"),
        ("(?:(?!a))+b", "match at least a character"),
        ("(?i:a||b)", "match at least a character"),
    ],
)
def test_faults_of_patterns_are_one_line(pattern, what):
    fault = find_pattern_fault(pattern)
    assert re.search(what, fault)
    assert "\n" not in fault


def test_white_space_to_the_end_of_the_text_is_the_same_everywhere():
    pattern = r"a|\s++$|\s+(?!\S)|\s"
    assert find_pattern_fault(pattern) is None
    for text in ("a \n", "a\n\n a", " \n a\n", "\n", "a\n \n"):
        assert Pretokenizer(pattern).pretokens(text) == oniguruma(pattern, text) == fancy_regex(pattern, text)


@pytest.mark.parametrize(
    ("pattern", "plain"),
    [
        (r"\p{N}{1,3}+|a{2}+", r"\p{N}{1,3}|a{2}"),
        (r"(?:a|\p{N}{1,3}+)b", r"(?:a|\p{N}{1,3}+)b"),
        (r"\({1,3}+|[(){1,3}+|]{2}+", r"\({1,3}|[(){1,3}+|]{2}"),
        (r"a{1,3}+b|c++", r"a{1,3}+b|c++"),
    ],
)
def test_possessives_with_nothing_behind_them_are_plain_repeats(pattern, plain):
    assert without_idle_possessives(pattern) == plain
    for text in ("12345", "1b12b", "aaaab", "(((((", "cc{{|}}"):
        assert Pretokenizer(plain).pretokens(text) == Pretokenizer(pattern).pretokens(text)


def test_some_of_what_is_refused_really_differs():
    for pattern, text in [
        (r"\w+", "²x"),
        ("^b", "b\nbx"),
        ("(?i:ss)", "xßx"),
        ("(?i:i)", "xİ\u0307"),
        (r"\p{N}{1,3}+", "12345"),
    ]:
        assert find_pattern_fault(pattern)
        assert Pretokenizer(pattern).pretokens(text) != oniguruma(pattern, text)


def every_division(vocab):
    """The list that others make of a tiktoken file: all pairs of tokens that are a token, by its id."""
    merges = []
    for token in vocab:
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        merges += [pair for pair in pairs if pair[0] in vocab and pair[1] in vocab]
    return merges


def huggingface(merges):
    """The ids of a word by tokenizers, from merges alone."""
    tokens = list(dict.fromkeys([*BYTES, *itertools.chain(*merges), *map(b"".join, merges)]))
    vocab = {token_to_text(token): token_id for token_id, token in enumerate(tokens)}
    spelled = [(token_to_text(left), token_to_text(right)) for left, right in merges]
    model = tokenizers.models.BPE(vocab, spelled, cache_capacity=0)
    return lambda word: [tokens[token.id] for token in model.tokenize(token_to_text(word))]


def ours(merges):
    tokens = list(dict.fromkeys([*BYTES, *itertools.chain(*merges), *map(b"".join, merges)]))
    id_of = {token: token_id for token_id, token in enumerate(tokens)}
    ranks = {(id_of[left], id_of[right]): rank for rank, (left, right) in enumerate(merges)}
    rules = MergeRules(ranks, [id_of[left + right] for left, right in merges])
    return lambda word: [tokens[token_id] for token_id in apply_merges(list(word), rules)]


def words(generator, count, letters="abc"):
    return ["".join(generator.choices(letters, k=generator.randint(1, 12))).encode() for _ in range(count)]


def test_gpt2s_merges_come_back_from_every_division(gpt2):
    special = set(gpt2.special_token_ids.values())
    vocab = {token: token_id for token_id, token in gpt2.vocab.items() if token_id not in special}
    merges = every_division(vocab)
    assert len(merges) > 2 * len(gpt2.merges)
    assert reachable_merges(merges) == gpt2.merges


@pytest.mark.parametrize("seed", range(6))
def test_learned_merges_are_found_among_all_divisions_and_mean_the_same(seed):
    generator = random.Random(seed)
    counts = dict.fromkeys(words(generator, 60), 1)
    vocab, merges = train_from_counts(counts, 256 + 60)
    assert reachable_merges(merges) == merges
    divisions = every_division({token: token_id for token_id, token in vocab.items()})
    assert reachable_merges(divisions) == merges
    theirs, theirs_of_all, mine = huggingface(merges), huggingface(divisions), ours(merges)
    for word in words(generator, 150):
        assert mine(word) == theirs(word) == theirs_of_all(word)


def random_merges(generator):
    """Merges in any order, of any parts that are tokens at some time."""
    tokens = [b"a", b"b", b"c"]
    for _ in range(8):
        tokens.append(b"".join(generator.choices(tokens, k=2)))
    pairs = [
        (token[:cut], token[cut:])
        for token in set(tokens)
        for cut in range(1, len(token))
        if token[:cut] in tokens and token[cut:] in tokens
    ]
    pairs.sort()
    generator.shuffle(pairs)
    return sorted(pairs, key=b"".join) if generator.random() < 0.5 else pairs


def test_every_list_means_the_same_to_tokenizers_and_so_do_its_reachable_merges():
    dropped = 0
    for seed in range(300):
        generator = random.Random(seed)
        merges = random_merges(generator)
        reachable = reachable_merges(merges)
        theirs, mine, mine_of_reachable = huggingface(merges), ours(merges), ours(reachable)
        texts = words(generator, 40)
        assert [mine(word) for word in texts] == [theirs(word) for word in texts], (seed, merges)
        assert [mine_of_reachable(word) for word in texts] == [theirs(word) for word in texts], seed
        dropped += len(reachable) < len(merges)
    assert dropped > 100


def last_merge_slowly(token, merges):
    """The definition of `last_merges`, for one token."""
    rank = {pair: index for index, pair in enumerate(merges)}
    word, last = [token[at : at + 1] for at in range(len(token))], BYTE
    while known := [(rank[pair], at) for at, pair in enumerate(itertools.pairwise(word)) if pair in rank]:
        last, at = min(known)
        word[at : at + 2] = [word[at] + word[at + 1]]
    return last if len(word) == 1 else UNMADE


def test_the_last_merge_of_each_token_is_as_defined():
    for seed in range(300):
        merges = random_merges(random.Random(seed))
        tokens = [*dict.fromkeys(map(b"".join, merges)), b"a", b"abcabc"]
        expected = [last_merge_slowly(token, merges) for token in tokens]
        assert last_merges(tokens, merges).tolist() == expected, seed
    assert last_merges([b"ab"], []).tolist() == [UNMADE]
    assert reachable_merges([]) == []


def test_merges_that_nothing_leads_to_are_left_out():
    merges = [(b"b", b"c"), (b"a", b"b"), (b"ab", b"c"), (b"a", b"bc"), (b"x", b"abc")]
    assert reachable_merges(merges) == [(b"b", b"c"), (b"a", b"b"), (b"a", b"bc"), (b"x", b"abc")]
