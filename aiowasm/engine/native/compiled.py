"""What compiling gives besides bytes: where instances keep things, where exceptions land, what code is whose."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Set
from typing import TYPE_CHECKING, Any, Final

from aiowasm.engine.native.layout import Instance
from aiowasm.syntax.instructions import BY_NAME

if TYPE_CHECKING:
    from aiowasm.validation.module import ValidatedModule
    from aiowasm.validation.record import Block, FunctionRecord

__all__ = ("DELEGATE", "Compiled", "Landing", "Layout", "landings")

_RETHROW: Final = BY_NAME["rethrow"].code


class Layout:
    """Where the areas of a module's instances are, in bytes."""

    def __init__(self, validated: ValidatedModule) -> None:
        at = Instance.AREAS
        self.mems, at = at, at + 8 * len(validated.mems)
        self.tables, at = at, at + 8 * len(validated.tables)
        self.globals, at = at, at + 8 * len(validated.globals)
        self.types, at = at, at + 8 * len(validated.deftypes)
        self.tags, at = at, at + 8 * len(validated.tags)
        self.imports, at = at, at + 8 * validated.nimported_funcs
        self.nbytes = at
        self.arities: dict[int, tuple[int, int]] = {}
        """Slots of parameters and results of functions that are called, so far."""


DELEGATE: Final = 4
"""The kind of a landing that gives exceptions to those around operator `outer`."""


class Landing:
    """Where an exception goes on: a clause of a try block that covers operators start < i < end.

    `keeps` says that code may rethrow what was caught (legacy exceptions).
    """

    __slots__ = ("end", "keeps", "kind", "offset", "outer", "slot", "start", "tagidx")

    def __init__(
        self, start: int, end: int, kind: int, tagidx: int | None, target: Block | int, rethrown: Set[int]
    ) -> None:
        self.start = start
        self.end = end
        self.kind = kind
        self.tagidx = tagidx
        self.keeps = isinstance(target, int) and start in rethrown
        self.outer = target.start if kind == DELEGATE and not isinstance(target, int) else -1
        self.offset = 0
        self.slot = 0


def landings(record: FunctionRecord) -> tuple[list[Landing], dict[int, list[Landing]]]:
    """All landings, innermost first, and by what they lead to: the id of a block, or the index of a catch."""
    found = []
    of: dict[int, list[Landing]] = {}
    rethrown: set[int] = set()
    if record.tries and _RETHROW in record.ops:
        immediates: list[Any] = record.immediates
        rethrown.update(immediates[at].start for at, op in enumerate(record.ops) if op == _RETHROW)
    for block in reversed(record.tries):
        # The catches of a legacy try do not guard one another: what it guards ends with the first of them.
        end = min([target for _, _, target in block.catches if isinstance(target, int)], default=block.end)
        for kind, tagidx, target in block.catches:
            landing = Landing(block.start, end, kind, tagidx, target, rethrown)
            found.append(landing)
            if kind != DELEGATE:
                of.setdefault(target if isinstance(target, int) else id(target), []).append(landing)
    return found, of


class Compiled:
    """Code of one function: its bytes, where one enters, and what unwinding needs."""

    __slots__ = ("code", "cold", "cold_marks", "cold_nbytes", "entry", "landings", "marks", "slots")

    def __init__(self, code: bytes, entry: int, slots: int, landings: list[Landing], marks: list[int]) -> None:
        self.code = code
        self.entry = entry
        self.slots = slots
        self.landings = landings
        """Innermost first."""
        self.marks = marks
        """Offset in the code at which each operator starts, if asked for."""
        self.cold = len(code)
        """Where accesses out of bounds trap, each in `cold_nbytes` of code, for the operators `cold_marks`."""
        self.cold_nbytes = 1
        self.cold_marks: list[int] = []

    def operator(self, offset: int) -> int:
        """Index of the operator whose code contains *offset*, given marks; -1: the function's entry."""
        if offset >= self.cold:
            return self.cold_marks[(offset - self.cold) // self.cold_nbytes]
        return bisect_right(self.marks, offset) - 1
