"""Limits: each at the level it names, with its own error; nested tanks of fuel; growth decided by totals and hooks."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import pytest

from aiowasm import (
    Caller,
    HostModule,
    InvalidError,
    LimitError,
    Limits,
    LinkError,
    Module,
    OutOfFuel,
    Store,
    Trap,
    i32,
)
from aiowasm.features import WASM_1
from tests.store.waiting import deadline_when, until

pytestmark = pytest.mark.anyio

GROWING = """(module
  (memory (export "memory") 1)
  (table (export "table") 1 funcref)
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "grow_table") (param i32) (result i32) (table.grow 0 (ref.null func) (local.get 0)))
  (func (export "size") (result i32) (memory.size)))"""

STRUCTS = """(module
  (type $list (struct (field (ref null $list)) (field i64)))
  (global $head (mut (ref null $list)) (ref.null $list))
  (func (export "hoard") (loop
    (global.set $head (struct.new $list (global.get $head) (i64.const 1))) (br 0)))
  (func (export "churn") (param i32) (loop
    (drop (struct.new $list (ref.null $list) (i64.const 1)))
    (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0))))
  (func (export "drop") (global.set $head (ref.null $list))))"""

LOOP = """(module
  (import "env" "later" (func $later (param i32) (result i32)))
  (memory 2)
  (global (export "n") (mut i32) (i32.const 0))
  (func (export "spin") (loop (global.set 0 (i32.add (global.get 0) (i32.const 1))) (br 0)))
  (func (export "count") (param i32) (result i32) (local i32)
    (loop (local.set 1 (i32.add (local.get 1) (i32.const 1))) (br_if 0 (i32.lt_u (local.get 1) (local.get 0))))
    (local.get 1))
  (func $fib (export "fib") (param i32) (result i32)
    (if (result i32) (i32.lt_u (local.get 0) (i32.const 2)) (then (local.get 0))
      (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1)))
                     (call $fib (i32.sub (local.get 0) (i32.const 2)))))))
  (func (export "fill") (param i32) (memory.fill (i32.const 0) (i32.const 1) (local.get 0)))
  (func (export "later") (param i32) (result i32) (call $later (local.get 0)))
  (func (export "later_and_spin") (drop (call $later (i32.const 1))) (loop (br 0))))"""


def environment(body: Any = None) -> HostModule:
    env = HostModule("env")

    @env.function
    async def later(caller: Caller[Any], value: i32) -> i32:
        if body is not None:
            result: int = await body(caller, value)
            return result
        await anyio.sleep(0)
        return value

    return env


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="memory_pages must not be negative"):
        Limits(memory_pages=-1)
    with pytest.raises(TypeError, match="fuel must be a number"):
        Limits(fuel="1")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Limits(1)  # type: ignore[misc]
    assert Limits(fuel=5, memory_pages=3).within(Limits(fuel=1, memory_pages=2, timeout=1.0)) == Limits(
        fuel=5, memory_pages=2, timeout=1.0
    )


async def test_growth_stops_at_the_instance_s_limits_and_at_totals(engine: str) -> None:
    module = await Module.from_text(GROWING)
    limits = Limits(memory_pages=4, table_elements=8, total_memory_pages=6, total_table_elements=10)
    async with Store(engine=engine, limits=limits) as store:
        one = await store.instantiate(module)
        two = await store.instantiate(module)
        assert await one.exports.grow(3) == 1
        assert await one.exports.grow(1) == -1
        assert await two.exports.grow(2) == -1  # 4 + 1 of 6 are in use
        assert await two.exports.grow(1) == 1
        assert store.statistics().memory_pages == 6
        with pytest.raises(LimitError) as info:
            await store.instantiate(module)
        assert info.value.limit == "total_memory_pages"
        with pytest.raises(LimitError):
            two.exports.memory.grow(1)
        assert await one.exports.grow_table(7) == 1
        assert await one.exports.grow_table(1) == -1
        assert await two.exports.grow_table(1) == 1
        assert await two.exports.grow_table(1) == -1
        statistics = store.statistics()
        assert statistics.table_elements == 10
        assert statistics.refused_growths >= 5
        assert statistics.instances == 2
        await one.aclose()
        assert store.statistics().memory_pages == 2
        assert await two.exports.grow(1) == 2
        assert two.exports.grow.nowait(1) == 3
    assert store.statistics().memory_pages == 0


async def test_a_limiter_may_await_and_refuse(engine: str) -> None:
    asked: list[Any] = []

    async def limiter(instance: Any, what: Any, delta: int) -> bool:
        await anyio.sleep(0)
        asked.append(delta)
        if delta == 3:
            assert await instance.exports.grow(1) == -1  # D7: refused, not asked for again
        return delta < 10

    async with Store(engine=engine, growth_limiter=limiter) as store:
        guest = await store.instantiate(await Module.from_text(GROWING))
        assert await guest.exports.grow(2) == 1
        assert await guest.exports.grow(10) == -1
        assert await guest.exports.grow_table(3) == 1
        assert asked == [2, 10, 3]
        with pytest.raises(anyio.WouldBlock):
            guest.exports.grow.nowait(1)
        assert guest.exit_code is None


async def test_an_error_of_the_limiter_reaches_the_caller(engine: str) -> None:
    async def limiter(instance: Any, what: Any, delta: int) -> bool:
        raise KeyError("of the limiter")

    async with Store(engine=engine, growth_limiter=limiter) as store:
        guest = await store.instantiate(await Module.from_text(GROWING))
        with pytest.raises(KeyError, match="of the limiter"):
            await guest.exports.grow(2)
        assert guest.exit_code is None
        assert await guest.exports.size() == 1


async def test_the_heap_is_limited_for_each_instance_and_in_total(engine: str) -> None:
    if engine == "native":
        pytest.skip("the native engine lacks gc")
    module = await Module.from_text(STRUCTS)
    async with Store(engine=engine, limits=Limits(heap_bytes=2_000_000, total_heap_bytes=3_000_000)) as store:
        one, two = await store.instantiate(module), await store.instantiate(module)
        with pytest.raises(Trap, match="heap exhausted"):
            await one.exports.hoard()
        first = store.statistics().heap_bytes
        assert 1_000_000 < first <= 2_000_000
        with pytest.raises(Trap, match="heap exhausted"):
            await two.exports.hoard()
        assert first < store.statistics().heap_bytes <= 3_000_000
        await one.exports.drop()
        await two.exports.drop()
        await two.exports.churn(1000)
        assert store.statistics().heap_bytes < 10_000
    assert store.account.heap_nbytes == 0


async def test_instances_are_limited(engine: str) -> None:
    module = await Module.from_text("(module)")
    async with Store(engine=engine, limits=Limits(instances=2)) as store:
        first = await store.instantiate(module)
        async with store.namespace("n", limits=Limits(instances=5)) as namespace:
            await namespace.instantiate(module, name="a")
            with pytest.raises(LimitError) as info:
                await namespace.instantiate(module, name="b")
            assert info.value.limit == "instances"
            assert "b" not in namespace
        await first.aclose()
        await store.instantiate(HostModule("env"))
        await store.instantiate(module)


async def test_tanks_nest(engine: str) -> None:
    module = await Module.from_text(LOOP)
    async with Store(engine=engine, limits=Limits(fuel=10_000)) as store:
        await store.instantiate(environment())
        namespace = store.namespace("n", limits=Limits(fuel=5_000))
        await namespace.instantiate(environment())
        inner = await namespace.instantiate(module, limits=Limits(fuel=2_000))
        other = await namespace.instantiate(module)
        outer = await store.instantiate(module)
        with pytest.raises(OutOfFuel):
            await inner.call("spin", fuel=500)
        assert 500 < inner.fuel_consumed < 520
        with pytest.raises(OutOfFuel):
            await inner.exports.spin()
        assert 2_000 < inner.fuel_consumed < 2_020
        with pytest.raises(OutOfFuel):
            await other.exports.spin()
        assert 5_000 < namespace.statistics().fuel_consumed < 5_040
        with pytest.raises(OutOfFuel):
            await outer.exports.spin()
        assert 10_000 < store.statistics().fuel_consumed < 10_060
        for guest in (inner, other, outer):
            with pytest.raises(OutOfFuel):
                await guest.exports.count(1)
        store.add_fuel(1_000)
        assert await outer.exports.count(1) == 1
        with pytest.raises(OutOfFuel):
            await inner.exports.count(1)
        namespace.add_fuel(1_000)
        inner.add_fuel(1_000)
        assert await inner.exports.count(1) == 1


async def test_nested_calls_draw_from_the_first_call_s_tanks_and_caps_only_shrink(engine: str) -> None:
    async def body(caller: Caller[Any], value: int) -> int:
        if value == 1:
            with pytest.raises(OutOfFuel):
                await caller.call("spin", fuel=100)
            return 7
        result: int = await caller.call("count", value, fuel=10**9)
        return result

    async with Store(engine=engine) as store:
        guest = await store.instantiate(await Module.from_text(LOOP), imports={"env": environment(body)})
        assert await guest.call("later", 1, fuel=1000) == 7
        assert 100 < guest.fuel_consumed < 200
        with pytest.raises(OutOfFuel):
            await guest.call("later", 10_000, fuel=1000)
        assert await guest.call("later", 10, fuel=1000) == 10


@pytest.mark.parametrize("slice_fuel", [1, 7, 1000, None])
async def test_the_trap_point_does_not_depend_on_slices(engine: str, slice_fuel: int | None) -> None:
    async with Store(engine=engine, fixed_slice=slice_fuel) as store:
        module = await Module.from_text(LOOP)
        guest = await store.instantiate(module, imports={"env": environment()})
        for limit in (0, 1, 50, 333, 1000):
            before, counted = guest.fuel_consumed, guest.globals["n"].value
            with pytest.raises(OutOfFuel) as info:
                await guest.call("spin", fuel=limit)
            used = guest.fuel_consumed - before
            rounds = guest.globals["n"].value - counted
            # What it could not pay for is charged, and not run: the entry, or a round.
            assert used == (1 + 5 * (rounds + 1) if limit else 1)
            assert limit < used <= limit + 6
            assert info.value.frames


async def test_fuel_is_the_same_for_every_slice(engine: str) -> None:
    used = set()
    for slice_fuel in (1, 3, 64, 5000, None):
        async with Store(engine=engine, fixed_slice=slice_fuel) as store:
            guest = await store.instantiate(await Module.from_text(LOOP), imports={"env": environment()})
            await guest.exports.fib(11)
            await guest.exports.count(100)
            await guest.exports.later(1)
            await guest.exports.fill(70_000)
            with pytest.raises(OutOfFuel):
                await guest.call("spin", fuel=777)
            used.add(guest.fuel_consumed)
    assert len(used) == 1


async def test_refuelling_in_place(engine: str) -> None:
    calls = 0

    async def more(instance: Any) -> int:
        nonlocal calls
        calls += 1
        await anyio.sleep(0)
        return 100 if calls < 4 else 0

    async with Store(engine=engine, limits=Limits(fuel=100), on_out_of_fuel=more) as store:
        guest = await store.instantiate(await Module.from_text(LOOP), imports={"env": environment()})
        assert await guest.exports.count(40) == 40
        assert calls >= 1
        with pytest.raises(OutOfFuel) as info:
            await guest.exports.spin()
        assert info.value.frames
        assert guest.exit_code is None
        assert calls == 4
    refuelled = anyio.Event()

    async def body(caller: Caller[Any], value: int) -> int:
        await refuelled.wait()
        return value

    async with Store(engine=engine, limits=Limits(fuel=1000)) as store:
        guest = await store.instantiate(await Module.from_text(LOOP), imports={"env": environment(body)})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guest.exports.later_and_spin)
            await until(lambda: bool(guest.group.stack))
            store.add_fuel(1 << 60)  # in flight: the guest waits in a host function
            refuelled.set()
            await until(lambda: guest.fuel_consumed > 1000)
            tasks.cancel_scope.cancel()
        assert guest.fuel_consumed > 1000


ASKING = """(module (memory (export "memory") 1) (table 4 funcref) (elem declare func $f) (data $d "abc")
  (global $n (export "n") (mut i32) (i32.const 0))
  (func $f (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
  (func (export "run")
    (loop
      (global.set $n (call $f (global.get $n)))
      (if (i32.and (global.get $n) (i32.const 1)) (then (drop (i32.const 1))))
      (memory.fill (i32.const 0) (global.get $n) (i32.const 640))
      (memory.copy (i32.const 1000) (i32.const 0) (i32.const 320))
      (memory.init $d (i32.const 2000) (i32.const 0) (i32.const 3))
      (table.fill (i32.const 0) (ref.func $f) (i32.const 4))
      (br 0))))"""


async def test_the_callback_is_asked_exactly_where_the_guest_would_trap(engine: str) -> None:
    """27: nothing that fuel does not pay for has been done, a bulk operation neither."""
    module = await Module.from_text(ASKING)
    for limit in range(150):
        ends = []
        for asks in (False, True):
            asked: list[int] = []

            async def more(instance: Any, asked: list[int] = asked) -> int:
                asked.append(instance.fuel_consumed)
                return 0

            async with Store(engine=engine, limits=Limits(fuel=limit), on_out_of_fuel=more if asks else None) as store:
                guest = await store.instantiate(module)
                with pytest.raises(OutOfFuel):
                    await guest.exports.run()
                assert guest.memory is not None
                used = guest.fuel_consumed
                ends.append((used, guest.globals["n"].value, guest.memory.read(0, 2100)))
            assert asked == ([used] if asks else [])
        assert ends[0] == ends[1], limit


async def test_extreme_amounts_of_fuel(engine: str) -> None:
    async with Store(engine=engine) as store:
        guest = await store.instantiate(await Module.from_text(LOOP), imports={"env": environment()})
        assert await guest.call("count", 3, fuel=2**64 - 1) == 3
        with pytest.raises(OutOfFuel):
            await guest.call("count", 3, fuel=0)
        with pytest.raises(ValueError, match="must not be negative"):
            await guest.call("count", 3, fuel=-1)
        with pytest.raises(TypeError):
            await guest.call("count", 3, fuel=1.5)  # type: ignore[arg-type]


async def test_prices_of_host_functions(engine: str) -> None:
    env = HostModule("env")

    @env.function(fuel=1000)
    def dear(value: i32) -> i32:
        return value

    @env.function(fuel=1000)
    async def later(value: i32) -> i32:
        return value

    @env.function
    def consume(caller: Caller[Any], value: i32) -> i32:
        caller.consume_fuel(value)
        return value

    module = await Module.from_text(
        "(module "
        + "".join(
            f"""(import "env" "{name}" (func ${name} (param i32) (result i32)))"""
            for name in ("dear", "later", "consume")
        )
        + "".join(
            f"""(func (export "{name}") (param i32) (result i32)
                  (call ${name} (local.get 0)) (loop (br_if 0 (i32.const 0))))"""
            for name in ("dear", "later", "consume")
        )
        + ")"
    )
    async with Store(engine=engine) as store:
        guest = await store.instantiate(module, imports={"env": env})
        for name in ("dear", "later", "consume"):
            before = guest.fuel_consumed
            assert await guest.call(name, 1000) == 1000
            assert 1000 < guest.fuel_consumed - before < 1012
            with pytest.raises(OutOfFuel):
                await guest.call(name, 1000, fuel=500)


async def test_a_store_with_fewer_features_names_the_flag(engine: str) -> None:
    module = await Module.from_text("(module (func (result i32 i32) (i32.const 1) (i32.const 2)))")
    async with Store(engine=engine, features=WASM_1) as store:
        with pytest.raises(InvalidError) as info:
            await store.instantiate(module, name="m")
        assert info.value.feature == "multi-value"
        assert "m" not in store
        with pytest.raises(LinkError):
            await store.instantiate(await Module.from_text('(module (import "m" "f" (func)))'))


async def test_waiting_for_a_notification(engine: str) -> None:
    module = await Module.from_text(
        """(module (memory (export "memory") 1 1 shared)
        (func (export "wait") (param i64) (result i32)
          (memory.atomic.wait32 (i32.const 0) (i32.const 0) (local.get 0)))
        (func (export "mismatch") (result i32)
          (memory.atomic.wait32 (i32.const 0) (i32.const 5) (i64.const -1))))"""
    )
    user = await Module.from_text(
        """(module (import "m" "memory" (memory 1 1 shared))
        (func (export "notify") (result i32) (memory.atomic.notify (i32.const 0) (i32.const 1))))"""
    )
    async with Store(engine=engine) as store:
        waiter = await store.instantiate(module, name="m")
        waker = await store.instantiate(user)
        assert waiter.group is not waker.group
        assert await waiter.exports.mismatch() == 1
        assert await waiter.exports.wait(1_000_000) == 2
        results = []

        async def wait() -> None:
            results.append(await waiter.exports.wait(-1))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                while await waker.exports.notify() == 0:
                    await anyio.sleep(0.001)
        assert results == [0]
        async with deadline_when(lambda: bool(waiter.group.stack) and waiter.group.stack[0].in_host) as scope:
            await waiter.exports.wait(-1)
        assert scope.cancelled_caught
        assert waiter.exit_code is not None
        assert await waker.exports.notify() == 0


BULK = """(module
  (memory (export "memory") 32)
  (func (export "fill") (param i32 i32) (memory.fill (local.get 0) (i32.const 7) (local.get 1)))
  (func (export "copy") (param i32 i32 i32) (memory.copy (local.get 0) (local.get 1) (local.get 2))))"""


async def test_bulk_operations_are_charged_after_their_bounds_are_checked(engine: str) -> None:
    async with Store(engine=engine) as store:
        guest = await store.instantiate(await Module.from_text(BULK))

        async def used(name: str, *arguments: int, error: type[Exception] | None = None) -> int:
            before = guest.fuel_consumed
            if error is None:
                await guest.call(name, *arguments)
            else:
                with pytest.raises(error):
                    await guest.call(name, *arguments)
            return guest.fuel_consumed - before

        base = await used("fill", 0, 0)
        for nbytes in (0, 1, 63, 64, 65, 1 << 20, (1 << 21) - 1):
            assert await used("fill", 0, nbytes) == base + nbytes // 64
        assert await used("fill", 0, (1 << 21) + 1, error=Trap) == base  # out of bounds: the base alone
        assert await used("fill", 2**32 - 1, 2**32 - 1, error=Trap) == base
        copying = await used("copy", 0, 1, 0)
        assert await used("copy", 0, 1, 100_000) == copying + 100_000 // 64
        assert await used("copy", 1, 0, 100_000) == copying + 100_000 // 64


async def test_a_bulk_operation_that_cannot_be_paid_writes_nothing(engine: str) -> None:
    async with Store(engine=engine) as store:
        guest = await store.instantiate(await Module.from_text(BULK))
        with pytest.raises(OutOfFuel):
            await guest.call("fill", 0, 1_000_000, fuel=1000)
        assert guest.memory is not None
        assert guest.memory.read(0, 100) == bytes(100)
        assert guest.memory.read(999_999, 1) == b"\0"
        await guest.call("fill", 0, 1000, fuel=1000)
        assert guest.memory.read(0, 1000) == b"\7" * 1000


async def test_copies_that_overlap(engine: str) -> None:
    async with Store(engine=engine, fixed_slice=1) as store:
        guest = await store.instantiate(await Module.from_text(BULK))
        memory = guest.memory
        assert memory is not None
        size = 1_600_000  # more than one chunk
        pattern = bytes(range(251)) * (size // 251 + 1)
        memory.write(0, pattern[:size])
        await guest.exports.copy(5, 0, size)
        assert memory.read(5, size) == pattern[:size]
        memory.write(0, pattern[:size])
        await guest.exports.copy(0, 5, size - 5)
        assert memory.read(0, size - 5) == pattern[5:size]


async def test_bulk_operations_of_64_bit_memories(engine: str) -> None:
    """25: lengths of 64 bits are held against the bounds before anything is charged or written."""
    module = await Module.from_text(
        """(module (memory (export "memory") i64 2)
        (func (export "fill") (param i64 i64) (memory.fill (local.get 0) (i32.const 7) (local.get 1)))
        (func (export "copy") (param i64 i64 i64) (memory.copy (local.get 0) (local.get 1) (local.get 2))))"""
    )
    async with Store(engine=engine) as store:
        guest = await store.instantiate(module)
        await guest.exports.fill(0, 0)
        base = guest.fuel_consumed
        for start, nbytes in ((0, 1 << 63), (1, (1 << 64) - 1), ((1 << 64) - 1, 1), (0, (2 << 16) + 1)):
            before = guest.fuel_consumed
            with pytest.raises(Trap, match="out of bounds memory access"):
                await guest.exports.fill(start, nbytes)
            assert guest.fuel_consumed - before == base
            with pytest.raises(Trap, match="out of bounds memory access"):
                await guest.exports.copy(0, start, nbytes)
        assert guest.memory is not None
        assert guest.memory.read(0, 64) == bytes(64)
        before = guest.fuel_consumed
        await guest.exports.fill(0, 2 << 16)
        assert guest.fuel_consumed - before == base + (2 << 16) // 64
        assert guest.memory.read((2 << 16) - 1, 1) == b"\7"


async def test_long_bulk_operations_pause_between_chunks(engine: str) -> None:
    """25: the loop runs in between, and the group stays held."""
    async with Store(engine=engine, tick_budget_seconds=1e-6) as store:
        module = await Module.from_text(BULK.replace('(export "memory") 32)', '(export "memory") 1024)'))
        guest = await store.instantiate(module)
        seen: list[int] = []
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                while True:
                    assert guest.memory is not None
                    seen.append(guest.memory.read((1 << 26) - 1, 1)[0])
                    await anyio.lowlevel.checkpoint()

            tasks.start_soon(watch)
            await until(lambda: bool(seen))
            seen.clear()
            await guest.exports.fill(0, 1 << 26)
            tasks.cancel_scope.cancel()
        assert seen.count(0) > 2  # it ran while the end was not written yet
        assert guest.memory is not None
        assert guest.memory.read((1 << 26) - 1, 1) == b"\7"


async def test_guests_do_not_catch_traps_or_fuel(engine: str) -> None:
    module = await Module.from_text(
        """(module (memory 1)
        (func (export "trap") (result i32)
          (block (try_table (catch_all 0) (drop (i32.load (i32.const -1))))) (i32.const 1))
        (func (export "spin") (result i32) (block (try_table (catch_all 0) (loop (br 0)))) (i32.const 1)))"""
    )
    async with Store(engine=engine) as store:
        guest = await store.instantiate(module)
        with pytest.raises(Trap, match="out of bounds memory access"):
            await guest.exports.trap()
        with pytest.raises(OutOfFuel):
            await guest.call("spin", fuel=1000)
