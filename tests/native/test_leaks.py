"""Calls cancelled at random fuel leave stacks, address space, memory and descriptors where they were.

A twentieth of the full number by default; `AIOWASM_LEAK_ROUNDS=1` runs all 24,000.
"""

from __future__ import annotations

import gc
import os
import random
import sys
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.lowlevel
import pytest

from aiowasm import Instance, Module, Store
from aiowasm.engine.native import Native
from aiowasm.engine.native.stack import GuestStack
from tests.store.test_leaks import environment

pytestmark = pytest.mark.anyio

COUNT = int(24_000 * float(os.environ.get("AIOWASM_LEAK_ROUNDS", "0.05")))
GUEST = """(module
  (import "env" "later" (func $later (param i32) (result i32)))
  (memory (export "memory") 1 100)
  (tag $t (param i32))
  (func (export "id") (param i32) (result i32) (local.get 0))
  (func $deep (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (call $deep (i32.sub (local.get 0) (i32.const 1))) (i32.const 1)))
      (else (call $later (i32.const 5)))))
  (func $throw (param i32) (throw $t (local.get 0)))
  (func (export "spin") (param i32) (loop (br 0)))
  (func (export "deep") (param i32) (loop (drop (call $deep (local.get 0))) (br 0)))
  (func (export "grow") (param i32)
    (loop (drop (memory.grow (i32.const 1)))
      (memory.fill (i32.const 0) (local.get 0) (i32.const 60000))
      (br 0)))
  (func (export "throw") (param i32)
    (loop
      (block $h (result i32) (try_table (catch $t $h) (call $throw (local.get 0))) (unreachable))
      (drop) (br 0)))
  (func (export "later") (param i32) (loop (drop (call $later (local.get 0))) (br 0))))"""


class Held(NamedTuple):
    """What a process holds, as far as it can be counted exactly."""

    stacks: int
    areas: int
    descriptors: int
    blocks: int


def held() -> Held:
    gc.collect()
    gc.collect()
    stacks = sum(isinstance(thing, GuestStack) for thing in gc.get_objects())
    areas = len(Path("/proc/self/maps").read_text().splitlines())
    return Held(stacks, areas, len(os.listdir("/proc/self/fd")), sys.getallocatedblocks())


async def cancelled(guest: Instance, rng: random.Random) -> None:
    name = rng.choice(("spin", "deep", "grow", "throw", "later"))
    argument = rng.randrange(1, 300)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(guest.call, name, argument)
        for _ in range(rng.randrange(1, 6)):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_cancelled_at_random_fuel(native: Native, anyio_backend: str) -> None:
    del native  # skips where there is no machine code
    rng = random.Random(anyio_backend)
    module = await Module.from_text(GUEST)
    env = environment()
    async with Store(engine="native", tick_budget_seconds=1e-6) as store:
        guests = [await store.instantiate(module, imports={"env": env}) for _ in range(3)]
        before = None
        for number in range(COUNT):
            if number == COUNT // 10:
                before = held()
            index = number % 3
            if guests[index].exit_code is not None:
                guests[index] = await store.instantiate(module, imports={"env": env})
            store.fixed_slice = rng.randrange(1, 2000)
            await cancelled(guests[index], rng)
        assert before is not None
        after = held()
        engine = guests[0].backend
        assert isinstance(engine, Native)
        assert after.stacks <= max(before.stacks, 16)
        assert after.areas - before.areas < 60
        assert after.descriptors <= before.descriptors
        assert after.blocks - before.blocks < 3000
        assert not engine.pool.waiting
        assert not engine._tickets
        assert store.statistics().memory_pages <= 300
