"""Hostile guests: each ends with its own exception within its limit; the process and the other guests are unharmed.

A case is a module and what it is expected to end with. Beside each runs a friendly guest, whose calls must go on
working, before, during and after; and the process must not grow by more than a bound.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest

from aiowasm import (
    EXIT_DEADLINE,
    Caller,
    DeadlineError,
    HostModule,
    InvalidError,
    LimitError,
    Limits,
    LinkError,
    MalformedError,
    Module,
    OutOfFuel,
    Store,
    Trap,
    i32,
)
from aiowasm.host.wasi import Wasi

pytestmark = pytest.mark.anyio

LIMITS = Limits(
    memory_pages=64,
    table_elements=10_000,
    heap_bytes=4_000_000,
    total_memory_pages=256,
    total_heap_bytes=8_000_000,
    fuel=None,
    timeout=None,
)
MAX_GROWTH_NBYTES = 80_000_000

WASI = """(import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)"""


@dataclass(frozen=True)
class Case:
    """A module, how it is run, and what comes of it. `fuel` and `timeout` are those of the call."""

    text: str
    error: type[BaseException] | tuple[type[BaseException], ...]
    words: str = ""
    fuel: int | None = None
    timeout: float | None = None
    wasi: bool = False


CASES = {
    "endless loop": Case('(module (func (export "_start") (loop (br 0))))', DeadlineError, timeout=0.1),
    "endless loop, metered": Case('(module (func (export "_start") (loop (br 0))))', OutOfFuel, fuel=100_000),
    "deep recursion": Case(
        '(module (func $f (export "_start") (call $f)))', Trap, "call stack exhausted", fuel=10_000_000
    ),
    "recursion with many locals": Case(
        '(module (func $f (export "_start") (local ' + "i64 " * 1000 + ") (call $f)))", Trap, "call stack exhausted"
    ),
    "tail calls for ever": Case(
        '(module (func $f (export "_start") (return_call $g)) (func $g (return_call $f)))', DeadlineError, timeout=0.1
    ),
    "memory hoarded": Case(
        """(module (memory 1) (func (export "_start")
          (loop (br_if 0 (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
          (memory.fill (i32.const 0) (i32.const 1) (i32.mul (memory.size) (i32.const 65536)))
          (if (i32.eq (memory.size) (i32.const 64)) (then unreachable))))""",
        Trap,
        "unreachable",
    ),
    "table hoarded": Case(
        """(module (table 1 funcref) (func (export "_start")
          (loop (br_if 0 (i32.ne (table.grow (ref.null func) (i32.const 100)) (i32.const -1))))
          (if (i32.gt_u (table.size) (i32.const 9000)) (then unreachable))))""",
        Trap,
        "unreachable",
    ),
    "too much memory from the start": Case('(module (memory 65536) (func (export "_start")))', LimitError),
    "print flood": Case(
        f"""(module {WASI} (data (i32.const 0) "\\10\\00\\00\\00\\00\\80\\00\\00")
          (func (export "_start")
            (loop (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br 0))))""",
        LimitError,
        "wrote more than",
        wasi=True,
    ),
    "sleep for ever": Case(
        f"""(module {WASI} (func (export "_start")
            (i64.store (i32.const 24) (i64.const 0x7fffffffffffffff))
            (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))""",
        DeadlineError,
        timeout=0.1,
        wasi=True,
    ),
    "poll that never fires": Case(
        f"""(module {WASI} (func (export "_start")
            (i32.store8 (i32.const 8) (i32.const 1))
            (loop (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))) (br 0))))""",
        DeadlineError,
        timeout=0.1,
        wasi=True,
    ),
    "host-call storm": Case(
        """(module (import "env" "quick" (func $quick (param i32) (result i32)))
          (func (export "_start") (loop (drop (call $quick (i32.const 1))) (br 0))))""",
        DeadlineError,
        timeout=0.1,
    ),
    "storm of async host calls": Case(
        """(module (import "env" "later" (func $later (param i32) (result i32)))
          (func (export "_start") (loop (drop (call $later (i32.const 1))) (br 0))))""",
        DeadlineError,
        timeout=0.1,
    ),
    "huge br_table": Case(
        '(module (func (export "_start") (loop (br_table ' + "0 " * 50_000 + "(i32.const 49999)))))",
        DeadlineError,
        timeout=0.3,
    ),
    "huge locals": Case(
        '(module (func (export "_start") (local ' + "i64 " * 60_000 + ")))", (InvalidError, MalformedError), "locals"
    ),
    "start function that never ends": Case(
        '(module (func $f (loop (br 0))) (start $f) (func (export "_start")))', DeadlineError, timeout=0.1
    ),
    "import of itself": Case('(module (import "guest" "f" (func)) (func (export "f")))', LinkError, "not instantiated"),
    "a synchronous call into a guest that spins": Case(
        """(module (import "env" "call_back" (func $back (param i32) (result i32)))
          (func (export "spin") (loop (br 0)))
          (func (export "_start") (drop (call $back (i32.const 0)))))""",
        anyio.WouldBlock,
        "sync_fuel",
    ),
    "exceptions thrown for ever": Case(
        """(module (tag $t) (func (export "_start")
          (loop (block (try_table (catch $t 0) (throw $t))) (br 0))))""",
        DeadlineError,
        timeout=0.1,
    ),
    "an exception rethrown for ever": Case(
        """(module (tag $t) (func $thrown (result exnref)
            (block (result exnref) (try_table (result exnref) (catch_all_ref 0) (throw $t))))
          (func (export "_start") (local $e exnref)
          (local.set $e (call $thrown))
          (loop (block (result exnref) (try_table (catch_all_ref 0) (throw_ref (local.get $e))) (unreachable))
            (local.set $e) (br 0))))""",
        DeadlineError,
        timeout=0.1,
    ),
    "structs hoarded": Case(
        """(module (type $n (struct (field (ref null $n)))) (global $h (mut (ref null $n)) (ref.null $n))
          (func (export "_start") (loop (global.set $h (struct.new $n (global.get $h))) (br 0))))""",
        Trap,
        "heap exhausted",
    ),
    "a huge array": Case(
        """(module (type $a (array (mut i64)))
          (func (export "_start") (drop (array.new $a (i64.const 0) (i32.const 0x7fffffff)))))""",
        Trap,
        "heap exhausted",
    ),
    "huge copies": Case(
        """(module (memory 64) (func (export "_start")
          (loop (memory.copy (i32.const 0) (i32.const 1) (i32.const 4194303)) (br 0))))""",
        DeadlineError,
        timeout=0.1,
    ),
}


def resident() -> int:
    """Bytes of the process in RAM; 0 where that cannot be known."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 if statm.exists() else 0


def environment() -> HostModule:
    env = HostModule("env")

    @env.function
    def quick(value: i32) -> i32:
        return value

    @env.function
    async def later(value: i32) -> i32:
        return value

    @env.function
    def call_back(caller: Caller[Any], value: i32) -> i32:
        caller.call_sync("spin")
        return value

    return env


class Friend:
    """A guest that is called all the time while another misbehaves."""

    def __init__(self, store: Store[Any]) -> None:
        self.store = store
        self.calls = 0

    async def run(self, hostile: Callable[[], Awaitable[None]]) -> None:
        module = await Module.from_text(
            '(module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))'
        )
        guest = await self.store.instantiate(module)
        assert await guest.exports.add(1, 2) == 3
        async with anyio.create_task_group() as tasks:

            async def go_on() -> None:
                while True:
                    assert await guest.exports.add(2, 3) == 5
                    self.calls += 1
                    await anyio.sleep(0.002)

            tasks.start_soon(go_on)
            await anyio.sleep(0.01)
            await hostile()
            await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
        assert self.calls > 1
        assert await guest.exports.add(3, 4) == 7


@pytest.mark.parametrize("name", CASES)
async def test_a_hostile_guest_ends_within_its_limit(engine: str, name: str) -> None:
    case = CASES[name]
    if engine == "native" and case.words == "heap exhausted":
        pytest.skip("the native engine lacks gc: such modules run in the interpreter")
    gc.collect()
    before = resident()
    async with Store(engine=engine, limits=LIMITS) as store:

        async def attack() -> None:
            limits = Limits(fuel=case.fuel, timeout=case.timeout)
            module = await Module.from_text(case.text)
            if case.wasi:
                await store.run_command(module, Wasi(max_output_nbytes=1_000_000), limits=limits)
                return
            env = environment()
            guest = await store.instantiate(module, name="guest", imports={"env": env}, limits=limits)
            await guest.exports._start()

        async def hostile() -> None:
            with anyio.fail_after(30), pytest.raises(case.error) as info:
                await attack()
            assert case.words in str(info.value)
            if case.error is DeadlineError:
                assert info.value.exit_code == EXIT_DEADLINE

        await Friend(store).run(hostile)
    gc.collect()
    assert resident() - before < MAX_GROWTH_NBYTES
    statistics = store.statistics()
    assert (statistics.instances, statistics.memory_pages, statistics.table_elements) == (0, 0, 0)


async def test_a_data_count_without_data_is_refused_at_once() -> None:
    header = b"\0asm\1\0\0\0"
    for section in (1, 2, 3, 4, 6, 7, 9, 10, 11):
        with pytest.raises((MalformedError, InvalidError)):
            await Module.from_bytes(header + bytes((section, 5, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F)))
    with pytest.raises((MalformedError, InvalidError)):
        await Module.from_bytes(header + bytes((12, 5, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F)))


async def test_modules_that_import_each_other_fail(engine: str) -> None:
    one = await Module.from_text('(module (import "two" "f" (func)) (func (export "f")))')
    two = await Module.from_text('(module (import "one" "f" (func)) (func (export "f")))')
    async with Store(engine=engine) as store:
        failures = 0

        async def instantiate(module: Module, name: str) -> None:
            nonlocal failures
            with pytest.raises(LinkError):
                await store.instantiate(module, name=name)
            failures += 1

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(instantiate, one, "one")
                tasks.start_soon(instantiate, two, "two")
        assert failures == 2
