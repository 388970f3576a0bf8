"""What --help prints, and the modes that it lists."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from transformerlm.schema import Section, describe, field_docs, field_types

Mode = Callable[[Any], int | None] | Callable[[Any, int], int | None]
"""What an option has a command do in place of its usual work: a function of the config, or of the config
and of the whole number, at least 1, behind the option (whose name in the function's signature help shows)."""

EXIT_STATUSES = """exit status:
  0 done   1 failed otherwise   2 config or argument   3 corpus, tokenizer or token file   4 checkpoint
  6 loss or gradient not finite   74 disk or other input/output   75 folder in use by another process
  129, 130, 143 interrupted (closed terminal, Ctrl-C, SIGTERM)"""


def value_name(mode: Mode) -> str:
    """What a mode calls the number that it takes behind its option; "" where it takes none."""
    _, *others = inspect.signature(mode).parameters
    return "".join(others)


def help_text(
    config_class: type[Section],
    description: str,
    shortcuts: Mapping[str, str],
    modes: Mapping[str, Mode],
) -> str:
    """What --help prints: the options, then every key with its default, type and meaning."""
    lines = [description, "", "options:", "  --config FILE.toml      read the config from a file"]
    lines += ["  --print-config          print the resolved config as TOML, and do nothing else"]
    lines += ["  --debug                 show the traceback of an error"]
    for short, keys in shortcuts.items():
        again = ", as often as there are values" if keys.endswith("+") else ""
        stands_for = keys.removesuffix("+").replace(" ", " and, with a second value, --")
        lines.append(f"  --{short:<21} short for --{stands_for}{again}")
    for name, function in modes.items():
        summary, _, _ = (function.__doc__ or "").partition("\n")
        lines.append(f"  --{f'{name} {value_name(function).upper()}':<21} {summary}")
    lines += ["  --SECTION.KEY=VALUE     override any key of the config", "", EXIT_STATUSES, ""]
    for table, section in field_types(config_class).items():
        defaults = section()
        lines += [f"[{table}]"]
        for key, hint in field_types(section).items():
            lines += [f"  {key} = {getattr(defaults, key)!r}    ({describe(hint)})"]
            lines += [f"      {line}" for line in field_docs(section)[key].splitlines()]
        lines += [""]
    return "\n".join(lines) + "\n"
