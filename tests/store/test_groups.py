"""Linkage groups, their lock, nested calls, and the deadlock hazards: each removed, or detected and reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from aiowasm import (
    EXIT_CANCELLED,
    Caller,
    ExitError,
    Func,
    HostModule,
    Instance,
    LimitError,
    Limits,
    LinkError,
    Module,
    ReentrancyError,
    Store,
    Trap,
    funcref,
    i32,
)
from aiowasm.store.gate import Turn, current_gate
from tests.store.waiting import until

pytestmark = pytest.mark.anyio

GUEST = """(module
  (import "env" "hook" (func $hook (param i32) (result i32)))
  (import "env" "later" (func $later (param i32) (result i32)))
  (memory (export "memory") 1)
  (table (export "table") 4 funcref)
  (global $sp (export "__stack_pointer") (mut i32) (i32.const 1000))
  (func (export "id") (param i32) (result i32) (local.get 0))
  (func (export "spin") (loop (br 0)))
  (func (export "hook") (param i32) (result i32) (call $hook (local.get 0)))
  (func (export "later") (param i32) (result i32) (call $later (local.get 0)))
  (func (export "frame") (param i32) (result i32) (local $saved i32)
    (local.set $saved (global.get $sp))
    (global.set $sp (i32.sub (global.get $sp) (i32.const 16)))
    (drop (call $later (local.get 0)))
    (global.set $sp (i32.add (global.get $sp) (i32.const 16)))
    (i32.eq (global.get $sp) (local.get $saved)))
  (func (export "later_then_hook") (param i32) (result i32) (call $hook (call $later (local.get 0))))
  (func (export "take") (param funcref))
  (func (export "leak") (param i32) (result i32)
    (global.set $sp (i32.sub (global.get $sp) (i32.const 16)))
    (call $hook (local.get 0))))"""


class Setup:
    """A store whose guests import what a test says."""

    def __init__(self, engine: str, **options: Any) -> None:
        self.store: Store[None] = Store(engine=engine, **options)
        self.hook: Callable[..., Any] = lambda caller, value: value
        self.later: Callable[..., Any] = self._later
        self.env = HostModule("env")

        @self.env.function
        def hook(caller: Caller[None], value: i32) -> i32:
            result: int = self.hook(caller, value)
            return result

        @self.env.function
        async def later(caller: Caller[None], value: i32) -> i32:
            result: int = await self.later(caller, value)
            return result

    async def _later(self, caller: Caller[None], value: int) -> int:
        await anyio.sleep(0)
        return value

    async def guest(self, name: str | None = None, **options: Any) -> Instance:
        module = await Module.from_text(GUEST)
        return await self.store.instantiate(module, name=name, imports={"env": self.env}, **options)


def idle(*instances: Instance) -> bool:
    return not any(i.group.stack or i.group.queue or i.group.parked for i in instances)


async def test_instances_run_concurrently_and_calls_of_one_queue(engine: str) -> None:
    setup = Setup(engine)
    running = 0
    most: list[int] = []

    async def later(caller: Caller[None], value: int) -> int:
        nonlocal running
        running += 1
        most.append(running)
        await anyio.sleep(0.005)
        running -= 1
        return value

    setup.later = later
    async with setup.store:
        one, two = await setup.guest(), await setup.guest()
        async with anyio.create_task_group() as tasks:
            for guest in (one, two):
                for _ in range(3):
                    tasks.start_soon(guest.exports.later, 1)
        assert max(most) == 2
        assert idle(one, two)


async def test_callers_queue_in_order(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        order = []
        free = anyio.Event()

        async def later(caller: Caller[None], value: int) -> int:
            order.append(value)
            await free.wait()
            return value

        setup.later = later
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guest.exports.later, 0)
            await until(lambda: bool(guest.group.stack))
            for number in range(1, 6):
                tasks.start_soon(guest.exports.later, number)
                await until(lambda number=number: len(guest.group.queue) == number)
            free.set()
        assert order == [0, 1, 2, 3, 4, 5]


async def test_the_queue_is_bounded(engine: str) -> None:
    setup = Setup(engine, limits=Limits(waiters=2))
    async with setup.store:
        guest = await setup.guest()
        async with anyio.create_task_group() as tasks:

            async def quiet() -> None:
                with pytest.raises(ExitError):
                    await guest.exports.spin()

            for _ in range(3):
                tasks.start_soon(quiet)
            await until(lambda: len(guest.group.queue) == 2)
            with pytest.raises(LimitError) as info:
                await guest.exports.id(1)
            assert info.value.limit == "waiters"
            assert setup.store.statistics().waiters == 2
            guest.close_soon()


async def test_linked_instances_exclude_each_other(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        library = await setup.guest("library")
        user = await setup.store.instantiate(
            await Module.from_text("""(module (import "library" "id" (func (param i32) (result i32))))""")
        )
        other = await setup.guest()
        assert user.group is library.group
        assert other.group is not library.group
        shared = await setup.store.instantiate(
            await Module.from_text("""(module (import "other" "memory" (memory 1)))"""), imports={"other": other}
        )
        assert shared.group is other.group
        plain = await setup.store.instantiate(
            await Module.from_text("""(module (import "env" "hook" (func (param i32) (result i32))))"""),
            imports={"env": setup.env},
        )
        assert plain.group is not other.group


async def test_a_cancelled_waiter_leaves_the_queue_and_the_others_proceed(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        free = anyio.Event()

        async def later(caller: Caller[None], value: int) -> int:
            await free.wait()
            return value

        setup.later = later
        results = []
        scope = anyio.CancelScope()

        async def waiting() -> None:
            with scope:
                await guest.exports.id(1)

        async def call() -> None:
            results.append(await guest.exports.id(2))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guest.exports.later, 0)
            await until(lambda: bool(guest.group.stack))
            tasks.start_soon(waiting)
            await until(lambda: len(guest.group.queue) == 1)
            tasks.start_soon(call)
            await until(lambda: len(guest.group.queue) == 2)
            scope.cancel()
            await until(lambda: len(guest.group.queue) == 1)
            free.set()
        assert results == [2]
        assert guest.exit_code is None
        assert idle(guest)


async def test_a_waiter_cancelled_at_the_hand_over_passes_it_on(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        free = anyio.Event()

        async def later(caller: Caller[None], value: int) -> int:
            await free.wait()
            return value

        setup.later = later
        scope = anyio.CancelScope()
        results = []

        async def waiting() -> None:
            with scope:
                await guest.exports.id(1)

        async def call() -> None:
            results.append(await guest.exports.id(2))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guest.exports.later, 0)
            await until(lambda: bool(guest.group.stack))
            tasks.start_soon(waiting)
            await until(lambda: len(guest.group.queue) == 1)
            tasks.start_soon(call)
            await until(lambda: len(guest.group.queue) == 2)
            waiter = guest.group.queue[0]
            free.set()
            with anyio.fail_after(20):
                while not waiter.granted:
                    await anyio.lowlevel.checkpoint()
                scope.cancel()  # handed over, and not awake yet
                await until(lambda: results == [2])
        assert idle(guest)
        assert guest.exit_code is None


async def test_a_native_cancellation_at_the_hand_over_passes_it_on(engine: str, anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own")
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        free = anyio.Event()

        async def later(caller: Caller[None], value: int) -> int:
            await free.wait()
            return value

        setup.later = later
        holder = asyncio.ensure_future(guest.exports.later(0))
        await until(lambda: bool(guest.group.stack))
        waiting = asyncio.ensure_future(guest.exports.id(1))
        await until(lambda: len(guest.group.queue) == 1)
        last = asyncio.ensure_future(guest.exports.id(2))
        await until(lambda: len(guest.group.queue) == 2)
        waiter = guest.group.queue[0]
        free.set()
        while not waiter.granted:
            await asyncio.sleep(0)
        assert waiting.cancel()  # the wake-up is on its way: now it raises
        with anyio.fail_after(20):
            assert await last == 2
            assert await holder == 0
        assert waiting.cancelled()
        assert idle(guest)
        assert guest.exit_code is None


async def test_cancelling_the_holder_with_many_queued(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        scope = anyio.CancelScope()
        errors = []

        async def holder() -> None:
            with scope:
                await guest.exports.spin()

        async def call() -> None:
            try:
                await guest.exports.id(1)
            except ExitError as error:
                errors.append(error.exit_code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(holder)
            await until(lambda: bool(guest.group.stack))
            for _ in range(100):
                tasks.start_soon(call)
            await until(lambda: len(guest.group.queue) == 100)
            scope.cancel()
        assert errors == [EXIT_CANCELLED] * 100
        assert idle(guest)


async def test_callers_of_other_members_proceed_when_the_holder_s_instance_is_closed(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        library = await setup.guest("library")
        user = await setup.store.instantiate(
            await Module.from_text(
                """(module (import "library" "memory" (memory 1))
                (func (export "id") (param i32) (result i32) (local.get 0)))"""
            )
        )
        scope = anyio.CancelScope()
        outcomes: dict[str, list[object]] = {"library": [], "user": []}

        async def holder() -> None:
            with scope:
                await library.exports.spin()

        async def call(instance: Instance, name: str) -> None:
            try:
                outcomes[name].append(await instance.exports.id(1))
            except ExitError as error:
                outcomes[name].append(error.exit_code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(holder)
            await until(lambda: bool(library.group.stack))
            for _ in range(50):
                tasks.start_soon(call, library, "library")
                tasks.start_soon(call, user, "user")
            await until(lambda: len(library.group.queue) == 100)
            scope.cancel()
        assert outcomes == {"library": [EXIT_CANCELLED] * 50, "user": [1] * 50}
        assert user.exit_code is None
        assert idle(user)


# Nested calls


async def test_nested_calls_of_all_kinds(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()

        async def by_export(caller: Caller[None], value: int) -> Any:
            return await guest.exports.id(value + 1)

        async def by_caller(caller: Caller[None], value: int) -> Any:
            return await caller.call("id", value + 1)

        async def in_child(caller: Caller[None], value: int) -> Any:
            results = []

            async def child() -> None:
                results.append(await guest.exports.id(value))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(child)
                tasks.start_soon(child)
            return sum(results) - value + 1

        async def in_thread(caller: Caller[None], value: int) -> Any:
            def work() -> Any:
                return anyio.from_thread.run(guest.exports.id, value + 1)

            return await anyio.to_thread.run_sync(work)

        async def nowait(caller: Caller[None], value: int) -> Any:
            return guest.exports.id.nowait(value + 1)

        for function in (by_export, by_caller, in_child, in_thread, nowait):
            setup.later = function
            with anyio.fail_after(20):
                assert await guest.exports.later(5) == 6, function
            assert idle(guest)
        setup.hook = lambda caller, value: caller.call_sync("id", value + 2)
        assert await guest.exports.hook(5) == 7
        setup.hook = lambda caller, value: guest.exports.id.nowait(value + 3)
        assert await guest.exports.hook(5) == 8
        assert guest.exports.hook.nowait(5) == 8


async def test_nesting_is_limited(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        depth = 0

        async def deeper(caller: Caller[None], value: int) -> Any:
            nonlocal depth
            depth = max(depth, value)
            return await caller.call("later", value + 1)

        setup.later = deeper
        with pytest.raises(Trap, match="call stack exhausted"):
            await guest.exports.later(0)
        assert depth == 64
        depth = 0

        def deeper_now(caller: Caller[None], value: int) -> Any:
            nonlocal depth
            depth = max(depth, value)
            return caller.call_sync("hook", value + 1)

        setup.hook = deeper_now
        with pytest.raises(Trap, match="call stack exhausted"):
            await guest.exports.hook(0)
        assert depth == 8
        assert guest.exit_code is None
        assert idle(guest)


async def test_a_synchronous_call_cannot_wait(engine: str) -> None:
    setup = Setup(engine, limits=Limits(sync_fuel=1000))
    async with setup.store:
        guest = await setup.guest()
        errors = []

        def hook(caller: Caller[None], value: int) -> int:
            try:
                caller.call_sync("later" if value else "spin", *([1] if value else []))
            except anyio.WouldBlock as error:
                errors.append(str(error))
            return value

        setup.hook = hook
        assert await guest.exports.hook(1) == 1
        assert await guest.exports.hook(0) == 0
        assert errors == [
            "the guest calls an async host function",
            "the call needs more fuel than Limits.sync_fuel",
        ]
        with pytest.raises(anyio.WouldBlock):
            guest.exports.spin.nowait()
        with pytest.raises(anyio.WouldBlock):
            guest.exports.later.nowait(1)
        assert guest.exit_code is None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guest.exports.spin)
            await until(lambda: bool(guest.group.stack))
            with pytest.raises(anyio.WouldBlock, match="busy"):
                guest.exports.id.nowait(1)
            tasks.cancel_scope.cancel()


async def test_calls_nested_through_another_group_and_back(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        one, two = await setup.guest("one"), await setup.guest("two")

        async def later(caller: Caller[None], value: int) -> Any:
            if value == 0:
                return 40
            target = two if caller.instance is one else one
            return 1 + await target.exports.later(value - 1)

        setup.later = later
        with anyio.fail_after(20):
            assert await one.exports.later(2) == 42
        assert idle(one, two)


async def test_an_outer_cancellation_closes_every_level_once(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guests = [await setup.guest(str(number)) for number in range(3)]
        closed: list[str | None] = []
        for guest in guests:
            guest.on_close(lambda guest=guest: closed.append(guest.name))
        seen = []

        async def later(caller: Caller[None], value: int) -> Any:
            try:
                if value == 2:
                    scope.cancel()
                    await anyio.sleep_forever()
                return await guests[value + 1].exports.later(value + 1)
            except BaseException as error:
                seen.append(error)
                raise

        setup.later = later
        with anyio.CancelScope() as scope:
            await guests[0].exports.later(0)
        assert scope.cancelled_caught
        assert closed == ["2", "1", "0"]
        assert len({id(error) for error in seen}) == 1
        assert idle(*guests)


async def test_a_background_child_outlives_the_host_call(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        results = []
        over = anyio.Event()
        async with anyio.create_task_group() as outer:

            async def background() -> None:
                await over.wait()
                results.append(await guest.exports.id(3))

            async def later(caller: Caller[None], value: int) -> int:
                outer.start_soon(background)
                return value

            setup.later = later
            with anyio.fail_after(20):
                assert await guest.exports.later(1) == 1
                over.set()
                await until(lambda: results == [3])
        assert idle(guest)


async def test_the_outer_call_waits_for_a_nested_one_that_outlives_its_host_call(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        free = anyio.Event()
        order = []
        async with anyio.create_task_group() as outer:

            async def background() -> None:
                await guest.exports.later(2)
                order.append("nested")

            async def later(caller: Caller[None], value: int) -> int:
                if value == 1:
                    outer.start_soon(background)
                    await until(lambda: len(guest.group.stack) == 2)
                    outer.start_soon(set_soon)
                    return value
                await free.wait()
                return value

            async def set_soon() -> None:
                await until(lambda: guest.group.stack[0].ended is not None)  # the outer call waits for it
                free.set()

            setup.later = later
            with anyio.fail_after(20):
                await guest.exports.later(1)
                order.append("outer")
        assert order == ["nested", "outer"]


async def test_the_outer_call_waits_for_a_nested_call_that_has_not_begun(engine: str) -> None:
    """It holds the group, and waits for a turn at the gate: the outer one must not run below it."""
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        gate, other = current_gate(), Turn()
        order: list[str] = []
        async with anyio.create_task_group() as outer:

            async def background() -> None:
                await guest.exports.hook(2)
                order.append("nested")

            async def later(caller: Caller[None], value: int) -> int:
                await gate.enter(other)
                gate.deadline = 0  # who comes now waits for a turn
                outer.start_soon(background)
                await until(lambda: len(guest.group.stack) == 2 and bool(gate.queue))
                outer.start_soon(let_go)
                return value

            async def let_go() -> None:
                await until(lambda: guest.group.stack[0].ended is not None)  # the outer call waits for it
                assert order == []
                gate.release(other)

            setup.later = later
            with anyio.fail_after(20):
                await guest.exports.later(1)
                order.append("outer")
        assert order == ["nested", "outer"]
        assert idle(guest)


async def test_a_nested_call_outlives_the_host_function_that_fails(engine: str) -> None:
    """The call below that one waits for it instead."""
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        free = anyio.Event()
        order: list[str] = []
        async with anyio.create_task_group() as outer:

            async def background() -> None:
                await guest.exports.later(3)
                order.append("nested")

            async def later(caller: Caller[None], value: int) -> int:
                if value == 1:
                    with pytest.raises(ZeroDivisionError):
                        await guest.exports.later(2)
                    outer.start_soon(let_go)
                elif value == 2:
                    outer.start_soon(background)
                    await until(lambda: len(guest.group.stack) == 3)
                    raise ZeroDivisionError
                else:
                    await free.wait()
                return value

            async def let_go() -> None:
                await until(lambda: guest.group.stack[0].ended is not None)
                free.set()

            setup.later = later
            with anyio.fail_after(20):
                await guest.exports.later(1)
                order.append("outer")
        assert order == ["nested", "outer"]
        assert idle(guest)


async def test_calls_that_may_wait_are_not_nested_in_a_def_host_function(engine: str) -> None:
    """Its own synchronous calls are; another's call, although it comes from here, waits until the guest waits."""
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        order: list[str] = []
        async with anyio.create_task_group() as outer:

            async def background(value: int) -> None:
                await guest.exports.id(value)
                order.append("background")

            async def later(caller: Caller[None], value: int) -> int:
                if value == 1:
                    outer.start_soon(background, 5)
                return value

            def hook(caller: Caller[None], value: int) -> int:
                caller.call_sync("id", value)
                assert guest.group.stack[-1] is caller._activation
                order.append("hook")
                return value

            setup.later, setup.hook = later, hook
            with anyio.fail_after(20):
                assert await guest.exports.later_then_hook(1) == 1
        assert order in (["hook", "background"], ["background", "hook"])
        assert idle(guest)


