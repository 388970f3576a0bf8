"""The house: imports point down, heavy imports stay where they are used, every config key is read."""

import ast
import dataclasses
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from transformerlm import config as configs
from transformerlm.schema import Section, field_docs, field_types, is_section

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "transformerlm"

FLOORS = [
    {"errors", "limits", "progress", "signals"},
    {"storage", "schema", "parallel"},
    {"config"},
    {"kernels", "distributed", "logging"},
    {"runtime", "nn", "tokenizer", "control", "ngrams"},
    {"optim", "infer", "data"},
    {"checkpoint"},
    {"language_model"},
    {"evaluation", "conversion", "recipe"},
    {"report", "serve"},
    {"training"},
    {"sweep"},
    {"cli"},
    {"__main__"},
]
"""From the ground up. A room imports from the floors below its own, never from beside or above it."""

COMMANDS = [
    *("train", "train_tokenizer", "make_data", "infer", "eval", "export", "import_model", "status", "report"),
    *("serve", "sweep"),
    *("data", "data_inspect", "data_show", "data_verify", "data_merge"),
    "main",
]
CONFIG_CLASSES = [
    configs.TrainConfig,
    configs.TrainTokenizerConfig,
    configs.MakeDataConfig,
    configs.InferConfig,
    configs.EvalConfig,
    configs.ExportConfig,
    configs.ImportConfig,
    configs.StatusConfig,
    configs.ReportConfig,
    configs.SweepConfig,
    configs.InspectConfig,
    configs.ShowConfig,
    configs.VerifyConfig,
    configs.MergeConfig,
    configs.ServeConfig,
]


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def nodes_of(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text()))


@functools.cache
def imported_modules(path: Path) -> set[str]:
    modules = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def test_every_room_has_a_floor():
    rooms = {path.stem for path in SOURCE.glob("*.py")} | {path.parent.name for path in SOURCE.glob("*/*.py")}
    assert rooms - {"__init__"} == set().union(*FLOORS)


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    floor_of = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for module in imported_modules(path):
        room = room_of(module) if module.startswith("transformerlm.") else ""
        if room in floor_of and room != own:
            assert floor_of[room] < floor_of[own], f"{own} imports {module}"


def test_no_modules_import_each_other_in_a_circle():
    """Within rooms too. The faces of packages (`__init__`) are left out: they import on first use."""
    names = {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts): path
        for path in SOURCE.rglob("*.py")
        if path.name != "__init__.py"
    }
    graph = {name: imported_modules(path) & names.keys() for name, path in names.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


def test_only_one_place_reads_toml_and_one_talks_to_each_tracker():
    readers = {p.name for p in SOURCE.rglob("*.py") if "tomllib" in imported_modules(p)}
    assert readers == {"toml.py"}
    for package in ("wandb", "tensorboard", "trackio"):
        talkers = {
            path.name
            for path in SOURCE.rglob("*.py")
            if any(module.split(".")[0] == package for module in imported_modules(path))
        }
        assert talkers == {f"{package}.py"}


def test_one_room_knows_of_torch_distributed():
    knowing = {
        p.name
        for p in SOURCE.rglob("*.py")
        if any(module.startswith("torch.distributed") for module in imported_modules(p))
        or "DistributedDataParallel" in p.read_text()
    }
    assert knowing == {"collectives.py", "exchange.py", "sharding.py"}


def test_nothing_unpickles():
    for path in SOURCE.rglob("*.py"):
        assert not imported_modules(path) & {"pickle", "dill", "cloudpickle", "shelve", "marshal"}, path
        assert not re.search(r"(?<!safetensors\.)torch\.load\(", path.read_text()), path
        assert "allow_pickle" not in path.read_text(), path


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


HEAVY = {"torch", "numpy", "wandb", "regex", "safetensors", "tqdm"}
LIGHT = """
import importlib, sys
for command in {commands}:
    for argument in ("--help", "--print-config"):
        words = ["train", argument] if command == "main" else [argument]
        assert importlib.import_module("transformerlm.cli." + command).main(words) == 0
        heavy = {heavy} & set(sys.modules)
        assert not heavy, (command, argument, heavy)
"""


def test_help_and_print_config_import_nothing_heavy():
    """All in one process: what one of them imports would stay."""
    loaded_by(LIGHT.format(commands=COMMANDS, heavy=HEAVY))


@pytest.mark.parametrize("words", [["--version"], ["completion", "bash"]])
def test_version_and_completion_import_no_torch(words):
    loaded = loaded_by(f"from transformerlm.cli.main import main\nassert main({words}) == 0")
    assert not loaded & {"torch", "wandb", "tqdm", "numba"}


def test_importing_the_package_imports_nothing_heavy():
    assert not loaded_by("import transformerlm") & {"torch", "numpy", "wandb", "regex"}


def test_making_data_imports_no_torch():
    assert "torch" not in loaded_by(
        "from transformerlm.data import make_data, prepare_data, prepare_tokenizer"
    )


@functools.cache
def names_read_outside_of_schema() -> set[str]:
    return {
        node.attr
        for path in SOURCE.rglob("*.py")
        if path.parent.name != "schema"
        for node in nodes_of(path)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


@pytest.mark.parametrize("config_class", CONFIG_CLASSES, ids=lambda c: c.__name__)
def test_every_key_is_read_documented_and_can_be_written_as_toml(config_class):
    read = names_read_outside_of_schema()
    for table, section in field_types(config_class).items():
        assert is_section(section)
        for field in dataclasses.fields(section):
            assert field.name in read, f"nothing reads [{table}].{field.name}"
            assert field_docs(section)[field.name], f"[{table}].{field.name} has no docs"
            takes_none = "None" in str(field.type)
            # TOML has no null: a key is left out to say None, so None has to be its default.
            assert not takes_none or field.default is None, f"[{table}].{field.name}"


def test_functions_are_short_and_files_are_small():
    lengths = {}
    for path in SOURCE.rglob("*.py"):
        assert path.read_text().count("\n") <= 400 or path.parent.name == "kernels", path
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lengths[f"{path.name}:{node.name}"] = node.end_lineno - body[0].lineno + 1 if body else 0
    long = {name: n for name, n in lengths.items() if n > 25}
    assert max(lengths.values()) <= 45, long
    assert len(long) <= len(lengths) / 10, long


def test_a_table_means_the_same_in_every_command():
    seen: dict[str, type[Section]] = {}
    for config_class in CONFIG_CLASSES:
        for table, section in field_types(config_class).items():
            other = seen.setdefault(table, section)
            assert issubclass(section, other) or issubclass(other, section), table
