from pathlib import Path

import pytest

from transformerlm.checkpoint import Checkpoint
from transformerlm.config import TrainConfig
from transformerlm.errors import CheckpointError
from transformerlm.progress import SilentReporter
from transformerlm.rundir import RunDirectory, check_same_run, differences, environment
from transformerlm.schema import to_dict


class Heard(SilentReporter):
    def __init__(self):
        self.messages = []

    def say(self, message):
        self.messages.append(message)


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a: 1 -> 2"]),
        ({"a": 1}, {}, ["a: 1 -> None"]),
        ({}, {"a": 1}, ["a: None -> 1"]),
        ({"t": {"a": 1, "b": [1]}}, {"t": {"a": 1, "b": [2]}, "c": 3}, ["[t].b: [1] -> [2]", "c: None -> 3"]),
    ],
)
def test_differences_name_every_key_that_changed(old, new, lines):
    assert differences(old, new) == lines


def checkpoint(**changes) -> Checkpoint:
    about = {"identity": {"tokenizer": "t"}, "environment": environment(), "config": to_dict(TrainConfig())}
    return Checkpoint(Path("run/checkpoints/step_00000005"), 5, about | changes, {})


def test_the_same_run_goes_on_without_a_word():
    heard = Heard()
    check_same_run(checkpoint(), {"tokenizer": "t"}, TrainConfig(), heard)
    assert heard.messages == []


def test_another_tokenizer_is_refused():
    with pytest.raises(CheckpointError, match="tokenizer: t -> u"):
        check_same_run(checkpoint(), {"tokenizer": "u"}, TrainConfig(), Heard())


def test_another_environment_is_one_warning():
    heard = Heard()
    before = environment() | {"num_threads": 999, "torch": "1.0"}
    check_same_run(checkpoint(environment=before), {"tokenizer": "t"}, TrainConfig(), heard)
    (message,) = heard.messages
    assert message.startswith("not bit for bit the run that was stopped: torch: 1.0 -> ")
    assert "num_threads: 999 -> " in message


def test_a_checkpoint_knows_its_run(tmp_path):
    assert RunDirectory.of(Checkpoint(tmp_path / "checkpoints" / "step_1", 1, {}, {})).path == tmp_path