async def test_a_caller_can_be_lent_to_another_task(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        send, receive = anyio.create_memory_object_stream[Any](1)

        async def worker() -> None:
            async for loan, value, done in receive:
                with loan:
                    done.append(await guest.exports.id(value))
                    done[0].set()

        async def later(caller: Caller[None], value: int) -> Any:
            done: list[Any] = [anyio.Event()]
            await send.send((caller.lend(), value + 1, done))
            await done[0].wait()
            return done[1]

        setup.later = later
        with send, receive, anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker)
                assert await guest.exports.later(6) == 7
                tasks.cancel_scope.cancel()


async def test_a_queue_worker_deadlock_is_reported(engine: str) -> None:
    setup = Setup(engine, deadlock_timeout_seconds=0.05)
    async with setup.store:
        guest = await setup.guest()
        send, receive = anyio.create_memory_object_stream[int](1)
        failures = []

        async def worker() -> None:
            async for value in receive:
                try:
                    await guest.exports.id(value)
                except ReentrancyError as error:
                    failures.append(str(error))
                done.set()

        done = anyio.Event()

        async def later(caller: Caller[None], value: int) -> Any:
            await send.send(value)
            await done.wait()
            return value

        setup.later = later
        with send, receive, anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker)
                await guest.exports.later(1)
                tasks.cancel_scope.cancel()
        assert "holds it" in failures[0]
        assert idle(guest)


