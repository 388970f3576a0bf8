import dataclasses
import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformerlm.config import CorpusConfig, DataConfig, TokenizerConfig
from transformerlm.data import make_data, prepare_data, prepare_tokenizer
from transformerlm.data.documents import (
    HASHED_CHARACTERS,
    TRAIN,
    VAL,
    Chunk,
    documents_of,
    split_by_content,
    split_of_utf8,
)
from transformerlm.data.kinds import JSONL, TEXT, is_jsonl_name
from transformerlm.errors import DataError
from transformerlm.tokenizer import train_bpe_from_texts
from transformerlm.tokenizer.pretokenize import bytes_of, text_of


@pytest.fixture
def read(tmp_path):
    """The texts of a file with this content."""

    def texts(content, name="a.txt", **settings):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        kind = JSONL if is_jsonl_name(name) else TEXT
        chunk = Chunk(str(path), 0, path.stat().st_size, TRAIN, kind=kind)
        return [document.text for document in documents_of(chunk, CorpusConfig(**settings))]

    return texts


def test_separators_part_documents_and_text_is_kept_as_it_is(read):
    parts = ["one\r\n", "\n two\x0b\u2028\x1c", "", " \n\t", "\u3000", "\n"]
    content = "<|endoftext|>".join(parts)
    assert read(content) == ["one\r\n", "\n two\x0b\u2028\x1c", "\u3000"]
    assert read(content, document_separator="") == [content]
    assert read("a\n\n\nb", document_separator="\n\n") == ["a", "\nb"]


def test_lines_of_json_are_documents(read):
    texts = ["one\n\ntwo", "", " ", "drei ü 漢 \U0001f600", "a<|endoftext|>b", "\u2028"]
    lines = [
        json.dumps({"id": 1, "text": text}, ensure_ascii=index % 2 == 0) for index, text in enumerate(texts)
    ]
    expected = [text for text in texts if text.strip(" ")]
    assert read("\n".join(lines), "a.jsonl") == expected
    assert read("\r\n\n".join([*lines, ""]), "a.jsonl") == expected
    assert read('{"story": "x"}', "a.jsonl", jsonl_field="story") == ["x"]


def test_a_file_that_only_begins_with_lines_of_json_can_be_read_as_text(tmp_path, tokenizer):
    path = tmp_path / "log.txt"
    path.write_text(json.dumps({"text": "one"}) + "\nand then words\n")
    config = CorpusConfig(corpus=str(path), validation_fraction=0)
    with pytest.raises(
        DataError, match=r'log\.txt:2: expected a JSON object.*; \[data\]\.file_format = "text"'
    ):
        make_data(config, tokenizer, tmp_path / "tokens")
    as_text = dataclasses.replace(config, file_format="text")
    made = make_data(as_text, tokenizer, tmp_path / "tokens")
    assert tokenizer.decode(made.train.tokens) == path.read_text() + "<|endoftext|>"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "expected a JSON object, got: "),
        ("[]", 'expected text in field "text", got no object but list'),
        ('{"texts": ""}', r'expected text in field "text", got only the fields texts; --data.text_field'),
        ("{}", r"got only the fields \(none\)"),
        ('{"text": 12}', "got 12"),
        ('{"text": null}', "got null"),
        ("[" * 100_000, "got: maximum recursion"),
        ("1" * 10_000, "got: Exceeds the limit"),
        ('{"text": "\\ud83d"}', "half of a surrogate pair"),
    ],
)
def test_a_bad_line_is_named_with_its_number(read, line, message):
    with pytest.raises(DataError, match=rf"a\.jsonl:4: .*({message})") as caught:
        read('{"text": "x"}\n\n{"text": "y"}\n' + line, "a.jsonl")
    assert len(caught.value.lines) == 1


def test_broken_characters(read):
    content = "ab ü".encode() + b"\xe2\x82 c\xff"
    with pytest.raises(DataError, match=r"a\.txt: expected UTF-8, but byte 5 is 0xe2 .*encoding_errors"):
        read(content)
    assert read(content, encoding_errors="replace") == ["ab ü\ufffd c\ufffd"]
    line = b'{"text": "x"}\n{"text": "\xff"}'
    with pytest.raises(DataError, match=r"a\.jsonl: expected UTF-8, but byte 24 is 0xff"):
        read(line, "a.jsonl")
    assert read(line, "a.jsonl", encoding_errors="replace") == ["x", "\ufffd"]
    assert read('{"text": "\\ud83d \\ud83d\\ude00"}', "a.jsonl", encoding_errors="replace") == [
        "\ufffd \U0001f600"
    ]


def test_bytes_that_are_kept_are_those_of_the_file(read):
    content = "ab ü".encode() + b"\xe2\x82 c\xff<|endoftext|>\x80\xed\xa0\x80"
    first, second = map(bytes_of, read(content, encoding_errors="keep"))
    assert first == "ab ü".encode() + b"\xe2\x82 c\xff"
    assert second == b"\x80\xed\xa0\x80"
    assert read("valid \ufffd text 漢", encoding_errors="keep") == ["valid \ufffd text 漢"]


