"""Kernels in Python to machine code, through numba and LLVM. Imported by library.py, only to compile."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import llvmlite.binding as llvm
import numba
from numba import cfunc, types

from transformerlm.kernels.target import target

_MEMBER = "team_member"
"""Function that a thread of an OpenMP team runs: it asks for its number, and does its part of the task."""
_SHARED = ("part", "parts")
"""Last parameters of a kernel whose work several threads share."""

_NUMBERS = {"i64": types.int64, "f64": types.float64}
_NUMBERS_IN_LLVM = {"i64": "i64", "f64": "double"}

# Every kernel that numba compiles can hand an exception to Python, though these raise none. Saying that
# it never happens removes that code, and with it the need for numba's own library.
_NEVER = "".join(
    f"define void @{name}(ptr %0) {{\n unreachable\n}}\n"
    for name in ("numba_gil_ensure", "numba_gil_release")
)
# A task is four addresses: kernel, frame, and the functions that say which thread this is and of how many.
_TEAM_MEMBER = f"""
define void @{_MEMBER}(ptr %task) {{
%kernel = load ptr, ptr %task
%at1 = getelementptr i64, ptr %task, i64 1
%frame = load ptr, ptr %at1
%at2 = getelementptr i64, ptr %task, i64 2
%who = load ptr, ptr %at2
%at3 = getelementptr i64, ptr %task, i64 3
%how_many = load ptr, ptr %at3
%who32 = call i32 %who()
%how_many32 = call i32 %how_many()
%part = sext i32 %who32 to i64
%parts = sext i32 %how_many32 to i64
%result = call i64 %kernel(ptr %frame, i64 %part, i64 %parts)
ret void
}}"""


def compile_kernels(module_name: str, machine: Any) -> tuple[bytes, dict[str, Any]]:
    """Compile all kernels of a module for a target machine into one object file.

    Returns:
        The machine code, and its description, fit for JSON: "parameters" of each kernel, but for those that
        say which part is a thread's; "member", the function that a team's threads run.
    """
    if not target().is_native:
        # numba's own passes would use this machine's instructions otherwise.
        settings: Any = numba.config
        settings.CPU_NAME, settings.CPU_FEATURES = target().name, target().features
    source = importlib.import_module(module_name)
    visible = {*source.ENTRIES, _MEMBER}
    module = llvm.parse_assembly(_NEVER + _TEAM_MEMBER)
    for name in source.ENTRIES:
        module.link_in(_compile_one(source, name))
    for function in module.functions:
        if function.name not in visible and not function.is_declaration:
            function.linkage = "internal"
    for variable in module.global_variables:
        variable.linkage = "internal"
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    parameters = {
        name: {key: kind for key, kind in source.parameters(name).items() if key not in _SHARED}
        for name in source.ENTRIES
    }
    return machine.emit_object(module), {"parameters": parameters, "member": _MEMBER}


def _compile_one(source: ModuleType, name: str) -> Any:
    """A kernel as a module of LLVM's, in which nothing but the kernel can be seen from outside."""
    parameters = source.parameters(name)
    arguments = [_type_of(kind) for kind in parameters.values()]
    compiled = cfunc(types.int64(*arguments), error_model="numpy", **source.OPTIONS)(source.ENTRIES[name])
    module = llvm.parse_assembly(compiled.inspect_llvm())
    for function in module.functions:
        if function.name == compiled.native_name:
            function.name = f"{name}_of_arguments"
        elif not function.is_declaration:
            function.linkage = "internal"
    module.link_in(llvm.parse_assembly(_taking_a_frame(name, parameters)))
    module.get_function(f"{name}_of_arguments").linkage = "internal"
    return module


def _type_of(kind: str) -> Any:
    if kind in _NUMBERS:
        return _NUMBERS[kind]
    names = {"u": "uint", "i": "int", "f": "float"}
    return types.CPointer(getattr(types, f"{names[kind[0]]}{kind[1:-1]}"))  # type: ignore[no-untyped-call]


def _taking_a_frame(name: str, parameters: dict[str, str]) -> str:
    """A function in LLVM's language that reads its arguments from a frame: Python calls it more quickly."""
    types = [_NUMBERS_IN_LLVM.get(kind, "ptr") for kind in parameters.values()]
    is_shared = tuple(parameters)[-2:] == _SHARED
    in_frame = types[:-2] if is_shared else types
    values = [f"{kind} %value{place}" for place, kind in enumerate(in_frame)]
    values += ["i64 %part", "i64 %parts"] if is_shared else []
    reads = "".join(
        f"%at{place} = getelementptr i64, ptr %frame, i64 {place}\n"
        f"%value{place} = load {kind}, ptr %at{place}\n"
        for place, kind in enumerate(in_frame)
    )
    return f"""declare i64 @{name}_of_arguments({", ".join(types)})
define i64 @{name}(ptr %frame, i64 %part, i64 %parts) {{
{reads}%result = call i64 @{name}_of_arguments({", ".join(values)})
ret i64 %result
}}"""
