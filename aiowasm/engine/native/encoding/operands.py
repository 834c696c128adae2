"""Operands as small numbers: slots of the frame from 0, then constants by type; what is below 0 is in a register.

Which register a negative number means is the business of those who choose: `stencils` and `x86_64_integers`.
"""

from __future__ import annotations

from typing import Final

from aiowasm.engine.native.layout import Activation

__all__ = ("C32", "C64", "CF", "constant", "signed", "slot")

C32: Final = 1 << 40
"""An i32 constant: C32 plus its bits."""
C64: Final = 1 << 70
CF: Final = 1 << 80
"""A float constant: CF plus its bits."""


def slot(index: int) -> int:
    """Displacement of a slot from the frame pointer: biased, so that 32 slots are near."""
    return 8 * index - Activation.BIAS


def signed(bits: int, nbits: int) -> int:
    """Bits of a number as the signed one."""
    return bits - (1 << nbits) if bits >> nbits - 1 else bits


def constant(operand: int) -> int:
    """The value of an integer constant, signed."""
    return signed(operand - C64, 64) if operand >= C64 else signed(operand - C32, 32)
