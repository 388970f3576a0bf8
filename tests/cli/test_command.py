import dataclasses
import os
import re
import subprocess
import sys
import tomllib
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transformerlm.cli.arguments import parse_value
from transformerlm.cli.command import Command, Mode, Option, run_command
from transformerlm.config import (
    InferConfig,
    MakeDataConfig,
    ModelConfig,
    TrainConfig,
    TrainingConfig,
    TrainTokenizerConfig,
)
from transformerlm.errors import ConfigError, DataError
from transformerlm.schema import field_types, from_dict, to_dict

RESUME = Option("resume", ("training.resume",))


def run(argv, function=lambda config: 0):
    return run_command(Command(TrainConfig, function, description="Train.", options=[RESUME]), argv)


def config_of(*argv):
    seen = []
    assert run(list(argv), lambda config: seen.append(config)) == 0
    return seen[0]


def test_defaults_then_file_then_command_line(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text("[model]\nd_model = 64\nnum_layers = 2\n[optimizer]\nlr = 1\n")
    config = config_of("--config", str(file), "--model.num_layers=3", "--resume", "must")
    assert (config.model.d_model, config.model.num_layers, config.model.num_heads) == (64, 3, 8)
    assert config.optimizer.lr == 1.0
    assert config.training.resume == "must"


@pytest.mark.parametrize(
    ("words", "table", "key", "value"),
    [
        # as people write, and as wandb's agents write (Python's str)
        (["--optimizer.lr=3e-4"], "optimizer", "lr", 3e-4),
        (["--optimizer.lr", "3e-4"], "optimizer", "lr", 3e-4),
        (["--optimizer.betas=[0.9, 0.99]"], "optimizer", "betas", (0.9, 0.99)),
        (["--model.tie_embeddings=true"], "model", "tie_embeddings", True),
        (["--model.tie_embeddings=True"], "model", "tie_embeddings", True),
        (["--model.tie_embeddings", "False"], "model", "tie_embeddings", False),
        (["--model.num_kv_heads=None"], "model", "num_kv_heads", None),
        (["--model.num_kv_heads=4"], "model", "num_kv_heads", 4),
        (["--data.corpus=12"], "data", "corpus", "12"),
        (["--data.corpus=a=b"], "data", "corpus", "a=b"),
        (["--data.validation_corpus=None"], "data", "validation_corpus", None),
        (["--generation.prompts=Once upon"], "generation", "prompts", ("Once upon",)),
        (['--generation.prompts=["a", "b, c"]'], "generation", "prompts", ("a", "b, c")),
        (["--generation.prompts="], "generation", "prompts", ("",)),
        (["--generation.temperature", "0"], "generation", "temperature", 0.0),
        (["--training.log_every=1", "--training.log_every=7"], "training", "log_every", 7),
    ],
)
def test_overrides_are_read_as_the_key_asks(words, table, key, value):
    got = getattr(getattr(config_of(*words), table), key)
    assert got == value
    assert type(got) is type(value)


def test_an_option_given_several_times_makes_a_list_where_its_key_takes_one(capsys):
    seen, options = [], [Option("prompt", ("infer.prompt",), repeated=True)]

    def prompts_of(*words):
        run_command(Command(InferConfig, seen.append, options=options), list(words))
        return seen[-1].infer.prompt

    assert prompts_of("--prompt", "a", "--prompt=[1]", "--infer.checkpoint=x", "--prompt=") == (
        "a",
        "[1]",
        "",
    )
    assert prompts_of("--prompt=None") == ("None",)
    assert prompts_of("--prompt=a", "--infer.prompt=b") == "b"
    assert run_command(Command(InferConfig, print, options=options), ["--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())  # wrapped at the width of the terminal
    assert "short for --infer.prompt, as often as there are values --" in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--data.corpus=a", "--data.corpus=b"], "--data.corpus: given 2 times; the last is used, b"),
        (
            ["--resume=must", "--training.resume=auto"],
            "--training.resume: given 2 times; the last is used, auto",
        ),
        (
            ["--data.include=a", "--data.include=b", "--data.include=a"],
            "--data.include: given 3 times; the last",
        ),
        (["--data.corpus=a", "--data.corpus=a"], ""),
        (["--prompt=a", "--prompt=b"], ""),
        (
            ["--prompt=a", "--prompt=b", "--generation.prompts=c"],
            "--generation.prompts: given 2 times; the last",
        ),
    ],
)
def test_an_option_that_is_given_twice_is_said(words, line, capsys):
    options = [RESUME, Option("prompt", ("generation.prompts",), repeated=True)]
    assert run_command(Command(TrainConfig, lambda config: 0, options=options), words) == 0
    err = capsys.readouterr().err
    assert err.startswith(f"command line: {line}") if line else not err
    assert err.count("\n") == bool(line)


def test_two_modes_are_one_too_many(capsys):
    modes = [Mode("plan", print), Mode("replay", print, number="STEPS")]
    words = ["--plan", "--replay", "3"]
    assert run_command(Command(TrainConfig, print, modes=modes), words) == 2
    assert capsys.readouterr() == ("", "command line: --replay: expected it without --plan\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--model.d_model=3.5"],
            'command line: [model].d_model: expected a whole number of at least 1 or "auto", got 3.5',
        ),
        (
            ["--model.d_model=ten"],
            'command line: [model].d_model: expected a whole number of at least 1 or "auto", got "ten"',
        ),
        (
            ["--model.d_model=True"],
            'command line: [model].d_model: expected a whole number of at least 1 or "auto", got true',
        ),
        (["--model.d_modell=3"], 'command line: [model].d_modell: unknown key; did you mean "d_model"?'),
        (["--modle.d_model=3"], 'command line: modle: unknown key; did you mean "model"?'),
        (
            ["--model.d_model.x=3"],
            "command line: [model].d_model: expected a whole number of at least 1 or \"auto\", got {'x'",
        ),
        (
            ["--model.tie_embeddings=yes"],
            'command line: [model].tie_embeddings: expected true or false, got "yes"',
        ),
        (
            ["--resume=sometimes"],
            'command line: [training].resume: expected one of "auto", "never", "must", got',
        ),
        (
            ["--optimizer.lr=nan"],
            'command line: [optimizer].lr: expected a number above 0 or "auto", got "nan"',
        ),
        (
            ["--optimizer.lr=__import__('os')"],
            'command line: [optimizer].lr: expected a number above 0 or "auto", got',
        ),
        (["--resmue=must"], 'command line: --resmue=must: unknown argument; did you mean "--resume"?'),
        (["stray"], "command line: stray: unknown argument; known here: --config"),
        (["--config"], "command line: --config: expected a value after it, got none"),
        (
            ["--model.d_model", "--print-config"],
            "command line: --model.d_model: expected a value after it, got none",
        ),
        (["--config", "no/such.toml"], "no/such.toml: expected a TOML file, got: No such file or directory"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(words, line, capsys):
    assert run(words, lambda config: pytest.fail("must not run")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line), err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "content", [b"a = ", b"[model\n", b"\xff\xfe", b"a = 1\na = 2", b"x" * 100, b"a = [" * 5000]
)
def test_a_file_that_is_no_toml(content, tmp_path, capsys):
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    assert run(["--config", str(file)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"{file}: not valid TOML: ")
    assert err.count("\n") == 1


def test_problems_name_the_file_or_the_command_line(tmp_path, capsys):
    file = tmp_path / "a.toml"
    file.write_text("[model]\nnum_layers = 0\nd_model = 0\n")
    assert run(["--config", str(file), "--model.d_model=-1", "--schedule.warmup_steps=-1"]) == 2
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "command line",
        str(file),
        "command line",
    ]


