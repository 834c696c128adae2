"""What a lowering is; shared by those of numbers and vectors."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ("Lowering",)


class Lowering(NamedTuple):
    """IR of one instruction: lines that compute %r from %a, %b and %c."""

    operands: tuple[str, ...]
    """Value types; "addr" for the address of an access."""
    result: str | None
    """A value type, or "i1" for what is used as a condition."""
    lines: str
    access: int = 0
    """Bytes accessed at %g, the checked address; 0: no access."""
