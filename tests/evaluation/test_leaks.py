"""Scores without the text that a model was trained on, against sums over the tokens one by one."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny_run import ANIMALS, train_in, write_workplace
from transformerlm.cli import eval as eval_command
from transformerlm.config import CorpusConfig, EvalConfig, EvalSection, RuntimeConfig
from transformerlm.data.matches import find_leaks
from transformerlm.data.token_file import TokenFile
from transformerlm.errors import ConfigError, DataError
from transformerlm.evaluation.compare import evaluate
from transformerlm.evaluation.documents import load_for_scoring


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """A trained run, and a text of which a part stands in its training text."""
    folder = tmp_path_factory.mktemp("leaky")
    write_workplace(folder)
    animals = " and ".join(f"a {animal} by the river" for animal in ANIMALS)
    for number in range(6):
        (folder / "fables" / f"z{number}.txt").write_text(f"Number {number}: there were {animals}. " * 2)
    train_in(folder)
    fresh = " ".join(f"{number} ways of it" for number in range(30))
    (folder / "new.txt").write_text(
        f"Quite new: {fresh}<|endoftext|>It began: there were {animals}. {fresh}<|endoftext|>short"
    )
    return folder


@pytest.fixture
def config(leaky, monkeypatch):
    monkeypatch.chdir(leaky)
    return EvalConfig(
        eval=EvalSection(checkpoint="runs/fables", text="new.txt", without_leaks=True),
        data=CorpusConfig(corpus="fables"),
        runtime=RuntimeConfig(device="cpu", dtype="float32"),
    )


def sums_by_hand(text):
    """Nats, tokens and bytes of each document's tokens that do not leak; each is predicted by itself."""
    lm = load_for_scoring("runs/fables", RuntimeConfig(device="cpu", dtype="float32"))
    end = lm.tokenizer.special_token_ids["<|endoftext|>"]
    train, length = TokenFile.open("data/fables/train.memmap"), lm.model.config.context_length
    found = []
    for document in text.split("<|endoftext|>"):
        ids = lm.tokenizer.encode(document)
        leaked = [*find_leaks(np.array(train.tokens), np.array(ids), end_id=end).is_leaked.tolist(), False]
        context, targets = [end, *ids], [*ids, end]
        total = [
            0.0,
            0,
            sum(
                len(lm.tokenizer.vocab[one])
                for one, is_leaked in zip(ids, leaked, strict=False)
                if not is_leaked
            ),
        ]
        for at, target in enumerate(targets):
            if not leaked[at]:
                start = first_of_window(at, length)
                with torch.no_grad():
                    logits = lm.model(torch.tensor([context[start : at + 1]]))[0, -1]
                total[0] -= torch.log_softmax(logits.double(), -1)[target].item()
                total[1] += 1
        found.append(total)
    return np.array(found)


def first_of_window(at, length):
    """The start of the first window of `length` inputs, half of it apart, that holds this one."""
    start = 0
    while at >= start + length:
        start += length // 2
    return start


def test_the_score_without_leaks_is_that_of_the_other_tokens(config):
    scores = evaluate(config).first.scores
    without = scores.without_leaks
    expected = sums_by_hand(Path("new.txt").read_text())
    assert without.num_tokens.tolist() == expected[:, 1].tolist()
    assert without.num_bytes.tolist() == expected[:, 2].tolist()
    np.testing.assert_allclose(without.nats, expected[:, 0], rtol=1e-4)
    leaked = scores.num_bytes - without.num_bytes
    assert leaked[0] == leaked[2] == 0
    assert leaked[1] > 200


def test_the_score_of_all_is_as_without_the_option(config):
    plain = dataclasses.replace(config, eval=dataclasses.replace(config.eval, without_leaks=False))
    one, other = evaluate(config).first.scores, evaluate(plain).first.scores
    assert one.nats.tolist() == other.nats.tolist()
    assert other.without_leaks is None


def test_some_documents_and_another_batch_size_change_nothing(config):
    whole = evaluate(config).first.scores.without_leaks
    some = dataclasses.replace(config, eval=dataclasses.replace(config.eval, max_documents=2, batch_size=1))
    found = evaluate(some).first.scores.without_leaks
    assert found.num_tokens.tolist() == whole.num_tokens[:2].tolist()
    np.testing.assert_allclose(found.nats, whole.nats[:2], rtol=1e-6)


def test_the_command_prints_both(leaky, monkeypatch, capfd):
    monkeypatch.chdir(leaky)
    words = ["--eval.checkpoint=runs/fables", "--text=new.txt", "--eval.without_leaks=true"]
    assert eval_command.main([*words, "--runtime.device=cpu", "--runtime.dtype=float32"]) == 0
    out, err = capfd.readouterr()
    record = json.loads(out.splitlines()[-1])
    assert "\nwithout leaks " in err
    assert f"{record['metrics.eval_leaked_bytes']:,} of {record['metrics.eval_bytes']:,} bytes" in err
    assert record["metrics.eval_bits_per_byte_without_leaks"] != record["metrics.eval_bits_per_byte"]


def test_without_the_right_training_tokens_there_is_no_score(config, leaky, tmp_path):
    files = leaky / "data" / "fables"
    shutil.move(files / "train.memmap.json", tmp_path / "kept")
    try:
        with pytest.raises(DataError, match="without_leaks"):
            evaluate(config)
        shutil.copy(files / "val.memmap.json", files / "train.memmap.json")
        with pytest.raises(DataError, match="without_leaks"):
            evaluate(config)
    finally:
        shutil.move(tmp_path / "kept", files / "train.memmap.json")


def test_every_corpus_of_a_mixture_is_searched(tmp_path, monkeypatch):
    write_workplace(tmp_path)
    passages = {one: " and ".join(f"{animal} {one}" for animal in ANIMALS) * 3 for one in ("poems", "songs")}
    parts = ["fables", *passages]
    for name, passage in passages.items():
        (tmp_path / name).mkdir()
        for number in range(30):
            text = f"{name}, number {number}: {passage if number % 3 else number}. The end of {number}."
            (tmp_path / name / f"{number}.txt").write_text(text)
    tables = "".join(f'[[data.mixture]]\npath = "{name}"\nweight = 1\n' for name in parts)
    config = (
        (tmp_path / "config.toml")
        .read_text()
        .replace('corpus = "fables"', f'token_dir = "data/all"\n{tables}')
    )
    config = config.replace("[training]", '[training]\nrun_dir = "runs/fables"')
    (tmp_path / "config.toml").write_text(config)
    train_in(tmp_path)
    monkeypatch.chdir(tmp_path)
    fresh = " ".join(f"{number} new ways" for number in range(40))
    text = "<|endoftext|>".join([fresh, *(f"{fresh} {passage}" for passage in passages.values())])
    Path("new.txt").write_text(text)
    section = EvalSection(checkpoint="runs/fables", text="new.txt", without_leaks=True)
    scores = evaluate(EvalConfig(eval=section, runtime=RuntimeConfig(device="cpu"))).first.scores
    leaked = scores.num_bytes - scores.without_leaks.num_bytes
    assert leaked[0] == 0
    for found, passage in zip(leaked[1:], passages.values(), strict=True):
        assert 0.9 * len(passage) < found <= len(passage) + 8


def test_a_comparison_without_leaks_is_refused():
    with pytest.raises(ConfigError, match="without_leaks"):
        EvalConfig(eval=EvalSection(compare="another", without_leaks=True))
