"""Scalar operators of the standard's chapter on numerics, each written once for every width.

`integers(N)`, `floats(N)` and the conversion factories return pure functions with the constants of N bound. An integer
is unsigned, 0 <= i < 2**N, and only operators ending in _s see a sign; a float is as `aiowasm.syntax.floats` holds it.
Results that are NaN are the positive canonical NaN (the deterministic profile), but for operators on the sign bit and
those that return an operand. Lanes are in `vectors`, memory in `storage`.
"""

# A float that differs from itself is NaN, and asking so is several times faster than math.isnan.
# ruff: noqa: PLR0124

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import ceil, copysign, floor, inf, isfinite, nextafter, sqrt, trunc
from typing import Any

from aiowasm.errors import Trap, TrapCode
from aiowasm.syntax.floats import (
    NAN,
    bits_from_f32,
    bits_from_f64,
    f32_from_bits,
    f64_from_bits,
    round_to_f32,
)

__all__ = ("Operator", "convert", "extend", "floats", "integers", "narrow", "scalar_conversion", "truncate", "wide")

Operator = Callable[..., Any]


# Integers


def integers(n: int) -> dict[str, Operator]:
    """The operators of N-bit integers by their name in the standard."""
    return {
        **_integer_arithmetic(n),
        **_integer_division(n),
        **_integer_bits(n),
        **_integer_shifts(n),
        **_integer_relations(n),
        **_integer_orders(n),
        **_integer_saturation(n),
    }


def _integer_arithmetic(n: int) -> dict[str, Operator]:
    mask, sign = (1 << n) - 1, 1 << n - 1
    return {
        "iadd": lambda a, b: a + b & mask,
        "isub": lambda a, b: a - b & mask,
        "imul": lambda a, b: a * b & mask,
        "ineg": lambda a: -a & mask,
        "iabs": lambda a: -a & mask if a & sign else a,
    }


