"""A package called wandb that misbehaves, to be put before the real one on the path."""

import pytest

WELL_BEHAVED = """
import os, sys, time


class Settings:
    mode, sync_dir = "online", "the-sync-dir"

    def __init__(self, **settings):
        pass


class Run:
    name, url, settings, logged = "fake", "http://nowhere", Settings(), 0

    class config:
        @staticmethod
        def update(config, allow_val_change):
            pass

    def log(self, values, step=None):
        self.logged += 1
        if self.logged > 5:
            late()

    def log_artifact(self, artifact):
        pass

    def finish(self, exit_code):
        last()


class Artifact:
    def __init__(self, name, type):
        self.add_dir = self.add_file = lambda path: None


def setup(settings):
    class Session:
        settings = Settings()

    return Session()


def login(prompt, verify):
    return True


def init(**arguments):
    return Run()


def late():
    pass


def last():
    pass


def fail(**arguments):
    raise RuntimeError("out of order\\nsecond line")


def hang(**arguments):
    time.sleep(1000)

"""

FAULTS = {
    "none": "",
    "missing": "raise ModuleNotFoundError('No module named wandb')",
    "import hangs": "hang()",
    "not logged in": "login = lambda **arguments: False",
    "init fails": "init = fail",
    "init hangs": "init = hang",
    "logging fails": "late = fail",
    "logging hangs": "late = hang",
    "logging is slow": "late = lambda: time.sleep(0.5)",
    "logging kills it": "late = lambda: os._exit(3)",
    "finishing fails": "last = fail",
    "finishing hangs": "last = hang",
    "it prints": "late = lambda: (print('noise'), print('noise', file=sys.stderr))",
}
"""What goes wrong -> code at the end of a well-behaved package."""

SOUND = {"none", "it prints"}

REASONS = {
    "missing": "ModuleNotFoundError: No module named wandb",
    "import hangs": "no answer in",
    "not logged in": "RuntimeError: not logged in; run `wandb login`",
    "init fails": "RuntimeError: out of order",
    "init hangs": "no answer in",
    "logging fails": "RuntimeError: out of order",
    "logging hangs": "no answer in",
    "logging is slow": "not done in",
    "logging kills it": "its process ended with status 3",
    "finishing fails": "RuntimeError: out of order",
    "finishing hangs": "not done in",
}
"""What the one warning says."""


@pytest.fixture
def fake_wandb(tmp_path):
    """Makes the package with a fault; the folder comes back that has to be on the path."""

    def make(fault):
        folder = tmp_path / "fakes" / fault.replace(" ", "-")
        (folder / "wandb").mkdir(parents=True, exist_ok=True)
        (folder / "wandb" / "__init__.py").write_text(WELL_BEHAVED + FAULTS[fault])
        return folder

    make.faults, make.reasons, make.sound = list(FAULTS), REASONS, SOUND
    return make
