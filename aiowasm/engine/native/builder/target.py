"""What the builder asks of an architecture: its calling convention, the IR that is not portable, how code is cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from aiowasm.engine.native.builder.elf import Function
from aiowasm.errors import TrapCode

__all__ = ("HOLES", "NANFIX", "NEXT", "OUTFIX", "TARGET", "Target")

NEXT = "NEXT"
TARGET = "TARGET"
OUTFIX = "OUTFIX"
"""Where an address is out of bounds: code behind the function traps."""
NANFIX = "NANFIX"
"""Where the result in F has a NaN: code behind the function makes it canonical and comes back."""
HOLES = frozenset(
    ["HA", "HB", "HC", "HO", "HE", "HM", "KA", "KB", "KD", "WA", "WB", "HQ", "HQ2", "HQ3", "HQ4", "TARGET"]
)


class Target(ABC):
    """One kind of processor.

    Args:
        level: The name of its blob; what processors of this kind have at least.
    """

    machine: ClassVar[str]
    """As `platform.machine` says it."""
    levels: ClassVar[tuple[str, ...]]
    triple: ClassVar[str]
    convention: ClassVar[str]
    """A calling convention that keeps all state in registers and saves none."""
    arguments: ClassVar[str]
    """The state: ptr %vm, ptr %fp, ptr %mb, i64 %R, i64 %ms, ptr %inst, <2 x double> %F and what no stencil uses."""
    globals: ClassVar[str]
    """IR that declares holes and metadata."""
    attributes: ClassVar[str] = "optsize nounwind"
    ends: ClassVar[tuple[int, ...]]
    """What the addend of a constant's address may be, beside its place."""
    routines: ClassVar[dict[str, str]]
    fragments: ClassVar[dict[str, str]]
    fma: bool
    """Whether it multiplies and adds in one rounding."""

    def __init__(self, level: str) -> None:
        self.level = level

    @property
    @abstractmethod
    def cpu(self) -> str:
        """LLVM's name of the processor."""

    # IR

    @abstractmethod
    def trap(self, code: TrapCode) -> str:
        """IR that traps."""

    @abstractmethod
    def trap_if_zero(self, t: str, value: str, code: TrapCode) -> str:
        """IR that traps if an integer is zero."""

    @abstractmethod
    def canonical(self, t: str, value: str, result: str) -> str:
        """IR for *result*: the float *value*, the canonical NaN if it is one."""

    @abstractmethod
    def canonical_lanes(self, t: str, lane: str, value: str, result: str) -> str:
        """The same for a vector of LLVM type *t* with lanes f32 or f64."""

    @abstractmethod
    def swizzle(self) -> str:
        """IR for %v: the bytes of %av at the indices %bv, zero for those from 16 on."""

    @abstractmethod
    def slot(self, name: str, t: str, hole: str) -> str:
        """IR for %*name*: a slot of the frame."""

    @abstractmethod
    def constant(self, name: str, t: str, hole: str) -> str:
        """IR for %*name*: a constant."""

    @abstractmethod
    def address(self, memory: str) -> str:
        """IR for %g, the checked host address of guest address %a plus the offset in HO (and HE: behind the access)."""

    # Code

    @abstractmethod
    def uses_stack(self, lines: list[str]) -> bool:
        """Whether the assembly of a stencil touches the stack."""

    @abstractmethod
    def cut(self, name: str, function: Function, pool: dict[str, int]) -> tuple[bytes, list[tuple[int, int, str, int]]]:
        """Turn a function into a stencil: no jump to what follows, constants in the pool, only known holes left."""
