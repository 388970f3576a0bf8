"""The text of --help."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformerlm.cli.arguments import Mode, Option
from transformerlm.schema import Section, describe, field_docs, field_types, tables

EXIT_STATUSES = """exit status:
  0 done   1 failed otherwise   2 config or argument   3 corpus, tokenizer or token file   4 checkpoint
  6 loss or gradient not finite   74 disk or other input/output   75 folder in use by another process
  129, 130, 143 interrupted (closed terminal, Ctrl-C, SIGTERM)
  138, 140, 152 warned of a limit (SIGUSR1, SIGUSR2, SIGXCPU)"""


def help_text(
    config_class: type[Section], description: str, options: Sequence[Option], modes: Sequence[Mode]
) -> str:
    """Return the options of a command, then every key with its default, type and documentation."""
    lines = [description, "", "options:", "  --config FILE.toml      read the config from a file"]
    lines += ["  --print-config          print the resolved config as TOML, and do nothing else"]
    lines += ["  --debug                 show the traceback of an error"]
    lines += [_option_line(option) for option in options]
    lines += [_mode_line(mode) for mode in modes]
    lines += ["  --SECTION.KEY=VALUE     override any key of the config", "", EXIT_STATUSES, ""]
    for table, section in tables(config_class).items():
        lines += _table_lines(table, section)
    return "\n".join(lines) + "\n"


def _option_line(option: Option) -> str:
    again = ", as often as there are values" if option.repeated else ""
    keys = " and, with a second value, --".join(option.keys)
    return f"  --{option.name:<21} short for --{keys}{again}"


def _mode_line(mode: Mode) -> str:
    summary, _, _ = (mode.function.__doc__ or "").partition("\n")
    return f"  --{f'{mode.name} {mode.number}':<21} {summary}"


def _table_lines(table: str, section: type[Section]) -> Iterator[str]:
    defaults, docs = section(), field_docs(section)
    yield f"[{table}]"
    for key, hint in field_types(section).items():
        yield f"  {key} = {getattr(defaults, key)!r}    ({describe(hint)})"
        yield from (f"      {line}" for line in docs[key].splitlines())
    yield ""
