import itertools
import json
import pickle
import random
import re

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors, trainers

from transformerlm.config import GPT2_PATTERN
from transformerlm.errors import DataError
from transformerlm.tokenizer import Tokenizer, to_tiktoken
from transformerlm.tokenizer.byte_alphabet import token_to_text
from transformerlm.tokenizer.formats import tokenizer_json_reader
from transformerlm.tokenizer.formats.json_file import JsonFile
from transformerlm.tokenizer.formats.tokenizer_json_reader import read_tokenizer_json
from transformerlm.tokenizer.formats.tokenizer_json_vocab import read_tokens
from transformerlm.tokenizer.lazy_vocab import max_id_of, tokens_of

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2_SPELLED_OUT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

SPECIAL = ["<|begin_of_text|>", "<|end of text|>", "<|é|>", "日本"]
ADDED = ["   ", "<tool>", "👍🏽", "👍"]

assigned = st.characters(exclude_categories=["Cs", "Cn"])
pieces = st.sampled_from([*SPECIAL, *ADDED, "it'S", " the", "  ", "\n", "\t 7", "12345", "²", " 12", "a1b"])
texts = st.text(assigned) | st.lists(pieces | st.text(assigned, max_size=3)).map("".join)


@pytest.fixture(scope="session", autouse=True)
def kernels():
    """Tokenizers encode as they do by default: with and without kernels is another test's business."""


def byte_level(**options):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, **options)


def split(pattern):
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level(use_regex=False)]
    return pre_tokenizers.Sequence(steps)


def digits(**options):
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(**options), byte_level()])


STYLES = {
    "GPT-2": byte_level(),
    "GPT-2, spelled out": split(GPT2_SPELLED_OUT),
    "Llama 3": split(LLAMA3),
    "Qwen": split(LLAMA3.replace("{1,3}", "")),
    "SmolLM": digits(individual_digits=True),
    "digits together": digits(individual_digits=False),
}


def trained_by_huggingface(pre_tokenizer, texts):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Not special, and without an id in the model's own vocabulary.
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ADDED])
    bos = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    return tokenizer


@pytest.fixture(scope="module", params=STYLES)
def theirs(request, shared_data):
    text = (shared_data / "wikitext2-valid.txt").read_text()[:60_000]
    return trained_by_huggingface(STYLES[request.param], text.splitlines(keepends=True))


def load(path):
    return Tokenizer.from_file(path)


@pytest.fixture(scope="module")
def ours(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "tokenizer.json"
    theirs.save(str(path))
    return load(path)


def test_what_huggingface_has_trained_gives_its_ids(theirs, ours, hard_texts, corpus):
    assert ours.vocab_size == theirs.get_vocab_size()
    assert list(ours.special_token_ids) == SPECIAL
    assert {token: theirs.token_to_id(token) for token in SPECIAL + ADDED} == ours.added_token_ids
    parts = [corpus[at : at + 20_000] for at in range(0, len(corpus), 500_000)]
    for text in [
        *hard_texts,
        *parts,
        "".join(SPECIAL + ADDED),
        "x".join(SPECIAL + ADDED),
        "I'LL pay 1234 for 5",
    ]:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == ids
        assert ours.decode(ids) == text


@settings(max_examples=30, deadline=None)
@given(text=texts)
def test_any_text_gets_its_ids(theirs, ours, text):
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids


def test_tokens_that_are_put_before_a_text_are_passed_over(theirs, ours):
    bos = ours.special_token_ids["<|begin_of_text|>"]
    assert theirs.encode("a").ids == [bos, *ours.encode("a")]


def test_gpt2s_pattern_is_recognised(tmp_path):
    for pre_tokenizer in (byte_level(), split(GPT2_SPELLED_OUT), split(GPT2_PATTERN)):
        path = tmp_path / "tokenizer.json"
        trained_by_huggingface(pre_tokenizer, ["a b"]).save(str(path))
        assert read_tokenizer_json(path).form.pattern == GPT2_PATTERN


def small_content():
    """A hand-made file: the bytes, three merges, a special token in the vocabulary and one behind it."""
    vocab = {token_to_text(bytes([byte])): byte for byte in range(256)}
    vocab |= {"ab": 256, "abc": 257, "Ġa": 258, "<|e|>": 259}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bytes_as_letters = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": True,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 259, "content": "<|e|>", **flags}, {"id": 260, "content": "<|f|>", **flags}],
        "normalizer": None,
        "pre_tokenizer": bytes_as_letters,
        "post_processor": None,
        "decoder": bytes_as_letters,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": ["a b", "ab c", "Ġ a"],
        },
    }


