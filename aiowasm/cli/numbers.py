"""Arguments and results of functions called from the command line."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from aiowasm.errors import AiowasmError
from aiowasm.syntax.types import NumType, ValType

__all__ = ("ArgumentError", "parse_values", "print_value")


class ArgumentError(AiowasmError):
    """An argument on the command line does not fit the function."""


def parse_values(params: Sequence[ValType], arguments: Sequence[str]) -> list[object]:
    """Return the values that *arguments* are for parameters of these types.

    Raises:
        ArgumentError: There are more or fewer of them, or one is not a value of its type.
    """
    if len(params) != len(arguments):
        types = " ".join(map(str, params))
        raise ArgumentError(f"the function takes {len(params)} arguments ({types}), got {len(arguments)}")
    return [_parse(valtype, text) for valtype, text in zip(params, arguments, strict=True)]


def _parse(valtype: ValType, text: str) -> object:
    try:
        if valtype in (NumType.I32, NumType.I64):
            nbits = 32 if valtype is NumType.I32 else 64
            value = int(text, 0)
            if not -(1 << nbits - 1) <= value < 1 << nbits:
                raise ValueError
            return value
        if valtype in (NumType.F32, NumType.F64):
            return float(text)
        if valtype is NumType.V128:
            vector = bytes.fromhex(text.removeprefix("0x"))
            if len(vector) != 16:
                raise ValueError
            return vector
        if text == "null":
            return None
    except ValueError:
        pass
    raise ArgumentError(f"{text!r} is not a value of type {valtype}")


def print_value(valtype: ValType, value: object) -> str:
    """A result: integers signed, floats as short as they can be read back, vectors as 32 hexadecimal digits."""
    if isinstance(value, float):
        return _shortest_f32(value) if valtype is NumType.F32 else repr(value)
    if isinstance(value, bytes):
        return value.hex()
    return "null" if value is None else repr(value)


def _shortest_f32(value: float) -> str:
    for digits in range(1, 9):
        text = f"{value:.{digits}g}"
        if value == value and abs(value) != float("inf") and _to_f32(float(text)) == value:  # noqa: PLR0124 - NaN
            return repr(float(text))
    return repr(float(f"{value:.9g}"))


def _to_f32(value: float) -> float:
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return float("inf")
    return rounded
