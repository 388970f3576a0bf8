"""A program that loads hostile checkpoints under an audit hook, and says how each attempt ended.

The hook allows no unpickling, no code from data, no other program and no written file.
"""

import contextlib
import functools
import json
import os
import pickle
import re
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tests.faults.hostile_files import MIB, Evil
from transformerlm.checkpoint.run_directory import RunDirectory
from transformerlm.checkpoint.store import (
    latest_checkpoint,
    load_checkpoint,
    open_checkpoint,
    read_checkpoint,
)
from transformerlm.config import ModelConfig, OptimizerConfig, RuntimeConfig, TrainConfig, TrainingConfig
from transformerlm.data import TokenData, TokenFile, TokenWriter
from transformerlm.errors import CheckpointError, TransformerLMError
from transformerlm.language_model import LanguageModel
from transformerlm.optim import AdamW
from transformerlm.progress import SilentReporter
from transformerlm.runtime import Runtime
from transformerlm.schema import from_dict
from transformerlm.storage.tree import load_tree
from transformerlm.training.learner import Learner
from transformerlm.training.trainer import Trainer

GOLDEN = Path(__file__).parents[1] / "golden" / "checkpoint_1" / "step_00000002"
MODEL = ModelConfig(vocab_size=259, context_length=8, d_model=8, num_layers=1, num_heads=2, d_ff=16)
CONFIG = TrainConfig(
    model=MODEL,
    optimizer=OptimizerConfig(),
    training=TrainingConfig(batch_size=2, micro_batch_size=2),
    runtime=RuntimeConfig(device="cpu", dtype="float32", num_threads=1),
)

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
    """Return how `load()` ended: the outcome, the lines or the traceback, CPU seconds and bytes taken."""
    signal.alarm(100)  # ends what would not end
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
    return Runtime.from_config(CONFIG.runtime)


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
    config = from_dict(TrainConfig, read_checkpoint(GOLDEN).about["config"])
    trainer = Trainer(config, golden_data(), RunDirectory(path), runtime(), SilentReporter())
    trainer.restore(open_checkpoint(path, print))
    trainer.take_step()
    trainer.budget.is_spent(trainer.step)


def infer(path: Path) -> None:
    """Load like transformerlm-infer."""
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


def answer(loader: str, directory: str, harmless: str) -> dict:
    """Load what is harmless, for all imports to be done; then, watched, all that is in the folder."""
    load = LOADERS[loader]
    os.chdir(directory)  # where an "owned" would be seen
    with contextlib.suppress(TransformerLMError):
        load(Path(harmless))
    found = {"harmless": tell(lambda: load(Path(harmless)))}
    content = pickle.dumps(Evil())
    found["control"] = tell(lambda: pickle.loads(content))
    for path in sorted(Path().glob("[0-9]*")):
        found[path.name] = tell(functools.partial(load, path))
    return found


def main() -> None:
    """Answer requests, one JSON list a line, each with one JSON object on a line."""
    signal.signal(signal.SIGALRM, too_late)
    resource.setrlimit(resource.RLIMIT_DATA, (memory("VmData") + 4096 * MIB, resource.RLIM_INFINITY))
    sys.addaudithook(alarm)
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            found = answer(*json.loads(line))
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
