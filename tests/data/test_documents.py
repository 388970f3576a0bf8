import json

import numpy as np
import pytest

from transformerlm.config import CorpusConfig
from transformerlm.data.documents import HASHED_CHARACTERS, TRAIN, VAL, Piece, documents_of, split_by_content
from transformerlm.errors import DataError


@pytest.fixture
def read(tmp_path):
    """The texts of a file with this content."""

    def texts(content, name="a.txt", **settings):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        piece = Piece(str(path), 0, path.stat().st_size, TRAIN)
        return [document.text for document in documents_of(piece, CorpusConfig(**settings))]

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


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "expected a JSON object, got: "),
        ("[]", 'expected text in field "text", got no object but list'),
        ('{"texts": ""}', r'expected text in field "text", got only the fields texts; \[data\].jsonl_field'),
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


def test_the_split_is_the_one_it_always_was():
    """Whoever adds documents later wants the old ones to stay where they were."""
    held_out = [i for i in range(12) if split_by_content(f"document {i}", 0.25) == VAL]
    assert held_out == [6, 7, 8, 9, 11]