def changed(content, value, *place):
    """The content with another value at a place; with none there where the value is Ellipsis."""
    parent = content
    for step in place[:-1]:
        parent = parent[step]
    if value is ...:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return content


def written(folder, content):
    path = folder / "tokenizer.json"
    path.write_text(
        content if isinstance(content, str) else json.dumps(content, indent=1, ensure_ascii=False)
    )
    return path


def test_the_hand_made_file_is_sound(tmp_path):
    tokenizer = load(written(tmp_path, small_content()))
    assert tokenizer.special_token_ids == {"<|e|>": 259, "<|f|>": 260}
    assert tokenizer.merges == [(b"a", b"b"), (b"ab", b"c"), (b" ", b"a")]
    assert tokenizer.encode("abc a<|f|><|e|>") == [257, 258, 260, 259]


@pytest.mark.parametrize("merges", [["ab c", "a b", "Ġ a"], ["b c", "ab c", "a b", "a bc", "Ġ a"]])
def test_merges_that_depend_on_later_ones_or_are_never_reached_mean_the_same(tmp_path, merges):
    """As in the lists that others make of tiktoken's files, such as Llama 3's."""
    content = changed(small_content(), merges, "model", "merges")
    content["model"]["vocab"] |= {"bc": 260}
    content["added_tokens"][1]["id"] = 261
    path = written(tmp_path, content)
    ours, theirs = load(path), tokenizers.Tokenizer.from_file(str(path))
    for letters in itertools.product("abc ", repeat=6):
        text = "".join(letters)
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, text


HARMLESS = [
    ({"type": "Sequence", "normalizers": []}, "normalizer"),
    ({"type": "Sequence", "pretokenizers": [small_content()["pre_tokenizer"]]}, "pre_tokenizer"),
    ({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}, "pre_tokenizer"),
    ({"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}, "post_processor"),
    ({"direction": "Right", "max_length": 8}, "truncation"),
    (None, "decoder"),
    (..., "decoder"),
    (..., "version"),
    (..., "truncation"),
    (0.0, "model", "dropout"),
    ("", "model", "continuing_subword_prefix"),
    ("", "model", "end_of_word_suffix"),
    ("<|e|>", "model", "unk_token"),
    (True, "model", "byte_fallback"),
    (True, "model", "fuse_unk"),
    (True, "model", "ignore_merges"),
    (..., "model", "ignore_merges"),
    (..., "model", "type"),
    ([["a", "b"], ["ab", "c"], ["Ġ", "a"]], "model", "merges"),
    (["a b", ["ab", "c"], "Ġ a"], "model", "merges"),
    (False, "added_tokens", 0, "special"),
]


@pytest.mark.parametrize(("value", "place"), [(value, place) for value, *place in HARMLESS])
def test_harmless_differences_load(tmp_path, value, place):
    expected = load(written(tmp_path, small_content())).fingerprint
    assert load(written(tmp_path, changed(small_content(), value, *place))).fingerprint == expected


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: json.dumps(json.loads(text)),
        lambda text: json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":")),
        lambda text: text + "\n\n",
    ],
)
def test_other_spellings_of_the_same_load(tmp_path, rewrite):
    expected = load(written(tmp_path, small_content())).fingerprint
    text = json.dumps(small_content(), indent=1, ensure_ascii=False)
    (tmp_path / "tokenizer.json").write_bytes(rewrite(text).encode())
    assert load(tmp_path / "tokenizer.json").fingerprint == expected


def entry(regex, /, **options):
    return {
        "type": "Split",
        "pattern": {"Regex": regex},
        "behavior": "Isolated",
        "invert": False,
        **options,
    }


def sequence(*steps, kind="pretokenizers"):
    return {"type": "Sequence", kind: list(steps)}


BYTE_LEVEL = small_content()["pre_tokenizer"]
BARE = {**BYTE_LEVEL, "use_regex": False}

