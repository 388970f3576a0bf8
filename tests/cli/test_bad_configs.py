"""Wrong configs: one line per error that says where and what, within half a second of processor time."""

import random
import re
import resource
import string
import subprocess
import sys
import time
from pathlib import Path

import pytest

from transformerlm.cli import eval as evaluation
from transformerlm.cli import export, import_model, infer, make_data, report, sweep, train, train_tokenizer

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "train": train,
    "make-data": make_data,
    "train-tokenizer": train_tokenizer,
    "infer": infer,
    "eval": evaluation,
    "export": export,
    "import": import_model,
    "report": report,
    "sweep": sweep,
}
SECONDS = 0.5
"""Of the processor, which does not depend on what else the machine is doing."""

WHOLE = "a whole number of at least 1"
TRACKERS = 'one of "console", "tensorboard", "csv", "wandb", "trackio"'
NATURAL = "a whole number of at least 0"
THREADS = "a whole number from 1 to 1024"
ABOVE_0 = "a number above 0"
AT_LEAST_0 = "a number of at least 0"
FRACTION = "a number from 0 to 1"
PROBABILITY = "a number above 0 and at most 1"
TRUTH = "true or false"
TEXT = "text"
FULL_TEXT = "text that is not empty"
A_PATH = "a path"
A_TIME = 'a time such as "90s", "20m", "2h" or "1h30m"'
TEXTS = f"a list, each {FULL_TEXT}"
PAIR = f"a list of 2, each {FRACTION}"
NOTHING = " or nothing (None)"
OR_AUTO = ' or "auto"'
WIDTH = WHOLE + OR_AUTO
HUGE = "1" + "0" * 400
TOO_LONG = "a number of more than 64 bits"

NUMBERS = {
    WHOLE: ["0", "-1", "3.7", "3.0", '"32"', "true", "nan", "inf", "[1]", "{a = 1}", HUGE, "2020-01-01"],
    NATURAL: ["-1", "0.5", '"0"', "false", "-inf"],
    THREADS: ["0", "1025", "2.0", '"2"'],
    ABOVE_0: ["0", "-1e-3", "nan", "inf", '"1e-3"', "true", "[]", HUGE],
    AT_LEAST_0: ["-0.1", "nan", '"0"', "false"],
    FRACTION: ["-0.1", "1.1", "nan", "inf", '"0.5"', "true"],
    PROBABILITY: ["0", "1.5", "-1", "nan"],
}
"""What is expected -> values that are something else."""

