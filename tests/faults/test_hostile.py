"""Checkpoints by somebody who means ill: refused or harmless, at once, in little memory, and nothing is run.

Each group of them is loaded in a fresh process (this file, run as a program) whose audit hook allows no
unpickling, no code from data, no other program and no written file, and which tells what came of each.
"""

import ast
import contextlib
import functools
import gzip
import hashlib
import io
import json
import os
import pickle
import random
import re
import resource
import signal
import subprocess
import sys
import tarfile
import time
import traceback
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from transformerlm.checkpoint.store import (
    latest_checkpoint,
    load_checkpoint,
    open_checkpoint,
    read_checkpoint,
    save_checkpoint,
    write_checkpoint,
)
from transformerlm.config import ModelConfig, OptimizerConfig, RuntimeConfig, TrainConfig, TrainingConfig
from transformerlm.data import TokenData, TokenFile, TokenWriter
from transformerlm.errors import CheckpointError, TransformerLMError
from transformerlm.optim import AdamW
from transformerlm.progress import SilentReporter
from transformerlm.runtime import Runtime, prepare_process
from transformerlm.schema import from_dict, to_dict
from transformerlm.storage.checksummed_json import seal
from transformerlm.storage.safetensors import load_tree, tree_chunks
from transformerlm.tokenizer import Tokenizer
from transformerlm.training.learner import Learner

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint_1" / "step_00000002"
SOURCE = Path(__file__).parents[2] / "src" / "transformerlm"
MEMBERS = ["model.safetensors", "training.safetensors"]
MIB = 2**20


class Evil:
    """What a pickle of it calls when it is loaded."""

    def __reduce__(self):
        return (open, ("owned", "w"))


