"""The outcome table: what the caller sees, what closes and with which code, what others see."""

from __future__ import annotations

import asyncio
import gc
import inspect
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest

from aiowasm import (
    EXIT_CANCELLED,
    EXIT_DEADLINE,
    Caller,
    DeadlineError,
    ExitError,
    HostModule,
    Instance,
    InvalidError,
    Limits,
    Listener,
    Module,
    OutOfFuel,
    Store,
    Trap,
    WasmException,
    i32,
)
from tests.store.waiting import deadline_when, until

pytestmark = pytest.mark.anyio

GUEST = """(module
  (import "env" "hook" (func $hook (param i32) (result i32)))
  (import "env" "later" (func $later (param i32) (result i32)))
  (memory (export "memory") 1)
  (global $n (export "n") (mut i32) (i32.const 0))
  (func (export "nop"))
  (func (export "spin") (loop (global.set $n (i32.add (global.get $n) (i32.const 1))) (br 0)))
  (func (export "hook") (param i32) (result i32) (call $hook (local.get 0)))
  (func (export "later") (param i32) (result i32) (call $later (local.get 0)))
  (func (export "later_twice") (param i32) (result i32) (drop (call $later (local.get 0))) (call $later (local.get 0)))
  (func (export "hook_then_spin") (drop (call $hook (i32.const 0))) (loop (br 0)))
  (func (export "catch") (param i32) (result i32)
    (block (try_table (catch_all 0) (drop (call $hook (local.get 0)))) (return (i32.const 1))) (i32.const 2))
  (func (export "catch_later") (param i32) (result i32)
    (block (try_table (catch_all 0) (drop (call $later (local.get 0)))) (return (i32.const 1))) (i32.const 2))
  (func $deep (export "deep") (call $deep))
  (func (export "boom") unreachable))"""

Body = Callable[..., Any]


class Setup:
    """A store with one guest whose imports do what a test says."""

    def __init__(self, engine: str, **options: Any) -> None:
        self.store: Store[None] = Store(engine=engine, **options)
        self.hook: Body = lambda caller, value: value
        self.later: Body = self._later
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

    async def guest(self, name: str | None = None) -> Instance:
        return await self.store.instantiate(await Module.from_text(GUEST), name=name, imports={"env": self.env})


def idle(instance: Instance) -> bool:
    return not instance.group.stack and not instance.group.queue and not instance.group.parked


