"""What keeps the event loop waiting is in the log, by name; clocks are the test's."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import aiowasm.store.drive
import aiowasm.store.func
import aiowasm.store.gate
import aiowasm.store.hostcalls
from aiowasm import HostModule, Module, Store, i32

pytestmark = pytest.mark.anyio

MODULES = (aiowasm.store.drive, aiowasm.store.func, aiowasm.store.gate, aiowasm.store.hostcalls)
GUEST = """(module (import "env" "hook" (func $hook (param i32) (result i32)))
  (func (export "hook") (param i32) (result i32) (call $hook (local.get 0)))
  (func (export "count") (param i32)
    (loop (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0)))))"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A clock that takes 100 ns for each look, and jumps as far as a test says."""
    now = [1 << 40]

    def perf_counter_ns() -> int:
        now[0] += 100
        return now[0]

    for module in MODULES:
        monkeypatch.setattr(module, "perf_counter_ns", perf_counter_ns)
    return now


async def test_a_host_function_that_takes_long_is_named(engine: str, clock: Any, caplog: Any) -> None:
    env = HostModule("env")

    @env.function
    def hook(milliseconds: i32) -> i32:
        clock[0] += milliseconds * 1_000_000
        return milliseconds

    async with Store(engine=engine) as store:
        guest = await store.instantiate(await Module.from_text(GUEST), name="guest", imports={"env": env})
        with caplog.at_level(logging.WARNING, "aiowasm.delays"):
            for milliseconds in (0, 5):
                await guest.exports.hook(milliseconds)
            assert not caplog.records
            await guest.exports.hook(200)
        words = [record.message for record in caplog.records]
        assert words[0].startswith("the host function env.hook kept the event loop waiting for ")
        assert 198 < float(words[0].split()[-2]) < 202


async def test_a_slice_that_takes_long_is_in_the_log(engine: str, clock: Any, caplog: Any) -> None:
    class SlowEngine:
        """Runs as the engine does, and takes as long as a test says."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def call(self, *arguments: Any, **limits: Any) -> Any:
            return SlowExecution(self.inner.call(*arguments, **limits))

    class SlowExecution(SlowEngine):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "inner":
                object.__setattr__(self, name, value)
            else:
                setattr(self.inner, name, value)

        def resume(self, slice_fuel: int) -> Any:
            clock[0] += 12_000_000
            return self.inner.resume(slice_fuel)

    env = HostModule("env")

    @env.function
    def hook(value: i32) -> i32:
        return value

    async with Store(engine=engine, fixed_slice=1000) as store:
        guest = await store.instantiate(await Module.from_text(GUEST), name="guest", imports={"env": env})
        with caplog.at_level(logging.WARNING, "aiowasm.delays"):
            await guest.exports.count(1000)
            assert not caplog.records
            guest.backend = SlowEngine(guest.backend)
            await guest.exports.count(1000)
        assert len(caplog.records) >= 3
        assert caplog.records[0].message == "a slice of <Instance guest> kept the event loop waiting for 12.0 ms"
