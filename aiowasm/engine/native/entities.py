"""Memories, tables and globals whose storage generated code can reach; Python sees the same interface as ever."""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Sequence
from types import CellType
from typing import TYPE_CHECKING, Any, Final

from aiowasm.engine.func import FuncInst
from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.heap import Reference
from aiowasm.engine.memory import MemInst
from aiowasm.engine.native.code import address_of
from aiowasm.engine.native.layout import Table
from aiowasm.engine.native.stack import protect
from aiowasm.engine.native.values import from_slots, is_function_type, to_slots
from aiowasm.engine.table import TableInst
from aiowasm.errors import LimitError, Trap, TrapCode
from aiowasm.syntax.types import GlobalType, MemType, NumType, RefType, TableType

if TYPE_CHECKING:
    from aiowasm.engine.native.engine import Native

__all__ = ("FunctionTable", "NativeGlobal", "NativeMemory", "NativeTable", "keeper")


_PAGE_NBYTES: Final = mmap.PAGESIZE


class NativeMemory(MemInst):
    """A memory with a block of (base, bytes) at `address`, right after every growth.

    Behind it lies a region that nobody can touch: a second line behind the checks of generated code.
    """

    guard_nbytes = 16 * _PAGE_NBYTES

    __slots__ = ("_block", "_guarded", "address")

    def __init__(self, memtype: MemType, max_nbytes: int) -> None:
        super().__init__(memtype, max_nbytes)
        self._block = array("Q", (0, 0))
        self.address = self._block.buffer_info()[0]
        self._guarded = 0
        self._publish()

    def _publish(self) -> None:
        base = address_of(self._buffer)
        if base and base != self._guarded:
            self._guarded = base
            nbytes = len(self._buffer)
            start = -(-(nbytes - self.guard_nbytes) // _PAGE_NBYTES) * _PAGE_NBYTES
            if protect(base + start, nbytes - start):
                raise LimitError("cannot protect the end of a memory", limit="memory_nbytes")
        self._block[0] = base
        self._block[1] = len(self.view)

    def grow(self, delta: int) -> int:
        """Grow by *delta* pages; see `MemInst.grow`."""
        previous = super().grow(delta)
        if previous >= 0:
            self._publish()
        return previous

    def close(self) -> None:
        """Give the bytes back; generated code sees an empty memory from then on."""
        self._block[0] = self._block[1] = 0
        super().close()


def keeper(reference: Reference) -> object:
    """What keeps the descriptor alive that *reference* to a function is for generated code; None for null."""
    if not isinstance(reference, FuncInst):
        return None
    return reference if reference.instance is None else reference.instance


class NativeTable(TableInst):
    """A table of anything but functions: generated code sees its size, in a block of (elements, size) at `address`."""

    __slots__ = ("_block", "_engine", "address")

    def __init__(self, tabletype: TableType, init: Reference, max_elements: int, engine: Native) -> None:
        self._engine = engine
        super().__init__(tabletype, init, max_elements)
        self._block = array("Q", (0, self.size))
        self.address = self._block.buffer_info()[0]

    def grow(self, delta: int, init: Reference = None) -> int:
        """Add *delta* elements; see `TableInst.grow`."""
        previous = super().grow(delta, init)
        self._block[_SIZE] = self.size
        return previous

    def close(self) -> None:
        """Give the elements back; generated code sees an empty table from then on."""
        self._block[_ELEMENTS] = self._block[_SIZE] = 0
        super().close()


_ELEMENTS: Final = Table.ELEMENTS // 8
_SIZE: Final = Table.SIZE // 8


class FunctionTable(NativeTable):
    """A table of functions: descriptors in an array for generated code; `elements` is what keeps each of them alive.

    A function becomes an object of Python when somebody there gets it out of the table.
    """

    __slots__ = ("_descriptors",)

    def __init__(self, tabletype: TableType, init: Reference, max_elements: int, engine: Native) -> None:
        super().__init__(tabletype, keeper(init), max_elements, engine)
        self._descriptors: array[int] = array("Q")
        if not self._make_room(self.size):
            raise LimitError(f"cannot allocate a table of {self.size} elements", limit="table_elements")
        self._descriptors[: self.size] = self._repeat(init, self.size)

    def _make_room(self, size: int) -> bool:
        before = self._descriptors
        if len(before) < size:
            # Doubling keeps repeated growth linear.
            capacity = min(max(size, 2 * len(before)), self.max_elements)
            try:
                self._descriptors = before + array("Q", (0,)) * (capacity - len(before))
            except MemoryError:
                return False
            self._block[_ELEMENTS] = self._descriptors.buffer_info()[0]
        return True

    def _repeat(self, reference: Reference, count: int) -> array[int]:
        return array("Q", (0 if reference is None else self._engine.descriptor(reference),)) * count

    def _bury(self, start: int, stop: int) -> None:
        """Running guests may hold what is about to be overwritten."""
        self._engine.bury(self.elements[start:stop])

    def get(self, index: int) -> Reference:
        """Return the element at *index*."""
        self._check(index, 1)
        address = self._descriptors[index]
        return self._engine.function_at(address) if address else None

    def set(self, index: int, reference: Reference) -> None:
        """Replace the element at *index*."""
        self.fill(index, reference, 1)

    def grow(self, delta: int, init: Reference = None) -> int:
        """Add *delta* elements; see `TableInst.grow`."""
        if delta < 0 or self.size + delta > self.max_elements or not self._make_room(self.size + delta):
            return -1
        previous = super().grow(delta, keeper(init))
        if previous >= 0:
            self._descriptors[previous : previous + delta] = self._repeat(init, delta)
        return previous

    def fill(self, index: int, reference: Reference, count: int) -> None:
        """Set *count* elements from *index*. Spec: `table.fill`."""
        self._check(index, count)
        descriptors = self._repeat(reference, count)
        self._bury(index, index + count)
        super().fill(index, keeper(reference), count)
        self._descriptors[index : index + count] = descriptors

    def copy(self, index: int, source: TableInst, source_index: int, count: int) -> None:
        """Copy from *source*, which may be this table with overlap. Spec: `table.copy`."""
        self._check(index, count)
        source._check(source_index, count)
        self._bury(index, index + count)
        super().copy(index, source, source_index, count)
        if isinstance(source, FunctionTable):
            self._descriptors[index : index + count] = source._descriptors[source_index : source_index + count]

    def init(self, index: int, references: Sequence[Reference], offset: int, count: int) -> None:
        """Copy *count* references of an element segment from *offset*. Spec: `table.init`."""
        self._check(index, count)
        if offset < 0 or offset + count > len(references):
            raise Trap(TrapCode.TABLE_OUT_OF_BOUNDS)
        self._bury(index, index + count)
        keepers, descriptors = self._engine.references(references[offset : offset + count])
        self.elements[index : index + count] = keepers
        self._descriptors[index : index + count] = descriptors


class NativeGlobal(GlobalInst):
    """A global; a number lives in 16 bytes at `address`, a reference in the cell."""

    __slots__ = ("_block", "_engine", "_functions", "address")

    def __init__(self, globaltype: GlobalType, value: Any, engine: Native) -> None:
        super().__init__(globaltype, value)
        self._engine = engine
        self._functions = isinstance(globaltype.valtype, RefType) and is_function_type(globaltype.valtype)
        self._block = array("Q", (0, 0))
        self.address = self._block.buffer_info()[0]
        if isinstance(globaltype.valtype, NumType):
            self._block[0], self._block[1] = to_slots(globaltype.valtype, value)
            if globaltype.mutable:
                # What closes over the cell would miss what guests set.
                self.cell = CellType()
        else:
            self._reflect(value)

    def _reflect(self, reference: Any) -> None:
        """Let generated code see a function; other references it asks Python for."""
        if isinstance(reference, FuncInst) and self._functions:
            self._block[0] = self._engine.descriptor(reference)
        else:
            self._block[0] = 0

    @property
    def value(self) -> Any:
        """The current value in engine form."""
        valtype = self.globaltype.valtype
        if isinstance(valtype, RefType):
            return self.cell.cell_contents
        return from_slots(valtype, self._block[0], self._block[1])

    @value.setter
    def value(self, value: Any) -> None:
        valtype = self.globaltype.valtype
        if isinstance(valtype, RefType):
            before = self.cell.cell_contents
            if isinstance(before, FuncInst):
                self._engine.bury((keeper(before),))
            self.cell.cell_contents = value
            self._reflect(value)
        else:
            self._block[0], self._block[1] = to_slots(valtype, value)