WRONG = [
    # command, table, key, what is expected, values
    ("train", "model", "d_model", WHOLE + OR_AUTO, NUMBERS[WHOLE]),
    ("train", "model", "context_length", WHOLE + OR_AUTO, ["0", "1.5", HUGE]),
    ("train", "model", "num_layers", WHOLE + OR_AUTO, ["0", "-4"]),
    ("train", "model", "num_kv_heads", WHOLE + NOTHING, ["0", '"2"', "1.0"]),
    ("train", "model", "vocab_size", WHOLE + NOTHING, ["0", "true"]),
    ("train", "model", "rope_theta", ABOVE_0, NUMBERS[ABOVE_0]),
    ("train", "model", "tie_embeddings", TRUTH, ["1", '"true"', "0.0"]),
    ("train", "model", "qk_norm", TRUTH, ['"yes"', "[true]"]),
    ("train", "optimizer", "name", 'one of "adamw", "muon"', ['"sgd"', '""', "1", '["adamw"]']),
    ("train", "optimizer", "lr", ABOVE_0 + OR_AUTO, NUMBERS[ABOVE_0]),
    (
        "train",
        "optimizer",
        "betas",
        PAIR,
        ["[]", "[0.9]", "[0.9, 0.9, 0.9]", '[0.9, "x"]', "0.9", "[0.9, 2]"],
    ),
    ("train", "optimizer", "weight_decay", AT_LEAST_0 + OR_AUTO, NUMBERS[AT_LEAST_0]),
    ("train", "optimizer", "muon_momentum", FRACTION, NUMBERS[FRACTION]),
    ("train", "schedule", "warmup_steps", NATURAL + OR_AUTO, NUMBERS[NATURAL]),
    ("train", "schedule", "decay_fraction", PROBABILITY, NUMBERS[PROBABILITY]),
    ("train", "schedule", "cosine_steps", WHOLE + NOTHING, ["0", "1e3"]),
    ("train", "training", "batch_size", WHOLE + OR_AUTO, ["0", "-32", '"32"', "true", "1e2"]),
    ("train", "training", "micro_batch_size", f'{WHOLE} or one of "auto"', ["0", '"most"', "2.5", "true"]),
    ("train", "training", "max_steps", WHOLE + NOTHING, ["0", '"None"', "1e6"]),
    ("train", "training", "max_time", A_TIME + NOTHING, ["90", '""', "01:30:00"]),
    ("train", "training", "resume", 'one of "auto", "never", "must"', ["true", '"maybe"']),
    (
        "train",
        "training",
        "run_dir",
        A_PATH,
        ['""', '"  "', "3", r'"a\u0000b"', '"~nobody-of-that-name/runs"'],
    ),
    ("train", "runtime", "device", 'one of "auto", "cpu", "cuda", "mps"', ['"gpu"', '"cuda:0"', "0"]),
    ("train", "runtime", "num_threads", f'{THREADS} or one of "auto"', NUMBERS[THREADS]),
    ("train", "runtime", "seed", NATURAL, NUMBERS[NATURAL] + [HUGE]),
    (
        "train",
        "logging",
        "backend",
        f"{TRACKERS} or a list, each {TRACKERS}",
        ['"tensorbord"', '["csv", "cvs"]', "3", '[["csv"]]'],
    ),
    ("train", "logging", "console_format", 'one of "auto", "json", "pretty"', ['"table"', "true"]),
    ("train", "training", "sample_every", NATURAL + NOTHING, NUMBERS[NATURAL]),
    ("train", "wandb", "project", FULL_TEXT, ['""', "1"]),
    ("make-data", "data", "corpus", A_PATH, ['""', "[]", "1", r'"\u0000"', '"~nobody-of-that-name"']),
    ("make-data", "data", "include", TEXTS, ['"*.py"', '["*.py", 1]', '[""]']),
    ("make-data", "data", "validation_fraction", FRACTION, NUMBERS[FRACTION]),
    ("make-data", "data", "validation_split", 'one of "auto", "document", "tail"', ['"head"', "true"]),
    ("make-data", "data", "token_dir", A_PATH + OR_AUTO, ['""', "true"]),
    ("make-data", "data", "num_workers", THREADS + NOTHING, NUMBERS[THREADS]),
    ("train-tokenizer", "tokenizer", "vocab_size", WHOLE + OR_AUTO + NOTHING, NUMBERS[WHOLE]),
    ("train-tokenizer", "tokenizer", "special_tokens", TEXTS, ['"<eos>"', "[1]", '["a", ""]', "[[]]"]),
    ("train-tokenizer", "tokenizer", "pattern", FULL_TEXT, ['""', "1"]),
    ("train-tokenizer", "tokenizer", "tokenizer_dir", A_PATH + OR_AUTO, ['""', "[]"]),
    ("infer", "infer", "checkpoint", A_PATH, ['""', "1", r'"\u0000"']),
    ("infer", "infer", "prompt", f"{TEXT} or a list, each {TEXT}{NOTHING}", ["1", "[1]", "true"]),
    ("infer", "infer", "prompt_format", 'one of "auto", "lines", "jsonl", "whole"', ['"json"', "1"]),
    ("infer", "infer", "output_format", 'one of "auto", "text", "jsonl"', ['"xml"', "true"]),
    ("infer", "infer", "output_file", A_PATH + NOTHING, ['""', "1"]),
    ("infer", "infer", "first_row", NATURAL, NUMBERS[NATURAL]),
    ("eval", "eval", "checkpoint", A_PATH, ['""', "1"]),
    ("eval", "eval", "compare", A_PATH + NOTHING, ['""', "true"]),
    ("eval", "eval", "max_documents", WHOLE + NOTHING, ["0", "1.5"]),
    ("eval", "eval", "stride", WHOLE + NOTHING, ["0", '"half"']),
    ("eval", "eval", "batch_size", WHOLE, NUMBERS[WHOLE]),
    ("export", "export", "to", 'one of "hf", "gguf"', ['"onnx"', "1"]),
    (
        "export",
        "export",
        "dtype",
        'one of "float32", "bfloat16", "float16", "q8_0", "q4_0"',
        ['"int8"', "32"],
    ),
    ("import", "import_model", "source", A_PATH + NOTHING, ['""', "1"]),
    ("report", "report", "output", A_PATH + NOTHING, ['""', "1"]),
    ("report", "report", "port", NATURAL, NUMBERS[NATURAL]),
    ("sweep", "sweep", "max_trials", WHOLE + NOTHING, NUMBERS[WHOLE]),
    ("sweep", "sweep", "max_time", A_TIME + NOTHING, ['"soon"', '""', "3"]),
    ("sweep", "sweep", "method", 'one of "grid", "random", "halving", "tpe"', ['"best"', "1", "[]"]),
    ("sweep", "sweep", "space", "a table", ["1", '"optimizer.lr"', "[1]"]),
    ("sweep", "model", "d_model", WHOLE + OR_AUTO, ["0"]),
    ("infer", "infer", "stream", TRUTH, ["1", '"no"']),
    ("infer", "generation", "prompts", "a list, each text", ['"x"', "[1]"]),
    ("infer", "generation", "max_new_tokens", WHOLE, NUMBERS[WHOLE]),
    ("infer", "generation", "temperature", AT_LEAST_0, NUMBERS[AT_LEAST_0]),
    ("infer", "generation", "top_p", PROBABILITY, NUMBERS[PROBABILITY]),
    ("infer", "generation", "top_k", WHOLE + NOTHING, ["0", "-1", "1.0"]),
    ("infer", "generation", "min_p", FRACTION, NUMBERS[FRACTION]),
    ("infer", "generation", "repetition_penalty", ABOVE_0, NUMBERS[ABOVE_0]),
    ("infer", "generation", "stop", "a list, each text", ['"x"', "[1]"]),
    ("train", "generation", "stop_tokens", TEXTS, ['"x"', '[""]', "[1]"]),
    ("infer", "generation", "num_samples", WHOLE, NUMBERS[WHOLE]),
    ("infer", "generation", "log_probs", TRUTH, ["1", '"yes"']),
]

