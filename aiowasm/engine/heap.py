"""Heap objects: structures, arrays, i31 and exceptions (the standard's chapter 4.2), their typing and their account.

A reference is a Python object: `None` is null of any type, a `FuncInst` a function, and every object that is none of
the classes here is a reference of the host. Converting between `any` and `extern` therefore changes nothing.

The account: the garbage of a guest is Python's garbage, so a `Heap` counts what lives. An object is charged when it is
made and refunded by its `__del__`, which runs at the last reference (or in Python's collection of cycles); both add
0.2 µs to the 0.25 µs of an allocation. Charges are estimates from above of what CPython allocates, boxed values
included, so that a limit holds whatever values a guest stores later. At the limit, cycles are collected, and the guest
traps unless that freed a sixteenth of the limit: one that lives at its limit must not buy a collection of the whole
process with each allocation.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from struct import unpack_from
from typing import Any, Final

from aiowasm.engine.func import FuncInst
from aiowasm.engine.tag import TagInst
from aiowasm.errors import Trap, TrapCode
from aiowasm.syntax.matching import DefType
from aiowasm.syntax.types import AbsHeapType, ArrayType, NumType, PackedType, RefType, StorageType, StructType

__all__ = (
    "DEFAULT_HEAP_NBYTES",
    "I31",
    "ArrayInst",
    "ExnInst",
    "Heap",
    "Reference",
    "StructInst",
    "Value",
    "array_nbytes",
    "ref_eq",
    "ref_matches",
    "struct_nbytes",
)

Reference = Any
"""None for null, or any object: see the module's description."""
Value = int | float | bytes | Reference
"""A value in engine form."""

DEFAULT_HEAP_NBYTES: Final = 1 << 28

_OBJECT_NBYTES: Final = 144  # an object of ours with its list, both with what the collector puts before them
_REFERENCE_NBYTES: Final = 8
_I31_NBYTES: Final = 72  # I31 objects are not charged themselves: the places that can keep them are
_STORAGE_NBYTES: Final[dict[StorageType, int]] = {
    PackedType.I8: 8,  # Python keeps one object per small int
    PackedType.I16: 40,
    NumType.I32: 56,  # an addition may allocate one digit more than its result has
    NumType.I64: 56,
    NumType.F32: 32,
    NumType.F64: 32,
    NumType.V128: 72,
}
_MAY_BE_I31: Final = (AbsHeapType.ANY, AbsHeapType.EQ, AbsHeapType.I31, AbsHeapType.EXTERN)
_WIDEST_NBYTES: Final = _REFERENCE_NBYTES + _I31_NBYTES

_DATA_FORMAT: Final[dict[StorageType, tuple[int, str]]] = {
    PackedType.I8: (1, "B"),
    PackedType.I16: (2, "H"),
    NumType.I32: (4, "I"),
    NumType.I64: (8, "Q"),
    NumType.F32: (4, "f"),
    NumType.F64: (8, "d"),
    NumType.V128: (16, ""),
}


