"""Values in bytes: what loads and stores read and write at an offset of a buffer.

Tables by `Instruction.code`, and `loader` and `storer` by types. A buffer is anything `struct` can read and write in
place (bytearray, mmap, memoryview). Bounds, alignment and atomicity are the business of the engine.
"""

# A float that differs from itself is NaN, and asking so is several times faster than math.isnan.
# ruff: noqa: PLR0124

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any

from aiowasm.engine.numerics import integers
from aiowasm.syntax.floats import bits_from_f32, f32_from_bits
from aiowasm.syntax.instructions import INSTRUCTIONS, Operation

__all__ = (
    "CMPXCHGS",
    "LOADS",
    "LOAD_LANES",
    "RMWS",
    "STORES",
    "STORE_LANES",
    "WIDTHS",
    "Load",
    "Store",
    "loader",
    "storer",
    "width",
)

Load = Callable[[Any, int], Any]
"""(buffer, offset) -> value."""
Store = Callable[[Any, int, Any], None]
"""(buffer, offset, value)."""

_LETTERS = {"i8": "B", "i16": "H", "i32": "I", "i64": "Q"}


def width(storage: str) -> int:
    """Bytes of a storage type: i8_s, i16, f32, v128, i8x8_s."""
    lane, _, count = storage.partition("_")[0].partition("x")
    return int(lane[1:]) * int(count or 1) // 8


def loader(shape: str, storage: str) -> Load:
    """How to read a value type from a storage type; without suffix integers are extended with zeros."""
    if storage == "v128":
        return lambda buffer, offset: bytes(buffer[offset : offset + 16])
    if storage == "f32":
        return _load_f32
    if storage == "f64":
        read_f64 = Struct("<d").unpack_from
        return lambda buffer, offset: read_f64(buffer, offset)[0]
    base, _, sign = storage.partition("_")
    if sign != "s":
        read = Struct("<" + _LETTERS[base]).unpack_from
        return lambda buffer, offset: read(buffer, offset)[0]
    read_signed = Struct("<" + _LETTERS[base].lower()).unpack_from
    mask = (1 << int(shape[1:])) - 1
    return lambda buffer, offset: read_signed(buffer, offset)[0] & mask


_read_f32, _write_f32 = Struct("<f").unpack_from, Struct("<f").pack_into
_read_u32, _write_u32 = Struct("<I").unpack_from, Struct("<I").pack_into


def _load_f32(buffer: Any, offset: int) -> float:
    value: float = _read_f32(buffer, offset)[0]
    # struct's 'f' changes signalling NaNs.
    return value if value == value else f32_from_bits(_read_u32(buffer, offset)[0])


def _store_f32(buffer: Any, offset: int, value: float) -> None:
    if value == value:
        _write_f32(buffer, offset, value)
    else:
        _write_u32(buffer, offset, bits_from_f32(value))


def storer(shape: str, storage: str) -> Store:
    """How to write a value type as a storage type; integers are wrapped."""
    if storage == "v128":
        return _store_v128
    if storage == "f32":
        return _store_f32
    if storage == "f64":
        return Struct("<d").pack_into
    write = Struct("<" + _LETTERS[storage]).pack_into
    if shape == storage:
        return write
    mask = (1 << int(storage[1:])) - 1
    return lambda buffer, offset, value: write(buffer, offset, value & mask)


def _store_v128(buffer: Any, offset: int, value: bytes) -> None:
    buffer[offset : offset + 16] = value


def _load_extend(storage: str) -> Load:
    shape, _, sign = storage.partition("_")
    lane, count = shape.split("x")
    letter = _LETTERS[lane]
    read = Struct(f"<{count}{letter.lower() if sign == 's' else letter}").unpack_from
    wider = {"B": "H", "H": "I", "I": "Q"}[letter]
    pack = Struct(f"<{count}{wider.lower() if sign == 's' else wider}").pack
    return lambda buffer, offset: pack(*read(buffer, offset))


