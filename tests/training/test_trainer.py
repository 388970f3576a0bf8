import dataclasses
import math
import os
import signal

import numpy as np
import pytest
import torch

from tests.training.tiny_runs import (
    CONFIG,
    MODEL,
    Heard,
    SignalAt,
    assert_same_weights,
    changed,
    finish,
    make,
    records,
    run,
    without_speed,
)
from transformerlm.checkpoint.store import checkpoint_paths, read_checkpoint
from transformerlm.config import TrainLoggingConfig
from transformerlm.data import TokenData
from transformerlm.errors import CheckpointError, NumericalError
from transformerlm.evaluation.loss import evaluate
from transformerlm.logging import CombinedLogger, MetricsFile, NullLogger, names
from transformerlm.nn import NextTokenLoss, TransformerLM, cross_entropy
from transformerlm.optim import lr_factor
from transformerlm.runtime import ThreadChange
from transformerlm.training.trainer import Trainer


def test_it_learns_and_leaves_a_run_behind(data, tmp_path):
    trainer = run(changed(CONFIG, training={"max_steps": 60}), data, tmp_path)
    losses = [record[names.LOSS] for record in records(tmp_path, names.LOSS)]
    assert losses[0] > 3.9
    assert losses[-1] < 2.5
    assert [record["step"] for record in records(tmp_path, names.LOSS)] == list(range(1, 61))
    assert trainer.status == 0
    last = read_checkpoint(checkpoint_paths(tmp_path / "checkpoints")[-1])
    assert last.step == 60
    validated = records(tmp_path, names.VAL_LOSS)[-1]
    assert last.about["newest_validation"][:2] == [60, validated[names.VAL_LOSS]]


def test_a_step_is_what_plain_torch_would_do(data, tmp_path):
    config = changed(
        CONFIG, optimizer={"max_grad_norm": 0.1}, training={"batch_size": 4, "micro_batch_size": 1}
    )
    trainer = make(config, data, tmp_path)
    torch.manual_seed(config.runtime.seed)
    model = TransformerLM(MODEL)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    for step in range(6):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * lr_factor(step + 1, config.schedule, 12)
        inputs, targets = trainer.sampler.batch(step)
        loss = torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()
        result = trainer.take_step()
        torch.testing.assert_close(result.loss, loss.detach())
        torch.testing.assert_close(result.grad_norm, norm)
    for ours, theirs in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_learning_rate_logged_is_the_one_used(data, tmp_path):
    trainer = make(CONFIG, data, tmp_path)
    peak, minimum = 1e-2, 1e-3
    expected = [peak / 3, 2 * peak / 3, peak]
    expected += [minimum + (peak - minimum) * (1 + math.cos(math.pi * i / 9)) / 2 for i in range(1, 10)]
    used = []
    for _ in range(12):
        result = trainer.take_step()
        used.append({group["lr"] for group in trainer.learner.optimizer.param_groups})
        assert used[-1] == {result.lr}
    assert [lr for (lr,) in used] == pytest.approx(expected)
    assert expected[-1] == pytest.approx(minimum)


@pytest.mark.parametrize(("stop", "dtype"), [(1, "float32"), (5, "bfloat16"), (11, "float32")])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(dtype, stop, data, tmp_path):
    config = changed(CONFIG, runtime={"dtype": dtype})
    straight = run(config, data, tmp_path / "straight")
    stopped = run(config, data, tmp_path / "stopped", signal_at=SignalAt(stop))
    assert (stopped.status, stopped.step) == (143, stop)
    resumed = run(config, data, tmp_path / "stopped")
    assert (resumed.status, resumed.step) == (0, 12)
    left, right = (read_checkpoint(t.run.checkpoints / "step_00000012") for t in (straight, resumed))
    assert left.members == right.members  # sizes and SHA-256 of weights, optimizer, generators, losses
    assert without_speed(records(tmp_path / "straight")) == without_speed(records(tmp_path / "stopped"))


