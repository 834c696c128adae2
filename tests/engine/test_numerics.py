"""Scalar operators against values picked by hand and against other formulations of the same mathematics."""

from __future__ import annotations

import ctypes
import itertools
import math
import random
from fractions import Fraction

import pytest

from aiowasm.engine.operators import EVALUATE
from aiowasm.errors import Trap, TrapCode
from aiowasm.syntax.floats import (
    NAN,
    bits_from_f32,
    bits_from_f64,
    f32_from_bits,
    f64_from_bits,
    round_to_f32,
)
from aiowasm.syntax.instructions import BY_NAME

INF = math.inf
F32_MAX = f32_from_bits(0x7F7F_FFFF)
F32_TINY = f32_from_bits(1)


def run(name, *operands):
    return EVALUATE[BY_NAME[name].code](*operands)


def same(got, wanted):
    return isinstance(got, float) and bits_from_f64(got) == bits_from_f64(wanted)


def code_of(name, *operands):
    with pytest.raises(Trap) as caught:
        run(name, *operands)
    return caught.value.code


@pytest.mark.parametrize(
    "bits",
    [0, 1, 0x8000_0000, 0x7F80_0000, 0x7F80_0001, 0xFFA0_0000, 0x7FC0_0000, 0xFFC1_2345, 0x7FFF_FFFF, 0x3F80_0000],
)
def test_f32_bits_survive(bits):
    assert bits_from_f32(f32_from_bits(bits)) == bits
    assert run("i32.reinterpret_f32", run("f32.reinterpret_i32", bits)) == bits
    assert bits_from_f32(run("f32.neg", f32_from_bits(bits))) == bits ^ 0x8000_0000
    assert bits_from_f32(run("f32.abs", f32_from_bits(bits))) == bits & 0x7FFF_FFFF
    assert bits_from_f32(run("f32.copysign", f32_from_bits(bits), -0.0)) == bits | 0x8000_0000


@pytest.mark.parametrize("bits", [0x7FF0_0000_0000_0001, 0xFFF4_0000_0000_0000, 0xFFF8_0000_0000_0001, 1 << 63])
def test_f64_bits_survive(bits):
    assert bits_from_f64(f64_from_bits(bits)) == bits
    assert bits_from_f64(run("f64.neg", f64_from_bits(bits))) == bits ^ 1 << 63
    assert bits_from_f64(run("f64.abs", f64_from_bits(bits))) == bits & (1 << 63) - 1


def test_a_double_nan_without_a_single_payload_stays_nan():
    assert bits_from_f32(f64_from_bits(0x7FF0_0000_0000_0001)) == 0x7FC0_0000


@pytest.mark.parametrize("n", ["f32", "f64"])
def test_arithmetic_nans_are_canonical(n):
    odd = f32_from_bits(0xFFA0_1234)
    for name in ("add", "sub", "mul", "div", "min", "max"):
        assert same(run(f"{n}.{name}", odd, 1.0), NAN)
        assert same(run(f"{n}.{name}", 1.0, odd), NAN)
    for name in ("sqrt", "ceil", "floor", "trunc", "nearest"):
        assert same(run(f"{n}.{name}", odd), NAN)
    assert same(run("f32.demote_f64", odd), NAN)
    assert same(run("f64.promote_f32", odd), NAN)
    invalid = [("add", INF, -INF), ("sub", INF, INF), ("mul", 0.0, INF), ("div", 0.0, -0.0), ("div", INF, INF)]
    for name, x, y in invalid:
        assert same(run(f"{n}.{name}", x, y), NAN)
    assert same(run(f"{n}.sqrt", -1.0), NAN)


