"""The value types of WebAssembly as annotations of host functions.

Each is an `Annotated` alias of the Python type that a body works with, so that type checkers see plain ints, floats and
bytes. A reference type without an alias here is `Annotated[object, Value(reftype)]`. Reading annotations is
`aiowasm.host.signature`, converting values `aiowasm.store.values`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from aiowasm.syntax import types

__all__ = ("Value", "externref", "f32", "f64", "funcref", "i32", "i64", "u32", "u64", "v128")


@dataclass(frozen=True, slots=True)
class Value:
    """The mark in an annotation: which value type, and whether an integer arrives unsigned."""

    valtype: types.ValType
    unsigned: bool = False


i32 = Annotated[int, Value(types.I32)]
"""A signed int of 32 bits."""
u32 = Annotated[int, Value(types.I32, unsigned=True)]
"""An i32 that arrives unsigned."""
i64 = Annotated[int, Value(types.I64)]
"""A signed int of 64 bits."""
u64 = Annotated[int, Value(types.I64, unsigned=True)]
"""An i64 that arrives unsigned."""
f32 = Annotated[float, Value(types.F32)]
"""A float; as a result it is rounded to single precision."""
f64 = Annotated[float, Value(types.F64)]
"""A float."""
v128 = Annotated[bytes, Value(types.V128)]
"""16 bytes, lane 0 first."""
externref = Annotated[object, Value(types.EXTERNREF)]
"""Any object; None is null."""
funcref = Annotated[object, Value(types.FUNCREF)]
"""A function of the store, or None."""