async def test_two_groups_that_wait_for_each_other_are_found(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        one, two = await setup.guest("one"), await setup.guest("two")
        both = 0
        ready = anyio.Event()

        async def later(caller: Caller[None], value: int) -> Any:
            nonlocal both
            both += 1
            if both == 2:
                ready.set()
            await ready.wait()
            target = two if caller.instance is one else one
            return await target.exports.id(value)

        setup.later = later
        errors: list[BaseException] = []
        results: list[int] = []

        async def call(guest: Instance) -> None:
            try:
                results.append(await guest.exports.later(5))
            except ReentrancyError as error:
                errors.append(error)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, one)
                tasks.start_soon(call, two)
        assert len(errors) == 1
        assert results == [5]
        assert idle(one, two)


async def test_the_shadow_stack_is_safe_unless_interleaving_is_asked_for(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        for interleave, intact in ((False, True), (True, False)):
            guest = await setup.guest(interleave=interleave)
            events = [anyio.Event(), anyio.Event()]
            results: list[int] = []

            async def later(
                caller: Caller[None], value: int, events: Any = events, interleave: bool = interleave
            ) -> int:
                if not interleave:
                    await until(lambda: value == 1 or bool(caller.instance.group.queue))
                elif value == 0:  # the first call returns while the second is in its frame
                    await events[0].wait()
                    events[1].set()
                else:
                    events[0].set()
                    await events[1].wait()
                    await until(lambda: bool(results))  # noqa: B023
                return value

            setup.later = later

            async def call(value: int, guest: Instance = guest, results: list[int] = results) -> None:
                results.append(await guest.exports.frame(value))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, 0)
                await until(lambda guest=guest: bool(guest.group.stack or guest.group.parked))
                tasks.start_soon(call, 1)
            assert (results == [1, 1]) is intact
            assert idle(guest)


