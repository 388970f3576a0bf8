"""A stand-in for a checkout of nanoGPT: same command line, same output, a model that counts pairs."""

import itertools
import math
from collections import Counter
from pathlib import Path

TRAIN = """
import pickle, sys, time
from pathlib import Path
import numpy as np, torch
from model import GPT, GPTConfig

assert Path(sys.argv[1]).is_file()
values = dict(word.removeprefix("--").split("=") for word in sys.argv[2:])
data = Path("data") / values["dataset"]
size = pickle.loads((data / "meta.pkl").read_bytes())["vocab_size"]
ids = np.fromfile(data / "train.bin", dtype=np.uint16)
arguments = {"vocab_size": size, "block_size": 8}
model = GPT(GPTConfig(**arguments))
with torch.no_grad():
    model.table.weight.fill_(1.0)
    for pair in zip(ids[:-1].tolist(), ids[1:].tolist()):
        model.table.weight[pair] += 1
    model.table.weight.log_()
for number in range(int(values["max_iters"]) + 1):
    start = time.time()
    time.sleep(0.01)
    print(f"iter {number}: loss 1.0000, time {1000 * (time.time() - start):.2f}ms, mfu 1.00%")
Path("out-characters").mkdir(exist_ok=True)
torch.save({"model": model.state_dict(), "model_args": arguments}, "out-characters/ckpt.pt")
"""
MODEL = """
from dataclasses import dataclass
import torch

@dataclass
class GPTConfig:
    vocab_size: int
    block_size: int

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        print("number of parameters: few")
        self.block_size = config.block_size
        self.table = torch.nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(self, inputs, targets):
        assert inputs.shape[1] <= self.block_size
        logits = self.table(inputs)
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""


def write_checkout(folder: Path) -> Path:
    """Write the stand-in into `folder`."""
    (folder / "config").mkdir(parents=True)
    (folder / "config/train_shakespeare_char.py").write_text("")
    (folder / "train.py").write_text(TRAIN)
    (folder / "model.py").write_text(MODEL)
    return folder


def pair_bits_per_byte(train: str, val: str) -> float:
    """Return what the model that counts pairs needs for `val`, in bits per byte: one character at a time."""
    size = len(set(train + val))
    pairs, firsts = Counter(itertools.pairwise(train)), Counter(train[:-1])
    bits = [-math.log2((pairs[pair] + 1) / (firsts[pair[0]] + size)) for pair in itertools.pairwise(val)]
    return sum(bits) / len(bits) * len(val) / len(val.encode())
