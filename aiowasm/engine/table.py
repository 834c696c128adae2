"""Table instances (the standard's chapter 4.2.7): references, bounds, growth.

What a call through a table checks belongs to engines.
"""

from __future__ import annotations

from collections.abc import Sequence

from aiowasm.engine.heap import Reference
from aiowasm.errors import LimitError, Trap, TrapCode
from aiowasm.limits import MAX_TABLE_ELEMENTS
from aiowasm.syntax.types import TableType

__all__ = ("TableInst",)


class TableInst:
    """A table of closed reference type `reftype`.

    `elements` is one list for the table's whole life: the interpreter's code closes over it. What it holds is up to the
    engine; everybody else uses `get` and `size`. `asks` makes a growth by guests an outcome of the execution (GROW);
    `owner` is the store's.

    Args:
        tabletype: The declared type, closed; its minimum is the initial size.
        init: The initial value of every element.
        max_elements: What the owner lets the table grow to, whatever its type declares.

    Raises:
        LimitError: If the initial size exceeds *max_elements* or cannot be allocated.
    """

    __slots__ = ("__weakref__", "addrtype", "asks", "elements", "max_elements", "maximum", "owner", "reftype")

    def __init__(self, tabletype: TableType, init: Reference = None, max_elements: int = MAX_TABLE_ELEMENTS) -> None:
        self.asks = False
        self.owner: object = None
        self.reftype = tabletype.reftype
        self.addrtype = tabletype.addrtype
        self.maximum = tabletype.limits.maximum
        ceiling = min((1 << tabletype.addrtype.value) - 1, max_elements)
        self.max_elements = ceiling if self.maximum is None else min(self.maximum, ceiling)
        minimum = tabletype.limits.minimum
        if not 0 <= minimum <= self.max_elements:
            raise LimitError(f"a table of {minimum} elements exceeds {self.max_elements}", limit="table_elements")
        try:
            self.elements: list[Reference] = [init] * minimum
        except MemoryError as error:
            raise LimitError(f"cannot allocate a table of {minimum} elements", limit="table_elements") from error

    @property
    def size(self) -> int:
        """The current number of elements."""
        return len(self.elements)

    def get(self, index: int) -> Reference:
        """Return the element at *index*."""
        self._check(index, 1)
        return self.elements[index]

    def set(self, index: int, reference: Reference) -> None:
        """Replace the element at *index*."""
        self._check(index, 1)
        self.elements[index] = reference

    def grow(self, delta: int, init: Reference = None) -> int:
        """Add *delta* elements and return the previous size, or -1 if that is not possible; never traps."""
        previous = len(self.elements)
        if delta < 0 or previous + delta > self.max_elements:
            return -1
        try:
            self.elements.extend([init] * delta)
        except MemoryError:
            return -1
        return previous

    def fill(self, index: int, reference: Reference, count: int) -> None:
        """Set *count* elements from *index*. Spec: `table.fill`."""
        self._check(index, count)
        self.elements[index : index + count] = [reference] * count

    def copy(self, index: int, source: TableInst, source_index: int, count: int) -> None:
        """Copy from *source*, which may be this table with overlap. Spec: `table.copy`."""
        self._check(index, count)
        source._check(source_index, count)
        self.elements[index : index + count] = source.elements[source_index : source_index + count]

    def init(self, index: int, references: Sequence[Reference], offset: int, count: int) -> None:
        """Copy *count* references of an element segment from *offset*. Spec: `table.init`."""
        self._check(index, count)
        if offset < 0 or offset + count > len(references):
            raise Trap(TrapCode.TABLE_OUT_OF_BOUNDS)
        self.elements[index : index + count] = references[offset : offset + count]

    def close(self) -> None:
        """Give the elements back: no code that has the table will run again."""
        self.elements.clear()

    def _check(self, index: int, count: int) -> None:
        if index < 0 or count < 0 or index + count > len(self.elements):
            raise Trap(TrapCode.TABLE_OUT_OF_BOUNDS)
