import contextlib
import importlib.util
import io

import pytest

from tests.logging.screens import terminal
from transformerlm.config import TrainLoggingConfig, WandbConfig
from transformerlm.errors import ConfigError, Key
from transformerlm.logging import (
    CombinedLogger,
    ConsoleLogger,
    CsvFile,
    PrettyConsole,
    check_backends,
    factory,
    make_logger,
)


def made(tmp_path, **values):
    return make_logger(TrainLoggingConfig(**values), WandbConfig(), tmp_path, "x")


def test_one_word_a_list_of_one_and_a_list(tmp_path):
    assert type(made(tmp_path, backend="console")) is ConsoleLogger
    assert type(made(tmp_path, backend=["console"])) is ConsoleLogger
    csv = made(tmp_path, backend="csv")
    assert isinstance(csv, CsvFile)
    assert csv.path == tmp_path / "metrics.csv"
    both = made(tmp_path, backend=["console", "csv"])
    assert isinstance(both, CombinedLogger)
    assert [type(logger) for logger in both.loggers] == [ConsoleLogger, CsvFile]
    none = made(tmp_path, backend=[])
    assert isinstance(none, CombinedLogger)
    assert none.loggers == ()


def test_naming_one_twice_is_a_mistake():
    with pytest.raises(ConfigError) as caught:
        TrainLoggingConfig(backend=["csv", "csv"])
    assert [problem.key for problem in caught.value.problems] == [Key("backend")]


@pytest.mark.parametrize(
    ("console_format", "on_terminal", "on_pipe"),
    [
        ("auto", PrettyConsole, ConsoleLogger),
        ("json", ConsoleLogger, ConsoleLogger),
        ("pretty", PrettyConsole, PrettyConsole),
    ],
)
def test_it_is_stdout_that_decides_how_records_are_printed(console_format, on_terminal, on_pipe, tmp_path):
    with terminal(80) as there:
        for stdout, stderr, expected in (
            (there.stream, io.StringIO(), on_terminal),
            (io.StringIO(), there.stream, on_pipe),
        ):
            with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
                assert type(made(tmp_path, console_format=console_format)) is expected


def test_packages_that_are_not_installed_are_named_with_what_installs_them(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        factory.importlib.util,
        "find_spec",
        lambda name, *rest: None if name in ("trackio", "wandb") else found(name, *rest),
    )
    check_backends(TrainLoggingConfig(backend=["console", "csv", "tensorboard"]))
    with pytest.raises(ConfigError) as caught:
        check_backends(TrainLoggingConfig(backend=["console", "trackio", "wandb"]))
    assert caught.value.exit_status == 2
    trackio, wandb = caught.value.problems
    assert trackio.key == wandb.key == Key("logging", "backend")
    assert "pip install trackio" in trackio.what
    assert "uv sync --extra wandb" in wandb.what