def file_of(header, data: bytes = b"") -> bytes:
    """A safetensors file with this header, JSON or what is to be in its place."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(header).to_bytes(8, "little") + header + data


def tensors(*entries, tree='{"tensor": "t0"}', **more) -> dict:
    """A header of tensors, each (dtype, shape, offsets)."""
    header = {"__metadata__": {"tree": tree}}
    for number, (dtype, shape, offsets) in enumerate(entries):
        header[f"t{number}"] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return header | more


def saved_by_torch(zipped: bool) -> bytes:
    out = io.BytesIO()
    torch.save({"model": Evil(), "w": torch.ones(3)}, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


def tar_of_pickles() -> bytes:
    out, content = io.BytesIO(), pickle.dumps(Evil())
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def numpy_objects(save) -> bytes:
    out = io.BytesIO()
    save(out, np.array([Evil()], dtype=object))
    return out.getvalue()


def zip_bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("data.pkl", "w") as member:
        for _ in range(256):
            member.write(bytes(MIB))
    return out.getvalue()


def deep(left: str, right: str, depth: int = 100_000) -> str:
    return left * depth + "0" + right * depth


FOUR = bytes(4)
HOSTILE_FILES = {
    "a pickle in a zip": functools.partial(saved_by_torch, True),
    "a legacy pickle": functools.partial(saved_by_torch, False),
    "pickles in a tar": tar_of_pickles,
    "a bare pickle": lambda: pickle.dumps(Evil()),
    "numpy objects": functools.partial(numpy_objects, lambda out, a: np.save(out, a, allow_pickle=True)),
    "numpy objects in a zip": functools.partial(numpy_objects, np.savez),
    "a zip bomb": zip_bomb,
    "zeros in a gzip": lambda: gzip.compress(bytes(64 * MIB)),
    "nothing": lambda: b"",
    "seven bytes": lambda: bytes(7),
    "zeros": lambda: bytes(1000),
    "noise": lambda: random.Random(0).randbytes(10_000),
    "a header of 2^63 bytes": lambda: (2**63).to_bytes(8, "little") + b"{}",
    "a header of 2^64 - 1 bytes": lambda: b"\xff" * 8 + b"{}",
    "a header longer than the file": lambda: (1000).to_bytes(8, "little") + b"{}",
    "a header of 50 MB": lambda: file_of(b'{"a":' + b" " * 50 * MIB + b"1}"),
    "a header of blanks": lambda: file_of(b" " * 4 * MIB),
    "a header in UTF-16": lambda: file_of(json.dumps(tensors(("F32", [1], [0, 4]))).encode("utf-16"), FOUR),
    "a header that is a list": lambda: file_of(b"[1]"),
    "overlapping tensors": lambda: file_of(tensors(("F32", [1], [0, 4]), ("F32", [1], [0, 4])), FOUR),
    "tensors with a hole between": lambda: file_of(tensors(("U8", [1], [0, 1]), ("U8", [1], [3, 4])), FOUR),
    "a tensor behind the end": lambda: file_of(tensors(("F32", [2], [0, 8])), FOUR),
    "bytes of no tensor": lambda: file_of(tensors(("U8", [1], [0, 1])), FOUR),
    "an end before the beginning": lambda: file_of(tensors(("F32", [1], [4, 0])), FOUR),
    "a tensor of 2^63 numbers": lambda: file_of(tensors(("F32", [2**63], [0, 4])), FOUR),
    "sizes that overflow to 4 bytes": lambda: file_of(tensors(("F32", [2**62, 4, 1], [0, 4])), FOUR),
    "2^62 times nothing": lambda: file_of(tensors(("F32", [0, 2**62, 2**62], [0, 0]))),
    "a negative size": lambda: file_of(tensors(("F32", [-1], [0, 4])), FOUR),
    "two negative sizes": lambda: file_of(tensors(("F32", [-1, -1], [0, 4])), FOUR),
    "a size of 1.0": lambda: file_of(tensors(("F32", [1.0], [0, 4])), FOUR),
    "a size that is true": lambda: file_of(tensors(("F32", [True], [0, 4])), FOUR),
    "a size that is not a number": lambda: file_of(tensors(("F32", [float("nan")], [0, 4])), FOUR),
    "thousands of sizes": lambda: file_of(tensors(("U8", [1] * 100_000, [0, 1])), b"\0"),
    "sizes whose product takes minutes": lambda: file_of(
        tensors(("U8", [int("9" * 4000)] * 900, [0, 1])), b"\0"
    ),
    "a number with a million digits": lambda: file_of(b'{"a":' + b"9" * MIB + b"}"),
    "an unknown dtype": lambda: file_of(tensors(("PY_OBJECT", [1], [0, 4])), FOUR),
    "a dtype that is a list": lambda: file_of(tensors((["F32"], [1], [0, 4])), FOUR),
    "a name that is there twice": lambda: file_of(
        json.dumps(tensors(("F32", [1], [0, 4]))).encode().replace(b"__metadata__", b"t0"), FOUR
    ),
    "a truth that is 7": lambda: file_of(tensors(("BOOL", [1], [0, 1])), b"\7"),
    "metadata that are no text": lambda: file_of({"__metadata__": {"tree": {"list": []}}}),
    "no metadata": lambda: file_of({"t0": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"\0"),
    "a deep header of lists": lambda: file_of(('{"a":' + deep("[", "]") + "}").encode()),
    "a deep header of objects": lambda: file_of(deep('{"a":', "}").encode()),
    "a deep tree": lambda: file_of(tensors(tree=deep('{"list": [', "]}", 1000))),
    "a tree of a million lists": lambda: file_of(tensors(tree="[" + "[]," * (MIB * 5 // 4) + "0]")),
    "a tree of a million objects": lambda: file_of(tensors(tree="[" + "{}," * (MIB * 5 // 4) + "0]")),
    "a tree of a million numbers": lambda: file_of(tensors(tree='{"list": [' + "1.5," * (MIB - 100) + "0]}")),
    "a tree of missing tensors": lambda: file_of(tensors(tree='{"tensor": "nowhere"}')),
    "a tree with a key twice": lambda: file_of(tensors(tree='{"dict": [["a", 1], ["a", 2]]}')),
    "a tree with a list as a key": lambda: file_of(tensors(tree='{"dict": [[[], 1]]}')),
    "a tree of another kind": lambda: file_of(tensors(tree='{"__reduce__": ["os.system", ["true"]]}')),
    "forty thousand tensors": lambda: file_of(
        tensors(*(("U8", [], [n, n + 1]) for n in range(40_000))), bytes(40_000)
    ),
    "names of files elsewhere": lambda: file_of(
        {
            "__metadata__": {
                "tree": '{"dict": [["../owned", {"tensor": "../owned"}], ["x", {"tensor": "/o"}]]}'
            },
            "../owned": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            "/o": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]},
        },
        b"\0\0",
    ),
    "a name with orders to a terminal": lambda: file_of(tensors(("U8", [1], [0, 9]), **{"\x1b[2J\n": 1})),
}
MODEL = ModelConfig(vocab_size=259, context_length=8, d_model=8, num_layers=1, num_heads=2, d_ff=16)
CONFIG = TrainConfig(
    model=MODEL,
    optimizer=OptimizerConfig(),
    training=TrainingConfig(batch_size=2, micro_batch_size=2),
    runtime=RuntimeConfig(device="cpu", dtype="float32", num_threads=1),
)


def with_(*path, value):
    """A change to a tree: what is at `path` becomes `value` (a function is given what was there)."""

    def change(tree):
        *parents, last = path
        for key in parents:
            tree = tree[key]
        tree[last] = value(tree[last]) if callable(value) else value

    return change


def without(*path):
    def change(tree):
        *parents, last = path
        for key in parents:
            tree = tree[key]
        del tree[last]

    return change


def named_often(tree):
    large = torch.zeros(MIB, dtype=torch.uint8)
    tree["state"][0] = {f"exp_avg_{n}": large for n in range(2000)}


HOSTILE_OPTIMIZERS = {
    "a list": lambda tree: tree.clear(),
    "no groups": without("param_groups"),
    "no states": without("state"),
    "groups that are a number": with_("param_groups", value=1),
    "groups that are texts": with_("param_groups", value=["a", "b"]),
    "one group too few": with_("param_groups", value=lambda groups: groups[1:]),
    "one group too many": with_("param_groups", value=lambda groups: [*groups, groups[0]]),
    "a group without parameters": without("param_groups", 0, "params"),
    "parameters that are lists": with_("param_groups", 0, "params", value=lambda old: [[] for _ in old]),
    "parameters that are one": with_("param_groups", 1, "params", value=[0]),
    "a learning rate that is text": with_("param_groups", 0, "lr", value="0.1"),
    "a learning rate that is a list": with_("param_groups", 0, "lr", value=[0.1]),
    "a learning rate of 10^400": with_("param_groups", 0, "lr", value=10**400),
    "a learning rate that is none": with_("param_groups", 0, "lr", value=None),
    "three betas": with_("param_groups", 0, "betas", value=[0.1, 0.1, 0.1]),
    "betas that are texts": with_("param_groups", 0, "betas", value=["0.1", "0.1"]),
    "states that are a list": with_("state", value=[]),
    "a state that is a number": with_("state", 0, value=1),
    "a state of nobody": with_("state", 10**30, value={}),
    "a state by text": with_("state", "0", value={}),
    "a moment of another shape": with_("state", 0, "exp_avg", value=torch.zeros(7, 7)),
    "a moment that is text": with_("state", 0, "exp_avg", value="zeros"),
    "a step that is text": with_("state", 0, "step", value="1"),
    "a step of 10^400": with_("state", 0, "step", value=10**400),
    "a step that is no number": with_("state", 0, "step", value=torch.tensor(float("nan"))),
    "a step of -1": with_("state", 0, "step", value=torch.tensor(-1.0)),
    "a step for each weight": with_("state", 0, "step", value=torch.ones(100)),
    "a tensor named two thousand times": named_often,
}
HOSTILE_MODELS = {
    "a list": with_("model", value=[]),
    "texts": with_("model", "weight", value="1"),
    "nothing": with_("model", value={}),
    "whole numbers": with_("model", "weight", value=lambda old: old.long()),
    "complex numbers": with_("model", "weight", value=lambda old: old.to(torch.complex64)),
    "another shape": with_("model", "weight", value=lambda old: old[:1]),
    "more": with_("model", "more", value=torch.ones(1)),
    "numbers for names": with_("model", value={1: torch.ones(1)}),
    "an iteration that is text": with_("iteration", value="1"),
    "an iteration that is true": with_("iteration", value=True),
    "no iteration": without("iteration"),
    "orders to a terminal": with_("model", "\x1b[2J\n", value=torch.ones(1)),
    "a thousand strange tensors": with_(
        "model", value=lambda old: old | {f"x{n}": torch.ones(1) for n in range(1000)}
    ),
}
HOSTILE_TRAINING_STATES = {
    "nothing": lambda tree: tree.clear(),
    "an optimizer that is text": with_("optimizer", value="adamw"),
    "no generators": without("rng"),
    "generators that are a list": with_("rng", value=[]),
    "a generator of another size": with_("rng", "cpu", value=torch.zeros(10, dtype=torch.uint8)),
    "a generator of zeros": with_("rng", "cpu", value=torch.zeros_like),
    "a generator that points beyond its numbers": with_(
        "rng", "cpu", value=lambda old: torch.full_like(old, 255)
    ),
    "a generator of fractions": with_("rng", "cpu", value=lambda old: old.float()),
    "a generator that is text": with_("rng", "cpu", value="mt19937"),
    "generators of a GPU that are a number": with_("rng", "cuda", value=1),
    "micro-batches that are text": with_("micro_batch_limit", value="all"),
    "a scaler that is text": with_("scaler", value="x"),
}
HOSTILE_ABOUTS = {
    "nothing": lambda about: about.clear(),
    "no identity": without("identity"),
    "an identity that is text": with_("identity", value="me"),
    "no tokenizer": without("identity", "tokenizer"),
    "another tokenizer": with_("identity", "tokenizer", value="0" * 64),
    "no config": without("config"),
    "a config that is a list": with_("config", value=[]),
    "no model": without("config", "model"),
    "a model that is text": with_("config", "model", value="gpt"),
    "an unknown key": with_("config", "model", "__class__", value="os.system"),
    "a width that is text": with_("config", "model", "d_model", value="8"),
    "a width of 10^30": with_("config", "model", "d_model", value=10**30),
    "a width of a million": with_("config", "model", "d_model", value=2**20),
    "a billion layers": with_("config", "model", "num_layers", value=10**9),
    "another width": with_("config", "model", "d_model", value=16),
    "a context of 10^12": with_("config", "model", "context_length", value=10**12),
}

HOSTILE_RESTORES = {
    "no best": lambda about, state: state.pop("best"),
    "a best that is text": lambda about, state: state.update(best="best"),
    "a best of texts": lambda about, state: state.update(best=["x", "y", "z"]),
    "a best of four": lambda about, state: state.update(best=[1, 2.0, 3.0, 4.0]),
    "no identity": lambda about, state: about.pop("identity"),
    "an identity that is text": lambda about, state: about.update(identity="me"),
    "an environment that is a list": lambda about, state: about.update(environment=[]),
    "no config": lambda about, state: about.pop("config"),
    "a clock that is text": lambda about, state: about.update(clock="noon"),
    "a clock of texts": lambda about, state: about.update(clock={"steps": ["a", "b"]}),
    "a clock of three": lambda about, state: about.update(clock={"steps": [1, 2, 3]}),
    "seconds that are text": lambda about, state: about.update(completed_seconds="long"),
}

# What follows runs in the process that loads.

FORBIDDEN = re.compile(
    r"pickle\.find_class|exec|compile|marshal\.loads|import|code\.__new__|function\.__new__|"
    r"os\.(system|exec|fork|forkpty|posix_spawn|spawn|startfile|remove|rename|link|symlink|mkdir|truncate|chmod)|"
    r"subprocess\.Popen|socket\..*|shutil\..*|urllib\..*|pty\.spawn"
)
LIBRARIES = (None, "libnvidia-ml.so.1")  # torch looks for GPUs
is_armed = False


def alarm(event, arguments):
    if event in ("compile", "exec") and sys._getframe(1).f_globals["__name__"] == "typing":
        return  # reads the annotations of the package's own classes
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    links = event == "ctypes.dlopen" and arguments[0] not in LIBRARIES
    if is_armed and (writes or links or FORBIDDEN.fullmatch(event)):
        raise SystemError(f"{event} {arguments!r:.200}")


@contextlib.contextmanager
def armed():
    global is_armed
    is_armed = True
    try:
        yield
    finally:
        is_armed = False


def too_late(signal_number, frame):
    raise TimeoutError


def memory(name: str) -> int:
    """Bytes that this process has (VmRSS), had at most (VmHWM), or has asked for (VmData)."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024


