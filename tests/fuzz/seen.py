"""What is seen of a program that runs: data, of which differences are found; and what runs programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.memory import MemInst
from aiowasm.errors import FrameInfo
from aiowasm.syntax.types import I32, I64
from tests.fuzz.generator import Program

__all__ = ("MAX_MEMORY_NBYTES", "Adapter", "DifferenceError", "HostCall", "Run", "Seen")

MAX_MEMORY_NBYTES = 8 << 16


class DifferenceError(Exception):
    """Two engines do not agree."""


@dataclass(frozen=True)
class Seen:
    """What came of one call. `fuel` is None where an engine cannot say, `frames` where it did not trap."""

    outcome: str
    """returned, thrown, or the standard's phrase of a trap."""
    results: tuple[int, ...] = ()
    fuel: int | None = None
    frames: tuple[FrameInfo, ...] | None = None


@dataclass(frozen=True)
class HostCall:
    """A call of a host function: its arguments as bits; with ours, the fuel used and the guest's frames then."""

    name: str
    arguments: list[int]
    fuel: int | None = None
    frames: tuple[FrameInfo, ...] = ()


@dataclass
class Run:
    """What came of a program: a `Seen` per call, then memories and globals by the name of their export.

    A start function is the first call; if it fails, it is the only one. `log` is what host functions were given.
    """

    calls: list[Seen] = field(default_factory=list)
    memories: dict[str, bytes] = field(default_factory=dict)
    globals: dict[str, int] = field(default_factory=dict)
    log: list[HostCall] = field(default_factory=list)

    def look(self, prefix: str, exports: dict[str, Any]) -> None:
        """Look at entities of ours."""
        for name, entity in exports.items():
            if isinstance(entity, MemInst):
                self.memories[prefix + name] = bytes(entity.view)
            elif isinstance(entity, GlobalInst) and entity.globaltype.valtype in (I32, I64):
                self.globals[prefix + name] = entity.value


class Adapter(Protocol):
    """An engine that can run programs."""

    name: str
    exact_fuel: bool
    """Whether fuel is exact for calls that trap or throw and for bulk instructions too."""

    def run(self, program: Program) -> Run:
        """Run all calls of *program* in a new instance."""
