import dataclasses
from typing import Any

from transformerlm import config
from transformerlm.schema import Section, Text, field_types
from transformerlm.schema.reference import escaped, key_reference_markdown


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Table(Section):
    """[table]: some keys."""

    names: tuple[Text, ...] = ("a", "é")
    """Names with a * in them,
    in `code *` too."""
    limit: int | None = None
    """At most this many."""
    flag: bool = True
    """On or off."""
    space: dict[str, Any] = dataclasses.field(default_factory=dict)
    """A table."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Config(Section):
    """A command."""

    table: Table = dataclasses.field(default_factory=Table)


def test_every_key_has_default_type_and_documentation():
    assert key_reference_markdown(Config).splitlines() == [
        "## `[table]`",
        "",
        "Some keys.",
        "",
        '- `names = ["a", "é"]` (a list, each text that is not empty)',
        "",
        r"  Names with a \* in them,",
        "  in `code *` too.",
        "",
        "- `limit = None` (a whole number or nothing (None))",
        "",
        "  At most this many.",
        "",
        "- `flag = true` (true or false)",
        "",
        "  On or off.",
        "",
        "- `space = {}` (a table)",
        "",
        "  A table.",
    ]


def test_the_reference_of_training_names_every_key():
    text = key_reference_markdown(config.TrainConfig)
    for table, section in field_types(config.TrainConfig).items():
        _, _, after = text.partition(f"## `[{table}]`\n")
        assert after
        for name in field_types(section):
            assert f"\n- `{name} = " in after.partition("\n## ")[0]


def test_markup_is_escaped_outside_of_code():
    assert escaped("[data].x_y <|a|> `[x]_*`") == r"\[data\].x\_y \<\|a\|\> `[x]_*`"
