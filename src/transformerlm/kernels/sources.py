"""The source files that compiled kernels depend on, found by the imports of their module."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

# Regular expressions, since parsing 2,000 lines would take longer than loading the kernels.
_FOR_TYPE_CHECKERS = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t]+.*(?:\n|\Z)|\n)*", re.MULTILINE)
_FROM = re.compile(r"^[ \t]*from ([\w.]+) import (?:\(([^)]*)\)|(.*))", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*import (.*)", re.MULTILINE)


def source_files(module: str) -> list[Path]:
    """Return the files of a module and of all modules of its package that it imports, directly or not;
    sorted.

    Nothing is imported to find them. Imports under `if TYPE_CHECKING:` and the `__init__` files of packages
    are left out.
    """
    package = module.split(".")[0]
    spec = importlib.util.find_spec(package)
    assert spec is not None, module
    if spec.submodule_search_locations is None:  # a module outside of packages
        return [Path(spec.origin or "")]
    root = Path(spec.submodule_search_locations[0])
    found: set[Path] = set()
    waiting = [module]
    while waiting:
        path = root.joinpath(*waiting.pop().split(".")[1:]).with_suffix(".py")
        if path not in found and path.is_file():
            found.add(path)
            waiting += [name for name in _imports(path) if name.startswith(f"{package}.")]
    return sorted(found)


def _imports(path: Path) -> Iterator[str]:
    """Yield the names in a file's imports that may be modules: `from a import b` gives a and a.b."""
    text = _FOR_TYPE_CHECKERS.sub("", path.read_text(encoding="utf-8"))
    for found in _FROM.finditer(text):
        module, *names = found.groups("")
        yield module
        yield from (f"{module}.{name}" for name in re.findall(r"(\w+)(?: as \w+)?", "".join(names)))
    for found in _IMPORT.finditer(text):
        yield from re.findall(r"([\w.]+)(?: as \w+)?", found[1])
