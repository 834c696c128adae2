"""Large modules are instantiated in steps: the loop runs on, and what happens meanwhile is noticed."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from aiowasm import ExitError, Module, Store, Trap
from aiowasm.binary.encoder import encode
from aiowasm.text.parser import parse_module

pytestmark = pytest.mark.anyio

SEGMENTS = 1000
BIG = (
    '(module (memory (export "memory") 48) (table (export "table") 1000 funcref) (func $f)'
    + "".join(f'(data (i32.const {16 * number}) "{number:04}")' for number in range(SEGMENTS))
    + f'(data (i32.const 65536) "{"x" * 3_000_000}")'
    + f"(elem (i32.const 0) {'$f ' * 1000})"
)


@pytest.fixture(params=["text", "binary"])
def form(request: pytest.FixtureRequest) -> str:
    """What modules are made from: segments of a binary one are handled many at a time."""
    return str(request.param)


async def made(form: str, text: str) -> Module:
    return await (Module.from_text(text) if form == "text" else Module.from_bytes(encode(parse_module(text))))


async def test_other_tasks_run_meanwhile(engine: str, form: str) -> None:
    module = await made(form, BIG + ")")
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


async def test_closing_ends_it(engine: str, form: str) -> None:
    module = await made(form, BIG + ")")
    store = Store(engine=engine, tick_budget_seconds=1e-6)

    async def instantiate() -> None:
        with pytest.raises(ExitError):
            await store.instantiate(module)

    async with store, anyio.create_task_group() as tasks:
        tasks.start_soon(instantiate)
        for _ in range(2):
            await anyio.lowlevel.checkpoint()
        await store.aclose()
    assert store.statistics().memory_pages == 0
    assert store.instances == ()


@pytest.mark.parametrize("segment", ['(data (i32.const 3145727) "ab")', "(elem (i32.const 999) $f $f)"])
async def test_what_does_not_fit_is_not_begun(engine: str, form: str, segment: str) -> None:
    module = await made(form, BIG + segment + ")")
    async with Store(engine=engine) as store:
        with pytest.raises(Trap, match="out of bounds"):
            await store.instantiate(module)
        assert store.statistics().memory_pages == 0


async def test_segments_before_one_that_does_not_fit_are_written(engine: str, form: str) -> None:
    fits, rest = 1700, 900
    text = (
        '(module (import "owner" "memory" (memory 1))'
        + "".join(f'(data (i32.const {16 * number}) "{number:04}")' for number in range(fits))
        + '(data (i32.const 65533) "none")'
        + "".join(f'(data (i32.const {16 * number}) "late")' for number in range(rest))
        + ")"
    )
    module = await made(form, text)
    async with Store(engine=engine) as store:
        owner = await store.instantiate(await Module.from_text('(module (memory (export "memory") 1))'), name="owner")
        with pytest.raises(Trap, match="out of bounds memory access"):
            await store.instantiate(module)
        assert all(owner.memory.read(16 * number, 4) == f"{number:04}".encode() for number in range(fits))
        assert not any(owner.memory.read(16 * fits, 65536 - 16 * fits))


async def test_segments_overwrite_each_other_in_order(engine: str, form: str) -> None:
    order = ["a" * 90, "b" * 70, "c" * 50, "d" * 30]
    datas = "".join(f'(data (i32.const {7 + 3 * at}) "{text}")' for at, text in enumerate(order))
    other = '(data $passive "p") (data (i32.add (i32.const 8) (i32.const 9)) "e")'
    last = '(data (i32.const 65536) "") (data (i32.const 65535) "z")'
    module = await made(form, f'(module (memory (export "memory") 1) {datas} {other} {last})')
    expected = bytearray(65536)
    for at, written in enumerate(order):
        expected[7 + 3 * at : 7 + 3 * at + len(written)] = written.encode()
    expected[17:18], expected[65535:] = b"e", b"z"
    async with Store(engine=engine) as store:
        guest = await store.instantiate(module)
        assert guest.memory.read(0, 65536) == expected


async def test_passive_segments_outlive_instantiation(engine: str, form: str) -> None:
    module = await made(
        form,
        """(module (memory (export "memory") 1) (data (i32.const 5) "active") (data $p "passive")
          (func (export "init") (memory.init $p (i32.const 100) (i32.const 1) (i32.const 6)))
          (func (export "drop") (data.drop $p)))""",
    )
    async with Store(engine=engine) as store:
        one, other = await store.instantiate(module), await store.instantiate(module)
        await one.exports.init()
        await one.exports.drop()
        assert one.memory.read(100, 7) == b"assive\0"
        with pytest.raises(Trap, match="out of bounds memory access"):
            await one.exports.init()
        await other.exports.init()
        assert other.memory.read(100, 7) == b"assive\0"
