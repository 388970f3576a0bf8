"""The key reference of a command, as Markdown, from the sections and their documentation."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

from transformerlm.schema.section import Section, field_docs, field_types, item_section, tables
from transformerlm.schema.values import describe


def key_reference_markdown(config_class: type[Section]) -> str:
    """Return every key of a command's config as Markdown: a heading per table, a list item per key.

    Args:
        config_class: the config, such as `transformerlm.config.TrainConfig`.
    """
    return "\n".join(
        line for table, section in tables(config_class).items() for line in _table_lines(table, section)
    )


def _table_lines(table: str, section: type[Section]) -> Iterator[str]:
    """Yield the lines of a table; of an array of tables the name has brackets of its own."""
    yield from (f"## `[{table}]`", "")
    # The documentation of a section begins with the name of its table, which is the heading here.
    summary = inspect.cleandoc(section.__doc__ or "").removeprefix(f"[{table}]").lstrip(":, ")
    yield from (escaped(summary[:1].upper() + summary[1:]), "")
    docs = field_docs(section)
    defaults = {field.name: _default(field) for field in dataclasses.fields(section)}
    for key, hint in field_types(section).items():
        yield from (f"- `{key} = {_literal(defaults[key])}` ({escaped(describe(hint))})", "")
        yield from (f"  {escaped(line)}" for line in docs[key].splitlines())
        yield ""
    for key, hint in field_types(section).items():
        if item := item_section(hint):
            yield from _table_lines(f"[{table}.{key}]", item)


def _default(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a key, also of one that is made anew for each config."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _literal(value: Any) -> str:
    """Return a default as TOML on one line; None, for which TOML has no word, as in Python."""
    return "None" if value is None else json.dumps(value, ensure_ascii=False)


def escaped(text: str) -> str:
    """Return `text` with the characters escaped that Markdown would take for markup; `code` stays code."""
    parts = text.split("`")
    parts[::2] = (re.sub(r"([\\*_\[\]<>|$#])", r"\\\1", part) for part in parts[::2])
    return "`".join(parts)
