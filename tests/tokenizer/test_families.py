"""Every form of `tokenizer.json` against Hugging Face's tokenizers."""

import json
import pickle
import random
import re
from pathlib import Path

import pytest
import tokenizers
from transformers import AutoTokenizer

from tests.tokenizer.families import (
    DIGITS,
    FAMILIES,
    NFC,
    QWEN,
    byte_level,
    bytes_file,
    characters_file,
    llama2_decoder,
    sequence,
    split,
    texts,
)
from transformerlm.conversion.gguf import _tokenizer_fields
from transformerlm.errors import DataError
from transformerlm.tokenizer import StreamDecoder, Tokenizer
from transformerlm.tokenizer.formats.tiktoken_encoding import to_tiktoken
from transformerlm.tokenizer.kernel_library import CHOICE_VARIABLE


@pytest.fixture(scope="session", autouse=True)
def kernels():
    """Tokenizers encode as they do by default: with and without kernels is another test's business."""


@pytest.fixture(scope="module", params=FAMILIES)
def path(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("family") / "tokenizer.json"
    path.write_text(json.dumps(FAMILIES[request.param](), ensure_ascii=False))
    return path


@pytest.fixture(scope="module")
def ours(path):
    return Tokenizer.from_file(path)


@pytest.fixture(scope="module")
def theirs(path):
    return tokenizers.Tokenizer.from_file(str(path))


def assert_alike(ours, theirs, text):
    """Ids, offsets and decoded text."""
    expected = theirs.encode(text, add_special_tokens=False)
    assert ours.encode(text) == expected.ids, repr(text)
    ids, offsets = ours.encode_with_offsets(text)
    assert ids.tolist() == expected.ids, repr(text)
    assert offsets.tolist() == [list(pair) for pair in expected.offsets], repr(text)
    assert ours.decode(ids) == theirs.decode(expected.ids, skip_special_tokens=False), repr(text)


def contents(ours):
    return [*ours.added_token_ids, "x", " ", "</think>"]


@pytest.mark.parametrize("number", [50, pytest.param(100_000, marks=pytest.mark.endurance)])
def test_texts_get_the_ids_and_offsets_of_tokenizers(ours, theirs, number):
    for text in texts(0, number, contents(ours)):
        assert_alike(ours, theirs, text)


def random_form(generator):
    """A file with a random normalizer, pre-tokenizer, flags of added tokens and decoder."""
    normalizers = [
        NFC,
        {"type": "NFD"},
        {"type": "NFKC"},
        {"type": "NFKD"},
        {"type": "Lowercase"},
        {"type": "Strip", "strip_left": generator.random() < 0.5, "strip_right": generator.random() < 0.5},
        {"type": "Prepend", "prepend": generator.choice(["▁", " ", "ab"])},
        {"type": "Replace", "pattern": {"String": generator.choice([" ", "a", "..", "e"])}, "content": "▁"},
        {
            "type": "Replace",
            "pattern": {"Regex": generator.choice([" {2,}", r"\d+", "[aeiou]"])},
            "content": "x y",
        },
        {"type": "Replace", "pattern": {"String": "o"}, "content": ""},
    ]
    behaviors = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
    divisions = [
        DIGITS,
        {"type": "Digits", "individual_digits": False},
        {"type": "Punctuation", "behavior": generator.choice(behaviors)},
        {"type": "Whitespace"},
        {"type": "WhitespaceSplit"},
        {"type": "BertPreTokenizer"},
        {"type": "CharDelimiterSplit", "delimiter": generator.choice(" e.")},
        split(r"\s+", generator.choice(behaviors), invert=generator.random() < 0.5),
        split(r"\p{L}+|\d", generator.choice(behaviors), invert=generator.random() < 0.5),
        split(generator.choice([" ", "a", "the"]), generator.choice(behaviors), kind="String"),
        {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": generator.choice(["always", "first", "never"]),
            "split": generator.random() < 0.5,
        },
    ]
    flags = ["single_word", "lstrip", "rstrip", "normalized", "special"]
    candidates = ["<s>", "tok", "to", "▁x", "  ", "中", "q\u0301", "ing the", "<a><b>", "<b>", "s>"]
    tokens = {
        content: {flag: generator.random() < 0.4 for flag in flags}
        for content in generator.sample(candidates, generator.randint(1, 7))
    }
    chosen = generator.choices(normalizers, k=generator.randint(0, 3))
    if "  " in tokens:  # tokenizers panics where one token takes the white space of another
        tokens["  "]["rstrip"] |= tokens["  "]["lstrip"]
        tokens["  "]["normalized"] &= not any(step["type"] == "Strip" for step in chosen)
    shared = {"tokens": tokens, "normalizer": sequence(*chosen, key="normalizers")}
    steps = generator.choices(divisions, k=generator.randint(0, 3))
    if generator.random() < 0.5:
        own = byte_level(prefix=generator.random() < 0.3, regex=generator.random() < 0.5)
        steps = [*steps[:1], own, *(step for step in steps[1:] if step["type"] != "Metaspace")]
        post = byte_level(prefix=generator.random() < 0.5, trim=generator.random() < 0.5)
        return bytes_file(sequence(*steps), post_processor=post, **shared)
    model = {name: generator.random() < 0.5 for name in ("fuse_unk", "byte_fallback", "ignore_merges")}
    metaspace = {"type": "Metaspace", "replacement": "▁", "split": True}
    metaspace["prepend_scheme"] = generator.choice(["always", "never"])
    return characters_file(
        joins_words=generator.random() < 0.5,
        pre_tokenizer=sequence(*steps) if steps else None,
        decoder=generator.choice([llama2_decoder(), llama2_decoder(strips=False), metaspace]),
        model={**model, "unk_token": generator.choice(["<unk>", None])},
        post_processor=None,
        **shared,
    )


@pytest.mark.parametrize("number", [12, pytest.param(3000, marks=pytest.mark.endurance)])
def test_random_forms_are_as_in_tokenizers(tmp_path, number):
    for seed in range(number):
        content = random_form(random.Random(seed))
        path = tmp_path / f"{seed}.json"
        path.write_text(json.dumps(content))
        ours, theirs = Tokenizer.from_file(path), tokenizers.Tokenizer.from_file(str(path))
        for text in texts(seed, 12, contents(ours)):
            assert_alike(ours, theirs, text)


def test_special_tokens_are_put_around_a_text(ours, theirs):
    for text in texts(1, 5):
        assert ours.encode(text, add_special_tokens=True) == theirs.encode(text).ids


def test_special_tokens_may_be_ordinary_text_or_left_out(ours, theirs, monkeypatch):
    for text in texts(2, 25, contents(ours)):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    monkeypatch.setattr(theirs, "encode_special_tokens", True)
    for text in texts(2, 25, contents(ours)):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, allowed_special="none") == ids, repr(text)