# value, place, the key whose line is named, what is said
REFUSED = [
    ({"type": "BertNormalizer"}, ["normalizer"], '"normalizer"', "normalizer: expected NFC, .*got BertNorm"),
    (
        sequence({"type": "NFC"}, {"type": "Nmt"}, kind="normalizers"),
        ["normalizer"],
        '{\n    "type": "Nmt"',
        r"normalizer: normalizers: expected NFC, NFD, .*, got Nmt",
    ),
    ("2.0", ["version"], '"version"', r'version: expected "1\.0", got "2\.0"'),
    ({"type": "WordPiece"}, ["decoder"], '"decoder"', "decoder: expected ByteLevel, .*got WordPiece"),
    (None, ["pre_tokenizer"], '"decoder"', "decoder: expected a decoder of characters, got ByteLevel"),
    ({"type": "Whitespace"}, ["pre_tokenizer"], '"decoder"', "decoder: expected a decoder of characters"),
    ({"type": "UnicodeScripts"}, ["pre_tokenizer"], '"pre_tok', "expected ByteLevel, Split, .*got UnicodeS"),
    (
        sequence(BARE, {"type": "Metaspace", "replacement": "_"}),
        ["pre_tokenizer"],
        '{\n    "type": "Metaspace"',
        "expected only divisions of the text after ByteLevel, got Metaspace",
    ),
    (
        sequence(entry("a|"), BARE),
        ["pre_tokenizer"],
        '"Regex"',
        "Regex: expected that it, .* match at least a character",
    ),
    (sequence(entry(r"\w+"), BARE), ["pre_tokenizer"], '"Regex"', r"Regex: '\\\\w\+' at character 0"),
    (sequence(entry("(a"), BARE), ["pre_tokenizer"], '"Regex"', r"Regex: missing \)"),
    (
        sequence(entry("a", behavior="Gone"), BARE),
        ["pre_tokenizer"],
        '"behavior"',
        "expected one of Isolated",
    ),
    (sequence(entry("a", pattern={}), BARE), ["pre_tokenizer"], '"pattern"', "expected a Regex or a String"),
    ("WordPiece", ["model", "type"], '"type": "WordPiece"', 'model: type: expected BPE, got "WordPiece"'),
    (
        0.1,
        ["model", "dropout"],
        '"dropout"',
        "model: dropout: expected null or 0, got 0.1: this package has nothing",
    ),
    ("##", ["model", "continuing_subword_prefix"], '"continuing_', 'expected null or "", got "##"'),
    ("</w>", ["model", "end_of_word_suffix"], '"end_of', 'expected null or "", got "</w>"'),
    (..., ["model"], "{", "model: expected an object, got null"),
    (..., ["model", "vocab"], '"model"', "model: vocab: expected an object, got null"),
    ([1], ["model", "vocab"], '"vocab"', r"model: vocab: expected an object, got \[1\]"),
    ({}, ["model", "merges"], '"merges"', "model: merges: expected a list, got an object"),
    ("a b", ["model", "merges", 1], '"a b",\n   "Ġ', r"model: merges: 'a' \+ 'b' is there twice"),
    (
        "ab",
        ["model", "merges", 1],
        '"ab",\n   "Ġ',
        'model: merges: expected two tokens with one space .*, got "ab"',
    ),
    ("ab c d", ["model", "merges", 1], '"ab c d"', 'expected two tokens with one space .*, got "ab c d"'),
    ("ab  c", ["model", "merges", 1], '"ab  c"', "expected two tokens"),
    (
        ["ab", "c", "d"],
        ["model", "merges", 1],
        '[\n    "ab"',
        r'expected two tokens .*, got \["ab", "c", "d"\]',
    ),
    (["ab", 1], ["model", "merges", 1], '[\n    "ab"', "expected two tokens"),
    ([["ab", "c"], ""], ["model", "merges", 1], "[\n    [", "expected two tokens"),
    (777, ["model", "merges", 1], "777,", "expected two tokens .*, got 777"),
    ("xy c", ["model", "merges", 1], '"xy c"', r"'xy' \+ 'c': 'xy' is not in the vocabulary"),
    ("a c", ["model", "merges", 1], '"a c"', r"'a' \+ 'c': 'ac' is not in the vocabulary"),
    ("中 c", ["model", "merges", 1], '"中 c"', r"'\\u4e2d' is not in the vocabulary"),
    (256, ["model", "vocab", "abc"], '"abc"', "id 256 is given twice, to 'ab' and 'abc'"),
    (-1, ["model", "vocab", "abc"], '"abc"', "expected ids from 0 to 16777215, got -1 for 'abc'"),
    (1 << 24, ["model", "vocab", "abc"], '"abc"', "expected ids from 0 to 16777215, got 16777216"),
    (257.0, ["model", "vocab", "abc"], '"abc"', r"expected ids .* got 257\.0 for 'abc'"),
    ("257", ["model", "vocab", "abc"], '"abc"', 'expected ids .* got "257" for'),
    (None, ["model", "vocab", "abc"], '"abc"', "expected ids .* got null for 'abc'"),
    (..., ["model", "vocab", "q"], '"id": 260', r"id: expected 259 for '<\|f\|>', got 260"),
    (["q q"], ["model", "merges"], '"q q"', r"'q' \+ 'q': 'qq' is not in the vocabulary"),
    (
        260,
        ["model", "vocab", "<|e|>"],
        '"id": 259',
        r"id: expected 260 for '<\|e\|>', got 259",
    ),
    (261, ["added_tokens", 1, "id"], '"id": 261', r"id: expected 260 for .*, got 261"),
    (-5, ["added_tokens", 1, "id"], '"id": -5', "id: expected 260 for .*, got -5"),
    (None, ["added_tokens", 1, "id"], '"id": null', "id: expected 260 for .*, got null"),
    (..., ["added_tokens", 1, "id"], '{\n   "content": "<|f|>"', "id: expected 260 for .*, got null"),
    (True, ["added_tokens", 1, "id"], '"id": true', "id: expected 260 for .*, got true"),
    ("", ["added_tokens", 1, "content"], '"content": ""', 'content: expected text, got ""'),
    (3, ["added_tokens", 1, "content"], '"content": 3', "content: expected text, got 3"),
    ("<|e|>", ["added_tokens", 1, "content"], '"id": 260', r"id: expected 259 for '<\|e\|>', got 260"),
    (7, ["added_tokens", 1], "7\n", "added_tokens: expected an object, got 7"),
    ({}, ["added_tokens"], '"added_tokens"', "added_tokens: expected a list, got an object"),
]


