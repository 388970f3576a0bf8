"""What safety costs: saving, opening a token file, judging a config. `torch.save`, in place, as the peer.

    python -m benchmarking.bench_saving --config configs/bench_saving.toml

A run of the default config on random ids tells what part of its time goes into saving. Then its state is
written and read in turn by us and as most programs do it: without a checksum, a flush to the disk, a commit;
and once more with a flush. Results are JSON lines on stdout; files are written to a temporary folder.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformerlm.cli.command import Arguments, load_config, run_command
from transformerlm.config import ModelConfig, TrainConfig, TrainingConfig
from transformerlm.schema import PositiveInt, Section

if TYPE_CHECKING:
    from transformerlm.data import TokenData
    from transformerlm.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSection(Section):
    """[bench]: how much to do, and how often."""

    steps: PositiveInt = 300
    """Steps of the run."""
    save_every: PositiveInt = 100
    """Steps between its checkpoints."""
    rounds: PositiveInt = 7
    """Times that each contestant writes and reads, in turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSavingConfig(Section):
    """benchmarking.bench_saving; the model is a default one."""

    bench: BenchSection = field(default_factory=BenchSection)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(vocab_size=8192))


def main() -> int:
    """The command."""
    return run_command(BenchSavingConfig, bench, description="Measure what saving and checking cost.")


def bench(config: BenchSavingConfig) -> int:
    """All of it."""
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
        for name, seconds in alternate(contestants(trainer, folder), config.bench.rounds).items():
            logger.log({"bench.work": name, "bench.ms": 1000 * statistics.median(seconds)})
    return 0


def seconds_of_a_config(folder: Path) -> float:
    """Reading and judging a config of every key, the imports before it not counted; the least of some."""
    from transformerlm.schema import to_toml

    path = folder / "config.toml"
    path.write_text(to_toml(TrainConfig(), documented=True))
    return min(timed(lambda: load_config(TrainConfig, Arguments(config_path=path))) for _ in range(20))


def seconds_of_opening(path: Path, num_bytes: int) -> float:
    """Opening a token file of this size, most of which no disk holds; the least of some."""
    from transformerlm.data import TokenFile, TokenWriter
    from transformerlm.data.sidecar import Sidecar, sidecar_path

    with TokenWriter.create(path, vocab_size=100, fingerprint="none") as writer:
        writer.write(id_array(1000), num_documents=1, num_bytes=1000)
    sidecar = Sidecar.read(sidecar_path(path))
    dataclasses.replace(sidecar, num_tokens=num_bytes // 2).write(sidecar_path(path))
    os.truncate(path, num_bytes)
    return min(timed(lambda: TokenFile.open(path)) for _ in range(20))


def id_array(number: int) -> Any:
    """Random ids, the same ones each time."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 100, number)


def trained(config: BenchSavingConfig, folder: Path) -> Trainer:
    """A run of the default config, but for its length, that has saved now and then."""
    from transformerlm.checkpoint.run_directory import RunDirectory
    from transformerlm.logging import NullLogger
    from transformerlm.progress import SilentReporter
    from transformerlm.runtime import prepare_process
    from transformerlm.training.trainer import Trainer

    wanted = config.bench
    training = TrainingConfig(max_steps=wanted.steps, checkpoint_every=wanted.save_every, validate_every=0)
    whole = TrainConfig(model=config.model, training=training)
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


def contestants(trainer: Trainer, folder: Path) -> dict[str, Callable[[], object]]:
    """What each does with the state of a run; readers come after their writers."""
    import torch

    from transformerlm.checkpoint.store import read_checkpoint, write_checkpoint

    state = trainer.state()
    model: Mapping[str, Any] = state.weights
    training = state.training()

    def write_ours() -> None:
        write_checkpoint(folder / "ours", 1, model, training, {})

    def read_ours() -> None:
        found = read_checkpoint(folder / "ours" / "step_00000001")
        found.model_state(), found.training_state()

    def write_theirs() -> None:
        torch.save({"model": model, "training": training}, folder / "theirs.pt")

    def write_theirs_and_flush() -> None:
        with (folder / "theirs.pt").open("wb") as file:
            torch.save({"model": model, "training": training}, file)
            file.flush()
            os.fsync(file.fileno())

    def read_theirs() -> None:
        torch.load(folder / "theirs.pt", weights_only=True)

    return {
        "save: transformerlm": write_ours,
        "save: torch.save": write_theirs,
        "save: torch.save and fsync": write_theirs_and_flush,
        "verify and load: transformerlm": read_ours,
        "load: torch.load": read_theirs,
    }


def alternate(jobs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each job in each round, after a round that does not count."""
    took = [{name: timed(job) for name, job in jobs.items()} for _ in range(rounds + 1)]
    return {name: [one[name] for one in took[1:]] for name in jobs}


def timed(job: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
