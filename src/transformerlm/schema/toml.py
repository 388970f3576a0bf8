"""TOML: the only place that reads and writes it."""

from __future__ import annotations

import codecs
import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from transformerlm.errors import ConfigError, Key, Problem
from transformerlm.schema.section import S, Section, field_docs, field_types, from_dict, item_section, to_dict

MAX_CONFIG_BYTES = 1_000_000
"""A larger file is a mistake, such as the corpus or the weights in the config's place."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file (UTF-8, with or without a byte order mark) as nested dictionaries.

    Raises:
        ConfigError: in one line, where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, f"expected a TOML file, got: {error.strerror}") from None
    except ValueError:  # a NUL in the path
        raise _unreadable(path, "expected a TOML file, got no path") from None
    if len(content) > MAX_CONFIG_BYTES:
        raise _unreadable(path, f"expected a TOML file of at most {MAX_CONFIG_BYTES:,} bytes, got more")
    try:
        return tomllib.loads(content.removeprefix(codecs.BOM_UTF8).decode())
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"not valid TOML: {_reason(error)}") from None


def from_toml(config_class: type[S], path: str | Path) -> S:
    """Return the config that a TOML file holds, as `--config` reads it.

    Raises:
        ConfigError: the file cannot be read, or its values cannot be used; one line per problem.
    """
    return from_dict(config_class, read_toml(Path(path)), str(path))


def parse_value(text: str) -> Any:
    """Return the value that a text denotes in TOML, such as `[{path = "a", weight = 1}]`; None if none."""
    try:
        return tomllib.loads(f"value = {text}").get("value")
    except (ValueError, RecursionError):
        return None


def _unreadable(path: Path, what: str) -> ConfigError:
    return ConfigError([Problem(Key(), what, source=str(path))])


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        line = error.object.count(b"\n", 0, error.start) + 1
        return f"expected UTF-8, got byte 0x{error.object[error.start]:02x} (at line {line})"
    if isinstance(error, tomllib.TOMLDecodeError):
        return str(error)
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of thousands of digits"


def to_toml(config: Section, *, documented: bool = False) -> str:
    """Return the config as TOML that `from_dict` reads back to an equal one.

    Args:
        documented: precede each key by its documentation. A key that is None, which TOML cannot express, then
            appears as a comment.
    """
    import tomli_w

    if not documented:
        return tomli_w.dumps(to_dict(config))
    lines = []
    for table, section in ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config)):
        docs, arrays = field_docs(type(section)), _arrays(section)
        lines += [f"[{table}]"]
        for key in (key for key in docs if key not in arrays):
            lines += [*_comment(docs[key]), *_key_line(table, section, key)]
        for key, items in arrays.items():  # an array of tables ends the table that it is in
            lines += ["", *_comment(docs[key])]
            for item in items:
                lines += [f"[[{table}.{key}]]", tomli_w.dumps(to_dict(item)).rstrip()]
        lines += [""]
    return "\n".join(lines)


def _arrays(section: Section) -> dict[str, tuple[Section, ...]]:
    """Return the arrays of tables in a section by their keys, without empty ones."""
    keys = (key for key, hint in field_types(type(section)).items() if item_section(hint))
    return {key: value for key in keys if (value := getattr(section, key))}


def _comment(doc: str) -> list[str]:
    return [f"# {line}" for line in doc.splitlines()]


def _key_line(table: str, section: Section, key: str) -> list[str]:
    import tomli_w

    value = to_dict(section).get(key)
    # A table within the table has a heading of its own; it is the last key of its section.
    content = {table: {key: value}} if isinstance(value, dict) else {key: value}
    return [f"# {key} = None"] if value is None else [tomli_w.dumps(content).rstrip()]