@pytest.mark.parametrize(("value", "place", "key", "what"), REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line_that_names_the_place(tmp_path, value, place, key, what):
    path = written(tmp_path, changed(small_content(), value, *place))
    number = path.read_text().partition(key)[0].count("\n") + 1
    with pytest.raises(DataError) as caught:
        read_tokenizer_json(path)
    (line,) = caught.value.lines
    assert line.startswith(f"{path}:{number}: "), (line, number)
    assert re.search(what, line)
    assert "\n" not in line
    assert len(line) < 400


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('"abc": 257,', '"abc": 257,\n   "ab": 260,', r"vocab: token 'ab' is there twice"),
        ('"abc": 257', '"abc" 257', r"not valid JSON: Expecting ':' delimiter"),
        ('"abc": 257', '"a c": 257', r"' ' in 'a c' is not in GPT-2's alphabet"),
        ('"abc": 257', r'"\ud800": 257', r"vocab: expected text, got '\\ud800'"),
        ('"content": "<|f|>"', r'"content": "\ud800"', r'content: expected text, got "\\ud800"'),
        ('"merges": [', '"merges": [],\n"merges": [', "model: key 'merges' is there twice"),
        ('"merges": [', '"merges": [' + "[" * 100_000, "not valid JSON: .*recursion"),
    ],
)
def test_a_damaged_text_is_refused_in_one_line_that_names_the_place(tmp_path, old, new, what):
    text = json.dumps(small_content(), indent=1, ensure_ascii=False)
    assert text.count(old) == 1
    path = written(tmp_path, text.replace(old, new))
    number = text.partition(old)[0].count("\n") + new.count("\n") + 1 if "recursion" not in what else 1
    with pytest.raises(DataError) as caught:
        read_tokenizer_json(path)
    (line,) = caught.value.lines
    assert re.match(rf"{re.escape(str(path))}:{number}: .*{what}", line), line


@pytest.mark.parametrize("content", ["", "[]", "3", "null", '"text"', "{}", "[[1, 2]]", '{"a": 1, "a": 2}'])
def test_json_that_is_no_tokenizer(tmp_path, content):
    with pytest.raises(DataError, match=r"tokenizer\.json:1: "):
        read_tokenizer_json(written(tmp_path, content))


