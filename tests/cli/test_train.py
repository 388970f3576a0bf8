import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.logging.screens import screen, terminal
from tests.lone_ranks import start_lone_ranks
from tests.small_disk import small_disk
from tests.tiny_run import shorten_measurements
from transformerlm.checkpoint.store import checkpoint_paths, latest_checkpoint, read_checkpoint
from transformerlm.cli import eval as evaluation
from transformerlm.cli import infer, make_data, train, train_tokenizer
from transformerlm.cli.command import load_config, parse_arguments
from transformerlm.config import TrainConfig
from transformerlm.data.listing import RECORD_FILE
from transformerlm.logging import factory, names, read_samples
from transformerlm.progress import counted
from transformerlm.schema import from_dict
from transformerlm.training import run as whole_run
from transformerlm.training.folders import check_folders


def lines_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def run(capfd, *argv):
    status = train.main(["--config", "config.toml", *argv])
    out, err = capfd.readouterr()
    return status, out, err


def test_from_a_folder_of_text_to_a_model_that_writes(workplace, capfd):
    status, out, err = run(capfd)
    assert status == 0
    records = lines_of(out)  # every line of stdout is JSON
    assert [r["step"] for r in records if names.LOSS in r] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in records if names.VAL_BITS_PER_BYTE in r] == [3, 6]
    samples = [r for r in records if names.OUTPUT in r]
    assert [r[names.PROMPT] for r in samples] == ["The ", "A fox"]
    assert "tokenizer data/fables/tokenizer: made (320 ids" in err
    assert "token files in data/fables: made" in err
    assert "validation: " in err
    assert "xz" not in err  # of so little text it would say nothing
    folder = workplace / "runs" / "fables"
    assert {path.name for path in folder.iterdir()} == {
        *(".lock", "config.toml", "tokenizer", "checkpoints", "metrics.jsonl", "samples.jsonl", "control"),
        *("history.jsonl", "report.html"),
    }
    config = from_dict(TrainConfig, tomllib.loads((folder / "config.toml").read_text()))
    assert (config.training.max_steps, config.model.vocab_size) == (6, 320)
    kept = lines_of((folder / "metrics.jsonl").read_text())
    assert [r["step"] for r in kept if names.LOSS in r] == [1, 2, 3, 4, 5, 6]
    assert not any(names.OUTPUT in r for r in kept)
    assert [r[names.OUTPUT] for r in lines_of((folder / "samples.jsonl").read_text())] == [
        r[names.OUTPUT] for r in samples
    ]


