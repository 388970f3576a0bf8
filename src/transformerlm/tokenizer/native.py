"""Compiles the kernels once, keeps the machine code on disk, and loads it without numba.

What is on disk belongs to one processor and one version of the source: anything else has another name.
Loading takes some milliseconds and needs llvmlite alone; compiling takes some 20 seconds, and numba.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from transformerlm.errors import ConfigError
from transformerlm.files import committed_file
from transformerlm.tokenizer.layout import LETTER, NUMBER, OTHER, SPACE

CACHE_VARIABLE = "TRANSFORMERLM_CACHE_DIR"
"""Folder for the machine code; without it, `transformerlm` in the user's own folder for caches."""
CHOICE_VARIABLE = "TRANSFORMERLM_KERNELS"
"""When to use the kernels: "auto" (where they save time), "always" or "never"."""

_LOADING_SECONDS = 0.1
_COMPILING_SECONDS = 25.0

_SOURCES = ("kernels.py", "layout.py", "native.py")
_DTYPES = {f"{kind}{bits}*": np.dtype(f"{kind}{bits // 8}") for kind in "ui" for bits in (8, 16, 32, 64)}
# Every kernel that numba compiles can hand an exception to Python, though these raise none. Saying that
# it never happens removes that code, and with it the need for numba's own library.
_NEVER = "".join(
    f"define void @{name}(ptr %0) {{\n unreachable\n}}\n"
    for name in ("numba_gil_ensure", "numba_gil_release")
)

Array = NDArray[Any]
Arguments = dict[str, Array | int]
"""What a kernel takes, by name."""


class Kernel:
    """A compiled function. Its arguments lie in an array, a frame: numbers, and addresses of arrays.

    Arrays must be contiguous and stay alive while it runs; other threads run meanwhile.
    """

    def __init__(self, name: str, address: int, parameters: Mapping[str, str]) -> None:
        self.name, self.parameters = name, dict(parameters)
        self.run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(address)
        """Takes a frame's address."""

    def frame(self, **values: Array | int) -> Array:
        """The arguments as an array; those that are not given are 0, to be set later."""
        assert values.keys() <= self.parameters.keys(), values.keys() - self.parameters.keys()
        arguments = (_argument(name, values.get(name, 0), kind) for name, kind in self.parameters.items())
        return np.fromiter(arguments, np.int64, len(self.parameters))

    def places(self, *names: str) -> list[int]:
        """Where in a frame some arguments are."""
        return [list(self.parameters).index(name) for name in names]

    def __call__(self, **values: Array | int) -> int:
        """Run with all arguments given by name."""
        assert values.keys() == self.parameters.keys(), self.parameters.keys() ^ values.keys()
        frame = self.frame(**values)  # lives until the kernel is done
        return int(self.run(frame.ctypes.data))


def _argument(name: str, value: Array | int, kind: str) -> int:
    if isinstance(value, np.ndarray):
        assert value.dtype == _DTYPES[kind], f"{name}: expected {kind}, got {value.dtype}"
        assert value.flags.c_contiguous
        return int(value.ctypes.data)
    return int(value)


class Kernels:
    """All kernels, as attributes by their names."""

    def __init__(self, machine_code: bytes, header: Mapping[str, Any]) -> None:
        import llvmlite.binding as llvm

        self.classes = _unfold(header["classes"])

        # The engine owns the memory that the code is in.
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(machine_code))
        self._engine.finalize_object()
        for name, kinds in header["parameters"].items():
            setattr(self, name, Kernel(name, self._engine.get_function_address(name), kinds))

    def __getattr__(self, name: str) -> Kernel:
        raise AttributeError(name)


_lock = threading.Lock()
_loaded: list[Kernels] = []


def are_worth(plain_seconds: float) -> bool:
    """Whether work that takes so long without the kernels takes less with them, getting them included.

    Raises:
        ConfigError: for an unknown choice in the environment.
    """
    choice = os.environ.get(CHOICE_VARIABLE, "auto")
    if choice not in ("auto", "always", "never"):
        raise ConfigError(f'{CHOICE_VARIABLE}: expected "auto", "always" or "never", got {choice!r}')
    if choice != "auto":
        return choice == "always"
    if _loaded:
        return True
    if plain_seconds <= _LOADING_SECONDS:
        return False
    # os.path, because a folder that may not be looked into holds nothing for us, and is no error.
    return plain_seconds > _COMPILING_SECONDS or os.path.exists(_cache_path())  # noqa: PTH110


def kernels() -> Kernels:
    """The kernels: loaded where they have been compiled before, else compiled now, which is said."""
    with _lock:
        if not _loaded:
            _loaded.append(_load() or _compile())
        return _loaded[0]


def _load() -> Kernels | None:
    try:
        content = _cache_path().read_bytes()
    except OSError:
        return None
    checksum, _, rest = content.partition(b"\n")
    if hashlib.sha256(rest).hexdigest().encode() != checksum:
        return None  # damaged, and made anew
    header, _, machine_code = rest.partition(b"\n")
    return Kernels(machine_code, json.loads(header))


