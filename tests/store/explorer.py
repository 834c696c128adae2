"""The schedule explorer: random programs of tasks and guests under random, reproducible schedules.

The ready queue of the event loop is shuffled in every iteration and time is a number, so that a seed is a schedule.
What is looked for: lost wake-ups (nothing is ready and nothing is scheduled), two activations that run in one group,
and what is left behind: batons, places in queues, names, stacks.

Run by itself it explores as many seeds as it is told: `python -m tests.store.explorer 100000`.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

import aiowasm.store.drive
import aiowasm.store.func
import aiowasm.store.gate
import aiowasm.store.hostcalls
from aiowasm import (
    Caller,
    ExitError,
    HostModule,
    Instance,
    LimitError,
    LinkError,
    Module,
    OutOfFuel,
    ReentrancyError,
    Store,
    Trap,
    i32,
)
from aiowasm.store.gate import current_gate

TEXT = """(module
  (import "env" "hook" (func $hook (param i32) (result i32)))
  (import "env" "later" (func $later (param i32) (result i32)))
  (memory (export "memory") 1 6)
  (func (export "id") (param i32) (result i32) (local.get 0))
  (func (export "spin") (loop (br 0)))
  (func (export "work") (param i32) (result i32)
    (loop (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0))) (i32.const 1))
  (func (export "grow") (drop (memory.grow (i32.const 1))) (drop (memory.grow (i32.const 2))))
  (func (export "boom") unreachable)
  (func (export "hook") (param i32) (result i32) (call $hook (local.get 0)))
  (func (export "later") (param i32) (result i32) (call $hook (call $later (local.get 0)))))"""
LINKED = """(module
  (import "other" "memory" (memory 1 6)) (export "memory" (memory 0))
  (import "other" "later" (func $later (param i32) (result i32)))
  (import "other" "work" (func $work (param i32) (result i32)))
  (func (export "id") (param i32) (result i32) (local.get 0))
  (func (export "spin") (loop (br 0)))
  (func (export "grow") (drop (memory.grow (i32.const 1))))
  (func (export "boom") unreachable)
  (func (export "hook") (param i32) (result i32) (local.get 0))
  (func (export "work") (param i32) (result i32) (call $work (local.get 0)))
  (func (export "later") (param i32) (result i32) (call $later (local.get 0))))"""

EXPECTED = (ExitError, Trap, OutOfFuel, anyio.WouldBlock, ReentrancyError, LimitError, LinkError, TimeoutError)


class FoundError(Exception):
    """Something that must not happen did."""


class PlainError(Exception):
    """A host function's own."""


class ShuffledLoop(asyncio.SelectorEventLoop):
    """Callbacks that are ready run in random order; when none is, time jumps to the next that is scheduled."""

    def __init__(self) -> None:
        self.random = random.Random(0)
        self.now = 0.0
        super().__init__()

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        ready: Any = self._ready  # type: ignore[attr-defined]
        scheduled: Any = self._scheduled  # type: ignore[attr-defined]
        self.now += 0.0002  # guests that spin keep the loop busy: time goes on for them too
        if ready:
            shuffled = list(ready)
            self.random.shuffle(shuffled)
            ready.clear()
            ready.extend(shuffled)
        else:
            while scheduled and scheduled[0]._cancelled:
                scheduled.pop(0)
                scheduled.sort()
            if not scheduled:
                waiting = [repr(task.get_stack()[-1:]) for task in asyncio.all_tasks(self)]
                raise FoundError(f"a lost wake-up: nothing is ready and nothing is scheduled; {waiting}")
            self.now = max(self.now, scheduled[0]._when)
        super()._run_once()  # type: ignore[misc]


class Clock:
    """Stands for `perf_counter_ns`: every look at it takes a random time."""

    def __init__(self) -> None:
        self.random = random.Random(0)
        self.now = 0

    def __call__(self) -> int:
        self.now += self.random.choice((1_000, 20_000, 400_000))
        return self.now


CLOCK = Clock()
MODULES = (aiowasm.store.drive, aiowasm.store.func, aiowasm.store.gate, aiowasm.store.hostcalls)