@pytest.mark.parametrize("n", ["f32", "f64"])
def test_float_edges(n):
    assert same(run(f"{n}.min", 0.0, -0.0), -0.0)
    assert same(run(f"{n}.min", -0.0, 0.0), -0.0)
    assert same(run(f"{n}.max", 0.0, -0.0), 0.0)
    assert same(run(f"{n}.max", -0.0, 0.0), 0.0)
    assert same(run(f"{n}.div", 1.0, -0.0), -INF)
    assert same(run(f"{n}.div", -INF, -0.0), INF)
    assert same(run(f"{n}.sqrt", -0.0), -0.0)
    assert same(run(f"{n}.ceil", -0.5), -0.0)
    assert same(run(f"{n}.trunc", -0.9), -0.0)
    assert same(run(f"{n}.floor", -0.5), -1.0)
    for x, wanted in [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, -0.0), (-1.5, -2.0), (4.2, 4.0), (INF, INF)]:
        assert same(run(f"{n}.nearest", x), wanted)
    assert [run(f"{n}.{r}", NAN, NAN) for r in ("eq", "ne", "lt", "gt", "le", "ge")] == [0, 1, 0, 0, 0, 0]


def test_f32_arithmetic_rounds_and_overflows():
    assert run("f32.add", F32_MAX, F32_MAX) == INF
    assert run("f32.mul", -F32_MAX, 2.0) == -INF
    assert same(run("f32.mul", F32_TINY, -F32_TINY), -0.0)
    rng = random.Random(1)
    for _ in range(2000):
        x, y = (round_to_f32(rng.uniform(-2, 2) * 2.0 ** rng.randint(-80, 80)) for _ in "xy")
        assert run("f32.add", x, y) == ctypes.c_float(x + y).value
        assert run("f32.div", x, y or 1.0) == nearest_f32(Fraction(x) / Fraction(y or 1.0))


def nearest_f32(exact):
    """The nearest of the f32 around a number, found by searching their bits."""
    if exact < 0:
        return -nearest_f32(-exact)
    low, high = 0, 0x7F80_0000
    while high - low > 1:
        middle = (low + high) // 2
        if Fraction(f32_from_bits(middle)) <= exact:
            low = middle
        else:
            high = middle
    below = Fraction(f32_from_bits(low))
    above = Fraction(2) ** 128 if high == 0x7F80_0000 else Fraction(f32_from_bits(high))
    rest = (exact - below) - (above - exact)
    return f32_from_bits(high if rest > 0 or (rest == 0 and low & 1) else low)


def test_i64_to_f32_rounds_once():
    rng = random.Random(2)
    numbers = [0x7FFF_FF40_0000_0001, 0x0020_0000_2000_0001, 0xFFFF_FE80_0000_0001, 2**64 - 1, 2**63, 2**63 - 1, 0]
    numbers += [rng.getrandbits(rng.randint(1, 64)) for _ in range(1000)]
    for i in numbers:
        signed = i - 2**64 if i >> 63 else i
        assert run("f32.convert_i64_u", i) == nearest_f32(Fraction(i))
        assert run("f32.convert_i64_s", i) == nearest_f32(Fraction(signed))


def test_truncation_boundaries():
    assert run("i32.trunc_f64_s", -2147483648.9) == 0x8000_0000
    assert run("i32.trunc_f64_s", 2147483647.9) == 0x7FFF_FFFF
    assert run("i32.trunc_f64_u", -0.9) == 0
    assert run("i32.trunc_f64_u", 4294967295.9) == 0xFFFF_FFFF
    assert run("i64.trunc_f64_s", -(2.0**63)) == 1 << 63
    assert code_of("i32.trunc_f64_s", 2147483648.0) is TrapCode.INTEGER_OVERFLOW
    assert code_of("i32.trunc_f64_s", -2147483649.0) is TrapCode.INTEGER_OVERFLOW
    assert code_of("i32.trunc_f32_u", -1.0) is TrapCode.INTEGER_OVERFLOW
    assert code_of("i64.trunc_f32_u", INF) is TrapCode.INTEGER_OVERFLOW
    assert code_of("i64.trunc_f64_s", 2.0**63) is TrapCode.INTEGER_OVERFLOW
    assert code_of("i64.trunc_f64_u", NAN) is TrapCode.INVALID_CONVERSION
    assert run("i32.trunc_sat_f32_s", NAN) == 0
    assert run("i32.trunc_sat_f32_s", -INF) == 0x8000_0000
    assert run("i32.trunc_sat_f32_u", -5.0) == 0
    assert run("i64.trunc_sat_f64_u", INF) == 2**64 - 1
    assert run("i64.trunc_sat_f64_s", 2.0**63) == 2**63 - 1