async def test_the_stack_pointer_is_put_back_after_host_errors(engine: str) -> None:
    setup = Setup(engine, restore_stack_pointer=True)
    async with setup.store:
        guest = await setup.guest()

        def fail(caller: Caller[None], value: int) -> int:
            raise ValueError

        setup.hook = fail
        for _ in range(100):
            with pytest.raises(ValueError):  # noqa: PT011
                await guest.exports.leak(1)
        assert guest.exports["__stack_pointer"].value == 1000


# References merge groups


async def test_functions_handed_over_merge_groups(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        one, two, three = [await setup.guest() for _ in range(3)]
        await one.exports.take(two.exports.id)
        assert one.group is two.group
        assert three.group is not one.group
        one.tables["table"][0] = three.exports.id
        assert one.group is three.group
        assert isinstance(one.tables["table"][0], Func)
        assert await one.tables["table"][0](9) == 9
        four = await setup.guest()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(four.exports.spin)
            await until(lambda: bool(four.group.stack))
            with pytest.raises(ReentrancyError):
                one.tables["table"][1] = four.exports.id
            with pytest.raises(ReentrancyError):
                one.exports.take.nowait(four.exports.id)
            tasks.cancel_scope.cancel()
        assert idle(one, four)


async def test_a_waiter_follows_its_group_when_it_is_merged(engine: str) -> None:
    """D13."""
    setup = Setup(engine)
    async with setup.store:
        one, two = await setup.guest("one"), await setup.guest("two")
        free = anyio.Event()
        results = []

        async def later(caller: Caller[None], value: int) -> int:
            await setup.store.instantiate(  # D14: it holds its own group, and links it with another
                await Module.from_text(
                    """(module (import "one" "id" (func (param i32) (result i32)))
                    (import "two" "id" (func (param i32) (result i32))))"""
                )
            )
            await free.wait()
            return value

        setup.later = later

        async def call(guest: Instance, value: int) -> None:
            results.append(await guest.exports.id(value))

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.exports.later, 0)
                await until(lambda: one.group is two.group)
                tasks.start_soon(call, two, 1)
                tasks.start_soon(call, one, 2)
                await until(lambda: len(one.group.queue) == 2)
                free.set()
        assert sorted(results) == [1, 2]
        assert idle(one, two)


