"""The pages of the documentation, and how their commands are run in a test: in this process, and briefly."""

import re
import shlex
import tomllib
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
FIRST = ["README.md", *(f"docs/{name}.md" for name in ("road", "training", "writing", "evaluation"))]
PAGES = [*FIRST, *sorted({str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md")} - set(FIRST))]
PAGES += ["CONTRIBUTING.md", "CHANGELOG.md", "benchmarking/README.md"]
"""In the order in which their commands build on each other."""

TINY_DATA = ['--data.include=["[ab]*.py"]', "--data.validation_fraction=0.2", "--tokenizer.vocab_size=300"]
TINY_RUN = [
    *("--model.d_model=32", "--model.num_layers=1", "--model.num_heads=2", "--model.d_ff=32"),
    *("--training.max_steps=4", "--training.max_time=None", "--training.batch_size=2"),
    *("--schedule.warmup_steps=1", "--generation.max_new_tokens=4", "--runtime.compile=false"),
]
ROAD = [*TINY_DATA, "--training.checkpoint_every=4", "--training.validate_every=0"]
ROAD += ["--schedule.warmup_steps=1", "--training.batch_size=4", "--generation.max_new_tokens=4"]

SHORTER = {
    "transformerlm-train --config configs/train.toml": TINY_DATA + TINY_RUN,
    "transformerlm-train --data.corpus": TINY_DATA + TINY_RUN,
    "transformerlm-train --config configs/tinystories/train.toml": [TINY_DATA[2], *TINY_RUN],
    "transformerlm-train --config runs/imported/config.toml": TINY_RUN[4:],
    "transformerlm-train-tokenizer --config configs/tinystories": TINY_DATA[2:],
    "transformerlm-make-data --config configs/tinystories": TINY_DATA[2:],
    "transformerlm-train-tokenizer": TINY_DATA,
    "transformerlm-make-data": TINY_DATA,
    "transformerlm-sweep": [
        *(*TINY_DATA, *TINY_RUN),
        *("--sweep.max_trials=1", "--sweep.rungs=1", "--sweep.finalists=0", "--training.checkpoint_every=4"),
    ],
    "transformerlm-data inspect": TINY_DATA,
    "transformerlm-data inspect data/": [],
    "transformerlm-data show data/tiny/train.memmap --at 1000": ["--at", "10"],
    "transformerlm-eval": TINY_DATA[:2],
    "transformerlm-infer": ["--generation.max_new_tokens=8"],
    "transformerlm-train --config configs/train_tiny.toml --training.run_dir=runs/timed": [
        *ROAD,
        "--training.max_time=1s",
    ],
    "transformerlm-train --config configs/train_tiny.toml --training.max_steps=1200 --verify-resume": [
        *ROAD,
        *("--training.max_steps=12", "--verify-resume", "4"),
    ],
    "transformerlm-train --config configs/train_tiny.toml --training.max_steps=1200": [
        *ROAD,
        "--training.max_steps=12",
    ],
    "transformerlm-train --config configs/train_tiny.toml": [*ROAD, "--training.max_steps=8"],
}
"""What is added to a command that begins so, to make it short; the longest beginning counts."""

RENAMED = {"step_00001000": "step_00000008"}
"""What the short runs call their checkpoints."""

PARSED_ONLY = {
    "curl": "downloads; the test writes two small files instead",
    "wandb": "needs an account; tests/test_sweeps.py runs the agent's own code",
    "tensorboard": "serves until it is stopped; tests/logging/test_tensorboard.py has its reader",
    "pytest": "is what runs this",
    "ruff": ".ci/run runs it",
    "mypy": ".ci/run runs it",
    "sphinx-build": ".ci/run runs it",
    "uv": "installs packages",
    "torchrun": "tests/distributed starts ranks; here its arguments and the command's are checked",
    "python": "tests/benchmarking and tests/faults run these; here their arguments are checked",
}
"""Commands that are checked and not run here, and why."""


@dataclass(frozen=True)
class Command:
    """A line of an `sh` block."""

    page: str
    line: str

    @property
    def words(self) -> list[str]:
        """The words behind the pipe and `uv run`, without assignments of environment variables."""
        words = shlex.split(self.line.split("|")[-1] if self.line.startswith("echo") else self.line)
        while re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        return words[2:] if words[:2] == ["uv", "run"] else words

    @property
    def name(self) -> str:
        """The program."""
        return self.words[0]

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables that are set for it."""
        return dict(re.findall(r"\b([A-Z_]{3,})=(\S+)", self.line.partition("uv run")[0]))

    @property
    def stdin(self) -> str:
        """What `echo` gives it."""
        return f"{shlex.split(self.line)[1]}\n" if self.line.startswith("echo") else ""

    def shortened(self) -> list[str]:
        """The arguments, with what makes it short."""
        words = " ".join(self.words)
        starts = [start for start in SHORTER if words.startswith(start)]
        extra = SHORTER[max(starts, key=len)] if starts and "--print-config" not in words else []
        arguments = [*self.words[1:], *extra]
        for long, short in RENAMED.items():
            arguments = [word.replace(long, short) for word in arguments]
        return arguments


def blocks(page: str, language: str) -> list[str]:
    """Code blocks of one language on a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[Command]:
    """Every command on every page, each once."""
    found: dict[str, Command] = {}
    for page in PAGES:
        for line in "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
            if line and not line.startswith("#"):
                found.setdefault(line, Command(page, line))
    return list(found.values())


def main_of(program: str):
    """The function that a console script or a module calls."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts.get(program, f"{program}:main").partition(":")
    return getattr(import_module(module), name)
