"""The handlers of a function: which clause catches an exception, found without looking at blocks that are elsewhere.

Blocks that catch nest properly, so a sorted list of where the innermost one changes answers for any operator; from
there the search goes outwards. Both forms of code use it, with clauses of their own. What a clause does is not here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from aiowasm.engine.heap import ExnInst

__all__ = ("DELEGATE", "Clause", "Handlers")

T = TypeVar("T")

DELEGATE: Final = 4
"""The kind of a clause that gives exceptions to the blocks around the operator `target`."""
_FREE: Final = 16
"""Clauses looked at that are no work worth measuring."""


class Clause(NamedTuple, Generic[T]):
    """A clause: `kind` as in the binary format of try_table (0 to 3) or DELEGATE."""

    kind: int
    tagidx: int | None
    target: T


class _Region(NamedTuple, Generic[T]):
    start: int
    parent: int
    clauses: Sequence[Clause[T]]


class Handlers(Generic[T]):
    """Clauses by the operators they guard: `add` blocks in the order of their starts, then `close`."""

    __slots__ = ("_changes", "_innermost", "_open", "_regions")

    def __init__(self) -> None:
        self._regions: list[_Region[T]] = []
        self._changes: list[int] = []
        """Operators from which on another block is the innermost, ascending."""
        self._innermost: list[int] = []
        self._open: list[tuple[int, int]] = []

    def add(self, start: int, end: int, clauses: Iterable[Clause[T]]) -> None:
        """Add a block that guards the operators *start* < i < *end*."""
        self._end(start)
        parent = self._open[-1][0] if self._open else -1
        self._open.append((len(self._regions), end))
        self._change(start + 1, len(self._regions))
        self._regions.append(_Region(start, parent, _useful(clauses)))

    def close(self) -> None:
        """There are no more blocks."""
        self._end(None)

    def _end(self, start: int | None) -> None:
        """End the blocks that end before *start*."""
        while self._open and (start is None or self._open[-1][1] <= start):
            _, end = self._open.pop()
            self._change(end, self._open[-1][0] if self._open else -1)

    def _change(self, index: int, innermost: int) -> None:
        self._changes.append(index)
        self._innermost.append(innermost)

    def find(
        self, index: int, exception: ExnInst, tags: Sequence[Any], tire: Callable[[int], None]
    ) -> tuple[int, Clause[T]] | None:
        """Return the start of the block and the clause that catches *exception*, thrown at operator *index*.

        *tire* is told of looking at many clauses, which costs no fuel.
        """
        at = bisect_right(self._changes, index) - 1
        number = self._innermost[at] if at >= 0 else -1
        outermost: Any = index
        looked = 0
        found = None
        while number >= 0 and found is None:
            region = self._regions[number]
            number = region.parent
            looked += 1
            if region.start > outermost:
                continue
            for clause in region.clauses:
                looked += 1
                if clause.kind == DELEGATE:
                    outermost = clause.target
                elif clause.kind > 1 or tags[clause.tagidx or 0] is exception.tag:
                    found = region.start, clause
                    break
        if looked > _FREE:
            tire(looked)
        return found


def _useful(clauses: Iterable[Clause[T]]) -> tuple[Clause[T], ...]:
    """Clauses that can be reached: the first for each tag, up to one that catches all."""
    useful: dict[int | None, Clause[T]] = {}
    for clause in clauses:
        if clause.kind > 1:
            useful[None] = clause
            break
        useful.setdefault(clause.tagidx, clause)
    return tuple(useful.values())