def tell(load) -> dict:
    """What came of `load()`: refused or loaded, the lines or the traceback, how long and how much it took."""
    signal.alarm(10)  # ends what would not end
    Path("/proc/self/clear_refs").write_text("5")  # the most memory is counted from now
    before, started = memory("VmRSS"), time.process_time()
    try:
        with armed():
            load()
        outcome, lines = "loaded", []
    except TransformerLMError as error:
        outcome, lines = "refused", error.lines
    except Exception:
        outcome, lines = "broken", traceback.format_exc().splitlines()
    seconds = time.process_time() - started  # the machine may have other things to do
    signal.alarm(0)
    return {"outcome": outcome, "lines": lines, "seconds": seconds, "taken": memory("VmHWM") - before}


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 4)


def small_optimizer(model, kind=AdamW):
    return kind([{"params": [model.weight]}, {"params": [model.bias]}], lr=0.01)


def load_one(path: Path, kind=AdamW) -> None:
    model = small_model()
    optimizer = small_optimizer(model, kind)
    before = [parameter.clone() for parameter in model.parameters()]
    try:
        load_checkpoint(path, model, optimizer)
    except CheckpointError:
        assert all(map(torch.equal, before, model.parameters())), "refused, and yet changed"
        raise
    model.weight.grad, model.bias.grad = torch.ones(4, 3), torch.ones(4)
    optimizer.step()


