"""Number literals of the text format (the standard's chapter 6.3.1): texts to integers and to the bits of floats.

Rounding is exact (to nearest, ties to even) for every literal. Which token is a number is the lexer's business; errors
are `ValueError` with the standard's phrase, and the parser adds the place.
"""

from __future__ import annotations

import re
import struct
from decimal import Decimal

__all__ = ("parse_float", "parse_int", "parse_unsigned")

_UNSIGNED = re.compile(r"(?:0x[0-9a-fA-F_]+|[0-9][0-9_]*)\Z")
_HEX_FLOAT = re.compile(r"0x([0-9a-fA-F]+)(?:\.([0-9a-fA-F]*))?(?:[pP]([+-]?[0-9]+))?\Z")
_MAX_EXPONENT_DIGITS = 15


def parse_unsigned(text: str, bits: int, kind: str = "") -> int:
    """An unsigned literal below `2**bits`; `kind` is named in the error."""
    if not _UNSIGNED.match(text):
        raise ValueError("unexpected token")
    digits = text.replace("_", "")
    if digits.startswith("0x"):
        value = int(digits[2:], 16)
    else:
        digits = digits.lstrip("0")
        # Long decimal numbers cost quadratic time; none of them fits.
        value = 1 << bits if len(digits) > bits else int(digits or "0")
    if value >> bits:
        raise ValueError(f"{kind or f'i{bits}'} constant out of range")
    return value


def parse_int(text: str, bits: int) -> int:
    """A signed or unsigned literal of `bits` bits, as an unsigned integer."""
    sign = text[0] if text[0] in "+-" else ""
    if not _UNSIGNED.match(text[len(sign) :]):
        raise ValueError("unexpected token")
    try:
        value = parse_unsigned(text[len(sign) :], bits)
    except ValueError:
        raise ValueError("constant out of range") from None
    if (sign == "-" and value > 1 << (bits - 1)) or (sign == "+" and value >> (bits - 1)):
        raise ValueError("constant out of range")
    return (-value if sign == "-" else value) & ((1 << bits) - 1)


def parse_float(text: str, bits: int) -> int:
    """A float literal, as the bits of an IEEE 754 number of 32 or 64 bits."""
    fraction_bits, exponent_bits = (23, 8) if bits == 32 else (52, 11)
    sign = 1 << (bits - 1) if text[0] == "-" else 0
    body = text.lstrip("+-").replace("_", "")
    infinity = ((1 << exponent_bits) - 1) << fraction_bits
    if body == "inf":
        return sign | infinity
    if body == "nan":
        return sign | infinity | 1 << (fraction_bits - 1)
    if body.startswith("nan:0x"):
        payload = int(body[6:], 16)
        if not 0 < payload < 1 << fraction_bits:
            raise ValueError("constant out of range")
        return sign | infinity | payload
    if body.startswith("nan"):
        raise ValueError("unexpected token")
    if body.startswith("0x"):
        match = _HEX_FLOAT.match(body)
        if match is None:
            raise ValueError("unexpected token")
        whole, part, exponent = match.group(1), match.group(2) or "", match.group(3) or "0"
        mantissa = int(whole + part, 16)
        value = _round(mantissa, _clamped(exponent) - 4 * len(part), fraction_bits, exponent_bits)
    else:
        value = _decimal(body, bits)
    if value >= infinity:
        raise ValueError("constant out of range")
    return sign | value


def _clamped(exponent: str) -> int:
    digits = exponent.lstrip("+-").lstrip("0")
    value = 10**_MAX_EXPONENT_DIGITS if len(digits) > _MAX_EXPONENT_DIGITS else int(digits or "0")
    return -value if exponent[0] == "-" else value


def _round(mantissa: int, exponent: int, fraction_bits: int, exponent_bits: int) -> int:
    """The bits of `mantissa * 2**exponent`; infinity's or more where it does not fit."""
    if mantissa == 0:
        return 0
    bias = (1 << (exponent_bits - 1)) - 1
    top = mantissa.bit_length() - 1 + exponent
    if top > bias:
        return ((1 << exponent_bits) - 1) << fraction_bits
    # The exponent of the last bit kept.
    last = max(top, 1 - bias) - fraction_bits
    if top < last - 1:
        return 0
    shift = last - exponent
    if shift <= 0:
        kept = mantissa << -shift
    else:
        kept = mantissa >> shift
        rest = mantissa & ((1 << shift) - 1)
        half = 1 << (shift - 1)
        if rest > half or (rest == half and kept & 1):
            kept += 1
    # A carry moves into the exponent by itself; a subnormal has the exponent field 0.
    return kept + ((max(top, 1 - bias) + bias - 1) << fraction_bits)


def _decimal(body: str, bits: int) -> int:
    double = float(body)
    value: int = struct.unpack("<Q", struct.pack("<d", double))[0]
    if bits == 64 or value == 0:
        return value
    if double == float("inf"):
        return 0xFF << 23
    # Round to odd first: then the second rounding sees on which side of a tie the literal was.
    exact = Decimal(body)
    if exact != Decimal(double):
        if exact < Decimal(double):
            value -= 1
        value |= 1
    mantissa = (value & ((1 << 52) - 1)) | (1 << 52 if value >> 52 else 0)
    return _round(mantissa, max(value >> 52, 1) - 1075, 23, 8)
