import json
import shutil

import pytest

from tests.report.written_runs import write_run, write_samples
from transformerlm.cli import train
from transformerlm.errors import ConfigError
from transformerlm.logging import names
from transformerlm.report import figures, report_html
from transformerlm.report.marks import marks
from transformerlm.report.run import read_run


@pytest.fixture
def run_dir(trained):
    return trained / "runs" / "fables"


def test_a_trained_run_tells_all_of_itself(run_dir):
    run = read_run(run_dir)
    manifest = json.loads((run_dir / "checkpoints/step_00000006/manifest.json").read_text())["about"]
    assert run.metrics[names.LOSS].steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert run.facts["environment"] == manifest["environment"]
    spent = {kind: spent for kind, (spent, _) in manifest["clock"].items()}
    assert figures.seconds_spent(run) | {"saving": 0} == spent | {"saving": 0}  # of this checkpoint too
    assert figures.best_bits(run) == (manifest["best_validation"][0], manifest["best_validation"][2])
    sidecar = json.loads((run_dir.parents[1] / "data/fables/train.memmap.json").read_text())
    assert (run.train.tokens, run.train.num_bytes) == (sidecar["num_tokens"], sidecar["num_bytes"])
    assert [sample.prompt for sample in run.samples] == ["The ", "A fox"]
    assert figures.state(run) == "complete, 6 steps"
    assert marks(run) == []
    assert b" tortoise" in run.longest_tokens or len(run.longest_tokens) > 5
    assert figures.write_command(run).endswith(str(run_dir))


def test_a_run_from_before_there_was_a_history(trained, tmp_path, monkeypatch):
    shutil.copytree(trained / "runs/fables", tmp_path / "old")
    (tmp_path / "old/history.jsonl").unlink()
    monkeypatch.chdir(trained)
    old, new = read_run(tmp_path / "old"), read_run(trained / "runs/fables")
    for key in ("parameters", "environment", "data", "xz"):
        assert old.facts.get(key, []) == new.facts[key]
    assert figures.seconds_spent(old).keys() == figures.seconds_spent(new).keys()
    assert figures.state(old) == "complete, 6 steps"
    monkeypatch.chdir(tmp_path)  # where the token files are not
    assert read_run(tmp_path / "old").train is None


def test_a_run_that_went_on(workplace):
    argv = ["--config", "config.toml", "--logging.report=false", "--generation.prompts=[]"]
    assert train.main([*argv, "--training.max_steps=3"]) == 0
    assert train.main(argv) == 0
    run = read_run(workplace / "runs/fables")
    assert [(record["event"], record["step"]) for record in run.history] == [
        ("start", 0),
        ("end", 3),
        ("start", 3),
        ("end", 6),
    ]
    assert [(mark.kind, mark.step) for mark in marks(run)] == [("restart", 3)]
    assert "continued 1 time" in figures.started(run)
    assert not (workplace / "runs/fables/report.html").exists()


def test_numbers_that_cannot_be_are_not_shown(tmp_path):
    facts = {
        "xz": [float("nan"), -1, 10**400, "x"],
        "data": {"train": {"documents": "x"}},
        "clock": {"a": [1]},
    }
    run_dir = write_run(tmp_path / "run", facts=facts)
    (run_dir / "expectation.json").write_text('{"bits_per_byte": NaN, "low": 1, "high": 1e999}')
    with (run_dir / "history.jsonl").open("a") as file:
        file.write('{"event": "roll back", "step": 5, "from_step": "x"}\n')
        file.write(f'{{"event": "stop", "step": {10**400}}}\n{{"event": "end", "step": -1}}\n')
    run = read_run(run_dir)
    assert (run.xz, run.expected, run.train) == ([], None, None)
    assert [mark.text for mark in marks(run)] == ["went back to step 5"]
    assert figures.seconds_spent(run).keys() == {"steps"}
    assert figures.comparison(run)[0].percent == 100
    assert "<h1>run</h1>" in report_html([run])


