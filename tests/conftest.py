"""Shared by all tests: GPU detection, a reproducible environment, and one tiny trained run."""

import functools
import random
import signal
import sys

import hypothesis
import pytest

from tests.report.browser import chromium
from tests.tiny_run import train_in, write_workplace
from transformerlm.kernels.threads import sleep_soon

sleep_soon()  # as the commands do, before a test imports PyTorch

# An example may take long on a busy machine.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


def pytest_configure(config):
    # A shell that starts the suite in the background has it ignore Ctrl-C, `nohup` a closed terminal too; the
    # commands that the tests start would inherit that, and never hear the signals that they are sent.
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
            signal.signal(getattr(signal, name), handler)


@pytest.fixture(scope="session")
def browser():
    """One Chromium for all tests of pages."""
    with chromium() as found:
        yield found


def pytest_collection_modifyitems(items):
    wanting_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanting_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_runtest_setup():
    # The ceiling of the device is for figures in records and plans, and takes a quarter of a second in each
    # of some hundred runs: here, ahead of all fixtures, it is measured once for each runtime.
    for name in ("trainer", "plan"):
        module = sys.modules.get(f"transformerlm.training.{name}")
        if module and not hasattr(module.measured_flops_ceiling, "cache_info"):
            module.measured_flops_ceiling = ceiling_measured_once(module.measured_flops_ceiling)


ceiling_measured_once = functools.cache(functools.cache)


@pytest.fixture(autouse=True)
def no_inherited_wandb_run(monkeypatch):
    # A suite started by a wandb agent must not write into the agent's run.
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def the_same_random_numbers_in_any_order():
    # A test that sets no seed of its own would draw other numbers after other tests.
    random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty folder as the current one, with a corpus `fables` and a `config.toml`."""
    write_workplace(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A workplace in which `config.toml` has been trained; tests only read it."""
    folder = tmp_path_factory.mktemp("trained")
    write_workplace(folder)
    train_in(folder)
    return folder
