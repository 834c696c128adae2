"""Numbers between engine form and slots. References are the business of executions: they need to be kept alive."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from struct import Struct
from typing import Any, NamedTuple

from aiowasm.syntax.floats import bits_from_f32, bits_from_f64, f32_from_bits, f64_from_bits
from aiowasm.syntax.matching import DefType
from aiowasm.syntax.types import AbsHeapType, FuncType, NumType, RefType, ValType

__all__ = ("Codec", "codec", "from_slots", "is_function_type", "slots_of", "to_slots")

_unpack_vector = Struct("<2Q").unpack
_pack_vector = Struct("<2Q").pack
_FUNCTIONS = frozenset((AbsHeapType.FUNC, AbsHeapType.NOFUNC))


def slots_of(types: tuple[ValType, ...]) -> int:
    """Slots that values of *types* take: two for a v128."""
    return len(types) + types.count(NumType.V128) if NumType.V128 in types else len(types)


# What struct keeps bit for bit; an i32 is written as a whole slot, and its upper half means nothing when read.
_WRITTEN = {NumType.I32: "Q", NumType.I64: "Q", NumType.F64: "d"}
_READ = {NumType.I32: "I4x", NumType.I64: "Q", NumType.F64: "d"}


class Codec(NamedTuple):
    """How values of some types get into slots and out of them at once."""

    pack_into: Callable[..., None]
    unpack_from: Callable[..., tuple[Any, ...]]


def codec(types: tuple[ValType, ...]) -> Codec | None:
    """The codec of *types*, or None if they need more than copying bits (f32, v128, references)."""
    if len(types) > _SIMPLE or not all(isinstance(each, NumType) and each in _WRITTEN for each in types):
        return None
    return _codec(types)


@lru_cache(4096)  # many functions and instances share few types
def _codec(types: tuple[NumType, ...]) -> Codec:
    written = Struct("<" + "".join(_WRITTEN[each] for each in types))
    read = Struct("<" + "".join(_READ[each] for each in types))
    return Codec(written.pack_into, read.unpack_from)


_SIMPLE = 20


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
