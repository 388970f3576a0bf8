import builtins
import itertools
import json
import re

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import ConfigError, DataError
from transformerlm.tokenizer import Tokenizer, train_bpe_from_texts
from transformerlm.tokenizer.formats.tiktoken_encoding import to_tiktoken
from transformerlm.tokenizer.formats.tokenizer_json_reader import read_tokenizer_json
from transformerlm.tokenizer.formats.tokenizer_json_writer import tokenizer_json, write_tokenizer_json

BYTES = {byte: bytes([byte]) for byte in range(256)}
SPECIAL_TOKENS = [
    "<|e|>",
    "<|e|><|e|>",
    " a b",
    "\n\n",
    "👍🏽",
    "👍",
    "e|><",
    "#version: 0.2",
    "日本",
    "\\",
    '"',
]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
GAPS = r"\p{L}+|\d"  # leaves much of a text between its matches


@pytest.fixture(scope="session", autouse=True)
def kernels():
    """Tokenizers encode as they do by default: with and without kernels is another test's business."""


assigned = st.characters(exclude_categories=["Cs", "Cn"])
pieces = st.sampled_from(
    [*SPECIAL_TOKENS, "<|e|", "|>", "it's", " the", "  ", "\n", "é", "👍", "12345", "'S"]
)
texts = st.text(assigned) | st.lists(pieces | st.text(assigned, max_size=3)).map("".join)


def trained(pattern, special_tokens=SPECIAL_TOKENS):
    text = (
        "They've seen naïve 中文 text: the lowest, the lower, IT'S low!\n\n  aaaa aaaaa 1234 12 👍🏽👍 é\n"
        * 3
    )
    special = list(special_tokens)
    vocab, merges = train_bpe_from_texts([text], 400, special, pattern=pattern, num_workers=1)
    return Tokenizer(vocab, merges, special, pattern=pattern)


@pytest.fixture(scope="module", params=[GPT2_PATTERN, LLAMA3, GAPS], ids=["GPT-2", "Llama 3", "gaps"])
def small(request):
    return trained(request.param)


@pytest.fixture(scope="module")
def small_huggingface(small):
    return tokenizers.Tokenizer.from_str(tokenizer_json(small))


@pytest.fixture(scope="module")
def without_prefixes(small):
    """The same with no special token that begins another one."""
    special = [token for token in SPECIAL_TOKENS if token not in ("<|e|><|e|>", "👍🏽")]
    return trained(small.pretokenizer.pattern, special)


@pytest.fixture(scope="module")
def small_tiktoken(without_prefixes):
    return to_tiktoken(without_prefixes)


def load(path):
    parts = read_tokenizer_json(path)
    return Tokenizer(parts.vocab, parts.merges, form=parts.form, whole_words=parts.whole_words)


@settings(max_examples=70, deadline=None)
@given(text=texts)
def test_tokenizers_gives_the_same_ids_and_text(small, small_huggingface, text):
    ids = small.encode(text)
    assert small_huggingface.encode(text).ids == ids
    assert small_huggingface.decode(ids, skip_special_tokens=False) == text


@settings(max_examples=70, deadline=None)
@given(text=texts)
def test_tiktoken_gives_the_same_ids_and_text(without_prefixes, small_tiktoken, text):
    ids = without_prefixes.encode(text)
    assert small_tiktoken.encode(text, allowed_special="all") == ids
    assert small_tiktoken.decode(ids) == text


@pytest.mark.slow
def test_gpt2s_vocabulary_to_both_and_back(gpt2, shared_data, hard_texts, tmp_path):
    corpus = (shared_data / "wikitext2-valid.txt").read_bytes().decode()
    write_tokenizer_json(tmp_path, gpt2)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    encoding = to_tiktoken(gpt2)
    assert load(tmp_path / "tokenizer.json").fingerprint == gpt2.fingerprint
    for text in [*hard_texts, *(corpus[at : at + 20_000] for at in range(0, len(corpus), 200_000))]:
        ids = gpt2.encode(text)
        assert theirs.encode(text).ids == ids
        assert encoding.encode(text, allowed_special="all") == ids