def test_a_file_without_tokens_is_refused(tmp_path):
    content = {**small_content(), "pre_tokenizer": None, "added_tokens": [], "post_processor": None}
    content["model"] |= {"vocab": {}, "merges": []}
    with pytest.raises(DataError, match="model: vocab: expected tokens, got none"):
        read_tokenizer_json(written(tmp_path, content))
    content["model"]["merges"] = ["a b"]
    with pytest.raises(DataError, match="'a' is not in the vocabulary"):
        read_tokenizer_json(written(tmp_path, content))


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    text = json.dumps(small_content(), indent=1)
    for end in range(0, len(text), 151):
        with pytest.raises(DataError, match=r"tokenizer\.json:\d+: not valid JSON: "):
            read_tokenizer_json(written(tmp_path, text[:end]))
    with pytest.raises(DataError, match=r"tokenizer\.json: No such file"):
        read_tokenizer_json(tmp_path / "none" / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_bytes(b'{"a":\n"\xff"}')
    with pytest.raises(DataError, match=r"tokenizer\.json:2: not UTF-8 at byte 7"):
        read_tokenizer_json(tmp_path / "tokenizer.json")


def all_places(value, way=()):
    yield way
    if isinstance(value, dict | list):
        steps = list(value) if isinstance(value, dict) else range(len(value))
        # Of the bytes some are enough.
        for step in [
            step for step in steps if not (way and way[-1] == "vocab") or step in ("a", "ab", "<|e|>")
        ]:
            yield from all_places(value[step], (*way, step))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 300)
    | st.sampled_from([0.5, float("nan")])
    | st.text("ab<|e>", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "a", "ab"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(place=st.sampled_from([way for way in all_places(small_content()) if way]), value=values)
def test_whatever_is_put_anywhere_there_are_the_same_ids_or_one_line(tmp_path_factory, place, value):
    path = written(tmp_path_factory.getbasetemp(), changed(small_content(), value, *place))
    try:
        tokenizer = load(path)
    except DataError as error:
        (line,) = error.lines
        assert re.match(rf"{re.escape(str(path))}:\d+: ", line)
        assert len(line.splitlines()) == 1
        return
    try:
        theirs = tokenizers.Tokenizer.from_file(str(path))
    except Exception:  # they raise nothing else; what they cannot read may be clear to us
        return
    text = "abcab<|e|>ab <|f|><e> a"
    assert theirs.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)


def without_merges_to_a_token(tmp_path):
    """A file as Llama 3's: merges are ignored where a pre-token is a token, and none leads to "abd"."""
    content = changed(small_content(), 258, "model", "vocab", "abd")
    del content["model"]["vocab"]["Ġa"], content["model"]["merges"][2]
    return content, written(tmp_path, changed(content, True, "model", "ignore_merges"))


def test_where_merges_are_ignored_a_pre_token_is_the_token_that_it_is(tmp_path):
    content, path = without_merges_to_a_token(tmp_path)
    theirs, whole = tokenizers.Tokenizer.from_file(str(path)), load(path)
    assert whole.whole_words
    assert "_kernel_encoder" not in vars(whole)
    for text in ("abd", "ab abd abda", "abd<|e|>abd's", "é abd\n\nabd", "x" * 50):
        assert whole.encode(text) == theirs.encode(text, add_special_tokens=False).ids
        assert whole.decode(whole.encode(text)) == text
    plain = load(written(tmp_path, changed(content, False, "model", "ignore_merges")))
    assert plain.encode("abd") != whole.encode("abd") == [258]
    assert plain.fingerprint != whole.fingerprint


def test_that_setting_stays_with_the_tokenizer(tmp_path):
    _, path = without_merges_to_a_token(tmp_path)
    whole = load(path)
    whole.save(tmp_path / "saved")
    whole.export_tokenizer_json(tmp_path / "exported")
    copies = [Tokenizer.from_dir(tmp_path / name) for name in ("saved", "exported")]
    for copy in (*copies, pickle.loads(pickle.dumps(whole))):
        assert copy.fingerprint == whole.fingerprint
        assert copy.encode("abd ab") == whole.encode("abd ab")
    with pytest.raises(DataError, match="whole_words is on"):
        to_tiktoken(whole)
    # The first manifests say nothing of it.
    manifest = tmp_path / "saved" / "manifest.json"
    content = json.loads(manifest.read_bytes())
    del content["whole_words"], content["seal"]
    manifest.write_text(json.dumps({**content, "format_version": 1}))
    with pytest.raises(DataError, match="not of this tokenizer, or damaged"):
        Tokenizer.from_dir(tmp_path / "saved")