def test_a_signal_in_the_last_step_leaves_a_complete_run(data, tmp_path):
    config = changed(CONFIG, training={"validate_every": 0})
    assert run(config, data, tmp_path, signal_at=SignalAt(12)).status == 143
    assert run(config, data, tmp_path).status == 0
    assert [record["step"] for record in records(tmp_path, names.VAL_LOSS)] == [12]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_the_step_saves_and_says_so_in_the_status(number, data, tmp_path):
    stopped = run(CONFIG, data, tmp_path, signal_at=SignalAt(2, number))
    assert stopped.status == 128 + number
    assert [read_checkpoint(path).step for path in checkpoint_paths(tmp_path / "checkpoints")] == [2]


def test_metrics_logged_after_the_last_checkpoint_are_not_kept_twice(data, tmp_path):
    run(CONFIG, data, tmp_path)
    for path in checkpoint_paths(tmp_path / "checkpoints")[1:]:  # as if killed after step 8's lines were out
        path.rename(tmp_path / path.name)
    before = records(tmp_path, names.LOSS)
    run(CONFIG, data, tmp_path)
    after = records(tmp_path, names.LOSS)
    assert [record["step"] for record in after] == list(range(1, 13))
    assert without_speed(after) == without_speed(before)


def test_accumulation_does_not_change_the_mathematics(data, tmp_path):
    whole = run(CONFIG, data, tmp_path / "whole")
    parts = run(changed(CONFIG, training={"micro_batch_size": 1}), data, tmp_path / "parts")
    for left, right in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_old_checkpoints_go_and_the_best_one_stays(data, tmp_path):
    # A learning rate that rises for ever makes the model worse after a while.
    config = changed(
        CONFIG,
        optimizer={"lr": 3.0},
        schedule={"warmup_steps": 99, "cosine_steps": 100},
        training={"max_steps": 40, "validate_every": 2, "checkpoint_every": 2, "keep_checkpoints": 1},
    )
    trainer = run(config, data, tmp_path)
    losses = {r["step"]: r[names.VAL_LOSS] for r in records(tmp_path, names.VAL_LOSS)}
    best = min(losses, key=losses.__getitem__)
    assert best < 40
    assert trainer.best.step == best
    assert [read_checkpoint(p).step for p in checkpoint_paths(tmp_path / "checkpoints")] == [best, 40]


def test_validation_is_over_the_whole_split_and_in_bits_per_byte(data, tmp_path):
    trainer = run(changed(CONFIG, training={"max_steps": 4}), data, tmp_path)
    (record,) = records(tmp_path, names.VAL_LOSS)
    tokens = torch.from_numpy(data.val.tokens.astype(np.int64))
    nats = 0.0
    with torch.no_grad():
        for start in range(0, 199, 16):
            inputs, targets = tokens[start : start + 16][: 199 - start], tokens[start + 1 : start + 17]
            nats += cross_entropy(trainer.model(inputs[None]), targets[None], "sum").item()
    assert record[names.VAL_LOSS] == pytest.approx(nats / 199, rel=1e-5)
    # two bytes a token in this data
    assert record[names.VAL_BITS_PER_BYTE] == pytest.approx(nats / 199 / math.log(2) / 2, rel=1e-5)
    assert record[names.VAL_PERPLEXITY] == pytest.approx(math.exp(nats / 199), rel=1e-5)


def test_without_validation_data_it_trains_all_the_same(data, tmp_path):
    trainer = run(changed(CONFIG, training={"max_steps": 4}), TokenData(data.train, None), tmp_path)
    assert trainer.step == 4
    assert not records(tmp_path, names.VAL_LOSS)


@pytest.mark.parametrize(
    ("tables", "line"),
    [
        ({"model": {"d_ff": 48}}, "[model].d_ff: 32 -> 48"),
        ({"model": {"tie_embeddings": True}}, "[model].tie_embeddings: False -> True"),
        ({"model": {"num_layers": 1}}, "[model].num_layers: 2 -> 1"),
    ],
)
def test_another_model_does_not_go_on_from_a_checkpoint(tables, line, data, tmp_path):
    config = changed(CONFIG, training={"max_steps": 4})
    run(config, data, tmp_path)
    with pytest.raises(CheckpointError) as caught:
        run(changed(config, **tables), data, tmp_path)
    assert caught.value.lines[0].endswith(line)
    assert "choose another [training].run_dir" in caught.value.lines[-1]


