"""The search of configs: candidates are trained as they say, and the best one is named."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = """
[search]
train_config = "{train}"
arguments = "--training.max_steps=3 --schedule.warmup_steps=1"
candidates = ["--optimizer.lr=1e-9", "", "--model.d_ff=32"]
num_seeds = 2
"""
TRAIN = """
[data]
corpus = "{corpus}"
document_separator = ""
[tokenizer]
vocab_size = 256
special_tokens = []
[model]
context_length = 32
d_model = 16
num_layers = 1
num_heads = 2
d_ff = 16
[optimizer]
lr = 3e-2
[generation]
eos_token = ""
prompts = ["to"]
max_new_tokens = 1
[runtime]
kernels = false
num_threads = 1
"""


def search(folder, *overrides):
    (folder / "text.txt").write_text("to be or not to be\n" * 200)
    (folder / "train.toml").write_text(TRAIN.format(corpus=folder / "text.txt"))
    (folder / "search.toml").write_text(CONFIG.format(train=folder / "train.toml"))
    command = [sys.executable, "-m", "benchmarking.search_train", "--config", str(folder / "search.toml")]
    return subprocess.run([*command, *overrides], cwd=ROOT, capture_output=True, text=True)


def test_a_candidate_that_cannot_be_trained_is_named(tmp_path):
    done = search(tmp_path, '--search.candidates=["--model.d_ffs=32"]')
    assert done.returncode == 2
    expected = 'got status 2 from "--model.d_ffs=32"'
    where = "command line: [search].candidates"
    assert done.stderr.splitlines()[-1] == f"{where}: expected one that trains, {expected}"


@pytest.mark.slow
def test_candidates_are_trained_and_compared(tmp_path):
    done = search(tmp_path)
    assert done.returncode == 0, done.stderr
    *lines, best = map(json.loads, done.stdout.splitlines())
    assert [line["search.candidate"] for line in lines] == ["--optimizer.lr=1e-9", "", "--model.d_ff=32"]
    losses = {line["search.candidate"]: line["metrics.val_loss"] for line in lines}
    assert losses["--optimizer.lr=1e-9"] > 5.4 > losses[""]
    assert len(set(losses.values())) == 3
    assert best == {"search.best": min(losses, key=losses.get)}
    assert all(line["search.steps"] == 3 and line["search.seconds"] > 0 for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["search.toml", "text.txt", "train.toml"]