def test_on_a_terminal_training_prints_for_people(workplace, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    with (
        terminal(60) as there,
        contextlib.redirect_stdout(there.stream),
        contextlib.redirect_stderr(there.stream),
    ):
        words = ["--training.sample_every=3", "--generation.max_new_tokens=4", "--training.validate_every=6"]
        assert train.main(["--config", "config.toml", *words]) == 0
    rows = screen(there.text, 60)
    assert not any("{" in row for row in rows)
    assert [row[:12] for row in rows if "/s  " in row and "loss" in row] == [
        f"     {step}  loss" for step in range(1, 7)
    ]
    assert len([row for row in rows if row.startswith(" valid  loss ")]) == 1
    assert [row for row in rows if row.startswith("sample at")] == [
        f'sample at step {step}, begun with "{prompt}"' for step in (3, 6) for prompt in ("The ", "A fox")
    ]
    (bar,) = [row for row in rows if row.startswith("training: 100%")]
    assert rows.index(bar) > max(index for index, row in enumerate(rows) if row.startswith("     6"))
    steps = [sample.step for sample in read_samples(workplace / "runs/fables/samples.jsonl")]
    assert steps == [3, 3, 6, 6]


@pytest.mark.parametrize("command", [train, evaluation, infer])
def test_a_tracker_that_is_not_installed_is_a_line_before_anything_is_done(
    command, workplace, capfd, monkeypatch
):
    monkeypatch.setattr(factory, "_is_installed", lambda package: False)
    config = ["--config", "config.toml"] if command is train else []
    assert command.main([*config, "--logging.backend=wandb"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert "[logging].backend" in line
    assert "pip install wandb, or in a clone: uv sync --extra wandb" in line
    assert {path.name for path in workplace.iterdir()} == {"fables", "config.toml"}


def test_a_plan_says_what_a_run_would_take_and_leaves_none(workplace, capfd):
    status, out, err = run(capfd, "--plan", "--training.max_steps=5000")
    assert status == 0
    assert "tokenizer data/fables/tokenizer: made (320 ids" in err
    assert "token files in data/fables: made" in err
    rows = {" ".join(line[:32].split()): line[32:] for line in out.splitlines()}
    assert rows["time steps"] == "5,000"
    assert rows["step sequences"] == "4 of 32 tokens"
    for what in ("memory weights", "activations", "logits", "checkpoints", "tokens per second", "time steps"):
        assert what in rows, out
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_time_as_the_budget(workplace, capfd, monkeypatch):
    shorten_measurements(monkeypatch)
    words = ["--training.max_steps=None", "--training.max_time=1s", "--schedule.warmup_steps=2"]
    status, out, err = run(capfd, *words)
    assert status == 0
    assert "training: 1s of steps of 128 tokens, on " in err
    steps = [r["step"] for r in lines_of(out) if names.LOSS in r]
    assert f"trained: {counted(steps[-1], 'step')} in 1s" in err
    status, out, err = run(capfd, *words)
    assert status == 0
    # The last step may have ended later than that, on a busy machine much later.
    assert re.search(rf"resumed: runs/fables, \w+ of 1s done, {steps[-1]} steps", err), err
    assert not [r for r in lines_of(out) if names.LOSS in r]


def test_two_budgets_are_one_too_many(workplace, capfd):
    status, _, err = run(capfd, "--training.max_time=20m")
    assert status == 2
    assert err == (
        "command line: [training].max_time: expected one budget, got max_steps and max_time; "
        "say None to those not meant\n"
    )


@pytest.fixture
def prepared(trained, workplace):
    """A workplace with tokenizer and token files, and no run."""
    shutil.copytree(trained / "data", workplace / "data")
    return workplace


@pytest.fixture
def trained_copy(trained, workplace):
    """A workplace in which `config.toml` has been trained."""
    for name in ("data", "runs"):
        shutil.copytree(trained / name, workplace / name)
    return workplace


def times_of_files(folder):
    """But of locks, and of the record of the corpus' files, whose times are new when it is made."""
    changing = (RECORD_FILE, ".lock")
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in changing]
    return {path: path.stat().st_mtime_ns for path in paths}


def test_a_second_run_reuses_what_matches_and_says_so(trained_copy, capfd):
    before = times_of_files(trained_copy)
    checkpoints = [path.name for path in checkpoint_paths(trained_copy / "runs/fables/checkpoints")]
    status, out, err = run(capfd)
    assert status == 0
    assert "tokenizer data/fables/tokenizer: reused (320 ids)" in err
    assert "token files in data/fables: reused" in err
    what = "nothing is left to do; a larger [training].max_steps"
    assert f"resumed: runs/fables, 6 of 6 steps done: {what}" in err
    assert "validation: " not in err
    assert times_of_files(trained_copy) == before
    assert [path.name for path in checkpoint_paths(trained_copy / "runs/fables/checkpoints")] == checkpoints
    assert out == ""
    status, out, err = run(capfd, "--generation.prompts=['A new one']")
    assert [r[names.PROMPT] for r in lines_of(out)] == ["A new one"]
    status, out, err = run(capfd, "--training.max_steps=8")
    assert [r["step"] for r in lines_of(out) if names.LOSS in r] == [7, 8]
    assert "changed since the checkpoint: [training].max_steps: 6 -> 8" in err


@pytest.mark.slow
def test_the_other_commands_make_the_same_files(workplace, trained, capfd):
    tables = tomllib.loads(Path("config.toml").read_text())
    assert tables["data"] == {"corpus": "fables"}
    words = ["--data.corpus=fables", "--tokenizer.vocab_size=320"]
    assert train_tokenizer.main(words) == 0
    assert make_data.main(words) == 0
    apart = {p.name: p.read_bytes() for p in Path("data").rglob("*") if p.is_file()}
    _, _, err = run(capfd)
    assert "tokenizer data/fables/tokenizer: reused" in err
    assert "token files in data/fables: reused" in err
    together = {p.name: p.read_bytes() for p in (trained / "data").rglob("*") if p.is_file()}
    assert {name: data for name, data in apart.items() if name not in (".lock", RECORD_FILE)} == {
        name: data for name, data in together.items() if name not in (".lock", RECORD_FILE)
    }


@pytest.mark.slow
def test_your_own_text_is_one_override(workplace, capfd):
    Path("My Diary.txt").write_text("Dear diary, today nothing happened. And the day after, nothing.\n" * 200)
    status, _, err = run(capfd, "--data.corpus=My Diary.txt")
    assert status == 0
    assert "into runs/My-Diary" in err
    assert Path("data/My-Diary/train.memmap").exists()
    assert latest_checkpoint(Path("runs/My-Diary/checkpoints"), print).step == 6


def test_what_was_made_otherwise_is_refused_and_left_alone(trained_copy, capfd):
    before = Path("data/fables/tokenizer/vocab.json").read_bytes()
    status, out, err = run(capfd, "--tokenizer.vocab_size=300")
    assert (status, out) == (3, "")
    assert err.startswith(
        "command line: [tokenizer].vocab_size: expected 320, with which data/fables/tokenizer "
    )
    assert "--tokenizer.tokenizer_dir" in err
    assert Path("data/fables/tokenizer/vocab.json").read_bytes() == before
    status, out, err = run(capfd, "--model.d_ff=48")
    assert (status, out) == (4, "")
    assert "[model].d_ff: 32 -> 48" in err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--schedule.warmup_steps=6"], 2, "[schedule].warmup_steps: expected fewer than"),
        (["--data.corpus=nowhere"], 3, "[data].corpus: expected a file, a folder, a glob or python-stdlib"),
        (["--training.resume=must"], 4, "runs/fables: no checkpoint to go on from"),
        (
            ["--model.vocab_size=300"],
            2,
            "[model].vocab_size: expected at least the tokenizer's 320 ids, got 300",
        ),
        (["--model.context_length=100000"], 2, "[model].context_length: expected at most 6027, for the 6028"),
        (["--generation.eos_token=<end>"], 2, "[generation].eos_token: expected a special token"),
    ],
)
def test_mistakes_are_one_line_with_their_status(words, status, message, workplace, capfd):
    got, _out, err = run(capfd, *words)
    assert got == status, err
    assert message in err
    assert "Traceback" not in err
    assert not Path("runs").exists() or not list(Path("runs").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["--training.run_dir=fables"], "[data].corpus, fables"),
        (["--data.corpus=fables/*", "--training.run_dir=./fables"], "[data].corpus, fables"),
        (
            ["--data.corpus=fables/fox-crow.txt", "--training.run_dir=fables"],
            "[data].corpus, fables/fox-crow",
        ),
        (["--training.run_dir=link"], "[data].corpus, fables"),
        (["--training.run_dir=."], "[data].corpus, fables"),
        (["--training.run_dir=data/fables"], "[data].token_dir, data/fables"),
        (["--training.run_dir=data/fables/run"], "[data].token_dir, data/fables"),
        (["--data.token_dir=runs/fables"], "[data].token_dir, runs/fables"),
        (["--tokenizer.tokenizer_dir=runs/fables/tok"], "[tokenizer].tokenizer_dir, runs/fables/tok"),
        (["--data.token_dir=runs/fables/tokenizer"], "[data].token_dir, runs/fables/tokenizer"),
        (
            ["--training.run_dir=data/fables/tokenizer", "--data.token_dir=x"],
            "[tokenizer].tokenizer_dir, data/",
        ),
    ],
)
def test_a_folder_that_something_else_needs_is_refused_before_anything_is_made(words, key, workplace, capfd):
    (workplace / "link").symlink_to("fables")
    before = sorted(workplace.rglob("*"))
    status, out, err = run(capfd, *words)
    assert (status, out) == (2, "")
    assert f"[training].run_dir: expected a folder apart from {key}" in err
    assert sorted(workplace.rglob("*")) == before


