"""The folder of a run, and the rules for resuming from a checkpoint in it.

run_dir/
    config.toml       the resolved config
    tokenizer/        vocab.json, merges.txt: all that generation needs is in this folder
    checkpoints/      step_00000500/ ... (store.py)
    metrics.jsonl     the logged metrics, every step at most once
    samples.jsonl     texts of the model, during training and at its end
    ngrams/           the memory of n-grams, if [training].ngram_memory (ngrams/index.py)
    control/          status.json, and requests to the running job (the room `control`)
    history.jsonl     starts, roll-backs, stops, errors
    report.html       a page to look at
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from transformerlm import __version__
from transformerlm.checkpoint.parts import write_checkpoint_in_parts
from transformerlm.checkpoint.store import (
    Checkpoint,
    checkpoint_paths,
    latest_checkpoint,
    prune_checkpoints,
    write_checkpoint,
)
from transformerlm.config import ModelConfig, TrainConfig
from transformerlm.data import TokenData, files_of
from transformerlm.distributed.ranks import SINGLE_PROCESS, Ranks
from transformerlm.errors import CheckpointError, ConfigError, NumericalError, OutputError
from transformerlm.ngrams import NgramIndex, NgramMemory
from transformerlm.progress import Reporter
from transformerlm.schema import from_dict, to_dict, to_toml
from transformerlm.storage.files import committed_file, system_error
from transformerlm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformerlm.distributed.sharding import Parallelism

SAME_ON_ALL_RANKS = ("model", "optimizer", "schedule", "training", "runtime", "logging")
"""Tables of the config that must be equal on all ranks, since they determine the sequence of collectives."""
IMPORTED_FROM = "imported_from"
"""Key in the manifest of a checkpoint that was converted from another format and not trained here."""


class RunDirectory:
    """The paths of a run, and the rules for resuming in a folder that exists already."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples.jsonl"
        self.ngrams = path / "ngrams"
        self.own_steps: set[int] = set()
        """Steps of checkpoints that this process wrote or verified; pruning does not hash them again."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> RunDirectory:
        """Return the folder of the run that a checkpoint belongs to."""
        return cls(checkpoint.path.absolute().parent.parent)

    def tokenizer(self, checkpoint: Checkpoint) -> Tokenizer:
        """Load the run's tokenizer.

        Raises:
            DataError: it cannot be read.
            CheckpointError: it is not the one that the checkpoint was trained with.
        """
        tokenizer = Tokenizer.from_dir(self.path / "tokenizer")
        if tokenizer.fingerprint != checkpoint.require("identity", "tokenizer"):
            raise CheckpointError(f"{self.path / 'tokenizer'}: not the tokenizer of {checkpoint.path}")
        return tokenizer

    def memory(self, checkpoint: Checkpoint) -> NgramMemory | None:
        """Load the run's memory of n-grams; None if it has kept none.

        Raises:
            CheckpointError: it is damaged, or of another text or tokenizer than the checkpoint.
        """
        index = NgramIndex.read(self.ngrams)
        if index is None:
            return None
        model = from_dict(ModelConfig, checkpoint.require("config", "model"), str(checkpoint.path))
        if not index.is_of(*memory_source(checkpoint.require("identity")), model.vocabulary_rows):
            what = f"not the memory of {checkpoint.path}"
            raise CheckpointError(f"{self.ngrams}: {what}; remove the folder to go on without it")
        return NgramMemory(index)

    def start(self, config: TrainConfig, tokenizer: Tokenizer) -> None:
        """Write the config, and the tokenizer if it is missing."""
        with committed_file(self.path / "config.toml") as file:
            file.write(to_toml(config).encode())
        if not (self.path / "tokenizer").exists():
            tokenizer.save(self.path / "tokenizer")

    def save(
        self,
        step: int,
        model: Mapping[str, Tensor],
        training: Mapping[str, Any],
        about: Mapping[str, Any],
        keep: int,
        best_step: int | None,
        parallelism: Parallelism | None = None,
    ) -> None:
        """Write a checkpoint, and remove all but the newest `keep` and the one of `best_step`.

        All ranks call it. Rank 0 writes where it has the whole model, else each rank its part.

        Args:
            parallelism: of this rank; None: a single process.

        Raises:
            NumericalError: a weight is not finite, as a result of the last step.
            OutputError: it cannot be written, or the run's folder is gone.
        """
        ranks = parallelism.ranks if parallelism else SINGLE_PROCESS
        content = step, model, training, about
        with ranks.collective_errors():
            self._check_content(step, model, parallelism)
        if parallelism and not parallelism.keeps_model_whole:
            write_checkpoint_in_parts(self.checkpoints, *content, parallelism)
        else:
            with ranks.while_rank_0_works(), _as_output_error():
                if ranks.is_main:
                    write_checkpoint(self.checkpoints, *content)
        with ranks.while_rank_0_works(), _as_output_error():
            if ranks.is_main:
                self.own_steps = {own for own in self.own_steps if own < step} | {step}
                prune_checkpoints(self.checkpoints, keep, best_step, self.own_steps)

    def _check_content(self, step: int, model: Mapping[str, Tensor], parallelism: Parallelism | None) -> None:
        for name, weight in model.items():
            own = parallelism.own_part(weight) if parallelism else weight
            if not own.isfinite().all():
                raise NumericalError(f"step {step}: not finite: {name}; no checkpoint has it")
        is_main = parallelism is None or parallelism.ranks.is_main
        if is_main and not self.path.is_dir():
            raise OutputError(f"{self.path}: expected the run's folder, which has been removed meanwhile")

    def resume_point(
        self, resume: str, reporter: Reporter, ranks: Ranks = SINGLE_PROCESS
    ) -> Checkpoint | None:
        """Return the checkpoint to resume from, according to [training].resume; None for a fresh start.

        Of several ranks only rank 0 reads the folder, and sends the manifest to the others.

        Raises:
            CheckpointError: "never" in a folder that holds a run, "must" in one that holds none, or a
                folder whose checkpoints are all damaged.
        """
        with ranks.while_rank_0_works():
            found = self._resume_point(resume, reporter) if ranks.is_main else None
        return on_all_ranks(found, ranks)

    def _resume_point(self, resume: str, reporter: Reporter) -> Checkpoint | None:
        if resume == "never" and checkpoint_paths(self.checkpoints):
            what = 'holds a run already, and [training].resume is "never"'
            raise CheckpointError(f"{self.path}: {what}; choose another [training].run_dir or remove it")
        found = latest_checkpoint(self.checkpoints, reporter.say)
        if found is None and resume == "must":
            what = 'no checkpoint to go on from, and [training].resume is "must"'
            raise CheckpointError(f"{self.path}: {what}")
        self.own_steps |= {found.step} if found else set()
        return found


def on_all_ranks(found: Checkpoint | None, ranks: Ranks) -> Checkpoint | None:
    """Return the manifest that rank 0 has read, on all ranks."""
    fields = [str(found.path), found.step, found.about, found.members] if found else []
    path, *others = json.loads(ranks.broadcast_bytes(json.dumps(fields).encode())) or [None]
    return Checkpoint(Path(path), *others) if path else None


@contextlib.contextmanager
def _as_output_error() -> Iterator[None]:
    """Context manager that turns the system's errors into OutputErrors, also in a single process."""
    try:
        yield
    except OSError as error:
        raise OutputError(system_error(error)) from error


