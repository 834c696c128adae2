"""What validation records of a function for the engines: operators, immediates, blocks, segments of fuel.

Filled in by the walk of `aiowasm.validation.code`; nothing here checks or decodes.
"""

from __future__ import annotations

import gc
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, MutableMapping, MutableSet

from aiowasm.syntax.types import ValType

__all__ = ("Block", "FunctionRecord", "LocalTypes", "make_old")

_LARGE_NBYTES = 1 << 17
"""Bodies above this keep numbers in arrays: a dict takes a hundred bytes for what two bytes of code can ask for."""


class Block:
    """A structured instruction, or the function itself (kind "func").

    `start`, `else_` and `end` are indices of operators (-1: none). `height` is the operand height below the parameters;
    `labels` are the types a branch to it carries. `catches` of a try_table: (kind, tagidx or None, target Block); of a
    legacy try: (kind, tagidx or None, index of the catch operator), with kind 4 and the target Block for delegate.
    `unreachable`, `recorded`, `live`, `inits` and `in_catch` serve the walk only.
    """

    __slots__ = (
        "catches",
        "depth",
        "else_",
        "end",
        "has_call",
        "has_loop",
        "height",
        "in_catch",
        "inits",
        "kind",
        "live",
        "params",
        "recorded",
        "results",
        "start",
        "targeted",
        "unreachable",
    )

    def __init__(
        self, kind: str, params: tuple[ValType, ...], results: tuple[ValType, ...], height: int, depth: int
    ) -> None:
        self.kind = kind
        self.params = params
        self.results = results
        self.height = height
        self.depth = depth
        self.start = -1
        self.else_ = -1
        self.end = -1
        self.targeted = False
        self.has_call = False
        self.has_loop = False
        self.catches: tuple[tuple[int, int | None, Block | int], ...] = ()
        self.unreachable = False
        self.recorded = True
        self.live = False
        self.inits = 0
        self.in_catch = False

    @property
    def labels(self) -> tuple[ValType, ...]:
        """The types that a branch to it carries."""
        return self.params if self.kind == "loop" else self.results

    def __repr__(self) -> str:
        return f"<{self.kind} {self.start}..{self.end}>"


class LocalTypes:
    """Types of locals as runs: a declaration of 50,000 locals takes five bytes and must not take 50,000 entries."""

    __slots__ = ("_ends", "_types")

    def __init__(self, runs: Iterable[tuple[int, ValType]]) -> None:
        self._ends: list[int] = []
        self._types: list[ValType] = []
        total = 0
        for count, valtype in runs:
            if count:
                total += count
                self._ends.append(total)
                self._types.append(valtype)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> ValType:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._types[bisect_right(self._ends, index)]

    def __iter__(self) -> Iterator[ValType]:
        return (self[index] for index in range(len(self)))

    def runs(self) -> Iterator[tuple[int, ValType]]:
        """(count, type) of every run."""
        before = 0
        for end, valtype in zip(self._ends, self._types, strict=True):
            yield end - before, valtype
            before = end


class _Costs(MutableMapping[int, int]):
    """A mapping from ascending operator indices to units of fuel, in two arrays."""

    __slots__ = ("_at", "_units")

    def __init__(self) -> None:
        self._at = array("i")
        self._units = array("I")

    def _find(self, index: int) -> int:
        place = bisect_left(self._at, index)
        if place == len(self._at) or self._at[place] != index:
            raise KeyError(index)
        return place

    def __getitem__(self, index: int) -> int:
        return self._units[self._find(index)]

    def __setitem__(self, index: int, units: int) -> None:
        if self._at and index <= self._at[-1]:
            self._units[self._find(index)] = units
            return
        self._at.append(index)
        self._units.append(units)

    def __delitem__(self, index: int) -> None:
        place = self._find(index)
        del self._at[place], self._units[place]

    def __iter__(self) -> Iterator[int]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)


class _Indices(MutableSet[int]):
    """A set of operator indices that are added in ascending order, in an array."""

    __slots__ = ("_at",)

    def __init__(self, indices: Iterable[int] = ()) -> None:
        self._at = array("i", sorted(indices))

    def __contains__(self, index: object) -> bool:
        if not isinstance(index, int):
            return False
        place = bisect_left(self._at, index)
        return place < len(self._at) and self._at[place] == index

    def add(self, value: int) -> None:
        """Add an index."""
        if not self._at or value > self._at[-1]:
            self._at.append(value)
        elif value not in self:
            self._at.insert(bisect_left(self._at, value), value)

    def discard(self, value: int) -> None:
        """Remove an index if it is there."""
        if value in self:
            del self._at[bisect_left(self._at, value)]

    def __iter__(self) -> Iterator[int]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)


def make_old(nbytes: int) -> None:
    """Let containers that have just been made for a body of *nbytes* bytes, and will grow large, count as old.

    Nothing else would before they are large: a walk makes few objects that Python's collector counts. Then each of its
    next three collections would go through millions of entries and hold the loop up for 20 ms (benchmarks/stalls.py).
    While they are empty that costs a collection of what is young.
    """
    if nbytes > _LARGE_NBYTES:
        gc.collect(1)


class FunctionRecord:
    """A validated function as the engines want it: only operators that can be reached.

    `ops` are the dense numbers of the instruction table, `offsets` where they stand in the binary. `cost[i]` is the
    fuel of the segment that starts after operator i (-1: function entry); `checks` are those i whose segment is a check
    point. `blocks` are in the order of their starts, the function itself first; `tries` are those of them that catch.
    """

    __slots__ = (
        "blocks",
        "checks",
        "cost",
        "immediates",
        "locals",
        "max_height",
        "nparams",
        "offsets",
        "ops",
        "results",
        "tries",
    )

    def __init__(
        self,
        locals_: tuple[ValType, ...] | LocalTypes,
        nparams: int,
        results: tuple[ValType, ...],
        body_nbytes: int = 0,
    ) -> None:
        self.ops = array("H")
        self.immediates: list[object] = []
        self.offsets = array("I")
        self.locals = locals_
        self.nparams = nparams
        self.results = results
        self.max_height = 0
        self.cost: MutableMapping[int, int] = {}
        self.checks: MutableSet[int] = {-1}
        if body_nbytes > _LARGE_NBYTES:
            self.cost, self.checks = _Costs(), _Indices((-1,))
        self.blocks: list[Block] = []
        self.tries: list[Block] = []
