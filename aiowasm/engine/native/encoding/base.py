"""What the engine asks of an architecture: copies of stencils with their holes filled, branches, stubs.

Fixups are places of four bytes that a branch's distance goes into; code goes on right behind them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from aiowasm.engine.native.encoding.x86_64_integers import IntegerCode

__all__ = ("Encoding", "Hole", "Kept", "Patched", "ReachError")

Hole = tuple[int, int, str, int]
"""Offset, kind (a relocation's number), symbol, addend."""
Patched = tuple[bytes, tuple[int, ...]]
"""Code, and the fixups in it."""
Kept = tuple[tuple[str, int], ...]
"""Slot operands that are in registers: symbols of their holes with numbers of registers."""


class ReachError(Exception):
    """A branch leads too far: the function needs longer ones."""


class Encoding(ABC):
    """The stencils of one blob, and how to fill their holes.

    Args:
        code: Bytes of the stencils by name.
        holes: Their holes.
        fixed: Names of stencils with branches of their own.
    """

    machine: ClassVar[str]
    jump: ClassVar[Patched]
    """An unconditional branch."""
    skip: ClassVar[bytes]
    """A branch across such a branch."""
    stub_nbytes: ClassVar[int]
    kept: ClassVar[range] = range(0)
    """Float registers that a loop may keep values in: no stencil touches them."""
    control: ClassVar[int]
    """What the floating-point control register is while guests run: what the standard asks for, whatever the process
    has set."""

    def __init__(self, code: dict[str, bytes], holes: Mapping[str, Sequence[Hole]], fixed: frozenset[str]) -> None:
        self.code = code
        self.holes = holes
        self.fixed = fixed
        self.far = False
        """Whether branches are made that reach farther than usual."""

    @abstractmethod
    def patch(self, name: str, shrink: bool, values: dict[str, int], kept: Kept = ()) -> Patched:
        """Return a copy of a stencil with *values* in its holes; *shrink* allows another length than the stencil's.

        Raises:
            struct.error: If a value does not fit its hole.
        """

    def takes_kept(self, name: str, symbol: str) -> bool:
        """Whether the slot operand in hole *symbol* may be in a register that a loop keeps it in."""
        return False

    def without_check(self, code: bytes, fixups: tuple[int, ...]) -> Patched:
        """Return code without the check at its end that its result is no NaN, if it can be told apart."""
        return code, fixups

    def integer_code(self) -> IntegerCode | None:
        """Return what makes the code of loops that keep integers in registers, if there is such a thing."""
        return None

    @abstractmethod
    def charge(self, cost: int) -> bytes:
        """Return code that takes *cost* units of fuel."""

    @staticmethod
    @abstractmethod
    def fix(out: bytearray, fixup: int, target: int) -> None:
        """Make the branch at *fixup* of *out* lead to *target*.

        Raises:
            ReachError: If that is too far away.
        """

    def fix_each(self, out: bytearray, fixups: Sequence[int], target: int, nbytes: int) -> None:
        """Make the branches at *fixups* lead to *target* and to what follows it, each *nbytes* farther.

        Raises:
            ReachError: If that is too far away.
        """
        for number, fixup in enumerate(fixups):
            self.fix(out, fixup, target + number * nbytes)

    @staticmethod
    @abstractmethod
    def stubs(numbers: range, lazy: int) -> bytes:
        """Return stubs that go to the routine at *lazy* of the activation, each with its number."""

    @staticmethod
    @abstractmethod
    def frame_delta(address: int) -> int:
        """Return how much is subtracted from the frame pointer at *address*, behind a call."""
