"""The README's promises: its commands work in the order shown, its reference is complete."""

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from transformerlm.config import (
    EvalConfig,
    ExportConfig,
    ImportConfig,
    InferConfig,
    MakeDataConfig,
    TrainConfig,
    TrainTokenizerConfig,
)
from transformerlm.schema import field_docs, field_types

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

TINY = [
    *('--data.include=["[ab]*.py"]', "--data.validation_fraction=0.2", "--tokenizer.vocab_size=300"),
    *("--model.d_model=32", "--model.num_layers=1", "--model.num_heads=2", "--model.d_ff=32"),
    *(
        "--training.max_steps=4",
        "--training.max_time=None",
        "--training.batch_size=2",
        "--schedule.warmup_steps=1",
    ),
    *("--generation.max_new_tokens=4", "--runtime.compile=false"),
]

SHORTER = {
    "transformerlm-train --config configs/train.toml": TINY,
    "transformerlm-train --config configs/tinystories/train.toml": TINY[2:],
    "transformerlm-train --config runs/imported/config.toml": [
        *("--training.max_steps=4", "--training.batch_size=2", "--schedule.warmup_steps=1"),
        "--generation.max_new_tokens=4",
    ],
    "transformerlm-train-tokenizer --config configs/tinystories": TINY[2:3],
    "transformerlm-make-data --config configs/tinystories": TINY[2:3],
    "torchrun --nproc-per-node 2 -m transformerlm.cli.train ": ["--training.max_steps=60"],
    "python -m benchmarking.search_train": [
        *('--search.candidates=[""]', f"--search.arguments={shlex.join(TINY)}"),
    ],
    "pytest": ["--collect-only", "-q"],
}
"""What is added to a command that begins so, to make it short."""

NOT_RUN = {
    "curl": "downloads; the test writes two small files instead",
    "wandb": "needs an account; tests/test_sweeps.py runs the agent's own code",
}


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def shortened(command: str) -> str:
    name = command.split("|")[-1].strip().removeprefix("uv run ")
    extra = next((words for start, words in SHORTER.items() if name.startswith(start)), [])
    if "--print-config" in command:
        extra = []
    # The environment is the one that the tests run in; uv would make another one for the copy.
    return f"{command} {shlex.join(extra)}".replace("uv run ", "")


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A copy of what is under version control, with the text files that the README speaks of."""
    folder = tmp_path_factory.mktemp("clone") / "transformerlm"
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "data", "runs", "wandb", "dist", ".*_cache", "__pycache__"
    )
    for name in ("README.md", "pyproject.toml", "configs", "sweeps", "benchmarking", "tests", "src"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=None if name == "src" else ignored)
        else:
            folder.mkdir(exist_ok=True)
            shutil.copy(source, folder / name)
    (folder / "path" / "to").mkdir(parents=True)
    (folder / "path/to/folder-or-file").write_text("Whose woods these are I think I know. " * 200)
    return folder


def write_stories(folder: Path) -> None:
    for name, count in (("train", 60), ("valid", 30)):
        stories = [f"Once upon a time there was a cat number {n}. It was happy.\n" * 4 for n in range(count)]
        (folder / "data" / f"TinyStoriesV2-GPT4-{name}.txt").write_text("<|endoftext|>\n".join(stories))


@pytest.mark.slow
def test_every_command_works_as_written_and_in_order(clone):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(clone)}
    run = 0
    for command in commands():
        name = command.removeprefix("uv run ").split()[0]
        if name == "curl":
            write_stories(clone)
        if name in NOT_RUN:
            continue
        done = subprocess.run(
            ["bash", "-c", shortened(command)], cwd=clone, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if name.startswith("transformerlm-") and not {"--print-config", "--plan"} & set(command.split()):
            for line in done.stdout.splitlines():
                json.loads(line)
        run += 1
    assert run >= 15


@pytest.mark.slow
def test_the_python_of_the_readme_runs(clone):
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    if not (clone / "runs/tiny").exists():  # one of them writes with the model of the commands
        words = ["transformerlm.cli.train", "--config", "configs/train_tiny.toml", "--training.max_steps=60"]
        subprocess.run([sys.executable, "-m", *words], cwd=clone, capture_output=True, check=True)
    for code in blocks:
        done = subprocess.run([sys.executable, "-c", code], cwd=clone, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def reference() -> str:
    """The section "Every key", made from config.py."""
    seen: dict[str, type] = {}
    commands = (
        TrainConfig,
        MakeDataConfig,
        TrainTokenizerConfig,
        InferConfig,
        EvalConfig,
        ExportConfig,
        ImportConfig,
    )
    for config_class in commands:
        for table, section in field_types(config_class).items():
            known = seen.get(table)
            seen[table] = section if known is None or issubclass(section, known) else known
    lines = []
    for table, section in seen.items():
        lines += [f"**[{table}]**", "", "| key | default | |", "|---|---|---|"]
        defaults, docs = section(), field_docs(section)
        for field in dataclasses.fields(section):
            default = str(getattr(defaults, field.name)) if field.name != "pattern" else "GPT-2's"
            default = default.replace("|", "\\|") or '""'
            text = " ".join(docs[field.name].split()).replace("|", "\\|")
            lines.append(f"| `{field.name}` | `{default}` | {text} |")
        lines.append("")
    return "\n".join(lines)


def test_the_reference_is_that_of_the_config():
    assert reference() in README, f"the section 'Every key' should read:\n\n{reference()}"


def test_every_config_file_is_one_that_its_command_takes():
    from transformerlm.cli.command import Arguments, load_config

    kinds = {
        "train_tokenizer": TrainTokenizerConfig,
        "make_data": MakeDataConfig,
        "train": TrainConfig,
        "infer": InferConfig,
        "eval": EvalConfig,
        "export": ExportConfig,
        "import": ImportConfig,
    }
    paths = [
        path for path in (ROOT / "configs").rglob("*.toml") if not path.name.startswith(("bench_", "search_"))
    ]
    assert len(paths) == 17
    for path in paths:
        kind = next(kinds[name] for name in kinds if path.name.startswith(name))
        load_config(kind, Arguments(config_path=path))


def test_the_layout_names_what_there_is():
    (tree,) = re.findall(r"^src/transformerlm/\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    named = re.findall(r"[a-z_]+\.py\b", tree)
    for name in re.findall(r"^  ([a-z_]+/|[a-z_]+\.py)", tree, flags=re.MULTILINE):
        assert (ROOT / "src/transformerlm" / name).exists(), name
    for name in named:
        assert list((ROOT / "src/transformerlm").rglob(name)), name
    for path in (ROOT / "src/transformerlm").iterdir():
        assert path.name in named or f"  {path.name}/" in tree or path.name.startswith(("_", "py.")), path


def test_the_exit_statuses_are_those_of_the_errors():
    from transformerlm import errors

    for error in vars(errors).values():
        if (
            isinstance(error, type)
            and issubclass(error, errors.TransformerLMError)
            and error.exit_status != 1
        ):
            assert f"\n| {error.exit_status} | " in README, error
