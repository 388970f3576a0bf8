import io
import json
import shutil
import sys
from types import SimpleNamespace

import pytest

from transformerlm.cli import infer
from transformerlm.logging import names


def run(capfd, *argv):
    words = ["--runtime.device=cpu", "--runtime.dtype=float32", "--generation.max_new_tokens=8", *argv]
    status = infer.main(words)
    out, err = capfd.readouterr()
    return status, [json.loads(line) for line in out.splitlines()], err


@pytest.fixture
def run_dir(trained):
    return trained / "runs" / "fables"


def test_a_run_directory_is_all_it_needs(run_dir, tmp_path, capfd, monkeypatch):
    shutil.copytree(run_dir, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    status, (record,), err = run(capfd, "--infer.checkpoint=elsewhere", "--prompt", "A fox")
    assert status == 0
    assert record[names.PROMPT] == "A fox"
    assert (record[names.TEMPERATURE], record[names.TOP_P], record[names.EOS_TOKEN_ID]) == (0.8, 0.95, 319)
    assert record[names.LATENCY_MS] > 0
    assert err == ""


def test_a_run_and_its_newest_checkpoint_are_the_same_model(run_dir, capfd):
    greedy = ("--prompt=The ", "--generation.temperature=0")
    _, (by_run,), _ = run(capfd, f"--infer.checkpoint={run_dir}", *greedy)
    newest, older = (run_dir / "checkpoints" / f"step_0000000{n}" for n in (6, 3))
    _, (by_checkpoint,), _ = run(capfd, f"--infer.checkpoint={newest}", *greedy)
    assert by_run[names.OUTPUT] == by_checkpoint[names.OUTPUT]
    status, _, _ = run(capfd, f"--infer.checkpoint={older}", *greedy)
    assert status == 0


def test_the_samples_of_training_come_out_again(run_dir, capfd):
    samples = [json.loads(line) for line in (run_dir / "samples.jsonl").read_text().splitlines()]
    prompts = json.dumps([sample[names.PROMPT] for sample in samples])
    _, records, _ = run(capfd, f"--infer.checkpoint={run_dir}", f"--generation.prompts={prompts}")
    assert [r[names.OUTPUT] for r in records] == [sample[names.OUTPUT] for sample in samples]


def test_prompts_from_a_file_and_from_stdin(run_dir, tmp_path, capfd, monkeypatch):
    (tmp_path / "prompts.txt").write_bytes("\ufeffThe fox\r\n\r\nÉté\n".encode())
    _, records, _ = run(capfd, f"--infer.checkpoint={run_dir}", f"--infer.prompt_file={tmp_path}/prompts.txt")
    assert [r[names.PROMPT] for r in records] == ["The fox", "Été"]
    stdin = SimpleNamespace(buffer=io.BytesIO("The fox\nÉté".encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    _, again, _ = run(capfd, f"--infer.checkpoint={run_dir}", "--infer.prompt_file=-")
    assert [r[names.OUTPUT] for r in again] == [r[names.OUTPUT] for r in records]


def test_the_seed_decides(run_dir, capfd):
    def text(seed):
        words = (f"--infer.checkpoint={run_dir}", "--prompt=The ", f"--runtime.seed={seed}")
        return run(capfd, *words)[1][0][names.OUTPUT]

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--infer.checkpoint=nowhere"], 4, "nowhere: expected a run's folder or a checkpoint"),
        (["--generation.top_p=0"], 2, "[generation].top_p: expected a number above 0 and at most 1, got 0"),
        (["--generation.temperature=-1"], 2, "[generation].temperature: expected a number of at least 0"),
        (["--generation.eos_token=<stop>"], 2, "[generation].eos_token"),
        (
            ["--infer.prompt_file=nowhere.txt"],
            2,
            "[infer].prompt_file: expected a file of prompts, got nowhere.txt: No such file",
        ),
        (["--infer.prompt_file=x", "--prompt=y"], 2, "[infer].prompt_file: expected nothing beside a prompt"),
        (["--generation.prompts=[]"], 2, "[generation].prompts: expected a prompt, got none"),
        (["--prompt=", "--generation.eos_token="], 2, "[generation].prompts: expected some text"),
    ],
)
def test_mistakes_are_one_line_with_their_status(words, status, message, run_dir, capfd):
    got, records, err = run(capfd, f"--infer.checkpoint={run_dir}", *words)
    assert (got, records) == (status, []), err
    assert message in err
    assert err.count("\n") == 1


def test_a_damaged_checkpoint_is_skipped_with_a_warning(run_dir, tmp_path, capfd):
    shutil.copytree(run_dir, tmp_path / "run")
    member = tmp_path / "run/checkpoints/step_00000006/model.safetensors"
    member.write_bytes(member.read_bytes()[:-1])
    status, records, err = run(capfd, f"--infer.checkpoint={tmp_path}/run", "--prompt=The ")
    assert (status, len(records)) == (0, 1)
    assert "skipped a damaged checkpoint" in err
    assert str(member) in err


def test_another_tokenizer_is_refused(run_dir, tmp_path, capfd):
    shutil.copytree(run_dir, tmp_path / "run")
    merges = tmp_path / "run/tokenizer/merges.txt"
    merges.write_text("\n".join(merges.read_text().splitlines()[:-1]))
    status, _, err = run(capfd, f"--infer.checkpoint={tmp_path}/run", "--prompt=The ")
    assert status in (3, 4)
    assert err.count("\n") == 1


def test_wandb_gets_the_outputs(run_dir, tmp_path, capfd, monkeypatch):
    shutil.copytree(run_dir, tmp_path / "run")
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ("--logging.backend=wandb", "--logging.run_name=texts", f"--infer.checkpoint={tmp_path}/run")
    status, records, err = run(capfd, *words, "--prompt=The ")
    assert (status, records) == (0, []), err
    (line,) = (tmp_path / "run/outputs/texts.jsonl").read_text().splitlines()
    assert json.loads(line)[names.PROMPT] == "The "
    assert list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))
