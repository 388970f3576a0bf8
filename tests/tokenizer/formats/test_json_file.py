import json
import random

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
    parse_usual,
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


class Twice(list):
    """Members of an object, of which several may have one key."""


def text_of(value, generator):
    """JSON in which members may have one key, with white space and escapes where the format allows them."""
    space = generator.choice(["", " ", "\n\t "])
    if isinstance(value, Twice):
        members = [
            f"{text_of(key, generator)}{generator.choice(['', ' '])}:{space}{text_of(part, generator)}"
            for key, part in value
        ]
        return "{" + space + f",{space}".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(text_of(part, generator) for part in value) + space + "]"
    return json.dumps(value, ensure_ascii=generator.random() < 0.5)


def random_value(generator, depth=0):
    kind = generator.choice(["object", "object", "list", "scalar"]) if depth < 4 else "scalar"
    number = generator.choice([0, 1, 2, 5])
    if kind == "object":
        letters = ['"', ":", "\\", '":', '\\":', "é", "\u2028", "{", ",", "a", "\n", "中", "", "\\u003a"]
        keys = ["".join(generator.choices(letters, k=generator.choice([1, 2]))) for _ in range(number)]
        return Twice((key, random_value(generator, depth + 1)) for key in keys)
    if kind == "list":
        return [random_value(generator, depth + 1) for _ in range(number)]
    return generator.choice([None, True, 0, -1, 300, 2**53, 0.5, 1e300, "", ":", '":', '\\": {"a": 1}', "中"])


def as_members(value):
    """What `parse_json` returns, with dictionaries for objects; and whether an object has a key twice."""
    if isinstance(value, JsonObject):
        parts = {key: as_members(part) for key, part in value}
        is_twice = len(parts) < len(value) or any(as_members(part)[1] for _, part in value)
        return {key: part for key, (part, _) in parts.items()}, is_twice
    if isinstance(value, list):
        parts = [as_members(part) for part in value]
        return [part for part, _ in parts], any(is_twice for _, is_twice in parts)
    return value, False


def test_the_quick_way_reads_the_same_or_leaves_a_file_to_the_slow_one():
    """Where a key is there twice, at any depth, it is left."""
    generator, counts = random.Random(0), {True: 0, False: 0}
    for _ in range(1000):
        text = text_of(random_value(generator), generator)
        expected, is_twice = as_members(parse_json("a.json", text, JsonObject))
        found = parse_usual(text.encode())
        counts[is_twice] += 1
        if is_twice or "\\u003a" in text:  # which may be an escaped colon
            assert found is None
        else:
            assert repr(found) == repr(expected)
    assert min(counts.values()) > 100


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}',
        '{"a": {"b": 1, "b": 2}}',
        '[[{"b" : 1, "b"\n:2}]]',
        '{"a": {"x": ":"}, "a": {"x": ":"}}',
        '{"\\":": 1, "\\":": 2}',
        '{"é": 1, "\\u00e9": 2}',
        '{"a": 1, "a": 1, "b\\u003a": 2}',  # as many colons as are kept
        '{"a": 1, "a": 1, "b\\u003A": 2}',
    ],
)
def test_a_key_that_is_there_twice_is_never_lost(text):
    assert parse_usual(text.encode()) is None


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b" ", b"{", b'{"a": 1}}', b'{"a" 1}', b'{"a": 1,}', b"{'a': 1}", b"[1 2]", b"01", b"tru"),
        *(b"NaN", b"[Infinity]", b"-Infinity", b"1e400", b"\xef\xbb\xbf{}", b'"\xff"', b'"\xed\xa0\x80"'),
        *(b'"\\ud800"', b'"\\udc00\\ud800"', b'"\x01"', b'"a\nb"', b'"\\x"', b"{}\x00", b"{}\x0c"),
        *(b"[" * 500 + b"]" * 500, b"[" * 100_000, b"[" * 2000 + b"]" * 2000, b'{"\\u003a": 1}'),
    ],
)
def test_what_programs_read_in_several_ways_is_left_to_the_slow_one(content):
    assert parse_usual(content) is None


def test_a_file_as_most_are_is_found_by_its_places_too(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, {"b": null}],\n "c": {"d": 1, "e": {"type": "NFC"}}}')
    file, slow = JsonFile.if_usual(path), JsonFile(path)
    assert file.content == {"a": [1, {"b": None}], "c": {"d": 1, "e": {"type": "NFC"}}}
    for place in [("a", 1, "b"), ("a", 0), ("x",), ("c", "e", "type")]:
        assert file.get(*place) == slow.get(*place)
    assert file.fields("a", 1) == slow.fields("a", 1)
    assert file.members("c")[0] == slow.members("c")[0] == ("d", 1)
    assert file.items("x") == []
    assert describe(file.get("c", "e")) == describe(slow.get("c", "e")) == "NFC"
    assert file.error("wrong", "c", "e").lines == slow.error("wrong", "c", "e").lines
    for ask in (lambda one: one.items("c"), lambda one: one.members("x"), lambda one: one.fields("a", 0)):
        messages = []
        for one in (file, slow):
            with pytest.raises(DataError) as caught:
                ask(one)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
    path.write_text("[1]")
    assert JsonFile.if_usual(path) is None
    with pytest.raises(DataError, match="none: No such file"):
        JsonFile.if_usual(tmp_path / "none")
