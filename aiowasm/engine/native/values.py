"""Numbers between engine form and slots. References are the business of executions: they need to be kept alive."""

from __future__ import annotations

from struct import Struct
from typing import Any

from aiowasm.syntax.floats import bits_from_f32, bits_from_f64, f32_from_bits, f64_from_bits
from aiowasm.syntax.matching import DefType
from aiowasm.syntax.types import AbsHeapType, FuncType, NumType, RefType

__all__ = ("from_slots", "is_function_type", "to_slots")

_unpack_vector = Struct("<2Q").unpack
_pack_vector = Struct("<2Q").pack
_FUNCTIONS = frozenset((AbsHeapType.FUNC, AbsHeapType.NOFUNC))


def is_function_type(reftype: RefType) -> bool:
    """Whether references of *reftype* (closed) are functions: descriptors in slots, where all others are handles."""
    heaptype = reftype.heaptype
    if isinstance(heaptype, DefType):
        return isinstance(heaptype.comptype, FuncType)
    return heaptype in _FUNCTIONS


def to_slots(valtype: NumType, value: Any) -> tuple[int, int]:
    """The two slots of a number; the second is zero but for a v128."""
    if valtype is NumType.I32 or valtype is NumType.I64:
        return value, 0
    if valtype is NumType.F64:
        return bits_from_f64(value), 0
    if valtype is NumType.F32:
        return bits_from_f32(value), 0
    low, high = _unpack_vector(value)
    return low, high


def from_slots(valtype: NumType, low: int, high: int) -> Any:
    """The number in two slots (unsigned); upper halves of i32 and f32 mean nothing."""
    if valtype is NumType.I32:
        return low & 0xFFFFFFFF
    if valtype is NumType.I64:
        return low
    if valtype is NumType.F64:
        return f64_from_bits(low)
    if valtype is NumType.F32:
        return f32_from_bits(low & 0xFFFFFFFF)
    return _pack_vector(low, high)
