"""Exceptions that generated code has caught by reference: one set for each execution that throws.

Such an exception is an entry in a block of memory, until Python needs it or the block is full; only then it becomes an
object. References are numbers that are never used twice, so a slot that still holds an old one does no harm.
"""

from __future__ import annotations

import ctypes
from array import array
from typing import TYPE_CHECKING, Any, Final

from aiowasm.engine.heap import ExnInst, Heap
from aiowasm.engine.native.layout import Caught as Block
from aiowasm.engine.native.values import from_slots
from aiowasm.errors import Trap
from aiowasm.syntax.types import FuncType, NumType, RefType

if TYPE_CHECKING:
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.engine.tag import TagInst

__all__ = ("FIRST_REFERENCE", "Caught")

FIRST_REFERENCE: Final = 0x7E58_0000_0000_0000
_TOP_HALFWORD: Final = FIRST_REFERENCE >> 48
_ENTRIES: Final = 16
_ENTRIES_MAX: Final = 256
_HEADROOM_NBYTES: Final = _ENTRIES_MAX * 640
"""What must be left of the heap: entries are charged to it only when they become objects."""
_NEXT, _END, _FIRST = Block.NEXT // 8, Block.END // 8, Block.FIRST // 8
_MASK: Final = (1 << 64) - 1


class Caught:
    """The exceptions of one instance that one execution has caught by reference. `address` is the block's."""

    __slots__ = ("_block", "_objects", "_owner", "_tags", "address", "instance")

    def __init__(self, instance: ModuleInst, owner: int) -> None:
        self.instance = instance
        self._owner = owner
        self._tags: dict[int, TagInst] = {id(tag): tag for tag in instance.tags}
        self._objects: dict[int, ExnInst] = {}
        self._block: Any = None
        self.address = 0
        self._clear(_ENTRIES, FIRST_REFERENCE)

    @staticmethod
    def is_affordable(instance: ModuleInst) -> bool:
        """Whether what may be thrown before anything is charged for it fits the heap of *instance*."""
        return instance.heap.limit - instance.heap.used >= _HEADROOM_NBYTES

    def _clear(self, entries: int, first: int) -> None:
        """Have a block of so many free entries, the first with reference *first*."""
        nwords = (Block.ENTRIES + entries * Block.ENTRY_NBYTES) // 8
        if self._block is None or len(self._block) != nwords:
            self._block = (ctypes.c_uint64 * nwords)()
            self.address = ctypes.addressof(self._block)
            self._block[Block.OWNER // 8] = self._owner
            self._block[_END] = self.address + 8 * nwords
        self._block[_NEXT] = self.address + Block.ENTRIES
        self._block[_FIRST] = first

    @property
    def is_full(self) -> bool:
        """Whether generated code can catch no more by reference."""
        return bool(self._block[_NEXT] == self._block[_END])

    def get(self, reference: int) -> ExnInst:
        """Return what a slot refers to by *reference*."""
        known = self._objects.get(reference)
        if known is None:
            known = self._objects[reference] = self._make(reference - self._block[_FIRST])
        return known

    def _make(self, number: int) -> ExnInst:
        at = (Block.ENTRIES + number * Block.ENTRY_NBYTES) // 8
        tag = self._tags[self._block[at]]
        comptype = tag.deftype.comptype
        values = []
        for valtype in comptype.params if isinstance(comptype, FuncType) else ():
            if isinstance(valtype, RefType):
                raise TypeError(f"generated code threw a {valtype}")
            at += 1
            wide = valtype is NumType.V128
            values.append(from_slots(valtype, self._block[at], self._block[at + 1] if wide else 0))
            at += wide
        try:
            return ExnInst(self.instance.heap, tag, tuple(values))
        except Trap:  # somebody else has taken what was left
            return ExnInst(Heap(_HEADROOM_NBYTES), tag, tuple(values))

    def renew(self, words: array[int]) -> None:
        """Keep what *words*, all slots in use, refer to, and have room for more than before."""
        first, start = self._block[_FIRST], self.address + Block.ENTRIES
        count = (self._block[_NEXT] - start) // Block.ENTRY_NBYTES
        found = _references(words)
        self._objects = {
            reference: self.get(reference)
            for reference in found
            if reference in self._objects or first <= reference < first + count
        }
        entries = (self._block[_END] - start) // Block.ENTRY_NBYTES
        self._clear(min(4 * entries, _ENTRIES_MAX), first + count)


def _references(words: array[int]) -> set[int]:
    """Those of *words* that may be references of ours; what only looks like one keeps an exception for a while."""
    tops = array("H", words.tobytes())[3::4]
    found: set[int] = set()
    at = -1
    while True:
        try:
            at = tops.index(_TOP_HALFWORD, at + 1)
        except ValueError:
            return found
        found.add(words[at] & _MASK)