def _load_splat(storage: str) -> Load:
    size = width(storage)
    return lambda buffer, offset: bytes(buffer[offset : offset + size]) * (16 // size)


def _load_zero(storage: str) -> Load:
    size = width(storage)
    zeros = bytes(16 - size)
    return lambda buffer, offset: bytes(buffer[offset : offset + size]) + zeros


def _load_lane(storage: str) -> Callable[[Any, int, int, bytes], bytes]:
    size = width(storage)

    def load_lane(buffer: Any, offset: int, lane: int, vector: bytes) -> bytes:
        at = lane * size
        return vector[:at] + bytes(buffer[offset : offset + size]) + vector[at + size :]

    return load_lane


def _store_lane(storage: str) -> Callable[[Any, int, int, bytes], None]:
    size = width(storage)

    def store_lane(buffer: Any, offset: int, lane: int, vector: bytes) -> None:
        buffer[offset : offset + size] = vector[lane * size : lane * size + size]

    return store_lane


def _rmw(shape: str, storage: str, operator: str) -> Callable[[Any, int, Any], Any]:
    load, store = loader(shape, storage), storer(shape, storage)
    if operator == "xchg":

        def exchange(buffer: Any, offset: int, value: int) -> int:
            loaded: int = load(buffer, offset)
            store(buffer, offset, value)
            return loaded

        return exchange
    combine = integers(int(shape[1:]))[operator]

    def modify(buffer: Any, offset: int, value: int) -> int:
        loaded: int = load(buffer, offset)
        store(buffer, offset, combine(loaded, value))
        return loaded

    return modify


def _cmpxchg(shape: str, storage: str) -> Callable[[Any, int, int, int], int]:
    load, store = loader(shape, storage), storer(shape, storage)
    mask = (1 << int(storage[1:])) - 1

    def compare_exchange(buffer: Any, offset: int, expected: int, replacement: int) -> int:
        loaded: int = load(buffer, offset)
        if loaded == expected & mask:
            store(buffer, offset, replacement)
        return loaded

    return compare_exchange


LOADS: dict[int, Load] = {}
"""Code -> (buffer, offset) -> value, for plain, atomic and vector loads without a lane."""
STORES: dict[int, Store] = {}
"""Code -> (buffer, offset, value), for plain and atomic stores."""
LOAD_LANES: dict[int, Callable[[Any, int, int, bytes], bytes]] = {}
"""Code -> (buffer, offset, lane, vector) -> vector."""
STORE_LANES: dict[int, Callable[[Any, int, int, bytes], None]] = {}
"""Code -> (buffer, offset, lane, vector)."""
RMWS: dict[int, Callable[[Any, int, Any], Any]] = {}
"""Code -> (buffer, offset, operand) -> what was there, for atomic read-modify-write."""
CMPXCHGS: dict[int, Callable[[Any, int, int, int], int]] = {}
"""Code -> (buffer, offset, expected, replacement) -> what was there."""
WIDTHS: dict[int, int] = {}
"""Code -> bytes accessed, for all of the above."""


def _register(code: int, operation: Operation) -> None:
    storage = operation.operator
    match operation.family:
        case "load" | "atomic_load":
            LOADS[code] = loader(operation.shape, storage)
        case "store" | "atomic_store":
            STORES[code] = storer(operation.shape, storage)
        case "load_extend":
            LOADS[code] = _load_extend(storage)
        case "load_splat":
            LOADS[code] = _load_splat(storage)
        case "load_zero":
            LOADS[code] = _load_zero(storage)
        case "load_lane":
            LOAD_LANES[code] = _load_lane(storage)
        case "store_lane":
            STORE_LANES[code] = _store_lane(storage)
        case "atomic_rmw":
            RMWS[code] = _rmw(operation.shape, storage, operation.source)
        case "atomic_cmpxchg":
            CMPXCHGS[code] = _cmpxchg(operation.shape, storage)
        case "atomic_wait" | "atomic_notify":
            pass  # what they do to a memory is in `memory` and in the rules of engines
        case _:
            return
    WIDTHS[code] = width(storage)


for _row in INSTRUCTIONS:
    if _row.operation is not None:
        _register(_row.code, _row.operation)