BETWEEN = [
    # command, tables, lines without the file's name
    (
        "train",
        "[model]\nd_model = 100\nnum_heads = 3",
        ["[model].num_heads: expected a divisor of d_model = 100, got 3"],
    ),
    (
        "train",
        "[model]\nd_model = 12\nnum_heads = 4",
        ["[model].num_heads: expected an even d_model / num_heads"],
    ),
    (
        "train",
        "[model]\nnum_heads = 8\nnum_kv_heads = 3",
        ["[model].num_kv_heads: expected a divisor of num_heads = 8, got 3"],
    ),
    (
        "train",
        "[model]\nnum_heads = 8\nnum_kv_heads = 16",
        ["[model].num_kv_heads: expected a divisor of num_heads = 8, got 16"],
    ),
    (
        "train",
        "[schedule]\nwarmup_steps = 1000\n[training]\nmax_steps = 1000",
        ["[schedule].warmup_steps: expected fewer than the schedule's 1000"],
    ),
    (
        "train",
        "[schedule]\ncosine_steps = 50\n[training]\nmax_steps = 1000",
        ["[schedule].warmup_steps: expected fewer than the schedule's 50"],
    ),
    (
        "train",
        "[training]\nmax_steps = 100",
        [
            "[schedule].warmup_steps: expected fewer than the schedule's 100 steps, got 100; "
            "take --schedule.warmup_steps=10, or more steps than 100"
        ],
    ),
    (
        "train",
        "[training]\nmax_tokens = 1",
        ["[schedule].warmup_steps: expected fewer than the schedule's 1 steps"],
    ),
    ("train", "[optimizer]\nbetas = [0.9, 1]", ["[optimizer].betas: expected two numbers from 0 to below 1"]),
    (
        "train",
        "[optimizer]\nmuon_momentum = 1",
        ["[optimizer].muon_momentum: expected a number from 0 to below 1"],
    ),
    ("train", '[training]\nmax_steps = 9\nmax_time = "1h"', ["[training].max_time: expected one budget"]),
    ("train", "[training]\nmax_steps = 9\nmax_tokens = 9", ["[training].max_tokens: expected one budget"]),
    (
        "train",
        "[training]\nbatch_size = 1000000000000\n[model]\ncontext_length = 256",
        ["[training].batch_size: expected at most 8388608, got 1000000000000"],
    ),
    (
        "train",
        "[training]\nmicro_batch_size = 5\nbatch_size = 32",
        ["[training].micro_batch_size: expected a divisor of batch_size"],
    ),
    *(
        ("train", f'[training]\nmax_time = "{time}"', ["[training].max_time: expected a time such as"])
        for time in ("soon", "0s", "20", "-5m", "1h 90", "30m1h", "9" * 400 + "d")
    ),
    (
        "train-tokenizer",
        "[tokenizer]\nvocab_size = 256",
        ["[tokenizer].vocab_size: expected at least 257 (256 bytes"],
    ),
    (
        "make-data",
        '[tokenizer]\nvocab_size = 300\nspecial_tokens = ["a", "a"]',
        ["[tokenizer].special_tokens: expected no token twice"],
    ),
    (
        "infer",
        '[infer]\nprompt = "a"\nprompt_file = "b"',
        ["[infer].prompt_file: expected nothing beside a prompt"],
    ),
    (
        "infer",
        '[infer]\nprompt_file = "nowhere.txt"',
        ["[infer].prompt_file: expected a file of prompts, got nowhere.txt"],
    ),
    ("infer", "[generation]\nprompts = []", ["[generation].prompts: expected a prompt, got none"]),
    ("infer", "[infer]\nprompt = []", ["[infer].prompt: expected a prompt, got none"]),
    (
        "infer",
        '[generation]\nstop = ["a", ""]',
        ["[generation].stop: expected strings of at least one character, got ['a', '']"],
    ),
    (
        "infer",
        '[generation]\nlog_probs = true\n[infer]\noutput_format = "text"',
        ['[infer].output_format: expected "jsonl" or "auto" with [generation].log_probs, got "text"'],
    ),
    # names
    ("train", "[model]\nd_modle = 1", ['[model].d_modle: unknown key; did you mean "d_model"?']),
    ("train", "[model]\nlr = 1", ['[model].lr: unknown key; did you mean "[optimizer].lr"?']),
    ("train", "lr = 1", ['lr: unknown key; did you mean "[optimizer].lr"?']),
    ("train", "[modle]\nd_model = 1", ['modle: unknown key; did you mean "model"?']),
    ("train", "[model]\nzzz = 1", ["[model].zzz: unknown key; known here: context_length, d_ff"]),
    ("train", "[model.more]\na = 1", ["[model].more: unknown key"]),
    ("train", "model = 3", ["model: expected a table, got 3"]),
    ("train", "[[model]]\nd_model = 1", ["model: expected a table, got [{'d_model': 1}]"]),
    ("train", '"" = 1', [": unknown key; known here: "]),
    ("train", '"a\\nb" = 1', ["a\\nb: unknown key"]),
    ("train", f"{'k' * 5000} = 1", ["k" * 77 + "...: unknown key"]),
    ("make-data", "[model]\nd_model = 64", ["model: unknown key; known here: data, tokenizer"]),
    ("train-tokenizer", '[data]\ntoken_dir = "x"', ["[data].token_dir: unknown key"]),
    ("infer", "[training]\nmax_steps = 1", ["training: unknown key; known here: generation, infer"]),
    (
        "infer",
        "[infer]\ntemperature = 1",
        ['[infer].temperature: unknown key; did you mean "[generation].temperature"?'],
    ),
    # several at once, each with its line
    (
        "train",
        "zzz = 1\n[model]\nd_model = 0\nlr = 1\n[optimizer]\nlr = nan",
        [
            "zzz: unknown",
            '[model].lr: unknown key; did you mean "[opt',
            "[model].d_model: exp",
            "[optimizer].lr: exp",
        ],
    ),
    # values as large, or as deep, as the format lets them be
    (
        "train",
        f"[model]\nd_model = 0x{'f' * 5000}",
        [f"[model].d_model: expected {WIDTH}, got {TOO_LONG}"],
    ),
    ("train", f"[optimizer]\nbetas = [0x{'f' * 5000}, 0]", ["[optimizer].betas: expected a list of 2"]),
    (
        "train",
        f"[model]\nd_model = {'[' * 200}{']' * 200}",
        [f"[model].d_model: expected {WIDTH}, got [[["],
    ),
    (
        "train",
        f"[model]\nd_model = {'{a=' * 90}1{'}' * 90}",
        [f"[model].d_model: expected {WIDTH}, got {{'a'"],
    ),
]

