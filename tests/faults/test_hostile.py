"""Hostile checkpoints are refused or harmless: soon, in little memory, and no code in them runs.

A process of its own loads them, `hostile_loader`.
"""

import ast
import functools
import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.faults.hostile_files import HOSTILE_FILES, MIB, Evil, content_of, deep, file_of, tensors
from tests.faults.hostile_loader import CONFIG, GOLDEN, runtime, small_model, small_optimizer
from tests.faults.hostile_states import (
    HOSTILE_ABOUTS,
    HOSTILE_MODELS,
    HOSTILE_OPTIMIZERS,
    HOSTILE_RESTORES,
    HOSTILE_TRAINING_STATES,
)
from transformerlm.checkpoint.store import read_checkpoint, save_checkpoint, write_checkpoint
from transformerlm.progress import SilentReporter
from transformerlm.schema import to_dict
from transformerlm.storage.checksummed_json import dump
from transformerlm.storage.tree import load_tree, tree_chunks
from transformerlm.tokenizer import Tokenizer
from transformerlm.training.learner import Learner

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "transformerlm"
MEMBERS = ["model.safetensors", "training.safetensors"]


@pytest.fixture(scope="module")
def loading_process():
    """The program that loads, started once for all tests: its imports take longer than they do."""
    command = [sys.executable, "-m", "tests.faults.hostile_loader"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, env=environment, cwd=ROOT) as process:
        end = threading.Timer(1800, process.kill)
        end.start()
        yield process
        end.cancel()
        process.stdin.close()


@pytest.fixture
def loaded_by(loading_process, tmp_path):
    """Function that has the program load hostile checkpoints, and returns name -> how that ended."""

    def load(loader: str, hostile: dict, harmless: Path) -> dict:
        """`hostile`: name -> function of the path at which it makes the checkpoint."""
        directory = tmp_path / "hostile"
        directory.mkdir()
        for number, make in enumerate(hostile.values()):
            make(directory / f"{number:03}")
        loading_process.stdin.write(json.dumps([loader, str(directory), str(harmless)]) + "\n")
        loading_process.stdin.flush()
        found = json.loads(loading_process.stdout.readline())
        told = found.pop("harmless")
        assert told["outcome"] == "loaded", "\n".join(told["lines"])
        control = found.pop("control")  # the hook is awake
        assert control["outcome"] == "broken"
        assert "pickle.find_class" in control["lines"][-1]
        assert not (directory / "owned").exists()
        return dict(zip(hostile, found.values(), strict=True))

    return load


def check(found: dict, sizes: dict[str, int], harmless: tuple[str, ...] = ()) -> None:
    """Every one is refused or, where named, loads; soon, in little memory, in lines for people to read."""
    for name, told in found.items():
        assert told["outcome"] == ("loaded" if name in harmless else "refused"), (name, told)
        assert told["seconds"] < 2, (name, told)
        assert told["taken"] < sizes[name] + 100 * MIB, (name, told)
        assert len(told["lines"]) <= 21, (name, told)
        assert all(line.isprintable() and len(line) < 1000 for line in told["lines"]), (name, told)


@pytest.fixture
def harmless(tmp_path) -> Path:
    model = small_model()
    optimizer = small_optimizer(model)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    save_checkpoint(model, optimizer, 1, tmp_path / "harmless")
    return tmp_path / "harmless"


@pytest.mark.slow
def test_hostile_files_are_refused_and_nothing_in_them_is_run(loaded_by, harmless):
    makers = {name: lambda path, name=name: path.write_bytes(content_of(name)) for name in HOSTILE_FILES}
    makers |= {
        "a FIFO": os.mkfifo,
        "a folder": Path.mkdir,
        "a device that never ends": lambda path: path.symlink_to("/dev/zero"),
        "a link to itself": lambda path: path.symlink_to(path),
        "a link to nothing": lambda path: path.symlink_to("nothing"),
        "a terabyte of nothing": lambda path: (path.touch(), os.truncate(path, 2**40)),
    }
    found = loaded_by("load_checkpoint", makers, harmless)
    check(found, {name: len(content_of(name)) if name in HOSTILE_FILES else 0 for name in makers})