def test_streams_give_the_ids_and_the_text_of_the_whole(ours):
    decoder = StreamDecoder(ours)
    for seed in range(3):
        text = "".join(texts(seed, 20, contents(ours)))
        ids = ours.encode(text)
        size = [1, 3, 50][seed]
        chunks = [text[at : at + size] for at in range(0, len(text), size)]
        assert list(ours.encode_iterable(chunks, piece_size=40)) == ids
        assert "".join([*map(decoder.feed, ids), decoder.flush()]) == ours.decode(ids)


@pytest.mark.parametrize("number", [15, pytest.param(1000, marks=pytest.mark.endurance)])
def test_safe_cuts_are_safe(ours, number):
    for text in texts(3, number, contents(ours)):
        whole = ours.encode(text)
        for end in range(0, len(text), 3):
            cut = ours.safe_cut(text[:end])
            assert ours.encode(text[:cut]) + ours.encode(text[cut:]) == whole, (text, cut)


@pytest.mark.parametrize("family", ["Qwen 3", "Pythia", "Llama 2", "Mistral 7B"])
def test_long_texts_are_cut(tmp_path, family):
    ours = loaded(tmp_path, family)
    text = "Größe <s> é and " * 50
    # What a pattern divides is cut where that pattern has safe cuts.
    assert ours._cuts("all").continued_cut(text) > len(text) / 2 or ours.form.pattern == QWEN
    assert bool(ours.safe_cut(text)) <= (not ours.form.depends_on_beginning)


