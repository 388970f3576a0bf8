import re
import subprocess
import sys
from pathlib import Path

import pytest

from transformerlm.config import LoggingConfig, WandbConfig
from transformerlm.logging import (
    CombinedLogger,
    ConsoleLogger,
    Logger,
    NullLogger,
    make_logger,
    names,
    resolved_run_name,
)


class Recorder(NullLogger):
    def __init__(self, fail: bool = False) -> None:
        self.seen: list[object] = []
        self.fail = fail

    def log(self, values, step=None):
        self.seen.append((dict(values), step))

    def log_config(self, config):
        self.seen.append(config)

    def log_artifact(self, path, name, kind):
        self.seen.append((path, name, kind))

    def close(self):
        self.seen.append("closed")
        if self.fail:
            raise OSError


def use(logger: Logger) -> None:
    with logger:
        logger.log_config({"model": {}})
        logger.log({names.LOSS: 1.0}, step=2)
        logger.log_artifact(Path("x"), "x", "checkpoint")


def test_combined_gives_everything_to_each_and_closes_each():
    alone, first, second = Recorder(), Recorder(), Recorder()
    use(alone)
    use(CombinedLogger([first, NullLogger(), second]))
    assert first.seen == second.seen == alone.seen
    assert first.seen == [{"model": {}}, ({"metrics.loss": 1.0}, 2), (Path("x"), "x", "checkpoint"), "closed"]


def test_one_that_fails_to_close_does_not_keep_another_open():
    loggers = [Recorder(fail=True), Recorder(), Recorder(fail=True)]
    with pytest.raises(OSError):
        CombinedLogger(loggers).close()
    assert [logger.seen for logger in loggers] == [["closed"]] * 3


def test_names_are_distinct_and_well_formed():
    values = [value for key, value in vars(names).items() if key.isupper()]
    assert len(set(values)) == len(values)
    assert all(re.fullmatch(r"(metrics|params|text|norms|sweep)\.[a-z0-9_]+", value) for value in values)


def test_logging_loads_nothing_heavy():
    code = "import sys, transformerlm.logging; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "numpy", "wandb", "tqdm"} & set(loaded.split())


def test_the_console_is_the_default(tmp_path):
    assert isinstance(make_logger(LoggingConfig(), WandbConfig(), tmp_path, "x"), ConsoleLogger)


def test_an_empty_run_name_is_the_time_and_the_agents_run(monkeypatch):
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    found = {resolved_run_name(LoggingConfig()) for _ in range(3)}
    assert len(found) > 1  # in the same second
    assert all(re.fullmatch(r"20\d{6}-\d{6}-[0-9a-f]{4}", name) for name in found)
    assert resolved_run_name(LoggingConfig(run_name="mine")) == "mine"
    monkeypatch.setenv("WANDB_RUN_ID", "3fk2x9ab")
    assert re.fullmatch(r"20\d{6}-\d{6}-3fk2x9ab", resolved_run_name(LoggingConfig()))
    assert resolved_run_name(LoggingConfig(run_name="mine")) == "mine"