NO_TOML = {
    "no value": b"a = ",
    "no equals sign": b"[model]\nd_model 3",
    "open table": b"[model\n",
    "open string": b'[data]\ncorpus = "x',
    "open list": b"a = [1, 2",
    "no comma": b"a = [1 2]",
    "two values in a line": b"a = 1 b = 2",
    "a key twice": b"[model]\nd_model = 64\nd_model = 32\n",
    "a table twice": b"[model]\n[optimizer]\n[model]\n",
    "a key and a table": b"model = 3\n[model]\n",
    "leading zero": b"a = 007",
    "a word": b"a = yes",
    "None": b"a = None",
    "bad escape": b'a = "\\q"',
    "a date that is none": b"a = 2020-13-40",
    "a control character": b'a = "\x00"',
    "a bare return": b"[model]\rd_model = 3",
    "Latin-1": '[data]\ncorpus = "é"'.encode("latin-1"),
    "UTF-16": "[model]\n".encode("utf-16"),
    "JSON": b'{"model": {"d_model": 3}}',
    "YAML": b"model:\n  d_model: 3\n",
    "binary": bytes(range(256)),
    "thousands of digits": b"[model]\nd_model = 1" + b"0" * 5000,
    "nested too deeply": b"a = [" * 5000,
    "tables nested too deeply": b"a = " + b"{a = " * 5000,
}

