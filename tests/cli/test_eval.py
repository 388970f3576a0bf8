import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from transformerlm.cli import eval as command
from transformerlm.cli import train
from transformerlm.config import EvalSection, RuntimeConfig
from transformerlm.errors import ConfigError
from transformerlm.evaluation.documents import end_of_text_id, start_of_text_id
from transformerlm.evaluation.statistics import ratio
from transformerlm.language_model import LanguageModel
from transformerlm.logging import names

CPU = ("--runtime.device=cpu", "--runtime.dtype=float32")


def run(capfd, *argv):
    status = command.main([*CPU, *argv])
    out, err = capfd.readouterr()
    return status, [json.loads(line) for line in out.splitlines()], err


@pytest.fixture
def there(trained, monkeypatch):
    """The folder in which a small run was trained on `fables`, to read from."""
    monkeypatch.chdir(trained)
    return trained


@pytest.fixture(scope="module")
def others(trained, tmp_path_factory):
    """Runs beside it: one of another tokenizer, and two of bytes, which know no end of a text."""
    folder = tmp_path_factory.mktemp("others")
    common = [f"--config={trained}/config.toml", f"--data.corpus={trained}/fables"]
    (folder / "val.txt").write_text("A wolf met a lamb. “Good day”, said the lamb, é.\n" * 7)
    plain = ["--tokenizer.special_tokens=[]", "--data.document_separator=", "--generation.eos_token="]
    of_bytes = [*plain, "--tokenizer.vocab_size=256", f"--data.validation_corpus={folder}/val.txt"]
    of_bytes.append("--runtime.attention=kernels")  # training would measure which is faster; scoring does not
    settings = {
        "coarse": ["--tokenizer.vocab_size=280"],
        "float32": of_bytes,
        "bfloat16": [*of_bytes, "--runtime.dtype=bfloat16"],
    }
    for name, words in settings.items():
        paths = [f"--data.token_dir={folder}/data/{name}", f"--training.run_dir={folder}/{name}"]
        tokenizer = f"--tokenizer.tokenizer_dir={folder}/data/{name}/tokenizer"
        assert train.main([*common, *words, *paths, tokenizer]) == 0
    return folder


HELD_OUT = ("--eval.checkpoint=runs/fables",)


def test_what_is_not_said_of_the_text_is_as_the_run_says(there, others, capfd):
    """The text that was held out from its training, whatever the defaults are."""
    _, (record,), _ = run(capfd, *HELD_OUT)
    assert record["params.text"] == "the validation part of fables"
    same = {**record}
    for words in (["--data.corpus=fables"], ["--data.validation_fraction=0.05"]):
        _, (record,), _ = run(capfd, *HELD_OUT, *words)
        assert record == same
    _, (more,), _ = run(capfd, *HELD_OUT, "--data.validation_fraction=0.5")
    assert more[names.EVAL_DOCUMENTS] > same[names.EVAL_DOCUMENTS]
    _, (other,), _ = run(capfd, f"--eval.checkpoint={others}/float32")
    assert other["params.text"] == f"{others}/val.txt"
    _, (whole,), _ = run(capfd, f"--eval.checkpoint={others}/float32", "--text=fables")
    assert whole["params.text"] == "fables"


def nats_token_by_token(lm, content, eos_id):
    """The slow way: every token by a pass of its own, with all that its first window holds before it."""
    ids = torch.tensor([eos_id, *lm.tokenizer.encode(content, allowed_special="none"), eos_id])
    context_length = lm.model.config.context_length
    stride, nats = context_length // 2, []
    for target in range(1, len(ids)):
        first = max(0, math.ceil((target - context_length) / stride)) * stride
        with torch.no_grad():
            log_probabilities = torch.log_softmax(lm.model(ids[None, first:target])[0, -1].double(), -1)
        nats.append(-log_probabilities[ids[target]].item())
    return sum(nats), len(nats)