def test_other_data_do_not_go_on_from_a_checkpoint(data, tmp_path):
    config = changed(CONFIG, training={"max_steps": 4})
    run(config, data, tmp_path)
    with pytest.raises(CheckpointError, match=r"train data: \w+ -> \w+"):
        run(config, TokenData(data.val, data.val), tmp_path)


def test_what_may_change_is_said(data, tmp_path):
    run(changed(CONFIG, training={"max_steps": 4}), data, tmp_path)
    heard = Heard()
    trainer = run(changed(CONFIG, training={"max_steps": 6}, optimizer={"lr": 0.5}), data, tmp_path, heard)
    assert trainer.step == 6
    assert heard.messages == [
        "changed since the checkpoint: [optimizer].lr: 0.01 -> 0.5; [training].max_steps: 4 -> 6"
    ]


def test_resume_never_and_must(data, tmp_path):
    config = changed(CONFIG, training={"max_steps": 4})
    with pytest.raises(CheckpointError, match='"must"'):
        run(changed(config, training={"resume": "must"}), data, tmp_path)
    run(changed(config, training={"resume": "never"}), data, tmp_path)
    with pytest.raises(CheckpointError, match='"never"'):
        run(changed(config, training={"resume": "never"}), data, tmp_path)
    assert run(changed(config, training={"resume": "must"}), data, tmp_path).step == 4


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(data, tmp_path):
    trainer = make(changed(CONFIG, training={"log_every": 5, "validate_every": 0}), data, tmp_path)
    with torch.no_grad():
        next(trainer.model.parameters())[0, 0] = float("nan")
    with pytest.raises(
        NumericalError,
        match=r"step 2: not finite: loss nan.*is not: embedding\.weight.*lower \[optimizer\].lr",
    ):
        trainer.train(NullLogger())
    assert checkpoint_paths(tmp_path / "checkpoints") == []


def test_a_broken_number_is_not_saved_on_a_signal_either(data, tmp_path):
    trainer = make(changed(CONFIG, training={"log_every": 12, "validate_every": 0}), data, tmp_path)
    with torch.no_grad():
        trainer.model.final_norm.weight[0] = float("nan")
    trainer.model.final_norm.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(NumericalError, match="step 1: not finite"):
        trainer.train(NullLogger())
    assert checkpoint_paths(tmp_path / "checkpoints") == []


@pytest.mark.parametrize(
    "every", [{"checkpoint_every": 6, "validate_every": 0}, {"checkpoint_every": 0, "validate_every": 6}]
)
def test_the_last_step_is_validated_and_saved_once(every, data, tmp_path):
    config = changed(CONFIG, training={"max_steps": 12, **every})
    run(config, data, tmp_path)
    run(config, data, tmp_path)  # there is nothing left to do, and nothing is done twice
    assert [record["step"] for record in records(tmp_path, names.VAL_LOSS)].count(12) == 1
    last = read_checkpoint(tmp_path / "checkpoints" / "step_00000012")
    assert last.about["newest_validation"][0] == 12


def test_norms_are_logged_where_asked_for_and_change_nothing(data, tmp_path):
    plain = run(changed(CONFIG, training={"max_steps": 4}), data, tmp_path / "plain")
    config = changed(CONFIG, training={"max_steps": 4, "log_every": 2})
    config = dataclasses.replace(config, logging=TrainLoggingConfig(activation_norms=True, weight_norms=True))
    watched = run(config, data, tmp_path / "watched")
    assert_same_weights(plain, watched)
    (_, record) = records(tmp_path / "watched", names.LOSS)
    assert record["step"] == 4
    assert record["norms.activation.blocks.1"] > 0
    assert record["norms.weight.head.weight"] == pytest.approx(
        watched.model.head.weight.norm().item(), rel=1e-5
    )


def test_float16_scales_its_loss(data, tmp_path):
    config = changed(CONFIG, runtime={"dtype": "float16"}, training={"max_steps": 30})
    trainer = run(config, data, tmp_path)
    assert trainer.learner.scaler.is_enabled()
    losses = [record[names.LOSS] for record in records(tmp_path, names.LOSS)]
    assert losses[-1] < losses[0] - 0.5


