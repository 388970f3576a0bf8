"""The search of configs: candidates are trained as they say, and the best one is named."""

import pytest

from benchmarking import search_train
from tests.benchmarking.tiny_bench import run_bench

CONFIG = """
[search]
train_config = "{train}"
arguments = "--training.max_steps=3 --schedule.warmup_steps=1"
candidates = ["--optimizer.lr=1e-9"]
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


def search(folder, capsys, *overrides):
    (folder / "text.txt").write_text("to be or not to be\n" * 200)
    (folder / "train.toml").write_text(TRAIN.format(corpus=folder / "text.txt"))
    (folder / "search.toml").write_text(CONFIG.format(train=folder / "train.toml"))
    return run_bench(search_train.main, folder / "search.toml", *overrides, capsys=capsys)


@pytest.mark.slow
def test_a_candidate_that_cannot_be_trained_is_named(tmp_path, capsys):
    status, _, said = search(tmp_path, capsys, '--search.candidates=["--model.d_ffs=32"]')
    assert status == 2
    expected = 'got status 2 from "--model.d_ffs=32"'
    where = "command line: [search].candidates"
    assert said.splitlines()[-1] == f"{where}: expected one that trains, {expected}"


@pytest.mark.slow
def test_a_candidate_is_trained_with_its_overrides(tmp_path, capsys):
    status, (line, best), said = search(tmp_path, capsys)
    assert status == 0, said
    assert line["search.candidate"] == best["search.best"] == "--optimizer.lr=1e-9"
    assert line["metrics.val_loss"] > 5.4  # [optimizer].lr of the file would bring it below
    assert line["search.steps"] == 3
    assert line["search.seconds"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["search.toml", "text.txt", "train.toml"]


def test_the_result_of_a_candidate_is_the_mean_over_its_seeds(monkeypatch, capsys):
    losses = {"a": (3.0, 1.0), "b": (1.5, 2.0)}

    def train(section, candidate, seed):
        return {"metrics.val_bits_per_byte": losses[candidate][seed]}

    monkeypatch.setattr(search_train, "train", train)
    section = search_train.SearchSection(candidates=("a", "b"), num_seeds=2)
    search_train.search(search_train.SearchTrainConfig(search=section))
    assert '"search.best": "b"' in capsys.readouterr().out