def test_numbers_are_those_of_every_token_by_itself(there, tmp_path, capfd):
    texts = ["A fox.", "The crow met a wolf by the river, and what they said is not known. " * 3, "é"]
    texts += ["A text about <|endoftext|>, which no text ends with."]
    with (tmp_path / "texts.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    words = ("--eval.checkpoint=runs/fables", f"--eval.documents_file={tmp_path}/out/documents.jsonl")
    status, (record,), err = run(capfd, "--text", f"{tmp_path}/texts.jsonl", *words)
    assert status == 0
    lm = LanguageModel.load("runs/fables", RuntimeConfig(device="cpu", dtype="float32"))
    nats, tokens = map(np.array, zip(*(nats_token_by_token(lm, text, 319) for text in texts), strict=True))
    num_bytes = np.array([len(text.encode()) for text in texts])
    loss, bits = ratio(nats, tokens), ratio(nats / math.log(2), num_bytes)
    texts_of_record = record.pop(names.CHECKPOINT), record.pop(names.TEXT)
    assert texts_of_record == ("runs/fables/checkpoints/step_00000006", f"{tmp_path}/texts.jsonl")
    expected = {
        names.EVAL_DOCUMENTS: 4,
        names.EVAL_BYTES: num_bytes.sum(),
        names.EVAL_TOKENS: tokens.sum(),
        names.EVAL_LOSS: loss.value,
        names.EVAL_LOSS_ERROR: loss.standard_error,
        names.EVAL_PERPLEXITY: math.exp(loss.value),
        names.EVAL_PERPLEXITY_LOW: math.exp(loss.value - 1.959964 * loss.standard_error),
        names.EVAL_PERPLEXITY_HIGH: math.exp(loss.value + 1.959964 * loss.standard_error),
        names.EVAL_BITS_PER_BYTE: bits.value,
        names.EVAL_BITS_PER_BYTE_ERROR: bits.standard_error,
    }
    assert record == pytest.approx(expected, rel=1e-5)
    assert f"{loss.value:.4f} ± {loss.standard_error:.4f}" in err
    lines = [json.loads(line) for line in (tmp_path / "out/documents.jsonl").read_text().splitlines()]
    assert [line["document"] for line in lines] == [0, 1, 2, 3]
    assert [line["tokens"] for line in lines] == tokens.tolist()
    assert [line["nats"] for line in lines] == pytest.approx(nats.tolist(), rel=1e-5)
    assert {line["file"] for line in lines} == {f"{tmp_path}/texts.jsonl"}


def last_validation(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return next(line for line in reversed(lines) if names.VAL_LOSS in line)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_the_validation_of_training_where_both_cut_the_text_alike(dtype, others, tmp_path, capfd):
    # One document without marks around it, and windows without overlap: the very windows of the trainer.
    run_dir, output = others / dtype, tmp_path / "documents.jsonl"
    words = (f"--eval.checkpoint={run_dir}", f"--text={others}/val.txt", "--eval.stride=32")
    _, (record,), err = run(capfd, *words, f"--runtime.dtype={dtype}", f"--eval.documents_file={output}")
    found, validation = json.loads(output.read_text()), last_validation(run_dir)
    assert found["nats"] / found["tokens"] == pytest.approx(validation[names.VAL_LOSS], rel=1e-7)
    # One token fewer than bytes is predicted; for bits per byte the trainer takes the mean for the first too.
    assert found["tokens"] == found["bytes"] - 1 == record[names.EVAL_TOKENS]
    of_all = record[names.EVAL_BITS_PER_BYTE] * found["bytes"] / found["tokens"]
    assert of_all == pytest.approx(validation[names.VAL_BITS_PER_BYTE], rel=1e-5)
    assert "no end-of-text token" in err
    assert "one document, from which no standard error can be told" in err
    assert record[names.EVAL_LOSS_ERROR] == "NaN"


def test_what_validates_is_scored_with_as_many_tokens_as_in_training(there, capfd):
    _, (record,), _ = run(capfd, *HELD_OUT)
    sidecar = json.loads((there / "data/fables/val.memmap.json").read_text())
    found = record[names.EVAL_DOCUMENTS], record[names.EVAL_TOKENS], record[names.EVAL_BYTES]
    assert found == (sidecar["num_documents"], sidecar["num_tokens"], sidecar["num_bytes"])
    # Not the same windows: there documents follow each other, here each stands alone, with more before it.
    validation = last_validation(there / "runs/fables")
    assert record[names.EVAL_LOSS] == pytest.approx(validation[names.VAL_LOSS], abs=0.1)


def test_the_batch_size_plays_no_part_and_the_stride_does(there, capfd):
    def loss(*words):
        return run(capfd, *HELD_OUT, *words)[1][0][names.EVAL_LOSS]

    usual = loss()
    assert loss("--eval.batch_size=1") == pytest.approx(usual, rel=2e-6)
    assert loss("--eval.batch_size=1000", "--runtime.kernels=false") == pytest.approx(usual, rel=2e-6)
    assert loss("--eval.stride=16") == usual
    assert abs(loss("--eval.stride=32") - usual) > 1e-4


def test_two_models_and_their_difference(there, tmp_path, capfd):
    older = "runs/fables/checkpoints/step_00000003"
    _, (first,), _ = run(capfd, *HELD_OUT)
    _, (second,), _ = run(capfd, *HELD_OUT, f"--eval.checkpoint={older}")
    output = f"--eval.documents_file={tmp_path}/documents.jsonl"
    _, (both,), err = run(capfd, *HELD_OUT, "--compare", older, output)
    assert {key: both[key] for key in first} == first
    assert both[names.COMPARED_WITH] == older
    for key, other in ((names.COMPARED_LOSS, names.EVAL_LOSS), (names.COMPARED_TOKENS, names.EVAL_TOKENS)):
        assert both[key] == second[other]
    lines = [json.loads(line) for line in (tmp_path / "documents.jsonl").read_text().splitlines()]
    column = {key: np.array([line[key] for line in lines]) for key in ("nats", "compared_nats", "tokens")}
    pairs = ratio(column["nats"] - column["compared_nats"], column["tokens"])
    assert both[names.LOSS_DIFFERENCE] == pytest.approx(pairs.value, rel=1e-5)
    assert both[names.LOSS_DIFFERENCE_ERROR] == pytest.approx(pairs.standard_error, rel=1e-5)
    assert both[names.LOSS_DIFFERENCE] == pytest.approx(
        first[names.EVAL_LOSS] - second[names.EVAL_LOSS], abs=1e-5
    )
    assert "the first needs fewer bits, by" in err


def test_a_model_does_not_differ_from_itself(there, capfd):
    _, (record,), err = run(capfd, *HELD_OUT, "--compare=runs/fables")
    assert record[names.BITS_PER_BYTE_DIFFERENCE] == record[names.LOSS_DIFFERENCE_ERROR] == 0
    assert "needs fewer bits" not in err


def test_another_tokenizer_leaves_bits_per_byte_to_compare(there, others, capfd):
    _, (record,), err = run(capfd, *HELD_OUT, f"--compare={others}/coarse")
    assert record[names.COMPARED_TOKENS] > record[names.EVAL_TOKENS]
    difference = record[names.EVAL_BITS_PER_BYTE] - record[names.COMPARED_BITS_PER_BYTE]
    assert record[names.BITS_PER_BYTE_DIFFERENCE] == pytest.approx(difference, abs=1e-4)
    assert names.LOSS_DIFFERENCE not in record
    assert "the two count different tokens" in err


def test_the_same_documents_in_another_form_and_some_of_them(there, tmp_path, capfd):
    texts = [f"A {animal} met nobody." for animal in ("fox", "crow", "dove", "ant")]
    (tmp_path / "a.txt").write_text("<|endoftext|>".join(texts))
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"story": text}) for text in texts))
    words = ("--eval.checkpoint=runs/fables", "--data.jsonl_field=story")
    found = [run(capfd, *words, f"--text={tmp_path}/{name}")[1][0] for name in ("a.txt", "b.jsonl")]
    assert found[0] | {names.TEXT: ""} == found[1] | {names.TEXT: ""}
    _, (record,), _ = run(capfd, *words, f"--text={tmp_path}/a.txt", "--eval.max_documents=3")
    (tmp_path / "c.txt").write_text("<|endoftext|>".join(texts[:3]))
    _, (fewer,), _ = run(capfd, *words, f"--text={tmp_path}/c.txt")
    assert record[names.EVAL_DOCUMENTS] == 3
    assert record[names.EVAL_LOSS] == fewer[names.EVAL_LOSS]


