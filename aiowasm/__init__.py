"""aiowasm: an async-native WebAssembly runtime."""

from __future__ import annotations

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
from aiowasm.host.module import HostModule
from aiowasm.host.types import externref, f32, f64, funcref, i32, i64, u32, u64, v128
from aiowasm.store.caller import Caller
from aiowasm.store.func import Func
from aiowasm.store.handles import Global, Memory, Reference, Table, Tag
from aiowasm.store.instance import Exports, Instance
from aiowasm.store.limits import Limits
from aiowasm.store.listeners import Listener
from aiowasm.store.module import CustomSection, ExportType, ImportType, Module
from aiowasm.store.namespace import Namespace
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
    "u32",
    "u64",
    "v128",
)