def test_a_runs_own_folder_never_becomes_that_of_token_files(trained_copy, capfd):
    """Their lock would be the run's own, and be waited for without end."""
    assert run(capfd, "--data.token_dir=runs/fables")[0] == 2


@pytest.mark.parametrize(
    "words",
    [
        ["--data.corpus=."],
        ["--training.run_dir=fables/run"],
        ["--tokenizer.tokenizer_dir=fables/tokenizer", "--data.token_dir=runs/fables/data"],
    ],
)
def test_folders_that_do_no_harm_may_be_near_each_other(words, workplace):
    config = load_config(TrainConfig, parse_arguments(["--config", "config.toml", *words]))
    check_folders(config, whole_run.run_path(config, "name"))


def start(*argv, **kwargs):
    command = [sys.executable, "-m", "transformerlm.cli.train", "--config", "config.toml", *argv]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONUNBUFFERED", None)
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, **kwargs)


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(prepared, capfd):
    process = start("--training.max_steps=100000", stdout=subprocess.PIPE)
    for line in process.stdout:
        if json.loads(line).get("step", 0) >= 20:
            break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 143, err
    stopped = latest_checkpoint(prepared / "runs/fables/checkpoints", pytest.fail)
    assert f"stopped after step {stopped.step}; the same command goes on from there" in err
    _, out, err = run(capfd, f"--training.max_steps={stopped.step + 2}")
    assert [r["step"] for r in lines_of(out) if names.LOSS in r] == [stopped.step + 1, stopped.step + 2]


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_is_told_before_anything_is_made(prepared, capfd, monkeypatch):
    first = start("--training.max_steps=100000", stdout=subprocess.PIPE)
    first.stdout.readline()
    with monkeypatch.context() as patch:
        patch.setattr(whole_run, "prepare", lambda *arguments: pytest.fail("it went on"))
        status, out, err = run(capfd)
    assert (status, out) == (75, "")
    who = f"in use by process {first.pid} on {socket.gethostname()}, which holds runs/fables/.lock"
    assert err == f"runs/fables: {who}; wait until it ends, or choose another folder\n"
    first.kill()
    first.communicate()
    assert run(capfd, "--training.resume=auto")[0] == 0


