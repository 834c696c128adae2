"""Nothing is left behind: by calls cancelled at random points, by instances made and closed.

A tenth of the full numbers by default; `AIOWASM_LEAK_ROUNDS=1` runs all of them (10^5 calls, 10^4 instances).
"""

from __future__ import annotations

import gc
import os
import random
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from aiowasm import AiowasmError, Caller, HostModule, Instance, Limits, Module, Store, Trap, i32
from aiowasm.store.activation import Activation
from aiowasm.store.gate import current_gate
from aiowasm.syntax import matching

pytestmark = pytest.mark.anyio

SHARE = float(os.environ.get("AIOWASM_LEAK_ROUNDS", "0.1"))
GUEST = """(module
  (import "env" "later" (func $later (param i32) (result i32)))
  (memory (export "memory") 1)
  (type $pair (func (param i32 i64) (result i32 i64)))
  (table (export "table") 2 funcref)
  (func (export "id") (param i32) (result i32) (local.get 0))
  (func (export "spin") (loop (br 0)))
  (func (export "later") (param i32) (result i32) (call $later (local.get 0))))"""
USER = """(module
  (import "library" "memory" (memory 1))
  (import "library" "table" (table 2 funcref))
  (import "library" "id" (func $id (param i32) (result i32)))
  (func (export "id") (param i32) (result i32) (call $id (local.get 0)))
  (elem (i32.const 0) $id))"""


def environment() -> HostModule:
    env = HostModule("env")

    @env.function
    async def later(caller: Caller[Any], value: i32) -> i32:
        for _ in range(value % 4):
            await anyio.lowlevel.checkpoint()
        if value % 3 == 0:
            await caller.call("id", 1)
        return value

    return env


def objects() -> int:
    """How many objects of ours (and of what they hold) are alive."""
    gc.collect()
    gc.collect()
    # Some types have a descriptor there instead of a name.
    return sum(str(type(thing).__module__).startswith("aiowasm") for thing in gc.get_objects())


def descriptors() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


async def cancelled_call(guest: Instance, rng: random.Random) -> None:
    name, arguments = rng.choice((("spin", ()), ("later", (rng.randrange(12),)), ("id", (1,))))
    rounds = rng.randrange(4)
    async with anyio.create_task_group() as tasks:

        async def call() -> None:
            await guest.call(name, *arguments)

        tasks.start_soon(call)
        for _ in range(rounds):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


async def test_cancelled_calls_leave_nothing(engine: str) -> None:
    rng = random.Random(1)
    module = await Module.from_text(GUEST)
    env = environment()
    async with Store(engine=engine, tick_budget_seconds=1e-6, fixed_slice=20, strict_checkpoints=True) as store:
        guests = [await store.instantiate(module, imports={"env": env}) for _ in range(2)]
        blocks, alive, files = 0, 0, 0
        count = int(100_000 * SHARE)
        for number in range(count):
            if number == count // 10:
                alive, files, blocks = objects(), descriptors(), sys.getallocatedblocks()
            index = number % 2
            if guests[index].exit_code is not None:
                guests[index] = await store.instantiate(module, imports={"env": env})
            await cancelled_call(guests[index], rng)
        assert objects() - alive < 40
        assert descriptors() <= files
        assert sys.getallocatedblocks() - blocks < 3000
        for guest in guests:
            assert not guest.group.stack
            assert not guest.group.queue
        assert current_gate().holder is None
        assert not current_gate().queue
        assert store.statistics().instances <= 2


@pytest.mark.parametrize("linked", [False, True])
async def test_instances_made_and_closed_leave_nothing(engine: str, linked: bool) -> None:
    module = await Module.from_text(GUEST)
    user_module = await Module.from_text(USER)
    env = environment()
    async with Store(engine=engine) as store:
        await store.instantiate(env)
        library = await store.instantiate(module, name="library")
        rounds = int(10_000 * SHARE)
        blocks, alive, files, types = 0, 0, 0, 0
        for number in range(rounds):
            if number == rounds // 10:
                alive, files, blocks = objects(), descriptors(), sys.getallocatedblocks()
                types = len(matching._groups)
            source = user_module if linked else module
            instance = await store.instantiate(source, name="guest")
            assert await instance.exports.id(1) == 1
            if number % 7 == 0:
                with pytest.raises(AiowasmError):
                    await store.instantiate(b"\0asm\1\0\0\0\1\4\1\x60\0\0\2\7\1\1a\1b\0\0")
            await instance.aclose()
        assert objects() - alive < 40
        assert descriptors() <= files
        assert sys.getallocatedblocks() - blocks < 3000
        assert len(matching._groups) <= types
        assert store.instances == (store["env"], library)
        assert set(library.group.members) == {library}
        assert store.statistics().memory_pages == 1


async def test_host_errors_leave_no_shadow_stack(engine: str) -> None:
    module = await Module.from_text(
        """(module (import "env" "fail" (func $fail))
        (global $sp (export "__stack_pointer") (mut i32) (i32.const 1000000))
        (func (export "frame") (global.set $sp (i32.sub (global.get $sp) (i32.const 16))) (call $fail)
          (global.set $sp (i32.add (global.get $sp) (i32.const 16)))))"""
    )
    env = HostModule("env")
    error = KeyError("of the host")

    @env.function
    def fail() -> None:
        error.__traceback__ = None
        error.__notes__ = []
        raise error

    async with Store(engine=engine, restore_stack_pointer=True) as store:
        guest = await store.instantiate(module, imports={"env": env})
        for _ in range(int(100_000 * SHARE)):
            try:
                guest.exports.frame.nowait()
            except KeyError:
                continue
        assert guest.globals["__stack_pointer"].value == 1_000_000


async def test_a_closed_namespace_leaves_nothing(engine: str) -> None:
    module = await Module.from_text(GUEST)
    env = environment()
    async with Store(engine=engine) as store:
        alive = 0
        for number in range(int(500 * SHARE) + 20):
            if number == 10:
                alive = objects()
            async with store.namespace(f"tenant-{number}", limits=Limits(memory_pages=4)) as tenant:
                await tenant.instantiate(env)
                guest = await tenant.instantiate(module, name="guest")
                await guest.exports.later(3)
        assert objects() - alive < 40
        assert store.statistics().instances == 0


async def test_calls_that_end_badly_are_gone_at_once(engine: str) -> None:
    """Without the collector: nothing of a call is in a cycle with the traceback of what it raised."""
    text = '(module (func (export "boom") unreachable) (func (export "spin") (loop (br 0))))'
    async with Store(engine=engine) as store:
        guest = await store.instantiate(await Module.from_text(text))

        async def fail() -> None:
            for name, options in (("boom", {}), ("boom", {"timeout": 60}), ("spin", {"fuel": 100})):
                with pytest.raises(Trap):
                    await guest.call(name, **options)
            with pytest.raises(Trap):
                await guest.exports.boom()

        await fail()
        gc.collect()
        before = sum(isinstance(thing, Activation) for thing in gc.get_objects())
        gc.disable()
        try:
            for _ in range(10):
                await fail()
            assert sum(isinstance(thing, Activation) for thing in gc.get_objects()) <= before
        finally:
            gc.enable()