class Heap:
    """The account of one owner's heap objects: `used` of `limit` bytes."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int = DEFAULT_HEAP_NBYTES) -> None:
        self.limit = limit
        self.used = 0

    def make_room(self, nbytes: int) -> int:
        """Return what will be used once *nbytes* are charged; charges nothing.

        Raises:
            Trap: If that exceeds the limit, and collecting cycles did not help (enough).
        """
        used = self.used + nbytes
        if used > self.limit:
            before = self.used
            if nbytes <= self.limit:
                gc.collect()
            used = self.used + nbytes
            if used > self.limit or before - self.used < self.limit >> 4:
                raise Trap(TrapCode.HEAP_EXHAUSTED)
        return used


def _storage_nbytes(storage: StorageType) -> int:
    if isinstance(storage, RefType):
        return _REFERENCE_NBYTES + (_I31_NBYTES if storage.heaptype in _MAY_BE_I31 else 0)
    return _STORAGE_NBYTES[storage]


def struct_nbytes(deftype: DefType) -> int:
    """Return what a structure of *deftype* is charged; the same for all of them."""
    comptype = deftype.comptype
    if not isinstance(comptype, StructType):
        raise TypeError(f"not a structure type: {deftype}")
    return _OBJECT_NBYTES + sum(_storage_nbytes(field.storage) for field in comptype.fields)


def _storage_of(deftype: DefType) -> StorageType:
    comptype = deftype.comptype
    if not isinstance(comptype, ArrayType):
        raise TypeError(f"not an array type: {deftype}")
    return comptype.field.storage


def array_nbytes(deftype: DefType, length: int) -> int:
    """Return what an array of *deftype* with *length* elements is charged."""
    return _OBJECT_NBYTES + _storage_nbytes(_storage_of(deftype)) * length


class _Charged:
    """An object on a heap's account."""

    __slots__ = ("_heap", "_nbytes")

    _heap: Heap
    _nbytes: int

    def _charge(self, heap: Heap, nbytes: int) -> None:
        self._heap = heap
        self._nbytes = 0  # what __del__ refunds if there is no room
        heap.used = heap.make_room(nbytes)
        self._nbytes = nbytes

    def __del__(self) -> None:
        # No call between read and write: another thread's collection cannot come between.
        self._heap.used -= self._nbytes


class StructInst(_Charged):
    """A structure; `fields` are values in engine form, packed ones wrapped and unsigned.

    `nbytes` is `struct_nbytes(deftype)`: engines compute it once per instruction.
    """

    __slots__ = ("deftype", "fields")

    def __init__(self, heap: Heap, deftype: DefType, fields: list[Value], nbytes: int) -> None:
        # `_charge` inlined: allocating a structure is the hot path of garbage-collected languages.
        self._heap = heap
        used = heap.used + nbytes
        if used > heap.limit:
            self._nbytes = 0
            used = heap.make_room(nbytes)
        heap.used = used
        self._nbytes = nbytes
        self.deftype = deftype
        self.fields = fields


class ArrayInst(_Charged):
    """An array; `elements` are values in engine form, packed ones wrapped and unsigned. The list is never resized."""

    __slots__ = ("deftype", "elements")

    def __init__(self, heap: Heap, deftype: DefType, elements: list[Value]) -> None:
        self._charge(heap, array_nbytes(deftype, len(elements)))
        self.deftype = deftype
        self.elements = elements

    @classmethod
    def filled(cls, heap: Heap, deftype: DefType, value: Value, length: int) -> ArrayInst:
        """Return an array of *length* times *value*. Spec: `array.new`."""
        heap.make_room(array_nbytes(deftype, length))  # before the list is made: length is the guest's
        return cls(heap, deftype, [value] * length)

    @classmethod
    def from_data(cls, heap: Heap, deftype: DefType, data: bytes | memoryview, offset: int, length: int) -> ArrayInst:
        """Return an array of *length* values decoded from a data segment. Spec: `array.new_data`."""
        storage = _storage_of(deftype)
        _check_data(storage, data, offset, length)
        heap.make_room(array_nbytes(deftype, length))
        return cls(heap, deftype, _decode(storage, data, offset, length))

    @classmethod
    def from_elem(
        cls, heap: Heap, deftype: DefType, references: Sequence[Reference], offset: int, length: int
    ) -> ArrayInst:
        """Return an array of *length* references of an element segment. Spec: `array.new_elem`."""
        if offset + length > len(references):
            raise Trap(TrapCode.TABLE_OUT_OF_BOUNDS)
        heap.make_room(array_nbytes(deftype, length))
        return cls(heap, deftype, list(references[offset : offset + length]))

    def _check(self, index: int, count: int) -> None:
        if index < 0 or count < 0 or index + count > len(self.elements):
            raise Trap(TrapCode.ARRAY_OUT_OF_BOUNDS)

    def fill(self, index: int, value: Value, count: int) -> None:
        """Set *count* elements from *index*. Spec: `array.fill`."""
        self._check(index, count)
        self.elements[index : index + count] = [value] * count

    def copy(self, index: int, source: ArrayInst, source_index: int, count: int) -> None:
        """Copy from *source*, which may be this array with overlap. Spec: `array.copy`."""
        self._check(index, count)
        source._check(source_index, count)
        self.elements[index : index + count] = source.elements[source_index : source_index + count]

    def init_data(self, index: int, data: bytes | memoryview, offset: int, count: int) -> None:
        """Decode *count* elements from a data segment. Spec: `array.init_data`."""
        self._check(index, count)
        storage = _storage_of(self.deftype)
        _check_data(storage, data, offset, count)
        self.elements[index : index + count] = _decode(storage, data, offset, count)

    def init_elem(self, index: int, references: Sequence[Reference], offset: int, count: int) -> None:
        """Copy *count* references of an element segment. Spec: `array.init_elem`."""
        self._check(index, count)
        if offset + count > len(references):
            raise Trap(TrapCode.TABLE_OUT_OF_BOUNDS)
        self.elements[index : index + count] = references[offset : offset + count]