@pytest.mark.slow
def test_two_signals_end_it_at_once_and_leave_what_was_saved(prepared):
    process = start("--training.max_steps=100000", "--training.checkpoint_every=5", stdout=subprocess.PIPE)
    for line in process.stdout:
        if json.loads(line).get("step", 0) >= 20:
            break
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode in (130, -signal.SIGINT), err  # to a shell, both are 130
    assert "Traceback" not in err
    assert latest_checkpoint(prepared / "runs/fables/checkpoints", pytest.fail).step >= 15


def test_a_disk_with_too_little_room_is_refused_before_anything_is_trained(workplace, capfd):
    with small_disk(workplace / "disk", "200k"):
        status, out, err = run(capfd, f"--training.run_dir={workplace / 'disk' / 'run'}")
        assert (status, out) == (74, "")
        assert re.search(
            r"disk/run: expected [\d,]+ free bytes for two checkpoints, got [\d,]+; make room", err
        )
        assert list((workplace / "disk").iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_fills_while_it_trains_costs_checkpoints_and_the_last_one_74(prepared, capfd):
    with small_disk(prepared / "disk", "2m"):
        run_dir = prepared / "disk" / "run"
        needed = 340_000  # of a checkpoint
        process = start(
            f"--training.run_dir={run_dir}",
            "--training.checkpoint_every=2",
            "--training.validate_every=0",
            "--training.max_steps=8",
            stdout=subprocess.PIPE,
        )
        for line in process.stdout:
            if json.loads(line).get("step", 0) >= 2:
                fill(prepared / "disk", leave=needed // 2)
                break
        _, err = process.communicate(timeout=300)
        assert process.returncode == 74, err
        assert re.search(r"warning: step \d is not saved: .*step_\d+: cannot be written: No space left", err)
        last = err.splitlines()[-1]
        assert re.search(
            r"step_00000008: cannot be written: No space left on device: [\d,]+ bytes of the [\d,]+", last
        )
        assert not list(run_dir.rglob(".*.tmp.*"))
        (prepared / "disk" / "filler").unlink()
        status, _, err = run(capfd, f"--training.run_dir={run_dir}", "--training.max_steps=8")
        assert status == 0, err
        steps = [r["step"] for r in lines_of((run_dir / "metrics.jsonl").read_text()) if names.LOSS in r]
        assert steps == list(range(1, 9))


def fill(folder, leave):
    with (folder / "filler").open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(folder).free - leave)))


