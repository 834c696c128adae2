"""Cancellation at every checkpoint there is, calls that are dropped, loops that end, signals, forks."""

from __future__ import annotations

import contextvars
import ctypes
import gc
import os
import platform
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
import weakref
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from aiowasm import (
    EXIT_CANCELLED,
    EXIT_DEADLINE,
    Caller,
    ExitError,
    HostModule,
    Instance,
    Module,
    Store,
    Trap,
    i32,
)
from aiowasm.store.gate import current_gate
from tests.store.waiting import deadline_when

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent

GUEST = """(module
  (import "env" "later" (func $later (param i32) (result i32)))
  (import "env" "hook" (func $hook (param i32) (result i32)))
  (memory (export "memory") 1 10)
  (global $started (export "started") (mut i32) (i32.const 0))
  (func $start (global.set $started (call $later (i32.const 1))))
  (start $start)
  (func (export "id") (param i32) (result i32) (local.get 0))
  (func (export "spin") (loop (br 0)))
  (func (export "hook") (param i32) (result i32) (call $hook (local.get 0)))
  (func (export "later") (param i32) (result i32) (call $later (local.get 0)))
  (func (export "work") (param i32) (result i32) (local i32)
    (loop (local.set 1 (i32.add (local.get 1) (i32.const 1))) (br_if 0 (i32.lt_u (local.get 1) (local.get 0))))
    (drop (memory.grow (i32.const 1)))
    (drop (call $later (i32.const 2)))
    (call $hook (local.get 1))))"""


class Counted:
    """Awaits something and calls *at* as soon as it has suspended for the *number*th time."""

    def __init__(self, work: Awaitable[Any], number: int, at: Callable[[], None]) -> None:
        self.work = work
        self.number = number
        self.at = at
        self.count = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        iterator: Any = self.work.__await__()
        send, value = iterator.send, None
        while True:
            try:
                suspended = send(value)
            except StopIteration as stop:
                return stop.value
            self.count += 1
            if self.count == self.number:
                # Not at once: the loop has not heard yet what this task waits for.
                current_gate().soon(self.at)
            try:
                send, value = iterator.send, (yield suspended)
            except BaseException as error:
                send, value = iterator.throw, error  # type: ignore[assignment]


class Script:
    """Everything that waits, in a row: a start function, the lock, the gate, yields, host awaits, hooks, closing."""

    def __init__(self, engine: str, **options: Any) -> None:
        async def limiter(instance: Instance, what: Any, delta: int) -> bool:
            await anyio.lowlevel.checkpoint()
            return True

        self.store: Store[None] = Store(
            engine=engine, strict_checkpoints=True, fixed_slice=40, growth_limiter=limiter, **options
        )
        self.env = HostModule("env")
        self.guest: Instance | None = None
        self.other: Instance | None = None
        self.entered = 0

        @self.env.function
        async def later(caller: Caller[None], value: i32) -> i32:
            self.entered += 1
            await anyio.lowlevel.checkpoint()
            if value == 2:
                await caller.call("id", 1)
                await anyio.lowlevel.checkpoint()
            return value

        @self.env.function
        def hook(value: i32) -> i32:
            return value

    async def run(self) -> int:
        module = await Module.from_text(GUEST)
        guest = self.guest = await self.store.instantiate(module, name="guest", imports={"env": self.env})
        other = self.other = await self.store.instantiate(module, imports={"env": self.env})
        result: int = 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guest.exports.later, 2)
            tasks.start_soon(other.exports.work, 20)  # it competes for the gate
            await anyio.lowlevel.checkpoint()
            result = await guest.exports.work(30)
        await guest.aclose(3)
        return result


async def test_cancelled_at_every_checkpoint(engine: str) -> None:
    number, total = -1, 0  # first once without, to count
    while number < total:
        number += 1
        script = Script(engine)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with anyio.CancelScope() as scope:
                counted = Counted(script.run(), number, scope.cancel)
                result = await counted
                assert result == 30
            total = max(total, counted.count)
            guest = script.guest
            for left in (guest, script.other):
                if scope.cancelled_caught and left is not None:
                    assert left.exit_code in (None, EXIT_CANCELLED, 3)
                    assert not left.group.stack
                    assert not left.group.queue
            assert current_gate().holder is None
            assert not current_gate().queue
            await script.store.aclose()
        assert script.store.statistics().instances == 0
        assert script.store.statistics().memory_pages == 0
        assert "guest" not in script.store
    assert total > 12


