"""Search for the config with the best loss in a given time: whole trainings of candidates, in turn.

    python -m benchmarking.search_train --config configs/search_train.toml

Every candidate is the same command with some overrides, in an empty folder of its own. A JSON line for each
as it is done, and the best at the end; no file is left behind. Run nothing else meanwhile.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarking.timing import timed_command
from transformerlm.cli.command import Command, run_command
from transformerlm.errors import ConfigError, Key
from transformerlm.logging import ConsoleLogger, names
from transformerlm.schema import PositiveInt, Section, Text


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSection(Section):
    """[search]: the candidates."""

    train_config: Text = "configs/train.toml"
    """The config that candidates differ from."""
    arguments: str = ""
    """Overrides that all candidates have, as in a shell."""
    candidates: tuple[str, ...] = ("",)
    """Overrides of each candidate, as in a shell; "" is the unchanged config."""
    num_seeds: PositiveInt = 1
    """Trainings of each candidate; its result is their mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchTrainConfig(Section):
    """benchmarking.search_train."""

    search: SearchSection = field(default_factory=SearchSection)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    command = Command(SearchTrainConfig, search, description="Train candidates and compare their losses.")
    return run_command(command, argv)


def search(config: SearchTrainConfig) -> int:
    """Train all candidates."""
    results: dict[str, float] = {}
    for candidate in config.search.candidates:
        trainings = [train(config.search, candidate, seed) for seed in range(config.search.num_seeds)]
        mean = {name: sum(values[name] for values in trainings) / len(trainings) for name in trainings[0]}
        results[candidate] = mean[names.VAL_BITS_PER_BYTE]
        ConsoleLogger().log({"search.candidate": candidate, **mean})
    ConsoleLogger().log({"search.best": min(results, key=lambda candidate: results[candidate])})
    return 0


def train(section: SearchSection, candidate: str, seed: int) -> dict[str, float]:
    """Run one training; return the seconds of its whole process, its steps, and its last validation.

    Raises:
        ConfigError: where it fails; what it has said is on stderr.
    """
    command = [sys.executable, "-m", "transformerlm.cli.train"]
    arguments = [*shlex.split(section.arguments), *shlex.split(candidate), f"--runtime.seed={seed}"]
    with tempfile.TemporaryDirectory() as folder:
        config = ["--config", str(Path(section.train_config).absolute())]
        try:
            seconds, stdout = timed_command([*command, *config, *arguments], Path(folder))
        except subprocess.CalledProcessError as error:
            what = f'expected one that trains, got status {error.returncode} from "{candidate}"'
            raise ConfigError(what, key=Key("search", "candidates")) from None
    last = [record for record in map(json.loads, stdout.splitlines()) if names.VAL_LOSS in record][-1]
    found = {name: last[name] for name in (names.VAL_LOSS, names.VAL_BITS_PER_BYTE)}
    return {"search.seconds": seconds, "search.steps": last["step"], **found}


if __name__ == "__main__":
    sys.exit(main())