def test_a_run_goes_on_in_another_precision(data, tmp_path):
    for steps, dtype, words in (
        (4, "float32", None),
        (8, "float16", "the checkpoint has no loss scale: that of float16 starts anew"),
        (10, "float16", None),
        (12, "float32", "the checkpoint's loss scale, of float16, is not needed and left out"),
    ):
        heard = Heard()
        config = changed(CONFIG, runtime={"dtype": dtype}, training={"max_steps": steps})
        trainer = run(config, data, tmp_path, heard)
        assert (trainer.step, trainer.step_guard.num_skipped) == (steps, 0)
        assert [line for line in heard.messages if "loss scale" in line] == ([words] if words else [])


@pytest.mark.slow
@pytest.mark.endurance  # a minute of the C++ compiler each
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_compiled_run_follows_the_plain_one(checkpointing, data, tmp_path):
    heard = Heard()
    plain = run(CONFIG, data, tmp_path / "plain")
    config = changed(CONFIG, runtime={"compile": True, "activation_checkpointing": checkpointing})
    fast = run(config, data, tmp_path / "compiled", heard)
    assert heard.messages == []
    for left, right in zip(plain.model.parameters(), fast.model.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-3)
    assert plain.model.state_dict().keys() == fast.model.state_dict().keys()


@pytest.mark.gpu
def test_training_on_a_gpu(data, tmp_path):
    config = changed(CONFIG, runtime={"device": "cuda", "dtype": "bfloat16"}, training={"max_steps": 40})
    trainer = run(config, data, tmp_path)
    found = evaluate(
        NextTokenLoss(trainer.model),
        [trainer.sampler.batch(0, device="cuda")],
        trainer.runtime,
        tokens_per_byte=1.0,
    )
    assert found.loss < 3


class FakeTime:
    """Time that passes only where it is told to: in forward passes, and where checkpoints are written."""

    def __init__(self, step_seconds=1.0, validating=0.0, saving=0.0):
        self.seconds, self.step_seconds, self.validating, self.saving = 0.0, step_seconds, validating, saving

    def __call__(self):
        return self.seconds

    def watch(self, trainer):
        batches = math.ceil(trainer.data.val.num_tokens / 16 / trainer.learner.micro_batches.size)

        def pass_by(norm, inputs, output):
            self.seconds += self.step_seconds if norm.training else self.validating / batches

        trainer.model.final_norm.register_forward_hook(pass_by)
        return self

    def logger(self):
        outer = self

        class Saving(NullLogger):
            def log_artifact(self, path, name, kind):
                outer.seconds += outer.saving

        return Saving()


TIMED = changed(
    CONFIG,
    schedule={"warmup_steps": 5},
    training={"max_steps": None, "max_time": "100s", "validate_every": 0, "checkpoint_every": 0},
)


def timed(config, data, path, time, signal_at=None) -> Trainer:
    trainer = make(config, data, path, now=time)
    time.watch(trainer)
    metrics = MetricsFile(path / "metrics.jsonl")
    metrics.truncate_after(trainer.step)
    loggers = [metrics, time.logger(), signal_at or NullLogger()]
    with CombinedLogger(loggers) as logger:
        trainer.status = trainer.train(logger)
    return trainer


@pytest.mark.parametrize("name", ["cosine", "wsd"])
def test_a_run_that_is_given_a_time_ends_then_and_annealed(name, data, tmp_path):
    config = changed(
        TIMED,
        schedule={"name": name},
        training={"validate_every": 20, "checkpoint_every": 10, "log_every": 7},
    )
    time = FakeTime(validating=3.0, saving=0.5)
    trainer = timed(config, data, tmp_path, time)
    trial = 3.0 / 4  # one of four batches
    assert time.seconds == pytest.approx(100, abs=1)
    found = records(tmp_path, names.LOSS)
    assert found[-1]["step"] == trainer.step
    assert found[-1][names.LR] == pytest.approx(1e-3, abs=9e-3 / 17 / 2)  # half a step of the decay
    rates = [record[names.LR] for record in found]
    assert rates == sorted(rates[:1]) + sorted(rates[1:], reverse=True)
    last = read_checkpoint(checkpoint_paths(tmp_path / "checkpoints")[-1])
    assert last.about["newest_validation"][0] == last.step == trainer.step
    assert found[0][names.SECONDS_REMAINING] == pytest.approx(93 - 3 * trial, abs=1e-6)


