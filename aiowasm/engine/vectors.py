"""Vector operators: the scalar operators of `numerics` lifted over the lanes of a v128 (16 bytes, little endian).

`FAMILIES` maps each vector family of the instruction table to a factory: from the operation, make a pure function of
the operands. Lane immediates come before the operands. Vector loads and stores are in `storage`.
"""

# A float that differs from itself is NaN, and asking so is several times faster than math.isnan.
# ruff: noqa: PLR0124

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct
from typing import NamedTuple

from aiowasm.engine.numerics import Operator, floats, integers, scalar_conversion
from aiowasm.syntax.floats import bits_from_f32, f32_from_bits
from aiowasm.syntax.instructions import Operation

__all__ = ("FAMILIES", "SHAPES", "Shape")


class Shape(NamedTuple):
    """How a vector splits into lanes. `unpack` and `pack` are exact for NaNs; `pack` takes one argument per lane."""

    lane: str
    """The type of a lane: i8, i16, i32, i64, f32, f64."""
    width: int
    """Bits of a lane."""
    lanes: int
    unpack: Callable[[bytes], tuple[int, ...]] | Callable[[bytes], tuple[float, ...]]
    pack: Callable[..., bytes]
    operators: dict[str, Operator]


_pack_f32s, _unpack_f32s = Struct("<4f").pack, Struct("<4f").unpack
_pack_bits, _unpack_bits = Struct("<4I").pack, Struct("<4I").unpack


def _unpack_f32x4(vector: bytes) -> tuple[float, ...]:
    lanes: tuple[float, ...] = _unpack_f32s(vector)
    total = sum(lanes)
    # The sum is NaN if a lane is: struct may have changed its payload.
    return lanes if total == total else tuple(map(f32_from_bits, _unpack_bits(vector)))


def _pack_f32x4(*lanes: float) -> bytes:
    total = sum(lanes)
    return _pack_f32s(*lanes) if total == total else _pack_bits(*map(bits_from_f32, lanes))