async def test_closed_at_every_checkpoint(engine: str) -> None:
    number, total = -1, 0  # first once without, to count
    while number < total:
        number += 1
        script = Script(engine)

        def close(script: Script = script) -> None:
            script.store.close_soon(7)

        counted = Counted(script.run(), number, close)
        try:
            with anyio.fail_after(20):
                assert await counted == 30
        except* ExitError as group:
            codes = {error.exit_code for error in group.exceptions if isinstance(error, ExitError)}
            assert codes <= {7, 3}
        total = max(total, counted.count)
        await script.store.aclose()
        assert current_gate().holder is None
        assert script.store.statistics().instances == 0
        if script.guest is not None:
            assert script.guest.freed
    assert total > 12


async def test_a_deadline_that_expires_inside_a_slice(engine: str) -> None:
    env = HostModule("env")

    @env.function
    def expire() -> None:
        scope.deadline = anyio.current_time() + 0.02

    async with Store(engine=engine, fixed_slice=300_000) as store:
        module = await Module.from_text(
            """(module (import "env" "expire" (func $expire))
            (func (export "expire_and_spin") (call $expire) (loop (br 0))))"""
        )
        guest = await store.instantiate(module, imports={"env": env})
        with anyio.CancelScope() as scope:
            await guest.exports.expire_and_spin()
        assert scope.cancelled_caught
        assert guest.exit_code == EXIT_DEADLINE
        guest = await store.instantiate(module, imports={"env": env})
        with pytest.raises(TimeoutError):
            with anyio.fail_after(30) as scope:
                await guest.exports.expire_and_spin()
        assert guest.exit_code == EXIT_DEADLINE


async def test_a_deadline_that_is_over_at_entry_touches_nothing(engine: str) -> None:
    """4."""
    async with Store(engine=engine, strict_checkpoints=True) as store:
        guest = await store.instantiate(await Module.from_text('(module (func (export "spin") (loop (br 0))))'))
        for seconds in (0, -1):
            with anyio.move_on_after(seconds) as scope:
                await guest.exports.spin()
            assert scope.cancelled_caught
        assert guest.exit_code is None
        assert guest.fuel_consumed == 0


async def test_a_group_of_cancellation_and_errors_of_a_host_s_tasks(engine: str) -> None:
    script = Script(engine)
    failures: list[BaseException] = []
    begun = False

    async def fail_late() -> None:
        nonlocal begun
        begun = True
        try:
            await anyio.sleep(30)
        finally:
            raise ValueError("while cancelled")

    env = HostModule("env")

    @env.function
    async def later(value: i32) -> i32:
        if value == 1:
            return value
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail_late)
            await anyio.sleep(30)
        return value

    @env.function
    def hook(value: i32) -> i32:
        return value

    async with script.store as store:
        guest = await store.instantiate(await Module.from_text(GUEST), imports={"env": env})
        async with deadline_when(lambda: begun):
            try:
                await guest.exports.later(5)
            except BaseException as error:
                failures.append(error)
        assert isinstance(failures[0], BaseExceptionGroup)
        assert any(isinstance(error, ValueError) for error in failures[0].exceptions)
        assert not guest.group.stack


async def test_closing_while_the_callback_for_fuel_waits(engine: str) -> None:
    waiting = anyio.Event()

    async def more(instance: Instance) -> int:
        waiting.set()
        await anyio.sleep(30)
        return 0

    from aiowasm import Limits  # noqa: PLC0415

    store: Store[None] = Store(engine=engine, on_out_of_fuel=more, limits=Limits(fuel=1000))
    guest = await store.instantiate(await Module.from_text('(module (func (export "spin") (loop (br 0))))'))
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:

            async def call() -> None:
                with pytest.raises(ExitError) as info:
                    await guest.exports.spin()
                assert info.value.exit_code == 6

            tasks.start_soon(call)
            await waiting.wait()
            await guest.aclose(6)
    await store.aclose()


async def test_a_failed_start_function_leaves_only_what_the_standard_says(engine: str) -> None:
    library = """(module (memory (export "memory") 1) (table (export "table") 2 funcref)
      (func (export "call") (param i32) (result i32) (call_indirect (result i32) (local.get 0))))"""
    failing = """(module (import "library" "memory" (memory 1)) (import "library" "table" (table 2 funcref))
      (data (i32.const 5) "x") (elem (i32.const 0) $f)
      (func $f (result i32) (i32.const 42)) (func $start unreachable) (start $start))"""
    async with Store(engine=engine) as store:
        guest = await store.instantiate(await Module.from_text(library), name="library")
        with pytest.raises(Trap) as info:
            await store.instantiate(await Module.from_text(failing), name="failing")
        assert any("start function" in note for note in info.value.__notes__)
        assert "failing" not in store
        assert guest.memory is not None
        assert guest.memory.read(5, 1) == b"x"
        assert store.statistics().instances == 1