FINE = {
    "empty": b"",
    "comment": b"# nothing\n",
    "CRLF": b"[logging]\r\narchitecture = 'x'\r\n",
    "byte order mark": b"\xef\xbb\xbf[logging]\narchitecture = 'x'\n",
    "no newline at the end": b"[logging]\narchitecture = 'x'",
}

TEXT_KEYS = {
    "make-data": (b"data", b"corpus"),
    "train-tokenizer": (b"data", b"corpus"),
    "export": (b"export", b"checkpoint"),
    "import": (b"import_model", b"source"),
    "report": (b"report", b"output"),
}
"""Table and key that take text, of the commands that log nothing."""

OVERRIDES = [
    ("train", ["--model.d_model=3.7"], [f"[model].d_model: expected {WIDTH}, got 3.7"]),
    ("train", ["--model.d_model=True"], [f"[model].d_model: expected {WIDTH}, got true"]),
    ("train", ["--model.d_model={[]: 1}"], [f'[model].d_model: expected {WIDTH}, got "{{[]: 1}}"']),
    ("train", ["--model.d_model=1or"], [f'[model].d_model: expected {WIDTH}, got "1or"']),
    (
        "train",
        [f"--model.d_model=0x{'f' * 5000}"],
        [f"[model].d_model: expected {WIDTH}, got {TOO_LONG}"],
    ),
    ("train", [f"--model.d_model={'9' * 5000}"], [f"[model].d_model: expected {WIDTH}, got"]),
    ("train", [f"--model.d_model={'(' * 1000}"], [f"[model].d_model: expected {WIDTH}, got"]),
    ("train", [f"--model{'.a' * 5000}=1", f"--model{'.a' * 5000}=2"], ["[model].a: unknown key"]),
    ("train", ["--optimizer.lr=nan"], [f'[optimizer].lr: expected {ABOVE_0}{OR_AUTO}, got "nan"']),
    ("train", ["--optimizer.betas=0.9"], [f"[optimizer].betas: expected {PAIR}, got [0.9]"]),
    (
        "train",
        ["--training.max_time=180"],
        [f'[training].max_time: expected {A_TIME}{NOTHING}, got "180"; did you mean "180s"?'],
    ),
    ("train", ["--model.lr=5"], ['[model].lr: unknown key; did you mean "[optimizer].lr"?']),
    ("train", ["--data.corpus=\udcff"], [f'[data].corpus: expected {A_PATH}, got "\\udcff" (not UTF-8)']),
    (
        "train",
        ["--model.d_model=0", "--optimizer.lr=0"],
        ["[model].d_model: expected", "[optimizer].lr: expected"],
    ),
    (
        "train",
        ["train.toml"],
        ["train.toml: not an option; did you mean: transformerlm-train --config=train.toml"],
    ),
    ("train", ["a\nb"], ["a\\nb: unknown argument"]),
    ("train", ["--resmue=must"], ['--resmue=must: unknown argument; did you mean "--resume"?']),
    ("train", ["--resume"], ["--resume: expected a value after it, got none"]),
    ("train", ["--config"], ["--config: expected a value after it, got none"]),
    ("infer", ["--generation.top_p=0"], [f"[generation].top_p: expected {PROBABILITY}, got 0"]),
    (
        "infer",
        ["--infer.prompt_file=nowhere"],
        ["[infer].prompt_file: expected a file of prompts, got nowhere"],
    ),
    ("eval", ["--eval.stride=0"], [f"[eval].stride: expected {WHOLE}{NOTHING}, got 0"]),
    ("eval", ["--text"], ["--text: expected a value after it, got none"]),
    ("report", ["--report.port=-1"], [f"[report].port: expected {NATURAL}, got -1"]),
    (
        "sweep",
        ["--sweep.space.optimizer.lr=[0]"],
        [f"[sweep].[space].optimizer.lr: expected {ABOVE_0}{OR_AUTO}, got 0"],
    ),
    ("export", ["--to", "onnx"], ['[export].to: expected one of "hf", "gguf", got "onnx"']),
    ("import", ["--form=x"], ['--form=x: unknown argument; did you mean "--from"?']),
    ("make-data", ["--data.num_workers=0"], [f"[data].num_workers: expected {THREADS}{NOTHING}, got 0"]),
    ("train-tokenizer", ["--tokenizer.vocab_size=256"], ["[tokenizer].vocab_size: expected at least 257"]),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(command, argv, capsys):
    """The lines on stderr of a command that has to end with 2, at once, and do nothing."""
    times = []
    for _ in range(3):  # garbage may have been collected once
        before = time.process_time()
        status = COMMANDS[command].main(argv)
        times.append(time.process_time() - before)
        out, err = capsys.readouterr()
        assert (status, out) == (2, ""), (argv, status, out, err)
        if times[-1] < SECONDS:
            break
    assert min(times) < SECONDS, (argv, times)
    assert "Traceback" not in err
    assert err.endswith("\n")
    return err[:-1].split("\n")


def check_lines(lines, source, expected):
    assert len(lines) == len(expected), lines
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(f"{source}: {start}"), line
        assert line.isprintable()


CASES = [
    *((command, f"[{table}]\n{key} = {value}\n", [f"[{table}].{key}: expected {expected}, got "])
      for command, table, key, expected, values in WRONG
      for value in values),
    *BETWEEN,
]  # fmt: skip


def test_there_are_many_cases_over_all_commands():
    assert len(CASES) + len(NO_TOML) + len(OVERRIDES) >= 250
    assert (
        {command for command, *_ in CASES}
        == {command for command, *_ in OVERRIDES} | {"infer"}
        == set(COMMANDS)
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_value_that_cannot_be_is_one_line(command, here, capsys):
    for number, (_, tables, expected) in enumerate(case for case in CASES if case[0] == command):
        file = here / f"{number}.toml"
        file.write_text(tables, encoding="utf-8")
        check_lines(refused(command, ["--config", str(file)], capsys), file, expected)
    assert not [path for path in here.iterdir() if path.suffix != ".toml"]


def test_a_key_of_thousands_of_parts_is_one_line(here, capsys):
    (here / "deep.toml").write_text(f"model.d_model{'.a' * 2000} = 1")
    (line,) = refused("train", ["--config", "deep.toml"], capsys)
    # Newer Pythons refuse such a key themselves.
    deep = (
        f"[model].d_model: expected {WIDTH}, got a dict that is too large",
        "not valid TOML: nested too deeply",
    )
    assert line.removeprefix("deep.toml: ").startswith(deep)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_no_toml_is_one_line(command, here, capsys):
    for number, content in enumerate(NO_TOML.values()):
        file = here / f"{number}.toml"
        file.write_bytes(content)
        check_lines(refused(command, ["--config", str(file)], capsys), file, ["not valid TOML: "])


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_cannot_be_read_is_one_line(command, here, capsys):
    (here / "folder").mkdir()
    (here / "corpus.txt").write_bytes(b"# a corpus in the config's place\n" * 100_000)
    for path, got in [
        ("nowhere.toml", "got: No such file or directory"),
        ("folder", "got: Is a directory"),
        ("corpus.txt/x.toml", "got: Not a directory"),
        ("x" * 300, "got: File name too long"),
        ("a\0b", "got no path"),
        ("/dev/zero", "of at most 1,000,000 bytes, got more"),
        ("corpus.txt", "of at most 1,000,000 bytes, got more"),
    ]:
        lines = refused(command, ["--config", path], capsys)
        (line,) = lines
        assert re.search(
            r"^.+: expected a TOML file.+" if "most" in got else r"^.+: expected a TOML file, ", line
        )
        assert line.endswith(got)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_argument_that_cannot_be_is_one_line(command, here, capsys):
    for _, argv, expected in (case for case in OVERRIDES if case[0] == command):
        check_lines(refused(command, argv, capsys), "command line", expected)


@pytest.mark.parametrize("command", COMMANDS)
def test_files_that_only_look_wrong_are_read(command, here, capsys):
    for content in FINE.values():
        table, key = TEXT_KEYS.get(command, (b"logging", b"architecture"))
        content = content.replace(b"logging", table).replace(b"architecture", key)
        (here / "fine.toml").write_bytes(content)
        assert COMMANDS[command].main(["--config", "fine.toml", "--print-config"]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert ("'x'" in content.decode("utf-8-sig")) == (' = "x"' in out)


def test_a_mistake_that_shows_later_says_where_the_key_is_set(here, capsys):
    (here / "a.toml").write_text('[infer]\nprompt_file = "nowhere.txt"\n')
    (line,) = refused("infer", ["--config", "a.toml"], capsys)
    assert line.startswith("a.toml: [infer].prompt_file: ")
    (line,) = refused("infer", ["--config", "a.toml", "--infer.prompt_file=elsewhere.txt"], capsys)
    assert line.startswith("command line: [infer].prompt_file: ")


PROCESS_CASES = [
    ("train", b"[model]\nd_model = 3.7\n"),
    ("train", b"a = [" * 5000),
    ("make-data", b"[dta]\n"),
    ("train-tokenizer", b"[tokenizer]\nvocab_size = 256\n"),
    ("infer", b'[infer]\nprompt_file = "nowhere.txt"\n'),
    ("eval", b"[eval]\nbatch_size = 0\n"),
    ("export", b"[export]\nto = 'onnx'\n"),
    ("import", b"[import]\nsource = 'x'\n"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_installed_commands_refuse_at_once_and_without_torch(command, here):
    script = Path(sys.executable).with_name(f"transformerlm-{command}")
    for content in (content for name, content in PROCESS_CASES if name == command):
        (here / "bad.toml").write_bytes(content)
        times = []
        while len(times) < 5 and min(times, default=1) >= SECONDS:
            before = processor_seconds_of_children()
            # -X importtime: every module that is imported is a line of stderr.
            words = [sys.executable, "-X", "importtime", script, "--config", "bad.toml"]
            done = subprocess.run(words, capture_output=True, text=True)
            times.append(processor_seconds_of_children() - before)
        said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
        imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if "|" in line}
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert "tomllib" in imported
        assert not imported & {"torch", "numpy", "numba", "wandb", "regex", "tqdm"}
        (line,) = said
        assert line.startswith("bad.toml: ")
        assert min(times) < SECONDS, times


def processor_seconds_of_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize(
    ("word", "line"),
    [
        (
            "--model.vocab_size=300",
            "command line: [model].vocab_size: expected at least the tokenizer's 320 ids, got 300",
        ),
        (
            "--model.context_length=100000",
            "command line: [model].context_length: expected at most 6027, for the 6028 tokens to train on, "
            "got 100000",
        ),
    ],
)
def test_what_the_data_do_not_allow_is_refused_without_torch(word, line, workplace):
    script = "import sys; from transformerlm.cli.train import main\nstatus = main(sys.argv[1:])\n"
    script += "sys.exit(1 if 'torch' in sys.modules else status)"
    words = [sys.executable, "-c", script, "--config", "config.toml", word]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == line


# Fuzzing: nothing that is in a file makes anything but a config or lines.


def configs():
    found = sorted((ROOT / "configs").rglob("*.toml"))
    starts = {
        "train_tokenizer": "train-tokenizer",
        "make_data": "make-data",
        "infer": "infer",
        "train": "train",
        "eval": "eval",
        "export": "export",
        "import": "import",
        "report": "report",
        "sweep": "sweep",
    }
    pairs = [
        (next((command for start, command in starts.items() if path.name.startswith(start)), None), path)
        for path in found
    ]
    return [(command, path.read_bytes()) for command, path in pairs if command]


VALUES = [
    "0",
    "-1",
    "7",
    "1_000",
    "0xff",
    "9223372036854775808",
    HUGE,
    "0x" + "f" * 5000,
    "3.7",
    "-0.0",
    "1e999",
]
VALUES += [
    "nan",
    "-inf",
    "true",
    "false",
    '""',
    '"x"',
    r'"\u0000"',
    r'"\U0001F600"',
    "'raw'",
    '"""a\nb"""',
    '"~x/"',
]
VALUES += [
    "1979-05-27",
    "07:32:00",
    "1979-05-27T07:32:00Z",
    "[]",
    "[1, 2]",
    '["a", 1]',
    "[[[]]]",
    "{}",
    "{a = 1}",
]
VALUES += ["{a = {b = [1]}}", "[" * 150 + "]" * 150, '"90s"', '"auto"', "[0.9, 0.95]", "[nan, nan]"]


def keys_of(content):
    return re.findall(rb"^\s*(\w+)\s*=", content, re.MULTILINE) or [b"a"]


def mutated(content, random):
    """A config with one to three things done to it."""
    for _ in range(random.randint(1, 3)):
        lines = content.split(b"\n")
        at = random.randrange(len(content) + 1)
        line = random.randrange(len(lines))
        kind = random.randrange(8)
        if kind == 0 and content:  # a byte
            at = min(at, len(content) - 1)
            content = content[:at] + bytes([random.randrange(256)]) + content[at + 1 :]
        elif kind == 1:  # two lines change places
            other = random.randrange(len(lines))
            lines[line], lines[other] = lines[other], lines[line]
            content = b"\n".join(lines)
        elif kind == 2:
            content = content[:at]
        elif kind == 3:  # something in between
            junk = "".join(random.choices(string.printable, k=random.randint(1, 9)))
            content = content[:at] + junk.encode() + content[at:]
        elif kind == 4:  # a line twice
            content = b"\n".join([*lines[:line], lines[line], *lines[line:]])
        elif kind == 5:  # a key anywhere
            lines.insert(line, random.choice(keys_of(content)) + b" = " + random.choice(VALUES).encode())
            content = b"\n".join(lines)
        elif kind == 6:  # a key in another table, or in none that there is
            table = random.choice([b"model", b"data", b"training", b"generation", b"x", b"model.d_model"])
            key = random.choice(keys_of(content))
            content += b"\n[" + table + b"]\n" + key + b" = " + random.choice(VALUES).encode() + b"\n"
        else:  # another value
            value = random.choice(VALUES).encode().replace(b"\\", rb"\\")
            key = random.choice(keys_of(content))
            content = re.sub(rb"(?m)^" + key + rb"\s*=.*$", key + b" = " + value, content, count=1)
    return content


def fuzz(number, seed, file, capsys):
    """How many of so many configs were taken, and how many refused."""
    chance, taken = random.Random(seed), 0
    originals = configs()
    for trial in range(number):
        command, content = chance.choice(originals)
        content = mutated(content, chance)
        file.write_bytes(content)
        try:
            status = COMMANDS[command].main(["--config", str(file), "--print-config"])
        except BaseException as error:
            raise AssertionError(f"seed {seed}, trial {trial}, {command}: {content!r}") from error
        out, err = capsys.readouterr()
        assert (status, not out, not err) in ((0, False, True), (2, True, False)), content
        for line in err.splitlines():
            assert line.startswith(f"{file}: "), line
            assert line.isprintable()
        taken += status == 0
    return taken, number - taken


@pytest.mark.parametrize(
    ("number", "seed"),
    [(500, 1), pytest.param(10_000, 2, marks=[pytest.mark.slow, pytest.mark.endurance])],
    ids=["500", "10000"],
)
def test_no_mutated_config_shows_a_traceback(number, seed, tmp_path, capsys):
    assert len({command for command, _ in configs()}) == len(COMMANDS)
    taken, refused = fuzz(number, seed, tmp_path / "fuzz.toml", capsys)
    assert taken > number / 20
    assert refused > number / 4