@pytest.mark.slow
def test_a_timed_run_goes_on_with_its_time_and_with_a_longer_one(data, tmp_path):
    time = FakeTime(saving=0.25)
    stopped = timed(TIMED, data, tmp_path, time, SignalAt(40))
    assert (stopped.status, stopped.step) == (143, 40)
    time.seconds += 9999
    started = time.seconds
    resumed = timed(TIMED, data, tmp_path, time)
    assert resumed.status == 0
    assert resumed.step == 100
    assert time.seconds - started == pytest.approx(60, abs=1)
    again = timed(TIMED, data, tmp_path, time)
    assert (again.status, again.step) == (0, 100)
    longer = timed(changed(TIMED, training={"max_time": "200s"}), data, tmp_path, time)
    assert longer.step == pytest.approx(200, abs=1)
    rates = {r["step"]: r[names.LR] for r in records(tmp_path, names.LOSS)}
    assert rates[100] == pytest.approx(1e-3, rel=0.01)
    half_way = 1e-2 * lr_factor(101, TIMED.schedule, longer.step)
    assert rates[101] == pytest.approx(half_way, rel=0.02)
    assert rates[longer.step] == pytest.approx(1e-3, rel=0.01)


@pytest.mark.slow
def test_in_real_time(data, tmp_path):
    config = changed(TIMED, training={"max_time": "2s", "validate_every": 100, "log_every": 50})
    trainer = finish(make(config, data, tmp_path), tmp_path)
    assert trainer.clock.elapsed > 1.5
    assert records(tmp_path, names.LOSS)[-1][names.LR] < CONFIG.optimizer.lr / 2


OVERFITTED = changed(
    CONFIG,
    optimizer={"lr": 3.0},  # the model becomes worse after a while
    schedule={"name": "wsd", "warmup_steps": 2, "decay_fraction": 0.2},
    training={"max_steps": 200, "validate_every": 2, "checkpoint_every": 7, "patience": 3},
)


def test_it_ends_early_where_validations_are_no_better(data, tmp_path):
    heard = Heard()
    trainer = run(OVERFITTED, data, tmp_path, heard)
    losses = {r["step"]: r[names.VAL_LOSS] for r in records(tmp_path, names.VAL_LOSS)}
    begin, _, last = trainer.budget.anneal
    until_then = {step: loss for step, loss in losses.items() if step <= begin}
    best = min(until_then, key=until_then.__getitem__)
    assert begin == best + 2 * 3  # three validations later
    assert trainer.step == last == begin + math.ceil(begin / 4)  # a fifth of the steps until then
    rates = {r["step"]: r[names.LR] for r in records(tmp_path, names.LOSS)}
    assert rates[begin] == pytest.approx(3.0)
    assert rates[last] == pytest.approx(0.3)
    # The fall of the learning rate may have found a better one.
    best_of_all = min(losses, key=losses.__getitem__)
    assert (trainer.best.step, trainer.since_best > 0) == (best_of_all, last > best_of_all)
    what = f"no lower than at step {best} in 3 validations: the learning rate falls from now on"
    assert heard.messages == [f"validation loss: {what}, until step {last} at the latest"]
    assert read_checkpoint(checkpoint_paths(trainer.run.checkpoints)[-1]).about["is_complete"] is True