async def test_traps_leave_instances_open(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        for name, words in (("boom", "unreachable"), ("deep", "call stack exhausted")):
            with pytest.raises(Trap, match=words) as info:
                await guest.call(name)
            assert info.value.frames
            assert guest.exit_code is None
            assert idle(guest)
        assert await guest.exports.hook(3) == 3


async def test_close_on_trap(engine: str) -> None:
    setup = Setup(engine, close_on_trap=True)
    async with setup.store:
        guest = await setup.guest()
        with pytest.raises(Trap):
            await guest.exports.boom()
        assert guest.exit_code is not None
        with pytest.raises(ExitError, match="trap: unreachable"):
            await guest.exports.nop()


async def test_timeouts_close_with_their_code(engine: str) -> None:
    setup = Setup(engine, limits=Limits(timeout=0.3))
    async with setup.store:
        for name, arguments in (("spin", ()), ("later", (1,))):
            guest = await setup.guest()

            async def forever(caller: Caller[None], value: int) -> int:
                await anyio.sleep(30)
                return 0

            setup.later = forever
            with pytest.raises(DeadlineError) as info:
                await guest.call(name, *arguments)
            assert isinstance(info.value, TimeoutError)
            assert info.value.exit_code == guest.exit_code == EXIT_DEADLINE
            with pytest.raises(ExitError):
                await guest.exports.nop()
            assert idle(guest)


async def test_a_timeout_before_the_guest_runs_leaves_it_untouched(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        with pytest.raises(DeadlineError):
            await guest.call("spin", timeout=0)
        assert guest.exit_code is None
        gate = anyio.Event()

        async def wait(caller: Caller[None], value: int) -> int:
            await gate.wait()
            return value

        setup.later = wait
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guest.exports.later, 1)
            await until(lambda: bool(guest.group.stack))
            with pytest.raises(DeadlineError):
                await guest.call("nop", timeout=0.01)  # queued all the time
            assert guest.exit_code is None
            gate.set()
        await guest.exports.nop()


async def test_exit_closes_with_its_code(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        for code in (0, 7):
            guest = await setup.guest()
            setup.hook = lambda caller, value: caller.exit(value)
            with pytest.raises(ExitError) as info:
                await guest.exports.catch(code)
            assert info.value.exit_code == guest.exit_code == code
            with pytest.raises(ExitError) as info:
                await guest.exports.nop()
            assert info.value.exit_code == code
            assert idle(guest)


async def test_exit_from_an_async_host_function(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()

        async def leave(caller: Caller[None], value: int) -> int:
            await anyio.sleep(0)
            caller.exit(value)

        setup.later = leave
        with pytest.raises(ExitError) as info:
            await guest.exports.catch_later(9)
        assert info.value.exit_code == guest.exit_code == 9


class PlainError(Exception):
    """An application's own."""


@pytest.mark.parametrize("name", ["catch", "catch_later"])
async def test_an_exception_of_the_host_arrives_unchanged(engine: str, name: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest("guest")
        error = PlainError("mine")

        def fail(caller: Caller[None], value: int) -> int:
            raise error

        async def fail_later(caller: Caller[None], value: int) -> int:
            await anyio.sleep(0)
            raise error

        setup.hook, setup.later = fail, fail_later
        with pytest.raises(PlainError) as info:
            await guest.call(name, 1)
        assert info.value is error
        assert any("wasm frames" in note and "guest!" in note for note in error.__notes__)
        assert guest.exit_code is None
        assert idle(guest)
        setup.hook, setup.later = (lambda caller, value: value), setup._later
        assert await guest.call(name, 1) == 1
        names = []
        traceback = info.value.__traceback__
        while traceback is not None:
            names.append(traceback.tb_frame.f_code.co_name)
            traceback = traceback.tb_next
        assert names[-1] in ("fail", "fail_later")
        assert "resume" not in names
        assert "step" not in names


@pytest.mark.parametrize("name", ["hook", "later"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
async def test_a_base_exception_of_the_host_closes(engine: str, name: str, kind: type[BaseException]) -> None:
    setup = Setup(engine)
    guest = await setup.guest()
    error = kind("stop")

    def fail(caller: Caller[None], value: int) -> int:
        raise error

    async def fail_later(caller: Caller[None], value: int) -> int:
        raise error

    setup.hook, setup.later = fail, fail_later
    try:
        with pytest.warns(ResourceWarning) if kind is GeneratorExit and name == "later" else anyio.CancelScope():
            await guest.call(name, 1)
    except kind as raised:
        seen: BaseException = raised
    assert seen is error
    assert guest.exit_code == EXIT_CANCELLED
    await setup.store.aclose()


async def test_stop_iteration_becomes_a_runtime_error(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()

        def fail(caller: Caller[None], value: int) -> int:
            raise StopIteration

        async def fail_later(caller: Caller[None], value: int) -> int:
            raise StopAsyncIteration

        setup.hook, setup.later = fail, fail_later
        with pytest.raises(RuntimeError, match="StopIteration"):
            await guest.exports.hook(1)
        with pytest.raises(RuntimeError, match="StopIteration"):
            guest.exports.hook.nowait(1)
        with pytest.raises(StopAsyncIteration):
            await guest.exports.later(1)
        assert guest.exit_code is None


async def test_results_of_host_functions_are_checked(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()

        async def coroutine() -> int:
            return 1

        for bad, error, words in (
            ("text", TypeError, "result: expected an int for i32, got str"),
            ((1, 2), TypeError, "result"),
            (2**40, OverflowError, "out of range for i32"),
            (None, TypeError, "got None"),
        ):
            setup.hook = lambda caller, value, bad=bad: bad
            with pytest.raises(error, match=words):
                await guest.exports.hook(1)

            async def later(caller: Caller[None], value: int, bad: Any = bad) -> Any:
                return bad

            setup.later = later
            with pytest.raises(error, match=words):
                await guest.exports.later(1)
        setup.hook = lambda caller, value: coroutine()
        with pytest.raises(TypeError, match="async def"):
            await guest.exports.hook(1)
        assert guest.exit_code is None


@pytest.mark.skipif(not hasattr(inspect, "markcoroutinefunction"), reason="nothing can claim to be async def")
async def test_what_an_async_function_returns_must_be_awaitable(engine: str) -> None:
    """19."""
    env = HostModule("env")
    for name in ("hook", "later"):

        def strange(value: i32) -> i32:
            return value

        env.function(name=name)(inspect.markcoroutinefunction(strange))
    async with Store(engine=engine) as store:
        guest = await store.instantiate(await Module.from_text(GUEST), imports={"env": env})
        with pytest.raises(TypeError, match="await"):
            await guest.exports.later(1)
        assert guest.exit_code is None


async def test_cancellation_in_a_slice_and_in_a_host_await(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        for name, arguments in (("spin", ()), ("later", (1,))):
            guest = await setup.guest()
            seen = []

            async def forever(caller: Caller[None], value: int) -> int:
                await anyio.sleep(30)
                return 0

            setup.later = forever

            async def call(guest: Instance = guest, name: str = name, arguments: Any = arguments) -> None:
                try:
                    await guest.call(name, *arguments)
                except BaseException as error:
                    seen.append(error)  # noqa: B023
                    raise

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await until(lambda guest=guest: guest.fuel_consumed > 0)
                tasks.cancel_scope.cancel()
            assert isinstance(seen[0], anyio.get_cancelled_exc_class())
            assert guest.exit_code == EXIT_CANCELLED
            assert idle(guest)


async def test_unwinding_keeps_instances_open(engine: str) -> None:
    setup = Setup(engine, on_cancel="unwind")
    async with setup.store:
        guest = await setup.guest()
        async with deadline_when(lambda: guest.fuel_consumed > 0) as scope:
            await guest.exports.spin()
        assert scope.cancelled_caught
        assert guest.exit_code is None
        assert idle(guest)
        await guest.exports.nop()


async def test_cancelled_at_entry_nothing_happens(engine: str) -> None:
    setup = Setup(engine, strict_checkpoints=True)
    async with setup.store:
        guest = await setup.guest()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await guest.exports.spin()
        assert scope.cancelled_caught
        assert guest.exit_code is None
        assert guest.globals["n"].value == 0
        assert idle(guest)


async def test_a_host_function_that_swallows_cancellation(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        swallowed = []

        async def swallow(caller: Caller[None], value: int) -> int:
            try:
                await anyio.sleep(30)
            except BaseException as error:
                if swallowed:
                    raise
                swallowed.append(error)
            return 6

        async def convert(caller: Caller[None], value: int) -> int:
            scope.deadline = anyio.current_time()
            try:
                await anyio.sleep(30)
            except BaseException:
                raise PlainError from None
            return 6

        async def shield(caller: Caller[None], value: int) -> int:
            scope.deadline = anyio.current_time()
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.01)
            return 7

        setup.later = swallow
        with anyio.move_on_after(0.3) as scope:
            await guest.exports.later_twice(1)
        assert swallowed
        assert scope.cancelled_caught  # cancelled scopes say so again, when the guest waits next
        assert guest.exit_code == EXIT_DEADLINE
        guest = await setup.guest()
        setup.later = convert
        with anyio.CancelScope() as scope, pytest.raises(PlainError):
            await guest.exports.later(1)
        assert guest.exit_code is None
        setup.later = shield
        with anyio.CancelScope() as scope:
            await guest.exports.later_twice(1)
            await anyio.sleep(1)
        assert scope.cancelled_caught
        assert idle(guest)


async def test_cancelled_again_while_a_host_function_cleans_up(engine: str, anyio_backend_name: str) -> None:
    """2: the second cancellation comes while the first is on its way out."""
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        steps: list[str] = []

        async def slow_to_leave(caller: Caller[None], value: int) -> int:
            try:
                steps.append("waits")
                await anyio.sleep_forever()
            finally:
                steps.append("cleans up")
                with anyio.CancelScope(shield=True):
                    await until(lambda: "again" in steps)
                steps.append("clean")
            return value

        setup.later = slow_to_leave
        async with anyio.create_task_group() as tasks:
            inner = anyio.CancelScope()

            async def call() -> None:
                with inner:
                    await guest.exports.later(1)

            tasks.start_soon(call)
            await until(lambda: "waits" in steps)
            inner.cancel()
            await until(lambda: "cleans up" in steps)
            inner.cancel()
            tasks.cancel_scope.cancel()
            steps.append("again")
        assert steps == ["waits", "cleans up", "again", "clean"]
        assert guest.exit_code == EXIT_CANCELLED
        assert idle(guest)
        if anyio_backend_name != "asyncio":
            return
        guest, steps[:] = await setup.guest(), []
        task = asyncio.ensure_future(guest.exports.later(1))
        await until(lambda: "waits" in steps)
        task.cancel()
        await until(lambda: "cleans up" in steps)
        task.cancel()  # goes through the shield
        with pytest.raises(asyncio.CancelledError):
            await task
        assert steps == ["waits", "cleans up"]
        assert guest.exit_code == EXIT_CANCELLED
        assert idle(guest)


async def test_closing_a_yielded_call_wakes_it(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        errors: list[BaseException] = []

        async def call(name: str) -> None:
            try:
                await guest.call(name)
            except ExitError as error:
                errors.append(error)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call, "spin")
                await until(lambda: bool(guest.group.stack))
                for name in ("nop", "nop"):  # they queue
                    tasks.start_soon(call, name)
                await until(lambda: len(guest.group.queue) == 2)
                guest.close_soon(12)
                guest.close_soon(13)
                assert guest.exit_code == 12
        assert [error.exit_code for error in errors] == [12, 12, 12]  # type: ignore[attr-defined]
        assert idle(guest)
        assert guest.freed


async def test_closing_a_call_in_a_host_await_cancels_the_host_function(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        cancelled = []

        async def forever(caller: Caller[None], value: int) -> int:
            try:
                await anyio.sleep(30)
            except BaseException as error:
                cancelled.append(error)
                raise
            return 0

        setup.later = forever
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                with pytest.raises(ExitError) as info:
                    await guest.exports.later(1)
                assert info.value.exit_code == 4

            tasks.start_soon(call)
            await until(lambda: bool(guest.group.stack) and guest.group.stack[0].in_host)
            await guest.aclose(exit_code=4)
        assert len(cancelled) == 1
        assert guest.freed


@pytest.mark.parametrize("close_first", [True, False])
async def test_cancelling_and_closing_in_one_tick(engine: str, close_first: bool) -> None:
    setup = Setup(engine)
    async with setup.store:
        for name, arguments in (("spin", ()), ("later", (1,))):
            guest = await setup.guest()

            async def forever(caller: Caller[None], value: int) -> int:
                await anyio.sleep(30)
                return 0

            setup.later = forever
            outcome: list[BaseException] = []
            async with anyio.create_task_group() as tasks:
                scope = anyio.CancelScope()

                async def call(guest: Any = guest, scope: Any = scope, name: str = name, a: Any = arguments) -> None:
                    with scope:
                        try:
                            await guest.call(name, *a)
                        except BaseException as error:
                            outcome.append(error)  # noqa: B023
                            raise

                tasks.start_soon(call)
                await until(lambda guest=guest: guest.fuel_consumed > 0)
                if close_first:
                    guest.close_soon(5)
                scope.cancel()
                if not close_first:
                    guest.close_soon(5)
            assert isinstance(outcome[0], anyio.get_cancelled_exc_class() | ExitError)
            if name == "later":
                assert scope.cancelled_caught  # the outer cancellation wins
            assert guest.exit_code == 5


async def test_closing_from_inside_takes_effect_when_the_host_function_returns(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()

        def close(caller: Caller[None], value: int) -> int:
            caller.instance.close_soon(6)
            return value

        setup.hook = close
        with pytest.raises(ExitError) as info:
            await guest.exports.hook_then_spin()
        assert info.value.exit_code == 6
        guest = await setup.guest()

        async def aclose(caller: Caller[None], value: int) -> int:
            with anyio.fail_after(20):
                await caller.instance.aclose(8)  # must not wait for itself
            return value

        setup.later = aclose
        with pytest.raises(ExitError) as info:
            await guest.exports.later(1)
        assert info.value.exit_code == guest.exit_code == 8
        guest = await setup.guest()

        async def close_in_child(caller: Caller[None], value: int) -> int:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(caller.instance.aclose, 9)
            return value

        setup.later = close_in_child
        with pytest.raises(ExitError) as info:
            await guest.exports.later(1)
        assert info.value.exit_code == 9


async def test_close_from_another_thread(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()

        async def close() -> None:
            await anyio.to_thread.run_sync(guest.close_soon, 3)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(close)
            with pytest.raises(ExitError) as info:
                await guest.exports.spin()
        assert info.value.exit_code == 3


async def compiled(guest: Instance) -> None:
    """Have `spin` compiled, which takes no fuel but may take a slice."""
    with suppress(OutOfFuel):
        await guest.call("spin", fuel=100)


async def begun(guest: Instance) -> Any:
    """A call of `spin` that has begun and yielded once, as a loop would let it."""
    await compiled(guest)
    for _ in range(100):  # where the loop's budget is used up, a call waits before it begins
        await guest.exports.nop()
        coroutine = guest.exports.spin()
        coroutine.send(None)
        if any(guest in activation.live_instances() for activation in guest.group.stack):
            return coroutine
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            coroutine.close()  # it may have begun, and wait for its function to be compiled
        assert guest.exit_code is None
    raise AssertionError("no call began")


async def test_a_dropped_call_closes_what_it_tore(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        coroutine = guest.exports.spin()
        coroutine.close()  # never started: nothing happened
        assert guest.exit_code is None
        coroutine = await begun(guest)
        with pytest.warns(ResourceWarning, match="abandoned"):
            coroutine.close()
        assert guest.exit_code == EXIT_CANCELLED
        assert idle(guest)
        other = await setup.guest()
        calls = [await begun(other)]
        with pytest.warns(ResourceWarning, match="abandoned"):
            calls.clear()
        assert other.exit_code == EXIT_CANCELLED
        await (await setup.guest()).exports.nop()  # the gate is free


async def test_lazy_validation_fails_where_the_function_is_called(engine: str) -> None:
    text = '(module (func (export "bad") (i32.add (i32.const 0)) drop) (func (export "good")))'
    with pytest.raises(InvalidError):
        await Module.from_text(text)
    module = await Module.from_text(text, validation="lazy")
    async with Store(engine=engine) as store:
        guest = await store.instantiate(module)
        for _ in range(2):
            with pytest.raises(InvalidError):
                await guest.exports.bad()
        assert guest.exit_code is None
        await guest.exports.good()


async def test_exceptions_cross_in_both_directions(engine: str) -> None:
    env = HostModule("env")
    env.tag("oops", [i32])
    raising: list[Any] = []

    @env.function
    def hook(value: i32) -> None:
        raise WasmException(raising[0], (value,))

    @env.function
    async def later(value: i32) -> None:
        await anyio.sleep(0)
        raise WasmException(raising[0], (value,))

    module = await Module.from_text(
        """(module
          (import "env" "oops" (tag $oops (param i32)))
          (import "env" "hook" (func $hook (param i32)))
          (import "env" "later" (func $later (param i32)))
          (func (export "throw") (param i32) (throw $oops (local.get 0)))
          (func (export "hook") (param i32) (result i32)
            (block (result i32) (try_table (catch $oops 0) (call $hook (local.get 0))) (i32.const -1)))
          (func (export "later") (param i32) (result i32)
            (block (result i32) (try_table (catch $oops 0) (call $later (local.get 0))) (i32.const -1)))
          (func (export "uncaught") (param i32) (call $later (local.get 0))))"""
    )
    async with Store(engine=engine) as store:
        host = await store.instantiate(env)
        raising.append(host.exports.oops)
        guest = await store.instantiate(module)
        assert await guest.exports.hook(4) == 4
        assert await guest.exports.later(5) == 5
        for name in ("throw", "uncaught"):
            with pytest.raises(WasmException) as info:
                await guest.call(name, 6)
            assert info.value.tag == host.exports.oops
            assert info.value.values == (6,)
        assert guest.exit_code is None


async def test_a_call_into_a_closed_instance_is_not_caught_by_the_guest(engine: str) -> None:
    async with Store(engine=engine) as store:
        library = await store.instantiate(
            await Module.from_text('(module (func (export "f") (result i32) (i32.const 1)))'), name="library"
        )
        user = await store.instantiate(
            await Module.from_text(
                """(module (import "library" "f" (func $f (result i32)))
                (func (export "g") (result i32)
                  (block (try_table (catch_all 0) (return (call $f)))) (i32.const 2))
                (func (export "h") (result i32) (i32.const 3)))"""
            )
        )
        assert await user.exports.g() == 1
        await library.aclose(33)
        with pytest.raises(ExitError) as info:
            await user.exports.g()
        assert info.value.exit_code == 33
        assert user.exit_code is None
        assert await user.exports.h() == 3


async def test_errors_of_closing_are_reported_together_and_in_order(engine: str) -> None:
    store: Store[None] = Store(engine=engine)
    order = []
    for name in "abc":
        instance = await store.instantiate(b"\0asm\1\0\0\0", name=name)

        def hook(name: str = name) -> None:
            order.append(name)
            raise PlainError(name)

        async def later(name: str = name) -> None:
            await anyio.sleep(0)
            order.append(name.upper())

        instance.on_close(hook)
        instance.on_close(later)
    with pytest.raises(ExceptionGroup) as info:
        await store.aclose(exit_code=3)
    assert [str(error) for error in info.value.exceptions] == ["c", "b", "a"]
    assert order == ["c", "b", "a", "C", "B", "A"]
    await store.aclose(exit_code=4)
    assert store.exit_code == 3
    with pytest.raises(ExitError):
        await store.instantiate(b"\0asm\1\0\0\0")
    with pytest.raises(ExitError):
        store.namespace("n")


async def test_the_exception_of_the_body_wins(engine: str) -> None:
    def hook() -> None:
        raise RuntimeError("of the hook")

    async def body() -> None:
        async with Store(engine=engine) as store:
            (await store.instantiate(b"\0asm\1\0\0\0")).on_close(hook)
            raise PlainError

    with pytest.raises(PlainError):
        await body()


async def test_grace_is_not_exceeded(engine: str) -> None:
    setup = Setup(engine, close_grace_seconds=0.05)
    guest = await setup.guest()
    free = anyio.Event()

    async def stubborn(caller: Caller[None], value: int) -> int:
        with anyio.CancelScope(shield=True):
            await free.wait()
        return value

    setup.later = stubborn
    async with anyio.create_task_group() as tasks:

        async def call() -> None:
            with pytest.raises(ExitError):
                await guest.exports.later(1)

        tasks.start_soon(call)
        await until(lambda: bool(guest.group.stack))
        with anyio.fail_after(20):
            await setup.store.aclose()
        assert not guest.freed
        free.set()
    assert guest.freed


async def test_a_committed_result_stands(engine: str) -> None:
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        assert await guest.exports.hook(3) == 3
        result = guest.exports.hook.nowait(4)
        guest.close_soon(1)
        assert result == 4


async def test_a_result_stands_when_the_instance_is_closed_before_the_caller_has_it(engine: str) -> None:
    """12: closed by a listener that hears the result, and while the caller has not been woken yet."""

    closing: list[Instance] = []

    class Closing(Listener):
        def after(self, function: Any, results: Any) -> None:
            for instance in closing:
                instance.close_soon(5)

    setup = Setup(engine, listeners=[Closing()])
    async with setup.store:
        closing.append(await setup.guest())
        assert await closing[0].exports.hook(3) == 3
        assert closing[0].exit_code == 5
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        results: list[int] = []
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                results.append(await guest.exports.hook(4))

            tasks.start_soon(call)
            await until(lambda: guest.fuel_consumed > 0)
            guest.close_soon(1)
        assert results == [4]
        assert guest.exit_code == 1


async def test_memory_after_closing(engine: str) -> None:
    """11: calls and accesses say what the instance ended with; a view that was kept looks at nobody else's bytes."""
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        memory = guest.memory
        assert memory is not None
        memory.write(0, b"mine")
        view = memory.view(0, 4)
        await guest.aclose(9)
        with pytest.raises(ExitError) as info:
            await guest.exports.nop()
        assert info.value.exit_code == 9
        for access in (lambda: memory.read(0, 4), lambda: memory.view(0, 1)):
            with pytest.raises(ExitError):
                access()
        other = await setup.guest()
        assert other.memory is not None
        other.memory.write(0, b"else")
        assert bytes(view) in (b"mine", bytes(4))


async def test_closing_while_a_start_function_waits(engine: str) -> None:
    """9."""
    setup = Setup(engine)
    text = """(module (import "env" "later" (func $later (param i32) (result i32)))
      (func $start (drop (call $later (i32.const 1)))) (start $start))"""
    waiting = anyio.Event()

    async def later(caller: Caller[None], value: int) -> int:
        waiting.set()
        await anyio.sleep_forever()
        return value

    setup.later = later
    async with setup.store:
        async with anyio.create_task_group() as tasks:

            async def instantiate() -> None:
                with pytest.raises(ExitError) as info:
                    await setup.store.instantiate(await Module.from_text(text), name="half", imports={"env": setup.env})
                assert info.value.exit_code == 6

            tasks.start_soon(instantiate)
            await waiting.wait()
            setup.store.close_soon(6)
        assert "half" not in setup.store


async def test_closing_in_a_cancelled_scope_is_bounded_and_does_not_spin(engine: str) -> None:
    """D12: a hook that would never end is given up after the time of grace; the loop sleeps meanwhile."""
    setup = Setup(engine, close_grace_seconds=0.2)
    guest = await setup.guest()
    hooked = anyio.Event()

    async def hook() -> None:
        hooked.set()
        await anyio.sleep_forever()

    guest.on_close(hook)
    iterations = 0
    async with anyio.create_task_group() as tasks:

        async def count() -> None:
            nonlocal iterations
            while True:
                iterations += 1
                await anyio.sleep(0.01)

        tasks.start_soon(count)
        with anyio.CancelScope() as scope, anyio.fail_after(20):
            scope.cancel()
            await setup.store.aclose()
        tasks.cancel_scope.cancel()
    assert hooked.is_set()
    assert guest.freed
    assert iterations < 100


async def test_a_listener_or_a_hook_that_fails_keeps_nothing_open(engine: str) -> None:
    class Failing(Listener):
        def close(self, instance: Instance, exit_code: int) -> None:
            raise PlainError("of the listener")

    setup = Setup(engine)
    guest = await setup.store.instantiate(
        await Module.from_text(GUEST), imports={"env": setup.env}, listeners=[Failing()]
    )

    def hook() -> None:
        raise SystemExit(3)

    guest.on_close(hook)
    with pytest.raises(PlainError):
        guest.close_soon(2)
    assert guest.freed
    with pytest.raises(BaseExceptionGroup) as info:
        await setup.store.aclose()
    assert isinstance(info.value.exceptions[0], SystemExit)
    assert setup.store.statistics().instances == 0


async def test_fuel_of_a_trap_is_exact_and_refuel_lets_it_go_on(engine: str) -> None:
    setup = Setup(engine, limits=Limits(fuel=1000))
    async with setup.store:
        guest = await setup.guest()
        with pytest.raises(OutOfFuel):
            await guest.exports.spin()
        with pytest.raises(OutOfFuel):
            await guest.exports.nop()
        setup.store.add_fuel(10**6)
        await guest.exports.nop()


async def test_kept_errors_keep_no_instance_alive(engine: str) -> None:
    import weakref  # noqa: PLC0415

    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        try:
            await guest.exports.boom()
        except Trap as trap:
            kept = trap
        reference = weakref.ref(guest)
        await guest.aclose()
        del guest
        gc.collect()
        assert reference() is None, gc.get_referrers(reference())
        assert "unreachable" in str(kept)


async def test_native_cancellation_of_asyncio(engine: str, anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own")
    setup = Setup(engine)
    async with setup.store:
        guest = await setup.guest()
        task = asyncio.ensure_future(guest.exports.spin())
        await until(lambda: guest.fuel_consumed > 0)
        task.cancel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert guest.exit_code == EXIT_CANCELLED
        guest = await setup.guest()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await guest.exports.spin()
        assert guest.exit_code == EXIT_CANCELLED
        guest = await setup.guest()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(guest.exports.spin(), 0.2)
        assert guest.exit_code == EXIT_CANCELLED
        assert idle(guest)