def identity(config: TrainConfig, data: TokenData) -> dict[str, Any]:
    """Return what must not change within a run: model config, fingerprints of tokenizer and data, and of a
    mixture the shares."""
    splits = {"train": data.train, "val": data.val}
    files = {split: files_of(tokens) for split, tokens in splits.items() if tokens is not None}
    return {
        **{f"[model].{key}": value for key, value in to_dict(config.model).items()},
        "tokenizer": data.train.fingerprint,
        **{
            f"{split} data{f' of {name}' if name else ''}": file.sha256
            for split, own in files.items()
            for name, file in own.items()
        },
        **({"mixture": dict(data.shares)} if data.shares else {}),
    }


def memory_source(identity: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a memory of n-grams is made from: a checksum of the training tokens, and the tokenizer's
    fingerprint."""
    sums = {key: value for key, value in identity.items() if key.startswith("train data")}
    return hashlib.sha256(json.dumps(sums).encode()).hexdigest(), str(identity["tokenizer"])


def environment(num_ranks: int = 1) -> dict[str, Any]:
    """Return versions, machine, threads and ranks, on which the last bits of a result depend."""
    return {
        "transformerlm": __version__,
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "numba": version("numba"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "num_threads": torch.get_num_threads(),
        "num_ranks": num_ranks,
    }


def check_same_on_all_ranks(ranks: Ranks, config: TrainConfig, now: Mapping[str, Any]) -> None:
    """Refuse ranks whose config or data differs from rank 0's.

    Args:
        now: the `identity` on this rank.

    Raises:
        ConfigError: one line per difference between rank 0 and the first rank that differs.
    """
    own = {**{table: to_dict(config)[table] for table in SAME_ON_ALL_RANKS}, **now}
    first, *others = map(json.loads, ranks.all_gather_bytes(json.dumps(own).encode()))
    for rank, other in enumerate(others, 1):
        if changes := differences(first, other):
            what = f"expected the same on all ranks; rank 0 -> rank {rank}"
            raise ConfigError([f"{what}: {line}" for line in changes])


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return `key: old -> new` for every key whose value differs, also inside nested tables."""
    lines = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += [f"[{key}].{line}" for line in differences(before, after)]
        elif before != after:
            lines.append(f"{key}: {before} -> {after}")
    return lines


def _without_new_keys(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity without the keys of [model] that a checkpoint is older than and that have their
    defaults, with which the model is as it was before there were such keys."""
    defaults = {f"[model].{key}": value for key, value in to_dict(ModelConfig()).items()}
    return {key: value for key, value in now.items() if key in then or (key, value) not in defaults.items()}


def check_same_run(
    found: Checkpoint,
    now: Mapping[str, Any],
    config: TrainConfig,
    reporter: Reporter,
    num_ranks: int = 1,
) -> None:
    """Refuse a checkpoint of another model, tokenizer or data; report other changes.

    Args:
        now: the `identity` of the run that is about to resume.

    Raises:
        CheckpointError: one line per key that a run cannot change, old -> new.
    """
    about = found.about
    if IMPORTED_FROM in about:
        what = "imported weights, which have no training to go on with"
        advice = f"[training].start_from={found.path.parent.parent} starts another run from them"
        raise CheckpointError(f"{found.path}: {what}; choose another [training].run_dir: {advice}")
    if changes := differences(about["identity"], _without_new_keys(now, about["identity"])):
        advice = "choose another [training].run_dir, or undo the change"
        raise CheckpointError([f"{found.path}: {line}" for line in changes] + [f"cannot go on: {advice}"])
    if changes := differences(about["environment"], environment(num_ranks)):
        reporter.say(f"not bit for bit the run that was stopped: {'; '.join(changes)}")
    if changes := differences(about["config"], to_dict(config)):
        reporter.say(f"changed since the checkpoint: {'; '.join(changes)}")