@pytest.mark.parametrize("after", [-1, 1])
def test_an_early_end_goes_on_after_a_stop_to_the_same_bits(after, data, tmp_path):
    straight = run(OVERFITTED, data, tmp_path / "straight")
    at = SignalAt(straight.budget.anneal.step + after)
    assert run(OVERFITTED, data, tmp_path / "stopped", signal_at=at).status == 143
    resumed = run(OVERFITTED, data, tmp_path / "stopped")
    left, right = (read_checkpoint(checkpoint_paths(t.run.checkpoints)[-1]) for t in (straight, resumed))
    assert (left.step, left.members) == (right.step, right.members)
    # It is complete; a larger budget trains on.
    assert run(OVERFITTED, data, tmp_path / "stopped").step == straight.step
    larger = changed(OVERFITTED, training={"max_steps": straight.step + 100, "patience": None})
    stopped = run(larger, data, tmp_path / "stopped", signal_at=SignalAt(straight.step + 3))
    assert stopped.step == straight.step + 3
    newest = read_checkpoint(checkpoint_paths(stopped.run.checkpoints)[-1])
    assert newest.about["is_complete"] is False


def test_passes_are_a_budget_too(data, tmp_path):
    passes = {"max_steps": None, "max_passes": 12.5 * 64 / 1000}  # twelve steps and a half
    assert run(changed(CONFIG, training=passes), data, tmp_path).step == 12


def test_a_run_that_was_complete_before_it_was_known_to_be_is_saved_as_such(data, tmp_path):
    stopped = run(CONFIG, data, tmp_path, signal_at=SignalAt(8))
    shorter = run(changed(CONFIG, training={"max_steps": 8}), data, tmp_path)
    assert (stopped.step, shorter.step) == (8, 8)
    assert read_checkpoint(checkpoint_paths(tmp_path / "checkpoints")[-1]).about["is_complete"] is True


def test_tokens_are_a_budget_too(data, tmp_path):
    tokens = changed(CONFIG, training={"max_steps": None, "max_tokens": 12 * 4 * 16})
    assert_same_weights(run(CONFIG, data, tmp_path / "steps"), run(tokens, data, tmp_path / "tokens"))


@pytest.mark.parametrize(("size", "expected"), [("auto", 4), (2, 2)])
def test_a_micro_batch_is_what_fits_or_what_was_asked_for(size, expected, data, tmp_path):
    trainer = make(changed(CONFIG, training={"micro_batch_size": size}), data, tmp_path)
    assert trainer.learner.micro_batches.size == expected


def take_memory_away(trainer, step, above, training=True):
    """From `step` on there is no memory in the last block's forward pass over more than `above` sequences."""

    def allocate(block, inputs):
        if trainer.step + 1 >= step and len(inputs[0]) > above and block.training == training:
            torch.empty(2**60, dtype=torch.uint8)

    trainer.model.blocks[1].register_forward_pre_hook(allocate)


@pytest.mark.slow
def test_where_memory_runs_out_it_goes_on_with_smaller_micro_batches(data, tmp_path):
    heard = Heard()
    config = dataclasses.replace(CONFIG, logging=TrainLoggingConfig(activation_norms=True))
    failing = make(config, data, tmp_path / "failing", heard)
    take_memory_away(failing, step=6, above=1)
    finish(failing, tmp_path / "failing")
    assert heard.messages == [
        "out of memory: going on with 2 sequences at a time instead of 4; the mathematics is the same",
        "out of memory: going on with 1 sequences at a time instead of 2; the mathematics is the same",
    ]
    # Whole for five steps and one by one from then on: what a run does that changes there on purpose.
    expected = make(config, data, tmp_path / "expected")
    forward = expected.learner.loss.register_forward_pre_hook(
        lambda *_: expected.learner.micro_batches.restrict(1 if expected.step + 1 >= 5 else None)
    )
    finish(expected, tmp_path / "expected")
    forward.remove()
    left, right = (records(tmp_path / name, names.LOSS) for name in ("failing", "expected"))
    assert without_speed(left) == without_speed(right)
    assert_same_weights(failing, expected)
    whole = run(config, data, tmp_path / "whole")
    # float32's rounding, which is that of the losses: micro-batches and threads add up in another order.
    losses, others = (
        [r[names.LOSS] for r in found] for found in (left, records(tmp_path / "whole", names.LOSS))
    )
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(others))
    torch.testing.assert_close(failing.model.state_dict(), whole.model.state_dict(), atol=1e-4, rtol=1e-3)