@pytest.mark.parametrize("config_class", [TrainConfig, TrainTokenizerConfig, MakeDataConfig, InferConfig])
def test_print_config_loads_again_to_the_same_config(config_class, tmp_path, capsys):
    def never(config):
        pytest.fail("must not run")

    assert run_command(Command(config_class, never), ["--print-config"]) == 0
    printed = capsys.readouterr().out
    assert from_dict(config_class, tomllib.loads(printed)) == config_class()
    file = tmp_path / "printed.toml"
    file.write_text(printed)
    assert run_command(Command(config_class, never), ["--config", str(file), "--print-config"]) == 0
    assert capsys.readouterr().out == printed


def test_help_all_names_every_key(capsys):
    assert run(["--help=all"]) == 0
    printed = capsys.readouterr().out
    for table, section in field_types(TrainConfig).items():
        assert f"[{table}]" in printed
        for field in dataclasses.fields(section):
            assert f"\n  {field.name} = " in printed


def test_a_mode_is_run_in_place_of_the_usual_function(capsys):
    def check(config):
        """Check it all.

        And more than that.
        """
        return 7

    def run_with_mode(*argv):
        return run_command(
            Command(TrainConfig, lambda config: 0, description="Train.", modes=[Mode("check", check)]), argv
        )

    assert run_with_mode() == 0
    assert run_with_mode("--check") == run_with_mode("--optimizer.lr=1", "--check", "--debug") == 7
    assert run_with_mode("--help") == 0
    assert "\n  --check                 Check it all.\n" in capsys.readouterr().out
    assert run_with_mode("--check", "--print-config") == 0
    capsys.readouterr()
    for words in (["--check=1"], ["--chekc"], ["check"]):
        assert run_with_mode(*words) == 2
        assert '--check"' in capsys.readouterr().err
    assert run(["--check"]) == 2


