"""Whole sweeps by the command, with workers that are processes of their own."""

import json

import pytest

from tests.faults.small_run import left_by
from tests.tiny_run import write_workplace
from transformerlm.cli import sweep, train
from transformerlm.control import find_runs, read_status
from transformerlm.errors import ConfigError, DataError
from transformerlm.logging import names

SETTINGS = """
[sweep]
sweep_dir = "runs/sweep"
max_trials = 2
finalists = 0

[sweep.space]
optimizer.lr = { low = 1e-3, high = 1e-1, scale = "log" }
tokenizer.vocab_size = [300, 320]
"""


@pytest.fixture
def workplace(workplace):
    (workplace / "sweep.toml").write_text((workplace / "config.toml").read_text() + SETTINGS)
    return workplace


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A workplace after a sweep of two trials with different tokenizers, and what it has printed."""
    folder = tmp_path_factory.mktemp("swept")
    write_workplace(folder)
    (folder / "sweep.toml").write_text((folder / "config.toml").read_text() + SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert sweep.main(["sweep.toml"]) == 0
    return folder


def journal(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "runs/sweep/sweep.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_best_toml_trains_the_same_model_as_the_best_trial(swept, monkeypatch):
    monkeypatch.chdir(swept)
    ends = {record["name"]: record["result"] for record in journal(swept) if record["event"] == "end"}
    best = min(ends, key=lambda name: ends[name]["value"])
    assert train.main(["--config", "runs/sweep/best.toml"]) == 0
    assert left_by(swept / "runs/fables") == left_by(swept / "runs/sweep/trials" / best)


@pytest.mark.slow
def test_its_runs_are_runs_like_all_others(swept):
    runs = find_runs(swept / "runs/sweep")
    assert [path.name for path in runs] == ["0000", "0001"]
    assert {read_status(path).state for path in runs} == {"ended"}


@pytest.mark.slow
def test_a_sweep_that_is_complete_starts_nothing_and_ends_in_the_same_way(swept, monkeypatch, capsys):
    monkeypatch.chdir(swept)
    before = journal(swept), (swept / "runs/sweep/best.toml").read_text()
    assert sweep.main(["sweep.toml"]) == 0
    assert (journal(swept), (swept / "runs/sweep/best.toml").read_text()) == before
    (record,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert record[names.SWEEP_BEST] is True
    assert f"trial {record[names.SWEEP_TRIAL]:04}" in before[1].splitlines()[0]


@pytest.mark.slow
def test_a_result_that_was_not_recorded_is_read_from_the_folder_of_its_run(swept, monkeypatch):
    monkeypatch.chdir(swept)
    path = swept / "runs/sweep/sweep.jsonl"
    whole = path.read_text()
    kept = [line for line in whole.splitlines(keepends=True) if '"event": "end"' not in line]
    path.write_text("".join(kept))
    assert sweep.main(["sweep.toml"]) == 0
    added = journal(swept)[len(kept) :]
    assert [record["event"] for record in added] == ["end", "end"]  # and no start
    ends = [json.loads(line)["result"] for line in whole.splitlines() if '"event": "end"' in line]
    assert [record["result"] for record in added] == ends


@pytest.mark.slow
def test_a_journal_without_its_beginning_is_not_continued(swept, monkeypatch, capsys):
    monkeypatch.chdir(swept)
    path = swept / "runs/sweep/sweep.jsonl"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole.replace(b'"begin"', b'"bogin"', 1))
        assert sweep.main(["sweep.toml"]) == DataError.exit_status
        assert "its first record" in capsys.readouterr().err
    finally:
        path.write_bytes(whole)


def refused(capsys, *words: str) -> list[str]:
    assert sweep.main(["sweep.toml", *words]) == ConfigError.exit_status
    return capsys.readouterr().err.splitlines()


def test_what_cannot_come_to_a_result_is_told_before_anything_is_made(workplace, capsys):
    before = sorted(path for path in workplace.iterdir() if path.name != "sweep.toml")
    assert (
        "[sweep].[space].optimizer.lrr: unknown key" in refused(capsys, "--sweep.space.optimizer.lrr=[1]")[0]
    )
    (workplace / "sweep.toml").unlink()
    (workplace / "sweep.toml").symlink_to("config.toml")  # without a space
    lines = refused(capsys, "--data.validation_fraction=0")
    assert ["[sweep].space" in lines[0], "[data].validation_fraction" in lines[1]] == [True, True]
    (workplace / "sweep.toml").unlink()
    assert sorted(workplace.iterdir()) == before


def test_a_logger_that_no_trial_could_have_is_told_at_the_door(workplace, capsys, monkeypatch):
    monkeypatch.setattr("transformerlm.logging.factory._is_installed", lambda package: False)
    (line,) = refused(capsys, "--sweep.space.model.num_heads=[1,2]", "--logging.backend=wandb")
    assert '[logging].backend: "wandb" needs the package wandb' in line


def test_a_value_that_no_combination_takes_is_told_with_its_key(workplace, capsys):
    (line,) = refused(capsys, "--sweep.space.model.num_heads=[1,2,3]", "--sweep.space.model.d_model=[16,32]")
    assert "[sweep].[space].model.num_heads: 3 is refused with all other values" in line
    # With no other number of heads nothing is accepted, and the widths are still not to blame.
    (line,) = refused(capsys, "--sweep.space.model.num_heads=[3]", "--sweep.space.model.d_model=[16,32]")
    assert "num_heads: 3 is refused" in line
    # Together with 24 it can be used: then nothing is refused at the door.
    words = ["--sweep.space.model.num_heads=[1,2,3]", "--sweep.space.model.d_model=[16,24]"]
    assert (
        sweep.main(["sweep.toml", *words, "--plan", "--training.max_steps=None", "--training.max_time=9s"])
        == 0
    )


def test_the_config_file_is_a_word_or_an_option(workplace, capsys):
    for words in (["sweep.toml"], ["--config", "sweep.toml"], ["--config=sweep.toml"]):
        assert sweep.main([*words, "--print-config"]) == 0
        assert 'sweep_dir = "runs/sweep"' in capsys.readouterr().out


def test_printed_configs_can_be_read_again(workplace, capsys):
    assert sweep.main(["sweep.toml", "--print-config"]) == 0
    printed = capsys.readouterr().out
    (workplace / "printed.toml").write_text(printed)
    assert sweep.main(["printed.toml", "--print-config"]) == 0
    assert capsys.readouterr().out == printed
