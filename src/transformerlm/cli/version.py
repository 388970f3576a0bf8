"""The text of --version: the package, Python, torch, and the kernels. Imports no torch."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import transformerlm
from transformerlm.errors import ConfigError
from transformerlm.kernels.target import LEVELS, Target, target


def version_text() -> str:
    """Return a line for the package, for Python, for torch, and for the kernels, with the folders in use."""
    lines = [
        f"transformerlm {transformerlm.__version__} ({Path(transformerlm.__file__).parent})",
        f"Python {platform.python_version()} ({sys.executable})",
        f"torch {torch_version()}",
        f"kernels {kernels()}",
    ]
    return "\n".join(lines) + "\n"


def torch_version() -> str:
    """Return the version of torch and what it was built for, such as `2.15.0+cu132, for CUDA 13.2`."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "is not installed"
    for name, built_for in _torch_builds():
        if name in ("cuda", "hip"):
            version += f", for {'CUDA' if name == 'cuda' else 'ROCm'} {built_for}"
    return version


def _torch_builds() -> Iterator[tuple[str, str]]:
    """Yield the names in torch/version.py that are set to text; the file is read, and not imported."""
    spec = importlib.util.find_spec("torch")
    path = Path((spec and spec.origin) or "").with_name("version.py")
    try:
        statements = ast.parse(path.read_text(encoding="utf-8")).body
    except (OSError, SyntaxError):
        return
    for statement in statements:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            value = statement.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield statement.target.id, value.value


def kernels() -> str:
    """Return the instruction set of the CPU kernels, the processor, and which of them are compiled."""
    try:
        from transformerlm.kernels import libraries
        from transformerlm.kernels.environment import cache_dir
        from transformerlm.tokenizer.kernel_library import LIBRARY

        of_models = libraries.TRAINING, libraries.GENERATION, libraries.QUANTIZED, libraries.NGRAMS
        known = {library.title: library for library in of_models} | {"tokenizer": LIBRARY}
        found = [name for name, library in known.items() if library.cache_path().is_file()]
        processor = target()
    except (ImportError, ConfigError, OSError) as error:
        return f"cannot be used: {error}"
    missing = [name for name in known if name not in found]
    state = [f"compiled: {', '.join(found)}"] * bool(found)
    state += [f"not compiled yet: {', '.join(missing)}"] * bool(missing)
    return f"for {instruction_set(processor)} ({processor.name}), {'; '.join(state)} (in {cache_dir()})"


def instruction_set(processor: Target) -> str:
    """Return the highest of LEVELS that a processor has, or its architecture, and whether it has bfloat16."""
    found = [name for name, (_, needed) in LEVELS.items() if processor.instructions >= set(needed)]
    has_bfloat16 = processor.instructions & {"avx512bf16", "bf16"}
    return (found or [platform.machine()])[-1] + (" with bfloat16" if has_bfloat16 else "")
