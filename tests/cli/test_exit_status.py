"""Every exit status that the help names, brought about by a real command; and what --debug adds to it."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from transformerlm import errors
from transformerlm.cli import eval as evaluation
from transformerlm.cli import export, import_model, infer, make_data, status, sweep, train, train_tokenizer
from transformerlm.cli import report as report_command
from transformerlm.cli.error_report import report
from transformerlm.signals import STOPS, WARNINGS, numbers
from transformerlm.storage.lock import locked

COMMANDS = {
    "train": train,
    "make-data": make_data,
    "train-tokenizer": train_tokenizer,
    "infer": infer,
    "eval": evaluation,
    "export": export,
    "import": import_model,
    "status": status,
    "report": report_command,
    "sweep": sweep,
}
STATUSES = {
    error.exit_status
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, errors.TransformerLMError)
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_each_status_means(command, capsys):
    assert COMMANDS[command].main(["--help"]) == 0
    _, _, after = capsys.readouterr().out.partition("exit status:\n")
    documented = {int(number) for number in re.findall(r"\b(\d+)\b", after.partition("\n\n")[0])}
    assert {1, 2, 3, 4, 6, 74, 75} == STATUSES
    assert documented == STATUSES | {0} | {128 + number for number in numbers((*STOPS, *WARNINGS))}


def ends(command, argv, status, capfd):
    """The line that a command ends with; with --debug the same, and a traceback before it."""
    assert COMMANDS[command].main(argv) == status
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    assert COMMANDS[command].main([*argv, "--debug"]) == status
    _, with_traceback = capfd.readouterr()
    assert "Traceback (most recent call last)" in with_traceback
    line = err.splitlines()[-1]
    assert with_traceback.splitlines()[-1] == line
    return out, line


def test_2_config(workplace, capfd):
    _, line = ends("train", ["--config", "config.toml", "--model.d_model=33"], 2, capfd)
    assert line == "config.toml: [model].num_heads: expected a divisor of d_model = 33, got 2"


def test_3_corpus(workplace, capfd):
    _, line = ends("make-data", ["--data.corpus=nowhere"], 3, capfd)
    assert "[data].corpus: expected a file, a folder, a glob or python-stdlib" in line
    _, line = ends("train-tokenizer", ["--data.corpus=nowhere"], 3, capfd)
    assert "[data].corpus: " in line


def test_3_token_file(workplace, capfd):
    words = ["--data.corpus=fables", "--tokenizer.vocab_size=320"]
    assert make_data.main(words) == 0
    with Path("data/fables/train.memmap").open("r+b") as file:
        file.truncate(100)
    _, line = ends("train", ["--config", "config.toml"], 3, capfd)
    assert line.startswith("data/fables/train.memmap: ")


def test_4_checkpoint(workplace, trained, capfd):
    _, line = ends("infer", ["--infer.checkpoint=nowhere"], 4, capfd)
    assert line.startswith("nowhere: ")
    _, line = ends("train", ["--config", "config.toml", "--resume=must"], 4, capfd)
    assert line.startswith("runs/fables: ")


def test_6_not_finite(workplace, capfd):
    out, line = ends("train", ["--config", "config.toml", "--optimizer.lr=1e30"], 6, capfd)
    assert "not finite" in line
    assert re.search(r"step \d", line)
    assert not list(Path("runs").rglob("model.safetensors")), out


@contextlib.contextmanager
def mounted(folder, options):
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no `mount` here")
    if done.returncode:
        pytest.skip(f"no tmpfs may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_74_read_only(workplace, capfd):
    with mounted(workplace / "disk", "size=1m,ro"):
        words = ["--config", "config.toml", "--training.run_dir=disk/run"]
        _, line = ends("train", words, 74, capfd)
        assert re.fullmatch(r"disk/run\S*: Read-only file system", line), line
        words = [
            "--data.corpus=fables",
            "--tokenizer.tokenizer_dir=disk/tokenizer",
            "--tokenizer.vocab_size=300",
        ]
        _, line = ends("train-tokenizer", words, 74, capfd)
        assert re.fullmatch(r"disk/\S*: Read-only file system", line), line


def test_74_full_disk(workplace, capfd):
    with mounted(workplace / "disk", "size=16k"):
        _, line = ends("make-data", ["--data.corpus=fables", "--data.token_dir=disk/data"], 74, capfd)
        assert line.startswith("disk")
        assert not list(Path("disk").rglob("*.tmp.*"))


def test_74_stdout(workplace, capfd):
    with Path("/dev/full").open("w") as full, contextlib.redirect_stdout(full):
        assert train.main(["--print-config"]) == 74
    assert capfd.readouterr().err == "stdout: No space left on device\n"


def test_75_locked(workplace, capfd):
    with locked(Path("runs/fables")):
        _, line = ends("train", ["--config", "config.toml"], 75, capfd)
    assert line.startswith(f"runs/fables: in use by process {os.getpid()} on ")


@pytest.mark.slow
def test_128_and_a_signal(workplace, trained):
    """Warnings in training and SIGINT in generating: real processes, side by side."""
    script = "import sys; from transformerlm.cli.{} import main; sys.exit(main())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(module, *words, stderr):
        command = [sys.executable, "-c", script.format(module), *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environment)

    many = ["--training.max_steps=1000000", "--training.checkpoint_every=0", "--training.validate_every=0"]
    training = start("train", "--config", "config.toml", *many, stderr=subprocess.PIPE)
    leader, follower = pty.openpty()
    words = [f"--infer.checkpoint={trained}/runs/fables", "--runtime.device=cpu", "--prompt=The"]
    words += ["--generation.eos_token="]
    writing = start("infer", *words, "--generation.max_new_tokens=10000000", stderr=follower)
    os.close(follower)
    training.stdout.readline()  # its first step is done
    for _ in range(2):
        training.send_signal(signal.SIGUSR1)
    out, err = training.communicate(timeout=300)
    assert training.returncode == 138, err
    assert b"the same command goes on from there" in err.splitlines()[-1]
    assert b"Traceback" not in err
    assert list(Path("runs/fables/checkpoints").glob("step_*")), out
    shown = b""
    while len(shown) < 20:
        shown += os.read(leader, 100)
    writing.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
        while block := os.read(leader, 4096):
            shown += block
    assert writing.wait(300) == 130
    assert shown.endswith(b"interrupted\r\n")
    os.close(leader)
    writing.stdout.close()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(30, "Read-only file system", "runs/x/config.toml"),
            "runs/x/config.toml: Read-only file system",
        ),
        (
            OSError(30, "Read-only file system", "runs/.x.tmp.12.0123abcd", None, "runs/x"),
            "runs/x: Read-only file system",
        ),
        (
            OSError(28, "No space left", "runs/.step_1.tmp.12.0123abcd/model.safetensors"),
            "runs/step_1/model.safetensors: No space left",
        ),
        (OSError(28, "No space left", b"caf\xc3\xa9"), "café: No space left"),
        (OSError(28, "No space left", "a\nb"), "a\\nb: No space left"),
        (OSError(28, "No space left", Path("a")), "a: No space left"),
        (OSError(9, "Bad file descriptor", 7), "error: Bad file descriptor"),
        (OSError(28, "No space left"), "error: No space left"),
        (OSError("something odd"), "error: something odd"),
        (BrokenPipeError(32, "Broken pipe"), "error: Broken pipe"),
    ],
)
def test_an_error_of_the_system_names_the_path_as_the_user_knows_it(error, line, capsys):
    assert report(error, debug=False) == 74
    assert capsys.readouterr().err == line + "\n"
