"""Completion in real shells: what Tab makes of a line, and that every option of every command is known."""

import os
import shutil
import subprocess

import pytest

from tests.cli.completion.real_shell import RealShell, require
from transformerlm.cli.commands import COMMANDS, Entry
from transformerlm.cli.completion import main
from transformerlm.cli.completion.command import SHELLS
from transformerlm.cli.completion.words import CommandWords, all_commands, in_one_line
from transformerlm.cli.interface import ListedOption

LINES = [
    ("transformerlm ev", "transformerlm eval "),
    ("transformerlm tr", "transformerlm train "),
    ("transformerlm completion z", "transformerlm completion zsh "),
    ("transformerlm --ver", "transformerlm --version "),
    ("transformerlm train --pl", "transformerlm train --plan "),
    ("transformerlm-train --training.max_st", "transformerlm-train --training.max_steps="),
    ("transformerlm train --training.max_st", "transformerlm train --training.max_steps="),
    ("transformerlm data --data.on_ch", "transformerlm data --data.on_change="),
    ("transformerlm data insp", "transformerlm data inspect "),
    ("transformerlm-data ver", "transformerlm-data verify "),
    ("transformerlm data inspect --ht", "transformerlm data inspect --html="),
    ("transformerlm-data inspect --inspect.max", "transformerlm-data inspect --inspect.max_examples="),
    ("transformerlm data show my", "transformerlm data show my\\ words.txt "),
    ("transformerlm make-data --data.on_ch", "transformerlm make-data --data.on_change="),
    ("transformerlm-make-data --data.on_ch", "transformerlm-make-data --data.on_change="),
    ("transformerlm-train --training.resume=mu", "transformerlm-train --training.resume=must "),
    ("transformerlm-train --training.resume mu", "transformerlm-train --training.resume must "),
    ("transformerlm-train --plan --resume=ne", "transformerlm-train --plan --resume=never "),
    ("transformerlm-export --to g", "transformerlm-export --to gguf "),
    ("transformerlm infer --infer.stream=f", "transformerlm infer --infer.stream=false "),
    ("transformerlm-train --model.d_model=a", "transformerlm-train --model.d_model=auto "),
    ("transformerlm-train --config=conf", "transformerlm-train --config=configs/"),
    ("transformerlm-train --config=configs/", "transformerlm-train --config=configs/train.toml "),
    ("transformerlm-train --config configs/t", "transformerlm-train --config configs/train.toml "),
    ("transformerlm eval --text=my", "transformerlm eval --text=my\\ words.txt "),
    ("transformerlm eval --text=no", "transformerlm eval --text=no"),
    ("transformerlm nothing --he", "transformerlm nothing --he"),
]
"""What is typed -> the line after a Tab."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completing") / "here"
    (folder / "configs").mkdir(parents=True)
    for name in ("configs/train.toml", "configs/notes.txt", "my words.txt"):
        (folder / name).touch()
    return folder


def script_in(folder, shell, capsys):
    assert main([shell]) == 0
    path = folder / f".completion.{shell}"
    path.write_text(capsys.readouterr().out)
    return path


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_tab_completes_a_line(name, folder, capsys):
    require(name)
    script = script_in(folder, name, capsys)
    shell = RealShell(name, folder)
    try:
        shell.run(f"source '{script}'")
        assert {text: shell.completed(text) for text, _ in LINES} == dict(LINES)
    finally:
        shell.close()


def test_fish_completes_the_parts_of_a_command(folder, capsys):
    require("fish")
    lines = [f"source '{script_in(folder, 'fish', capsys)}'"]
    lines += ["complete -C 'transformerlm data insp'", "complete -C 'transformerlm-data inspect --ht'"]
    found = [line.partition("\t")[0] for line in answers("fish", lines, folder).splitlines()]
    assert found == ["inspect", "--html"]


WITH_WORDS = [
    CommandWords(Entry("show", "show", "show runs"), [ListedOption("--all", "every run")], ["*"]),
    CommandWords(Entry("say", "say", "say a word"), [], ["hello", "goodbye"]),
]
"""Commands that take words: files, and some of a list."""


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_words_that_are_no_options_are_completed(name, folder):
    require(name)
    path = folder / f".words.{name}"
    path.write_text(SHELLS[name](WITH_WORDS, "of a test"))
    shell = RealShell(name, folder)
    try:
        shell.run(f"source '{path}'")
        assert shell.completed("transformerlm-show conf") == "transformerlm-show configs/"
        assert shell.completed("transformerlm show my") == "transformerlm show my\\ words.txt "
        assert shell.completed("transformerlm show configs/notes.txt conf").endswith(" configs/")
        assert shell.completed("transformerlm show --a") == "transformerlm show --all "
        assert shell.completed("transformerlm say g") == "transformerlm say goodbye "
    finally:
        shell.close()


def test_fish_completes_words_that_are_no_options(folder):
    require("fish")
    lines = [SHELLS["fish"](WITH_WORDS, "of a test")]
    lines += ["complete -C 'transformerlm-show conf'", "complete -C 'transformerlm say g'"]
    assert answers("fish", lines, folder).split() == ["configs/", "goodbye"]


def test_zsh_finds_the_script_in_its_path(folder, capsys):
    require("zsh")
    (folder / "functions").mkdir()
    script_in(folder, "zsh", capsys).rename(folder / "functions" / "_transformerlm")
    shell = RealShell("zsh", folder)
    try:
        shell.run(f"fpath=('{folder}/functions' $fpath); compinit -D -u")
        for _ in range(2):  # the first time, the function reads itself
            assert shell.completed(LINES[0][0]) == LINES[0][1]
    finally:
        shell.close()


@pytest.mark.parametrize("breaks", [" \t\n=:", " \t\n"])
def test_bash_replies_whole_words_where_an_equals_sign_divides_none(breaks, folder, capsys):
    require("bash")
    script = script_in(folder, "bash", capsys)
    shell = RealShell("bash", folder)
    try:
        shell.run(f"COMP_WORDBREAKS=$'{breaks.encode('unicode_escape').decode()}'; source '{script}'")
        assert shell.completed("transformerlm-train --resume=mu") == "transformerlm-train --resume=must "
        line = shell.completed("transformerlm-train --config=configs/t")
        assert line == "transformerlm-train --config=configs/train.toml "
    finally:
        shell.close()


def expected_keys():
    """Every key of every command, as `PROGRAM --table.` and its options."""
    found = {}
    for words in all_commands():
        for option in words.options:
            table, dot, _ = option.name.partition(".")
            if dot:
                found.setdefault(f"{words.command.program} {table}.", set()).add(option.name)
    assert len(found) > 25
    return found


def answers(shell, lines, folder):
    """What a shell that finds no other program prints for these lines: completing starts none."""
    environment = {
        **os.environ,
        "PATH": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "XDG_DATA_HOME": str(folder),
    }
    words = [shutil.which(shell), {"bash": "--norc", "fish": "--no-config"}[shell]]
    done = subprocess.run(
        words, input="\n".join(lines), text=True, capture_output=True, cwd=folder, env=environment
    )
    assert done.stderr == ""
    return done.stdout


def test_bash_knows_every_key(folder, capsys):
    require("bash")
    ask = 'COMP_WORDS=({}); COMP_CWORD=1; _transformerlm; echo "${{COMPREPLY[*]}}"'
    lines = [f"source '{script_in(folder, 'bash', capsys)}'", *(ask.format(text) for text in expected_keys())]
    printed = answers("bash", lines, folder)
    replies = [{word.rstrip("=") for word in line.split()} for line in printed.splitlines()]
    assert replies == list(expected_keys().values())


def test_fish_knows_every_key_and_value(folder, capsys):
    require("fish")
    script = script_in(folder, "fish", capsys)
    asked = [*expected_keys(), *(text for text, line in LINES if line.startswith(text))]
    lines = [f"source '{script}'", *(f"echo '== {text}'; complete -C '{text}'" for text in asked)]
    blocks = answers("fish", lines, folder).split("== ")[1:]
    offered = {
        block.splitlines()[0]: {line.partition("\t")[0] for line in block.splitlines()[1:]}
        for block in blocks
    }
    for text, keys in expected_keys().items():
        assert offered[text] == keys
    assert offered["transformerlm-train --training.resume=mu"] == {"--training.resume=must"}
    assert offered["transformerlm-train --training.resume mu"] == {"must"}
    assert offered["transformerlm tr"] == {"train"}
    assert offered["transformerlm make-data --data.on_ch"] == {"--data.on_change"}
    assert offered["transformerlm-train --config=conf"] == {"--config=configs/"}
    assert offered["transformerlm completion z"] == {"zsh"}


@pytest.mark.parametrize("words", [[], ["csh"], ["bash", "zsh"]])
def test_another_shell_is_a_usage_error(words, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("command line: expected one shell, bash, zsh or fish, got ")
    assert err.endswith("transformerlm completion --help\n")


def test_help_says_how_to_use_it(capsys):
    assert main(["--help"]) == 0
    assert "source <(transformerlm completion bash)" in capsys.readouterr().out


def test_every_command_has_its_words():
    words = all_commands()
    assert [one.command for one in words] == list(COMMANDS)
    assert all(one.options or one.arguments for one in words)


def test_a_summary_is_cut_to_one_line():
    assert in_one_line("A first. A second.") == "A first"
    assert in_one_line("a" * 80) == "a" * 67 + "..."
