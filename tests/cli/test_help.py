"""The two sizes of help: what is in each, how long they are, and what names them."""

import dataclasses
import json
import re

import pytest

from transformerlm.cli.commands import COMMANDS
from transformerlm.cli.help import help_text
from transformerlm.cli.interface import Interface, summary_of
from transformerlm.config import (
    EvalConfig,
    ExportConfig,
    InferConfig,
    MakeDataConfig,
    SweepConfig,
    TrainConfig,
)
from transformerlm.config.automatic import with_automatic
from transformerlm.config.common import COMMON_KEYS, is_common
from transformerlm.schema import field_types, tables

PROGRAMS = [command for command in COMMANDS if command.has_program]


def keys_in(text):
    return re.findall(r"^  --(\w+\.\w+)=", text, flags=re.MULTILINE)


@pytest.mark.parametrize("command", PROGRAMS, ids=lambda command: command.name)
def test_the_short_help_is_two_screens_at_most(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert command.load()(["--help"]) == 0
    short = capsys.readouterr().out
    assert short.count("\n") <= 2 * 40
    assert max(map(len, short.splitlines())) <= 100
    words = {"status": " [RUN]", "report": " [RUN...]", "serve": " [RUN]", "sweep": " [FILE.toml]"}.get(
        command.name, ""
    )
    assert f"usage: {command.program}{words} [--config=FILE.toml]" in short
    assert keys_in(short)
    assert command.load()(["--help=all"]) == 0
    assert not keys_in(capsys.readouterr().out)


def test_the_short_help_has_the_common_keys_with_their_defaults():
    text = help_text(Interface(TrainConfig, description="Train."), "transformerlm train", every=False)
    assert keys_in(text) == [
        f"{table}.{key}"
        for table, section in tables(TrainConfig).items()
        for key in field_types(section)
        if key in COMMON_KEYS[table]
    ]
    assert re.search(r"--model\.d_model=N\|auto +Width of the residual stream\. \[256\]", text)
    assert "keys [and their defaults]; all: transformerlm train --help=all\n" in text


def test_defaults_are_those_of_an_empty_command_line():
    text = help_text(Interface(TrainConfig, automatic=with_automatic), "t", every=False)
    assert re.search(r"--model\.d_model=N\|auto +Width of the residual stream\. \[auto\]", text)
    every = help_text(Interface(TrainConfig, automatic=with_automatic), "t", every=True)
    assert "\n  d_model = 'auto', 256 where nothing is chosen    (" in every
    assert "\n  num_kv_heads = None    (" in every


def test_a_small_command_shows_all_of_its_keys():
    text = help_text(Interface(ExportConfig), "transformerlm-export", every=False)
    assert len(keys_in(text)) == len(field_types(tables(ExportConfig)["export"]))
    assert "help=all\n" not in text


@pytest.mark.parametrize("columns", ["20", "70", "300"])
def test_the_text_is_as_wide_as_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    text = help_text(Interface(InferConfig), "transformerlm-infer", every=False)
    described = text.partition("options:")[2].partition("exit status:")[0]
    lines = [line for line in described.splitlines() if line.startswith("   ")]
    assert max(map(len, lines)) <= min(max(int(columns), 60), 110)


def test_common_keys_exist():
    sections = {**tables(EvalConfig), **tables(InferConfig), **tables(SweepConfig)}
    for table, keys in COMMON_KEYS.items():
        assert set(keys) <= set(field_types(sections[table])), table
    assert is_common("training", "max_time")
    assert not is_common("training", "max_faults")
    assert is_common("a_new_table", "any_key")


def test_options_as_json_name_every_key(capsys):
    from transformerlm.cli import make_data

    assert make_data.main(["--print-options"]) == 0
    listed = {option["name"]: option for option in json.loads(capsys.readouterr().out)}
    for table, section in tables(MakeDataConfig).items():
        for field in dataclasses.fields(section):
            assert listed[f"--{table}.{field.name}"]["summary"]
    assert listed["--data.on_change"]["choices"] == ["stop", "remake"]
    assert listed["--data.corpus"]["files"] == "*"
    assert listed["--config"]["files"] == "*.toml"
    assert listed["--data.validation_fraction"]["placeholder"] == "NUMBER"
    assert listed["--verify"]["placeholder"] == ""
    assert "-h" not in listed


def test_a_summary_is_whole_sentences():
    assert summary_of("One is\n here. Two is too.") == "One is here. Two is too."
    assert summary_of(f"One. {'X' * 100}. Three.") == "One."
    assert summary_of(f"One is long, {'x' * 80}. Two is not here.") == f"One is long, {'x' * 80}."
    assert summary_of('"a": one. "b": two.') == '"a": one. "b": two.'
