import pickle
import re
from pathlib import Path

import pytest

from transformerlm.errors import (
    ConfigError,
    DataError,
    Key,
    LockedError,
    Problem,
    TransformerLMError,
    one_line,
)


def test_a_key_is_named_as_in_a_config_file():
    assert str(Key("training", "batch_size")) == "[training].batch_size"
    assert (str(Key("zzz")), str(Key())) == ("zzz", "")
    assert str(Key("a", "b", "c")) == "[a].[b].c"
    assert str(Key("x" * 100, "a\nb")) == f"[{'x' * 77}...].a\\nb"


def test_an_error_carries_each_problem_with_its_key_and_source():
    error = ConfigError(["a sentence", Problem(Key("model", "d_ff"), "expected 1, got 2", source="a.toml")])
    assert [tuple(problem.key) for problem in error.problems] == [(), ("model", "d_ff")]
    assert error.lines == ["a sentence", "a.toml: [model].d_ff: expected 1, got 2"]
    assert str(error) == "\n".join(error.lines)


def test_a_single_sentence_may_be_about_a_key():
    error = DataError("expected text, got none", key=Key("data", "corpus"))
    assert error.problems == [Problem(Key("data", "corpus"), "expected text, got none")]
    assert error.lines == ["[data].corpus: expected text, got none"]


def test_the_holder_of_a_lock_is_data():
    error = LockedError(Path("runs/x"), "process 7 on here", Path("runs/x/.lock"))
    assert (error.directory, error.holder, error.lock_file) == (
        Path("runs/x"),
        "process 7 on here",
        Path("runs/x/.lock"),
    )
    assert error.lines[0].startswith("runs/x: in use by process 7 on here, which holds runs/x/.lock; wait")
    assert error.lines[0].startswith(error.in_use)


@pytest.mark.parametrize("error", [DataError("a", key=Key("data", "corpus")), TransformerLMError(["a", "b"])])
def test_errors_come_back_whole_from_worker_processes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.problems, str(copy)) == (type(error), error.problems, str(error))


def test_one_line_escapes_what_no_terminal_should_get():
    assert one_line("a\nb\x1b[0m é ☃") == "a\\nb\\x1b[0m é ☃"


def test_the_key_of_an_error_is_data_and_no_part_of_its_sentence():
    # `ConfigError("[a].b: expected ...")` could not be told where the key was set.
    source = Path(__file__).parents[1] / "src" / "transformerlm"
    named = re.compile(r"Error\(\s*f?['\"]\[\{?\w+\}?\]\.\{?\w+\}?: ")
    found = [path.name for path in source.rglob("*.py") if named.search(path.read_text(encoding="utf-8"))]
    assert found == []