async def test_an_export_of_a_half_built_instance(engine: str) -> None:
    """18: the start function's host function calls back into the instance that is being made."""
    env = HostModule("env")
    seen = []

    @env.function
    async def later(caller: Caller[None], value: i32) -> i32:
        seen.append(await caller.call("id", value + 1))
        return value

    @env.function
    def hook(value: i32) -> i32:
        return value

    async with Store(engine=engine) as store:
        guest = await store.instantiate(await Module.from_text(GUEST), imports={"env": env})
        assert seen == [2]
        assert guest.exports.started.value == 1


async def test_a_call_dropped_in_another_thread(engine: str) -> None:
    """D9 and 32."""
    script = Script(engine)
    async with script.store as store:
        guest = await store.instantiate(await Module.from_text(GUEST), imports={"env": script.env})
        script.store.strict_checkpoints = False
        await guest.exports.id(1)
        current_gate().deadline = 1 << 62  # the call starts at once
        calls = [guest.call("spin")]
        calls[0].send(None)
        current_gate().deadline = 0
        assert guest.group.stack
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            thread = threading.Thread(target=calls[0].close)
            thread.start()
            while thread.is_alive():
                await anyio.sleep(0.001)
        with anyio.fail_after(20):
            while guest.exit_code is None:
                await anyio.sleep(0.001)
        assert guest.exit_code == EXIT_CANCELLED
        assert not guest.group.stack
        assert current_gate().holder is None


async def test_collecting_garbage_at_every_yield_changes_nothing(engine: str) -> None:
    script = Script(engine)

    def collect() -> None:
        gc.collect()

    for number in range(1, 40, 3):
        script = Script(engine)
        assert await Counted(script.run(), number, collect) == 30
        await script.store.aclose()


async def test_a_task_that_crashes_takes_its_siblings_guest_along(engine: str) -> None:
    """33: a nursery that is cancelled by an error of another task."""
    script = Script(engine)
    async with script.store as store:
        guest = await store.instantiate(await Module.from_text(GUEST), imports={"env": script.env})

        async def crash() -> None:
            while guest.fuel_consumed < 1000:
                await anyio.lowlevel.checkpoint()
            raise ZeroDivisionError

        with pytest.raises(ExceptionGroup) as info:  # noqa: PT012
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(guest.exports.spin)
                tasks.start_soon(crash)
        assert [type(error) for error in info.value.exceptions] == [ZeroDivisionError]
        assert guest.exit_code == EXIT_CANCELLED
        assert not guest.group.stack


def knowing(store: Store[None]) -> HostModule:
    """A host module whose functions know the store that they are used in."""
    env = HostModule("env")

    @env.function
    async def later(value: i32) -> i32:
        assert store is not None
        return value

    @env.function
    def hook(value: i32) -> i32:
        assert store is not None
        return value

    return env


async def test_a_cycle_of_store_and_host_function_is_collected(engine: str) -> None:
    """32: a host function that knows the store that knows it; closed or not."""
    for closes in (True, False):
        store: Store[None] = Store(engine=engine)
        env = knowing(store)
        guest = await store.instantiate(await Module.from_text(GUEST), imports={"env": env})
        assert await guest.exports.hook(1) == 1
        if closes:
            await store.aclose()
        references = [weakref.ref(store), weakref.ref(guest)]
        del store, guest, env
        gc.collect()
        gc.collect()
        assert [reference() for reference in references] == [None, None]


async def test_context_variables_flow_in_and_out(engine: str) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen = []
    env = HostModule("env")

    @env.function
    async def later(value: i32) -> i32:
        seen.append(variable.get())
        variable.set(f"set by the host function {value}")
        await anyio.lowlevel.checkpoint()
        return value

    @env.function
    def hook(value: i32) -> i32:
        seen.append(variable.get())
        return value

    async with Store(engine=engine) as store:
        guest = await store.instantiate(await Module.from_text(GUEST), imports={"env": env})
        variable.set("of the caller")
        seen.clear()
        await guest.exports.later(4)
        await guest.exports.hook(5)
        assert seen == ["of the caller", "set by the host function 4"]
        assert variable.get() == "set by the host function 4"


