"""Compiles kernels written in Python once, keeps the machine code on disk, and loads it without numba.

A library of kernels is a module of numba source. What is on disk belongs to one processor and one version
of that source: anything else has another name. Loading takes some milliseconds and needs llvmlite alone;
compiling takes some seconds to half a minute, and numba. What the kernels do is not known here.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transformerlm.errors import LockedError
from transformerlm.kernels.sources import source_files
from transformerlm.kernels.target import target
from transformerlm.storage.files import committed_file
from transformerlm.storage.lock import locked

CACHE_VARIABLE = "TRANSFORMERLM_CACHE_DIR"
"""Folder for the machine code; without it, `transformerlm` in the user's own folder for caches."""

_LETTERS = {"f64": "d"}
"""Kinds of arguments as Python's struct has them; all that are not here, addresses too, are whole numbers."""
_DTYPES = {f"{kind}{bits}*": np.dtype(f"{kind}{bits // 8}") for kind in "ui" for bits in (8, 16, 32, 64)}
_DTYPES["f32*"] = np.dtype(np.float32)
_COMPILING = threading.Lock()
"""Held by the thread that compiles: the compiler's settings are the process's."""
_POLL_SECONDS = 0.05
Array = NDArray[Any]
Arguments = dict[str, Array | int]
"""Arguments of a kernel by name."""


class Kernel:
    """A compiled function. Its arguments lie in a frame: numbers, and addresses of arrays.

    Arrays must be contiguous and stay alive while it runs; other threads run meanwhile.
    """

    def __init__(self, name: str, address: int, parameters: Mapping[str, str], member: int) -> None:
        self.name, self.parameters, self._address, self._member = name, dict(parameters), address, member
        self.run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(address)
        """Takes a frame's address."""
        self._run_part = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_int64] * 2)(address)
        letters = (_LETTERS.get(kind, "q") for kind in self.parameters.values())
        self._layout = struct.Struct(f"={''.join(letters)}")

    def frame(self, **values: Array | int) -> Array:
        """The arguments as an array; those that are not given are 0, to be set later."""
        assert values.keys() <= self.parameters.keys(), values.keys() - self.parameters.keys()
        arguments = (_argument(name, values.get(name, 0), kind) for name, kind in self.parameters.items())
        return np.fromiter(arguments, np.int64, len(self.parameters))

    def places(self, *names: str) -> list[int]:
        """Positions of some arguments in a frame."""
        return [list(self.parameters).index(name) for name in names]

    def __call__(self, **values: Array | int) -> int:
        """Run with all arguments given by name."""
        assert values.keys() == self.parameters.keys(), self.parameters.keys() ^ values.keys()
        frame = self.frame(**values)  # lives until the kernel is done
        return int(self.run(frame.ctypes.data))

    def share(self, num_threads: int, *values: float) -> None:
        """Run on several threads, each doing its part (parameters `part` and `parts` in the source).

        The threads are those of the OpenMP library in the process, where there is one: PyTorch runs its
        operations on the same ones, and they would otherwise wait at full speed beside ours.

        Args:
            values: the other arguments in order; addresses are numbers, and right by the caller's word.
        """
        buffer = ctypes.create_string_buffer(self._layout.pack(*values))
        frame, openmp = ctypes.addressof(buffer), _openmp()
        if num_threads == 1:
            self._run_part(frame, 0, 1)
        elif openmp is not None:
            start, *functions = openmp
            task = (ctypes.c_int64 * 4)(self._address, frame, *functions)
            start(self._member, ctypes.addressof(task), num_threads, 0)
        else:
            with ThreadPoolExecutor(num_threads) as pool:
                list(pool.map(lambda part: self._run_part(frame, part, num_threads), range(num_threads)))


def _argument(name: str, value: Array | int, kind: str) -> int:
    if isinstance(value, np.ndarray):
        assert value.dtype == _DTYPES[kind], f"{name}: expected {kind}, got {value.dtype}"
        assert value.flags.c_contiguous
        return int(value.ctypes.data)
    return int(value)


@functools.cache
def _openmp() -> tuple[Callable[..., None], int, int] | None:
    """Functions of the process's OpenMP library (GNU's interface): start a team, thread number, team size."""
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(None)
        start = library.GOMP_parallel
        who, how_many = library.omp_get_thread_num, library.omp_get_num_threads
    except AttributeError:
        return None
    start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    start.restype = None
    who_address, how_many_address = (ctypes.cast(f, ctypes.c_void_p).value or 0 for f in (who, how_many))
    return start, who_address, how_many_address