def loaded(folder, family):
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(FAMILIES[family]()))
    return Tokenizer.from_file(path)


def test_saved_exported_and_pickled_tokenizers_are_the_same(ours, tmp_path):
    ours.save(tmp_path / "saved")
    ours.export_tokenizer_json(tmp_path / "exported")
    copies = [Tokenizer.from_dir(tmp_path / name) for name in ("saved", "exported")]
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "exported" / "tokenizer.json"))
    for copy in (*copies, pickle.loads(pickle.dumps(ours))):
        assert (copy.fingerprint, copy.form, copy.vocab) == (ours.fingerprint, ours.form, ours.vocab)
    for text in texts(4, 20, contents(ours)):
        ids = ours.encode(text)
        assert [copy.encode(text) for copy in copies] == [ids, ids]
        assert theirs.encode(text, add_special_tokens=False).ids == ids


@pytest.mark.parametrize("family", ["GPT-2", "RoBERTa", "Qwen 3", "Falcon", "Llama 2", "Mistral 7B"])
def test_transformers_read_exported_tokenizers(tmp_path, family):
    ours = loaded(tmp_path, family)
    ours.export_tokenizer_json(tmp_path / "exported")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "exported")
    for text in texts(4, 20, contents(ours)):
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)


def test_a_saved_form_that_was_changed_is_refused(tmp_path):
    loaded(tmp_path, "Llama 2").save(tmp_path / "saved")
    changed = tmp_path / "saved" / "tokenizer.json"
    changed.write_text(changed.read_text().replace('"fuse_unk": true', '"fuse_unk": false'))
    with pytest.raises(DataError, match=r"tokenizer\.json: expected .* as manifest\.json has it"):
        Tokenizer.from_dir(tmp_path / "saved")


def test_bytes_that_are_not_utf8_come_back_where_tokens_are_bytes(ours):
    content = b"a \xff\xfe caf\xc3\xa9 \xc3 \x80b"
    ids = ours.encode_bytes(content)
    assert ours.encode_bytes("ab é".encode()).tolist() == ours.encode("ab é")
    if ours.form.missing:
        assert not ours.form.missing.occur_in(ours.decode_bytes(ids).replace(b"[UNK]", b""))
    elif not (ours.form.depends_on_beginning or ours.form.characters):
        assert ours.decode_bytes(ids) == content


def test_other_models_are_refused_in_a_line_that_says_what_to_do(tmp_path):
    for kind in ("WordPiece", "Unigram", "WordLevel"):
        content = FAMILIES["GPT-2"]()
        content["model"] = {"type": kind, "vocab": {"a": 0}}
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=rf'expected BPE, got "{kind}".* train one on your text'):
            Tokenizer.from_file(tmp_path / "tokenizer.json")


