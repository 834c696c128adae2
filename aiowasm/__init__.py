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
    "DeadlineError",
    "ExitError",
    "Feature",
    "Features",
    "FrameInfo",
    "InvalidError",
    "LimitError",
    "LinkError",
    "MalformedError",
    "OutOfFuel",
    "ReentrancyError",
    "Trap",
    "TrapCode",
    "WasmException",
)