def test_a_token_that_no_text_has_by_itself_does_not_matter_where_merges_are_ignored(tmp_path):
    content = changed(small_content(), 258, "model", "vocab", token_to_text(b"\xff\xfe"))
    del content["model"]["vocab"]["Ġa"], content["model"]["merges"][2]
    plain = load(written(tmp_path, content))
    path = written(tmp_path, changed(content, True, "model", "ignore_merges"))
    assert load(path).fingerprint == plain.fingerprint


@pytest.mark.slow
def test_every_division_of_a_token_as_others_list_them_loads_as_gpt2s_merges(gpt2, tmp_path):
    from transformerlm.tokenizer.formats.tokenizer_json_writer import tokenizer_json

    content = json.loads(tokenizer_json(gpt2))
    vocab = content["model"]["vocab"]
    merges = []
    for token in vocab:
        divisions = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        merges += [pair for pair in divisions if pair[0] in vocab and pair[1] in vocab]
    assert len(merges) > 100_000
    content["model"] |= {"merges": merges, "ignore_merges": True}
    assert load(written(tmp_path, content)).fingerprint == gpt2.fingerprint


def test_added_tokens_have_the_ids_that_huggingface_gives_them_or_are_refused(tmp_path):
    swapped = changed(small_content(), 260, "model", "vocab", "<|e|>")
    swapped["added_tokens"][1]["id"] = 259
    with pytest.raises(DataError, match=r"\.json:7: added_tokens: id: expected 260 for '<\|e\|>', got 259$"):
        read_tokenizer_json(written(tmp_path, swapped))
    swapped = small_content()
    swapped["added_tokens"].append({**swapped["added_tokens"][1], "content": "<|g|>", "id": 261})
    assert load(written(tmp_path, swapped)).special_token_ids == {"<|e|>": 259, "<|f|>": 260, "<|g|>": 261}
    swapped["added_tokens"].reverse()
    path = written(tmp_path, swapped)
    assert tokenizers.Tokenizer.from_file(str(path)).token_to_id("<|g|>") == 260
    with pytest.raises(DataError, match=r"\.json:7: added_tokens: id: expected 260 for '<\|g\|>', got 261$"):
        read_tokenizer_json(path)


def added(content, **flags):
    return AddedToken(content, normalized=flags.get("normalized", False), special=flags.get("special", True))


@pytest.mark.parametrize("seed", range(6))
def test_added_tokens_that_overlap_are_found_as_there(tmp_path, seed):
    generator = random.Random(seed)
    theirs = tokenizers.Tokenizer.from_file(str(written(tmp_path, small_content())))
    words = {"".join(generator.choices("ab<", k=generator.randint(1, 4))) for _ in range(5)}
    mixed = seed % 2 == 1
    for word in sorted(words):
        theirs.add_tokens([added(word, normalized=mixed and generator.random() < 0.5)])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load(tmp_path / "tokenizer.json")
    for _ in range(100):
        text = "".join(generator.choices("ab<c", k=12))
        assert ours.encode(text) == theirs.encode(text).ids


def test_an_added_token_that_looks_like_another_tokens_spelling(tmp_path):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for content in ("Ġa", "é"):
        file = small_content()
        file["added_tokens"].insert(0, {"id": file["model"]["vocab"][content], "content": content, **flags})
        path = written(tmp_path, file)
        theirs = tokenizers.Tokenizer.from_file(str(path))
        for text in ("Ġa a", "é\u00e9 \u6ca2", "abĠac é"):
            ids = theirs.encode(text).ids
            assert load(path).encode(text) == ids
            assert load(path).decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    file = small_content()
    file["added_tokens"].insert(0, {"id": 256, "content": "ab", **flags})
    path = written(tmp_path, file)
    theirs = tokenizers.Tokenizer.from_file(str(path))
    for text in ("abc", "cabd ab a", "<|e|>ab"):
        assert load(path).encode(text) == theirs.encode(text).ids


def outcome(read, path):
    """What a file is read as, or what is said of it."""
    try:
        parts = read(path)
    except DataError as error:
        return error.lines
    listed = getattr(parts.merges, "_listed", lambda: parts.merges)()
    merges = [part.tolist() for part in listed]
    return [*tokens_of(parts.vocab).items()], max_id_of(parts.vocab), merges, parts.form, parts.form.sections


