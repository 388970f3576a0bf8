"""Arrays of tables in a config, and on the command line."""

import dataclasses
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.cli.arguments import parse_arguments, typed
from transformerlm.errors import Key
from transformerlm.schema import PositiveFloat, SchemaError, Section, Text, from_dict, merge, to_dict, to_toml
from transformerlm.schema.reference import key_reference_markdown


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Part(Section):
    """[[outer.parts]]: a part."""

    name: Text = ""
    """What it is called."""
    weight: PositiveFloat | None = None
    """How much."""
    words: tuple[str, ...] = ()
    """Which."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outer(Section):
    """[outer]: a table."""

    parts: tuple[Part, ...] | None = None
    """Several of them."""
    size: float = 1.0
    """How large."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Config(Section):
    """A command."""

    outer: Outer = dataclasses.field(default_factory=Outer)
    last: Outer = dataclasses.field(default_factory=Outer)


PARTS = st.builds(
    Part,
    name=st.text(min_size=1).filter(lambda text: text.strip() and text.isprintable()),
    weight=st.none() | st.floats(0.001, 1e9),
    words=st.lists(st.text(alphabet="a]'\"\\,\n")).map(tuple),
)
OUTER = st.builds(Outer, parts=st.none() | st.lists(PARTS, max_size=3).map(tuple), size=st.floats(0, 1))


@given(OUTER, OUTER, st.booleans())
def test_what_is_written_is_read_again(outer, last, documented):
    config = Config(outer=outer, last=last)
    assert from_dict(Config, to_dict(config)) == config
    assert from_dict(Config, tomllib.loads(to_toml(config, documented=documented))) == config


def on_the_command_line(*words, file=None):
    overrides = typed(parse_arguments(words).overrides, Config)
    return from_dict(Config, merge(file or {}, overrides)).outer.parts


TWO = (Part(name="a", weight=0.5), Part(name="b, c", weight=2.0))


@pytest.mark.parametrize(
    "text",
    [
        '[{name="a",weight=0.5},{name = "b, c", weight = 2.0}]',
        "[{'name': 'a', 'weight': 0.5}, {'name': 'b, c', 'weight': 2.0}]",
        '[{"name": "a", "weight": 0.5}, {"name": "b, c", "weight": 2}]',
    ],
)
def test_a_list_of_toml_python_and_json(text):
    assert on_the_command_line(f"--outer.parts={text}") == TWO


def test_items_by_their_numbers():
    words = ["--outer.parts.1.name=b, c", "--outer.parts.0.name=a", "--outer.parts.0.weight=0.5"]
    assert on_the_command_line(*words, "--outer.parts.1.weight=2") == TWO
    file = {"outer": {"parts": [{"name": "a", "weight": 7}, {"name": "b, c", "weight": 2}]}}
    assert on_the_command_line("--outer.parts.0.weight=0.5", file=file) == TWO
    added = on_the_command_line("--outer.parts.2.name=d", file=file)
    assert [part.name for part in added] == ["a", "b, c", "d"]
    text = '[{name = "a", weight = 7}, {name = "b, c", weight = 2}]'
    assert on_the_command_line(f"--outer.parts={text}", "--outer.parts.0.weight=0.5") == TWO
    assert on_the_command_line("--outer.parts=None", file=file) is None
    assert on_the_command_line("--outer.parts=[]", file=file) == ()


@pytest.mark.parametrize(
    ("values", "problems"),
    [
        ([{"name": "a", "weight": -1}, {"nam": "b"}], [("0", "weight"), ("1", "nam"), ("1", "name")]),
        ([{"name": "a"}, 7], [("1",)]),
        ([{}], [("0", "name")]),
        ("text", [()]),
        ({"0": {"name": "a"}, "2": {"name": "b"}}, [()]),
        ({"name": "a"}, [()]),
        ([[{"name": "a"}]], [("0",)]),
    ],
)
def test_every_problem_has_the_number_of_its_table(values, problems):
    with pytest.raises(SchemaError) as caught:
        from_dict(Config, {"outer": {"parts": values}})
    found = [problem.key for problem in caught.value.problems]
    assert sorted(set(found)) == sorted(Key("outer", "parts", *rest) for rest in problems)


def test_a_single_table_is_told_how_it_is_written():
    with pytest.raises(SchemaError, match=r"a list of tables, each below \[\[outer\.parts\]\], got name, w"):
        from_dict(Config, {"outer": {"parts": {"name": "a", "weight": 1}}})


def test_how_keys_are_written():
    assert str(Key("data", "mixture", "1", "path")) == "[data].mixture.1.path"
    assert str(Key("data", "mixture", "1")) == "[data].mixture.1"
    assert str(Key("mixture", "1", "path")) == "mixture.1.path"
    assert str(Key("a", "b")) == "[a].b"
    assert str(Key("a", "3")) == "[a].3"


def test_the_reference_has_the_keys_of_the_items():
    text = key_reference_markdown(Config)
    assert "## `[[outer.parts]]`" in text
    assert "How much." in text
    assert '- `name = ""`' in text


def test_the_documented_form_has_the_arrays_behind_the_keys_of_their_table():
    lines = to_toml(Config(outer=Outer(parts=TWO)), documented=True).splitlines()
    assert lines.index("[[outer.parts]]") > lines.index("size = 1.0")
    assert lines.index("[last]") > lines.index("[[outer.parts]]")
    assert "# Several of them." in lines