# D1, D2, D6 and what start functions may do


async def test_a_start_function_may_instantiate_and_wait(engine: str) -> None:
    """D1 and 18."""
    setup = Setup(engine)
    async with setup.store:
        text = """(module (import "env" "later" (func $later (param i32) (result i32)))
          (global $done (export "done") (mut i32) (i32.const 0))
          (func $start (global.set $done (call $later (i32.const 7)))) (start $start))"""

        async def later(caller: Caller[None], value: int) -> int:
            await setup.guest("inner")
            with pytest.raises(LinkError, match="already been instantiated"):
                await setup.guest("outer")
            with pytest.raises(LinkError, match="still being instantiated"):
                await setup.store.instantiate(
                    await Module.from_text("""(module (import "outer" "done" (global (mut i32))))""")
                )
            assert "outer" not in setup.store
            assert "inner" in setup.store
            return value

        setup.later = later
        with anyio.fail_after(20):
            outer = await setup.store.instantiate(
                await Module.from_text(text), name="outer", imports={"env": setup.env}
            )
        assert outer.exports.done.value == 7
        assert "outer" in setup.store


async def test_close_hooks_that_call_exports_get_exit_errors(engine: str) -> None:
    """D6."""
    setup = Setup(engine)
    errors: list[BaseException] = []
    async with setup.store:
        guest = await setup.guest()

        def hook() -> None:
            try:
                guest.exports.id.nowait(1)
            except ExitError as error:
                errors.append(error)

        guest.on_close(hook)
    assert len(errors) == 1