def test_errors_of_the_users_making_have_their_status_and_no_traceback(capsys):
    def fail(error):
        def function(config):
            raise error

        return function

    assert run([], fail(DataError(["a.txt: one", "b.txt: two"]))) == 3
    assert capsys.readouterr().err == "a.txt: one\nb.txt: two\n"
    assert run([], fail(OSError(28, "No space left on device", "x.bin"))) == 74
    assert "x.bin" in capsys.readouterr().err
    assert run([], fail(KeyboardInterrupt())) == 130
    capsys.readouterr()
    assert run(["--debug"], fail(DataError("a"))) == 3
    assert "Traceback" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):  # a fault of ours stays visible as one
        run([], fail(ZeroDivisionError()))


@pytest.mark.parametrize("variable", ["TRANSFORMERLM_KERNELS", "TRANSFORMERLM_CPU"])
def test_an_environment_variable_is_checked_before_the_work_begins(variable, monkeypatch, capsys):
    monkeypatch.setenv(variable, "yes")
    assert run([], lambda config: pytest.fail("it began")) == 2
    assert re.fullmatch(rf"{variable}: expected .*\"(always|avx2)\".*, got 'yes'\n", capsys.readouterr().err)
    monkeypatch.setenv(variable, "")
    assert run([]) == 0


def test_a_reader_that_leaves_is_no_error():
    script = "from transformerlm.cli.train import main; import sys; sys.exit(main(['--print-config']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert done.stderr == ""


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from([*to_dict(TrainConfig()), *to_dict(ModelConfig()), "lr", "betas"]) | st.text(
    max_size=5
)


@given(st.dictionaries(keys, st.dictionaries(keys, values, max_size=4) | values, max_size=4))
def test_any_dictionary_makes_a_config_or_lines(data):
    try:
        lines = [] if from_dict(TrainConfig, data, "x") else ["x: "]
    except ConfigError as error:
        lines = error.lines
    assert all(line.startswith("x: ") and line.splitlines() == [line] for line in lines), lines


@given(st.text(max_size=20), st.sampled_from([int, float, bool, str, int | None, tuple[float, float]]))
def test_no_text_breaks_the_reading_of_a_value(text, hint):
    parse_value(text, hint)


NUMBERS, TEXTS, WORDS = tuple[float, float], tuple[str, ...], Literal["a", "b"]


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("(0.9, 0.95)", NUMBERS, [0.9, 0.95]),
        ("[0.9, 0.95]", NUMBERS, [0.9, 0.95]),
        ("0.9,0.95", NUMBERS, [0.9, 0.95]),
        ("'(0.9, 0.95)'", NUMBERS, [0.9, 0.95]),
        ("0.9", NUMBERS, [0.9]),
        ("('a', 'b')", TEXTS, ["a", "b"]),
        ('["a, b"]', TEXTS, ["a, b"]),
        ("a, b", TEXTS, ["a, b"]),  # from here on: prompts, which may be anything
        ("'a', 'b'", TEXTS, ["'a', 'b'"]),
        ("(1, 2)", TEXTS, ["(1, 2)"]),
        ("(", TEXTS, ["("]),
        ("'a'", WORDS, "a"),
        ('"a"', WORDS, "a"),
        ("c", WORDS, "c"),
        ("'c'", WORDS, "'c'"),
        ("'a'", str, "'a'"),
        ("True", bool, True),
        ("'false'", bool, False),
        ("1", bool, "1"),
        ("None", int | None, None),
        ("'None'", int | None, None),
        ("32", int, 32),
        ("32.0", int, 32),
        ("1e6", int, 1_000_000),
        ("'32'", int, 32),
        ("1_000", int, 1000),
        ("3.7", int, 3.7),
        ("1e300", int, 1e300),
        ("True", int, True),
        ("3e-4", float, 3e-4),
        ("'3m'", field_types(TrainingConfig)["max_time"], "3m"),
        ("'runs/x'", field_types(TrainingConfig)["run_dir"], "'runs/x'"),
    ],
)
def test_values_as_toml_python_and_shells_write_them(text, hint, value):
    got = parse_value(text, hint)
    assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--replay", "0"], "command line: --replay: expected a whole number of at least 1, got 0"),
        (["--replay", "x"], "command line: --replay: expected a whole number of at least 1, got x"),
        (["--replay=1.5"], "command line: --replay: expected a whole number of at least 1, got 1.5"),
        (["--replay"], "command line: --replay: expected a value after it, got none"),
    ],
)
def test_a_mode_may_take_a_number(words, line, capsys):
    def replay(config, steps):
        """Do it again."""
        print(steps)

    def run(words):
        return run_command(Command(TrainConfig, print, modes=[Mode("replay", replay, number="STEPS")]), words)

    assert run(words) == 2
    assert capsys.readouterr().err == line + "\n"
    assert run(["--replay", "12"]) == run(["--replay=12"]) == run(["--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("12\n12\n")
    assert "--replay=STEPS" in out


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--to", "a", "b"], ("a", "b")),
        (["--to=a", "b"], ("a", "b")),
        (["--to", "a"], ("a", "runs/{corpus}")),
        (["--to", "a", "--training.run_dir=c"], ("a", "c")),
        (["--to", "a", "b", "--debug"], ("a", "b")),
    ],
)
def test_a_shortcut_may_stand_for_several_keys(words, values):
    seen = []
    options = [Option("to", ("data.corpus", "training.run_dir"))]
    status = run_command(Command(TrainConfig, seen.append, options=options), words)
    assert status == 0
    assert (seen[0].data.corpus, seen[0].training.run_dir) == values


