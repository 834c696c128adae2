"""The gate: one slice for each iteration of the loop over all guests, first come first served, by weight."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aiowasm.store.gate
from aiowasm import Caller, HostModule, Instance, Module, Store, i32
from aiowasm.store.gate import Gate, Turn, current_gate

pytestmark = pytest.mark.anyio

SPIN = """(module (global (export "n") (mut i64) (i64.const 0))
  (func (export "spin") (loop (global.set 0 (i64.add (global.get 0) (i64.const 1))) (br 0)))
  (func (export "nop")))"""


class Recording(Turn):
    """Takes turns and writes them down."""

    def __init__(self, name: str, log: list[str], weight: int = 1) -> None:
        self.name = name
        self.log = log
        self.weight = weight
        self.turns = weight

    async def take(self, gate: Gate, count: int) -> None:
        try:
            for _ in range(count):
                await gate.enter(self)
                assert gate.holder is self
                self.log.append(self.name)
        finally:
            gate.release(self)


async def test_turns_are_first_come_first_served() -> None:
    log: list[str] = []
    gate = current_gate()
    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(Recording(name, log).take, gate, 5)
            await anyio.lowlevel.checkpoint()
    assert gate.holder is None
    assert not gate.queue
    assert all(len(set(log[at : at + 3])) == 3 for at in range(2, 10)), log


async def test_weight_is_a_number_of_turns() -> None:
    log: list[str] = []
    gate = current_gate()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Recording("a", log, weight=3).take, gate, 12)
        tasks.start_soon(Recording("b", log).take, gate, 4)
    text = "".join(log)
    assert "aaab" in text
    assert "aaaa" not in text


async def test_a_cancelled_waiter_leaves_and_a_cancelled_holder_hands_over() -> None:
    gate = current_gate()
    log: list[str] = []
    scopes = [anyio.CancelScope() for _ in range(3)]
    turns = [Recording(name, log) for name in "abc"]

    async def run(number: int, count: int) -> None:
        with scopes[number]:
            await turns[number].take(gate, count)

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(run, number, 10_000)
            while len(gate.queue) < 2:
                await anyio.lowlevel.checkpoint()
            waiting = gate.queue[0].turn
            scopes[turns.index(waiting)].cancel()
            while waiting in [waiter.turn for waiter in gate.queue]:
                await anyio.lowlevel.checkpoint()
            holder: Any = gate.holder
            before = len(log)
            scopes[turns.index(holder)].cancel()
            while len(log) < before + 5:
                await anyio.lowlevel.checkpoint()
            for scope in scopes:
                scope.cancel()
    assert gate.holder is None
    assert not gate.queue


async def test_a_baton_handed_to_someone_cancelled_goes_on() -> None:
    """17c: cancelled exactly between hand-over and wake."""
    gate = current_gate()
    log: list[str] = []
    first, second, third = (Recording(name, log) for name in "abc")
    scope = anyio.CancelScope()

    async def cancelled() -> None:
        with scope:
            await second.take(gate, 1)
            log.append("ran")

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            await gate.enter(first)
            tasks.start_soon(cancelled)
            while len(gate.queue) < 1:
                await anyio.lowlevel.checkpoint()
            tasks.start_soon(third.take, gate, 1)
            while len(gate.queue) < 2:
                await anyio.lowlevel.checkpoint()
            gate.release(first)
            assert gate.holder is second
            scope.cancel()
            while "c" not in log:
                await anyio.lowlevel.checkpoint()
    assert gate.holder is None


async def test_only_the_holder_can_release() -> None:
    gate = current_gate()
    log: list[str] = []
    holder, other, waiting = (Recording(name, log) for name in "abc")
    async with anyio.create_task_group() as tasks:
        await gate.enter(holder)
        tasks.start_soon(waiting.take, gate, 1)
        while not gate.queue:
            await anyio.lowlevel.checkpoint()
        gate.release(other)
        assert gate.holder is holder
        assert len(gate.queue) == 1
        gate.release(holder)
    assert log == ["c"]


async def test_guests_take_turns_one_slice_for_each_iteration(engine: str) -> None:
    """Between two slices the loop runs: no two in one iteration."""
    iterations = 0
    ticks: list[int] = []
    async with Store(engine=engine, fixed_slice=500, on_cancel="unwind") as store:
        module = await Module.from_text(SPIN)
        guests = [await store.instantiate(module) for _ in range(3)]
        with anyio.move_on_after(0.3):
            async with anyio.create_task_group() as tasks:

                async def count() -> None:
                    nonlocal iterations
                    while True:
                        iterations += 1
                        ticks.append(sum(guest.globals["n"].value for guest in guests))
                        await anyio.lowlevel.checkpoint()

                for guest in guests:
                    tasks.start_soon(guest.exports.spin)
                tasks.start_soon(count)
        steps = [after - before for before, after in pairwise(ticks[5:])]
        assert len(steps) > 10
        # A slice is 100 rounds of 5; trio may run two batches of tasks around one of ours.
        assert max(steps) <= 202 * (2 if anyio.get_cancelled_exc_class().__module__.startswith("trio") else 1)
        done = [guest.globals["n"].value for guest in guests]
        assert max(done) - min(done) <= 4 * 101


async def test_short_calls_need_no_turn_while_the_budget_lasts(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Store(engine=engine, tick_budget_seconds=30) as store:
        guest = await store.instantiate(await Module.from_text(SPIN))
        current_gate().deadline = 0  # the next call begins a budget
        await guest.exports.nop()
        ran = False

        async def other() -> None:
            nonlocal ran
            ran = True

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            for _ in range(100):
                await guest.exports.nop()
            assert not ran  # nobody else has run: there was no checkpoint
    async with Store(engine=engine, strict_checkpoints=True) as store:
        guest = await store.instantiate(await Module.from_text(SPIN))
        ran = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            for _ in range(3):
                await guest.exports.nop()
            assert ran


async def test_a_yield_asked_for_happens(engine: str) -> None:
    env = HostModule("env")

    @env.function
    def give_way(caller: Caller[Any], value: i32) -> i32:
        caller.yield_soon()
        return value

    module = await Module.from_text(
        """(module (import "env" "give_way" (func $f (param i32) (result i32)))
        (func (export "run") (param i32) (loop (drop (call $f (i32.const 1)))
          (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0)))))"""
    )
    async with Store(engine=engine, tick_budget_seconds=30) as store:
        guest = await store.instantiate(module, imports={"env": env})
        others = 0
        async with anyio.create_task_group() as tasks:

            async def other() -> None:
                nonlocal others
                while True:
                    others += 1
                    await anyio.lowlevel.checkpoint()

            tasks.start_soon(other)
            await guest.exports.run(10)
            assert others >= 9
            tasks.cancel_scope.cancel()


async def test_a_store_belongs_to_one_loop_and_thread(engine: str) -> None:
    async with Store(engine=engine) as store:
        guest: Instance = await store.instantiate(await Module.from_text(SPIN))
        errors: list[BaseException] = []

        def elsewhere() -> None:
            async def call() -> None:
                await guest.exports.nop()

            for attempt in (lambda: anyio.run(call), guest.exports.nop.nowait):
                try:
                    attempt()
                except BaseException as error:
                    errors.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert [type(error) for error in errors] == [RuntimeError, RuntimeError]
        assert "one event loop" in str(errors[0])
        await guest.exports.nop()


def test_a_store_is_not_used_on_a_second_loop(engine: str) -> None:
    store: Store[None] = Store(engine=engine)

    async def first() -> Instance:
        return await store.instantiate(await Module.from_text(SPIN))

    guest = anyio.run(first)

    async def second() -> None:
        await anyio.sleep(0.002)
        await guest.exports.nop()

    with pytest.raises(RuntimeError, match="one event loop"):
        anyio.run(second)


def test_each_loop_has_its_gate() -> None:
    gates = [anyio.run(_gate), anyio.run(_gate, backend="trio")]
    assert gates[0] is not gates[1]


async def _gate() -> Gate:
    assert current_gate() is current_gate()
    assert aiowasm.store.gate.current_gate() is current_gate()
    return current_gate()
