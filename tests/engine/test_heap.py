"""Heap objects: typing of references, bulk operations of arrays and the account."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest

from aiowasm.engine.func import FuncInst
from aiowasm.engine.heap import (
    I31,
    ArrayInst,
    ExnInst,
    Heap,
    StructInst,
    array_nbytes,
    ref_eq,
    ref_matches,
    struct_nbytes,
)
from aiowasm.engine.tag import TagInst
from aiowasm.errors import Trap, TrapCode
from aiowasm.syntax.matching import DefType, close_rectype
from aiowasm.syntax.types import (
    ANYREF,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    V128,
    AbsHeapType,
    ArrayType,
    CompType,
    FieldType,
    FuncType,
    RecType,
    RefType,
    StorageType,
    StructType,
    SubType,
)


def close(comptype: CompType, *above: DefType) -> DefType:
    return close_rectype(RecType((SubType(False, above, comptype),)), 0, [])[0]


def array_of(storage: StorageType) -> DefType:
    return close(ArrayType(FieldType(storage, True)))


NODE = close(StructType((FieldType(ANYREF, True),)))
BELOW = close(StructType((FieldType(ANYREF, True), FieldType(I32, True))), NODE)
BYTES = array_of(I8)
FUNC = close(FuncType((), ()))


def node(heap: Heap, value: Any = None) -> StructInst:
    return StructInst(heap, NODE, [value], struct_nbytes(NODE))


def exhausted() -> Any:
    return pytest.raises(Trap, match=TrapCode.HEAP_EXHAUSTED.value)


def test_typing_of_references() -> None:
    heap = Heap()
    references: dict[str, Any] = {
        "i31": I31(1),
        "node": node(heap),
        "below": StructInst(heap, BELOW, [None, 0], struct_nbytes(BELOW)),
        "array": ArrayInst(heap, BYTES, []),
        "func": FuncInst(FUNC),
        "exn": ExnInst(heap, TagInst(FUNC), ()),
        "host": 5,
    }
    expected: dict[Any, set[str]] = {
        AbsHeapType.EQ: {"i31", "node", "below", "array"},
        AbsHeapType.I31: {"i31"},
        AbsHeapType.STRUCT: {"node", "below"},
        AbsHeapType.ARRAY: {"array"},
        AbsHeapType.FUNC: {"func"},
        AbsHeapType.EXN: {"exn"},
        AbsHeapType.EXTERN: set(references),
        AbsHeapType.ANY: set(references),
        AbsHeapType.NONE: set(),
        AbsHeapType.NOFUNC: set(),
        AbsHeapType.NOEXTERN: set(),
        AbsHeapType.NOEXN: set(),
        NODE: {"node", "below"},
        BELOW: {"below"},
        BYTES: {"array"},
        FUNC: {"func"},
    }
    for heaptype, names in expected.items():
        assert {name for name, it in references.items() if ref_matches(it, RefType(True, heaptype))} == names, heaptype
        assert ref_matches(None, RefType(True, heaptype))
        assert not ref_matches(None, RefType(False, heaptype))
    with pytest.raises(TypeError):
        ref_matches(1, RefType(True, 0))


def test_identity() -> None:
    heap = Heap()
    one = node(heap)
    assert ref_eq(one, one)
    assert not ref_eq(one, node(heap))
    assert ref_eq(I31(-1), I31(0x7FFF_FFFF))
    assert not ref_eq(I31(1), I31(2))
    assert ref_eq(None, None)
    assert not ref_eq(None, I31(0))
    assert I31(-1).value == 0x7FFF_FFFF


@pytest.mark.parametrize(
    ("storage", "data", "values"),
    [
        (I8, b"\1\xff", [1, 255]),
        (I16, b"\1\0\xff\xff", [1, 0xFFFF]),
        (I32, b"\1\0\0\x80", [0x8000_0001]),
        (I64, bytes(7) + b"\x80", [1 << 63]),
        (F32, b"\0\0\x80\x3f", [1.0]),
        (F64, bytes(6) + b"\xf0\x3f", [1.0]),
        (V128, bytes(range(32)), [bytes(range(16)), bytes(range(16, 32))]),
    ],
)
def test_arrays_from_data(storage: StorageType, data: bytes, values: list[Any]) -> None:
    heap, deftype, count = Heap(), array_of(storage), len(values)
    assert ArrayInst.from_data(heap, deftype, b"." + data, 1, count).elements == values
    made = ArrayInst.filled(heap, deftype, None, count + 1)
    made.init_data(1, data, 0, count)
    assert made.elements == [None, *values]
    for offset, length in ((1, count), (0, count + 1), (1 << 32, 0), (0, 1 << 32)):
        with pytest.raises(Trap, match=TrapCode.MEMORY_OUT_OF_BOUNDS.value):
            ArrayInst.from_data(heap, deftype, data, offset, length)
    with pytest.raises(Trap, match=TrapCode.ARRAY_OUT_OF_BOUNDS.value):
        made.init_data(2, data, 0, count)


def test_bulk_operations_of_arrays() -> None:
    heap = Heap()
    one = ArrayInst.from_elem(heap, array_of(ANYREF), ("a", "b", "c", "d"), 1, 3)
    one.copy(1, one, 0, 2)
    assert one.elements == ["b", "b", "c"]
    one.fill(0, None, 1)
    one.init_elem(2, ("x",), 0, 1)
    assert one.elements == [None, "b", "x"]
    for index, count in ((3, 1), (4, 0), (0, 4), (1 << 32, 1), (0, 1 << 32)):
        acts: list[Callable[[], None]] = [
            lambda: one.fill(index, None, count),  # noqa: B023
            lambda: one.copy(index, one, 0, count),  # noqa: B023
            lambda: one.copy(0, one, index, count),  # noqa: B023
            lambda: one.init_elem(index, (), 0, count),  # noqa: B023
        ]
        for act in acts:
            with pytest.raises(Trap, match=TrapCode.ARRAY_OUT_OF_BOUNDS.value):
                act()
    with pytest.raises(Trap, match=TrapCode.TABLE_OUT_OF_BOUNDS.value):
        one.init_elem(0, ("x",), 1, 1)
    with pytest.raises(Trap, match=TrapCode.TABLE_OUT_OF_BOUNDS.value):
        ArrayInst.from_elem(heap, array_of(ANYREF), (), 0, 1)


def test_every_object_is_charged_and_refunded() -> None:
    heap = Heap()
    objects = [node(heap), ArrayInst(heap, BYTES, [1, 2]), ExnInst(heap, TagInst(FUNC), (1,))]
    assert heap.used > struct_nbytes(NODE) + array_nbytes(BYTES, 2)
    objects.clear()
    assert heap.used == 0


def test_huge_arrays_are_refused_before_memory_is_spent() -> None:
    heap = Heap()
    for length in ((1 << 32) - 1, 1 << 25):
        with exhausted():
            ArrayInst.filled(heap, BYTES, 0, length)
    assert heap.used == 0


def test_the_limit_is_exact_and_traps_leave_the_account_right() -> None:
    heap = Heap(10 * struct_nbytes(NODE))
    kept = [node(heap) for _ in range(10)]
    makers: list[Callable[[Heap], object]] = [
        node,
        lambda heap: ArrayInst(heap, BYTES, []),
        lambda heap: ExnInst(heap, TagInst(FUNC), ()),
    ]
    for make in makers:
        with exhausted():
            make(heap)
    assert heap.used == heap.limit
    kept.pop()
    kept.append(node(heap))


def test_cycles_are_collected_at_the_limit() -> None:
    heap = Heap(1000 * struct_nbytes(NODE))
    gc.disable()
    try:
        for _ in range(5000):
            one = node(heap)
            one.fields[0] = one
    finally:
        gc.enable()


def test_a_guest_at_its_limit_does_not_buy_collections() -> None:
    heap = Heap(1000 * struct_nbytes(NODE))
    kept = [node(heap) for _ in range(999)]
    one = node(heap)
    one.fields[0] = one
    del one
    with exhausted():
        kept.append(node(heap))


def test_a_list_without_end_dies_quietly() -> None:
    heap = Heap(1 << 30)
    head = None
    for _ in range(300_000):
        head = node(heap, head)
    del head
    assert heap.used == 0