def test_what_is_no_run_is_refused(tmp_path):
    for path, found in ((tmp_path, "a folder without metrics.jsonl"), (tmp_path / "x", "no such folder")):
        with pytest.raises(ConfigError, match=f"{path}: expected the folder of a run, got {found}"):
            read_run(path)


def test_damaged_files_leave_out_what_they_would_tell(tmp_path):
    run_dir = write_run(tmp_path / "run")
    for name in ("config.toml", "history.jsonl", "samples.jsonl", "expectation.json"):
        (run_dir / name).write_bytes(b'\xff{"step": \n{"step": 1}\n[]\n')
    run = read_run(run_dir)
    assert (run.config, run.samples, run.expected, run.train) == ({}, [], None, None)
    assert len(run.metrics[names.LOSS]) == 200


def test_spikes_skipped_steps_and_what_is_not_finite_are_marked(tmp_path):
    changes = {
        50: {names.SPIKES: 1},
        60: {names.SPIKES: 1},
        70: {names.SPIKES: 3, names.SKIPPED_STEPS: 2, names.LOSS: float("nan")},
        80: {names.SPIKES: 0},  # as after a roll-back
        90: {names.SPIKES: 1},
    }
    found = marks(read_run(write_run(tmp_path / "run", 10, changes=changes)))
    assert [(mark.kind, mark.step) for mark in found] == [
        ("spike", 50),
        ("spike", 70),
        ("skipped", 70),
        ("not finite", 70),
        ("spike", 90),
    ]
    assert found[1].text == "2 spikes between steps 61 and 70"
    assert found[2].text == "2 steps not taken between steps 61 and 70"
    assert found[3].text == "metrics.loss is nan at step 70"


def test_the_time_line_has_the_newest_first_and_is_limited(tmp_path):
    run_dir = write_run(tmp_path / "run")
    write_samples(run_dir, [(step, "", "\n\nx" * 500) for step in range(100) for _ in range(9)])
    line = figures.time_line(read_run(run_dir).samples)
    assert [line[0].step, line[-1].step, len(line)] == [99, 0, figures.MAX_STEPS]
    assert {len(writing.samples) for writing in line} == {figures.MAX_SAMPLES}
    assert len(line[1].samples[0][1]) == figures.MAX_LENGTH
    assert line[0].samples[0][1].startswith("x")


def test_settings_that_differ(tmp_path):
    runs = [write_run(tmp_path / name) for name in "ab"]
    (tmp_path / "b/config.toml").write_text(
        '[data]\ncorpus = "texts/tales.txt"\n[optimizer]\nlr = 0.01\nx = 1\n'
    )
    found = figures.differing_settings([read_run(path) for path in runs])
    assert found == [["optimizer.lr", "0.001", "0.01"], ["optimizer.x", "–", "1"]]


def test_the_comparison_names_who_is_better(tmp_path):
    run_dir = write_run(tmp_path / "run", facts=FACTS_WITH_GOOD_XZ)
    (run_dir / "expectation.json").write_text('{"bits_per_byte": 1.5, "low": 1.4, "high": 1.6}')
    run = read_run(run_dir)
    best = figures.best_bits(run)[1]
    assert [bar.label for bar in figures.comparison(run)] == ["this model", "expected", "xz -9e"]
    assert figures.verdict(run) == (
        f"{best / 1.0 - 1:.0%} more than the compressor xz needs. "
        f"{'Within' if 1.4 <= best <= 1.6 else 'Worse than'} the range that was expected."
    )
    with (run_dir / "history.jsonl").open("a") as file:
        file.write('{"event": "end", "step": 9, "ngram_bits_per_byte": 0.5}\n')
    bars = figures.comparison(read_run(run_dir))
    assert [bar.label for bar in bars] == ["this model", "expected", "with n-grams", "xz -9e"]
    assert bars[2].value == "0.500"


FACTS_WITH_GOOD_XZ = {"xz": [1.0, None]}
