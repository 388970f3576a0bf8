"""Steps that are decided on the device, of which the host learns a step later; here on the CPU."""

import dataclasses
import math
import re
import time

import pytest
import torch
from torch.testing import assert_close

from tests.training.host_syncs import HostSyncError, no_host_syncs
from tests.training.test_trainer_faults import with_fault
from tests.training.tiny_runs import CONFIG, Heard, Recorder, changed, finish, records, without_speed
from transformerlm.checkpoint.run_directory import RunDirectory
from transformerlm.checkpoint.store import checkpoint_paths
from transformerlm.errors import NumericalError
from transformerlm.logging import NullLogger, names
from transformerlm.progress import SilentReporter
from transformerlm.runtime import HostCopy, Runtime
from transformerlm.training import step_guard
from transformerlm.training.trainer import Trainer

# With a large eps no element whose gradient is nearly zero moves by the whole learning rate, to the side
# that its last bits decide: runs that compute the same in another order stay close.
PLAIN = changed(CONFIG, runtime={"kernels": False}, optimizer={"eps": 1e-3})


def make(config, data, path, reporter=None, *, asynchronous=True) -> Trainer:
    reporter, run = reporter or SilentReporter(), RunDirectory(path)
    found = run.resume_point(config.training.resume, reporter)
    torch.manual_seed(config.runtime.seed)
    runtime = dataclasses.replace(Runtime.from_config(config.runtime), asynchronous=asynchronous)
    trainer = Trainer(config, data, run, runtime, reporter, time.perf_counter)
    if found:
        trainer.restore(found)
    return trainer


def words(line: str) -> str:
    """A message without the last digits of its numbers."""
    return re.sub(r"(\.\d{4})\d+", r"\1", line)


def assert_close_weights(left, right):
    assert_close(dict(left.model.named_parameters()), dict(right.model.named_parameters()))


@pytest.mark.parametrize(("name", "dtype"), [("adamw", "float16"), ("muon", "float32")])
def test_nothing_waits_for_the_device_but_where_a_step_is_logged(name, dtype, data, tmp_path, monkeypatch):
    config = changed(
        PLAIN,
        optimizer={"name": name},
        runtime={"dtype": dtype},
        training={"max_steps": 6, "log_every": 3, "validate_every": 0, "checkpoint_every": 0}
        | {"micro_batch_size": 2},
    )
    trainer = make(config, data, tmp_path)
    take_step, read, newest = trainer.take_step, HostCopy.read, []

    def watched_step():
        newest[:] = [trainer.step + 1]
        with no_host_syncs():
            return take_step()

    def watched_read(copy):
        seen.append((trainer.step, len(trainer.undecided)))
        return read(copy)

    seen: list[tuple[int, int]] = []
    monkeypatch.setattr(HostCopy, "read", watched_read)
    trainer.take_step = watched_step
    recorder = Recorder()
    assert trainer.train(recorder) == 0
    # Read while a later step was in the queue, but for the steps that are logged.
    waits = [step for step, num_waiting in seen if num_waiting == 0]
    assert waits == [3, 6]
    assert len(seen) == 6
    assert all(math.isfinite(record[names.LOSS]) for record in recorder.records if names.LOSS in record)


def test_the_check_for_host_syncs_finds_them():
    for wait in (
        lambda x: x.item(),
        lambda x: x.tolist(),
        bool,
        float,
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
    ):
        with pytest.raises(HostSyncError), no_host_syncs():
            wait(torch.ones(1) + 1)


def test_a_step_that_is_decided_on_the_cpu_does_wait(data, tmp_path):
    trainer = make(PLAIN, data, tmp_path, asynchronous=False)
    with pytest.raises(HostSyncError), no_host_syncs():
        trainer.take_step()


