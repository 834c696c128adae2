"""An interrupt may come between any two lines: whatever it hits, locks, batons, names and stacks are given back.

trio raises KeyboardInterrupt where the main thread is, so it is sent at every line of the store that a script runs
through, one after the other; asyncio cancels the main task instead.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import aiowasm.store
from aiowasm import Caller, HostModule, Instance, Module, Store, i32
from aiowasm.store.gate import Gate, current_gate

TRIO_STRIDE = 1 if os.environ.get("AIOWASM_LEAK_ROUNDS") == "1" else 7
"""Every seventh line, unless all rounds of everything are asked for."""
FOLDER = str(Path(aiowasm.store.__file__).parent)

GUEST = """(module
  (import "env" "hook" (func $hook (param i32) (result i32)))
  (import "env" "later" (func $later (param i32) (result i32)))
  (memory 1 4)
  (func $start (drop (call $hook (i32.const 1)))) (start $start)
  (func (export "id") (param i32) (result i32) (local.get 0))
  (func (export "work") (param i32) (result i32)
    (loop (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0)))
    (drop (memory.grow (i32.const 1)))
    (drop (call $hook (i32.const 2)))
    (call $later (i32.const 3))))"""


class Interrupt:
    """Sends SIGINT at the *number*th line of the store that is run; the lines are counted in `lines`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.lines = 0
        self.place = ""

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        return self.line

    def line(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            self.lines += 1
            if self.lines == self.number:
                self.place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGINT)
        return self.line


class Script:
    """Calls of all kinds; `left` says what is left behind when it has ended, however it has."""

    def __init__(self, engine: str, module: Module) -> None:
        self.engine = engine
        self.module = module
        self.store: Store[None] | None = None
        self.guests: list[Instance] = []
        self.gate: Gate | None = None

    async def run(self) -> None:
        env = HostModule("env")

        @env.function
        def hook(caller: Caller[Any], value: i32) -> i32:
            return caller.call_sync("id", value) if value == 2 else value  # type: ignore[no-any-return]

        @env.function
        async def later(caller: Caller[Any], value: i32) -> i32:
            await anyio.lowlevel.checkpoint()
            result: int = await caller.call("id", value)
            return result

        self.gate = current_gate()
        self.store = Store(engine=self.engine, fixed_slice=40, on_cancel="unwind")
        for name in ("one", "two"):
            self.guests.append(await self.store.instantiate(self.module, name=name, imports={"env": env}))
        one, two = self.guests
        assert await one.exports.id(1) == 1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(two.exports.work, 10)
            tasks.start_soon(two.exports.id, 1)  # it queues
            await one.exports.work(10)
        one.exports.id.nowait(2)
        await one.aclose()

    def left(self) -> list[object]:
        """What has not been given back."""
        left: list[object] = []
        for guest in self.guests:
            group = guest.group
            left += [*group.stack, *group.queue, *group.parked, *group.leaving]
        if self.gate is not None:
            left += [*self.gate.queue, *([self.gate.holder] if self.gate.holder is not None else [])]
        if self.store is not None:
            left += [instance for instance in self.store.instances if not instance.ready]
        return left


def interrupted(script: Script, backend: str, number: int) -> Interrupt:
    """Run *script* and interrupt it once."""
    interrupt = Interrupt(number)

    async def main() -> None:
        sys.settrace(interrupt)
        try:
            await script.run()
        finally:
            sys.settrace(None)

    before = sys.gettrace()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # it comes between call and await, too
            anyio.run(main, backend=backend)
    except* KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return interrupt


@pytest.mark.parametrize(("backend", "stride"), [("asyncio", 20), ("trio", TRIO_STRIDE)], ids=["asyncio", "trio"])
def test_an_interrupt_at_any_line_leaves_nothing(backend: str, stride: int, engine: str) -> None:
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        pytest.skip("somebody else handles interrupts")
    module = anyio.run(Module.from_text, GUEST)
    number = 0
    while True:
        number += stride
        script = Script(engine, module)
        interrupt = interrupted(script, backend, number)
        if interrupt.lines < number:
            break
        assert not script.left(), interrupt.place
        if script.store is not None:
            script.store.close_soon()
            assert script.store.statistics().instances == 0, interrupt.place
    assert number > 300
