"""Memories, tables and globals whose storage generated code can reach; Python sees the same interface as ever."""

from __future__ import annotations

import ctypes
import mmap
from array import array
from types import CellType
from typing import TYPE_CHECKING, Any, Final

from aiowasm.engine.func import FuncInst
from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.heap import Reference
from aiowasm.engine.memory import MemInst
from aiowasm.engine.native.code import address_of
from aiowasm.engine.native.stack import protect
from aiowasm.engine.native.values import from_slots, is_function_type, to_slots
from aiowasm.engine.table import TableInst
from aiowasm.errors import LimitError
from aiowasm.syntax.types import GlobalType, MemType, NumType, RefType, TableType

if TYPE_CHECKING:
    from aiowasm.engine.native.engine import Native

__all__ = ("NativeGlobal", "NativeMemory", "NativeTable")


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


class NativeTable(TableInst):
    """A table; one of functions mirrors its elements as descriptors in a block of (elements, size) at `address`."""

    __slots__ = ("_block", "_engine", "_mirror", "address")

    def __init__(self, tabletype: TableType, init: Reference, max_elements: int, engine: Native) -> None:
        super().__init__(tabletype, init, max_elements)
        self._engine = engine
        self._block = array("Q", (0, 0))
        self.address = self._block.buffer_info()[0]
        self._mirror: Any = None
        self._resize()
        self._reflect(0, len(self.elements))

    def _resize(self) -> None:
        size = len(self.elements)
        self._block[1] = size
        if not is_function_type(self.reftype):
            return
        if self._mirror is None or len(self._mirror) < size:
            # Doubling keeps repeated growth linear.
            capacity = min(max(size, 2 * len(self._mirror or ())), self.max_elements)
            mirror = (ctypes.c_uint64 * capacity)()
            if self._mirror is not None:
                ctypes.memmove(mirror, self._mirror, ctypes.sizeof(self._mirror))
            self._mirror = mirror
            self._block[0] = ctypes.addressof(mirror)

    def _reflect(self, start: int, stop: int) -> None:
        if self._mirror is None:
            return
        describe = self._engine.descriptor
        elements, mirror = self.elements, self._mirror
        for index in range(start, stop):
            element = elements[index]
            mirror[index] = 0 if element is None else describe(element)

    def _bury(self, start: int, stop: int) -> None:
        """Running guests may hold what is about to be overwritten."""
        if self._mirror is not None:
            self._engine.bury(self.elements[start:stop])

    def set(self, index: int, reference: Reference) -> None:
        """Replace the element at *index*."""
        self._bury(index, index + 1)
        super().set(index, reference)
        self._reflect(index, index + 1)

    def grow(self, delta: int, init: Reference = None) -> int:
        """Add *delta* elements; see `TableInst.grow`."""
        previous = super().grow(delta, init)
        if previous >= 0:
            self._resize()
            self._reflect(previous, previous + delta)
        return previous

    def fill(self, index: int, reference: Reference, count: int) -> None:
        """Set *count* elements from *index*. Spec: `table.fill`."""
        self._bury(index, index + count)
        super().fill(index, reference, count)
        self._reflect(index, index + count)

    def copy(self, index: int, source: TableInst, source_index: int, count: int) -> None:
        """Copy from *source*, which may be this table with overlap. Spec: `table.copy`."""
        self._bury(index, index + count)
        super().copy(index, source, source_index, count)
        self._reflect(index, index + count)

    def init(self, index: int, references: tuple[Reference, ...], offset: int, count: int) -> None:
        """Copy *count* references of an element segment from *offset*. Spec: `table.init`."""
        self._bury(index, index + count)
        super().init(index, references, offset, count)
        self._reflect(index, index + count)


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
                self._engine.bury((before,))
            self.cell.cell_contents = value
            self._reflect(value)
        else:
            self._block[0], self._block[1] = to_slots(valtype, value)
