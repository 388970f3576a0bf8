"""Results of the training and generation kernels, without PyTorch: to compare two processors.

    python -m tests.kernels.without_torch A.npz            # on each of them
    python -m tests.kernels.without_torch --compare A.npz B.npz

PyTorch judges the kernels in the tests. Where it is not to be had, as under an emulator of another processor,
the results on a processor that passed the tests are the judge. numba and numpy are needed, and nothing else.
"""

import sys
from pathlib import Path

import numpy as np

from transformerlm.kernels.generation_layout import BARRIER_SIZE, NUM_BINS, NUM_MATRICES
from transformerlm.kernels.library import Kernels, Library

ROWS, WIDTH, TIMES = 6, 48, 40
TEXTS, LAYERS, D_MODEL, HEADS, KV_HEADS, D_HEAD, D_FF, VOCABULARY, CAPACITY = 3, 2, 48, 4, 2, 12, 80, 101, 24
NUM_THREADS = 2
RELATIVE_ERROR = {"float32": 1e-4, "bfloat16": 2e-2}
"""Of the largest number of a result: sums are taken in another order, and bfloat16 rounds to 8 bits."""


class Memory:
    """Random arrays in a dtype, bfloat16 as the upper halves of float32."""

    def __init__(self, dtype: str) -> None:
        self.dtype, self.numbers = dtype, np.random.default_rng(7)

    def random(self, *shape: int, dtype: str | None = None, scale: float = 1.0) -> np.ndarray:
        x = (self.numbers.standard_normal(shape) * scale).astype(np.float32)
        return x if (dtype or self.dtype) == "float32" else (x.view(np.uint32) >> 16).astype(np.uint16)