FAULTS = [("loss", 0), ("gradient", 5), ("gradient", 7), ("loss", 11)]
"""At the first step, between two checkpoints, at the last step before one, and at the last of all."""


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_faults_have_the_consequences_of_steps_that_are_waited_for(policy, data, tmp_path):
    """Also where later steps were in the queue; and to the same bits as where each step is logged."""
    changes = {"on_nonfinite": policy, "validate_every": 0, "max_faults": 9}
    runs = {}
    for name, asynchronous, log_every in (("waited", False, 1), ("logged", True, 1), ("queued", True, 100)):
        config, heard = changed(PLAIN, training={**changes, "log_every": log_every}), Heard()
        trainer = make(config, data, tmp_path / name, heard, asynchronous=asynchronous)
        for place, batch in FAULTS:
            with_fault(trainer, place, batch)
        runs[name] = finish(trainer, tmp_path / name), heard
    (waited, said), (logged, said_at_once), (queued, said_later) = runs.values()
    assert said_later.messages == said_at_once.messages
    assert [words(line) for line in said_later.messages] == [words(line) for line in said.messages]
    assert_close_weights(queued, waited)
    for left, right in zip(queued.model.parameters(), logged.model.parameters(), strict=True):
        assert torch.equal(left, right)
    assert queued.step_guard.state() == logged.step_guard.state()
    counts = [
        {name: number for name, number in trainer.step_guard.state().items() if name.startswith("num_")}
        for trainer in (waited, queued)
    ]
    assert counts[0] == counts[1]
    saved = [[path.name for path in checkpoint_paths(tmp_path / name / "checkpoints")] for name in runs]
    assert saved[0] == saved[1] == saved[2]


def test_a_fault_ends_the_run_a_step_later_and_no_checkpoint_has_it(data, tmp_path):
    config = changed(PLAIN, training={"log_every": 100, "validate_every": 0})
    trainer = with_fault(make(config, data, tmp_path), "gradient", batch=5)
    blamed = re.escape("the gradient of blocks.1.feedforward.w2.weight")
    with pytest.raises(NumericalError, match=rf"^step 6: not finite: loss .*: {blamed}; "):
        trainer.train(NullLogger())
    assert trainer.step == 7
    assert [path.name for path in checkpoint_paths(tmp_path / "checkpoints")] == ["step_00000004"]


def test_spikes_are_left_out_on_the_device(data, tmp_path, monkeypatch):
    monkeypatch.setattr(step_guard, "MIN_SAMPLES", 8)  # few steps
    training = {"max_steps": 20, "skip_spikes": True, "spike_deviations": 2.5, "validate_every": 0}
    runs = []
    for asynchronous in (False, True):
        config = changed(PLAIN, training={**training, "checkpoint_every": 0, "log_every": 10})
        trainer = make(config, data, tmp_path / str(asynchronous), asynchronous=asynchronous)
        sound = trainer.learner.accumulate_gradients

        def spiky(*arguments, sound=sound, trainer=trainer):
            loss, norms = sound(*arguments)
            return (loss + 9 if trainer.step in (12, 17) else loss), norms

        trainer.learner.accumulate_gradients = spiky
        runs.append(finish(trainer, tmp_path / str(asynchronous)))
    waited, queued = runs
    assert waited.step_guard.num_skipped == queued.step_guard.num_skipped >= 2
    assert waited.step_guard.num_spikes == queued.step_guard.num_spikes
    assert_close_weights(queued, waited)


def test_a_run_that_is_stopped_between_two_records_goes_on_to_the_same_bits(data, tmp_path):
    config = changed(PLAIN, training={"log_every": 5, "validate_every": 0, "checkpoint_every": 7})
    straight = finish(make(config, data, tmp_path / "a"), tmp_path / "a")
    for steps in (7, 12):
        part = changed(config, training={"max_steps": steps}, schedule={"cosine_steps": 12})
        stopped = finish(make(part, data, tmp_path / "b"), tmp_path / "b")
    assert stopped.step_guard.state() == straight.step_guard.state()
    for left, right in zip(straight.model.parameters(), stopped.model.parameters(), strict=True):
        assert torch.equal(left, right)
    logged = [without_speed(records(tmp_path / name, names.LOSS)) for name in "ab"]
    assert [record for record in logged[1] if record["step"] in (5, 10, 12)] == logged[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_step_on_a_gpu_waits_for_nothing(name, dtype, data, tmp_path):
    config = changed(CONFIG, optimizer={"name": name}, runtime={"device": "cuda", "dtype": dtype})
    trainer = make(config, data, tmp_path)
    trainer.prepare()
    for _ in range(2):  # libraries are loaded, and the optimizer's state is made
        trainer.take_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with trainer.batches.prepared_ahead():
            for _ in range(3):
                trainer.take_step()
                trainer.decide_steps(NullLogger(), all_of_them=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.state().step == 5
