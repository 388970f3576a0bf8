"""Libraries of kernels written in Python: compiled once, cached on disk, and loaded without numba.

A library is a module of numba source. The name of a cached file contains a hash of the source and of the
processor, so that another version has another file. Loading takes some milliseconds and needs only llvmlite;
compiling takes some seconds to half a minute, and needs numba. This module is independent of the kernels'
contents.
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

from transformerlm.errors import LockedError, OutputError
from transformerlm.kernels.environment import CACHE_VARIABLE, cache_dir
from transformerlm.kernels.sources import source_files
from transformerlm.kernels.target import target
from transformerlm.storage.files import committed_file
from transformerlm.storage.lock import locked

_LETTERS = {"f64": "d"}
"""Type of an argument -> its format in Python's struct; all others, addresses included, are integers
("q")."""
_DTYPES = {f"{kind}{bits}*": np.dtype(f"{kind}{bits // 8}") for kind in "ui" for bits in (8, 16, 32, 64)}
_DTYPES |= {"f32*": np.dtype(np.float32), "f64*": np.dtype(np.float64)}
_COMPILING = threading.Lock()
"""Held by the thread that compiles: the compiler's settings are global to the process."""
_POLL_SECONDS = 0.05
Array = NDArray[Any]
Arguments = dict[str, Array | int]
"""Arguments of a kernel by name."""


class Kernel:
    """A compiled function. It takes its arguments in a frame: an array of numbers and addresses of arrays.

    Arrays must be contiguous and stay alive while it runs. The GIL is released meanwhile.
    """

    def __init__(self, name: str, address: int, parameters: Mapping[str, str], member: int) -> None:
        self.name, self.parameters, self.address, self._member = name, dict(parameters), address, member
        self.run = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(address)
        """Function that runs the kernel on one thread, given the address of a frame."""
        self._run_part = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_int64] * 2)(address)
        letters = (_LETTERS.get(kind, "q") for kind in self.parameters.values())
        self._layout = struct.Struct(f"={''.join(letters)}")

    def frame(self, **values: Array | int) -> Array:
        """Return the arguments as an array; those not given are 0, to be set later."""
        assert values.keys() <= self.parameters.keys(), values.keys() - self.parameters.keys()
        arguments = (_argument(name, values.get(name, 0), kind) for name, kind in self.parameters.items())
        return np.fromiter(arguments, np.int64, len(self.parameters))

    def places(self, *names: str) -> list[int]:
        """Return the positions of some arguments in a frame."""
        return [list(self.parameters).index(name) for name in names]

    def __call__(self, **values: Array | int) -> int:
        """Run with all arguments given by name."""
        assert values.keys() == self.parameters.keys(), self.parameters.keys() ^ values.keys()
        frame = self.frame(**values)  # lives until the kernel is done
        return int(self.run(frame.ctypes.data))

    def run_on_threads(self, num_threads: int, *values: float) -> None:
        """Run on several threads, each of which does its part (parameters `part` and `parts` in the source).

        Uses the threads of the process's OpenMP library, if there is one: PyTorch uses them too, and with
        separate threads they would compete for the processor while they wait actively.

        Args:
            values: the other arguments in order; addresses as integers, which are not checked.
        """
        frame, openmp = self.packed(*values), _openmp()
        if num_threads == 1:
            self.run_part(frame, 0, 1)
        elif openmp is not None:
            start, *functions = openmp
            task = (ctypes.c_int64 * 4)(self.address, ctypes.addressof(frame), *functions)
            start(self._member, ctypes.addressof(task), num_threads, 0)
        else:
            with ThreadPoolExecutor(num_threads) as pool:
                list(pool.map(lambda part: self.run_part(frame, part, num_threads), range(num_threads)))

    def packed(self, *values: float) -> ctypes.Array[ctypes.c_char]:
        """Return all arguments, in order, as a frame; addresses as integers, which are not checked."""
        return ctypes.create_string_buffer(self._layout.pack(*values))

    def run_part(self, frame: ctypes.Array[ctypes.c_char], part: int, parts: int) -> None:
        """Run one thread's part of a frame's work."""
        self._run_part(ctypes.addressof(frame), part, parts)


