"""Lanes: vector operators on values picked by hand, and fused multiplication against exact fractions."""

from __future__ import annotations

import math
import random
import struct
from fractions import Fraction

import pytest

from aiowasm.engine.operators import EVALUATE
from aiowasm.syntax.instructions import BY_NAME

FORMATS = {"b": "<16b", "B": "<16B", "h": "<8h", "H": "<8H", "i": "<4i", "I": "<4I", "q": "<2q", "f": "<4f", "d": "<2d"}


def run(name, *operands):
    return EVALUATE[BY_NAME[name].code](*operands)


def v(letter, *lanes):
    """A vector; missing lanes are zero."""
    layout = FORMATS[letter]
    return struct.pack(layout, *lanes, *(0,) * (int(layout[1:-1]) - len(lanes)))


@pytest.mark.parametrize(
    ("name", "operands", "wanted"),
    [
        ("i8x16.add_sat_s", (v("b", 127, -128, 5), v("b", 1, -1, 6)), v("b", 127, -128, 11)),
        ("i8x16.sub_sat_u", (v("B", 1, 200), v("B", 2, 100)), v("B", 0, 100)),
        ("i16x8.add_sat_u", (v("H", 65535, 1), v("H", 1, 1)), v("H", 65535, 2)),
        ("i8x16.avgr_u", (v("B", 255, 0, 1), v("B", 255, 1, 1)), v("B", 255, 1, 1)),
        ("i16x8.q15mulr_sat_s", (v("h", -32768, 16384), v("h", -32768, 16384)), v("h", 32767, 8192)),
        ("i16x8.relaxed_q15mulr_s", (v("h", -32768), v("h", -32768)), v("h", 32767)),
        ("i8x16.narrow_i16x8_s", (v("h", 128, -129, 7), v("h", -1)), v("b", 127, -128, 7, 0, 0, 0, 0, 0, -1)),
        ("i8x16.narrow_i16x8_u", (v("h", 256, -1, 200), v("h", 1)), v("B", 255, 0, 200, 0, 0, 0, 0, 0, 1)),
        ("i32x4.dot_i16x8_s", (v("h", -32768, -32768, 2, 3), v("h", -32768, -32768, 4, 5)), v("i", -(2**31), 23)),
        ("i16x8.relaxed_dot_i8x16_i7x16_s", (v("b", -128, -128, 2), v("b", 127, 127, 3)), v("h", -32512, 6)),
        ("i16x8.relaxed_dot_i8x16_i7x16_s", (b"\x80" * 16, b"\x80" * 16), v("h", *(32767,) * 8)),
        (
            "i32x4.relaxed_dot_i8x16_i7x16_add_s",
            (v("b", -128, -128, -128, -128), v("b", 127, 127, 127, 127), v("i", 1, 2)),
            v("i", -65023, 2),
        ),
        ("i16x8.extadd_pairwise_i8x16_s", (v("b", -128, -128, 1, 2),), v("h", -256, 3)),
        ("i16x8.extmul_high_i8x16_u", (b"\xff" * 16, b"\xff" * 16), v("H", *(65025,) * 8)),
        ("i32x4.extend_high_i16x8_s", (v("h", 0, 0, 0, 0, -1, 2),), v("i", -1, 2)),
        ("i8x16.shl", (v("B", 0x81), 9), v("B", 2)),
        ("i8x16.shr_s", (v("b", -128), 7), v("b", -1)),
        ("i8x16.swizzle", (bytes(range(1, 17)), b"\x0f\x10\xff" + bytes(13)), b"\x10\0\0" + b"\1" * 13),
        ("i8x16.bitmask", (v("b", -1, 1, -128),), 5),
        ("f32x4.eq", (v("f", 1.0, math.nan), v("f", 1.0, math.nan)), v("i", -1, 0, -1, -1)),
        ("f64x2.pmin", (v("d", 0.0, 2.0), v("d", -0.0, 1.0)), v("d", 0.0, 1.0)),
        ("v128.bitselect", (b"\xaa" * 16, b"\x55" * 16, b"\xf0" * 16), b"\xa5" * 16),
        ("v128.any_true", (bytes(16),), 0),
        ("i16x8.all_true", (v("h", *range(1, 9)),), 1),
        ("i16x8.extract_lane_s", (1, v("h", 0, -2)), 0xFFFF_FFFE),
        ("i8x16.replace_lane", (2, bytes(16), 0x1FF), v("B", 0, 0, 255)),
        ("i16x8.splat", (0x1_0002,), v("h", *(2,) * 8)),
        ("i32x4.trunc_sat_f64x2_s_zero", (v("d", 1e10, -1.5),), v("i", 2**31 - 1, -1)),
        ("f64x2.promote_low_f32x4", (v("f", 0.5, -2.0, 9.0),), v("d", 0.5, -2.0)),
        ("f32x4.demote_f64x2_zero", (v("d", 1e300, 0.5),), v("f", math.inf, 0.5)),
    ],
)
def test_lanes(name, operands, wanted):
    assert run(name, *operands) == wanted


@pytest.mark.parametrize("name", ["f32x4.pmin", "f32x4.pmax"])
def test_pseudo_minimum_returns_its_operand_bit_for_bit(name):
    odd = v("I", 0xFFA0_1234, 0x7F80_0001, 1, 2)
    assert run(name, odd, v("f", 1.0, 1.0, 0.0, 0.0))[:8] == odd[:8]
    assert run("f32x4.neg", run("f32x4.neg", odd)) == odd


def test_fused_multiplication_rounds_once():
    rng = random.Random(3)
    for _ in range(2000):
        x, y = (rng.uniform(-2, 2) * 2.0 ** rng.randint(-40, 40) for _ in "xy")
        z = -x * y * rng.choice([1.0, 1 + 2**-40, 2.0**60, 2.0**-60])
        fused = float(Fraction(x) * Fraction(y) + Fraction(z))
        assert run("f64x2.relaxed_madd", v("d", x), v("d", y), v("d", z)) == v("d", fused)
        assert run("f64x2.relaxed_nmadd", v("d", -x), v("d", y), v("d", z)) == v("d", fused)


def test_fused_multiplication_of_singles():
    # 1 + 2**-24 is a tie; only the bit far below it says that the result goes up.
    x, y = 1 + 2.0**-12, 1 - 2.0**-12
    above = run("f32x4.relaxed_madd", v("f", 2.0**-12), v("f", 2.0**-12 * (1 + 2.0**-23)), v("f", 1.0))
    assert above == v("f", 1 + 2.0**-23)
    assert run("f32x4.relaxed_madd", v("f", x), v("f", y), v("f", -1.0)) == v("f", -(2.0**-24))
    tiny, big = 2.0**-149, float.fromhex("0x1.fffffep+127")
    assert run("f32x4.relaxed_madd", v("f", tiny), v("f", tiny), v("f", 1 + 2.0**-23)) == v("f", 1 + 2.0**-23)
    assert run("f32x4.relaxed_madd", v("f", big, big), v("f", 2.0, 2.0), v("f", -big, big)) == v("f", big, math.inf)