@pytest.mark.slow
def test_trees_that_make_sense_are_only_trees(loaded_by, harmless):
    makers = {name: lambda path, name=name: path.write_bytes(content_of(name)) for name in HOSTILE_FILES}
    found = loaded_by("load_tree", makers, harmless)
    harmless_trees = (
        "twenty thousand tensors",
        "names of files elsewhere",
        "a tree of a million numbers",
    )
    check(found, {name: len(content_of(name)) for name in makers}, harmless_trees)


def promising(path: Path, contents: dict[str, bytes], **changes) -> Path:
    """A checkpoint folder of these members, whose manifest promises just them."""
    path.mkdir(parents=True)
    members = {}
    for name, content in contents.items():
        (path / name).write_bytes(content)
        members[name] = {"num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest = {"format_version": 2, "step": 1, "about": {}, "members": members} | changes
    (path / "manifest.json").write_bytes(dump(manifest))
    return path


@pytest.mark.slow
def test_a_checksum_that_is_right_vouches_for_nothing(loaded_by, tmp_path):
    both = dict.fromkeys(MEMBERS, file_of(tensors(tree='{"dict": []}')))
    makers, sizes = {}, {}
    for number, name in enumerate(HOSTILE_FILES):
        member = MEMBERS[number % 2]
        content = both | {member: content_of(name)}
        makers[name] = functools.partial(promising, contents=content)
        sizes[name] = sum(map(len, content.values()))
    found = loaded_by("read_checkpoint", makers, promising(tmp_path / "harmless", both))
    check(found, sizes, ("names of files elsewhere",))


def replaced(path: Path, member: str, by) -> None:
    promising(path, dict.fromkeys(MEMBERS, file_of(tensors(tree='{"dict": []}'))))
    (path / member).unlink()
    by(path / member)


BAD_MANIFESTS = {
    "a FIFO": os.mkfifo,
    "a folder": Path.mkdir,
    "a device that never ends": lambda path: path.symlink_to("/dev/zero"),
    "a terabyte of nothing": lambda path: (path.touch(), os.truncate(path, 2**40)),
    "deep lists": lambda path: path.write_text(deep("[", "]")),
    "deep objects": lambda path: path.write_text(deep('{"a":', "}")),
    "a million lists": lambda path: path.write_text("[" + "[]," * MIB + "0]"),
    "a million digits": lambda path: path.write_text('{"step": ' + "9" * MIB + "}"),
    "a deep about": lambda path: path.write_text(
        '{"format_version": 1, "about": ' + deep('{"a":', "}") + "}"
    ),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Evil())),
}


@pytest.mark.slow
def test_folders_of_anything_but_two_files_and_a_manifest_are_refused(loaded_by, tmp_path):
    makers = {}
    for member in MEMBERS:
        for name, make in list(BAD_MANIFESTS.items())[:4]:
            makers[f"{member}: {name}"] = functools.partial(replaced, member=member, by=make)
    for name, make in BAD_MANIFESTS.items():
        makers[f"manifest: {name}"] = functools.partial(replaced, member="manifest.json", by=make)
    harmless = promising(tmp_path / "harmless", dict.fromkeys(MEMBERS, file_of(tensors(tree='{"dict": []}'))))
    found = loaded_by("read_checkpoint", makers, harmless)
    check(found, dict.fromkeys(makers, 4 * MIB))


