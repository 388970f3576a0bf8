import re
import shutil
import signal
import subprocess
import sys

import pytest

from transformerlm.cli import report, train


@pytest.fixture
def run_dir(trained):
    return trained / "runs" / "fables"


def test_the_end_of_a_run_leaves_a_page(run_dir):
    page = (run_dir / "report.html").read_text()
    assert "<h1>fables</h1>" in page
    assert "complete, 6 steps" in page


def test_a_run_named_alone_gets_its_page(run_dir, tmp_path, capfd):
    shutil.copytree(run_dir, tmp_path / "run")
    (tmp_path / "run/report.html").unlink()
    assert report.main([str(tmp_path / "run")]) == 0
    size = (tmp_path / "run/report.html").stat().st_size
    assert capfd.readouterr().err == (
        f"{tmp_path}/run/report.html: written ({size / 1000:,.0f} kB); open it in a browser\n"
    )


def test_several_runs_need_a_place_for_their_page(run_dir, tmp_path, capfd):
    assert report.main([str(run_dir), str(run_dir)]) == 2
    assert "--report.output=report.html" in capfd.readouterr().err
    assert report.main([str(run_dir), str(run_dir), f"--report.output={tmp_path}/both.html"]) == 0
    assert "<h1>2 runs</h1>" in (tmp_path / "both.html").read_text()


def test_pictures_take_the_place_of_the_page(run_dir, tmp_path, capfd):
    pytest.importorskip("matplotlib")
    assert report.main(["--png", str(tmp_path / "png"), str(run_dir), str(run_dir)]) == 0
    assert (tmp_path / "png/loss.png").exists()
    assert "report.html" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["nowhere"], 2, "[report].runs: nowhere: expected the folder of a run, got no such folder"),
        (["a", "--report.port=70000"], 2, "[report].port: expected at most 65535, got 70000"),
        (["--report.runs=[]"], 2, "[report].runs: expected the folder of at least one run, got none"),
        (["{run}", "--report.output={run}/metrics.jsonl/x.html"], 74, "metrics.jsonl"),
    ],
)
def test_what_cannot_be_done_is_one_line(words, status, said, run_dir, capfd):
    assert report.main([word.format(run=run_dir) for word in words]) == status
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


def test_a_page_that_cannot_be_written_changes_nothing_of_the_run(workplace, capfd):
    (workplace / "runs/fables/report.html").mkdir(parents=True)
    argv = ["--config", "config.toml", "--training.max_steps=3"]
    assert train.main(argv) == 0
    assert re.search(r"warning: runs/fables/report.html: not written: .+", capfd.readouterr().err)
    assert (workplace / "runs/fables/samples.jsonl").exists()
    assert [path.name for path in (workplace / "runs/fables").glob(".*.tmp.*")] == []


def test_the_server_is_a_process_that_ctrl_c_ends(run_dir):
    argv = [sys.executable, "-m", "transformerlm.cli.report", "--serve", str(run_dir), "--report.port=0"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130)
    shown = rf"{run_dir}: shown at http://127\.0\.0\.1:\d+/ on this machine, until Ctrl-C\n"
    assert re.fullmatch(shown, line)
