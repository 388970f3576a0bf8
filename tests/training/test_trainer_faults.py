"""A Trainer whose numbers go wrong, whose disk is full, and which is stopped after every step."""

import errno
import os
import shutil

import pytest
import torch

from tests.training.tiny_runs import (
    CONFIG,
    Heard,
    assert_same_weights,
    changed,
    finish,
    make,
    records,
    run,
    without_speed,
)
from transformerlm.checkpoint import run_directory
from transformerlm.checkpoint.store import checkpoint_paths, read_checkpoint
from transformerlm.errors import NumericalError, OutputError
from transformerlm.logging import NullLogger, names
from transformerlm.storage.tree import flatten
from transformerlm.training.trainer import Trainer

PLACES = ["loss", "gradient", "weight"]


def with_fault(trainer: Trainer, place: str, batch: int, times: int = 1) -> Trainer:
    """A trainer to which this batch does harm, the first so many times it is met."""
    unlucky, _ = trainer.sampler.batch(batch, 0, 1, trainer.runtime.device)
    sound, left = trainer.learner.accumulate_gradients, [times]

    def accumulate_gradients(inputs, targets, *rest, **options):
        is_unlucky = left[0] > 0 and torch.equal(inputs, unlucky)
        left[0] -= is_unlucky
        parameter = trainer.model.blocks[1].feedforward.w2.weight
        if is_unlucky and place == "weight":
            with torch.no_grad():
                parameter[0, 0] = float("nan")
        loss, norms = sound(inputs, targets, *rest, **options)
        if is_unlucky and place == "gradient":
            parameter.grad[0, 0] = float("inf")
        return loss * float("nan") if is_unlucky and place == "loss" else loss, norms

    trainer.learner.accumulate_gradients = accumulate_gradients
    return trainer


def tensors_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    state = trainer.state()
    tensors, _ = flatten({"model": state.weights, "training": state.training()})
    return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("place", PLACES)
def test_a_fault_is_found_before_the_optimizer_and_named(place, data, tmp_path):
    trainer = with_fault(make(CONFIG, data, tmp_path), place, batch=5)
    for _ in range(5):
        trainer.take_step()
    before = tensors_of(trainer)
    trainer.take_step()
    after = tensors_of(trainer)
    bad = {name for name, tensor in before.items() if not tensor.equal(after[name])}
    assert bad == ({"model.blocks.1.feedforward.w2.weight"} if place == "weight" else set())

    trainer = with_fault(make(CONFIG, data, tmp_path), place, batch=5)
    blamed = {
        "loss": "no parameter and no gradient",
        "gradient": r"the gradient of blocks\.1\.feedforward\.w2\.weight",
        "weight": r"blocks\.1\.feedforward\.w2\.weight",
    }[place]
    with pytest.raises(
        NumericalError, match=rf"^step 6: not finite: loss .*the first.*: {blamed}; "
    ) as caught:
        trainer.train(NullLogger())
    assert len(caught.value.lines) == 1
    assert caught.value.exit_status == 6
    assert [path.name for path in checkpoint_paths(tmp_path / "checkpoints")] == [
        "step_00000004",
        "step_00000005",
    ]


@pytest.mark.parametrize("place", ["loss", "gradient"])
def test_a_faulty_step_can_be_skipped(place, data, tmp_path):
    heard = Heard()
    config = changed(CONFIG, training={"on_nonfinite": "skip"})
    trainer = finish(with_fault(make(config, data, tmp_path / "a", heard), place, batch=5), tmp_path / "a")
    assert (trainer.step, trainer.step_guard.num_skipped) == (12, 1)
    assert len([line for line in heard.messages if line.startswith("warning: step 6: not finite: ")]) == 1
    assert [record[names.SKIPPED_STEPS] for record in records(tmp_path / "a", names.LOSS)] == [0] * 5 + [
        1
    ] * 7

    # By hand: the same steps, without the optimizer's in the sixth.
    other = make(config, data, tmp_path / "b")
    for step in range(12):
        if step == 5:
            other.step += 1
        else:
            other.take_step()
    assert_same_weights(trainer, other)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_gradient_that_no_loss_scale_makes_finite_is_a_fault(policy, data, tmp_path):
    training = {"max_steps": 40, "on_nonfinite": policy, "max_faults": 3, "validate_every": 0}
    config = changed(CONFIG, training=training, runtime={"dtype": "float16"})
    trainer = make(config, data, tmp_path)
    trainer.model.embedding.weight.register_hook(lambda grad: grad * float("nan"))
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    last = 17 if policy == "stop" else 19  # 16 halvings of 65,536 lead to the lowest scale, 1
    with pytest.raises(
        NumericalError, match=rf"^step {last}: .* norm nan, loss scale 1; .*: the gradient of embedding"
    ):
        trainer.train(NullLogger())
    assert trainer.step_guard.num_skipped == last - 1
    assert all(map(torch.equal, before, trainer.model.parameters()))