def test_without_a_token_before_it_the_first_of_a_document_is_context_only(there, tmp_path, capfd):
    (tmp_path / "a.txt").write_text("A fox met a crow.")
    words = ("--eval.checkpoint=runs/fables", f"--text={tmp_path}/a.txt")
    _, (record,), _ = run(capfd, *words)
    _, (without,), err = run(capfd, *words, "--eval.eos_token=")
    assert without[names.EVAL_TOKENS] == record[names.EVAL_TOKENS] - 2
    assert "the first token of a document is context only, and its end is not predicted" in err
    _, (behind_it,), err = run(capfd, *words, "--eval.eos_token=", "--eval.bos_token=<|endoftext|>")
    assert behind_it[names.EVAL_TOKENS] == record[names.EVAL_TOKENS] - 1
    assert "would name one): its end is not predicted" in err


def test_the_end_of_a_text_is_the_one_that_the_model_was_trained_with(there):
    lm = LanguageModel.load("runs/fables")
    assert end_of_text_id(lm, EvalSection()) == 319
    assert end_of_text_id(lm, EvalSection(eos_token="")) is None
    assert end_of_text_id(lm, EvalSection(eos_token="<|endoftext|>")) == 319
    silent = dataclasses.replace(lm, checkpoint=dataclasses.replace(lm.checkpoint, about={"config": {}}))
    assert end_of_text_id(silent, EvalSection()) is None
    assert start_of_text_id(silent, EvalSection()) is None
    assert end_of_text_id(silent, EvalSection(eos_token="<|endoftext|>")) == 319


