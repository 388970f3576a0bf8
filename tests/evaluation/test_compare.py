import contextlib
import dataclasses
import shutil

import numpy as np
import pytest

from tests.small_models import language_model, save_run
from transformerlm.checkpoint.run_directory import memory_source
from transformerlm.checkpoint.store import open_checkpoint
from transformerlm.config import CorpusConfig, EvalConfig, EvalSection, RuntimeConfig
from transformerlm.errors import CheckpointError, ConfigError, Key
from transformerlm.evaluation.compare import compare, evaluate
from transformerlm.ngrams import NgramIndex
from transformerlm.progress import SilentReporter
from transformerlm.runtime import precision


class Heard(SilentReporter):
    def __init__(self):
        self.messages = []

    def say(self, message):
        self.messages.append(message)


@pytest.fixture
def config(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return EvalConfig(
        eval=EvalSection(checkpoint="runs/fables", compare="runs/fables/checkpoints/step_00000003"),
        data=CorpusConfig(corpus="fables"),
        runtime=RuntimeConfig(device="cpu", dtype="float32"),
    )


def with_eval(config, **values):
    return dataclasses.replace(config, eval=dataclasses.replace(config.eval, **values))


def test_two_models_are_scored_on_the_same_documents(config, capfd):
    found = evaluate(config)
    assert found.text == "the validation part of fables"
    assert [model.checkpoint.step for model in (found.first, found.second)] == [6, 3]
    assert found.first.scores.num_bytes.tolist() == found.second.scores.num_bytes.tolist()
    loss = found.first.scores.loss.value - found.second.scores.loss.value
    assert found.difference.loss.value == pytest.approx(loss, abs=1e-6)
    assert capfd.readouterr() == ("", "")


def test_one_model_has_no_difference(config):
    found = evaluate(with_eval(config, compare=None, max_documents=2))
    assert (found.second, found.difference) == (None, None)
    assert len(found.first.scores) == 2
    assert compare("text", found.first) == dataclasses.replace(found, text="text")


def with_memory(run_dir, folder):
    """Copy a run, with a memory of n-grams; return its folder."""
    shutil.copytree(run_dir, folder)
    checkpoint = open_checkpoint(folder, lambda line: None)
    rows = checkpoint.about["config"]["model"]["vocab_size"]
    source = dict(zip(("made_from", "tokenizer"), memory_source(checkpoint.about["identity"]), strict=True))
    NgramIndex.build([np.arange(100, 200, dtype=np.uint16)], rows, **source).save(folder / "ngrams")
    return folder


def test_memories_are_used_only_if_both_have_one_and_the_names_say_so(config, trained, tmp_path):
    first, second = (with_memory(trained / "runs/fables", tmp_path / name) for name in "ab")
    both = evaluate(with_eval(config, checkpoint=str(first), compare=str(second)))
    assert [model.name for model in (both.first, both.second)] == [
        f"{folder}/checkpoints/step_00000006 (with n-grams)" for folder in (first, second)
    ]
    heard = Heard()
    one = evaluate(with_eval(config, checkpoint=str(first), compare="runs/fables"), heard)
    assert "both are scored without a memory of n-grams, which only one of them has" in heard.messages
    assert one.first.name == f"{first}/checkpoints/step_00000006"
    assert one.first.scores.nats.tolist() == one.second.scores.nats.tolist()
    assert one.first.scores.nats.tolist() != both.first.scores.nats.tolist()
    asked = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, ngram_memory=True))
    heard = Heard()
    with pytest.raises(ConfigError, match=r"\[runtime\].ngram_memory: expected a run that has kept one"):
        evaluate(with_eval(asked, checkpoint=str(first), compare="runs/fables"), heard)
    assert not heard.messages


def test_a_second_model_that_is_not_there_is_reported_before_the_first_is_scored(config):
    class Reporter:
        def say(self, message):
            pytest.fail(message)

        def bar(self, total, unit, description):
            return contextlib.nullcontext(pytest.fail(description))

    with pytest.raises(CheckpointError):
        evaluate(with_eval(config, compare="nowhere"), Reporter())


def test_the_text_is_not_overwritten(config, tmp_path):
    (tmp_path / "a.txt").write_text("A fox.")
    path = str(tmp_path / "a.txt")
    with pytest.raises(ConfigError) as caught:
        evaluate(with_eval(config, text=path, documents_file=path))
    assert caught.value.problems[0].key == Key("eval", "documents_file")


def test_both_are_scored_in_one_precision(config, monkeypatch):
    """Also where another one would be faster for the second."""
    speeds = iter([2.0, 0.5])
    monkeypatch.setattr(
        precision, "measured_once", lambda *arguments: {"float32": 1.0, "bfloat16": 1 / next(speeds)}
    )
    heard = Heard()
    evaluate(dataclasses.replace(config, runtime=RuntimeConfig(device="cpu")), heard)
    assert [", bfloat16" in line for line in heard.messages if " parameters, on " in line] == [True, True]


def test_widths_that_do_not_fit_are_reported_before_anything_is_scored(tmp_path):
    run = save_run(language_model(), tmp_path / "run")
    (tmp_path / "text.txt").write_text("The fox.")
    section = EvalSection(checkpoint=str(run), compare_weights="int8", text=str(tmp_path / "text.txt"))
    heard = Heard()
    with pytest.raises(ConfigError, match="multiples of 32") as error:
        evaluate(EvalConfig(eval=section, runtime=RuntimeConfig(device="cpu", dtype="float32")), heard)
    assert error.value.problems[0].key == Key("eval", "compare_weights")
    assert not [line for line in heard.messages if " parameters, on " in line]


def test_a_model_is_compared_with_itself_in_fewer_bits(trained, monkeypatch):
    monkeypatch.chdir(trained)
    section = EvalSection(checkpoint="runs/fables", compare_weights="bfloat16", max_documents=2)
    runtime = RuntimeConfig(device="cpu", dtype="float32")
    found = evaluate(EvalConfig(eval=section, data=CorpusConfig(corpus="fables"), runtime=runtime))
    assert found.first.checkpoint == found.second.checkpoint
    assert (found.first.name, found.second.name) == (
        str(found.first.checkpoint.path),
        f"{found.first.checkpoint.path} (bfloat16)",
    )
    assert 0 < abs(found.difference.loss.value) < 0.01
