"""Values between host form and engine form."""

from __future__ import annotations

import inspect
import math
import struct
import warnings
from enum import IntEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiowasm.store.values import (
    References,
    arguments_to_engine,
    arguments_to_host,
    from_engine,
    results_to_engine,
    results_to_host,
    to_engine,
)
from aiowasm.syntax.types import (
    EXTERNREF,
    F32,
    F64,
    FUNCREF,
    I32,
    I64,
    NULLEXTERNREF,
    V128,
    AbsHeapType,
    NumType,
    RefType,
)


class Handle:
    def __init__(self, target: object) -> None:
        self.target = target


HANDLES = References(
    lambda value, reftype: isinstance(value, Handle) and reftype.heaptype is AbsHeapType.FUNC,
    lambda value: value.target,  # type: ignore[attr-defined]
    Handle,
)


@pytest.mark.parametrize(("valtype", "bits"), [(I32, 32), (I64, 64)])
def test_integers_take_both_ranges(valtype: NumType, bits: int) -> None:
    top = 1 << bits
    assert to_engine(valtype, -1) == top - 1 == to_engine(valtype, top - 1)
    assert to_engine(valtype, -top // 2) == top // 2
    assert from_engine(valtype, top - 1) == -1
    assert from_engine(valtype, top // 2 - 1) == top // 2 - 1
    assert from_engine(valtype, top - 1, unsigned=True) == top - 1
    for value in (top, -top // 2 - 1, 1 << 100_000):
        with pytest.raises(OverflowError, match=f"out of range for i{bits}"):
            to_engine(valtype, value)


class Color(IntEnum):
    RED = 3


class Indexed:
    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize(("value", "expected"), [(True, 1), (Color.RED, 3), (Indexed(), 7)])
def test_integers_are_exact_ints(value: object, expected: int) -> None:
    got = to_engine(I32, value)
    assert got == expected
    assert type(got) is int


@pytest.mark.parametrize("value", [1.0, "1", None, b"1", [1]])
def test_integers_refuse_other_types(value: object) -> None:
    with pytest.raises(TypeError, match="expected an int for i32, got"):
        to_engine(I32, value)


@given(st.integers(-(1 << 31), (1 << 32) - 1))
def test_i32_round_trip(value: int) -> None:
    assert (from_engine(I32, to_engine(I32, value)) - value) % (1 << 32) == 0  # type: ignore[operator]


@given(st.floats(allow_nan=False))
def test_f32_rounds(value: float) -> None:
    got = to_engine(F32, value)
    try:
        assert got == struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        assert got == math.copysign(math.inf, value)


def test_floats() -> None:
    assert to_engine(F32, 0.1) == 0.10000000149011612
    assert to_engine(F64, 0.1) == 0.1
    assert math.isnan(to_engine(F32, math.nan))  # type: ignore[arg-type]
    assert type(to_engine(F64, 1)) is float
    assert type(to_engine(F32, True)) is float
    assert to_engine(F32, 10**50) == math.inf
    # One rounding: by way of a double this would be 2**60.
    assert to_engine(F32, (1 << 60) + (1 << 36) + 1) == (1 << 60) + (1 << 37)
    assert to_engine(F32, -((1 << 60) + (1 << 36) + 1)) == -((1 << 60) + (1 << 37))
    with pytest.raises(OverflowError, match="out of range for f64"):
        to_engine(F64, 10**400)
    for value in ("1.0", None, 1j, b""):
        with pytest.raises(TypeError, match="expected a float"):
            to_engine(F64, value)


def test_vectors() -> None:
    data = bytes(range(16))
    for value in (data, bytearray(data), memoryview(data), memoryview(data).cast("I")):
        got = to_engine(V128, value)
        assert got == data
        assert type(got) is bytes
    for wrong in (b"", bytes(15), bytearray(17), 5, "0123456789abcdef"):
        with pytest.raises(TypeError, match="expected 16 bytes for v128"):
            to_engine(V128, wrong)


def test_references() -> None:
    function = object()
    assert to_engine(FUNCREF, None) is None
    assert to_engine(FUNCREF, Handle(function), HANDLES) is function
    wrapped = from_engine(FUNCREF, function, HANDLES)
    assert isinstance(wrapped, Handle)
    assert wrapped.target is function
    assert from_engine(FUNCREF, None, HANDLES) is None
    assert to_engine(EXTERNREF, function) is function
    assert from_engine(EXTERNREF, function, HANDLES) is function
    with pytest.raises(TypeError, match=r"expected \(ref func\), got None"):
        to_engine(RefType(False, AbsHeapType.FUNC), None, HANDLES)
    with pytest.raises(TypeError, match=r"expected \(ref extern\), got None"):
        to_engine(RefType(False, AbsHeapType.EXTERN), None)
    for reftype in (FUNCREF, NULLEXTERNREF):
        with pytest.raises(TypeError, match="got int"):
            to_engine(reftype, 5, HANDLES)


@pytest.mark.parametrize("count", range(7))
def test_signatures(count: int) -> None:
    convert = arguments_to_engine([I32] * count)
    assert convert([-1] * count) == (0xFFFF_FFFF,) * count
    with pytest.raises(TypeError, match=f"expected {count} argument.*, got {count + 1}"):
        convert([1] * (count + 1))
    if count:
        with pytest.raises(TypeError, match=f"argument {count}: expected an int"):
            convert([1] * (count - 1) + ["x"])
    back = arguments_to_host([I32] * count)
    assert back([0xFFFF_FFFF] * count) == (-1,) * count
    assert arguments_to_host([I32] * count, unsigned=[True] * count)([0xFFFF_FFFF] * count) == (0xFFFF_FFFF,) * count


def test_results() -> None:
    assert results_to_host([])(()) is None
    assert results_to_host([I32])((0xFFFF_FFFF,)) == -1
    assert results_to_host([F64])((1.5,)) == 1.5
    assert results_to_host([I32, F64])([0xFFFF_FFFF, 1.5]) == (-1, 1.5)
    assert results_to_engine([])(None) == ()
    assert results_to_engine([I32])(-1) == (0xFFFF_FFFF,)
    assert results_to_engine([I32, F64])((-1, 2)) == (0xFFFF_FFFF, 2.0)
    with pytest.raises(TypeError, match="expected no result, got int"):
        results_to_engine([])(1)
    with pytest.raises(TypeError, match="expected a tuple of 2 results, got list"):
        results_to_engine([I32, I32])([1, 2])
    with pytest.raises(TypeError, match="expected 2 results, got 3"):
        results_to_engine([I32, I32])((1, 2, 3))
    with pytest.raises(OverflowError, match="result 2: out of range"):
        results_to_engine([I32, I32])((1, 1 << 32))


@pytest.mark.parametrize("valtypes", [[], [I32], [EXTERNREF], [I32, I32]])
def test_a_coroutine_is_no_result_and_is_closed(valtypes: list[NumType | RefType]) -> None:
    async def forgotten() -> int:
        return 1

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coroutine = forgotten()
        with pytest.raises(TypeError, match="async def"):
            results_to_engine(valtypes)(coroutine)
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