@pytest.mark.slow
def test_any_name_will_do_for_a_folder(workplace, capfd):
    name = "läufe/größer/ж 走る 'quoted' & $HOME"
    status, _, err = run(capfd, f"--training.run_dir={name}")
    assert status == 0, err
    assert latest_checkpoint(Path(name) / "checkpoints", pytest.fail).step == 6


def test_a_run_folder_that_is_a_file_or_cannot_be_written_is_one_line(workplace, capfd):
    Path("taken").write_text("mine")
    status, out, err = run(capfd, "--training.run_dir=taken/run")
    assert (status, out) == (74, "")
    assert "taken" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert Path("taken").read_text() == "mine"


def test_resuming_is_verified_on_the_users_own_run(trained_copy, capfd):
    status, out, err = run(capfd, "--verify-resume", "4", "--training.run_dir=runs/none")
    assert (status, out) == (4, "")
    assert "no checkpoint to go on from" in err
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    status, out, err = run(capfd, "--verify-resume", "4")
    assert (status, out) == (0, "")
    assert "4 steps, straight and with a stop after 2: the same bits of weights, optimizer" in err
    after = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    assert {path: data for path, data in after.items() if path.name != ".lock"} == {
        path: data for path, data in before.items() if path.name != ".lock"
    }


@pytest.mark.slow
def test_a_reader_that_leaves_does_not_stop_the_training(prepared):
    with start(stdout=subprocess.PIPE) as process:
        json.loads(process.stdout.readline())
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(300) == 0, err
    assert "Traceback" not in err
    assert read_checkpoint(prepared / "runs/fables/checkpoints/step_00000006").step == 6


@pytest.mark.slow
def test_wandb_gets_the_same_records(workplace, capfd, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    status, out, _err = run(capfd, "--logging.backend=wandb", "--logging.run_name=first")
    assert (status, out) == (0, "")
    assert list(Path("runs/fables/wandb").glob("offline-run-*/*.wandb"))
    assert [
        r["step"] for r in lines_of(Path("runs/fables/metrics.jsonl").read_text()) if names.LOSS in r
    ] == [*range(1, 7)]


@pytest.mark.slow
def test_a_run_directory_can_carry_the_runs_name(workplace, capfd):
    status, _, _ = run(capfd, "--training.run_dir=runs/{corpus}/{run_name}", "--logging.run_name=mine")
    assert status == 0
    assert Path("runs/fables/mine/config.toml").exists()


def start_ranks(*argv):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "transformerlm.cli.train", "--config", "config.toml", *argv]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, env=environment)