def _compile() -> Kernels:
    _say("compiling the tokenizer's kernels for this machine (once; some 20 seconds) ...")
    machine_code, parameters = compile_kernels()
    header = {"parameters": parameters, "classes": class_runs()}
    rest = json.dumps(header).encode() + b"\n" + machine_code
    path = _cache_path()
    try:
        with committed_file(path) as file:
            file.write(hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)
    except OSError as error:
        _say(
            f"{path}: {error.strerror}; they will be compiled again (${CACHE_VARIABLE} names another folder)"
        )
    return Kernels(machine_code, header)


def class_runs() -> list[tuple[int, int]]:
    """Where in Unicode the class of characters changes, as the `regex` package has them: (first, class)."""
    # Half a surrogate pair is in no text; NUL, which is OTHER as well, stands for it.
    surrogates = range(0xD800, 0xE000)
    every = "".join("\0" if code in surrogates else chr(code) for code in range(sys.maxunicode + 1))
    runs = [(0, OTHER)]
    for match in regex.finditer(r"(\p{L}+)|(\p{N}+)|(\s+)|([^\s\p{L}\p{N}]+)", every):
        runs.append((match.start(), (OTHER, LETTER, NUMBER, SPACE, OTHER)[match.lastindex or 0]))
    return runs


def _unfold(runs: Sequence[tuple[int, int]]) -> Array:
    """Class by code, for all codes that four bytes can spell, though the last half are no characters."""
    starts, classes = np.array(runs).T
    return np.repeat(classes.astype(np.uint8), np.diff(starts, append=1 << 21))


def compile_kernels() -> tuple[bytes, dict[str, dict[str, str]]]:
    """Machine code of all kernels in one object file, and their parameters by name."""
    import llvmlite.binding as llvm

    from transformerlm.tokenizer.kernels import ENTRIES, parameters

    module = llvm.parse_assembly(_NEVER)
    for name in ENTRIES:
        module.link_in(_compile_one(name))
    for function in module.functions:
        if function.name not in ENTRIES and not function.is_declaration:
            function.linkage = "internal"
    for variable in module.global_variables:
        variable.linkage = "internal"
    machine = _target_machine()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    return machine.emit_object(module), {name: parameters(name) for name in ENTRIES}


def _compile_one(name: str) -> Any:
    """A kernel as a module of LLVM's, in which nothing but the kernel can be seen from outside."""
    import llvmlite.binding as llvm
    from numba import cfunc, types

    from transformerlm.tokenizer.kernels import ENTRIES, parameters

    kinds = list(parameters(name).values())
    arguments = [
        types.CPointer(getattr(types, str(_DTYPES[kind])))  # type: ignore[no-untyped-call]
        if kind in _DTYPES
        else types.int64
        for kind in kinds
    ]
    compiled = cfunc(types.int64(*arguments), error_model="numpy")(ENTRIES[name])
    module = llvm.parse_assembly(compiled.inspect_llvm())
    for function in module.functions:
        if function.name == compiled.native_name:
            function.name = f"{name}_of_arguments"
        elif not function.is_declaration:
            function.linkage = "internal"
    module.link_in(llvm.parse_assembly(_taking_a_frame(name, kinds)))
    module.get_function(f"{name}_of_arguments").linkage = "internal"
    return module


def _taking_a_frame(name: str, kinds: Sequence[str]) -> str:
    """A function in LLVM's language that reads its arguments from a frame: Python calls it more quickly."""
    types = ["ptr" if kind in _DTYPES else "i64" for kind in kinds]
    values = ", ".join(f"{kind} %value{place}" for place, kind in enumerate(types))
    reads = "".join(
        f"%at{place} = getelementptr i64, ptr %frame, i64 {place}\n"
        f"%value{place} = load {kind}, ptr %at{place}\n"
        for place, kind in enumerate(types)
    )
    return f"""declare i64 @{name}_of_arguments({", ".join(types)})
define i64 @{name}(ptr %frame) {{
{reads}%result = call i64 @{name}_of_arguments({values})
ret i64 %result
}}"""


@functools.cache
def _target_machine() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="jitdefault",
        jit=True,
    )


@functools.cache
def _cache_path() -> Path:
    """Where the machine code of this source, for this processor and these compilers, is kept."""
    parts = [Path(__file__).with_name(name).read_bytes() for name in _SOURCES]
    parts += [importlib.metadata.version(name).encode() for name in ("numba", "llvmlite", "regex")]
    parts += [json.dumps([sys.platform, platform.machine(), _processor()]).encode()]
    return _cache_dir() / f"kernels-{hashlib.sha256(b''.join(parts)).hexdigest()[:24]}"


def _cache_dir() -> Path:
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    except RuntimeError:  # a user without a home, as containers have them: nothing can be kept
        base = os.devnull
    return Path(base) / "transformerlm"


def _processor() -> list[str]:
    import llvmlite.binding as llvm

    return [llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