async def test_host_results_that_are_functions_join_the_group(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        other = await setup.guest()
        env = HostModule("env")

        @env.function
        def give() -> funcref:
            return other.exports.id

        user = await setup.store.instantiate(
            await Module.from_text(
                """(module (import "env" "give" (func $give (result funcref)))
                (func (export "f") (result funcref) (call $give)))"""
            ),
            imports={"env": env},
        )
        handle = await user.exports.f()
        assert handle == other.exports.id
        assert user.group is other.group


async def test_a_group_that_was_merged_keeps_nothing(engine: str) -> None:
    """Also not the calls that had given it away: a member that was closed before still knows the old group."""
    setup = Setup(engine)
    free = anyio.Event()

    async def later(caller: Caller[None], value: int) -> int:
        await free.wait()
        return value

    setup.later = later
    user = await Module.from_text("""(module
      (import "big" "memory" (memory 1)) (import "small" "id" (func (param i32) (result i32))))""")
    async with setup.store:
        small = await setup.guest(interleave=True)
        big = await setup.guest()
        linked = await Module.from_text('(module (import "big" "memory" (memory 1)))')
        await setup.store.instantiate(linked, imports={"big": big})
        before = small.group
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(small.exports.later, 1)
            await until(lambda: bool(before.parked))
            await setup.store.instantiate(user, imports={"big": big, "small": small})
            assert small.group is big.group is not before
            assert [call.parked for call in small.group.parked] == [small.group]
            assert not any(getattr(before, name) for name in ("members", "stack", "queue", "parked", "leaving"))
            free.set()
        assert idle(small, big)
