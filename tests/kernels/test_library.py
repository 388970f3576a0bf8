"""Compiled code: which files and processor it belongs to, and loading it from many threads and processes."""

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.small_disk import small_disk
from transformerlm.errors import ConfigError
from transformerlm.infer import decoder
from transformerlm.kernels import dispatch, libraries, library
from transformerlm.kernels.library import CACHE_VARIABLE, Library
from transformerlm.kernels.sources import source_files
from transformerlm.kernels.target import CPU_VARIABLE, LEVELS, Target, resolve_target, target
from transformerlm.tokenizer import kernel_library

LIBRARIES = [dispatch.LIBRARY, decoder.LIBRARY, kernel_library.LIBRARY, libraries.NGRAMS]
IMPORTED = """
import importlib, sys
importlib.import_module(sys.argv[1])
for name, module in sys.modules.items():
    if name.startswith("transformerlm.") and not hasattr(module, "__path__"):
        print(module.__file__)
"""
HERE = Path(__file__).parent
ADD = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import numpy as np
from transformerlm.kernels.library import Library
out = np.ones(5, np.float32)
kernels = Library("small", "small_kernels", [], 1).kernels()
kernels.add.run_on_threads(2, np.arange(5, dtype=np.float32).ctypes.data, out.ctypes.data, 5)
print(out.tolist())
"""
ANSWER = "[1.0, 2.0, 3.0, 4.0, 5.0]\n"


@pytest.mark.slow
@pytest.mark.parametrize("own", LIBRARIES, ids=lambda own: own.title)
def test_the_key_covers_every_file_that_compiling_imports(own):
    command = [sys.executable, "-c", IMPORTED, own.module]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {Path(line) for line in done.stdout.splitlines()}
    assert len(imported) > 1
    assert imported <= set(own.sources())


def test_a_change_in_any_file_behind_a_module_changes_the_key(tmp_path, monkeypatch):
    package = tmp_path / "house"
    package.mkdir()
    files = {
        "__init__": "",
        "kernels": "from house import shared\nif TYPE_CHECKING:\n    import house.types",
        "shared": "def f():\n    from house.deep import number",
        "deep": "number = 1",
        "types": "",
        "unrelated": "",
    }
    for name, text in files.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert [path.stem for path in source_files("house.kernels")] == ["deep", "kernels", "shared"]
    keys = set()
    for name in (None, "deep", "shared", "kernels"):
        if name:
            (package / f"{name}.py").write_text(files[name] + "\n# changed")
        keys.add(Library("house's", "house.kernels", [], 1).cache_path())
    assert len(keys) == 4
    (package / "unrelated.py").write_text("# changed")
    assert Library("house's", "house.kernels", [], 1).cache_path() in keys


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Libraries of their own, with an empty cache, that share nothing but the process."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return [Library("small", "small_kernels", [], 1) for _ in range(2)]


def test_threads_that_need_a_library_at_once_compile_it_once(small, monkeypatch):
    said = []
    monkeypatch.setattr(library, "_say", said.append)
    first, second = small
    with ThreadPoolExecutor(6) as pool:
        loaded = list(pool.map(lambda _: first.kernels(), range(6)))
    assert len({id(kernels) for kernels in loaded}) == 1
    assert len(said) == 1
    again = second.kernels()  # from disk
    assert len(said) == 1
    x, out = np.arange(7, dtype=np.float32), np.ones(7, np.float32)
    second._loaded.clear()
    del again  # frees its own code and target machine alone
    loaded[0].add.run_on_threads(3, x.ctypes.data, out.ctypes.data, 7)
    assert out.tolist() == (x + 1).tolist()


def test_kernels_that_cannot_be_kept_are_used_all_the_same(small, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(library, "_say", said.append)
    with small_disk(tmp_path / "disk", "4k"):
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "disk" / "cache"))
        loaded = small[0].kernels()
        x, out = np.arange(7, dtype=np.float32), np.ones(7, np.float32)
        loaded.add.run_on_threads(2, x.ctypes.data, out.ctypes.data, 7)
        assert out.tolist() == (x + 1).tolist()
        assert not small[0].cache_path().exists()
    assert "No space left on device" in said[-1]
    assert f"they will be compiled again (${CACHE_VARIABLE} names another folder)" in said[-1]


@pytest.mark.slow
def test_of_processes_that_need_a_library_at_once_one_compiles_it(tmp_path):
    environment = os.environ | {CACHE_VARIABLE: str(tmp_path)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", ADD],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers, messages = zip(*(process.communicate() for process in running), strict=True)
    assert answers == (ANSWER,) * 3
    assert sum(map(bool, messages)) == 1, messages  # "compiling ..."
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_a_lesser_processor_has_code_of_its_own(tmp_path):
    for choice in ("sse4", "native"):
        environment = os.environ | {CACHE_VARIABLE: str(tmp_path), CPU_VARIABLE: choice}
        command = [sys.executable, "-c", ADD]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout == ANSWER
    assert len(list(tmp_path.iterdir())) == 2


def test_a_choice_of_instructions_is_one_that_the_processor_has():
    host = Target("znver3", "+avx2", frozenset(LEVELS["avx2"][1]) | {"sse4a"})
    assert resolve_target("native", host) is host
    lowered = resolve_target("avx2", host)
    assert (lowered.name, lowered.is_native) == ("x86-64-v3", False)
    assert "avx512f" not in lowered.instructions
    with pytest.raises(ConfigError, match="'avx512', which needs avx512bw"):
        resolve_target("avx512", host)
    with pytest.raises(ConfigError, match=f"{CPU_VARIABLE}: expected one of \"native\", .*, got 'avx3'"):
        resolve_target("avx3", host)


def level_below() -> str:
    """Return the next lesser kind of processor than this one: avx2 below AVX-512, sse4 below AVX2."""
    levels = [level for level in LEVELS if set(LEVELS[level][1]) <= target().instructions]
    if len(levels) < 2:
        pytest.skip("this processor has no lesser kind below it")
    return levels[-2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "level", ["below", *(pytest.param(level, marks=pytest.mark.endurance) for level in LEVELS)]
)
def test_the_parity_tests_pass_with_fewer_instructions(level):
    choice = level_below() if level == "below" else level
    if not set(LEVELS[choice][1]) <= target().instructions:
        pytest.skip("this processor has no such instructions")
    root = HERE.parents[1]
    files = ["tests/nn/test_fused.py", "tests/infer/test_decoder.py", "tests/infer/test_sampling_kernel.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *files]
    done = subprocess.run(
        [*command, "-k", "not fifty and not whole"],
        env=os.environ | {CPU_VARIABLE: choice},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