def _check_data(storage: StorageType, data: bytes | memoryview, offset: int, count: int) -> None:
    if offset + count * _DATA_FORMAT[storage][0] > len(data):
        raise Trap(TrapCode.MEMORY_OUT_OF_BOUNDS)


def _decode(storage: StorageType, data: bytes | memoryview, offset: int, count: int) -> list[Value]:
    """Return *count* values from *data*, whose bounds have been checked."""
    nbytes, letter = _DATA_FORMAT[storage]
    if letter:
        return list(unpack_from(f"<{count}{letter}", data, offset))
    return [bytes(data[start : start + nbytes]) for start in range(offset, offset + count * nbytes, nbytes)]


class ExnInst(_Charged):
    """An exception: its tag and the values it carries, in engine form."""

    __slots__ = ("tag", "values")

    def __init__(self, heap: Heap, tag: TagInst, values: tuple[Value, ...]) -> None:
        # Charged too: exceptions that carry exceptions are lists without end.
        self._charge(heap, _OBJECT_NBYTES + _WIDEST_NBYTES * len(values))
        self.tag = tag
        self.values = values


class I31:
    """A reference to an unboxed scalar: `value` is 31 bits, unsigned. Equal ones are equal references (`ref_eq`)."""

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value & 0x7FFF_FFFF


def ref_eq(left: Reference, right: Reference) -> bool:
    """Whether two references are the same. Spec: `ref.eq`."""
    return left is right or (type(left) is I31 and type(right) is I31 and left.value == right.value)


_CLASSES: Final[dict[AbsHeapType, tuple[type, ...]]] = {
    AbsHeapType.EQ: (I31, StructInst, ArrayInst),
    AbsHeapType.I31: (I31,),
    AbsHeapType.STRUCT: (StructInst,),
    AbsHeapType.ARRAY: (ArrayInst,),
    AbsHeapType.FUNC: (FuncInst,),
    AbsHeapType.EXN: (ExnInst,),
}


def ref_matches(reference: Reference, reftype: RefType) -> bool:
    """Whether *reference* is of the closed type *reftype*, for tests and casts. Spec: `Ref_ok`.

    Every object is an `extern`, and an `any` too: what a module converts keeps its identity, and validation keeps
    functions and exceptions out of that hierarchy.
    """
    if reference is None:
        return reftype.nullable
    heaptype = reftype.heaptype
    if isinstance(heaptype, DefType):
        if type(reference) is StructInst or type(reference) is ArrayInst or type(reference) is FuncInst:
            deftype: DefType = reference.deftype
            return deftype is heaptype or deftype.is_subtype_of(heaptype)
        return False
    if heaptype is AbsHeapType.ANY or heaptype is AbsHeapType.EXTERN:
        return True
    if isinstance(heaptype, int):
        raise TypeError(f"not a closed type: {reftype}")
    return type(reference) in _CLASSES.get(heaptype, ())
