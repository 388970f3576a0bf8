import contextlib
import io
import json
import os
import pty
import shutil
import sys
import tomllib
from types import SimpleNamespace

import pytest

from tests.small_models import bytes_only, language_model, save_run
from transformerlm.cli import infer
from transformerlm.config import GenerationConfig
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


@pytest.fixture(scope="module")
def bytes_run(tmp_path_factory):
    """A run without any special token, whose config says how it writes."""
    own = GenerationConfig(eos_token="", prompts=("The", "A"), temperature=0.0, stop=("q",), max_new_tokens=5)
    lm = language_model(bytes_only(), vocab_size=256, generation=own)
    return save_run(lm, tmp_path_factory.mktemp("bytes") / "run")


def test_what_is_not_set_is_as_the_run_says_and_what_is_set_wins(bytes_run, tmp_path, capfd):
    assert infer.main([f"--infer.checkpoint={bytes_run}"]) == 0
    records = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [record[names.PROMPT] for record in records] == ["The", "A"]
    assert {(r[names.TEMPERATURE], r[names.TOP_P], r[names.EOS_TOKEN_ID]) for r in records} == {
        (0.0, 0.95, -1)
    }
    (tmp_path / "my.toml").write_text("[generation]\ntemperature = 0.8\ntop_p = 0.5\n")
    words = [f"--infer.checkpoint={bytes_run}", f"--config={tmp_path}/my.toml", "--generation.top_p=0.25"]
    assert infer.main([*words, "--print-config"]) == 0
    found = tomllib.loads(capfd.readouterr().out)["generation"]
    assert (found["temperature"], found["top_p"]) == (
        0.8,
        0.25,
    )  # 0.8 is the default: set, it wins all the same
    assert (found["eos_token"], found["stop"], found["max_new_tokens"]) == ("", ["q"], 5)


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
    own = [] if words[0].startswith("--infer.checkpoint") else [f"--infer.checkpoint={run_dir}"]
    got, records, err = run(capfd, *own, *words)
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


@pytest.mark.slow
def test_wandb_gets_the_outputs(run_dir, tmp_path, capfd, monkeypatch):
    shutil.copytree(run_dir, tmp_path / "run")
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ("--logging.backend=wandb", "--logging.run_name=texts", f"--infer.checkpoint={tmp_path}/run")
    status, records, err = run(capfd, *words, "--prompt=The ")
    assert (status, records) == (0, []), err
    (line,) = (tmp_path / "run/outputs/texts.jsonl").read_text().splitlines()
    assert json.loads(line)[names.PROMPT] == "The "
    assert list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))


def test_several_prompts_and_samples_of_each(run_dir, capfd):
    words = [f"--infer.checkpoint={run_dir}", "--prompt", "The ", "--prompt=A [x]"]
    _, records, _ = run(capfd, *words, "--generation.num_samples=2")
    assert [(r[names.PROMPT], r[names.SAMPLE], r[names.ROW]) for r in records] == [
        ("The ", 0, 0),
        ("The ", 1, 1),
        ("A [x]", 0, 2),
        ("A [x]", 1, 3),
    ]
    assert len({r[names.OUTPUT] for r in records}) == 4
    _, (alone,), _ = run(capfd, *words[:1], "--prompt=A [x]", "--infer.first_row=3")
    assert alone[names.OUTPUT] == records[3][names.OUTPUT]


def test_jsonl_in_jsonl_out(run_dir, tmp_path, capfd):
    (tmp_path / "p.jsonl").write_text('{"prompt": "The ", "id": [7, null]}\n"A fox"\n')
    out = tmp_path / "new" / "out.jsonl"
    words = [f"--infer.checkpoint={run_dir}", f"--infer.prompt_file={tmp_path}/p.jsonl"]
    words += ["--generation.log_probs=true", "--generation.stop=e"]
    status, records, err = run(capfd, *words, f"--infer.output_file={out}")
    assert (status, records, err) == (0, [], "")
    written = [json.loads(line) for line in out.read_text().splitlines()]
    _, printed, _ = run(capfd, *words)
    for record, other in zip(written, printed, strict=True):
        assert record.pop(names.LATENCY_MS) * other.pop(names.LATENCY_MS) > 0
        assert len(record[names.TOKEN_IDS]) == len(record[names.LOG_PROBS]) > 0
        assert max(record[names.LOG_PROBS]) < 0
        assert "e" not in record[names.OUTPUT]
        assert record[names.FINISH_REASON] in ("stop", "length", "eos")
    assert written == printed
    assert written[0]["id"] == [7, None]
    assert "id" not in written[1]
    assert {record[names.SEED] for record in written} == {0}


