import pytest
import torch

from tests.training.tiny_runs import CONFIG, Heard, changed, run
from transformerlm.checkpoint.run_directory import RunDirectory
from transformerlm.errors import CheckpointError
from transformerlm.runtime import prepare_process
from transformerlm.training import learner
from transformerlm.training.trainer import Trainer
from transformerlm.training.verify_resume import state_differences, verify_resume


def left_in(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def prove(data, path, steps, config=CONFIG):
    heard = Heard()

    def fresh(run_directory):
        runtime = prepare_process(config.runtime)
        return Trainer(config, data, run_directory, runtime, heard, lambda: 0.0)

    verify_resume(fresh, RunDirectory(path), steps)
    return heard.messages[-1]


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_stopped_run_goes_on_to_the_same_bits_and_says_so(steps, data, tmp_path):
    run(changed(CONFIG, training={"max_steps": 4}, schedule={"cosine_steps": 12}), data, tmp_path)
    before = left_in(tmp_path)
    message = prove(data, tmp_path, steps, changed(CONFIG, schedule={"cosine_steps": 12}))
    what = "the same bits of weights, optimizer, random numbers and losses"
    where = f"step_00000004: {steps} steps, straight and with a stop after {steps // 2}"
    assert message.endswith(f"{where}: {what}")
    assert left_in(tmp_path) == before


def test_what_the_run_has_recorded_after_its_checkpoint_is_compared_too(data, tmp_path):
    run(CONFIG, data, tmp_path)
    for step in ("12", "10"):
        for path in (tmp_path / "checkpoints" / f"step_000000{step}").iterdir():
            path.unlink()
        (tmp_path / "checkpoints" / f"step_000000{step}").rmdir()
    assert "; 4 losses as the run has recorded them" in prove(data, tmp_path, 4)
    metrics = tmp_path / "metrics.jsonl"
    lines = metrics.read_text().splitlines()
    (line,) = [line for line in lines if line.startswith('{"step": 10, "metrics.loss"')]
    metrics.write_text(
        metrics.read_text().replace(line, line.replace('"metrics.loss": ', '"metrics.loss": 1'))
    )
    with pytest.raises(CheckpointError, match=r"step 10: loss .* -> .*metrics\.jsonl"):
        prove(data, tmp_path, 4)


def test_a_resume_that_forgets_is_found_out(data, tmp_path, monkeypatch):
    run(changed(CONFIG, training={"max_steps": 4}, schedule={"cosine_steps": 12}), data, tmp_path)
    monkeypatch.setattr(learner, "load_optimizer_state", lambda optimizer, state, name: None)
    with pytest.raises(CheckpointError, match="expected the same bits") as caught:
        prove(data, tmp_path, 4, changed(CONFIG, schedule={"cosine_steps": 12}))
    assert any("training.optimizer" in line or "model." in line for line in caught.value.lines[1:])


def test_a_run_without_a_checkpoint_has_nothing_to_prove(data, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint to go on from"):
        prove(data, tmp_path, 2)


def test_differences_of_states_name_the_tensor_and_how_far():
    one = {"a": torch.ones(3), "b": [1, torch.zeros(2)]}
    other = {"a": torch.ones(3), "b": [2, torch.tensor([0.0, 0.25])]}
    assert state_differences(one, one) == []
    assert state_differences(one, other) == [
        "b.1: differs by at most 0.25",
        "numbers beside the tensors differ",
    ]
