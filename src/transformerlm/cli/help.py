"""The text of --help, which names the common keys, and of --help=all."""

from __future__ import annotations

import dataclasses
import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence

from transformerlm.cli.interface import Interface, ListedOption
from transformerlm.schema import Section, describe, field_docs, field_types, tables

EXIT_STATUSES = """exit status:
  0 done   1 failed otherwise   2 config or argument
  3 corpus, tokenizer or token file   4 checkpoint   6 loss or gradient not finite
  74 disk or other input/output   75 folder in use by another process
  129, 130, 143 interrupted (closed terminal, Ctrl-C, SIGTERM)
  138, 140, 152 warned of a limit (SIGUSR1, SIGUSR2, SIGXCPU)"""
MIN_WIDTH, MAX_WIDTH = 60, 110
"""Columns; between these the text is as wide as the terminal."""
OPTION_COLUMN, KEY_COLUMN = 26, 34
"""Columns at which the summaries of options and keys begin."""


def help_text(interface: Interface, program: str, *, every: bool) -> str:
    """Return the usage, the options and the common keys of a command.

    Args:
        program: the command as the user typed it.
        every: every key with its whole documentation, in place of the common ones with a sentence each.
    """
    listed = interface.listed()
    options = [option for option in listed if not option.table]
    words = f" [{listed[0].name}]" if interface.positional else ""
    usage = f"usage: {program}{words} [--config=FILE.toml] [--SECTION.KEY=VALUE ...] [OPTION ...]"
    lines = [interface.description, "", usage, "", "options:", *_table(options, OPTION_COLUMN), ""]
    keys = "\n".join(_every_key(interface) if every else _common_keys(interface, program)).rstrip()
    return "\n".join([*lines, keys, "", EXIT_STATUSES]) + "\n"


def options_as_json(interface: Interface) -> str:
    """Return the list of all options as JSON: one object per option, with the fields of `ListedOption`."""
    return json.dumps([dataclasses.asdict(option) for option in interface.listed()]) + "\n"


def _common_keys(interface: Interface, program: str) -> Iterator[str]:
    keys, defaults = interface.keys(), interface.default_config()
    common = [key for key in keys if key.is_common]
    if len(common) == len(keys):
        yield "keys [and their defaults]:"
    else:
        yield f"{len(common)} of {len(keys)} keys [and their defaults]; all: {program} --help=all"
    shown = [dataclasses.replace(key, summary=f"{key.summary}{_default(defaults, key)}") for key in common]
    yield from _table(shown, KEY_COLUMN)


def _default(config: Section, key: ListedOption) -> str:
    """Return a key's default in brackets; "" for None and what is empty, which the summaries explain."""
    table, _, name = key.name.removeprefix("--").partition(".")
    value = getattr(getattr(config, table), name)
    if isinstance(value, tuple):
        value = ", ".join(map(str, value))
    return "" if value in (None, "", {}) else f" [{str(value).lower() if isinstance(value, bool) else value}]"


def _table(options: Sequence[ListedOption], column: int) -> Iterator[str]:
    """Yield options and their summaries in two columns; a wide option has a line of its own."""
    width = max(MIN_WIDTH, min(MAX_WIDTH, shutil.get_terminal_size((MAX_WIDTH, 24)).columns))
    for option in options:
        first = f"  {option.usage}"
        indent = " " * column
        lines = textwrap.wrap(option.summary, width - column - 1, break_on_hyphens=False) or [""]
        if len(first) + 2 > column:
            yield first
        else:
            yield first.ljust(column) + lines.pop(0)
        yield from (indent + line for line in lines)


def _every_key(interface: Interface) -> Iterator[str]:
    chosen = interface.default_config()
    for table, section in tables(interface.config_class).items():
        yield from _table_lines(table, section, getattr(chosen, table))


def _table_lines(table: str, section: type[Section], chosen: Section) -> Iterator[str]:
    defaults, docs = section(), field_docs(section)
    yield f"[{table}]"
    for key, hint in field_types(section).items():
        value, default = getattr(chosen, key), getattr(defaults, key)
        otherwise = "" if value == default else f", {default!r} where nothing is chosen"
        yield f"  {key} = {value!r}{otherwise}    ({describe(hint)})"
        yield from (f"      {line}" for line in docs[key].splitlines())
    yield ""