def _integer_division(n: int) -> dict[str, Operator]:
    mask, sign = (1 << n) - 1, 1 << n - 1

    def idiv_u(a: int, b: int) -> int:
        if b == 0:
            raise Trap(TrapCode.INTEGER_DIVIDE_BY_ZERO)
        return a // b

    def irem_u(a: int, b: int) -> int:
        if b == 0:
            raise Trap(TrapCode.INTEGER_DIVIDE_BY_ZERO)
        return a % b

    def idiv_s(a: int, b: int) -> int:
        if b == 0:
            raise Trap(TrapCode.INTEGER_DIVIDE_BY_ZERO)
        # Python rounds quotients down, the standard towards zero: divide magnitudes.
        if a & sign:
            if not b & sign:
                return -((mask + 1 - a) // b) & mask
            if b == mask and a == sign:
                raise Trap(TrapCode.INTEGER_OVERFLOW)
            return (mask + 1 - a) // (mask + 1 - b)
        return -(a // (mask + 1 - b)) & mask if b & sign else a // b

    def irem_s(a: int, b: int) -> int:
        if b == 0:
            raise Trap(TrapCode.INTEGER_DIVIDE_BY_ZERO)
        if b & sign:
            b = mask + 1 - b
        # The remainder has the sign of the dividend.
        return -((mask + 1 - a) % b) & mask if a & sign else a % b

    return {"idiv_u": idiv_u, "idiv_s": idiv_s, "irem_u": irem_u, "irem_s": irem_s}


def _integer_bits(n: int) -> dict[str, Operator]:
    mask = (1 << n) - 1
    operators: dict[str, Operator] = {
        "inot": lambda a: a ^ mask,
        "iand": lambda a, b: a & b,
        "iandnot": lambda a, b: a & (b ^ mask),
        "ior": lambda a, b: a | b,
        "ixor": lambda a, b: a ^ b,
        "ibitselect": lambda a, b, c: a & c | b & (c ^ mask),
        "iclz": lambda a: n - a.bit_length(),
        "ictz": lambda a: (a & -a).bit_length() - 1 if a else n,
        "ipopcnt": int.bit_count,
    }
    for m in (8, 16, 32):
        if m < n:
            operators[f"iextend{m}_s"] = _extend_low(m, n)
    operators["irelaxed_laneselect"] = operators["ibitselect"]
    return operators


def _extend_low(m: int, n: int) -> Operator:
    low, sign, mask = (1 << m) - 1, 1 << m - 1, (1 << n) - 1
    return lambda a: ((a & low) ^ sign) - sign & mask


def _integer_shifts(n: int) -> dict[str, Operator]:
    mask, sign, last = (1 << n) - 1, 1 << n - 1, n - 1

    def irotl(a: int, k: int) -> int:
        k &= last
        return (a << k | a >> n - k) & mask

    def irotr(a: int, k: int) -> int:
        k &= last
        return (a >> k | a << n - k) & mask

    return {
        "ishl": lambda a, k: a << (k & last) & mask,
        "ishr_u": lambda a, k: a >> (k & last),
        "ishr_s": lambda a, k: ((a ^ sign) - sign) >> (k & last) & mask,
        "irotl": irotl,
        "irotr": irotr,
    }


def _integer_relations(n: int) -> dict[str, Operator]:
    # Flipping the sign bit maps signed order onto unsigned order.
    sign = 1 << n - 1
    return {
        "ieqz": lambda a: 0 if a else 1,
        "ieq": lambda a, b: 1 if a == b else 0,
        "ine": lambda a, b: 1 if a != b else 0,
        "ilt_u": lambda a, b: 1 if a < b else 0,
        "igt_u": lambda a, b: 1 if a > b else 0,
        "ile_u": lambda a, b: 1 if a <= b else 0,
        "ige_u": lambda a, b: 1 if a >= b else 0,
        "ilt_s": lambda a, b: 1 if a ^ sign < b ^ sign else 0,
        "igt_s": lambda a, b: 1 if a ^ sign > b ^ sign else 0,
        "ile_s": lambda a, b: 1 if a ^ sign <= b ^ sign else 0,
        "ige_s": lambda a, b: 1 if a ^ sign >= b ^ sign else 0,
    }


def _integer_orders(n: int) -> dict[str, Operator]:
    sign = 1 << n - 1
    return {
        "imin_u": lambda a, b: a if a < b else b,
        "imax_u": lambda a, b: a if a > b else b,
        "imin_s": lambda a, b: a if a ^ sign < b ^ sign else b,
        "imax_s": lambda a, b: a if a ^ sign > b ^ sign else b,
        "iavgr_u": lambda a, b: a + b + 1 >> 1,
    }


def _integer_saturation(n: int) -> dict[str, Operator]:
    mask, sign = (1 << n) - 1, 1 << n - 1
    low, high = -sign, sign - 1

    def saturate(i: int) -> int:
        return (low if i < low else high if i > high else i) & mask

    def iq15mulr_sat_s(a: int, b: int) -> int:
        return saturate(((a ^ sign) - sign) * ((b ^ sign) - sign) + 0x4000 >> 15)

    return {
        "iadd_sat_u": lambda a, b: a + b if a + b < mask else mask,
        "isub_sat_u": lambda a, b: a - b if a > b else 0,
        "iadd_sat_s": lambda a, b: saturate((a ^ sign) + (b ^ sign) - sign - sign),
        "isub_sat_s": lambda a, b: saturate((a ^ sign) - (b ^ sign)),
        "iq15mulr_sat_s": iq15mulr_sat_s,
        "irelaxed_q15mulr_s": iq15mulr_sat_s,
    }


# Floats


def floats(n: int) -> dict[str, Operator]:
    """The operators of N-bit floats by their name in the standard."""
    arithmetic = _f64_arithmetic() if n == 64 else _f32_arithmetic()
    operators: dict[str, Operator] = {
        "fabs": abs,
        "fneg": lambda x: -x,
        "fcopysign": copysign,
        "fceil": _rounding(ceil),
        "ffloor": _rounding(floor),
        "ftrunc": _rounding(trunc),
        "fnearest": _rounding(round),
        "fmin": _fmin,
        "fmax": _fmax,
        "frelaxed_min": _fmin,
        "frelaxed_max": _fmax,
        "fpmin": lambda x, y: y if y < x else x,
        "fpmax": lambda x, y: y if x < y else x,
    }
    return {**operators, **arithmetic, **_float_relations()}


def _f64_arithmetic() -> dict[str, Operator]:
    def fadd(x: float, y: float) -> float:
        z = x + y
        return z if z == z else NAN

    def fsub(x: float, y: float) -> float:
        z = x - y
        return z if z == z else NAN

    def fmul(x: float, y: float) -> float:
        z = x * y
        return z if z == z else NAN

    return {
        "fadd": fadd,
        "fsub": fsub,
        "fmul": fmul,
        "fdiv": _divide,
        "fsqrt": _root,
        "frelaxed_madd": _f64_fma,
        "frelaxed_nmadd": lambda x, y, z: _f64_fma(-x, y, z),
    }


def _f32_arithmetic() -> dict[str, Operator]:
    # 53 bits are at least twice 24 and two more: rounding these results twice equals rounding them once.
    single = round_to_f32
    return {
        "fadd": lambda x, y: single(x + y),
        "fsub": lambda x, y: single(x - y),
        "fmul": lambda x, y: single(x * y),
        "fdiv": lambda x, y: single(_divide(x, y)),
        "fsqrt": lambda x: single(_root(x)),
        "frelaxed_madd": _f32_fma,
        "frelaxed_nmadd": lambda x, y, z: _f32_fma(-x, y, z),
    }


def _float_relations() -> dict[str, Operator]:
    return {
        "feq": lambda x, y: 1 if x == y else 0,
        "fne": lambda x, y: 1 if x != y else 0,
        "flt": lambda x, y: 1 if x < y else 0,
        "fgt": lambda x, y: 1 if x > y else 0,
        "fle": lambda x, y: 1 if x <= y else 0,
        "fge": lambda x, y: 1 if x >= y else 0,
    }


def _divide(x: float, y: float) -> float:
    if y:
        z = x / y
        return z if z == z else NAN
    if x != x or x == 0.0:
        return NAN
    return copysign(inf, x) * copysign(1.0, y)


def _root(x: float) -> float:
    return sqrt(x) if x >= 0.0 else NAN


def _fmin(x: float, y: float) -> float:
    if x < y:
        return x
    if y < x:
        return y
    if x == y:
        return x if copysign(1.0, x) < 0.0 else y
    return NAN


def _fmax(x: float, y: float) -> float:
    if x > y:
        return x
    if y > x:
        return y
    if x == y:
        return y if copysign(1.0, x) < 0.0 else x
    return NAN


def _rounding(to_integer: Callable[[float], int]) -> Operator:
    def rounded(x: float) -> float:
        if -4503599627370496.0 < x < 4503599627370496.0:
            # Through the integer the sign of zero is lost.
            return copysign(to_integer(x), x)
        # From 2**52 on every number is an integer.
        return x if x == x else NAN

    return rounded


def _fma_exact(x: float, y: float, z: float) -> Fraction | float:
    """The exact x * y + z, or a float where that is special: a zero with its sign, an infinity, the canonical NaN."""
    if isfinite(x) and isfinite(y):
        if not isfinite(z):
            return z if z == z else NAN
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        if exact:
            return exact
    special = x * y + z
    return special if special == special else NAN


def _f64_fma(x: float, y: float, z: float) -> float:
    exact = _fma_exact(x, y, z)
    if isinstance(exact, float):
        return exact
    try:
        # Dividing integers rounds once, so this does, and underflow to zero keeps the sign below.
        return copysign(float(exact), 1 if exact > 0 else -1)
    except OverflowError:
        return inf if exact > 0 else -inf


def _f32_fma(x: float, y: float, z: float) -> float:
    exact = _fma_exact(x, y, z)
    if isinstance(exact, float):
        return exact
    # Rounding to odd first makes the second rounding see on which side of a tie the exact value lies.
    value = float(exact)
    rest = exact - Fraction(value)
    if rest and not bits_from_f64(value) & 1:
        value = nextafter(value, inf if rest > 0 else -inf)
    return round_to_f32(value)


# Conversions


def extend(m: int, n: int, *, signed: bool) -> Operator:
    """M-bit to N-bit integers, M <= N."""
    if not signed:
        return lambda a: a
    sign, mask = 1 << m - 1, (1 << n) - 1
    return lambda a: (a ^ sign) - sign & mask


def narrow(m: int, n: int, *, signed: bool) -> Operator:
    """Signed M-bit to N-bit integers, saturating."""
    sign, mask = 1 << m - 1, (1 << n) - 1
    low, high = _bounds(n, signed=signed)

    def narrowed(a: int) -> int:
        i = (a ^ sign) - sign
        return (low if i < low else high if i > high else i) & mask

    return narrowed


def truncate(n: int, *, signed: bool, saturating: bool) -> Operator:
    """Floats to N-bit integers."""
    mask = (1 << n) - 1
    low, high = _bounds(n, signed=signed)

    def trunc_sat(x: float) -> int:
        if x != x:
            return 0
        if x <= low:
            return low & mask
        return high if x >= high else int(x) & mask

    def trunc_trap(x: float) -> int:
        try:
            i = int(x)
        except ValueError:
            raise Trap(TrapCode.INVALID_CONVERSION) from None
        except OverflowError:
            raise Trap(TrapCode.INTEGER_OVERFLOW) from None
        if i < low or i > high:
            raise Trap(TrapCode.INTEGER_OVERFLOW)
        return i & mask

    return trunc_sat if saturating else trunc_trap


def _bounds(n: int, *, signed: bool) -> tuple[int, int]:
    return (-(1 << n - 1), (1 << n - 1) - 1) if signed else (0, (1 << n) - 1)


def convert(m: int, n: int, *, signed: bool) -> Operator:
    """M-bit integers to N-bit floats."""
    sign = 1 << m - 1 if signed else 0
    if n == 64:
        return (lambda a: float((a ^ sign) - sign)) if signed else float

    def converted(a: int) -> float:
        i = (a ^ sign) - sign
        if -0x20_0000_0000_0000 < i < 0x20_0000_0000_0000:
            return round_to_f32(float(i))
        # A double would round too: keep 53 bits, and in the lowest of them whether any lower one was set.
        return round_to_f32(((i >> 11) | (1 if i & 0x7FF else 0)) * 2048.0)

    return converted


def _promote(x: float) -> float:
    return x if x == x else NAN


_REINTERPRET: dict[tuple[str, str], Operator] = {
    ("i32", "f32"): bits_from_f32,
    ("i64", "f64"): bits_from_f64,
    ("f32", "i32"): f32_from_bits,
    ("f64", "i64"): f64_from_bits,
}


def scalar_conversion(target: str, operator: str, source: str) -> Operator:
    """The conversion of the standard's name `operator` between two value types or lane types (i8, i16, ... f64)."""
    m, n = int(source[1:]), int(target[1:])
    signed = operator.endswith("_s")
    match operator.removesuffix("_s").removesuffix("_u"):
        case "wrap":
            mask = (1 << n) - 1
            return lambda a: a & mask
        case "extend":
            return extend(m, n, signed=signed)
        case "narrow":
            return narrow(m, n, signed=signed)
        case "trunc":
            return truncate(n, signed=signed, saturating=False)
        case "trunc_sat" | "relaxed_trunc":
            return truncate(n, signed=signed, saturating=True)
        case "convert":
            return convert(m, n, signed=signed)
        case "demote":
            return round_to_f32
        case "promote":
            return _promote
        case "reinterpret":
            return _REINTERPRET[target, source]
    raise LookupError(operator)


# Wide arithmetic


def wide() -> dict[str, Operator]:
    """Operators on pairs of i64, low half first; each returns such a pair."""
    mask, sign = (1 << 64) - 1, 1 << 63

    def add128(a: int, b: int, c: int, d: int) -> tuple[int, int]:
        low = a + c
        return low & mask, b + d + (low >> 64) & mask

    def sub128(a: int, b: int, c: int, d: int) -> tuple[int, int]:
        low = a - c
        return low & mask, b - d + (low >> 64) & mask

    def mul_wide_u(a: int, b: int) -> tuple[int, int]:
        product = a * b
        return product & mask, product >> 64

    def mul_wide_s(a: int, b: int) -> tuple[int, int]:
        product = ((a ^ sign) - sign) * ((b ^ sign) - sign)
        return product & mask, product >> 64 & mask

    return {"add128": add128, "sub128": sub128, "mul_wide_u": mul_wide_u, "mul_wide_s": mul_wide_s}
