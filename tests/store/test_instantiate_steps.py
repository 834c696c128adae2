"""Large modules are instantiated in steps: the loop runs on, and what happens meanwhile is noticed."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from aiowasm import ExitError, Module, Store, Trap

pytestmark = pytest.mark.anyio

SEGMENTS = 1000
BIG = (
    '(module (memory (export "memory") 48) (table (export "table") 1000 funcref) (func $f)'
    + "".join(f'(data (i32.const {16 * number}) "{number:04}")' for number in range(SEGMENTS))
    + f'(data (i32.const 65536) "{"x" * 3_000_000}")'
    + f"(elem (i32.const 0) {'$f ' * 1000})"
)


async def test_other_tasks_run_meanwhile(engine: str) -> None:
    module = await Module.from_text(BIG + ")")
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await anyio.lowlevel.checkpoint()
            ticks += 1

    async with Store(engine=engine, tick_budget_seconds=1e-6) as store, anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        await anyio.lowlevel.checkpoint()
        before = ticks
        guest = await store.instantiate(module)
        assert ticks - before > 3
        tasks.cancel_scope.cancel()
    async with Store(engine=engine) as store:
        guest = await store.instantiate(module)
        assert all(guest.memory.read(16 * number, 4) == f"{number:04}".encode() for number in range(SEGMENTS))
        assert guest.memory.read(65536, 3_000_001) == b"x" * 3_000_000 + b"\0"
        assert all(each is not None for each in (guest.tables["table"][0], guest.tables["table"][999]))


async def test_closing_ends_it(engine: str) -> None:
    module = await Module.from_text(BIG + ")")
    store = Store(engine=engine, tick_budget_seconds=1e-6)

    async def instantiate() -> None:
        with pytest.raises(ExitError):
            await store.instantiate(module)

    async with store, anyio.create_task_group() as tasks:
        tasks.start_soon(instantiate)
        for _ in range(8):
            await anyio.lowlevel.checkpoint()
        await store.aclose()
    assert store.statistics().memory_pages == 0
    assert store.instances == ()


@pytest.mark.parametrize("segment", ['(data (i32.const 3145727) "ab")', "(elem (i32.const 999) $f $f)"])
async def test_what_does_not_fit_is_not_begun(engine: str, segment: str) -> None:
    module = await Module.from_text(BIG + segment + ")")
    async with Store(engine=engine) as store:
        with pytest.raises(Trap, match="out of bounds"):
            await store.instantiate(module)
        assert store.statistics().memory_pages == 0
