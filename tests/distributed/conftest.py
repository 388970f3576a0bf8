"""A group of two ranks that does all its work once, and a single process that does the same."""

import os
import time

import pytest
import torch

from tests.distributed import cases, group
from tests.distributed.ranks_that_train import run_case, write_tokens
from transformerlm.distributed.ranks import SINGLE_PROCESS
from transformerlm.errors import LockedError
from transformerlm.storage.lock import locked
from transformerlm.training import trainer


def made_once(tmp_path_factory, name, make):
    """Return the folder that `make` has filled, once for all worker processes of this test run."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    while True:
        try:
            with locked(folder / f"{name}.making"):
                if not (folder / f"{name}.made").exists():
                    (folder / name).mkdir()
                    make(folder / name)
                    (folder / f"{name}.made").touch()
                return folder / name
        except LockedError:
            time.sleep(0.2)


@pytest.fixture(scope="session")
def alone(tmp_path_factory):
    """Folder in which one process has trained what others train on ranks, or go on from."""
    return made_once(tmp_path_factory, "alone", train_alone)


def train_alone(folder):
    write_tokens(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "measured_flops_ceiling", lambda runtime, seconds: 1e12)
        for name, options in cases.alone_cases().items():
            assert "error" not in run_case(SINGLE_PROCESS, folder, name, **options)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def ranks2(alone, tmp_path_factory):
    """Folder in which two ranks have worked on all cases."""
    return made_once(tmp_path_factory, "ranks2", lambda folder: work_on_two_ranks(folder, alone))


def work_on_two_ranks(folder, alone):
    write_tokens(folder)
    cases.write_corpus(folder)
    cases.write_config(folder, "ranks")
    (folder / "locked").mkdir()
    last = {"last": cases.case(killed=[1, 3])}  # by torchrun's own rules: rank 1 is killed, and all end
    with locked(folder / "locked"):
        errors, status = group.start(
            folder, 2, cases.trainings(folder, alone) | last, cases.commands(folder), cases.ends()
        )
    (folder / "last.ended").write_text(str(time.time()))
    assert status == 1, errors
    assert (folder / "last.killed").exists(), errors
    (folder / "errors").write_text(errors)


@pytest.fixture(scope="session")
def ranks4(alone, ranks2, tmp_path_factory):
    """Folder in which four ranks have worked on the trainings, and have gone on with what two have begun."""
    return made_once(tmp_path_factory, "ranks4", lambda folder: work_on_four_ranks(folder, alone, ranks2))


def work_on_four_ranks(folder, alone, ranks2):
    write_tokens(folder)
    errors, status = group.start(folder, 4, cases.trainings(ranks2, alone))
    assert status == 0, errors


@pytest.fixture(scope="session")
def place(request):
    """The folder of so many ranks."""
    return request.getfixturevalue(f"ranks{request.param}")