@pytest.mark.parametrize("n", [32, 64])
def test_division_truncates_and_traps(n):
    top = 1 << n - 1
    edges = [0, 1, 2, 3, 7, top - 1, top, top + 1, 2 * top - 7, 2 * top - 2, 2 * top - 1]
    for a, b in itertools.product(edges, edges):
        for name in ("div_s", "div_u", "rem_s", "rem_u"):
            i, j = ((x - 2 * top if x >= top and name[-1] == "s" else x) for x in (a, b))
            if j == 0:
                assert code_of(f"i{n}.{name}", a, b) is TrapCode.INTEGER_DIVIDE_BY_ZERO
            elif name == "div_s" and (i, j) == (-top, -1):
                assert code_of(f"i{n}.{name}", a, b) is TrapCode.INTEGER_OVERFLOW
            else:
                quotient = math.trunc(Fraction(i, j))
                wanted = quotient if name[:3] == "div" else i - j * quotient
                assert run(f"i{n}.{name}", a, b) == wanted % (2 * top)


@pytest.mark.parametrize("n", [32, 64])
def test_bits(n):
    rng = random.Random(n)
    for a in [0, 1, 1 << n - 1, (1 << n) - 1, *(rng.getrandbits(n) >> rng.randrange(n) for _ in range(200))]:
        digits = f"{a:0{n}b}"
        assert run(f"i{n}.clz", a) == len(digits) - len(digits.lstrip("0"))
        assert run(f"i{n}.ctz", a) == len(digits) - len(digits.rstrip("0"))
        assert run(f"i{n}.popcnt", a) == digits.count("1")
        for k in (0, 1, n - 1, n, n + 5, (1 << n) - 1):
            j = k % n
            assert run(f"i{n}.rotl", a, k) == int(digits[j:] + digits[:j], 2)
            assert run(f"i{n}.rotr", a, k) == int(digits[n - j :] + digits[: n - j], 2)
            assert run(f"i{n}.shl", a, k) == int(digits[j:] + "0" * j, 2)
            assert run(f"i{n}.shr_u", a, k) == int("0" * j + digits[: n - j], 2)
            assert run(f"i{n}.shr_s", a, k) == int(digits[0] * j + digits[: n - j], 2)


def test_extension_and_order_see_signs():
    assert run("i32.extend8_s", 0x1280) == 0xFFFF_FF80
    assert run("i64.extend32_s", 0x8000_0000) == 0xFFFF_FFFF_8000_0000
    assert run("i64.extend_i32_s", 0xFFFF_FFFF) == 2**64 - 1
    assert run("i64.extend_i32_u", 0xFFFF_FFFF) == 0xFFFF_FFFF
    assert run("i32.wrap_i64", 2**64 - 2) == 0xFFFF_FFFE
    assert run("i32.lt_s", 0xFFFF_FFFF, 0) == 1
    assert run("i32.lt_u", 0xFFFF_FFFF, 0) == 0


def test_wide_arithmetic():
    top = 2**64 - 1
    assert run("i64.add128", top, 0, 1, 0) == (0, 1)
    assert run("i64.add128", top, top, 1, 0) == (0, 0)
    assert run("i64.sub128", 0, 0, 1, 0) == (top, top)
    assert run("i64.mul_wide_u", top, top) == (1, top - 1)
    assert run("i64.mul_wide_s", top, 2) == (top - 1, top)
