"""Every tensor says its dtype and device: what a host sets as torch's defaults must not reach our memory."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "transformerlm"

NEED_BOTH = {
    *("arange", "as_tensor", "empty", "empty_strided", "eye", "full", "linspace", "logspace", "ones", "rand"),
    *("randint", "randn", "randperm", "scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros"),
}
"""Functions of torch that fall back on the default dtype or device. (`x.new_empty(...)` and `empty_like` take
those of `x`; `from_numpy` shares the array's memory.)"""


def incomplete_factories(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and name of each call of a tensor factory that leaves out dtype or device."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, name = node.func.value, node.func.attr
        if not isinstance(owner, ast.Name) or owner.id != "torch" or name not in NEED_BOTH:
            continue
        given = {keyword.arg for keyword in node.keywords}
        if None not in given and not {"dtype", "device"} <= given:  # None: **options
            found.append((node.lineno, name))
    return found


def test_the_check_finds_what_leaves_out_dtype_or_device():
    code = "\n".join(
        [
            "torch.zeros(3)",
            "torch.zeros(3, dtype=d)",
            "torch.tensor([1], device=d)",
            "torch.zeros(3, dtype=d, device=d)",
            "torch.empty_like(x)",
            "x.new_zeros(3)",
        ]
    )
    assert incomplete_factories(ast.parse(code)) == [(1, "zeros"), (2, "zeros"), (3, "tensor")]


def test_every_tensor_that_is_made_says_its_dtype_and_device():
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        calls = incomplete_factories(ast.parse(path.read_text(encoding="utf-8")))
        found += [f"{path.relative_to(SOURCE)}:{line}: torch.{function}" for line, function in calls]
    assert not found, "\n".join(found)
