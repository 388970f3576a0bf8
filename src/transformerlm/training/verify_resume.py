"""Verification, on the user's machine and data, that a resumed run computes the same bits.

From the newest checkpoint the same steps are taken twice: without a stop, and with a stop in the middle, at
which a checkpoint is written and loaded into a new model. What is in the run's folder stays as it is.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from transformerlm.checkpoint.run_directory import RunDirectory
from transformerlm.checkpoint.store import Checkpoint
from transformerlm.distributed.ranks import Ranks
from transformerlm.errors import CheckpointError
from transformerlm.logging import NullLogger, names
from transformerlm.storage.files import temporary_beside
from transformerlm.storage.tree import flatten, map_tensors
from transformerlm.training.trainer import Trainer


def verify_resume(make: Callable[[RunDirectory], Trainer], run: RunDirectory, steps: int) -> None:
    """Take `steps` steps both ways, compare all bits of the results, and report.

    On a GPU, where the order of additions may vary, differences are reported and are not an error.

    Args:
        make: returns a new trainer for this run that uses the given folder: `run`, or a temporary one.

    Raises:
        CheckpointError: there is no checkpoint; or, on a CPU, the results differ from each other, or from the
            losses that the run has logged after its checkpoint.
    """
    straight = make(run)
    newest = _resume(straight)
    losses = _take(straight, steps)
    stopped, middle = make(run), steps // 2
    _resume(stopped)
    losses_until_stop = _take(stopped, middle)
    with _temporary_run(run, stopped.ranks) as folder:
        stopped.run, stopped.saved = folder, None
        stopped.save(NullLogger(), is_last=True)
        again = make(stopped.run)
        _resume(again)
    losses_since = _take(again, steps - middle)
    found = _all_of(straight.ranks, state_differences(_state(straight), _state(again)))
    found += _loss_differences("a stop", newest.step, losses, [*losses_until_stop, *losses_since])
    recorded = _recorded_losses(run.metrics, newest.step, steps)
    found += _loss_differences(str(run.metrics), newest.step, losses[: len(recorded)], recorded)
    _report(
        straight, f"{newest.path}: {steps} steps, straight and with a stop after {middle}", recorded, found
    )


@contextlib.contextmanager
def _temporary_run(run: RunDirectory, ranks: Ranks) -> Iterator[RunDirectory]:
    """Yield a folder that all ranks see, in the run's own; it is removed at the end."""
    path = Path(ranks.broadcast_bytes(str(temporary_beside(run.path / "verified")).encode()).decode())
    with contextlib.ExitStack() as stack:
        with ranks.collective_errors():
            if ranks.is_main:
                path.mkdir()
                stack.callback(shutil.rmtree, path, ignore_errors=True)
        yield RunDirectory(path)


def _all_of(ranks: Ranks, lines: list[str]) -> list[str]:
    """Return the lines of all ranks, each once."""
    found = [json.loads(others) for others in ranks.all_gather_bytes(json.dumps(lines).encode())]
    return [*dict.fromkeys(line for own in found for line in own)]


def _resume(trainer: Trainer) -> Checkpoint:
    found = trainer.run.resume_point("must", trainer.reporter, trainer.ranks)
    assert found
    trainer.restore(found)
    trainer.learner.prepare()
    return found


def _take(trainer: Trainer, steps: int) -> list[float]:
    return [trainer.take_step().loss.item() for _ in range(steps)]


def _state(trainer: Trainer) -> dict[str, Any]:
    """Return this rank's part of the state."""
    state, own_part = trainer.state(), trainer.learner.parallelism.own_part
    tree = {"model": state.weights, "training": state.training()}
    return dict(map_tensors(own_part, tree))


def state_differences(expected: Mapping[str, Any], got: Mapping[str, Any]) -> list[str]:
    """Compare two trees of one structure; return a line per tensor that differs, and one for other values."""
    (tensors, values), (other_tensors, other_values) = flatten(expected), flatten(got)
    lines = [
        f"{name}: differs by at most {_distance(tensor, other_tensors[name]):.3g}"
        for name, tensor in tensors.items()
        if not tensor.equal(other_tensors[name])
    ]
    return lines + ["numbers beside the tensors differ"] * (values != other_values)


def _distance(a: Tensor, b: Tensor) -> float:
    return (a.double() - b.double()).abs().max().item()


def _loss_differences(what: str, first: int, expected: list[float], got: list[float]) -> list[str]:
    pairs = enumerate(zip(expected, got, strict=True), first + 1)
    wrong = [f"step {step}: loss {a!r} -> {b!r} ({what})" for step, (a, b) in pairs if a != b]
    return wrong[:1]


def _recorded_losses(metrics: Path, step: int, steps: int) -> list[float]:
    """Return the logged losses of the steps after `step`, up to the first that is missing."""
    if not metrics.exists():
        return []
    records = [json.loads(line) for line in metrics.read_bytes().splitlines() if line.endswith(b"}")]
    losses = {record.get("step"): record[names.LOSS] for record in records if names.LOSS in record}
    found: list[float] = []
    while len(found) < steps and step + len(found) + 1 in losses:
        found.append(float(losses[step + len(found) + 1]))
    return found


def _report(trainer: Trainer, what: str, recorded: list[float], found: list[str]) -> None:
    if not found:
        also = f"; {len(recorded)} losses as the run has recorded them" if recorded else ""
        equal = "the same bits of weights, optimizer, random numbers and losses"
        trainer.reporter.say(f"verified: {what}: {equal}{also}")
    elif trainer.runtime.device.type == "cpu":
        raise CheckpointError([f"{what}: expected the same bits, got:", *found])
    else:
        trainer.reporter.say(f"{what}: not the same bits, as is usual here: {'; '.join(found[:3])}")