def test_an_option_may_stand_for_one_value_of_a_key(capsys):
    seen, json = [], Option("json", ("infer.output_format",), value="jsonl")
    command = Command(InferConfig, seen.append, options=[json])
    assert run_command(command, ["--json", "--infer.checkpoint=x"]) == run_command(command, []) == 0
    assert [config.infer.output_format for config in seen] == ["jsonl", "auto"]
    assert run_command(command, ["--help"]) == 0
    assert "\n  --json                  short for --infer.output_format=jsonl\n" in capsys.readouterr().out
    assert run_command(command, ["--json=text"]) == run_command(command, ["--json", "text"]) == 2


def test_of_more_values_than_keys_the_rest_are_no_arguments(capsys):
    options = [Option("to", ("data.corpus", "training.run_dir"))]
    words = ["--to", "a", "b", "c"]
    assert run_command(Command(TrainConfig, lambda c: 0, options=options), words) == 2
    assert capsys.readouterr().err.startswith("command line: c: unknown argument")


@pytest.mark.parametrize(
    ("words", "prompts", "checkpoint"),
    [
        (["a", "b"], ("a", "b"), "runs/python-stdlib"),
        (["a", "--infer.checkpoint", "x", "b"], ("a", "b"), "x"),
        (["--infer.checkpoint=x", "my.toml"], ("my.toml",), "x"),
        ([], None, "runs/python-stdlib"),
    ],
)
def test_a_command_may_take_words(words, prompts, checkpoint, capsys):
    seen, positional = [], Option("RUN", ("infer.prompt",), repeated=True)

    def run(argv):
        return run_command(Command(InferConfig, seen.append, positional=positional), argv)

    assert run(words) == 0
    assert (seen[0].infer.prompt, seen[0].infer.checkpoint) == (prompts, checkpoint)
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert " [RUN...] [--config=FILE.toml]" in out
    assert "\n  RUN...                  short for --infer.prompt, as often" in out


def test_of_two_words_one_is_too_many_where_one_is_taken(capsys):
    positional = Option("RUN", ("infer.checkpoint",))
    words = ["a", "--oops", "b"]
    assert run_command(Command(InferConfig, print, positional=positional), words) == 2
    assert capsys.readouterr().err.startswith("command line: --oops: unknown argument")


def test_defaults_go_below_the_file_and_the_command_line(tmp_path):
    (tmp_path / "my.toml").write_text("[generation]\ntop_p = 0.5\ntop_k = 7\n")
    words = ["--config", str(tmp_path / "my.toml"), "--generation.top_k=9", "--infer.checkpoint=mine"]
    seen, asked = [], []

    def defaults(config):
        asked.append(config.infer.checkpoint)
        return {"generation": {"top_p": 0.1, "top_k": 1, "temperature": 0.3}}

    assert run_command(Command(InferConfig, seen.append, defaults=defaults), words) == 0
    found = seen[0].generation
    assert (found.temperature, found.top_p, found.top_k, found.min_p) == (0.3, 0.5, 9, 0.0)
    assert asked == ["mine"]
