"""Cost of safety: saving, opening a token file, checking a config; `torch.save` in place is the peer.

    python -m benchmarking.bench_saving --config configs/bench_saving.toml

A run of the default config on random ids tells what part of its time goes into saving. Then its state is
written and read in turn by us and as most programs do it: without a checksum, a flush to the disk, a commit;
and once more with a flush. Results are JSON lines on stdout; files are written to a temporary folder.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarking.timing import Contestants, Run, Task, nothing
from transformerlm.cli.command import Arguments, Command, load_config, run_command
from transformerlm.config import ModelConfig, ScheduleConfig, TrainConfig, TrainingConfig
from transformerlm.schema import PositiveInt, Section

if TYPE_CHECKING:
    from transformerlm.data import TokenData
    from transformerlm.training.trainer import Trainer


TIME_LIMIT_SECONDS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSection(Section):
    """[bench]: how much to do, and how often."""

    steps: PositiveInt = 300
    """Steps of the run."""
    save_every: PositiveInt = 100
    """Steps between its checkpoints."""
    rounds: PositiveInt = 7
    """Number of times that each contestant writes and reads, in turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSavingConfig(Section):
    """benchmarking.bench_saving; the model is a default one."""

    bench: BenchSection = field(default_factory=BenchSection)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(vocab_size=8192))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    command = Command(BenchSavingConfig, bench, description="Measure what saving and checking cost.")
    return run_command(command, argv)


def bench(config: BenchSavingConfig) -> int:
    """Run all measurements."""
    from transformerlm.checkpoint.store import checkpoint_paths
    from transformerlm.logging import ConsoleLogger

    logger = ConsoleLogger()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        logger.log({"bench.work": "config", "bench.ms": 1000 * seconds_of_a_config(folder)})
        for num_bytes in (10**6, 10**11):
            took = 1000 * seconds_of_opening(folder / f"{num_bytes}", num_bytes)
            logger.log({"bench.work": "open a token file", "bench.bytes": num_bytes, "bench.ms": took})
        trainer = trained(config, folder)
        spent = trainer.clock.state()
        saving, times = spent["saving"]
        values = {"bench.saves": times, "bench.seconds_of_a_save": saving / times}
        share = saving / sum(seconds for seconds, _ in spent.values())
        logger.log({"bench.work": "run", **values, "bench.share_of_saving": share})
        checkpoint = checkpoint_paths(folder / "run" / "checkpoints")[-1]
        tasks = {
            name: Task(functools.partial(make, checkpoint, folder), nothing, TIME_LIMIT_SECONDS)
            for name, make in CONTESTANTS.items()
        }
        with Contestants(functools.partial(print, file=sys.stderr)) as processes:
            outcomes = processes.race("saving", tasks, warmup_rounds=1, rounds=config.bench.rounds)
        for name, outcome in outcomes.items():
            logger.log({"bench.work": name, "bench.ms": 1000 * outcome.median})
    return 0


def seconds_of_a_config(folder: Path) -> float:
    """Return the seconds of reading and checking a full config, without imports; the minimum of some."""
    from transformerlm.schema import to_toml

    path = folder / "config.toml"
    path.write_text(to_toml(TrainConfig(), documented=True))
    return min(timed(lambda: load_config(TrainConfig, Arguments(config_path=path))) for _ in range(20))


def seconds_of_opening(path: Path, num_bytes: int) -> float:
    """Return the seconds of opening a sparse token file of this size; the minimum of some."""
    from transformerlm.data import TokenFile, TokenWriter
    from transformerlm.data.sidecar import Sidecar, sidecar_path

    with TokenWriter.create(path, vocab_size=100, fingerprint="none") as writer:
        writer.write(id_array(1000), num_documents=1, num_bytes=1000)
    sidecar = Sidecar.read(sidecar_path(path))
    dataclasses.replace(sidecar, num_tokens=num_bytes // 2).write(sidecar_path(path))
    os.truncate(path, num_bytes)
    return min(timed(lambda: TokenFile.open(path)) for _ in range(20))


def id_array(number: int) -> Any:
    """Return random ids, always the same."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 100, number)


def trained(config: BenchSavingConfig, folder: Path) -> Trainer:
    """Train a run of the default config, except for its length, with checkpoints."""
    from transformerlm.checkpoint.run_directory import RunDirectory
    from transformerlm.logging import NullLogger
    from transformerlm.progress import SilentReporter
    from transformerlm.runtime import prepare_process
    from transformerlm.training.trainer import Trainer

    wanted = config.bench
    training = TrainingConfig(max_steps=wanted.steps, checkpoint_every=wanted.save_every, validate_every=0)
    schedule = ScheduleConfig(warmup_steps=min(ScheduleConfig().warmup_steps, wanted.steps // 2))
    whole = TrainConfig(model=config.model, schedule=schedule, training=training)
    runtime = prepare_process(whole.runtime)
    trainer = Trainer(whole, token_data(folder), RunDirectory(folder / "run"), runtime, SilentReporter())
    trainer.train(NullLogger())
    return trainer


def token_data(folder: Path) -> TokenData:
    """A million random ids to train on."""
    from transformerlm.data import TokenData, TokenFile, TokenWriter

    with TokenWriter.create(folder / "train.memmap", vocab_size=8192, fingerprint="none") as writer:
        writer.write(id_array(1_000_000), num_documents=1, num_bytes=3_000_000)
    return TokenData(TokenFile.open(folder / "train.memmap"), None)


@functools.cache
def state_of(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the state of the model and of the training in a checkpoint, read once in a process."""
    from transformerlm.checkpoint.store import read_checkpoint

    found = read_checkpoint(path)
    return found.model_state(), found.training_state()


def write_ours(checkpoint: Path, folder: Path) -> Run:
    """Write the state as a checkpoint."""
    from transformerlm.checkpoint.store import write_checkpoint

    model, training = state_of(checkpoint)

    def run() -> None:
        write_checkpoint(folder / "ours", 1, model, training, {})

    return run


def read_ours(checkpoint: Path, folder: Path) -> Run:
    """Verify a checkpoint and load it."""
    from transformerlm.checkpoint.store import read_checkpoint

    def run() -> None:
        found = read_checkpoint(checkpoint)
        found.model_state(), found.training_state()

    return run


def write_theirs(checkpoint: Path, folder: Path, flush: bool = False) -> Run:
    """Write the state with `torch.save`, in place."""
    import torch

    model, training = state_of(checkpoint)

    def run() -> None:
        with (folder / f"theirs_{flush}.pt").open("wb") as file:
            torch.save({"model": model, "training": training}, file)
            if flush:
                file.flush()
                os.fsync(file.fileno())

    return run


def read_theirs(checkpoint: Path, folder: Path) -> Run:
    """Load the file of `torch.save`."""
    import torch

    path = folder / "theirs_read.pt"
    model, training = state_of(checkpoint)
    torch.save({"model": model, "training": training}, path)

    def run() -> None:
        torch.load(path, weights_only=True)

    return run


CONTESTANTS: dict[str, Callable[[Path, Path], Run]] = {
    "save: transformerlm": write_ours,
    "save: torch.save": write_theirs,
    "save: torch.save and fsync": functools.partial(write_theirs, flush=True),
    "verify and load: transformerlm": read_ours,
    "load: torch.load": read_theirs,
}


def timed(job: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
