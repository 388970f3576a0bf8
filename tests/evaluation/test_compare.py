import contextlib
import dataclasses

import pytest

from tests.small_models import language_model, save_run
from transformerlm.config import CorpusConfig, EvalConfig, EvalSection, RuntimeConfig
from transformerlm.errors import CheckpointError, ConfigError, Key
from transformerlm.evaluation.compare import compare, evaluate
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