def test_memory_that_runs_out_while_validating_does_no_harm(data, tmp_path):
    failing = make(CONFIG, data, tmp_path / "failing")
    take_memory_away(failing, step=1, above=2, training=False)
    finish(failing, tmp_path / "failing")
    assert failing.learner.micro_batches.size == 2
    assert failing.model.training
    run(CONFIG, data, tmp_path / "straight")
    left, right = (records(tmp_path / name, names.VAL_LOSS) for name in ("failing", "straight"))
    torch.testing.assert_close([r[names.VAL_LOSS] for r in left], [r[names.VAL_LOSS] for r in right])


@pytest.mark.slow
def test_a_resumed_run_remembers_what_memory_was_enough_for(data, tmp_path):
    straight = make(CONFIG, data, tmp_path / "straight")
    take_memory_away(straight, step=3, above=2)
    finish(straight, tmp_path / "straight")
    stopped = make(CONFIG, data, tmp_path / "stopped")
    take_memory_away(stopped, step=3, above=2)
    finish(stopped, tmp_path / "stopped", SignalAt(6))
    heard = Heard()
    resumed = run(CONFIG, data, tmp_path / "stopped", heard)
    assert heard.messages == []
    assert resumed.learner.micro_batches.size == 2
    assert_same_weights(straight, resumed)


def test_another_micro_batch_is_said(data, tmp_path):
    run(changed(CONFIG, training={"max_steps": 4}), data, tmp_path)
    heard = Heard()
    run(changed(CONFIG, training={"max_steps": 4, "micro_batch_size": 2}), data, tmp_path, heard)
    assert heard.messages == [
        "changed since the checkpoint: [training].micro_batch_size: auto -> 2",
        "micro-batches of 4 -> 2 sequences: not to the same last bits",
    ]


@pytest.mark.parametrize("kernels", [False, True])
def test_activation_checkpointing_changes_no_bit_of_a_run(kernels, data, tmp_path):
    config = changed(CONFIG, runtime={"kernels": kernels, "dtype": "bfloat16"})
    plain = run(config, data, tmp_path / "plain")
    config = changed(config, runtime={"activation_checkpointing": True})
    assert_same_weights(plain, run(config, data, tmp_path / "checkpointed"))


def test_how_long_steps_wait_for_their_data_is_logged(data, tmp_path):
    time = FakeTime(step_seconds=5.0)
    trainer = make(changed(CONFIG, training={"max_steps": 8}), data, tmp_path, now=time)
    batch = trainer.sampler.batch

    def slow(*args):
        time.seconds += 3
        return batch(*args)

    trainer.sampler.batch = slow
    time.watch(trainer)
    finish(trainer, tmp_path)
    shares = [record[names.DATA_WAIT_FRACTION] for record in records(tmp_path, names.LOSS)]
    assert shares[3:] == [3 / 8] * 5  # the first steps are counted as a whole


class Adapter:
    """Changes the number of threads after two of the steps."""

    def __init__(self):
        self.seen = []

    def after_steps(self, steps, seconds):
        self.seen.append((steps, seconds))
        changes = {3: ThreadChange(2, 1, 1.0, is_lasting=False), 4: ThreadChange(2, 1, 1.0, is_lasting=True)}
        return changes.get(steps)


def test_a_change_of_the_number_of_threads_is_recorded(data, tmp_path):
    heard, adapter = Heard(), Adapter()
    trainer = make(changed(CONFIG, training={"max_steps": 6, "validate_every": 2}), data, tmp_path, heard)
    trainer.threads = adapter
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        trainer.train(CombinedLogger([metrics]))
    recorded = records(tmp_path, names.NUM_THREADS)
    assert [(record["step"], record[names.NUM_THREADS]) for record in recorded] == [(3, 1), (4, 1)]
    said = [message for message in heard.messages if "threads" in message]
    assert said == ["step 4: threads: 2 -> 1, since other work keeps 1.0 processors busy"]
    assert [steps for steps, _ in adapter.seen] == [1, 2, 3, 4, 5, 6]
    assert adapter.seen[-1][1] <= trainer.clock.lap().seconds  # validating and saving do not count