def files_of(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def files_without_parts(folder):
    """`files_of`, with one file in place of the parts that several ranks have written."""
    whole = {re.sub(r"-\d{5}-of-\d{5}", "", name) for name in files_of(folder)}
    return {name for name in whole if not name.endswith(".index.json")}


@pytest.mark.distributed
@pytest.mark.slow
def test_two_nodes_train_what_one_process_trains(workplace, trained):
    nodes = start_lone_ranks("--config", "config.toml", "--runtime.sharding=full")
    (out, err), (other_out, _) = (node.communicate(timeout=300) for node in nodes)
    assert [node.returncode for node in nodes] == [0, 0], err
    theirs = lines_of((trained / "runs/fables/metrics.jsonl").read_text())
    records = lines_of(out)
    for name in (names.LOSS, names.VAL_LOSS):
        ours = [r[name] for r in records if name in r]
        assert ours == pytest.approx([r[name] for r in theirs if name in r], abs=1e-5)
    assert files_without_parts(workplace) == files_of(trained)
    assert "runs/fables/checkpoints/step_00000006/model-00002-of-00002.safetensors" in files_of(workplace)
    # And nothing twice.
    assert [r["step"] for r in records if names.LOSS in r] == [1, 2, 3, 4, 5, 6]
    assert [r[names.PROMPT] for r in records if names.OUTPUT in r] == ["The ", "A fox"]
    assert [err.count(words) for words in ("reused", "made", "model:", "done:")] == [0, 2, 1, 1]
    assert "on 2 x cpu, float32, " in err
    assert other_out == ""


def ranks_of(process):
    """The processes that torchrun has started, by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {
        Path(f"/proc/{child}/environ").read_bytes().partition(b"\0RANK=")[2][:1]: child for child in children
    }
    return {int(rank): int(child) for rank, child in ranks.items() if rank}


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds ranks in /proc")
@pytest.mark.parametrize("whose", [pytest.param("a rank's", marks=pytest.mark.endurance), "torchrun's"])
def test_sigterm_to_one_rank_or_to_torchrun_saves_once_and_it_goes_on_from_there(whose, prepared):
    process = start_ranks("--training.max_steps=100000")
    for line in process.stdout:
        if json.loads(line).get("step", 0) >= 20:
            break
    os.kill(ranks_of(process)[1] if whose == "a rank's" else process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    stopped = latest_checkpoint(prepared / "runs/fables/checkpoints", pytest.fail)
    assert err.count(f"stopped after step {stopped.step}; the same command goes on from there") == 1
    process = start_ranks(f"--training.max_steps={stopped.step + 2}")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert [r["step"] for r in lines_of(out) if names.LOSS in r] == [stopped.step + 1, stopped.step + 2]


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds ranks in /proc")
def test_a_killed_rank_ends_the_run_with_one_line(prepared):
    process = start_ranks("--training.max_steps=100000")
    for line in process.stdout:
        if json.loads(line).get("step", 0) >= 20:
            break
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert err.count("another rank has ended, or cannot be reached") == 1
    assert err.partition("another rank has ended")[0].count("Traceback") == 0


def test_print_config_tells_what_auto_in_runtime_stands_for(capsys):
    sizes = ["--model.d_model=16", "--model.num_heads=2", "--model.d_ff=32", "--model.context_length=16"]
    assert train.main(["--training.max_steps=200", *sizes, "--print-config"]) == 0
    runtime = tomllib.loads(capsys.readouterr().out)["runtime"]
    assert "auto" not in {runtime[key] for key in ("dtype", "attention", "compile", "num_threads")}
    assert train.main(["--print-config"]) == 0  # the model's sizes are not known yet
    assert tomllib.loads(capsys.readouterr().out)["runtime"]["dtype"] == "auto"
