"""`transformerlm COMMAND`: the table of commands, what each name starts, and the program's own help."""

import sys
import tomllib
from pathlib import Path

import pytest

from transformerlm.cli.commands import COMMANDS, find
from transformerlm.cli.main import main, overview
from transformerlm.cli.version import version_text

ROOT = Path(__file__).parents[2]


def test_the_table_has_every_program_and_every_program_is_in_the_table():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts.pop("transformerlm") == "transformerlm.cli.main:main"
    programs = {one.program: f"transformerlm.cli.{one.module}:main" for one in COMMANDS if one.has_program}
    assert scripts == programs
    names = [name for command in COMMANDS for name in command.names]
    assert len(set(names)) == len(names)


def test_help_lists_each_command_with_a_line(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert printed == overview("transformerlm")
    for command in COMMANDS:
        assert f"\n  {command.name:<12}{command.summary}" in printed
    assert max(map(len, printed.splitlines())) <= 100


@pytest.mark.parametrize("name", [name for command in COMMANDS for name in command.names])
def test_every_name_starts_its_command(name, capsys):
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert main(["help", name]) == 0
    assert capsys.readouterr().out == printed
    assert find(name).load()(["--help"]) == 0
    assert capsys.readouterr().out == printed


def test_a_command_gets_its_arguments_and_gives_its_status(workplace, capsys):
    assert main(["train", "--config", "config.toml", "--model.d_model=33"]) == 2
    assert capsys.readouterr().err.startswith("config.toml: [model].num_heads: ")
    assert main(["infer", "--infer.checkpoint=nowhere"]) == 4
    assert main(["data", "--data.corpus=fables", "--tokenizer.vocab_size=300"]) == 0
    assert Path("data/fables/train.memmap").is_file()


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == version_text()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], 'trian: unknown command; did you mean "train"?'),
        (["xyz"], "xyz: unknown command; known here: completion, data, eval"),
        (
            ["my.toml", "--plan"],
            "my.toml: expected a command before it, as in: transformerlm train --config=my.toml --plan",
        ),
        (
            ["--resume=must"],
            "--resume=must: expected a command before it, as in: transformerlm train --resume=must",
        ),
        (["a\nb"], "a\\nb: unknown command"),
    ],
)
def test_what_is_no_command_is_one_line_and_status_2(words, line, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"command line: {line}")
    assert err.count("\n") == 1


def test_without_a_command_the_help_is_an_error(capsys):
    assert main([]) == 2
    assert capsys.readouterr() == ("", overview("transformerlm"))


def test_the_process_name_is_left_alone_in_a_call_from_python():
    before = list(sys.argv)
    assert main(["eval", "--help"]) == 0
    assert sys.argv == before