@pytest.fixture(scope="module")
def transformers_folder(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "new folder"
    write_tokenizer_json(folder, small, eos_token="<|e|>")
    return folder


@pytest.fixture(scope="module")
def auto_tokenizer(transformers_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(transformers_folder, local_files_only=True)


@pytest.mark.slow
def test_transformers_loads_the_folder(small, auto_tokenizer, transformers_folder, hard_texts):
    from transformers import PreTrainedTokenizerFast

    by_file = PreTrainedTokenizerFast(tokenizer_file=str(transformers_folder / "tokenizer.json"))
    assert len(auto_tokenizer) == small.vocab_size
    assert (auto_tokenizer.eos_token, auto_tokenizer.eos_token_id) == (
        "<|e|>",
        small.special_token_ids["<|e|>"],
    )
    for text in [*hard_texts, "x".join(SPECIAL_TOKENS), "".join(SPECIAL_TOKENS), "a . b n't , c"]:
        ids = small.encode(text)
        assert auto_tokenizer.encode(text) == by_file.encode(text) == ids
        assert auto_tokenizer.decode(ids) == by_file.decode(ids) == text


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(text=texts)
def test_transformers_gives_the_same_ids_for_any_text(small, auto_tokenizer, text):
    assert auto_tokenizer.encode(text) == small.encode(text)


@pytest.mark.slow
def test_transformers_saves_what_we_read_again(small, auto_tokenizer, tmp_path):
    auto_tokenizer.save_pretrained(tmp_path)
    assert load(tmp_path / "tokenizer.json").fingerprint == small.fingerprint


def test_a_round_trip_changes_nothing(small, small_huggingface, transformers_folder, tmp_path):
    again = load(transformers_folder / "tokenizer.json")
    assert again.fingerprint == small.fingerprint
    assert (
        tokenizer_json(again) == tokenizer_json(small) == (transformers_folder / "tokenizer.json").read_text()
    )
    for pretty in (True, False):
        small_huggingface.save(str(tmp_path / "saved.json"), pretty)
        assert load(tmp_path / "saved.json").fingerprint == small.fingerprint


def test_special_tokens_stand_in_the_vocabulary_and_in_a_list(small):
    content = json.loads(tokenizer_json(small))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    assert content["added_tokens"] == [
        {"id": token_id, "content": token, **flags}
        for token_id, token in sorted((number, token) for token, number in small.special_token_ids.items())
    ]
    ids = content["model"]["vocab"]
    assert {token: ids[token] for token in SPECIAL_TOKENS} == small.special_token_ids
    assert list(ids.values()) == list(range(small.vocab_size))
    without = Tokenizer(BYTES, [])
    assert json.loads(tokenizer_json(without))["added_tokens"] == []
    assert tokenizers.Tokenizer.from_str(tokenizer_json(without)).encode("né").ids == without.encode("né")


@pytest.mark.slow
@pytest.mark.parametrize("special_tokens", [["<|e|>", "low", "the", "a", "!"]])
def test_special_tokens_that_are_ordinary_ones_as_well(gpt2, special_tokens, hard_texts):
    tokenizer = Tokenizer(gpt2.vocab, gpt2.merges, special_tokens)
    theirs = tokenizers.Tokenizer.from_str(tokenizer_json(tokenizer))
    encoding = to_tiktoken(Tokenizer(gpt2.vocab, gpt2.merges, [*special_tokens, "<|endoftext|>"]))
    for text in [*hard_texts, "the lowest of the lower", "lowthe the!a<|e|>"]:
        assert theirs.encode(text).ids == tokenizer.encode(text)
        assert encoding.encode(text, allowed_special=set(special_tokens), disallowed_special=()) == (
            tokenizer.encode(text)
        )


def test_tiktoken_finds_special_tokens_only_where_they_are_allowed(without_prefixes, small_tiktoken):
    text = "a<|e|>b👍"
    plain = Tokenizer(
        without_prefixes.vocab, without_prefixes.merges, pattern=without_prefixes.pretokenizer.pattern
    )
    assert small_tiktoken.encode(text, disallowed_special=()) == plain.encode(text)
    assert small_tiktoken.special_tokens_set == set(without_prefixes.special_token_ids)
    assert small_tiktoken.n_vocab == without_prefixes.vocab_size
    assert to_tiktoken(without_prefixes, "mine").name == "mine"
    assert small_tiktoken.name == "transformerlm"


def tokens(*added):
    return {**BYTES, **dict(enumerate(map(str.encode, added), 256))}


def pairs(*merges):
    return [tuple(map(str.encode, merge.split("+"))) for merge in merges]


@pytest.mark.parametrize("export", [tokenizer_json, to_tiktoken])
@pytest.mark.parametrize(
    ("pattern", "what"),
    [(r"\w+", r"pattern: '\\\\w\+' at character 0"), ("a|$", r"pattern: '\$' at character 2")],
)
def test_what_neither_can_hold(export, pattern, what):
    with pytest.raises(
        DataError, match=f"^(tokenizers|tiktoken) cannot hold this tokenizer: {what}"
    ) as caught:
        export(Tokenizer(tokens("ab"), pairs("a+b"), pattern=pattern))
    assert len(caught.value.lines) == 1
    assert "\n" not in caught.value.lines[0]


@pytest.mark.parametrize(
    ("vocab", "merges", "special_tokens", "what"),
    [
        (tokens(" a"), pairs(" +a"), [" a"], r"special token ' a' is an ordinary token as well"),
        (
            BYTES,
            [],
            ["\t"],
            r"special token '\\t' is an ordinary token as well, and that is spelled '\\u0109'",
        ),
        (BYTES, [], ["é"], r"special token '\\xe9' holds only letters that stand for bytes there"),
        (BYTES, [], ["<|é|>"], r"special token '<\|\\xe9\|>' holds only letters"),
    ],
)
def test_what_tokenizers_cannot_hold(vocab, merges, special_tokens, what):
    with pytest.raises(DataError, match=f"^tokenizers cannot hold this tokenizer: {what}"):
        tokenizer_json(Tokenizer(vocab, merges, special_tokens))


@pytest.mark.parametrize("special_token", [" a", "\t", "é", "<|é|>"])
def test_some_of_it_tiktoken_can_hold(special_token):
    tokenizer = Tokenizer(tokens(" a"), pairs(" +a"), [special_token])
    text = "é \t<|é|> a a"
    assert to_tiktoken(tokenizer).encode(text, allowed_special="all") == tokenizer.encode(text)


def test_merges_that_are_never_applied_are_no_matter_to_tiktoken():
    merges = pairs("a+b", "b+c", "b+d", "ab+c", "c+d", "a+bc")
    tokenizer = Tokenizer(tokens("ab", "bc", "bd", "abc", "cd"), merges)
    encoding = to_tiktoken(tokenizer)
    for letters in itertools.product("abcd", repeat=5):
        assert encoding.encode("".join(letters)) == tokenizer.encode("".join(letters))


@pytest.mark.parametrize(
    ("vocab", "merges", "special_tokens", "what"),
    [
        (
            tokens("bc", "ab", "abc"),
            pairs("a+b", "b+c", "ab+c"),
            [],
            "b'ab' is made before b'bc', but its id",
        ),
        (tokens("bc", "ab", "abc"), pairs("b+c", "a+b", "ab+c"), [], r"no merge makes b'abc', and it is no"),
        (
            tokens("abc", "ab"),
            pairs("ab+c", "a+b"),
            [],
            r"merges: one comes before another that makes a part",
        ),
        (tokens("ab", "word"), pairs("a+b"), ["x"], r"no merge makes b'word', and it is no special token"),
        (BYTES, [], ["<|e", "<|e|>"], r"special token '<\|e\|>' begins with '<\|e'"),
        (BYTES, [], ["<|e|>", "<|e"], r"special token '<\|e\|>' begins with '<\|e'"),
    ],
)
def test_what_tiktoken_cannot_hold(vocab, merges, special_tokens, what):
    tokenizer = Tokenizer(vocab, merges, special_tokens)
    with pytest.raises(DataError, match=f"^tiktoken cannot hold this tokenizer: {what}"):
        to_tiktoken(tokenizer)
    theirs = tokenizers.Tokenizer.from_str(tokenizer_json(tokenizer))
    for text in ("abcabab bcb", "word<|e|><|ex"):
        assert theirs.encode(text).ids == tokenizer.encode(text)


def test_without_tiktoken_one_line_says_so(gpt2, monkeypatch):
    imported = builtins.__import__

    def fails(name, *arguments):
        if name == "tiktoken":
            raise ImportError
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", fails)
    with pytest.raises(ConfigError, match=r"^to_tiktoken: .*tiktoken is not installed"):
        to_tiktoken(gpt2)


def test_an_eos_token_that_is_none(small, tmp_path):
    with pytest.raises(ConfigError, match=re.escape("eos_token: expected a special token ('<|e|>', ")):
        write_tokenizer_json(tmp_path / "x", small, eos_token="</s>")
    assert not (tmp_path / "x").exists()
    with pytest.raises(ConfigError, match=r"\(there is none\)"):
        write_tokenizer_json(tmp_path, Tokenizer(BYTES, []), eos_token="</s>")