def test_of_json_the_bytes_within_strings_are_kept_and_what_is_written_as_half_a_pair_is_refused(read):
    lines = b'{"text": "x\xff\\n\xe2\x82"}\n{"\xfe": 1, "text": "\\ud83d\\ude00 \xed\xa0\x80"}'
    found = [bytes_of(text) for text in read(lines, "a.jsonl", encoding_errors="keep")]
    assert found == [b"x\xff\n\xe2\x82", "\U0001f600 ".encode() + b"\xed\xa0\x80"]
    # \\udcff looks to Python as the byte ff does, alone and beside one.
    for text in (b"\\udcff", b"\\udcff\xff", b"\xff \\ud83d"):
        with pytest.raises(
            DataError, match=r"a\.jsonl:2: expected Unicode, got half of a surrogate pair"
        ) as caught:
            read(b'{"text": "x"}\n{"text": "' + text + b'"}', "a.jsonl", encoding_errors="keep")
        assert len(caught.value.lines) == 1


def random_bytes(generator, number):
    """Any bytes but NUL, words, and parts of characters: a text that others would call damaged."""
    parts = [bytes([byte]) for byte in range(1, 256)] + [b"the ", b" cat", b"'s", b"\n\n", b" 12"] * 20
    parts += [b"\xe2\x82", b"\xed\xa0\x80", "漢".encode(), "\ufffd".encode(), "😀".encode()] * 10
    return b"".join(generator.choices(parts, k=number))


@settings(max_examples=60, deadline=None)
@given(
    contents=st.lists(
        st.binary(min_size=1, max_size=80)
        | st.builds(random_bytes, st.randoms(use_true_random=False), st.integers(1, 60)),
        min_size=1,
        max_size=3,
    ),
    chunk_bytes=st.integers(1, 60),
)
def test_the_token_file_of_any_bytes_gives_the_bytes_back(tmp_path_factory, tokenizer, contents, chunk_bytes):
    folder = tmp_path_factory.mktemp("kept")
    contents = [b"x" + content.replace(b"\0", b"\1") for content in contents]  # with NUL it is no text
    for number, content in enumerate(contents):
        (folder / f"{number}.txt").write_bytes(content)
    config = CorpusConfig(
        corpus=str(folder), encoding_errors="keep", document_separator="", validation_fraction=0
    )
    made = make_data(config, tokenizer, folder / "tokens", chunk_bytes=chunk_bytes)
    assert tokenizer.decode_bytes(made.train.tokens) == b"".join(contents)
    whole = np.concatenate([tokenizer.encode_bytes(content) for content in contents])
    assert made.train.tokens.tolist() == whole.tolist()


@pytest.mark.parametrize("name", ["noise.txt", "noise.jsonl"])
def test_a_tokenizer_is_trained_on_what_is_kept_and_the_data_made_with_it(tmp_path, name):
    content = random_bytes(random.Random(0), 100_000)
    documents = [content[start : start + 5000] for start in range(0, len(content), 5000)]
    lines = [bytes_of(json.dumps({"text": text_of(part)}, ensure_ascii=False)) for part in documents]
    written = b"\n".join(lines) if is_jsonl_name(name) else b"<|endoftext|>".join(documents)
    (tmp_path / name).write_bytes(written)
    data = DataConfig(
        corpus=str(tmp_path / name),
        token_dir=str(tmp_path / "tokens"),
        encoding_errors="keep",
        validation_fraction=0,
    )
    config = TokenizerConfig(tokenizer_dir=str(tmp_path / "tokenizer"), vocab_size=400)
    tokenizer = prepare_tokenizer(data, config)
    vocab, merges = train_bpe_from_texts(map(text_of, documents), 400, config.special_tokens, num_workers=1)
    assert (tokenizer.vocab, tokenizer.merges) == (vocab, merges)
    made = prepare_data(data, config, tokenizer)
    assert tokenizer.decode_bytes(made.train.tokens) == b"".join(
        part + b"<|endoftext|>" for part in documents
    )


def test_the_split_by_content_keeps_to_the_fraction():
    for fraction in (0.0, 0.05, 0.5, 1.0):
        held_out = sum(split_by_content(f"document {i}", fraction) == VAL for i in range(20_000))
        assert abs(held_out - 20_000 * fraction) <= 5 * np.sqrt(20_000 * fraction * (1 - fraction))


def test_more_validation_only_adds_documents():
    texts = [f"document {i}" for i in range(1000)]
    small, large = ({t for t in texts if split_by_content(t, fraction) == VAL} for fraction in (0.1, 0.3))
    assert small < large


def test_only_the_beginning_of_a_document_decides():
    beginnings = ["ü" * (HASHED_CHARACTERS - len(str(i))) + str(i) for i in range(8)]
    splits = [split_by_content(text, 0.5) for text in beginnings]
    assert splits == [split_by_content(text + "more", 0.5) for text in beginnings]
    assert len(set(splits)) == 2


@pytest.mark.parametrize("filler", [b"\xff", "ü".encode(), b"a", "😀".encode(), b"\xe2\x82"])
def test_of_bytes_the_split_is_that_of_their_text(filler):
    for number in range(4):
        content = b"%d\xc3" % number + filler * (HASHED_CHARACTERS + 10)
        assert split_of_utf8(content, 0.5) == split_by_content(text_of(content), 0.5)
        assert split_of_utf8(content, 0.5) == split_of_utf8(content + b"more", 0.5)
    assert len({split_of_utf8(b"%d\xff" % number, 0.5) for number in range(20)}) == 2


def test_the_split_is_the_one_it_always_was():
    """Whoever adds documents later wants the old ones to stay where they were."""
    held_out = [i for i in range(12) if split_by_content(f"document {i}", 0.25) == VAL]
    assert held_out == [6, 7, 8, 9, 11]