def test_a_gradient_that_overflows_costs_steps_and_half_the_loss_scale(data, tmp_path):
    config = changed(CONFIG, runtime={"dtype": "float16"})
    trainer = with_fault(make(config, data, tmp_path), "gradient", batch=5)
    finish(trainer, tmp_path)
    assert (trainer.step, trainer.step_guard.num_skipped) == (12, 1)
    assert trainer.learner.scaler.get_scale() == 2**15
    assert [record[names.SKIPPED_STEPS] for record in records(tmp_path, names.LOSS)] == [0] * 5 + [1] * 7


def test_too_many_faults_in_a_row_end_the_run(data, tmp_path):
    config = changed(
        CONFIG, training={"on_nonfinite": "skip", "max_faults": 3, "checkpoint_every": 0, "validate_every": 0}
    )
    trainer = with_fault(make(config, data, tmp_path), "weight", batch=5)
    with pytest.raises(NumericalError, match=r"^step 8: .*max_faults = 3"):
        trainer.train(NullLogger())
    assert checkpoint_paths(tmp_path / "checkpoints") == []


@pytest.mark.parametrize(("place", "batch"), [("loss", 0), ("gradient", 5), ("weight", 11)])
def test_a_run_can_go_back_and_leave_the_batches_out(place, batch, data, tmp_path):
    heard = Heard()
    config = changed(CONFIG, training={"on_nonfinite": "rollback", "validate_every": 0})
    trainer = finish(with_fault(make(config, data, tmp_path / "a", heard), place, batch), tmp_path / "a")
    saved = batch // 4 * 4
    left_out = batch + 1 - saved
    assert (trainer.step, trainer.step_guard.num_left_out, trainer.step_guard.num_rollbacks) == (
        12,
        left_out,
        1,
    )
    assert f"back to step {saved}; {left_out} batches are left out" in heard.messages
    assert [record["step"] for record in records(tmp_path / "a", names.LOSS)] == list(range(1, 13))

    other = make(changed(config, training={"on_nonfinite": "stop"}), data, tmp_path / "b")
    for step in range(12):
        other.step_guard.num_left_out = left_out if step >= saved else 0
        other.take_step()
    assert_same_weights(trainer, other)


@pytest.mark.slow
def test_what_was_left_out_stays_so_when_the_run_is_resumed(data, tmp_path):
    config = changed(CONFIG, training={"on_nonfinite": "rollback"})
    straight = finish(with_fault(make(config, data, tmp_path / "a"), "loss", 5), tmp_path / "a")
    stopped = with_fault(make(config, data, tmp_path / "b"), "loss", 5)
    stopped.run.path.mkdir()
    while stopped.step < 9:
        stopped.take_step()
        stopped.decide_steps(NullLogger(), all_of_them=True)
        if stopped.step in (4, 5, 8, 9):
            stopped.save(NullLogger())
    resumed = finish(make(config, data, tmp_path / "b"), tmp_path / "b")
    assert resumed.step_guard.num_left_out == straight.step_guard.num_left_out > 0
    assert_same_weights(straight, resumed)


def test_going_back_for_ever_is_no_way(data, tmp_path):
    config = changed(CONFIG, training={"on_nonfinite": "rollback", "max_faults": 2, "validate_every": 0})
    trainer = make(config, data, tmp_path)
    sound = trainer.learner.accumulate_gradients

    def broken(*arguments):
        loss, norms = sound(*arguments)
        return loss * float("nan"), norms

    trainer.learner.accumulate_gradients = broken
    with pytest.raises(NumericalError, match="max_faults = 2"):
        trainer.train(NullLogger())
    assert [path.name for path in checkpoint_paths(tmp_path / "checkpoints")] == ["step_00000000"]


def test_a_weight_that_the_last_step_has_broken_is_not_saved(data, tmp_path):
    trainer = make(changed(CONFIG, training={"validate_every": 0}), data, tmp_path)
    take_step = trainer.take_step

    def breaking():
        result = take_step()
        if trainer.step == 8:
            with torch.no_grad():
                trainer.model.head.weight[3, 3] = float("inf")
        return result

    trainer.take_step = breaking
    with pytest.raises(NumericalError, match=r"^step 8: not finite: head\.weight; no checkpoint has it$"):
        trainer.train(NullLogger())
    assert [path.name for path in checkpoint_paths(tmp_path / "checkpoints")] == ["step_00000004"]


