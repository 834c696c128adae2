"""Memories, tables, globals, segments and functions: bounds, growth and hostile sizes."""

from __future__ import annotations

import mmap
from typing import Any

import pytest

from aiowasm.engine import memory as memory_module
from aiowasm.engine.func import FuncInst
from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.memory import MemInst
from aiowasm.engine.segments import DataInst, ElemInst
from aiowasm.engine.table import TableInst
from aiowasm.errors import LimitError, Trap, TrapCode
from aiowasm.syntax.matching import close_rectype
from aiowasm.syntax.types import (
    FUNCREF,
    I32,
    AddressType,
    FuncType,
    GlobalType,
    Limits,
    MemType,
    RecType,
    SubType,
    TableType,
)

PAGE = 65_536
HUGE = [1 << 32, (1 << 32) - 1, 1 << 64, (1 << 64) - 1, 1 << 63]


def make(minimum: int, maximum: int | None = None, **kwargs: Any) -> MemInst:
    return MemInst(MemType(Limits(minimum, maximum), **kwargs))


def raises(code: TrapCode) -> Any:
    return pytest.raises(Trap, match=code.value)


def oob() -> Any:
    return raises(TrapCode.MEMORY_OUT_OF_BOUNDS)


def test_growth_keeps_contents_and_swaps_the_view() -> None:
    memory = make(1, 3)
    memory.write(PAGE - 2, b"ab")
    kept = memory.view
    assert memory.grow(1) == 1
    assert memory.size == 2
    assert memory.cell.cell_contents is memory.view
    assert memory.read(PAGE - 2, 4) == b"ab\0\0"
    kept[0] = 7  # an older view looks at the same bytes
    assert memory.view[0] == 7
    assert [memory.grow(0), memory.grow(2), memory.grow(1), memory.grow(1)] == [2, -1, 2, -1]


@pytest.mark.parametrize("delta", HUGE)
@pytest.mark.parametrize("addrtype", AddressType)
def test_growth_by_huge_numbers_fails(delta: int, addrtype: AddressType) -> None:
    memory = make(1, addrtype=addrtype)
    assert memory.grow(delta) == -1
    assert memory.grow(-1) == -1
    assert memory.size == 1


def test_a_minimum_beyond_the_limit_is_an_error() -> None:
    with pytest.raises(LimitError):
        MemInst(MemType(Limits(2)), PAGE)
    with pytest.raises(LimitError):
        make(65_537)
    with pytest.raises(LimitError):
        make(1 << 48, addrtype=AddressType.I64)
    assert MemInst(MemType(Limits(1)), PAGE).grow(1) == -1
    assert make(1, 1 << 48, addrtype=AddressType.I64).max_pages == PAGE


def test_pages_of_one_byte() -> None:
    memory = make(0, page_size_log2=0)
    assert memory.max_pages == (1 << 32) - 1
    assert memory.grow(3) == 0
    memory.write(2, b"x")
    with oob():
        memory.write(3, b"x")
    assert bytes(memory.view) == b"\0\0x"


def test_an_empty_memory() -> None:
    memory = make(0, 0)
    assert memory.size == 0
    assert memory.grow(0) == 0
    assert memory.grow(1) == -1
    assert memory.read(0, 0) == b""
    memory.write(0, b"")
    memory.fill(0, 1, 0)
    memory.copy(0, memory, 0, 0)
    with oob():
        memory.read(0, 1)
    with oob():
        memory.fill(1, 1, 0)


@pytest.mark.parametrize("start", [PAGE, PAGE + 1, -1, *HUGE])
def test_bounds_of_memory(start: int) -> None:
    memory, data = make(1), bytes(PAGE)
    for act in (
        lambda: memory.read(start, 1),
        lambda: memory.write(start, b"x"),
        lambda: memory.fill(start, 1, 1),
        lambda: memory.copy(start, memory, 0, 1),
        lambda: memory.copy(0, memory, start, 1),
        lambda: memory.init(start, data, 0, 1),
        lambda: memory.init(0, data, start, 1),
        lambda: memory.fill(1, 1, start if start > 0 else -1),
        lambda: memory.copy(1, memory, 0, start if start > 0 else -1),
        lambda: memory.init(1, data, 0, start if start > 0 else -1),
        lambda: memory.read(1, start if start > 0 else -1),
    ):
        with oob():
            act()
    assert not any(memory.view)


def test_bulk_operations() -> None:
    memory, other = make(40), make(1)
    memory.fill(1, 0x1FF, (2 << 20) + 3)
    assert memory.read(0, 2) == b"\0\xff"
    assert memory.read((2 << 20) + 2, 3) == b"\xff\xff\0"
    memory.write(0, b"abcdef")
    memory.copy(2, memory, 0, 4)
    assert memory.read(0, 6) == b"ababcd"
    memory.copy(0, memory, 2, 4)
    assert memory.read(0, 6) == b"abcdcd"
    other.copy(PAGE - 3, memory, 1, 3)
    assert other.read(PAGE - 3, 3) == b"bcd"
    other.init(0, b"xyz", 1, 2)
    assert other.read(0, 3) == b"yz\0"
    other.write(0, memoryview(b"\1\0\2\0").cast("H"))
    assert other.read(0, 4) == b"\1\0\2\0"