def test_no_key_of_a_prompt_is_lost(run_dir, tmp_path, capfd):
    lines = [{"prompt": "The ", "text.output": "mine", "text.row": 9, "input.text.row": [1]}, {"prompt": "A"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [f"--infer.checkpoint={run_dir}", f"--infer.prompt_file={tmp_path}/p.jsonl"]
    _, (first, second), _ = run(capfd, *words)
    assert (first["input.text.output"], first["input.text.row"], first["input.input.text.row"]) == (
        *("mine", [1], 9),
    )
    assert (first[names.ROW], second[names.ROW]) == (0, 1)
    assert first.keys() - second.keys() == {"input.text.output", "input.text.row", "input.input.text.row"}


def test_a_prompt_that_is_longer_than_the_context_is_said_to_be_cut(run_dir, capfd):
    words = [
        f"--infer.checkpoint={run_dir}",
        "--prompt=" + "x1 " * 30,
        "--prompt=The ",
        "--prompt=" + "x " * 40,
    ]
    status, records, err = run(capfd, *words)
    cut = [record[names.PROMPT_TOKENS_CUT] for record in records]
    assert (status, cut[1]) == (0, 0)
    assert min(cut[0], cut[2]) > 32 - 16
    numbers = f"{min(cut[0], cut[2])} to {max(cut[0], cut[2])}"
    line = "2 of 3 prompts are longer than the model's context of 32 tokens: the first"
    assert err == f"warning: {line} {numbers} are not seen\n"


def test_an_output_file_is_whole_or_as_it_was(run_dir, tmp_path, capfd):
    out = tmp_path / "out.jsonl"
    out.write_text("before")
    words, to_file = [f"--infer.checkpoint={run_dir}", "--prompt=a"], f"--infer.output_file={out}"
    status, _, _ = run(capfd, *words, to_file, "--generation.eos_token=<none>")
    assert (status, out.read_text()) == (2, "before")
    status, _, err = run(capfd, *words, f"--infer.output_file={tmp_path}")
    assert (status, err.count("\n")) == (74, 1)
    assert run(capfd, *words, to_file)[0] == 0
    assert json.loads(out.read_text())[names.PROMPT] == "a"
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def readable(capfd, *words):
    argv = ["--runtime.device=cpu", "--runtime.dtype=float32", "--generation.max_new_tokens=8"]
    assert infer.main([*argv, "--infer.output_format=text", *words]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return out


def test_results_as_text(run_dir, tmp_path, capfd):
    words = [f"--infer.checkpoint={run_dir}", "--prompt=The ", "--prompt=A fox"]
    _, records, _ = run(capfd, *words)
    texts = [record[names.PROMPT] + record[names.OUTPUT] for record in records]
    expected = f"--- 1 of 2 ---\n{texts[0]}\n--- 2 of 2 ---\n{texts[1]}\n"
    assert readable(capfd, *words) == expected
    assert readable(capfd, *words, f"--infer.output_file={tmp_path}/out.txt") == ""
    assert (tmp_path / "out.txt").read_bytes() == expected.encode()
    for stream in ("true", "false"):
        assert readable(capfd, *words[:2], f"--infer.stream={stream}") == f"{texts[0]}\n"


@contextlib.contextmanager
def on_a_terminal(monkeypatch):
    """Let a terminal be stdout and stderr; the list gets what it has shown."""
    leader, follower = pty.openpty()
    shown = []
    with open(follower, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:  # noqa: PTH123
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        yield shown
    with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
        while block := os.read(leader, 4096):
            shown.append(block)
    os.close(leader)


def terminal(words, monkeypatch):
    """Return what a terminal shows of a command for which it is stdout and stderr."""
    with on_a_terminal(monkeypatch) as shown:
        assert infer.main(words) == 0
    return b"".join(shown).decode().replace("\r\n", "\n")


def test_a_terminal_shows_text_once_and_json_where_it_is_asked_for(run_dir, capfd, monkeypatch):
    words = [f"--infer.checkpoint={run_dir}", "--runtime.device=cpu", "--runtime.dtype=float32"]
    words += ["--prompt=The ", "--generation.max_new_tokens=8", "--generation.stop=\n"]
    _, (record,), _ = run(capfd, *words)
    text = "The " + record[names.OUTPUT]
    assert terminal(words, monkeypatch) == f"{text}\n"
    shown = terminal([*words, "--generation.log_probs=true"], monkeypatch)
    assert shown.startswith(f"{text}\n{{")
    assert json.loads(shown.removeprefix(f"{text}\n"))[names.OUTPUT] == record[names.OUTPUT]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (['--generation.stop=["a", ""]'], "[generation].stop: expected strings of at least one character"),
        (["--generation.stop_tokens=<x>"], "[generation].stop_tokens: expected a special token of the"),
        (["--generation.min_p=2"], "[generation].min_p: expected a number from 0 to 1, got 2"),
        (["--generation.repetition_penalty=0"], "[generation].repetition_penalty: expected a number above 0"),
        (["--generation.num_samples=0"], "[generation].num_samples: expected a whole number of at least 1"),
        (
            ["--generation.log_probs=true", "--infer.output_format=text"],
            '[infer].output_format: expected "jsonl" or "auto" with [generation].log_probs',
        ),
        (["--infer.first_row=-1"], "[infer].first_row: expected a whole number of at least 0"),
    ],
)
def test_each_new_key_is_named_where_it_is_wrong(words, message, run_dir, capfd):
    status, records, err = run(capfd, f"--infer.checkpoint={run_dir}", *words)
    assert (status, records) == (2, [])
    assert message in err
    assert err.count("\n") == 1
