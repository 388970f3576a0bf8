"""The source files that compiled kernels depend on, worked out from the imports of their module."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path


def source_files(module: str) -> list[Path]:
    """Files of a module and of all modules of its own package that it imports, directly or not; sorted.

    Nothing is imported to find them. What is imported for type checkers alone, under `if TYPE_CHECKING:`, and
    the `__init__` files of packages are left out.
    """
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file_of(name)
        if name in found or path is None or path.name == "__init__.py":
            continue
        found[name] = path
        waiting += [other for other in _imports(path) if other.split(".")[0] == module.split(".")[0]]
    return sorted(found.values())


def _file_of(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # a name in a module, not a module in a package
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def _imports(path: Path) -> Iterator[str]:
    """Names of what a file imports, all that may be modules: `from a import b` gives a and a.b."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting += ast.iter_child_nodes(node)
