import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformerlm.errors import DataError
from transformerlm.tokenizer.formats.json_file import (
    JsonFile,
    JsonObject,
    describe,
    line_of,
    parse_json,
)


@pytest.fixture(scope="session", autouse=True)
def kernels():
    """Nothing here depends on them: once is enough."""


keys = st.text('ab"\\{}[]:, \n', max_size=4)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | keys
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


def places(value, way=()):
    """Every place in a document, with each member named by its key or its number."""
    yield way
    if isinstance(value, dict | list):
        for step in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[step], (*way, step))


@settings(max_examples=40)
@given(document=documents, indent=st.sampled_from([0, 1, 4]))
def test_lines_are_counted_as_the_file_shows_them(document, indent):
    text = "\n\n" + json.dumps(document, indent=indent)
    # Written with an indent, each member of a container begins a line, and so does the end of a container
    # that is not empty.
    line = 3
    expected = {}

    def count(value, way):
        nonlocal line
        expected[way] = line
        if isinstance(value, dict | list) and value:
            for step in value if isinstance(value, dict) else range(len(value)):
                line += 1
                count(value[step], (*way, step))
            line += 1

    count(document, ())
    for way in places(document):
        assert line_of(text, way) == expected[way]


def test_members_have_numbers_because_keys_may_be_there_twice():
    text = '{"a":\n 1,\n "b": {"c":\n [1,\n 2]}, "a" : 3,\n"a": 4}'
    assert [line_of(text, [number]) for number in range(4)] == [1, 3, 5, 6]
    assert line_of(text, ["a"]) == 1
    assert line_of(text, ["b", "c", 1]) == 5


@pytest.mark.parametrize(
    ("place", "line"), [(["x"], 1), (["b", "x"], 2), (["b", "c", 9], 3), (["b", "c", 0, "x"], 4)]
)
def test_a_way_that_leads_nowhere_ends_at_the_last_step_that_does(place, line):
    assert line_of('{"a": 1,\n"b": {\n"c": [\n1]}}', place) == line


def test_what_a_file_holds_is_found_by_its_place(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, {"b": null}],\r\n "c": {"d": 1, "d": 2}}\r\n')
    file = JsonFile(path)
    assert file.get("a", 1, "b") is None
    assert file.get("a", 0) == 1
    assert file.get("x") is None
    assert file.items("a") == [1, [("b", None)]]
    assert file.items("x") == []
    assert file.fields("a", 1) == {"b": None}
    assert file.members("c") == [("d", 1), ("d", 2)]
    assert file.error("wrong", "a", 1, "b").lines == [f"{path}:1: a: b: wrong"]


@pytest.mark.parametrize(
    ("ask", "what"),
    [
        (lambda file: file.fields("c"), ":2: c: key 'd' is there twice"),
        (lambda file: file.get("c", "d"), ":2: c: key 'd' is there twice"),
        (lambda file: file.fields("a"), ":1: a: expected an object, got [1, 2]"),
        (lambda file: file.fields("x"), ":1: x: expected an object, got null"),
        (lambda file: file.items("c"), ":2: c: expected a list, got an object"),
        (lambda file: file.items("e"), ':3: e: expected a list, got "text"'),
    ],
)
def test_another_kind_than_was_asked_for_is_one_line(tmp_path, ask, what):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2],\n "c": {"d": 1, "d": 2},\n "e": "text"}')
    with pytest.raises(DataError) as caught:
        ask(JsonFile(path))
    assert caught.value.lines == [f"{path}{what}"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("null", "null"),
        ("true", "true"),
        ('"text"', '"text"'),
        ("{}", "an object"),
        ('{"type": "NFC"}', "NFC"),
        ('{"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Strip"}]}', "Sequence[NFC, Strip]"),
        (f'"{"long" * 100}"', f'"{"long" * 14}lon'),
    ],
)
def test_values_in_a_few_words(text, words):
    assert describe(parse_json("a.json", text, JsonObject)) == words
