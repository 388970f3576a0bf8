"""The pages' promises: commands and Python work in the order shown, names and figures of files are true."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doc_pages import PAGES, PARSED_ONLY, ROOT, TINY_RUN, Command, blocks, commands, main_of
from tests.tiny_run import shorten_measurements
from transformerlm import errors

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = commands()
OUR_OWN = [command for command in COMMANDS if command.name.partition("-")[0] == "transformerlm"]
PRINT_TEXT = {"--print-config", "--plan", "--help", "--help=all", "--version"}
PYTHON = [(page, code) for page in PAGES for code in blocks(page, "python")]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A folder that looks like a fresh clone, with the text files that the pages speak of."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("README.md", "pyproject.toml", "configs", "sweeps", "benchmarking", "tests", "src"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "path" / "to").mkdir(parents=True)
    (folder / "path/to/folder-or-file").write_text("Whose woods these are I think I know. " * 200)
    (folder / "data").mkdir()
    for name, count in (("train", 60), ("valid", 30)):
        stories = [f"Once upon a time there was a cat number {n}. It was happy.\n" * 4 for n in range(count)]
        (folder / "data" / f"TinyStoriesV2-GPT4-{name}.txt").write_text("<|endoftext|>\n".join(stories))
    return folder


def run(command: Command) -> None:
    if command.variables:  # these have to be there before torch is imported
        words = [sys.executable, "-m", main_of(command.name).__module__, *command.shortened()]
        arguments = [*words, "--runtime.kernels=false"]
        subprocess.run(arguments, env=os.environ | command.variables, check=True, capture_output=True)
        return
    sys.stdin = io.TextIOWrapper(io.BytesIO(command.stdin.encode()))
    assert main_of(command.name)(command.shortened()) == 0, command


@pytest.mark.slow
def test_every_command_works_in_the_order_of_the_pages_and_then_the_python(clone, monkeypatch, capsys):
    monkeypatch.chdir(clone)
    monkeypatch.setattr(sys, "stdin", sys.stdin)
    shorten_measurements(monkeypatch)
    for command in OUR_OWN:
        run(command)
        printed = capsys.readouterr().out
        is_for_people = command.name in ("transformerlm-status", "transformerlm-data")
        if not is_for_people and not PRINT_TEXT & set(command.words):
            for line in printed.splitlines():
                json.loads(line)
    for page, code in PYTHON:
        exec(compile(code, page, "exec"), {"__name__": "__main__"})


@pytest.mark.slow
def test_a_command_starts_as_it_is_installed(clone):
    script = Path(sys.executable).with_name("transformerlm-train")
    arguments = ["--config", "configs/train.toml", *TINY_RUN, "--print-config"]
    done = subprocess.run([script, *arguments], cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "max_steps = 4" in done.stdout


@pytest.mark.parametrize("command", OUR_OWN, ids=lambda command: command.line)
def test_every_command_is_understood_as_written(command, clone, monkeypatch, capsys):
    monkeypatch.chdir(clone)
    arguments = command.words[1:]
    if "runs/imported/config.toml" in arguments:  # the command before it makes that one
        arguments[arguments.index("runs/imported/config.toml")] = "configs/train_tiny.toml"
    assert main_of(command.name)([*arguments, "--print-config"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("line", [c.line for c in COMMANDS if " -m " in c.line and c not in OUR_OWN])
def test_modules_are_called_with_arguments_that_they_take(line, clone, monkeypatch, capsys):
    monkeypatch.chdir(clone)
    module, *arguments = line.partition(" -m ")[2].split()
    if module.startswith("tests."):
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists()
    elif not module.startswith('"'):
        assert main_of(module)([*arguments, "--print-config"]) == 0, capsys.readouterr().err


def test_what_is_not_run_is_named_with_its_reason():
    others = {command.name for command in COMMANDS if command not in OUR_OWN}
    assert others - {"mkdir", "git"} <= PARSED_ONLY.keys()
    assert len(OUR_OWN) >= 25


def test_python_is_python():
    assert len(PYTHON) >= 6
    for page, code in PYTHON:
        compile(code, page, "exec")


def test_readme_is_short():
    assert len(README.encode()) <= 15_000


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_headings(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = Path(os.path.normpath(ROOT / page if not path else (ROOT / page).parent / path))
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_files_that_are_named_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:src|tests|configs|benchmarking|docs|sweeps)/[\w./-]*)`", text):
        assert (ROOT / name).exists(), name


def test_the_thousand_lines_are_about_as_many_as_stated():
    rows = re.findall(r"^\| `(src/transformerlm/\S+\.py)` \| (\d+) \|", README, flags=re.MULTILINE)
    assert len(rows) >= 8
    for name, stated in rows:
        lines = (ROOT / name).read_text().count("\n")
        assert abs(lines - int(stated)) <= 15, f"{name}: {lines} lines"
    assert 800 <= sum(int(stated) for _, stated in rows) <= 1200


def test_every_room_is_in_the_tables():
    rooms = {
        path.stem for path in (ROOT / "src/transformerlm").iterdir() if not path.name.startswith(("_", "py."))
    }
    for page in ("README.md", "docs/house.md"):
        named = set(re.findall(r"`(\w+)/?`", (ROOT / page).read_text(encoding="utf-8")))
        assert rooms <= named, page


def test_exit_statuses_are_those_of_the_errors():
    page = (ROOT / "docs/road.md").read_text(encoding="utf-8")
    for error in vars(errors).values():
        if (
            isinstance(error, type)
            and issubclass(error, errors.TransformerLMError)
            and error.exit_status != 1
        ):
            assert f"\n| {error.exit_status} | " in page, error


def test_every_config_file_is_one_that_its_command_takes(clone, monkeypatch, capsys):
    monkeypatch.chdir(clone)
    kinds = (
        "train_tokenizer",
        "make_data",
        "train",
        "sweep",
        "infer",
        "eval",
        "export",
        "import",
        "report",
        "serve",
    )
    paths = [
        path
        for path in (ROOT / "configs").rglob("*.toml")
        if not path.name.startswith(("bench_", "search_", "measure_", "fit_"))
    ]
    assert len(paths) == 20
    for path in paths:
        kind = next(kind for kind in kinds if path.name.startswith(kind))
        main = main_of(f"transformerlm-{kind.replace('_', '-')}")
        assert main(["--config", str(path), "--print-config"]) == 0, capsys.readouterr().err
