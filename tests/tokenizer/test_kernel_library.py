"""The kernels' machine code: compiled once, kept, checked, and not used where that would cost time."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import regex

from transformerlm.errors import ConfigError
from transformerlm.kernels.bpe_layout import LETTER, NUMBER, SPACE
from transformerlm.kernels.library import CACHE_VARIABLE, cache_dir
from transformerlm.tokenizer import kernel_library
from transformerlm.tokenizer.kernel_library import CHOICE_VARIABLE, LIBRARY

ENCODE = """
from transformerlm.tokenizer import Tokenizer
tokenizer = Tokenizer({byte: bytes([byte]) for byte in range(256)} | {256: b"ab"}, [(b"a", b"b")])
print(tokenizer.encode("cab ab" * 2), "_kernel_encoder" in vars(tokenizer))
"""
ANSWER = "[99, 256, 32, 256, 99, 256, 32, 256]"


pytestmark = pytest.mark.parametrize("kernels", ["always"], indirect=True, scope="session")


def run(code, **environment):
    environment = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return tmp_path


def test_small_work_needs_neither_numba_nor_llvm():
    modules = "import sys; print([name for name in ('numba', 'llvmlite', 'torch') if name in sys.modules])"
    assert run(ENCODE + modules, **{CHOICE_VARIABLE: "auto"}) == (f"{ANSWER} False\n[]", "")


def test_loading_needs_no_numba(kernels):
    kernel_library.kernels()  # compiles them where they are not yet
    code = ENCODE + "import sys; print('numba' in sys.modules)"
    assert run(code, **{CHOICE_VARIABLE: "always"}) == (f"{ANSWER} True\nFalse", "")


def test_when_kernels_are_worth_their_cost(own_cache, monkeypatch):
    monkeypatch.setattr(LIBRARY, "_loaded", [])
    monkeypatch.setenv(CHOICE_VARIABLE, "auto")
    assert not kernel_library.should_use(0.01)
    assert not kernel_library.should_use(5)  # they would have to be compiled
    assert kernel_library.should_use(1000)
    LIBRARY.cache_path().write_bytes(b"")
    assert kernel_library.should_use(5)
    assert not kernel_library.should_use(0.01)
    for choice, expected in (("always", True), ("never", False)):
        monkeypatch.setenv(CHOICE_VARIABLE, choice)
        assert kernel_library.should_use(0) is kernel_library.should_use(1e9) is expected


def test_an_unknown_choice_is_one_line(monkeypatch):
    monkeypatch.setenv(CHOICE_VARIABLE, "yes")
    with pytest.raises(ConfigError, match=r"TRANSFORMERLM_KERNELS: expected .*, got 'yes'"):
        kernel_library.should_use(1)


def test_a_user_without_a_home_keeps_nothing(monkeypatch):
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def nowhere(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nowhere)
    assert not (cache_dir() / "kernels").exists()
    with pytest.raises(OSError, match="Not a directory"):
        cache_dir().mkdir(parents=True)


def test_damaged_machine_code_is_never_run(own_cache, monkeypatch):
    monkeypatch.delenv(CACHE_VARIABLE)
    kernel_library.kernels()
    content = LIBRARY.cache_path().read_bytes()
    monkeypatch.setenv(CACHE_VARIABLE, str(own_cache))
    assert LIBRARY.load() is None
    for damaged in (
        b"",
        content[:-1],
        content[:100],
        content.replace(b"encode", b"encodE", 1),
        content + b"\0",
    ):
        LIBRARY.cache_path().write_bytes(damaged)
        assert LIBRARY.load() is None
    LIBRARY.cache_path().write_bytes(content)
    assert LIBRARY.load() is not None


def test_arguments_are_checked():
    decoded_size = kernel_library.kernels().decoded_size
    good = {
        "ids16": 0,
        "ids32": 0,
        "is_wide": 0,
        "number": 0,
        "spans": np.zeros(1, np.uint64),
        "num_tokens": 1,
    }
    assert decoded_size(**good) == 0
    with pytest.raises(AssertionError, match="spans: expected"):
        decoded_size(**{**good, "spans": np.zeros(1)})
    with pytest.raises(AssertionError, match="num_tokens"):
        decoded_size(**{name: value for name, value in good.items() if name != "num_tokens"})


def test_characters_have_the_classes_that_the_pattern_gives_them():
    classes = kernel_library.classes()
    assert len(classes) == 1 << 21
    for name, kind in ((r"\p{L}", LETTER), (r"\p{N}", NUMBER), (r"\s", SPACE)):
        matches = regex.compile(name).fullmatch
        for code in (*range(0x3000), *range(0x3000, 0x110000, 61)):
            if not 0xD800 <= code < 0xE000:
                assert bool(matches(chr(code))) == (classes[code] == kind), hex(code)


@pytest.mark.slow
@pytest.mark.endurance  # compiles all of the tokenizer's kernels
def test_compiling_says_so_and_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("")
    environment = {CHOICE_VARIABLE: "always", CACHE_VARIABLE: str(tmp_path / "file" / "cache")}
    answer, said = run(ENCODE, **environment)
    assert answer == f"{ANSWER} True"
    compiling, kept = said.splitlines()
    assert "compiling the tokenizer's kernels" in compiling
    assert "compiled again" in kept
