import copy
import dataclasses
import datetime
import pickle
import tomllib
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.schema import (
    FilePath,
    Fraction,
    Key,
    PositiveInt,
    Probability,
    Problem,
    SchemaError,
    Section,
    Text,
    field_docs,
    from_dict,
    merge,
    to_dict,
    to_toml,
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Inner(Section):
    """[inner]."""

    width: PositiveInt = 8
    """How wide."""
    share: Fraction = 0.5
    p: Probability = 1.0
    kind: Literal["a", "b"] = "a"
    names: tuple[Text, ...] = ()
    """Which
    names."""
    pair: tuple[Fraction, Fraction] = (0.1, 0.2)
    depth: PositiveInt | None = None
    flag: bool = False

    def conflicts(self):
        if self.depth is not None and self.depth > self.width:
            yield Problem(Key("depth"), f"expected at most width = {self.width}, got {self.depth}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outer(Section):
    """A command's config."""

    inner: Inner = dataclasses.field(default_factory=Inner)
    other: Inner = dataclasses.field(default_factory=Inner)


def problems_of(values):
    with pytest.raises(SchemaError) as caught:
        from_dict(Outer, values, "file.toml")
    return caught.value.lines


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("width", True, "a whole number of at least 1, got true"),
        ("width", 3.7, "a whole number of at least 1, got 3.7"),
        ("width", 3.0, "a whole number of at least 1, got 3.0"),
        ("width", "32", 'a whole number of at least 1, got "32"'),
        ("width", 0, "a whole number of at least 1, got 0"),
        ("width", None, "a whole number of at least 1, got None"),
        ("share", float("nan"), "a number from 0 to 1, got nan"),
        ("share", float("inf"), "a number from 0 to 1, got inf"),
        ("share", -0.1, "a number from 0 to 1, got -0.1"),
        ("share", "0.1", 'a number from 0 to 1, got "0.1"'),
        ("p", 0, "a number above 0 and at most 1, got 0"),
        ("kind", "c", 'one of "a", "b", got "c"'),
        ("names", "x", 'a list, each text that is not empty, got "x"'),
        ("names", ["x", " "], "a list, each text that is not empty, got ['x', ' ']"),
        ("pair", [0.1], "a list of 2, each a number from 0 to 1, got [0.1]"),
        ("pair", [0.1, 0.2, 0.3], "a list of 2, each a number from 0 to 1, got [0.1, 0.2, 0.3]"),
        ("depth", 0, "a whole number of at least 1 or nothing (None), got 0"),
        ("flag", 1, "true or false, got 1"),
        ("flag", {"a": 1}, "true or false, got {'a': 1}"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(key, value, expected):
    assert problems_of({"inner": {key: value}}) == [f"file.toml: [inner].{key}: expected {expected}"]


def test_all_problems_are_reported_at_once_each_in_its_table():
    lines = problems_of({"inner": {"widht": 1, "share": 2}, "other": {"flag": "yes"}, "zzz": {}})
    assert lines == [
        "file.toml: zzz: unknown key; known here: inner, other",
        'file.toml: [inner].widht: unknown key; did you mean "width"?',
        "file.toml: [inner].share: expected a number from 0 to 1, got 2",
        'file.toml: [other].flag: expected true or false, got "yes"',
    ]


def test_a_key_of_one_other_table_is_pointed_out():
    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Other(Section):
        height: PositiveInt = 1

    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Both(Section):
        inner: Inner = dataclasses.field(default_factory=Inner)
        other: Other = dataclasses.field(default_factory=Other)

    with pytest.raises(SchemaError) as caught:
        from_dict(Both, {"inner": {"height": 3}})
    (problem,) = caught.value.problems
    assert problem == (Key("inner", "height"), 'unknown key; did you mean "[other].height"?', "config")


def test_a_table_that_is_no_table():
    assert problems_of({"inner": 3}) == ["file.toml: inner: expected a table, got 3"]


def test_conflicts_are_found_between_values_that_are_sound():
    assert problems_of({"inner": {"width": 2, "depth": 3}}) == [
        "file.toml: [inner].depth: expected at most width = 2, got 3"
    ]


def test_values_are_checked_in_python_too():
    with pytest.raises(SchemaError, match="width"):
        Inner(width=0)
    with pytest.raises(SchemaError, match="depth"):
        dataclasses.replace(Inner(depth=8), width=4)


def test_whole_numbers_widen_to_floats_and_lists_to_tuples():
    inner = Inner(share=1, pair=[0, 1], names=["x"])  # type: ignore[arg-type]
    assert (inner.share, inner.pair, inner.names) == (1.0, (0.0, 1.0), ("x",))
    assert type(inner.share) is float


def test_paths_and_scalars_of_numpy_become_pythons_own(tmp_path):
    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Files(Section):
        path: FilePath | None = None
        name: Text = "x"

    assert Files(path=tmp_path).path == str(tmp_path)  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match="name: expected text"):
        Files(name=tmp_path)  # type: ignore[arg-type]
    inner = Inner(width=np.int32(3), share=np.float32(0.5), pair=(np.float64(0.25), np.int64(1)))  # type: ignore[arg-type]
    assert inner == Inner(width=3, share=0.5, pair=(0.25, 1.0))
    assert {type(value) for value in (inner.width, inner.share, *inner.pair)} == {int, float}
    with pytest.raises(SchemaError, match="width: expected a whole number"):
        Inner(width=np.float64(3))  # type: ignore[arg-type]


def test_a_key_that_is_none_is_refused_with_a_suggestion_also_as_a_type_error():
    for call in (lambda: Inner(widht=3), lambda: dataclasses.replace(Inner(), widht=3)):
        with pytest.raises(TypeError, match=r'Inner: widht: unknown key; did you mean "width"\?') as caught:
            call()
        assert isinstance(caught.value, SchemaError)
    assert copy.deepcopy(Inner(width=3)) == pickle.loads(pickle.dumps(Inner(width=3))) == Inner(width=3)


sections = st.builds(
    Inner,
    width=st.integers(10, 2**60),
    share=st.floats(0, 1),
    kind=st.sampled_from(["a", "b"]),
    names=st.lists(st.text(min_size=1).filter(str.strip), max_size=3),
    depth=st.none() | st.integers(1, 10),
    flag=st.booleans(),
)


@given(st.builds(Outer, inner=sections, other=sections), st.booleans())
def test_dictionaries_and_toml_read_back_to_the_same_config(config, documented):
    assert from_dict(Outer, to_dict(config)) == config
    assert from_dict(Outer, tomllib.loads(to_toml(config, documented=documented))) == config


def test_merge_lays_one_over_the_other_table_by_table():
    below = {"a": {"x": 1, "y": 2}, "b": 3}
    assert merge(below, {"a": {"y": 4}, "c": 5}) == {"a": {"x": 1, "y": 4}, "b": 3, "c": 5}
    assert below == {"a": {"x": 1, "y": 2}, "b": 3}


def test_docs_are_the_strings_under_the_fields():
    docs = field_docs(Inner)
    assert docs["width"] == "How wide."
    assert docs["names"] == "Which\nnames."
    assert docs["share"] == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a\0b", 'got "a\\x00b"'),
        ("  ", 'got "  "'),
        ("~nobody-of-that-name/x", 'got "~nobody-of-that-name/x"'),
        ("a\udcffb", 'got "a\\udcffb" (not UTF-8)'),
        (3, "got 3"),
    ],
)
def test_a_path_that_no_file_can_have(value, expected):
    @dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
    class Files(Section):
        path: FilePath = "x"

    with pytest.raises(SchemaError) as caught:
        Files(path=value)
    assert caught.value.lines == [f"Files: path: expected a path, {expected}"]
    assert Files(path="données/~x {corpus}*").path == "données/~x {corpus}*"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (2**63, "a number of more than 64 bits"),
        pytest.param(-(10**5000), "a number of more than 64 bits", id="digits"),
        pytest.param([10**5000], "a list that is too large to show", id="digits in a list"),
        ({"a": "x" * 100}, "{'a': '" + "x" * 70 + "..."),
        (datetime.date(2020, 1, 2), "2020-01-02"),
        ("a\nb", '"a\\nb"'),
    ],
)
def test_a_value_is_shown_on_one_short_line(value, shown):
    assert problems_of({"inner": {"width": value}}) == [
        f"file.toml: [inner].width: expected a whole number of at least 1, got {shown}"
    ]


def test_the_largest_whole_number():
    assert Inner(width=2**63 - 1).width == 2**63 - 1
    assert problems_of({"inner": {"share": 10**400}})
