"""Calls that go straight from Python to machine code do what all others do, whatever happens."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import math
import os
import random
import struct
import sys
import threading
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from aiowasm import Caller, ExitError, Func, HostModule, Instance, Limits, Module, Store, Trap, TrapCode, i32, i64
from aiowasm.engine.base import Outcome, Unfinished
from aiowasm.engine.native import Native, crossing, why_not
from aiowasm.store.activation import CURRENT
from tests.native.driver import call, export, load, start

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(why_not() is not None, reason=f"{why_not()}"),
    pytest.mark.skipif(
        why_not() is None and Native().crossing.make is None, reason="no direct calls on this processor yet"
    ),
]

GUEST = """
(module
  (import "env" "now" (func $now (param i32) (result i32)))
  (import "env" "later" (func $later (param i32) (result i32)))
  (memory (export "memory") 1 4)
  (global $depth (export "depth") (mut i32) (i32.const 0))
  (func (export "nop"))
  (func (export "i32") (param i32) (result i32) (local.get 0))
  (func (export "i64") (param i64) (result i64) (local.get 0))
  (func (export "f32") (param f32) (result f32) (local.get 0))
  (func (export "f64") (param f64) (result f64) (local.get 0))
  (func (export "mixed") (param i32 i64 f32 f64) (result f64)
    (f64.add (f64.convert_i32_s (local.get 0)) (f64.add (f64.convert_i64_u (local.get 1))
      (f64.add (f64.promote_f32 (local.get 2)) (local.get 3)))))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "pair") (param i32) (result i32 i32) (local.get 0) (local.get 0))
  (func (export "bits32") (param i32) (result f32) (f32.reinterpret_i32 (local.get 0)))
  (func (export "bits64") (param i64) (result f64) (f64.reinterpret_i64 (local.get 0)))
  (func $spin (export "spin") (param $n i32) (result i32) (local $a i32)
    (loop
      (local.set $a (i32.add (i32.mul (local.get $a) (i32.const 31)) (local.get $n)))
      (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $a))
  (func (export "div") (param i32 i32) (result i32) (i32.div_s (local.get 0) (local.get 1)))
  (func $down (export "down") (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (i32.const 1) (call $down (i32.sub (local.get 0) (i32.const 1)))))
      (else (i32.const 0))))
  (func (export "grow") (param i32) (result i32)
    (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
    (memory.grow (local.get 0)))
  (func (export "ask_now") (param i32) (result i32)
    (if (i32.eqz (local.get 0)) (then (return (i32.const -1))))
    (i32.add (i32.const 1) (call $now (local.get 0))))
  (func (export "ask_later") (param i32) (result i32)
    (if (i32.eqz (local.get 0)) (then (return (i32.const -1))))
    (i32.add (i32.const 1) (call $later (local.get 0)))))
