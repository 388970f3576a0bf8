"""What a group of ranks has to do for the tests: trainings by name, and commands."""

import random

from tests.model_options import TOGETHER

CONFIG = """
[data]
corpus = "{folder}/corpus"
token_dir = "{folder}/{name}/tokens"

[tokenizer]
vocab_size = 300
tokenizer_dir = "{folder}/{name}/tokenizer"

[model]
context_length = 16
d_model = 16
num_layers = 1
num_heads = 2
d_ff = 32

[schedule]
warmup_steps = 2

[training]
run_dir = "{folder}/{name}/run"
max_steps = 6
batch_size = 4
validate_every = 3
checkpoint_every = 3
sample_every = 2
log_every = 1

[generation]
prompts = ["The "]
max_new_tokens = 4

[runtime]
device = "cpu"
dtype = "float32"
sharding = "full"
"""

TABLES = {
    "model": {
        "vocab_size": 66,
        "context_length": 16,
        "d_model": 16,
        "num_layers": 2,
        "num_heads": 2,
        "d_ff": 40,
    },
    "optimizer": {"lr": 1e-2},
    "schedule": {"warmup_steps": 2, "cosine_steps": 8},
    "training": {
        "max_steps": 8,
        "batch_size": 8,
        "validate_every": 3,
        "checkpoint_every": 4,
        "keep_checkpoints": 9,
        "log_every": 1,
    },
    "logging": {"activation_norms": True, "weight_norms": True},
    "runtime": {"device": "cpu", "dtype": "float32"},
}
MODEL = {"tie_embeddings": True, "qk_norm": True, "num_kv_heads": 1}
OPTIONS = MODEL | TOGETHER

SAME = {
    "plain": {},
    "checkpointed": {
        "runtime": {"activation_checkpointing": True, "kernels": False},
        "model": MODEL,
        "training": {"micro_batch_size": 1},
    },
    "muon": {"optimizer": {"name": "muon"}, "model": OPTIONS, "training": {"micro_batch_size": 1}},
}
"""What has to be the same on any number of ranks, by case: what differs from TABLES."""
FEW = {"training": {"max_steps": 4}}
BACK = {"training": {"on_nonfinite": "rollback", "checkpoint_every": 4}}
BEGUN = {"changes": {"optimizer": {"name": "muon"}}, "signal_at": [0, 4]}
STRAIGHT = {"changes": {"optimizer": {"name": "muon"}}}
OTHER = {"none": "full", "full": "none"}


def changed(tables, changes):
    keys = {*tables, *changes}
    return {key: {**tables.get(key, {}), **changes.get(key, {})} for key in keys}


def case(changes=None, sharding="none", **options):
    tables = changed(TABLES, changes or {})
    return {"tables": changed(tables, {"runtime": {"sharding": sharding}}), **options}


def alone_cases():
    """What a single process trains, to be compared with ranks, or gone on with by them."""
    cases = {name: case(changes) for name, changes in SAME.items()}
    cases["short"] = case(FEW, val="short")
    cases["mixed"] = case(val="mixed")
    cases["float16"] = case({"runtime": {"dtype": "float16"}})
    cases["begun"] = case(**BEGUN)
    cases["straight"] = case(**STRAIGHT)
    cases["back"] = case(BACK, lost=[0, 6])
    return cases


