"""LEB128 numbers: the integers of the binary format, read and written.

Reading is strict as the standard is: at most ceil(bits / 7) bytes, no unused bits set in the last one. Writing gives
the shortest form. What the integers mean is not here.
"""

from __future__ import annotations

from aiowasm.errors import MalformedError

__all__ = ("Buffer", "read_s", "read_u", "write_s", "write_u")

Buffer = bytes | bytearray | memoryview


def read_u(buffer: Buffer, pos: int, bits: int) -> tuple[int, int]:
    """Read an unsigned integer of `bits` bits at `pos`; give it and the offset after it."""
    try:
        byte = buffer[pos]
        if byte < 0x80 and bits >= 7:
            return byte, pos + 1
        start = pos
        result = shift = 0
        while True:
            byte = buffer[pos]
            pos += 1
            if shift + 7 >= bits:
                if (byte & 0x7F) >> (bits - shift):
                    raise MalformedError("integer too large", offset=start)
                if byte & 0x80:
                    raise MalformedError("integer representation too long", offset=start)
                return result | byte << shift, pos
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result, pos
            shift += 7
    except IndexError:
        raise MalformedError("unexpected end", offset=len(buffer)) from None


def read_s(buffer: Buffer, pos: int, bits: int) -> tuple[int, int]:
    """Read a signed integer of `bits` bits at `pos`; give it and the offset after it."""
    start = pos
    result = shift = 0
    try:
        while True:
            byte = buffer[pos]
            pos += 1
            if shift + 7 >= bits:
                # The bits from the sign bit upwards must all be equal.
                unused = (byte & 0x7F) >> (bits - shift - 1)
                if unused not in (0, 0x7F >> (bits - shift - 1)):
                    raise MalformedError("integer too large", offset=start)
                if byte & 0x80:
                    raise MalformedError("integer representation too long", offset=start)
            if byte < 0x40:
                return result | byte << shift, pos
            if byte < 0x80:
                return result + (byte - 0x80 << shift), pos
            result |= (byte & 0x7F) << shift
            shift += 7
    except IndexError:
        raise MalformedError("unexpected end", offset=len(buffer)) from None


def write_u(out: bytearray, value: int) -> None:
    """Append an unsigned integer in its shortest form."""
    if value < 0:
        raise ValueError("an unsigned integer cannot be negative")
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def write_s(out: bytearray, value: int) -> None:
    """Append a signed integer in its shortest form."""
    while not -0x40 <= value < 0x40:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value & 0x7F)