def test_the_token_before_a_text_is_the_one_that_begins_the_models_texts_or_else_the_end(there):
    lm = LanguageModel.load("runs/fables")
    assert start_of_text_id(lm, EvalSection()) == 319
    assert start_of_text_id(lm, EvalSection(eos_token="")) is None
    assert start_of_text_id(lm, EvalSection(bos_token="")) is None
    about = {"config": {"generation": {"bos_token": "<|endoftext|>"}}}
    begun = dataclasses.replace(lm, checkpoint=dataclasses.replace(lm.checkpoint, about=about))
    assert start_of_text_id(begun, EvalSection(eos_token="")) == 319
    assert start_of_text_id(begun, EvalSection(bos_token="")) is None
    with pytest.raises(ConfigError, match=r"\[eval\].bos_token: expected one of the special tokens"):
        start_of_text_id(lm, EvalSection(bos_token="<s>"))


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--eval.checkpoint=nowhere"], 4, "nowhere: expected a run's folder or a checkpoint"),
        (["--compare=nowhere"], 4, "nowhere: expected a run's folder or a checkpoint"),
        (
            ["--text=nowhere.txt"],
            3,
            "[eval].text: expected a file, a folder, a glob or python-stdlib, got now",
        ),
        (["--data.corpus=nowhere.txt"], 3, "[data].corpus: expected a file, a folder, a glob"),
        (["--data.validation_fraction=0"], 2, "[eval].text: expected a text"),
        (["--text=blank.txt"], 3, "expected text in blank.txt, got no text"),
        (["--text=latin.txt"], 3, "latin.txt: expected UTF-8, but byte 1 is 0xe9"),
        (["--eval.stride=33"], 2, "[eval].stride: expected at most the model's context_length = 32, got 33"),
        (
            ["--eval.eos_token=<stop>"],
            2,
            "[eval].eos_token: expected one of the special tokens of runs/fables",
        ),
        (["--eval.batch_size=0"], 2, "[eval].batch_size: expected a whole number of at least 1, got 0"),
        (["--text=latin.txt", "--eval.documents_file=latin.txt"], 2, "[eval].documents_file"),
        (["--eval.eos_token=", "--text=one.txt"], 3, "got no document with a token to predict"),
    ],
)
def test_mistakes_are_one_line_with_their_status(words, status, message, there, tmp_path, capfd):
    for name, content in {"blank": b" \n", "latin": b"\n\xe9", "one": b"a"}.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
        words = [word.replace(f"={name}.txt", f"={tmp_path}/{name}.txt") for word in words]
    got, records, err = run(capfd, *HELD_OUT, *words)
    assert (got, records) == (status, []), err
    assert message in err.replace(f"{tmp_path}/", "")
    assert "Traceback" not in err
    others = ("parameters, on cpu", "no end-of-text token", "given 2 times")
    assert err.count("\n") == 1 + sum(map(err.count, others))
    assert (tmp_path / "latin.txt").read_bytes() == b"\n\xe9"


def test_bytes_that_are_not_utf8_are_scored_where_they_are_kept(there, tmp_path, capfd):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    words = ("--eval.checkpoint=runs/fables", f"--text={tmp_path}/latin.txt")
    _, (record,), _ = run(capfd, *words, "--data.encoding_errors=keep")
    assert record[names.EVAL_BYTES] == 4
    _, (record,), _ = run(capfd, *words, "--data.encoding_errors=replace")
    assert record[names.EVAL_BYTES] == 6


@pytest.mark.slow
def test_wandb_gets_the_record_and_the_documents(there, tmp_path, capfd, monkeypatch):
    shutil.copytree(there / "runs/fables", tmp_path / "run")
    (tmp_path / "a.txt").write_text("A fox.")
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ("--logging.backend=wandb", f"--eval.checkpoint={tmp_path}/run", f"--text={tmp_path}/a.txt")
    status, records, err = run(capfd, *words, f"--eval.documents_file={tmp_path}/documents.jsonl")
    assert (status, records) == (0, []), err
    assert list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))
    assert len((tmp_path / "documents.jsonl").read_text().splitlines()) == 1


def started(*words):
    arguments = [sys.executable, "-m", "transformerlm.cli.eval", *CPU, *words]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_ctrl_c_ends_it_and_leaves_nothing_half_written(there, tmp_path):
    (tmp_path / "long.txt").write_text("The fox and the crow met. " * 400_000)
    words = ("--eval.stride=1", f"--eval.documents_file={tmp_path}/documents.jsonl")
    process = started("--eval.checkpoint=runs/fables", f"--text={tmp_path}/long.txt", *words)
    assert "parameters, on cpu" in process.stderr.readline()
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["long.txt"]