class Scenario:
    """One random program: some guests, linked or not, and some tasks that do things to them."""

    def __init__(self, seed: int, module: Module, linked: Module, engine: str) -> None:
        self.random = random.Random(seed)
        self.module = module
        self.linked = linked
        self.store: Store[None] = Store(
            engine=engine,
            fixed_slice=self.random.choice((1, 7, 50)),
            strict_checkpoints=self.random.random() < 0.3,
            on_cancel=self.random.choice(("close", "close", "unwind")),
            close_grace_seconds=100.0,
            growth_limiter=self.limit if self.random.random() < 0.3 else None,
        )
        self.guests: list[Instance] = []
        self.tasks: TaskGroup | None = None
        self.env = HostModule("env")

        @self.env.function
        def hook(caller: Caller[None], value: i32) -> i32:
            self.check(caller)
            return self.hook(caller, value)

        @self.env.function
        async def later(caller: Caller[None], value: i32) -> i32:
            self.check(caller)
            return await self.later(caller, value)

    async def limit(self, instance: Instance, what: Any, delta: int) -> bool:
        for _ in range(self.random.randrange(3)):
            await anyio.lowlevel.checkpoint()
        if self.random.random() < 0.2:
            await instance.exports.id(1)
        return self.random.random() < 0.8

    def check(self, caller: Caller[Any]) -> None:
        """The activation that called is on top of its group's stack: nobody else runs there."""
        activation = caller._activation
        if activation.parked is not None:  # it has given the group away
            return
        stack = activation.instance.group.stack
        if not stack or stack[-1] is not activation:
            raise FoundError(f"two activations run in one group: {activation} and {stack}")

    def hook(self, caller: Caller[Any], value: int) -> int:
        what = self.random.randrange(6)
        if what == 0:
            raise PlainError
        if what == 1:
            caller.exit(value)
        if what == 2:
            caller.yield_soon()
        if what == 3:
            result: int = caller.call_sync("id", value)
            return result
        return value

    async def later(self, caller: Caller[Any], value: int) -> int:
        what = self.random.randrange(11)
        if what == 0:
            raise PlainError
        if what == 10 and self.tasks is not None:  # a child that outlives its host call
            self.tasks.start_soon(self.quietly, caller.instance.exports.later, value)
            for _ in range(self.random.randrange(4)):
                await anyio.lowlevel.checkpoint()
        elif what == 1:
            await anyio.sleep(self.random.random() * 0.01)
        elif what == 2:
            await caller.call("id", value)
        elif what == 3 and value > 0:
            await self.pick().exports.later(value - 1)
        elif what == 4:
            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(self.quietly, caller.instance.exports.id, value)
        elif what == 5:
            with anyio.move_on_after(0.001):
                await caller.call("spin")
        elif what == 6:
            caller.instance.close_soon(9)
        else:
            for _ in range(self.random.randrange(3)):
                await anyio.lowlevel.checkpoint()
        return value

    def pick(self) -> Instance:
        return self.random.choice(self.guests)

    async def quietly(self, function: Callable[..., Any], *arguments: Any) -> None:
        try:
            await function(*arguments)
        except (*EXPECTED, PlainError):
            return

    async def add(self, name: str | None = None) -> None:
        linked = self.guests and self.random.random() < 0.4
        if linked:
            guest = await self.store.instantiate(self.linked, name=name, imports={"other": self.pick()})
        else:
            guest = await self.store.instantiate(
                self.module, name=name, imports={"env": self.env}, interleave=self.random.random() < 0.2
            )
        self.guests.append(guest)

    async def act(self) -> None:
        what = self.random.randrange(13)
        guest = self.pick()
        if what == 0:
            await guest.exports.id(1)
        elif what == 1:
            with anyio.move_on_after(self.random.random() * 0.01):
                await guest.exports.spin()
        elif what == 2:
            await guest.call("spin", timeout=self.random.random() * 0.01)
        elif what == 3:
            await guest.call("spin", fuel=self.random.randrange(200))
        elif what in (4, 5):
            await guest.exports.later(self.random.randrange(3))
        elif what == 6:
            await guest.exports.hook(1)
        elif what == 7:
            guest.exports.id.nowait(1)
        elif what == 8:
            await guest.exports.boom()
        elif what == 9:
            await self.add(self.random.choice((None, "a", "b")))
        elif what == 10:
            await guest.exports.work(self.random.randrange(1, 60))
        elif what == 11:
            await guest.exports.grow()
        elif self.random.random() < 0.5:
            guest.close_soon(3)
        else:
            await guest.aclose(4)

    async def task(self) -> None:
        with anyio.CancelScope() as scope:
            if self.random.random() < 0.3:
                scope.deadline = anyio.current_time() + self.random.random() * 0.02
            for _ in range(self.random.randrange(1, 5)):
                try:
                    await self.act()
                except (*EXPECTED, PlainError):
                    continue

    async def run(self) -> None:
        async with self.store:
            for _ in range(self.random.randrange(1, 4)):
                await self.add()
            async with anyio.create_task_group() as tasks:
                self.tasks = tasks
                for _ in range(self.random.randrange(2, 7)):
                    tasks.start_soon(self.task)
                if self.random.random() < 0.1:
                    await anyio.sleep(self.random.random() * 0.01)
                    self.store.close_soon(1)
        self.verify()

    def verify(self) -> None:
        """Nothing is left."""
        gate = current_gate()
        if gate.holder is not None or gate.queue:
            raise FoundError(f"the baton was not given back: {gate.holder}, {gate.queue}")
        for guest in self.guests:
            group = guest.group
            if group.stack or group.queue or group.parked or group.leaving or not guest.freed:
                left = {name: getattr(group, name) for name in ("stack", "queue", "parked", "leaving")}
                raise FoundError(f"{guest} was not left properly: {left}, freed {guest.freed}")
        statistics = self.store.statistics()
        if statistics.instances or statistics.memory_pages or self.store.instances or self.store._default._names:
            raise FoundError(f"something is left in the store: {statistics}")


async def explore(seeds: range, engine: str) -> None:
    """Run a scenario for each seed."""
    module, linked = await Module.from_text(TEXT), await Module.from_text(LINKED)
    loop = None
    if anyio.get_cancelled_exc_class() is asyncio.CancelledError:
        loop = asyncio.get_running_loop()
    for seed in seeds:
        CLOCK.random.seed(seed)
        if isinstance(loop, ShuffledLoop):
            loop.random.seed(seed)
        scenario = Scenario(seed, module, linked, engine)
        try:
            await scenario.run()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def explore_shuffled(seeds: range, engine: str = "interpreter") -> None:
    """Explore schedules of asyncio."""
    before = [module.perf_counter_ns for module in MODULES]
    for module in MODULES:
        module.perf_counter_ns = CLOCK  # type: ignore[attr-defined]
    try:
        anyio.run(explore, seeds, engine, backend_options={"loop_factory": ShuffledLoop})
    finally:
        for module, function in zip(MODULES, before, strict=True):
            module.perf_counter_ns = function  # type: ignore[attr-defined]


def main() -> None:
    count = int(sys.argv[1])
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    start = time.perf_counter()
    for seed in range(first, first + count, 1000):
        explore_shuffled(range(seed, min(seed + 1000, first + count)))
    print(f"{count} schedules from seed {first} in {time.perf_counter() - start:.0f} s: nothing found")


if __name__ == "__main__":
    main()