class Kernels:
    """All kernels of a library, as attributes by their names."""

    def __init__(self, machine_code: bytes, header: Mapping[str, Any]) -> None:
        import llvmlite.binding as llvm

        self.about = header["about"]
        """Data that the library stored beside the machine code (`Library.about`)."""
        # The engine owns the memory that the code is in.
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
        self._engine.add_object_file(llvm.ObjectFileRef.from_data(machine_code))
        self._engine.finalize_object()
        address = self._engine.get_function_address
        for name, kinds in header["parameters"].items():
            setattr(self, name, Kernel(name, address(name), kinds, address(header["member"])))

    def __getattr__(self, name: str) -> Kernel:
        raise AttributeError(name)


class Library:
    """Kernels that are compiled together.

    Args:
        title: whose they are, for the line that says that they are being compiled.
        module: where ENTRIES (name -> function) and parameters(name) are, and the options of numba's
            compiler; imported only to compile.
        sources: files that the machine code depends on beside those that `module` imports (sources.py).
        seconds: about how long compiling takes.
        packages: packages whose version it depends on, beside numba and llvmlite.
        about: what to keep beside the machine code, as JSON; worked out only to compile.
    """

    def __init__(
        self,
        title: str,
        module: str,
        sources: Sequence[Path],
        seconds: int,
        packages: Sequence[str] = (),
        about: Callable[[], object] = lambda: None,
    ) -> None:
        self.title, self.module, self.seconds, self.about = title, module, seconds, about
        self._sources, self._packages = list(sources), [*packages, "numba", "llvmlite"]
        self._lock, self._loaded = threading.Lock(), list[Kernels]()

    @property
    def is_loaded(self) -> bool:
        """True if the kernels are loaded in this process."""
        return bool(self._loaded)

    def kernels(self) -> Kernels:
        """The kernels: loaded where they have been compiled before, else compiled now, which is said."""
        with self._lock:
            if not self._loaded:
                self._loaded.append(self.load() or self._compile_once())
            return self._loaded[0]

    def load(self) -> Kernels | None:
        """The kernels from disk; None where there are none, or damaged ones."""
        try:
            content = self.cache_path().read_bytes()
        except OSError:
            return None
        checksum, _, rest = content.partition(b"\n")
        if hashlib.sha256(rest).hexdigest().encode() != checksum:
            return None  # they will be made anew
        header, _, machine_code = rest.partition(b"\n")
        return Kernels(machine_code, json.loads(header))

    def cache_path(self) -> Path:
        """Path of the machine code of this source, for this processor and these compilers."""
        return cache_dir() / f"{self.module.split('.')[-1]}-{self._key()}"

    @functools.cache  # noqa: B019 - a library lives as long as the program
    def _key(self) -> str:
        parts = [path.read_bytes() for path in self.sources()]
        parts += [importlib.metadata.version(name).encode() for name in self._packages]
        processor = target()
        where = [sys.platform, platform.machine(), processor.name, processor.features]
        parts += [json.dumps(where).encode()]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:24]

    def sources(self) -> list[Path]:
        """All files that the machine code depends on."""
        own = Path(__file__)
        compilers = [own, own.with_name("compile.py"), own.with_name("target.py")]
        return sorted({*source_files(self.module), *self._sources, *compilers})

    def _compile_once(self) -> Kernels:
        """Compile, or wait for another process that does: several often need the same kernels at once."""
        with _waiting_lock(self.cache_path()):
            return self.load() or self._compile()

    def _compile(self) -> Kernels:
        from transformerlm.kernels.compile import compile_kernels

        _say(f"compiling the {self.title} kernels for this machine (once; some {self.seconds} seconds) ...")
        with _COMPILING:
            machine_code, header = compile_kernels(self.module, _target_machine())
        header["about"] = self.about()
        rest = json.dumps(header).encode() + b"\n" + machine_code
        path = self.cache_path()
        try:
            with committed_file(path) as file:
                file.write(hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)
        except OSError as error:
            advice = f"they will be compiled again (${CACHE_VARIABLE} names another folder)"
            _say(f"{path}: {error.strerror}; {advice}")
        return Kernels(machine_code, header)


@contextlib.contextmanager
def _waiting_lock(path: Path) -> Iterator[None]:
    """Hold the lock for making the file at `path`; without one where the folder cannot be written."""
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(path.with_name(f"{path.name}.compiling")))
                break
            except LockedError:
                time.sleep(_POLL_SECONDS)
            except OSError:
                break
        yield


def _target_machine() -> Any:
    """A new one each time: the engine that takes it owns it, and frees it with itself."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    processor, options = target(), {"opt": 3, "reloc": "pic", "codemodel": "jitdefault", "jit": True}
    triple = llvm.Target.from_default_triple()
    return triple.create_target_machine(cpu=processor.name, features=processor.features, **options)


def cache_dir() -> Path:
    """Folder of the machine code."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    except RuntimeError:  # a user without a home, as containers have them: nothing can be kept
        base = os.devnull
    return Path(base) / "transformerlm"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