def read_all(path: Path) -> None:
    checkpoint = read_checkpoint(path)
    checkpoint.model_state()
    checkpoint.training_state()


@functools.cache
def runtime() -> Runtime:
    return prepare_process(CONFIG.runtime)


def load_learner(path: Path) -> None:
    found = open_checkpoint(path, print)
    learner = Learner(CONFIG, runtime(), SilentReporter())
    learner.load(found.model_state(), found.training_state(), str(path))
    ids = torch.zeros(2, 8, dtype=torch.long)
    learner.learn(ids, ids, 0.1)


@functools.cache
def golden_data() -> TokenData:
    """The tokens that the golden checkpoint was trained on."""
    ids = np.arange(200, dtype=np.uint16)
    with TokenWriter.create(Path("../t"), vocab_size=16, fingerprint="golden") as writer:
        writer.write((ids * ids + ids // 7) % 16, num_documents=1, num_bytes=400)
    return TokenData(TokenFile.open(Path("../t")), None)


def restore(path: Path) -> None:
    """Go on from a checkpoint of the golden run, for a step."""
    from transformerlm.checkpoint.run_directory import RunDirectory
    from transformerlm.training.trainer import Trainer

    config = from_dict(TrainConfig, read_checkpoint(GOLDEN).about["config"])
    trainer = Trainer(config, golden_data(), RunDirectory(path), runtime(), SilentReporter())
    trainer.restore(open_checkpoint(path, print))
    trainer.take_step()
    trainer.budget.is_spent(trainer.step)


def infer(path: Path) -> None:
    """As transformerlm-infer does it, up to the text."""
    from transformerlm.language_model import LanguageModel

    LanguageModel.load(path, CONFIG.runtime)


LOADERS = {
    "load_checkpoint": load_one,
    "load_checkpoint, torch's AdamW": functools.partial(load_one, kind=torch.optim.AdamW),
    "load_tree": load_tree,
    "read_checkpoint": read_all,
    "latest_checkpoint": lambda path: latest_checkpoint(path, print),
    "Learner": load_learner,
    "Trainer": restore,
    "infer": infer,
}


def main(loader: str, directory: str, harmless: str) -> None:
    """Load what is harmless, for all imports to be done; then, watched, all that is in the folder."""
    load = LOADERS[loader]
    os.chdir(directory)  # where an "owned" would be seen
    signal.signal(signal.SIGALRM, too_late)
    resource.setrlimit(resource.RLIMIT_DATA, (memory("VmData") + 4096 * MIB, resource.RLIM_INFINITY))
    sys.addaudithook(alarm)
    with contextlib.suppress(TransformerLMError):
        load(Path(harmless))
    found = {"harmless": tell(lambda: load(Path(harmless)))}
    content = pickle.dumps(Evil())
    found["control"] = tell(lambda: pickle.loads(content))
    for path in sorted(Path().glob("[0-9]*")):
        found[path.name] = tell(functools.partial(load, path))
    print(json.dumps(found))


# And this in the process that tests.


def loaded_by(loader: str, hostile: dict, directory: Path, harmless: Path) -> dict:
    """What came of each: name -> what `tell` says. `hostile`: name -> function of the path to make it at."""
    for number, make in enumerate(hostile.values()):
        make(directory / f"{number:03}")
    command = [sys.executable, __file__, loader, str(directory), str(harmless)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    told = found.pop("harmless")
    assert told["outcome"] == "loaded", "\n".join(told["lines"])
    control = found.pop("control")  # the hook is awake
    assert control["outcome"] == "broken"
    assert "pickle.find_class" in control["lines"][-1]
    assert not (directory / "owned").exists()
    return dict(zip(hostile, found.values(), strict=True))


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


def hostile_dir(tmp_path) -> Path:
    (tmp_path / "hostile").mkdir()
    return tmp_path / "hostile"


@functools.cache
def content_of(name: str) -> bytes:
    return HOSTILE_FILES[name]()


def test_hostile_files_are_refused_and_nothing_in_them_is_run(harmless, tmp_path):
    makers = {name: lambda path, name=name: path.write_bytes(content_of(name)) for name in HOSTILE_FILES}
    makers |= {
        "a FIFO": os.mkfifo,
        "a folder": Path.mkdir,
        "a device that never ends": lambda path: path.symlink_to("/dev/zero"),
        "a link to itself": lambda path: path.symlink_to(path),
        "a link to nothing": lambda path: path.symlink_to("nothing"),
        "a terabyte of nothing": lambda path: (path.touch(), os.truncate(path, 2**40)),
    }
    found = loaded_by("load_checkpoint", makers, hostile_dir(tmp_path), harmless)
    check(found, {name: len(content_of(name)) if name in HOSTILE_FILES else 0 for name in makers})


def test_trees_that_make_sense_are_only_trees(harmless, tmp_path):
    makers = {name: lambda path, name=name: path.write_bytes(content_of(name)) for name in HOSTILE_FILES}
    found = loaded_by("load_tree", makers, hostile_dir(tmp_path), harmless)
    harmless_trees = (
        "forty thousand tensors",
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
    (path / "manifest.json").write_bytes(seal(manifest))
    return path


def test_a_checksum_that_is_right_vouches_for_nothing(tmp_path):
    both = dict.fromkeys(MEMBERS, file_of(tensors(tree='{"dict": []}')))
    makers, sizes = {}, {}
    for member in MEMBERS:
        for name in HOSTILE_FILES:
            content = both | {member: content_of(name)}
            makers[f"{member}: {name}"] = functools.partial(promising, contents=content)
            sizes[f"{member}: {name}"] = sum(map(len, content.values()))
    found = loaded_by(
        "read_checkpoint", makers, hostile_dir(tmp_path), promising(tmp_path / "harmless", both)
    )
    check(found, sizes, tuple(f"{member}: names of files elsewhere" for member in MEMBERS))


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


def test_folders_of_anything_but_two_files_and_a_manifest_are_refused(tmp_path):
    makers = {}
    for member in MEMBERS:
        for name, make in list(BAD_MANIFESTS.items())[:4]:
            makers[f"{member}: {name}"] = functools.partial(replaced, member=member, by=make)
    for name, make in BAD_MANIFESTS.items():
        makers[f"manifest: {name}"] = functools.partial(replaced, member="manifest.json", by=make)
    harmless = promising(tmp_path / "harmless", dict.fromkeys(MEMBERS, file_of(tensors(tree='{"dict": []}'))))
    found = loaded_by("read_checkpoint", makers, hostile_dir(tmp_path), harmless)
    check(found, dict.fromkeys(makers, 4 * MIB))


def changed(path: Path, tree: dict, change) -> None:
    """Write a file of `tree` after `change`; a function given the tree changes it in place."""
    change(tree)
    path.write_bytes(b"".join(tree_chunks(tree)[1]))


@pytest.mark.parametrize("loader", ["load_checkpoint", "load_checkpoint, torch's AdamW"])
def test_states_that_are_none_are_refused_and_change_nothing(loader, harmless, tmp_path):
    makers = {}
    for name, change in HOSTILE_OPTIMIZERS.items():
        makers[f"optimizer: {name}"] = lambda path, change=change: changed(
            path, load_tree(harmless), lambda tree: change(tree["optimizer"])
        )
    for name, change in HOSTILE_MODELS.items():
        makers[f"model: {name}"] = lambda path, change=change: changed(path, load_tree(harmless), change)
    found = loaded_by(loader, makers, hostile_dir(tmp_path), harmless)
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


def test_hostile_training_states_are_refused_by_the_learner(tokenizer, tmp_path):
    makers = {
        name: functools.partial(run_of, tokenizer=tokenizer, state=change)
        for name, change in HOSTILE_TRAINING_STATES.items()
    }
    found = loaded_by("Learner", makers, hostile_dir(tmp_path), run_of(tmp_path / "harmless", tokenizer))
    check(found, dict.fromkeys(makers, MIB), ("a scaler that is text",))


def test_hostile_words_about_a_run_are_refused_before_a_model_is_made_of_them(tokenizer, tmp_path):
    makers = {
        name: functools.partial(run_of, tokenizer=tokenizer, about=change)
        for name, change in HOSTILE_ABOUTS.items()
    }
    found = loaded_by("infer", makers, hostile_dir(tmp_path), run_of(tmp_path / "harmless", tokenizer))
    check(found, dict.fromkeys(makers, MIB))


def golden_run(path: Path, change=lambda about, state: None) -> Path:
    """A run's folder with the golden checkpoint, some of what is in it changed."""
    found = read_checkpoint(GOLDEN)
    about, state = found.about, found.training_state()
    change(about, state)
    write_checkpoint(path / "checkpoints", 2, found.model_state(), state, about)
    return path


def test_hostile_runs_are_not_gone_on_with(tmp_path):
    makers = {name: functools.partial(golden_run, change=change) for name, change in HOSTILE_RESTORES.items()}
    found = loaded_by("Trainer", makers, hostile_dir(tmp_path), golden_run(tmp_path / "harmless"))
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


if __name__ == "__main__":
    main(*sys.argv[1:])
