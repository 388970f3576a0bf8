"""Compilation of kernels from Python to machine code by numba and LLVM; library.py imports it on demand."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import llvmlite.binding as llvm
import numba
from numba import cfunc, types

from transformerlm.kernels.target import target

_MEMBER = "team_member"
"""Function that each thread of an OpenMP team runs: it gets its thread number and does its part of the
task."""
_SHARED = ("part", "parts")
"""Last parameters of a kernel whose work several threads share."""

_NUMBERS = {"i64": types.int64, "f64": types.float64}
_NUMBERS_IN_LLVM = {"i64": "i64", "f64": "double"}

# numba adds code to every kernel that passes an exception to Python, though these raise none. Declaring it
# unreachable removes that code, and with it the dependency on numba's own library.
_UNREACHABLE = "".join(
    f"define void @{name}(ptr %0) {{\n unreachable\n}}\n"
    for name in ("numba_gil_ensure", "numba_gil_release")
)
# A task is four addresses: kernel, frame, and OpenMP's functions for the thread number and the team size.
_TEAM_MEMBER = f"""
define void @{_MEMBER}(ptr %task) {{
%kernel = load ptr, ptr %task
%at1 = getelementptr i64, ptr %task, i64 1
%frame = load ptr, ptr %at1
%at2 = getelementptr i64, ptr %task, i64 2
%get_thread = load ptr, ptr %at2
%at3 = getelementptr i64, ptr %task, i64 3
%get_team_size = load ptr, ptr %at3
%thread = call i32 %get_thread()
%team_size = call i32 %get_team_size()
%part = sext i32 %thread to i64
%parts = sext i32 %team_size to i64
%result = call i64 %kernel(ptr %frame, i64 %part, i64 %parts)
ret void
}}"""


def compile_kernels(module_name: str, machine: Any) -> tuple[bytes, dict[str, Any]]:
    """Compile all kernels of a module for a target machine into one object file.

    Returns:
        The machine code, and its description as JSON values: the "parameters" of each kernel, without `part`
        and `parts`; "member", the name of the function that the threads of a team run.
    """
    if not target().is_native:
        # numba's own passes would use this machine's instructions otherwise.
        settings: Any = numba.config
        settings.CPU_NAME, settings.CPU_FEATURES = target().name, target().features
    source = importlib.import_module(module_name)
    visible = {*source.ENTRIES, _MEMBER}
    module = llvm.parse_assembly(_UNREACHABLE + _TEAM_MEMBER)
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
    """Compile one kernel to an LLVM module in which only the kernel is visible from outside."""
    parameters = source.parameters(name)
    arguments = [_type_of(kind) for kind in parameters.values()]
    compiled = cfunc(types.int64(*arguments), error_model="numpy", **source.OPTIONS)(source.ENTRIES[name])
    module = llvm.parse_assembly(compiled.inspect_llvm())
    for function in module.functions:
        if function.name == compiled.native_name:
            function.name = f"{name}_of_arguments"
        elif not function.is_declaration:
            function.linkage = "internal"
    module.link_in(llvm.parse_assembly(_frame_function(name, parameters)))
    module.get_function(f"{name}_of_arguments").linkage = "internal"
    return module


def _type_of(kind: str) -> Any:
    if kind in _NUMBERS:
        return _NUMBERS[kind]
    names = {"u": "uint", "i": "int", "f": "float"}
    return types.CPointer(getattr(types, f"{names[kind[0]]}{kind[1:-1]}"))  # type: ignore[no-untyped-call]


def _frame_function(name: str, parameters: dict[str, str]) -> str:
    """Return LLVM assembly of a function that reads a kernel's arguments from a frame, which is faster to
    call."""
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