def test_thousands_of_added_tokens_are_found(tmp_path):
    tokens = {f"<|a{number}|>": {"normalized": number % 2 == 0} for number in range(2000)}
    (tmp_path / "tokenizer.json").write_text(json.dumps(bytes_file(byte_level(), tokens)))
    ours = Tokenizer.from_file(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "".join(f"x<|a{number}|> <|a{number}" for number in range(0, 2000, 7))
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids


def table_of_families():
    page = (Path(__file__).parents[2] / "docs" / "tokenizer.md").read_text()
    section = page.partition("## Tokenizers of others")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ")]


def test_the_table_of_the_docs_has_these_families():
    rows = [line.split("|")[1:5] for line in table_of_families() if line.startswith("| ")]
    assert [row[0].strip() for row in rows if row[0].strip() != "family"] == list(FAMILIES)
    assert all("yes" in row[2] for row in rows[1:])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_says_what_gguf_files_can_hold(tmp_path, family):
    gguf = pytest.importorskip("gguf")
    (expected,) = (
        line.split("|")[4].strip() for line in table_of_families() if line.startswith(f"| {family} |")
    )
    ours = loaded(tmp_path, family)
    if expected.startswith("no"):
        with pytest.raises(DataError, match=r"llama\.cpp cannot hold this tokenizer"):
            _tokenizer_fields(ours, gguf)
        return
    fields = _tokenizer_fields(ours, gguf)
    assert fields["tokenizer.ggml.pre"] == expected
    assert len(fields["tokenizer.ggml.tokens"]) == len(fields["tokenizer.ggml.token_type"]) == ours.vocab_size


CHARACTERS = ["Llama 2", "Mistral 7B", "Gemma"]


@pytest.mark.parametrize("family", CHARACTERS)
def test_characters_in_the_kernels_are_as_in_tokenizers(tmp_path, family, monkeypatch):
    monkeypatch.setenv(CHOICE_VARIABLE, "always")
    ours, theirs = loaded(tmp_path, family), tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    long = "".join(texts(6, 200, contents(ours)))
    for text in [*texts(5, 150, contents(ours)), long, long.replace(" ", ""), "é" * 3000, "▁ " * 50]:
        assert_alike(ours, theirs, text)
    assert "_kernel_encoder" in ours.__dict__


def test_bytes_that_are_no_characters_are_tokens_of_their_own_in_the_kernels_too(tmp_path, monkeypatch):
    monkeypatch.setenv(CHOICE_VARIABLE, "always")
    ours = loaded(tmp_path, "Llama 2")
    content = b"a \xff\xfe caf\xc3\xa9 \xc3 \xe2\x96 \xe2\x96\x81 \xe6\x97 \xf0\x9f\x91 \x80b"
    plain = ours._form_encoder.encode(
        content.decode(errors="surrogateescape"),
        ours._python_encoder,
        ours.pretokenizer.allowing("none"),
        None,
    )
    assert ours.encode_bytes(content).tolist() == plain.tolist()
    assert "_kernel_encoder" in ours.__dict__


@pytest.mark.parametrize("family", ["SmolLM 2", "bytes left out", "unknown bytes"])
def test_bytes_without_tokens_are_left_out_or_unknown_in_the_kernels_too(tmp_path, family, monkeypatch):
    monkeypatch.setenv(CHOICE_VARIABLE, "always")
    ours, theirs = loaded(tmp_path, family), tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    missing = "".join(chr(byte) for byte in ours.form.missing.content if byte < 0x80)
    long = "".join(texts(6, 200, [*contents(ours), missing]))
    for text in [*texts(5, 150, [*contents(ours), *missing]), long, missing, missing * 500, f"a!{missing}!b"]:
        assert_alike(ours, theirs, text)
    assert "_kernel_encoder" in ours.__dict__


def test_a_token_that_is_empty_is_not_that_of_unknown_bytes(tmp_path):
    file = FAMILIES["bytes left out"]()
    file["model"]["vocab"][""] = file["added_tokens"][0]["id"]
    file["added_tokens"][0]["id"] += 1
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(file))
    assert_alike(Tokenizer.from_file(path), tokenizers.Tokenizer.from_file(str(path)), "a\x04[b]")


def test_bytes_without_tokens_that_would_become_others_are_refused(tmp_path):
    file, path = FAMILIES["unknown bytes"](), tmp_path / "tokenizer.json"
    for key, value, what in (
        ("byte_fallback", True, "expected false, since the byte 0x00 is no token, got true"),
        ("unk_token", "<missing>", 'expected a token, got "<missing>"'),
    ):
        path.write_text(json.dumps({**file, "model": {**file["model"], key: value}}))
        with pytest.raises(DataError, match=re.escape(what)):
            Tokenizer.from_file(path)
    path.write_text(json.dumps(file))
    with pytest.raises(DataError, match="0x00 is no token, and every byte is one there"):
        to_tiktoken(Tokenizer.from_file(path))
