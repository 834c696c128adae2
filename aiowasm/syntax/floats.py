"""Floating-point values and their bits: exact for every number and every NaN.

An f64 is a Python float. An f32 is a Python float that single precision can represent; an f32 NaN is the double NaN
with the same sign and its payload shifted up by 29 bits, so the quiet bit stays the quiet bit and signalling NaNs
survive.
Arithmetic is not here, nor are the literals of the text format.
"""

# A float that differs from itself is NaN, and asking so is several times faster than math.isnan.
# ruff: noqa: PLR0124

from __future__ import annotations

from math import copysign, inf
from struct import Struct

__all__ = ("NAN", "bits_from_f32", "bits_from_f64", "f32_from_bits", "f64_from_bits", "round_to_f32")

_pack_double, _unpack_double = Struct("<d").pack, Struct("<d").unpack
_pack_single, _unpack_single = Struct("<f").pack, Struct("<f").unpack
_pack_u32, _unpack_u32 = Struct("<I").pack, Struct("<I").unpack
_pack_u64, _unpack_u64 = Struct("<Q").pack, Struct("<Q").unpack


def f64_from_bits(bits: int) -> float:
    """The f64 with these 64 bits."""
    value: float = _unpack_double(_pack_u64(bits))[0]
    return value


def bits_from_f64(value: float) -> int:
    """The 64 bits of an f64."""
    bits: int = _unpack_u64(_pack_double(value))[0]
    return bits


NAN = f64_from_bits(0x7FF8_0000_0000_0000)
"""The positive canonical NaN, of both f64 and f32."""


def f32_from_bits(bits: int) -> float:
    """The f32 with these 32 bits."""
    if bits & 0x7FFF_FFFF > 0x7F80_0000:
        # struct's 'f' converts with the hardware, which makes signalling NaNs quiet.
        return f64_from_bits((bits & 0x8000_0000) << 32 | 0x7FF0_0000_0000_0000 | (bits & 0x7F_FFFF) << 29)
    value: float = _unpack_single(_pack_u32(bits))[0]
    return value


def bits_from_f32(value: float) -> int:
    """The 32 bits of an f32."""
    if value != value:
        wide = bits_from_f64(value)
        # A double NaN whose payload lies below single precision is no f32; the quiet bit keeps it from being infinity.
        payload = wide >> 29 & 0x7F_FFFF or 0x40_0000
        return wide >> 32 & 0x8000_0000 | 0x7F80_0000 | payload
    bits: int = _unpack_u32(_pack_single(value))[0]
    return bits


def round_to_f32(value: float) -> float:
    """A float rounded to single precision, ties to even; what is too large becomes infinite and every NaN canonical."""
    if value != value:
        return NAN
    try:
        rounded: float = _unpack_single(_pack_single(value))[0]
    except OverflowError:
        return copysign(inf, value)
    return rounded
