"""The commands as real processes with streams and locales that are not what programs expect."""

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from transformerlm.checkpoint.store import latest_checkpoint

BIN = Path(sys.executable).parent
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


def shell(line, *words, **environment):
    """`line` in a shell, in which "$@" is the command."""
    return subprocess.Popen(
        ["sh", "-c", line, "sh", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, (process.args, out, err)
    assert b"Traceback" not in err, err
    assert b"Exception ignored" not in err, err
    return out, err


TRAIN = [BIN / "transformerlm-train", "--config", "config.toml"]
STREAMS = {
    "all closed": 'exec "$@" <&- >&- 2>&-',
    "no stdout": 'exec "$@" >&-',
    "no stderr": 'exec "$@" 2>&-',
    "full stdout": 'exec "$@" >/dev/full',
    "full stderr": 'exec "$@" 2>/dev/full',
    "head": '{ "$@"; echo $? >status; } | head -n 1',
    "head of both": '{ "$@" 2>&1; echo $? >status; } | head -c 1',
}
QUICK = ["all closed", "head of both"]


@pytest.mark.parametrize(
    "cases",
    [
        pytest.param(QUICK, id="some", marks=pytest.mark.slow),
        pytest.param(list(STREAMS), id="all", marks=[pytest.mark.slow, pytest.mark.endurance]),
    ],
)
def test_training_saves_whatever_its_streams_are(cases, workplace):
    started = {
        case: shell(f"mkdir '{case}' && cd '{case}' && ln -s ../fables && {STREAMS[case]}",
                    *TRAIN[:1], "--config", "../config.toml")
        for case in cases
    }  # fmt: skip
    for case, process in started.items():
        finished(process)
        folder = workplace / case
        if "head" in case:
            assert (folder / "status").read_text() == "0\n"
        found = latest_checkpoint(folder / "runs/fables/checkpoints", pytest.fail)
        assert found.step == 6
        # What was printed has not landed in a file that was opened in the place of a closed stream.
        found.verify()
        assert b"text.output" not in (folder / "runs/fables/config.toml").read_bytes()


def test_infer_without_stdin_says_that_there_is_no_prompt(trained):
    words = ["--infer.prompt_file=-", f"--infer.checkpoint={trained}/runs/fables"]
    process = shell('exec "$@" <&-', BIN / "transformerlm-infer", *words)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (2, b"")
    assert err == b"command line: [infer].prompt_file: expected a prompt, got none\n"


@pytest.mark.slow
def test_infer_without_stdout_and_with_one_that_is_closed_in_a_locale_of_ascii(trained, tmp_path):
    shutil.copytree(trained / "runs" / "fables", tmp_path / "données")
    infer = [BIN / "transformerlm-infer", f"--infer.checkpoint={tmp_path}/données", "--runtime.device=cpu"]
    infer += ["--generation.max_new_tokens=4", "--prompt=Été ☃", "--prompt=The"]
    silent = shell('exec "$@" >&- 2>&-', *infer)
    head = shell('"$@" | head -n 1', *infer, **ASCII)
    assert finished(silent) == (b"", b"")
    out, err = finished(head)
    assert (out.count(b"\n"), err) == (1, b"")
    assert rb'"text.prompt": "\u00c9t\u00e9 \u2603"' in out


@pytest.mark.slow
def test_text_and_paths_beyond_ascii_in_a_locale_that_has_none(workplace):
    config = (workplace / "config.toml").read_text()
    config = config.replace('"fables"', '"données"').replace("A fox", "Été ☃")
    (workplace / "réglage.toml").write_text(config, encoding="utf-8")
    (workplace / "fables").rename(workplace / "données")
    words = ["--config", "réglage.toml"]
    printed, err = finished(shell('exec "$@"', TRAIN[0], *words, "--print-config", **ASCII))
    assert 'corpus = "données"' in printed.decode("utf-8")
    assert err == b""
    out, err = finished(shell('exec "$@"', TRAIN[0], *words, **ASCII))
    assert rb"runs/donn\xe9es" in err
    run = workplace / "runs" / "données"
    assert latest_checkpoint(run / "checkpoints", pytest.fail).step == 6
    assert 'corpus = "données"' in (run / "config.toml").read_text(encoding="utf-8")
    assert rb'"\u00c9t\u00e9 \u2603"' in out


@pytest.mark.slow
def test_a_terminal_that_is_closed_does_not_stop_the_training(workplace):
    leader, follower = pty.openpty()
    words = [*map(str, TRAIN), "--training.max_steps=20"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=follower, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    os.close(follower)
    process.stdout.readline()
    os.close(leader)
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert latest_checkpoint(workplace / "runs/fables/checkpoints", pytest.fail).step == 20