@pytest.fixture
def stingy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that refuses reservations above eight pages."""
    real = memory_module._map

    def refuse(nbytes: int) -> mmap.mmap:
        if nbytes > 8 * PAGE:
            raise OSError("no")
        return real(nbytes)

    monkeypatch.setattr(memory_module, "_map", refuse)


@pytest.mark.usefixtures("stingy")
def test_a_refused_reservation() -> None:
    memory = make(3)
    memory.write(0, b"kept")
    assert memory.grow(4) == 3
    assert memory.read(0, 4) == b"kept"
    assert memory.grow(100) == -1
    assert memory.size == 7
    with pytest.raises(LimitError):
        make(9)


@pytest.mark.usefixtures("stingy")
def test_growth_beyond_a_reservation_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, shared = make(1), make(1, 20, shared=True)
    monkeypatch.undo()
    memory.write(0, b"kept")
    kept = memory.view
    assert memory.grow(9) == 1
    assert memory.read(0, 5) == b"kept\0"
    assert bytes(kept[:4]) == b"kept"
    assert shared.grow(9) == -1


def test_closing() -> None:
    memory = make(1)
    kept = memory.view
    memory.close()
    assert kept[0] == 0  # still there, for whoever looks
    assert memory.size == 0
    assert memory.grow(1) == -1
    assert len(memory.cell.cell_contents) == 0
    with oob():
        memory.read(0, 1)
    memory.close()


def table(minimum: int, maximum: int | None = None, **kwargs: Any) -> TableInst:
    return TableInst(TableType(Limits(minimum, maximum), FUNCREF), **kwargs)


def test_tables() -> None:
    one = table(2, 5, init="a")
    elements = one.elements
    assert [one.grow(2, "b"), one.grow(2), *(one.grow(delta) for delta in [*HUGE, -1])] == [2, -1, *[-1] * 6]
    assert elements is one.elements
    assert elements == ["a", "a", "b", "b"]
    one.copy(1, one, 0, 3)
    assert elements == ["a", "a", "a", "b"]
    one.init(0, ("c", "d"), 1, 1)
    one.fill(2, None, 2)
    one.set(1, "e")
    assert elements == ["d", "e", None, None]
    assert one.get(1) == "e"


@pytest.mark.parametrize("start", [2, 3, -1, *HUGE])
def test_bounds_of_tables(start: int) -> None:
    one = table(2)
    for act in (
        lambda: one.get(start),
        lambda: one.set(start, 1),
        lambda: one.fill(start, 1, 1),
        lambda: one.copy(start, one, 0, 1),
        lambda: one.copy(0, one, start, 1),
        lambda: one.init(start, (1, 2), 0, 1),
        lambda: one.init(0, (1, 2), start, 1),
        lambda: one.fill(1, 1, start),
        lambda: one.copy(1, one, 0, start),
        lambda: one.init(1, (1, 2), 0, start),
    ):
        with raises(TrapCode.TABLE_OUT_OF_BOUNDS):
            act()
    assert one.elements == [None, None]


def test_limits_of_tables() -> None:
    assert table(1, max_elements=2).grow(2) == -1
    for minimum in HUGE:
        with pytest.raises(LimitError):
            table(minimum)


def test_globals_segments_and_functions() -> None:
    one = GlobalInst(GlobalType(I32, True), 5)
    one.value = 6
    assert one.cell.cell_contents == one.value == 6
    data, elem = DataInst(b"x"), ElemInst(FUNCREF, (None,))
    data.drop()
    elem.drop()
    assert (data.data, elem.elements) == (b"", ())
    (deftype,) = close_rectype(RecType((SubType(True, (), FuncType((), ())),)), 0, [])
    func = FuncInst(deftype, None, None, print)
    with pytest.raises(ValueError, match="empty"):
        _ = func.cell.cell_contents


def test_notify_wakes_the_oldest_waiters_of_its_address():
    memory = MemInst(MemType(Limits(1, 1), shared=True))
    calls = []
    waiters = [memory.wait(8) for _ in range(4)]
    other = memory.wait(12)
    for number, waiter in enumerate(waiters):
        waiter.on_wake = lambda number=number: calls.append(number)
    waiters[1].cancel()
    waiters[1].cancel()
    assert memory.notify(8, 0) == 0
    assert memory.notify(8, 2) == 2
    assert calls == [0, 2]
    assert [waiter.woken for waiter in waiters] == [True, False, True, False]
    assert memory.notify(8, 0xFFFF_FFFF) == 1
    assert memory.notify(8, 1) == 0
    assert not other.woken
    other.cancel()
    assert not memory.waiters
