import contextlib
import io
import json
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.cli.infer_input import Prompt, parse_prompt, read_prompts
from transformerlm.config import GenerationConfig, InferConfig, InferSection
from transformerlm.errors import ConfigError


def texts(**infer):
    return [prompt.text for prompt in read_prompts(InferConfig(infer=InferSection(**infer)))]


def test_arguments_come_before_a_file_and_a_file_before_the_config(tmp_path):
    generation = GenerationConfig(prompts=("a", ""))
    assert read_prompts(InferConfig(generation=generation)) == [Prompt("a"), Prompt("")]
    assert texts(prompt="b") == ["b"]
    assert texts(prompt=("b", "", "c")) == ["b", "", "c"]
    (tmp_path / "p.txt").write_text("x\ny")
    assert texts(prompt_file=str(tmp_path / "p.txt")) == ["x", "y"]


@pytest.mark.parametrize(
    ("name", "kind", "content", "expected"),
    [
        ("p.txt", "auto", b"\xef\xbb\xbfone\r\n\r\n  two \x0c\n", ["one", "  two \x0c"]),
        ("p.jsonl", "auto", b'"one\\n"\n\n{"prompt": ""}\n', ["one\n", ""]),
        ("p.NDJSON", "auto", b'"one"', ["one"]),
        ("p.jsonl", "lines", b'"one"\n', ['"one"']),
        ("p.txt", "jsonl", b'"one"', ["one"]),
        ("p.txt", "whole", "Ét\né\r\n".encode(), ["Ét\né\r\n"]),
        ("-", "auto", b"one\ntwo\n", ["one", "two"]),
        ("-", "jsonl", b'{"prompt": "one"}', ["one"]),
        ("-", "whole", b"one\ntwo\n", ["one\ntwo\n"]),
    ],
)
def test_a_file_or_stdin_is_lines_json_or_one_prompt(name, kind, content, expected, tmp_path, monkeypatch):
    path = tmp_path / name
    if name == "-":
        path = name
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    else:
        path.write_bytes(content)
    assert texts(prompt_file=str(path), prompt_format=kind) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.text(), st.dictionaries(st.text().filter(lambda key: key != "prompt"), json_values, max_size=3))
def test_an_objects_other_keys_are_kept_as_they_are(text, others):
    assert parse_prompt(json.dumps({**others, "prompt": text})) == Prompt(text, others)
    assert parse_prompt(json.dumps(text)) == Prompt(text)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "Once upon",
            'expected a JSON string or an object with a "prompt", got "Once upon": Expecting value',
        ),
        ("[1]", 'expected a JSON string or an object with a "prompt", got [1]'),
        ("3", 'expected a JSON string or an object with a "prompt", got 3'),
        ('{"text": "a"}', "expected a JSON string or an object with a \"prompt\", got {'text': 'a'}"),
        ('{"prompt": null}', "expected text as the prompt, got None"),
        ('{"prompt": ["a"]}', "expected text as the prompt, got ['a']"),
        ('"\\ud83d"', "expected text as the prompt, got "),
        ('{"prompt": "a", "id": NaN}', "NaN is not JSON"),
        ('{"prompt": "a"', "delimiter"),
        ("[" * 100_000, "expected a JSON string or an object"),
        ("1" * 5000, "expected a JSON string or an object"),
    ],
)
def test_a_line_that_is_no_prompt(line, message):
    with pytest.raises(ConfigError) as caught:
        parse_prompt(line)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 300


@given(st.text(max_size=20) | json_values.map(json.dumps))
def test_any_line_is_a_prompt_or_an_error(line):
    with contextlib.suppress(ConfigError):
        assert type(parse_prompt(line).text) is str


def test_bad_lines_are_named_by_file_and_line(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('"a"\n\n3\n{"prompt": 1}\n')
    with pytest.raises(ConfigError) as caught:
        texts(prompt_file=str(path))
    assert [line.split(": ")[0] for line in caught.value.lines] == [f"{path}:3", f"{path}:4"]
    path.write_text("3\n" * 100)
    with pytest.raises(ConfigError) as caught:
        texts(prompt_file=str(path))
    assert len(caught.value.lines) == 11
    assert caught.value.lines[-1] == f"{path}: and 90 more such lines"
    path.write_bytes(b"a\nb\xff\n")
    with pytest.raises(ConfigError, match=r"p\.jsonl:2: expected UTF-8, got byte 0xff$"):
        texts(prompt_file=str(path))


@pytest.mark.parametrize("kind", ["lines", "jsonl", "whole"])
def test_an_empty_file_holds_no_prompt(kind, tmp_path):
    (tmp_path / "p").write_text("" if kind == "whole" else "\n\n")
    with pytest.raises(ConfigError, match=r"^\[infer\]\.prompt_file: expected a prompt, got none$"):
        texts(prompt_file=str(tmp_path / "p"), prompt_format=kind)
    with pytest.raises(ConfigError, match=r"^\[infer\]\.prompt: expected a prompt, got none$"):
        texts(prompt=())