FE_UPWARD = {"x86_64": 0x800, "aarch64": 0x400000}.get(platform.machine())


@pytest.mark.skipif(sys.platform != "linux" or FE_UPWARD is None, reason="needs the C library's fesetround")
async def test_the_rounding_mode_of_the_process_is_not_the_guest_s(engine: str) -> None:
    """40."""
    if engine != "native":
        pytest.skip("Python's own floats follow the mode of the process, and the interpreter computes with them")
    module = await Module.from_text(
        """(module (func (export "add") (param f64 f64) (result f64) (f64.add (local.get 0) (local.get 1))))"""
    )
    library = ctypes.CDLL("libm.so.6")
    async with Store(engine=engine) as store:
        guest = await store.instantiate(module)
        assert library.fesetround(FE_UPWARD) == 0
        try:
            total = await guest.exports.add(1.0, 2.0**-60)
            assert library.fegetround() == FE_UPWARD  # put back
        finally:
            library.fesetround(0)
        assert total == 1.0


# Processes of their own


def child(program: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run a program that warns of nothing."""
    source = textwrap.dedent(PRELUDE) + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", source],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if status is not None and done.returncode != status:
        raise RuntimeError(f"status {done.returncode}: {done.stdout}{done.stderr}")
    return done


PRELUDE = """
import asyncio, os, signal, sys, threading, time
import anyio
from aiowasm import *
signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts the tests may have it ignored
SPIN = '(module (func (export "spin") (loop (br 0))) (func (export "nop")))'
"""


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_interrupt_ends_a_spinning_guest(backend: str, engine: str) -> None:
    """35."""
    done = child(
        f"""
        async def main():
            async with Store(engine={engine!r}) as store:
                guest = await store.instantiate(await Module.from_text(SPIN))
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
                try:
                    await guest.exports.spin()
                finally:
                    print(guest.exit_code == EXIT_CANCELLED, not guest.group.stack, flush=True)
        try:
            anyio.run(main, backend={backend!r})
        except KeyboardInterrupt:
            print("interrupted")
        except BaseExceptionGroup as group:
            print("interrupted" if group.subgroup(KeyboardInterrupt) else group)
        """
    )
    assert done.stdout.split("\n")[:2] == ["True True", "interrupted"]


def test_a_loop_that_ends_with_a_guest_left(engine: str) -> None:
    """33 and 34: asyncio.run cancels what is left; a loop that is closed without that only drops it."""
    done = child(
        f"""
        async def left():
            store = Store(engine={engine!r})
            guest = await store.instantiate(await Module.from_text(SPIN))
            task = asyncio.ensure_future(guest.exports.spin())
            await asyncio.sleep(0.05)
            return guest, task
        guest, task = asyncio.run(left())
        print(guest.exit_code == EXIT_CANCELLED, task.cancelled())
        """
    )
    assert done.stdout == "True True\n"
    assert "ignored" not in done.stderr
    done = child(
        f"""
        import gc, warnings
        warnings.simplefilter("ignore")
        loop = asyncio.new_event_loop()
        async def left():
            store = Store(engine={engine!r})
            guest = await store.instantiate(await Module.from_text(SPIN))
            task = asyncio.ensure_future(guest.exports.spin())
            await asyncio.sleep(0.05)
            return guest
        guest = loop.run_until_complete(left())
        loop.close()
        gc.collect()
        print(guest.exit_code in (None, EXIT_CANCELLED))
        """
    )
    assert done.stdout == "True\n"
    assert "coroutine ignored GeneratorExit" not in done.stderr


def test_a_process_that_ends_with_guests_suspended(engine: str) -> None:
    """32: nothing is closed, and nothing is said: hooks of the interpreter's end come in any order."""
    done = child(
        f"""
        import atexit
        calls = []
        @atexit.register
        def last():
            print(guest.exit_code, flush=True)
        async def main():
            global guest
            store = Store(engine={engine!r})
            guest = await store.instantiate(await Module.from_text(SPIN))
            call = guest.call("spin")
            while not guest.fuel_consumed:
                call.send(None)
            calls.append(call)
        import warnings
        warnings.simplefilter("ignore", ResourceWarning)
        asyncio.run(main())
        """
    )
    assert done.stdout == "None\n"
    assert "Error" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("where", ["await", "def", "twice"])
def test_an_interrupt_in_a_host_function(backend: str, where: str, engine: str) -> None:
    """35: while an async host function waits, in a `def` one, and again while the first is on its way out."""
    done = child(
        f"""
        env = HostModule("env")
        def interrupt():
            os.kill(os.getpid(), signal.SIGINT)
        @env.function
        async def later() -> None:
            threading.Timer(0.05, interrupt).start()
            try:
                await anyio.sleep(30)
            finally:
                if {where!r} == "twice":
                    interrupt()
        @env.function
        def hook() -> None:
            interrupt()
            for _ in range(1000):
                pass
        GUEST = '''(module (import "env" "later" (func $later)) (import "env" "hook" (func $hook))
            (func (export "await") (call $later)) (func (export "twice") (call $later))
            (func (export "def") (call $hook) (loop (br 0))))'''
        async def main():
            async with Store(engine={engine!r}) as store:
                guest = await store.instantiate(await Module.from_text(GUEST), imports={{"env": env}})
                try:
                    await guest.call({where!r})
                finally:
                    print(guest.exit_code == EXIT_CANCELLED, not guest.group.stack, flush=True)
        try:
            anyio.run(main, backend={backend!r})
        except KeyboardInterrupt:
            print("interrupted")
        except BaseExceptionGroup as group:
            print("interrupted" if group.subgroup(KeyboardInterrupt) else group)
        """,
        status=None,
    )
    assert done.stdout.split("\n")[:2] == ["True True", "interrupted"], done.stderr


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
def test_signals_and_tracing_while_guests_run(engine: str) -> None:
    """36: a signal every millisecond, faulthandler's watchdog and a trace function; the result is the same.

    The watchdog reads Python's frames without the GIL: where they change meanwhile, CPython itself can crash. In slices
    of the native engine they stand still.
    """
    done = child(
        f"""
        import faulthandler, tempfile
        ticks = 0
        def tick(*_):
            global ticks
            ticks += 1
        signal.signal(signal.SIGALRM, tick)
        signal.signal(signal.SIGPROF, tick)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
        FIB = '''(module (func $fib (export "fib") (param i32) (result i32)
            (if (result i32) (i32.lt_u (local.get 0) (i32.const 2)) (then (local.get 0))
              (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1)))
                             (call $fib (i32.sub (local.get 0) (i32.const 2))))))))'''
        async def main():
            async with Store(engine={engine!r}, limits=Limits(sync_fuel=10**12)) as store:
                guest = await store.instantiate(await Module.from_text(FIB))
                end = time.monotonic() + 0.3
                while time.monotonic() < end:
                    assert await guest.exports.fib(15) == 610
                if guest.engine == "native":
                    with tempfile.TemporaryFile("w+") as file:
                        faulthandler.dump_traceback_later(0.01, file=file)
                        assert guest.exports.fib.nowait(36) == 14930352
                        file.seek(0)
                        assert "nowait" in file.read()
                sys.settrace(lambda frame, event, argument: None)
                assert await guest.exports.fib(15) == 610
                sys.settrace(None)
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(ticks > 10)
        anyio.run(main)
        """
    )
    assert done.stdout == "True\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_cannot_use_the_store(engine: str) -> None:
    """37."""
    done = child(
        f"""
        async def main():
            async with Store(engine={engine!r}) as store:
                guest = await store.instantiate(await Module.from_text(SPIN))
                task = asyncio.ensure_future(guest.exports.spin())
                await asyncio.sleep(0.05)
                other = await store.instantiate(await Module.from_text(SPIN))
                pid = os.fork()
                if not pid:
                    try:
                        other.exports.nop.nowait()
                    except RuntimeError as error:
                        os._exit(0 if "one event loop" in str(error) else 3)
                    os._exit(4)
                _, status = os.waitpid(pid, 0)
                await other.exports.nop()
                print(os.waitstatus_to_exitcode(status), task.done())
                task.cancel()
        asyncio.run(main())
        """
    )
    assert done.stdout == "0 False\n"


def test_debug_mode_warns_of_nothing(engine: str) -> None:
    """44."""
    done = child(
        f"""
        async def main():
            async with Store(engine={engine!r}) as store:
                guest = await store.instantiate(await Module.from_text(SPIN))
                with anyio.move_on_after(0.2):
                    await guest.exports.spin()
            print("done")
        anyio.run(main, backend_options={{"debug": True}})
        """
    )
    assert done.stdout == "done\n"
    # How long the machine takes to import and to get round to it is another matter.
    assert not [line for line in done.stderr.splitlines() if not line.startswith("Executing ")], done.stderr