def changed(path: Path, tree: dict, change) -> None:
    """Write a file of `tree` after `change`; a function given the tree changes it in place."""
    change(tree)
    path.write_bytes(b"".join(tree_chunks(tree)[1]))


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["load_checkpoint", "load_checkpoint, torch's AdamW"])
def test_states_that_are_none_are_refused_and_change_nothing(loaded_by, loader, harmless):
    makers = {}
    for name, change in HOSTILE_OPTIMIZERS.items():
        makers[f"optimizer: {name}"] = lambda path, change=change: changed(
            path, load_tree(harmless), lambda tree: change(tree["optimizer"])
        )
    for name, change in HOSTILE_MODELS.items():
        makers[f"model: {name}"] = lambda path, change=change: changed(path, load_tree(harmless), change)
    found = loaded_by(loader, makers, harmless)
    lenient = ("optimizer: a moment of another shape", "optimizer: a moment that is text")
    if loader != "load_checkpoint":  # what torch's own optimizer makes of a moment is its own business
        found = {name: told for name, told in found.items() if name not in lenient}
    check(found, dict.fromkeys(makers, MIB))


def run_of(path: Path, tokenizer: Tokenizer, about=lambda about: None, state=lambda state: None) -> Path:
    """A run's folder with a real checkpoint, some of what is in it changed."""
    torch.manual_seed(0)
    learner = Learner(CONFIG, runtime(), SilentReporter())
    ids = torch.zeros(2, 8, dtype=torch.long)
    learner.learn(ids, ids, 0.1)
    told = {"config": to_dict(CONFIG), "identity": {"tokenizer": tokenizer.fingerprint}}
    training_state = learner.state()
    about(told)
    state(training_state)
    write_checkpoint(path / "checkpoints", 1, learner.model_state(), training_state, told)
    tokenizer.save(path / "tokenizer")
    return path


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer({n: bytes([n]) for n in range(256)}, [], ["<|a|>", "<|b|>", "<|c|>"])


@pytest.mark.slow
def test_hostile_training_states_are_refused_by_the_learner(loaded_by, tokenizer, tmp_path):
    makers = {
        name: functools.partial(run_of, tokenizer=tokenizer, state=change)
        for name, change in HOSTILE_TRAINING_STATES.items()
    }
    found = loaded_by("Learner", makers, run_of(tmp_path / "harmless", tokenizer))
    check(found, dict.fromkeys(makers, MIB), ("a scaler that is text",))


@pytest.mark.slow
def test_hostile_words_about_a_run_are_refused_before_a_model_is_made_of_them(loaded_by, tokenizer, tmp_path):
    makers = {
        name: functools.partial(run_of, tokenizer=tokenizer, about=change)
        for name, change in HOSTILE_ABOUTS.items()
    }
    found = loaded_by("infer", makers, run_of(tmp_path / "harmless", tokenizer))
    check(found, dict.fromkeys(makers, MIB))


def golden_run(path: Path, change=lambda about, state: None) -> Path:
    """A run's folder with the golden checkpoint, some of what is in it changed."""
    found = read_checkpoint(GOLDEN)
    about, state = found.about, found.training_state()
    change(about, state)
    write_checkpoint(path / "checkpoints", 2, found.model_state(), state, about)
    return path


@pytest.mark.slow
def test_hostile_runs_are_not_gone_on_with(loaded_by, tmp_path):
    makers = {name: functools.partial(golden_run, change=change) for name, change in HOSTILE_RESTORES.items()}
    found = loaded_by("Trainer", makers, golden_run(tmp_path / "harmless"))
    check(found, dict.fromkeys(makers, MIB))


UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def test_nothing_in_the_package_unpickles_or_runs_what_it_reads():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            assert not {name.partition(".")[0] for name in names} & UNPICKLERS, path
            if isinstance(node, ast.keyword):
                assert node.arg not in ("allow_pickle", "weights_only"), path
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in (
                    "eval",
                    "exec",
                    "compile",
                    "__import__",
                    "torch.load",
                ), path
                assert ast.unparse(node.func) not in (
                    "yaml.load",
                    "os.system",
                    "np.fromfile",
                    "torch.hub.load",
                ), path
            assert "pickle" not in getattr(node, "attr", ""), path