"""


class Number(int):
    """An int, and not exactly one."""


class Index:
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Real:
    def __float__(self) -> float:
        return 1.5


def environment(**functions: Any) -> HostModule:
    """The host module of the guest: what is not given returns its argument."""
    env = HostModule("env")

    def now(value: i32) -> i32:
        return value

    async def later(value: i32) -> i32:
        return value

    for name, function in {"now": now, "later": later, **functions}.items():
        env.function(name=name)(function)
    return env


async def guest(store: Store, env: HostModule | None = None, **options: Any) -> Instance:
    """An instance of `GUEST`."""
    imports = {"env": environment() if env is None else env}
    return await store.instantiate(await Module.from_text(GUEST), imports=imports, **options)


async def warm(function: Func, *arguments: Any) -> Any:
    """Call *function* until its calls go straight to machine code."""
    for _ in range(100):
        if function._direct:
            return function
        await function(*arguments)
        await anyio.lowlevel.checkpoint()
    raise AssertionError("no direct calls")


def general(function: Func) -> Func:
    """Another handle of *function*, whose calls are those of any engine."""
    other = Func(function._entity, function._store)
    other._direct = False
    return other


def bits(value: Any) -> Any:
    """What to compare of a result: NaNs are all different."""
    return (type(value), struct.pack("<d", value) if isinstance(value, float) else value)


INTEGERS = [
    *(
        sign * (1 << shift) + delta
        for shift in (0, 7, 8, 15, 16, 30, 31, 32, 60, 62, 63, 64)
        for delta in (-1, 0, 1)
        for sign in (1, -1)
    ),
    *(1 << 200, -(1 << 200), 10**5000),
]
ODD = [
    True,
    False,
    Number(7),
    Number(1 << 40),
    Index(3),
    Index(-1),
    Index(1 << 70),
    None,
    "1",
    b"1",
    1.0,
    1.5,
    Real(),
    [],
    1j,
    object,
]
FLOATS = [0.0, -0.0, 1.5, -1e300, 1e-300, 5e-324, 3.4028235e38, 3.4028236e38, 1e39, 1e-46, math.inf, -math.inf, 0.1]
NANS = [
    struct.unpack("<d", struct.pack("<Q", b))[0]
    for b in (0x7FF8 << 48, 0xFFF8 << 48, (0x7FF8 << 48) + 12345, 0x7FF4 << 48)
]


async def outcome(call: Any) -> Any:
    """Its result, or what its error says."""
    try:
        result = call()
        return bits(await result if hasattr(result, "__await__") else result)
    except Exception as error:
        return type(error), str(error)


async def outcome_of(call: Any) -> Any:
    result = call()
    return await result if hasattr(result, "__await__") else result


@pytest.mark.parametrize("name", ["i32", "i64", "f32", "f64"])
async def test_arguments_are_checked_as_ever(name: str) -> None:
    async with Store(engine="native") as store:
        function = await warm((await guest(store)).exports[name], 1)
        other = general(function)
        for value in (*INTEGERS, *ODD, *FLOATS, *NANS):
            expected = await outcome(lambda: other(value))  # noqa: B023
            assert await outcome(lambda: function(value)) == expected  # noqa: B023
            assert await outcome(lambda: function.nowait(value)) == expected  # noqa: B023
        for arguments in ((), (1, 2), (1, "2")):
            expected = await outcome(lambda: other(*arguments))  # noqa: B023
            assert expected[0] is TypeError
            assert await outcome(lambda: function(*arguments)) == expected  # noqa: B023
            assert await outcome(lambda: function.nowait(*arguments)) == expected  # noqa: B023
        with pytest.raises(TypeError, match="keyword"):
            function.nowait(x=1)


async def test_many_types_and_random_values() -> None:
    rng = random.Random(4)
    async with Store(engine="native") as store:
        function = await warm((await guest(store)).exports.mixed, 1, 2, 3.0, 4.0)
        other = general(function)
        for _ in range(2000):
            arguments = [
                rng.choice((rng.randrange(-(1 << 31), 1 << 32), rng.choice(INTEGERS), True)),
                rng.choice((rng.randrange(-(1 << 63), 1 << 64), rng.choice(INTEGERS))),
                rng.choice((rng.uniform(-1e3, 1e3), rng.choice(FLOATS), rng.choice(NANS), 7)),
                rng.choice((rng.uniform(-1e3, 1e3), rng.choice(FLOATS), rng.choice(NANS), 1 << 1100)),
            ]
            if not rng.randrange(10):
                arguments[rng.randrange(4)] = rng.choice(ODD)
            expected = await outcome(lambda: other(*arguments))  # noqa: B023
            assert await outcome(lambda: function(*arguments)) == expected  # noqa: B023
            assert await outcome(lambda: function.nowait(*arguments)) == expected  # noqa: B023


async def test_nans_keep_their_bits() -> None:
    async with Store(engine="native") as store:
        exports = (await guest(store)).exports
        bits32, bits64 = await warm(exports.bits32, 1), await warm(exports.bits64, 1)
        for pattern in (0x7FC00000, 0xFFC00001, 0x7FA00000, 0x7F800001, 0x7F800000, 0x80000000, 1):
            assert bits(await bits32(pattern)) == bits(await general(bits32)(pattern))
            assert bits(bits32.nowait(pattern)) == bits(await general(bits32)(pattern))
        for pattern in (0x7FF8 << 48, 0xFFF8 << 48, (0x7FF0 << 48) + 1, 0x7FF0 << 48, 1 << 63, 1):
            assert struct.pack("<d", await bits64(pattern)) == struct.pack("<Q", pattern)
            assert struct.pack("<d", bits64.nowait(pattern)) == struct.pack("<Q", pattern)


async def test_what_has_no_direct_calls() -> None:
    async with Store(engine="native") as store:
        instance = await guest(store)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
            assert await instance.exports.pair(3) == (3, 3)
        assert instance.exports.pair._direct is False
        bounded = await guest(store, limits=Limits(fuel=1000))
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
            assert await bounded.exports.i32(3) == 3
            assert bounded.exports.i32.nowait(3) == 3
        assert not bounded.exports.i32._direct
        assert bounded.fuel_consumed > 0


async def test_fuel_is_exact() -> None:
    used = []
    for short in (True, False):
        async with Store(engine="native") as store:
            instance = await guest(store)
            exports = instance.exports
            functions = [exports.add, exports.nop, exports.spin, exports.ask_now, exports.ask_later]
            arguments: list[tuple[int, ...]] = [(1, 2), (), (50,), (0,), (0,)]
            for function, values in zip(functions, arguments, strict=True):
                await warm(function, *values)
            if not short:
                functions = [general(function) for function in functions]
            before = instance.fuel_consumed
            assert before == store.statistics().fuel_consumed
            found = []
            for function, values in zip(functions, arguments, strict=True):
                await function(*values)
                function.nowait(*values)
                found.append(instance.fuel_consumed - before)
            for n in (100_000, 2_000_000):
                await functions[2](n)
                found.append(instance.fuel_consumed - before)
            functions[2].nowait(30_000)
            await functions[3](5)
            await functions[4](5)
            found.append(instance.fuel_consumed - before)
            found.append(store.statistics().fuel_consumed - before)
            await instance.aclose()
            found.append(store.statistics().fuel_consumed - before)
            used.append(found)
    assert used[0] == used[1]


async def test_a_guest_that_takes_longer_goes_on() -> None:
    async with Store(engine="native", limits=Limits(sync_fuel=1 << 40)) as store:
        function = await warm((await guest(store)).exports.spin, 10)
        other = general(function)
        for n in (1, 100, 3_000, 4_000, 5_000, 6_665, 6_666, 6_667, 6_668, 20_000, 200_000, 3_000_000):
            expected = await other(n)
            assert await function(n) == expected
            assert function.nowait(n) == expected
            await anyio.lowlevel.checkpoint()
            assert await function(n) == expected


async def test_slices_are_as_long_as_asked_for() -> None:
    ticks = []
    for short in (True, False):
        async with Store(engine="native", fixed_slice=1000) as store:
            function = await warm((await guest(store)).exports.spin, 10)
            if not short:
                function = general(function)
            count = 0

            async def tick() -> None:
                nonlocal count
                while True:
                    await anyio.lowlevel.checkpoint()
                    count += 1

            async with anyio.create_task_group() as group:
                group.start_soon(tick)
                await anyio.lowlevel.checkpoint()
                count = 0
                await function(5000)
                ticks.append(count)
                group.cancel_scope.cancel()
    assert ticks[0] > 10
    assert abs(ticks[0] - ticks[1]) <= ticks[1] // 4  # trio takes tasks in random order


async def test_traps_say_where() -> None:
    async with Store(engine="native") as store:
        exports = (await guest(store)).exports
        function = await warm(exports.div, 1, 1)
        expected = []
        for call in (lambda: general(function)(1, 0), lambda: function(1, 0)):
            with pytest.raises(Trap) as caught:
                await call()
            expected.append((caught.value.code, caught.value.frames))
        with pytest.raises(Trap) as caught:
            function.nowait(1, 0)
        expected.append((caught.value.code, caught.value.frames))
        assert expected[0][0] is TrapCode.INTEGER_DIVIDE_BY_ZERO
        assert expected[0][1]
        assert expected[1:] == expected[:1] * 2
        assert await function(6, 2) == 3
        assert function._store.engine._tickets == {}


async def test_stacks_end_where_they_did() -> None:
    async with Store(engine="native") as store:
        limits = Limits(call_depth=50, stack_slots=1000)
        function = await warm((await guest(store, limits=limits)).exports.down, 1)
        other = general(function)
        for depth in range(30, 70):
            expected = await outcome(lambda: other(depth))  # noqa: B023
            assert await outcome(lambda: function(depth)) == expected  # noqa: B023
            assert await outcome(lambda: function.nowait(depth)) == expected  # noqa: B023


async def test_memory_grows() -> None:
    async with Store(engine="native") as store:
        instance = await guest(store)
        function = await warm(instance.exports.grow, 0)
        assert await function(1) == 1
        assert function.nowait(1) == 2
        assert await function(5) == -1
        assert instance.memory is not None
        assert len(instance.memory) == 3 << 16


async def test_host_functions_have_their_activation() -> None:
    seen: list[Any] = []

    def now(caller: Caller, value: i32) -> i32:
        seen.append((CURRENT.get().instance, caller.instance, caller.call_sync("add", value, 1)))
        return value

    async def later(caller: Caller, value: i32) -> i32:
        await anyio.lowlevel.checkpoint()
        seen.append((CURRENT.get().instance, caller.instance, await caller.call("add", value, 1)))
        return value

    async with Store(engine="native") as store:
        instance = await guest(store, environment(now=now, later=later))
        exports = instance.exports
        await warm(exports.add, 1, 2)
        for name in ("ask_now", "ask_later"):
            function = await warm(exports[name], 0)
            assert await function(5) == 6
            assert CURRENT.get() is None
            assert seen.pop() == (instance, instance, 6)
        assert exports.ask_now.nowait(8) == 9
        assert CURRENT.get() is None
        assert seen == [(instance, instance, 9)]
        with pytest.raises(anyio.WouldBlock, match="async host function"):
            exports.ask_later.nowait(1)
        assert CURRENT.get() is None
        assert instance.group.stack == []
        assert await exports.ask_later(1) == 2


async def test_nested_calls_are_not_direct() -> None:
    depths = []

    def now(value: i32) -> i32:
        depths.append(CURRENT.get().depth)
        return exports.ask_now.nowait(value - 1) if value > 1 else 0

    async with Store(engine="native") as store:
        exports = (await guest(store, environment(now=now))).exports
        function = await warm(exports.ask_now, 0)
        assert await function(4) == 4
        assert depths == [0, 1, 2, 3]


async def test_errors_of_host_functions_reach_the_caller() -> None:
    def now(value: i32) -> i32:
        raise KeyError(value)

    async def later(value: i32) -> i32:
        raise KeyError(value)

    async with Store(engine="native") as store:
        instance = await guest(store, environment(now=now, later=later))
        for name in ("ask_now", "ask_later"):
            function = await warm(instance.exports[name], 0)
            with pytest.raises(KeyError) as caught:
                await function(3)
            assert "wasm frames" in caught.value.__notes__[0]
        assert instance.exit_code is None
        assert instance.group.stack == []


async def test_a_host_function_closes_its_guest() -> None:
    def now(caller: Caller, value: i32) -> i32:
        caller.exit(value)

    async with Store(engine="native") as store:
        for nowait in (False, True):
            instance = await guest(store, environment(now=now))
            function = await warm(instance.exports.ask_now, 0)
            nop = await warm(instance.exports.nop)
            with pytest.raises(ExitError) as caught:
                await outcome_of(lambda: (function.nowait if nowait else function)(7))  # noqa: B023
            assert caught.value.exit_code == 7
            for call in (lambda: function(0), lambda: function.nowait(0), nop, nop.nowait):  # noqa: B023
                assert (await outcome(call))[0] is ExitError
            assert instance.freed


async def test_closed_instances_are_not_called() -> None:
    async with Store(engine="native") as store:
        instance = await guest(store)
        function = await warm(instance.exports.add, 1, 2)
        await instance.aclose(3)
        assert type(function._direct(1, 2)) is Unfinished
        for call in (lambda: function(1, 2), lambda: function.nowait(1, 2)):
            with pytest.raises(ExitError) as caught:
                await outcome_of(call)
            assert caught.value.exit_code == 3


async def test_a_cancelled_call_closes_its_instance() -> None:
    async with Store(engine="native") as store:
        instance = await guest(store)
        function = await warm(instance.exports.spin, 10)
        with anyio.move_on_after(0.05) as scope:
            await function(-1)
        assert scope.cancelled_caught
        assert instance.exit_code is not None
        assert instance.freed


async def test_waiting_guests_keep_others_out() -> None:
    arrived, go = anyio.Event(), anyio.Event()

    async def later(value: i32) -> i32:
        arrived.set()
        await go.wait()
        return value

    async with Store(engine="native") as store:
        instance = await guest(store, environment(later=later))
        function, add = await warm(instance.exports.ask_later, 0), await warm(instance.exports.add, 1, 2)
        order: list[str] = []

        async def first() -> None:
            assert await function(1) == 2
            order.append("first")

        async def second() -> None:
            assert await add(1, 2) == 3
            order.append("second")

        async with anyio.create_task_group() as group:
            group.start_soon(first)
            await arrived.wait()
            assert type(add._direct(1, 2)) is Unfinished
            with pytest.raises(anyio.WouldBlock):
                add.nowait(1, 2)
            group.start_soon(second)
            await anyio.wait_all_tasks_blocked()
            assert order == []
            go.set()
        assert order == ["first", "second"]
        assert add._direct(1, 2) == 3


async def test_the_stack_that_lies_ready_comes_back() -> None:
    async def later(value: i32) -> i32:
        await anyio.lowlevel.checkpoint()
        return value

    async with Store(engine="native") as store:
        instances = [await guest(store, environment(later=later)) for _ in range(20)]
        functions = [await warm(instance.exports.ask_later, 0) for instance in instances]
        results = {}

        async def ask(number: int) -> None:
            for value in range(1, 20):
                results[number, value] = await functions[number](value)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(ask, number)
        assert results == {(number, value): value + 1 for number in range(20) for value in range(1, 20)}
        assert functions[0]._direct(0) == -1


async def test_groups_that_are_merged() -> None:
    """A function passed to another instance ties the two together: each keeps the other waiting."""
    holder = await Module.from_text("""(module (table (export "t") 2 funcref)
      (func (export "nop") (result i32) (i32.const 1)))""")
    async with Store(engine="native") as store:
        gate_open = anyio.Event()

        async def later(value: i32) -> i32:
            await gate_open.wait()
            return value

        one, two = await guest(store, environment(later=later)), await store.instantiate(holder)
        nop, add = await warm(two.exports.nop), await warm(one.exports.add, 1, 2)
        two.exports.t[0] = one.exports.add
        assert one.group is two.group
        assert nop._direct() == 1
        assert add._direct(1, 2) == 3
        async with anyio.create_task_group() as group:
            group.start_soon(one.exports.ask_later, 1)
            await anyio.wait_all_tasks_blocked()
            assert type(nop._direct()) is type(add._direct(1, 2)) is Unfinished
            gate_open.set()
        assert nop._direct() == 1


async def test_a_closed_member_of_a_merged_group_stays_closed() -> None:
    async with Store(engine="native") as store:
        one, two, three = [await guest(store) for _ in range(3)]
        add = await warm(one.exports.add, 1, 2)
        table = await store.instantiate(await Module.from_text('(module (table (export "t") 3 funcref))'))
        table.exports.t[0] = one.exports.add
        await one.aclose()
        table.exports.t[1] = two.exports.add
        table.exports.t[2] = three.exports.add
        assert type(add._direct(1, 2)) is Unfinished
        with pytest.raises(ExitError):
            await add(1, 2)


async def test_other_threads_are_refused() -> None:
    async with Store(engine="native") as store:
        add = await warm((await guest(store)).exports.add, 1, 2)
        found: list[Any] = []

        def elsewhere() -> None:
            found.append(type(add._direct(1, 2)))
            try:
                add.nowait(1, 2)
            except RuntimeError as error:
                found.append(str(error))

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert found[0] is Unfinished
        assert "one event loop" in found[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_children_of_a_fork_are_refused() -> None:
    async with Store(engine="native") as store:
        add = await warm((await guest(store)).exports.add, 1, 2)
        child = os.fork()
        if child == 0:
            os._exit(0 if type(add._direct(1, 2)) is Unfinished else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert add._direct(1, 2) == 3


async def test_nothing_runs_before_it_is_awaited() -> None:
    async with Store(engine="native") as store:
        instance = await guest(store)
        add = await warm(instance.exports.add, 1, 2)
        before = instance.fuel_consumed
        coroutine = add(1, 2)
        assert instance.fuel_consumed == before
        coroutine.close()
        async with anyio.create_task_group() as group:
            group.start_soon(add, 1, 2)
        assert instance.fuel_consumed > before


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_takes_the_coroutines(anyio_backend: str) -> None:
    async with Store(engine="native") as store:
        add = await warm((await guest(store)).exports.add, 1, 2)
        assert await asyncio.create_task(add(1, 2)) == 3
        assert await asyncio.wait_for(add(1, 2), 1) == 3
        assert await asyncio.gather(add(1, 2), add(3, 4)) == [3, 7]


async def test_the_budget_of_the_loop_holds() -> None:
    """A task that only makes short calls lets others run."""
    async with Store(engine="native", tick_budget_seconds=0.0005) as store:
        add = await warm((await guest(store)).exports.add, 1, 2)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await anyio.lowlevel.checkpoint()
                ticks += 1

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            for _ in range(30_000):
                await add(1, 2)
            group.cancel_scope.cancel()
        assert ticks > 3


async def test_nothing_is_left_behind() -> None:
    def now(value: i32) -> i32:
        return value

    async with Store(engine="native") as store:
        exports = (await guest(store, environment(now=now))).exports
        functions = [
            (await warm(exports.add, 1, 2), (1 << 20, 1 << 25)),
            (await warm(exports.i64, 1), (1 << 62,)),
            (await warm(exports.f32, 1), (1.25,)),
            (await warm(exports.f64, 1), (1e300,)),
            (await warm(exports.f64, 1), (NANS[2],)),
            (await warm(exports.nop), ()),
            (await warm(exports.spin, 1), (9_000,)),
            (await warm(exports.ask_now, 0), (1 << 29,)),
            (await warm(exports.div, 1, 1), (1 << 29, 0)),
            (exports.add, ("no", 1)),
        ]
        refused = functions[0][0]._direct()
        watched = [None, refused, *(value for _, values in functions for value in values)]

        async def rounds(count: int) -> None:
            for function, values in functions:
                for _ in range(count):
                    for call in (function, function.nowait):
                        await outcome(lambda: call(*values))  # noqa: B023
                await anyio.lowlevel.checkpoint()

        await rounds(50)
        gc.collect()
        counts, blocks = [sys.getrefcount(each) for each in watched], sys.getallocatedblocks()
        await rounds(300)
        gc.collect()
        for each, count in zip(watched, counts, strict=True):
            assert abs(sys.getrefcount(each) - count) < 30
        assert sys.getallocatedblocks() - blocks < 500


async def test_instances_with_direct_calls_are_collected() -> None:
    async with Store(engine="native") as store:
        module = await Module.from_text('(module (func (export "id") (param i32) (result i32) (local.get 0)))')

        async def some(count: int) -> None:
            for number in range(count):
                instance = await store.instantiate(module)
                assert await (await warm(instance.exports.id, 1))(number) == number
                await instance.aclose()

        await some(5)
        gc.collect()
        blocks = sys.getallocatedblocks()
        await some(100)
        gc.collect()
        assert sys.getallocatedblocks() - blocks < 500


async def test_without_stacks_calls_go_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Store(engine="native") as store:
        add = await warm((await guest(store)).exports.add, 1, 2)
        berth = next(iter(store.engine._berths.values()))  # type: ignore[attr-defined]
        taken = berth.take()
        assert type(add._direct(1, 2)) is Unfinished
        assert await add(1, 2) == 3
        assert berth.stack is not None
        assert berth.stack is not taken
        assert add._direct(1, 2) == 3


async def test_unknown_pythons_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossing.sysconfig, "get_config_var", lambda name: 1)
    assert crossing._table({}, {}) is None
    monkeypatch.undo()
    monkeypatch.setattr(crossing.Api, "OBJECT_TYPE", 16)
    assert crossing._table({}, {}) is None
    monkeypatch.undo()
    api = ctypes.pythonapi
    monkeypatch.setattr(api, "PyInterpreterState_Get", lambda: 0)
    assert crossing._table({}, {}) is None


async def test_engines_without_them_work(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Store(engine="native") as store:
        monkeypatch.setattr(store.engine.crossing, "make", None)  # type: ignore[attr-defined]
        add = (await guest(store)).exports.add
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
            assert await add(1, 2) == 3
            assert add.nowait(1, 2) == 3
        assert add._direct is False


async def test_random_calls_agree_with_the_interpreter() -> None:
    rng = random.Random(11)

    async def later(value: i32) -> i32:
        if value % 3 == 0:
            await anyio.lowlevel.checkpoint()
        if value % 7 == 0:
            raise ValueError(value)
        return value

    def now(value: i32) -> i32:
        if value % 5 == 0:
            raise ValueError(value)
        return value

    plan = []
    for _ in range(400):
        name = rng.choice(["add", "spin", "div", "ask_now", "ask_later", "down", "grow", "i64"])
        value = rng.randrange(1, 9000)
        values = {"add": (value, -value), "div": (value, value % 3), "down": (value % 800,), "grow": (value % 2,)}
        plan.append((name, values.get(name, (value,)), rng.random() < 0.3 and name != "ask_later"))
    found = []
    for engine in ("native", "interpreter"):
        async with Store(engine=engine) as store:
            instance = await guest(store, environment(now=now, later=later))
            results = []
            for name, values, nowait in plan:
                function = instance.exports[name]
                results.append(await outcome(lambda: (function.nowait if nowait else function)(*values)))  # noqa: B023
                results.append(instance.fuel_consumed)
            found.append(results)
    assert found[0] == found[1]


def test_stores_of_two_loops_do_not_mix() -> None:
    async def use() -> int:
        async with Store(engine="native") as store:
            add = await warm((await guest(store)).exports.add, 1, 2)
            return await add(1, 2)

    assert anyio.run(use) == anyio.run(use, backend="trio") == 3


def test_i64_results_are_signed() -> None:
    async def use() -> int:
        async with Store(engine="native") as store:
            identity = await warm((await guest(store)).exports.i64, 1)
            return identity._direct((1 << 63) - 1), identity._direct(-(1 << 63)), identity._direct(-1)

    assert anyio.run(use) == ((1 << 63) - 1, -(1 << 63), -1)
    assert i64 is not None


def test_engines_step_without_machine_code_of_their_own(native: Native) -> None:
    """Where CPython is not one that we know, guests are resumed through ctypes."""
    text = """(module (func (export "spin") (param $n i32) (result i32) (local $a i32)
      (loop
        (local.set $a (i32.add (i32.mul (local.get $a) (i32.const 31)) (local.get $n)))
        (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
      (local.get $a)))"""
    found = []
    for stepping in (native.step, crossing._stepper(native.routines["rt_resume"])):
        native.step = stepping
        instance = load(native, text)
        assert call(native, instance, "spin", 1) == (1,)  # a slice that compiles may end early
        execution = start(native, export(instance, "spin"), 30_000)
        pauses = 0
        while execution.resume(7_000) is Outcome.PAUSED:
            pauses += 1
        found.append((execution.results, execution.consumed, pauses))
    assert found[0] == found[1]
    assert found[0][2] > 10
