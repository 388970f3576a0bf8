"""What all tests share: which machine parts they need, and quiet, reproducible surroundings."""

import signal

import pytest

from transformerlm.kernels.threads import sleep_soon

sleep_soon()  # as the commands do, before a test imports PyTorch


def pytest_configure(config):
    # A shell that starts the suite in the background has it ignore Ctrl-C, `nohup` a closed terminal too; the
    # commands that the tests start would inherit that, and never hear the signals that they are sent.
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
            signal.signal(getattr(signal, name), handler)


def pytest_collection_modifyitems(items):
    wanting_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not wanting_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanting_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def no_inherited_wandb_run(monkeypatch):
    # A suite started by a wandb agent must not write into the agent's run.
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