@pytest.mark.slow
def test_spikes_are_counted_and_logged_also_by_a_resumed_run(data, tmp_path):
    config = changed(
        CONFIG,
        training={"max_steps": 60, "checkpoint_every": 50, "skip_spikes": True, "spike_deviations": 2.5},
    )

    def spiky(path):
        trainer = make(config, data, path)
        sound = trainer.learner.accumulate_gradients

        def accumulate_gradients(*arguments):
            loss, norms = sound(*arguments)
            return (loss + 9 if trainer.step in (40, 55) else loss), norms

        trainer.learner.accumulate_gradients = accumulate_gradients
        return trainer

    straight = finish(spiky(tmp_path / "a"), tmp_path / "a")
    stopped = spiky(tmp_path / "b")
    while stopped.step < 50:
        stopped.take_step()
    stopped.save(NullLogger())
    resumed = finish(spiky(tmp_path / "b"), tmp_path / "b")
    assert straight.step_guard.state() == resumed.step_guard.state()
    assert straight.step_guard.num_spikes == straight.step_guard.num_skipped >= 2
    assert records(tmp_path / "a", names.SPIKES)[-1][names.SPIKES] == straight.step_guard.num_spikes
    assert_same_weights(straight, resumed)


def test_a_save_that_fails_under_way_is_a_warning_and_the_last_one_an_error(data, tmp_path, monkeypatch):
    written, refused = [], [4, 5]
    sound = run_directory.write_checkpoint

    def write_checkpoint(directory, step, *rest):
        if step in refused:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(directory))
        written.append(step)
        return sound(directory, step, *rest)

    monkeypatch.setattr(run_directory, "write_checkpoint", write_checkpoint)
    heard = Heard()
    trainer = run(CONFIG, data, tmp_path / "a", heard)
    assert (trainer.status, trainer.step, written) == (0, 12, [8, 10, 12])
    warnings = [line for line in heard.messages if line.startswith("warning: ")]
    assert [line.partition(":")[2][:21] for line in warnings] == [
        " step 4 is not saved:",
        " step 5 is not saved:",
    ]
    refused += [12]
    with pytest.raises(OutputError, match=r"[Qq]uota"):
        run(CONFIG, data, tmp_path / "b")
    assert written == [8, 10, 12, 8, 10]


def test_a_run_whose_folder_goes_away_says_so(data, tmp_path):
    heard = Heard()
    trainer = make(CONFIG, data, tmp_path / "run", heard)
    take_step = trainer.take_step

    def losing():
        result = take_step()
        if trainer.step == 6:
            shutil.rmtree(tmp_path / "run")
        return result

    trainer.take_step = losing
    with pytest.raises(OutputError, match="run: expected the run's folder, which has been removed"):
        trainer.train(NullLogger())
    assert any(line.startswith("warning: step 8 is not saved: ") for line in heard.messages)
    assert not (tmp_path / "run").exists()


NUM_STEPS = 40


def everything(trainer: Trainer) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in tensors_of(trainer).items()}


@pytest.fixture(scope="module")
def saved_everywhere(data, tmp_path_factory):
    """A run that saved after each of its 40 steps, before the first one too."""
    path = tmp_path_factory.mktemp("saved")
    config = changed(
        CONFIG,
        training={
            "max_steps": NUM_STEPS,
            "checkpoint_every": 1,
            "keep_checkpoints": 99,
            "on_nonfinite": "rollback",
        },
    )
    return config, path, run(config, data, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    [
        step if step in (0, 1, 7, 25, NUM_STEPS) else pytest.param(step, marks=pytest.mark.endurance)
        for step in range(NUM_STEPS + 1)
    ],
)
def test_from_whichever_step_a_run_goes_on_it_comes_to_the_same_bits(step, saved_everywhere, data, tmp_path):
    config, path, straight = saved_everywhere
    source = path / "checkpoints" / f"step_{step:08d}"
    shutil.copytree(source, tmp_path / "checkpoints" / source.name)
    shutil.copy(path / "metrics.jsonl", tmp_path)
    quiet = changed(config, training={"checkpoint_every": 0, "on_nonfinite": "rollback"})
    trainer = make(quiet, data, tmp_path)
    assert trainer.step == step
    finish(trainer, tmp_path)
    assert everything(trainer) == everything(straight)
    assert without_speed(records(tmp_path)) == without_speed(records(path))


@pytest.mark.slow
def test_a_chain_of_ten_resumes_comes_to_the_same_bits(saved_everywhere, data, tmp_path):
    config, _, straight = saved_everywhere
    config = changed(config, training={"checkpoint_every": 0})
    for stop in range(3, 33, 3):
        trainer = make(config, data, tmp_path)
        while trainer.step < stop:
            trainer.take_step()
        trainer.save(NullLogger())
        assert read_checkpoint(tmp_path / "checkpoints" / f"step_{stop:08d}").step == stop
    last = finish(make(config, data, tmp_path), tmp_path)
    assert everything(last) == everything(straight)
