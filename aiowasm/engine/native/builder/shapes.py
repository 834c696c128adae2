"""What a lowering is; shared by those of numbers and vectors."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ("Lowering", "llvm_type")

_LLVM: Final = {"f32": "float", "f64": "double", "v128": "<2 x i64>"}


def llvm_type(valtype: str) -> str:
    """Return the LLVM type of a value type or integer type."""
    return _LLVM.get(valtype, valtype)


class Lowering(NamedTuple):
    """IR of one instruction: lines that compute %r from %a, %b and %c."""

    operands: tuple[str, ...]
    """Value types; "addr" for the address of an access."""
    result: str | None
    """A value type, or "i1" for what is used as a condition."""
    lines: str
    access: int = 0
    """Bytes accessed at %g, the checked address; 0: no access."""
