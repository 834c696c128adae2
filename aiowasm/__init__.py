"""aiowasm: an async-native WebAssembly runtime."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from aiowasm.errors import (
    EXIT_CANCELLED,
    EXIT_DEADLINE,
    AiowasmError,
    DeadlineError,
    ExitError,
    FrameInfo,
    InvalidError,
    LimitError,
    LinkError,
    MalformedError,
    OutOfFuel,
    ReentrancyError,
    Trap,
    TrapCode,
    WasmException,
)
from aiowasm.features import ALL, DEFAULT, PROFILES, WASM_1, WASM_2, WASM_3, Feature, Features

if TYPE_CHECKING:
    from aiowasm.host.command import Process, open_command, run_command
    from aiowasm.host.module import HostModule
    from aiowasm.host.stubs import stub_imports
    from aiowasm.host.types import externref, f32, f64, funcref, i32, i64, u32, u64, v128
    from aiowasm.store.caller import Caller
    from aiowasm.store.func import Func
    from aiowasm.store.handles import Global, Memory, Reference, Table, Tag
    from aiowasm.store.instance import Exports, Instance
    from aiowasm.store.limits import Limits
    from aiowasm.store.listeners import Listener
    from aiowasm.store.module import CustomSection, ExportType, ImportType, Module
    from aiowasm.store.namespace import Namespace
    from aiowasm.store.observers import HostCallLogger, Profiler
    from aiowasm.store.statistics import Statistics
    from aiowasm.store.store import Store

__all__ = (
    "ALL",
    "DEFAULT",
    "EXIT_CANCELLED",
    "EXIT_DEADLINE",
    "PROFILES",
    "WASM_1",
    "WASM_2",
    "WASM_3",
    "AiowasmError",
    "Caller",
    "CustomSection",
    "DeadlineError",
    "ExitError",
    "ExportType",
    "Exports",
    "Feature",
    "Features",
    "FrameInfo",
    "Func",
    "Global",
    "HostCallLogger",
    "HostModule",
    "ImportType",
    "Instance",
    "InvalidError",
    "LimitError",
    "Limits",
    "LinkError",
    "Listener",
    "MalformedError",
    "Memory",
    "Module",
    "Namespace",
    "OutOfFuel",
    "Process",
    "Profiler",
    "ReentrancyError",
    "Reference",
    "Statistics",
    "Store",
    "Table",
    "Tag",
    "Trap",
    "TrapCode",
    "WasmException",
    "externref",
    "f32",
    "f64",
    "funcref",
    "i32",
    "i64",
    "open_command",
    "run_command",
    "stub_imports",
    "u32",
    "u64",
    "v128",
)

# Loaded when first used: whoever only wants to catch an error or to show help does not wait for engines.
_HOMES = {
    "Process": "aiowasm.host.command",
    "open_command": "aiowasm.host.command",
    "run_command": "aiowasm.host.command",
    "HostModule": "aiowasm.host.module",
    "stub_imports": "aiowasm.host.stubs",
    "externref": "aiowasm.host.types",
    "f32": "aiowasm.host.types",
    "f64": "aiowasm.host.types",
    "funcref": "aiowasm.host.types",
    "i32": "aiowasm.host.types",
    "i64": "aiowasm.host.types",
    "u32": "aiowasm.host.types",
    "u64": "aiowasm.host.types",
    "v128": "aiowasm.host.types",
    "Caller": "aiowasm.store.caller",
    "Func": "aiowasm.store.func",
    "Global": "aiowasm.store.handles",
    "Memory": "aiowasm.store.handles",
    "Reference": "aiowasm.store.handles",
    "Table": "aiowasm.store.handles",
    "Tag": "aiowasm.store.handles",
    "Exports": "aiowasm.store.instance",
    "Instance": "aiowasm.store.instance",
    "Limits": "aiowasm.store.limits",
    "Listener": "aiowasm.store.listeners",
    "CustomSection": "aiowasm.store.module",
    "ExportType": "aiowasm.store.module",
    "ImportType": "aiowasm.store.module",
    "Module": "aiowasm.store.module",
    "Namespace": "aiowasm.store.namespace",
    "HostCallLogger": "aiowasm.store.observers",
    "Profiler": "aiowasm.store.observers",
    "Statistics": "aiowasm.store.statistics",
    "Store": "aiowasm.store.store",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