def trainings(folder, alone):
    """In `folder` are runs of ranks that were stopped half way, in `alone` those of a single process."""
    cases = {}
    for sharding in ("none", "full"):
        for name, changes in SAME.items():
            cases[f"{name}_{sharding}"] = case(changes, sharding)
        cases[f"short_{sharding}"] = case(FEW, sharding, val="short")
        cases[f"mixed_{sharding}"] = case({}, sharding, val="mixed")
        cases[f"float16_{sharding}"] = case({"runtime": {"dtype": "float16"}}, sharding)
        cases[f"begun_{sharding}"] = case(sharding=sharding, **BEGUN)
        cases[f"straight_{sharding}"] = case(sharding=sharding, **STRAIGHT)
        cases[f"signalled_{sharding}"] = case({}, sharding, signal_at=[1, 3])
        cases[f"nan_{sharding}"] = case({}, sharding, nan=True)
        cases[f"back_{sharding}"] = case(BACK, sharding, lost=[1, 6])
    for sharding in ("none", "full"):
        options = {**STRAIGHT, "sharding": sharding}
        cases[f"itself_to_{sharding}"] = case(**options, begun=f"begun_{sharding}")
        cases[f"alone_to_{sharding}"] = case(**options, begun=f"{alone}/begun")
        cases[f"other_to_{sharding}"] = case(**options, begun=f"{folder}/begun_{OTHER[sharding]}")
    time = {"max_steps": None, "max_time": "40s", "validate_every": 10, "checkpoint_every": 10}
    cases["timed"] = case({"training": time, "schedule": {"cosine_steps": None}}, clock=0.5)
    cases["no_memory"] = case({}, no_memory=[1, 1, 1])
    cases["unequal"] = case({"training": {"batch_size": 9}})
    cases["unequal_parts"] = case({"training": {"micro_batch_size": 8}})
    return cases


def ends():
    """What ends two ranks, or leaves them where they cannot go on together."""
    cases = {}
    for sharding in ("none", "full"):
        cases[f"killed_{sharding}"] = case(sharding=sharding, killed=[1, 3])
        cases[f"memory_{sharding}"] = case(sharding=sharding, no_memory=[1, 1, 3])
    for rank in (0, 1):
        cases[f"saving_{rank}"] = case(sharding="full", killed_saving=[rank, 4])
    return cases


def write_corpus(folder):
    """A corpus, and one with a byte that is not UTF-8."""
    generator = random.Random(0)
    words = ["the", " cat", "'s", " on", " mat", " 漢字", ".", "\n", "\n\n", " 123", "é", "  "]
    for name in ("corpus", "bad"):
        (folder / name).mkdir()
        for number in range(40):
            text = "".join(generator.choices(words, k=200))
            (folder / name / f"{number}.txt").write_text(text, encoding="utf-8")
    with (folder / "bad" / "7.txt").open("ab") as file:
        file.write(b" \xff " + b"text " * 100)


def write_config(folder, name):
    """A config whose results lie in `folder/name`; its path."""
    path = folder / f"{name}.toml"
    path.write_text(CONFIG.replace("{folder}", str(folder)).replace("{name}", name))
    return path


def make_data_words(folder, name, corpus="corpus"):
    return [
        f"--data.corpus={folder / corpus}",
        "--tokenizer.vocab_size=300",
        f"--tokenizer.tokenizer_dir={folder}/{name}/tokenizer",
        f"--data.token_dir={folder}/{name}/tokens",
    ]


def start_words(folder, sharding):
    return [
        f"--runtime.sharding={sharding}",
        f"--training.run_dir={folder}/started_{sharding}",
        f"--training.start_from={folder}/ranks/run",
    ]


def commands(folder):
    """Name -> command, arguments."""
    train = ["--config", str(folder / "ranks.toml")]
    return {
        "made": ("make_data", make_data_words(folder, "files")),
        "made_again": ("make_data", make_data_words(folder, "files")),
        "bad_byte": ("make_data", make_data_words(folder, "bad_files", "bad")),
        "no_such_key": ("make_data", ["--data.corpora=none"]),
        "planned": ("train", [*train, "--plan"]),
        "trained": ("train", train),
        "verified": ("train", [*train, "--verify-resume", "4"]),
        "started_none": ("train", [*train, *start_words(folder, "none")]),
        "started_full": ("train", [*train, *start_words(folder, "full")]),
        "unequal": ("train", [*train, "--training.batch_size=5"]),
        "locked": ("train", [*train, f"--training.run_dir={folder}/locked"]),
    }
