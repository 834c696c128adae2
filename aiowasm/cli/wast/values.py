"""Values of scripts: arguments in engine form, and whether results fit what a script expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiowasm.engine.func import FuncInst
from aiowasm.engine.heap import I31, ArrayInst, ExnInst, StructInst, Value
from aiowasm.syntax.floats import bits_from_f32, bits_from_f64, f32_from_bits, f64_from_bits
from aiowasm.text.script import (
    Argument,
    Const,
    Either,
    NanPattern,
    RefHost,
    RefNull,
    RefPattern,
    Result,
    VectorPattern,
)

__all__ = ("HostReference", "argument", "fits")


@dataclass(frozen=True, slots=True)
class HostReference:
    """The host's value number `value`."""

    value: int


_CLASSES: dict[str, tuple[type, ...]] = {
    "any": (I31, StructInst, ArrayInst, HostReference),
    "eq": (I31, StructInst, ArrayInst),
    "i31": (I31,),
    "struct": (StructInst,),
    "array": (ArrayInst,),
    "func": (FuncInst,),
    "exn": (ExnInst,),
    "host": (HostReference,),
    "extern": (object,),
}


def argument(value: Argument) -> Value:
    """Return an argument in engine form."""
    if isinstance(value, RefNull):
        return None
    if isinstance(value, RefHost):
        return HostReference(value.value)
    if isinstance(value.value, int):
        if value.kind == "f32":
            return f32_from_bits(value.value)
        if value.kind == "f64":
            return f64_from_bits(value.value)
    return value.value


def fits(actual: Any, expected: Result) -> bool:
    """Whether a result in engine form fits a pattern."""
    if isinstance(expected, Either):
        return any(fits(actual, alternative) for alternative in expected.alternatives)
    if isinstance(expected, RefNull):
        return actual is None
    if isinstance(expected, RefHost):
        return bool(actual == HostReference(expected.value))
    if isinstance(expected, RefPattern):
        return isinstance(actual, _CLASSES[expected.heaptype]) and actual is not None
    if isinstance(expected, VectorPattern):
        return isinstance(actual, bytes) and _fits_vector(actual, expected)
    if expected.kind in ("f32", "f64"):
        if not isinstance(actual, float):
            return False
        return _fits_bits(bits_from_f32(actual) if expected.kind == "f32" else bits_from_f64(actual), expected)
    return isinstance(expected, Const) and type(actual) is type(expected.value) and bool(actual == expected.value)


def _fits_bits(bits: int, expected: Const | NanPattern) -> bool:
    if isinstance(expected, Const):
        return bits == expected.value
    quiet, sign = (0x7FC0_0000, 31) if expected.kind == "f32" else (0x7FF8_0000_0000_0000, 63)
    bits &= (1 << sign) - 1
    return bits == quiet if expected.nan == "canonical" else bits & quiet == quiet


def _fits_vector(actual: bytes, expected: VectorPattern) -> bool:
    nbytes = 16 // len(expected.lanes)
    return all(
        _fits_bits(int.from_bytes(actual[at * nbytes : (at + 1) * nbytes], "little"), lane)
        for at, lane in enumerate(expected.lanes)
    )
