"""--version: what it says, and that it is true."""

import platform
import re

import torch

import transformerlm
from transformerlm.cli import train
from transformerlm.cli.version import instruction_set, kernels, torch_version, version_text
from transformerlm.kernels.libraries import TRAINING
from transformerlm.kernels.target import LEVELS, Target


def test_it_names_the_package_python_torch_and_the_kernels(capsys):
    assert train.main(["--version"]) == 0
    printed = capsys.readouterr().out
    assert printed == version_text()
    package, python, pytorch, compiled = printed.splitlines()
    assert package.startswith(f"transformerlm {transformerlm.__version__} (")
    assert python.startswith(f"Python {platform.python_version()} (")
    assert pytorch == f"torch {torch_version()}"
    assert re.fullmatch(r"kernels for \S+( with bfloat16)? \(\S+\), .*compiled.* \(in .*\)", compiled)


def test_the_version_of_torch_is_that_of_the_module_without_importing_it():
    version, _, built_for = torch_version().partition(", for ")
    assert torch.__version__.startswith(version)
    assert built_for == (f"CUDA {torch.version.cuda}" if torch.version.cuda else "")


def test_kernels_are_compiled_when_their_file_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFORMERLM_CACHE_DIR", str(tmp_path))
    assert (
        f"not compiled yet: training, generation, quantized, n-gram, tokenizer (in {tmp_path})" in kernels()
    )
    TRAINING.cache_path().touch()
    assert "compiled: training; not compiled yet: generation, quantized, n-gram, tokenizer" in kernels()


def test_kernels_that_cannot_be_used_are_said(monkeypatch):
    from transformerlm.kernels import target

    target.target.cache_clear()
    monkeypatch.setenv("TRANSFORMERLM_CPU", "sse9")
    try:
        assert kernels().startswith("cannot be used: TRANSFORMERLM_CPU: expected one of")
    finally:
        target.target.cache_clear()


def test_the_instruction_set_is_the_highest_level():
    names = list(LEVELS)
    for name, (_, instructions) in LEVELS.items():
        assert instruction_set(Target("x", "", frozenset(instructions))) == name
    every = frozenset({*LEVELS[names[-1]][1], "avx512bf16"})
    assert instruction_set(Target("x", "", every)) == f"{names[-1]} with bfloat16"
    assert instruction_set(Target("x", "", frozenset())) == platform.machine()