def read_slowly(path):
    return tokenizer_json_reader._read(JsonFile(path))


def some_content(generator):
    """A small file, with a few parts that are usual, rare or wrong."""
    content, rest = small_content(), generator.random
    if rest() < 0.3:
        content |= {"pre_tokenizer": None, "decoder": {"type": "ByteFallback"}}
        content["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "Ġ"}
    model, added, vocab = content["model"], content["added_tokens"], content["model"]["vocab"]
    if rest() < 0.4:
        key, number = generator.choice(["bc", " ", "中", "\x00", "", '":', "ĊĊ"]), generator.choice([1, 5])
        vocab[key] = max(vocab.values()) + number
    contents = [" a", "Ġa", "Ġ", "a b", "ab", "中", '":', "<|g|>", "<|h|>"]
    for text in generator.sample(contents, generator.choice([0, 0, 1, 2, 4])):
        flags = {"special": rest() < 0.7, "normalized": rest() < 0.2, "lstrip": rest() < 0.2}
        added.append({**added[0], "content": text, **flags})
    behind = itertools.count(len(vocab))
    for token in added:
        number = vocab.get(token["content"])
        token["id"] = next(behind) if number is None else number
    if rest() < 0.3:
        place = generator.choice([way for way in all_places(content) if way])
        values = [..., None, True, 0, 1, 260, -1, 0.0, 2**64, "", "a", "ab", [], ["a", "b"], {}]
        content = changed(content, generator.choice(values), *place)
    if rest() < 0.2 and isinstance(model.get("merges"), list):
        model["merges"] += generator.choice([["b c"], ["a b"], [["a", "b"]], ["a  b"], ["a中 c"], [1]])
    return content


def some_text(generator):
    """The same as a file has it, some with members that are there twice."""
    text = json.dumps(some_content(generator), indent=1, ensure_ascii=generator.random() < 0.3)
    if generator.random() < 0.2:
        lines = text.split("\n")
        place = generator.choice([at for at, line in enumerate(lines) if line.endswith(",")])
        text = "\n".join([*lines[: place + 1], *lines[place:]])
    if generator.random() < 0.1:
        text = text.replace('"padding": null', '"padding": null, "padding": null')
    return text.replace('":"', '"\\u003a"') if generator.random() < 0.1 else text


def test_files_are_read_quickly_as_they_are_read_slowly(tmp_path):
    """Or fail with the same words: hundreds of files, usual ones, rare ones and such as are wrong."""
    generator, kinds = random.Random(0), dict.fromkeys(["quickly", "slowly", "refused"], 0)
    for _ in range(500):
        path = written(tmp_path, some_text(generator))
        expected = outcome(read_slowly, path)
        assert outcome(read_tokenizer_json, path) == expected
        is_quick = JsonFile.if_usual(path) is not None
        kinds["refused" if isinstance(expected, list) else "quickly" if is_quick else "slowly"] += 1
    assert min(kinds.values()) > 10, kinds
    assert kinds["quickly"] > 100, kinds


def test_equal_tokens_are_noticed_before_they_are_made(tmp_path):
    generator = random.Random(1)
    answers = set()
    for _ in range(400):
        file = JsonFile(written(tmp_path, some_content(generator)))
        try:
            tokens = read_tokens(file, are_bytes=True)
        except DataError:
            continue
        values = [*tokens.vocab.tokens().values()]
        assert tokens.are_different == (len(set(values)) == len(values))
        numbers = sorted(tokens.vocab.tokens())
        assert tokens.are_in_a_row == (numbers == [*range(len(numbers))])
        assert tokens.vocab.max_id == numbers[-1]
        answers.add((tokens.are_different, tokens.are_in_a_row))
    assert len(answers) == 4


def test_a_large_number_is_kept_as_it_is(tmp_path):
    content = small_content() | {"decoder": {**BYTE_LEVEL, "large": 2**80}}
    content["added_tokens"][0]["special"] = False  # so that the sections are kept
    path = written(tmp_path, content)
    assert read_tokenizer_json(path).form.sections["decoder"]["large"] == 2**80


def test_no_token_is_made_before_it_is_needed(tmp_path):
    tokenizer = load(written(tmp_path, small_content()))
    assert "spelled" not in vars(tokenizer)
    assert tokenizer.spelled[258] == b" a"