def _argument(name: str, value: Array | int, kind: str) -> int:
    if isinstance(value, np.ndarray):
        assert value.dtype == _DTYPES[kind], f"{name}: expected {kind}, got {value.dtype}"
        assert value.flags.c_contiguous
        return int(value.ctypes.data)
    return int(value)


@functools.cache
def _openmp() -> tuple[Callable[..., None], int, int] | None:
    """Return functions of the process's OpenMP library (GNU's interface): start, thread number, team size."""
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(None)
        start = library.GOMP_parallel
        functions = library.omp_get_thread_num, library.omp_get_num_threads
    except AttributeError:
        return None
    start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    start.restype = None
    get_thread, get_team_size = (ctypes.cast(f, ctypes.c_void_p).value or 0 for f in functions)
    return start, get_thread, get_team_size


class Kernels:
    """All kernels of a library, as attributes by their names."""

    def __init__(self, machine_code: bytes, header: Mapping[str, Any]) -> None:
        import llvmlite.binding as llvm

        self.metadata = header["metadata"]
        """Data that the library stored beside the machine code (`Library.metadata`)."""
        # The engine owns the memory of the code.
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
        title: name in the message "compiling the ... kernels".
        module: module with ENTRIES (name -> function), parameters(name), and OPTIONS of numba's compiler;
            imported only to compile.
        sources: files that the machine code depends on, in addition to those that `module` imports
            (sources.py).
        seconds: approximate duration of the compilation.
        packages: packages whose versions it depends on, in addition to numba and llvmlite.
        metadata: returns JSON data to store beside the machine code; called only to compile.
    """

    def __init__(
        self,
        title: str,
        module: str,
        sources: Sequence[Path],
        seconds: int,
        packages: Sequence[str] = (),
        metadata: Callable[[], object] = lambda: None,
    ) -> None:
        self.title, self.module, self.seconds, self.metadata = title, module, seconds, metadata
        self._sources, self._packages = list(sources), [*packages, "numba", "llvmlite"]
        self._lock, self._loaded = threading.Lock(), list[Kernels]()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._unlock)

    @property
    def is_loaded(self) -> bool:
        """True if the kernels are loaded in this process."""
        return bool(self._loaded)

    def kernels(self) -> Kernels:
        """Return the kernels: loaded if they have been compiled before, else compiled now, with a message."""
        with self._lock:
            if not self._loaded:
                self._loaded.append(self.load() or self._compile_once())
            return self._loaded[0]

    def _unlock(self) -> None:
        """Replace the lock in a forked child: a thread that held it does not exist there."""
        self._lock = threading.Lock()

    def load(self) -> Kernels | None:
        """Return the kernels from disk; None if the file is missing or damaged."""
        try:
            content = self.cache_path().read_bytes()
        except OSError:
            return None
        checksum, _, rest = content.partition(b"\n")
        if hashlib.sha256(rest).hexdigest().encode() != checksum:
            return None  # damaged: compiled again
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
        """Compile, or wait for another process that does: several often need the same kernels at one time."""
        with _waiting_lock(self.cache_path()):
            return self.load() or self._compile()

    def _compile(self) -> Kernels:
        from transformerlm.kernels.compile import compile_kernels

        _say(f"compiling the {self.title} kernels for this machine (once; some {self.seconds} seconds) ...")
        with _COMPILING:
            machine_code, header = compile_kernels(self.module, _target_machine())
        header["metadata"] = self.metadata()
        rest = json.dumps(header).encode() + b"\n" + machine_code
        path = self.cache_path()
        try:
            with committed_file(path) as file:
                file.write(hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest)
        except (OSError, OutputError) as error:
            what = f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)
            _say(f"{what}; they will be compiled again (${CACHE_VARIABLE} names another folder)")
        return Kernels(machine_code, header)


@contextlib.contextmanager
def _waiting_lock(path: Path) -> Iterator[None]:
    """Wait for the lock on making the file at `path`, and hold it; no lock if the folder is not writable."""
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
    """Return a new target machine: the engine that gets it owns it and frees it."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    processor, options = target(), {"opt": 3, "reloc": "pic", "codemodel": "jitdefault", "jit": True}
    triple = llvm.Target.from_default_triple()
    return triple.create_target_machine(cpu=processor.name, features=processor.features, **options)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
