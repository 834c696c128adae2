"""The host module `spectest` that scripts of the standard's suite import, made for one engine."""

from __future__ import annotations

from aiowasm.engine.base import Engine
from aiowasm.engine.func import FuncInst
from aiowasm.engine.instantiate import Import
from aiowasm.limits import MAX_TABLE_ELEMENTS
from aiowasm.syntax.floats import f32_from_bits
from aiowasm.syntax.matching import DefType, close_rectype
from aiowasm.syntax.types import (
    F32,
    F64,
    FUNCREF,
    I32,
    I64,
    AddressType,
    FuncType,
    GlobalType,
    Limits,
    MemType,
    RecType,
    SubType,
    TableType,
    ValType,
)

__all__ = ("MAX_MEMORY_NBYTES", "spectest")

MAX_MEMORY_NBYTES = 1 << 32
"""What memories of scripts may grow to; they are reserved, not allocated."""

_PRINTS: dict[str, tuple[ValType, ...]] = {
    "print": (),
    "print_i32": (I32,),
    "print_i64": (I64,),
    "print_f32": (F32,),
    "print_f64": (F64,),
    "print_i32_f32": (I32, F32),
    "print_f64_f64": (F64, F64),
}
_666_6_F32 = 0x4426_A666


def _functype(params: tuple[ValType, ...]) -> DefType:
    return close_rectype(RecType((SubType(True, (), FuncType(params, ())),)), 0, [])[0]


def _print(_caller: object, *_values: object) -> None:
    """What a script prints is of no interest."""


def spectest(engine: Engine) -> dict[str, Import]:
    """Return the exports of a new `spectest`."""
    exports: dict[str, Import] = {
        name: FuncInst(_functype(params), host=_print, name=name) for name, params in _PRINTS.items()
    }
    exports["global_i32"] = engine.global_(GlobalType(I32, False), 666)
    exports["global_i64"] = engine.global_(GlobalType(I64, False), 666)
    exports["global_f32"] = engine.global_(GlobalType(F32, False), f32_from_bits(_666_6_F32))
    exports["global_f64"] = engine.global_(GlobalType(F64, False), 666.6)
    for name, addrtype in (("table", AddressType.I32), ("table64", AddressType.I64)):
        exports[name] = engine.table(TableType(Limits(10, 20), FUNCREF, addrtype), None, MAX_TABLE_ELEMENTS)
    exports["memory"] = engine.memory(MemType(Limits(1, 2)), MAX_MEMORY_NBYTES)
    exports["shared_memory"] = engine.memory(MemType(Limits(1, 2), shared=True), MAX_MEMORY_NBYTES)
    return exports