def float32(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def as_float32(x: np.ndarray) -> np.ndarray:
    return (x.astype(np.uint32) << 16).view(np.float32) if x.dtype == np.uint16 else x


def run(kernels: Kernels, name: str, arguments: dict[str, object]) -> dict[str, np.ndarray]:
    """Run a kernel; return its arrays afterwards, inputs included."""
    kernel = getattr(kernels, name)
    values = [arguments[parameter] for parameter in kernel.parameters]
    kernel.run_on_threads(NUM_THREADS, *(v.ctypes.data if isinstance(v, np.ndarray) else v for v in values))
    arrays = {key: value for key, value in arguments.items() if isinstance(value, np.ndarray)}
    return {key: as_float32(array) for key, array in arrays.items() if key not in SCRATCH}


SCRATCH = {"addresses", "weights", "scratch", "inputs", "bins", "barrier_state"}


def training(name: str) -> dict[str, object]:
    """Arguments of a training kernel."""
    *kernel, outside = name.split("_")
    inside = kernel.pop() if kernel[-1] in RELATIVE_ERROR else outside
    x, y = Memory(inside), Memory(outside)
    weight, parts = x.random(WIDTH, dtype="float32"), float32(NUM_THREADS, WIDTH)
    sizes = {"rows": ROWS, "width": WIDTH}
    scores = x.random(ROWS * TIMES, TIMES)
    attention = {"log_sums": float32(ROWS * TIMES) + 3, "scratch": float32(NUM_THREADS, TIMES)}
    attention |= {"rows": ROWS * TIMES, "queries": TIMES, "first_query": 0, "keys": TIMES, "scale": 0.3}
    strides = {f"{which}_{axis}": n for which in ("x", "out") for axis, n in STRIDES.items()}
    arguments = {
        "rms_norm": {"out": y.random(ROWS, WIDTH), "eps": 1e-5},
        "rms_norm_back": {
            "grad": y.random(ROWS, WIDTH),
            "grad_x": x.random(ROWS, WIDTH),
            "grad_weight": parts,
        },
        "swiglu": {"gate_up": x.random(ROWS, 2 * WIDTH), "out": x.random(ROWS, WIDTH)},
        "swiglu_back": {
            "grad": x.random(ROWS, WIDTH),
            "gate_up": x.random(ROWS, 2 * WIDTH),
            "grad_gate_up": x.random(ROWS, 2 * WIDTH),
        },
        "rotate": {
            "cos": x.random(TIMES, 6, dtype="float32"),
            "sin": x.random(TIMES, 6, dtype="float32"),
            **{"x": x.random(2, 3, TIMES, 12), "out": x.random(2, 3, TIMES, 12), **strides},
            **{"batch": 2, "heads": 3, "times": TIMES, "pairs": 6, "sign": -1.0},
        },
        "attend": {"scores": scores, **attention},
        "attend_back": {"scores": scores, "grad": x.random(ROWS * TIMES, TIMES), **attention},
        "cross_entropy": {
            "logits": x.random(ROWS, WIDTH, scale=4.0),
            "targets": integers(*range(ROWS)),
            "nats": float32(ROWS),
            "scale": 0.25,
        },
        "adamw": adamw(x),
    }["_".join(kernel)]
    norm = {"x": x.random(ROWS, WIDTH), "weight": weight, "inverse_rms": float32(ROWS) + 0.5}
    return sizes | (norm if kernel[0] == "rms" else {}) | arguments


STRIDES = {"batch": 3 * TIMES * 12, "head": TIMES * 12, "time": 12}


def adamw(memory: Memory) -> dict[str, object]:
    weight, grad, mean, square = (memory.random(WIDTH) for _ in range(4))
    square = np.abs(square)
    arrays = {"own weight": weight, "own grad": grad, "own mean": mean, "own square": square}
    return {
        **arrays,
        "addresses": integers(*(array.ctypes.data for array in arrays.values())),
        **{"sizes": integers(WIDTH), "tensors": 1, "beta1": 0.9, "beta2": 0.95, "step_size": 0.01},
        **{"decay": 0.99, "root": 1.1, "eps": 1e-8},
    }


def decode(dtype: str) -> dict[str, object]:
    """Arguments of a pass: the newest token of two texts, and two tokens of a third."""
    memory, keys = Memory(dtype), KV_HEADS * D_HEAD
    shapes = [
        (D_MODEL,),
        (D_MODEL, D_MODEL),
        (keys, D_MODEL),
        (keys, D_MODEL),
        (D_MODEL, D_MODEL),
        (D_MODEL,),
    ]
    shapes += [(D_FF, D_MODEL), (D_FF, D_MODEL), (D_MODEL, D_FF), (D_HEAD,), (D_HEAD,)]
    shapes += [(D_MODEL,), (keys,), (keys,)]  # biases
    window, has_rope = 5, 1
    assert len(shapes) + 2 == NUM_MATRICES
    layers = [[memory.random(*shape, scale=0.2) for shape in shapes] for _ in range(LAYERS)]
    KEPT.extend(layers)
    cache = (LAYERS, TEXTS, KV_HEADS, CAPACITY, D_HEAD)
    return {
        **{"ids": integers(5, 17, 100, 31), "row_of": integers(0, 1, 2, 2), "wanted": integers(0, 1, 3)},
        "positions": integers(0, 7, CAPACITY - 2, CAPACITY - 1),
        "embedding": memory.random(VOCABULARY, D_MODEL),
        "weights": integers(
            *(
                number
                for layer in layers
                for number in (*(matrix.ctypes.data for matrix in layer), window, has_rope)
            )
        ),
        # Of stored floats there are no scales.
        **{name: np.zeros(1, np.uint16) for name in ("embedding_scales", "head_scales")},
        "scales": integers(*[0] * LAYERS * NUM_MATRICES),
        "final_norm": memory.random(D_MODEL),
        "head": memory.random(VOCABULARY, D_MODEL, scale=0.2),
        **{"keys": memory.random(*cache), "values": memory.random(*cache)},
        **{name: memory.random(CAPACITY, D_HEAD // 2, dtype="float32") for name in ("cos", "sin")},
        "logits": float32(TEXTS, VOCABULARY),
        **{"scratch": float32(10_000), "inputs": float32(10_000)},
        "barrier_state": integers(*[0] * BARRIER_SIZE),
        **{"tokens": TEXTS + 1, "num_wanted": TEXTS},
        **{"layers": LAYERS, "d_model": D_MODEL, "heads": HEADS, "kv_heads": KV_HEADS},
        **{"d_head": D_HEAD, "d_ff": D_FF, "vocabulary": VOCABULARY, "rows": TEXTS, "capacity": CAPACITY},
        "eps": 1e-5,
    }


KEPT: list[object] = []
"""Arrays of which a kernel gets only the addresses."""


def sample() -> dict[str, object]:
    memory = Memory("float32")
    return {
        "logits": memory.random(ROWS, VOCABULARY, scale=3.0),
        "uniforms": np.linspace(0, 0.99, ROWS, dtype=np.float32),
        **{"ids": np.zeros(ROWS, np.int64), "scratch": float32(NUM_THREADS, VOCABULARY)},
        **{
            "bins": np.zeros((NUM_THREADS, NUM_BINS)),
            "rows": ROWS,
            "stride": VOCABULARY,
            "width": VOCABULARY,
        },
        **{"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.01},
    }


def results() -> dict[str, np.ndarray]:
    """Return the arrays of all kernels, by `kernel.argument`."""
    found = {}
    for library, names in (("training", None), ("generation", ("decode", "sample"))):
        kernels = Library(library, f"transformerlm.kernels.{library}", [], 10).kernels()
        for name in sorted(key for key in vars(kernels) if key.endswith(("float32", "bfloat16"))):
            if names is None:
                arguments = training(name)
            else:
                arguments = sample() if name.startswith("sample") else decode(name.rpartition("_")[-1])
            found |= {f"{name}.{key}": value for key, value in run(kernels, name, arguments).items()}
    return found


def differences(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the results that differ by more than rounding, with the largest difference."""
    assert one.keys() == other.keys()
    found = {}
    for name, x in one.items():
        error = float(np.abs(x.astype(np.float64) - other[name]).max() / max(1e-9, np.abs(x).max()))
        if not error <= RELATIVE_ERROR["bfloat16" if "bfloat16" in name else "float32"]:
            found[name] = error
    return found


if __name__ == "__main__":
    if sys.argv[1] == "--compare":
        one, other = (dict(np.load(path)) for path in sys.argv[2:])
        found = differences(one, other)
        print(f"{len(one)} arrays, {len(found)} differ by more than rounding", found)
        sys.exit(bool(found))
    np.savez(Path(sys.argv[1]), **results())