def _shape(lane: str, letter: str) -> Shape:
    width = int(lane[1:])
    codec = Struct(f"<{128 // width}{letter}")
    operators = integers(width) if lane[0] == "i" else floats(width)
    return Shape(lane, width, 128 // width, codec.unpack, codec.pack, operators)


SHAPES: dict[str, Shape] = {
    "i8x16": _shape("i8", "B"),
    "i16x8": _shape("i16", "H"),
    "i32x4": _shape("i32", "I"),
    "i64x2": _shape("i64", "Q"),
    "f32x4": Shape("f32", 32, 4, _unpack_f32x4, _pack_f32x4, floats(32)),
    "f64x2": _shape("f64", "d"),
}

_V128 = integers(128)
_from_bytes, _to_bytes = int.from_bytes, int.to_bytes


# The whole vector


def _whole_unary(operation: Operation) -> Operator:
    op = _V128[operation.operator]
    return lambda a: _to_bytes(op(_from_bytes(a, "little")), 16, "little")


def _whole_binary(operation: Operation) -> Operator:
    op = _V128[operation.operator]
    return lambda a, b: _to_bytes(op(_from_bytes(a, "little"), _from_bytes(b, "little")), 16, "little")


def _whole_ternary(operation: Operation) -> Operator:
    op = _V128[operation.operator]

    def ternary(a: bytes, b: bytes, c: bytes) -> bytes:
        return _to_bytes(op(_from_bytes(a, "little"), _from_bytes(b, "little"), _from_bytes(c, "little")), 16, "little")

    return ternary


def _any_true(_operation: Operation) -> Operator:
    return lambda a: 1 if any(a) else 0


# Lane by lane


def _unary(operation: Operation) -> Operator:
    shape = SHAPES[operation.shape]
    op, unpack, pack = shape.operators[operation.operator], shape.unpack, shape.pack
    return lambda a: pack(*map(op, unpack(a)))


def _binary(operation: Operation) -> Operator:
    shape = SHAPES[operation.shape]
    op, unpack, pack = shape.operators[operation.operator], shape.unpack, shape.pack
    return lambda a, b: pack(*map(op, unpack(a), unpack(b)))


def _ternary(operation: Operation) -> Operator:
    shape = SHAPES[operation.shape]
    op, unpack, pack = shape.operators[operation.operator], shape.unpack, shape.pack
    return lambda a, b, c: pack(*map(op, unpack(a), unpack(b), unpack(c)))


def _relation(operation: Operation) -> Operator:
    shape = SHAPES[operation.shape]
    op, unpack = shape.operators[operation.operator], shape.unpack
    pack = SHAPES[f"i{shape.width}x{shape.lanes}"].pack
    # Truth is all bits set.
    lane = (0, (1 << shape.width) - 1)
    return lambda a, b: pack(*[lane[truth] for truth in map(op, unpack(a), unpack(b))])


def _shift(operation: Operation) -> Operator:
    shape = SHAPES[operation.shape]
    op, unpack, pack = shape.operators[operation.operator], shape.unpack, shape.pack
    return lambda a, k: pack(*[op(lane, k) for lane in unpack(a)])


def _all_true(operation: Operation) -> Operator:
    unpack = SHAPES[operation.shape].unpack
    return lambda a: 1 if all(unpack(a)) else 0


def _bitmask(operation: Operation) -> Operator:
    shape = SHAPES[operation.shape]
    unpack, top = shape.unpack, shape.width - 1
    weights = [1 << i for i in range(shape.lanes)]
    return lambda a: sum([weight for lane, weight in zip(unpack(a), weights, strict=True) if int(lane) >> top])


# Moving lanes


def _splat(operation: Operation) -> Operator:
    shape = SHAPES[operation.shape]
    pack, count = shape.pack, shape.lanes
    if shape.lane[0] == "f":
        return lambda x: pack(*(x,) * count)
    mask = (1 << shape.width) - 1
    return lambda i: pack(*(i & mask,) * count)


def _extract_lane(operation: Operation) -> Operator:
    shape = SHAPES[operation.shape]
    unpack = shape.unpack
    if not operation.operator.endswith("_s"):
        return lambda lane, a: unpack(a)[lane]
    widen = scalar_conversion("i32", "extend_s", shape.lane)
    return lambda lane, a: widen(unpack(a)[lane])


def _replace_lane(operation: Operation) -> Operator:
    shape = SHAPES[operation.shape]
    size = shape.width // 8
    splat = _splat(operation)
    # A splat brings the value into bytes; its first lane is as good as any.
    return lambda lane, a, value: a[: lane * size] + splat(value)[:size] + a[lane * size + size :]


def _shuffle(_operation: Operation) -> Operator:
    def shuffle(lanes: Iterable[int], a: bytes, b: bytes) -> bytes:
        both = a + b
        return bytes([both[lane] for lane in lanes])

    return shuffle


def _swizzle(_operation: Operation) -> Operator:
    return lambda a, b: bytes([a[i] if i < 16 else 0 for i in b])


# Lanes of another width


def _part(part: str, count: int) -> slice:
    """Which of `count` source lanes are used."""
    return {"low": slice(count // 2), "high": slice(count // 2, count)}.get(part, slice(count))


def _convert(operation: Operation) -> Operator:
    shape, source = SHAPES[operation.shape], SHAPES[operation.source]
    op = scalar_conversion(shape.lane, operation.operator, source.lane)
    pack, unpack, used = shape.pack, source.unpack, _part(operation.part, source.lanes)
    if operation.part == "zero":
        zeros = (0,) * (shape.lanes - source.lanes)
        return lambda a: pack(*map(op, unpack(a)), *zeros)
    return lambda a: pack(*map(op, unpack(a)[used]))


def _narrow(operation: Operation) -> Operator:
    shape, source = SHAPES[operation.shape], SHAPES[operation.source]
    op = scalar_conversion(shape.lane, operation.operator, source.lane)
    pack, unpack = shape.pack, source.unpack
    return lambda a, b: pack(*map(op, unpack(a)), *map(op, unpack(b)))


def _extending_multiply(operation: Operation) -> Operator:
    shape, source = SHAPES[operation.shape], SHAPES[operation.source]
    widen = scalar_conversion(shape.lane, "extend" + operation.operator[-2:], source.lane)
    imul, pack, unpack = shape.operators["imul"], shape.pack, source.unpack
    used = _part(operation.part, source.lanes)
    return lambda a, b: pack(*map(imul, map(widen, unpack(a)[used]), map(widen, unpack(b)[used])))


def _extending_pairwise_add(operation: Operation) -> Operator:
    shape, source = SHAPES[operation.shape], SHAPES[operation.source]
    widen = scalar_conversion(shape.lane, "extend" + operation.operator[-2:], source.lane)
    iadd, pack, unpack = shape.operators["iadd"], shape.pack, source.unpack

    def pairwise_add(a: bytes) -> bytes:
        lanes = list(map(widen, unpack(a)))
        return pack(*map(iadd, lanes[::2], lanes[1::2]))

    return pairwise_add


def _dot(operation: Operation) -> Operator:
    shape, source = SHAPES[operation.shape], SHAPES[operation.source]
    widen = scalar_conversion(shape.lane, "extend_s", source.lane)
    # The relaxed product saturates in the deterministic profile; the strict one wraps.
    iadd = shape.operators["iadd_sat_s" if operation.operator.startswith("relaxed") else "iadd"]
    imul, pack, unpack = shape.operators["imul"], shape.pack, source.unpack

    def dot(a: bytes, b: bytes) -> bytes:
        products = list(map(imul, map(widen, unpack(a)), map(widen, unpack(b))))
        return pack(*map(iadd, products[::2], products[1::2]))

    return dot


def _dot_add(operation: Operation) -> Operator:
    """Composed of three operators, by way of the shape between source and target (i16x8)."""
    between = f"i{SHAPES[operation.shape].width // 2}x{SHAPES[operation.shape].lanes * 2}"
    dot = _dot(Operation("vextbinop", between, "relaxed_dot_s", operation.source))
    pairwise_add = _extending_pairwise_add(Operation("vextunop", operation.shape, "extadd_pairwise_s", between))
    add = _binary(Operation("vbinop", operation.shape, "iadd"))
    return lambda a, b, c: add(pairwise_add(dot(a, b)), c)


FAMILIES: dict[str, Callable[[Operation], Operator]] = {
    "vvunop": _whole_unary,
    "vvbinop": _whole_binary,
    "vvternop": _whole_ternary,
    "vvtestop": _any_true,
    "vunop": _unary,
    "vbinop": _binary,
    "vternop": _ternary,
    "vrelop": _relation,
    "vshiftop": _shift,
    "vtestop": _all_true,
    "vbitmask": _bitmask,
    "vsplat": _splat,
    "vextract_lane": _extract_lane,
    "vreplace_lane": _replace_lane,
    "vshuffle": _shuffle,
    "vswizzlop": _swizzle,
    "vcvtop": _convert,
    "vextend": _convert,
    "vnarrow": _narrow,
    "vextmul": _extending_multiply,
    "vextunop": _extending_pairwise_add,
    "vextbinop": _dot,
    "vextternop": _dot_add,
}
