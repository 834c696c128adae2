"""Listeners: what they hear of, and that instances without them are not touched."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import anyio
import pytest

from aiowasm import EXIT_CANCELLED, Caller, HostModule, Listener, Module, Store, Trap, i32
from aiowasm.store.observers import HostCallLogger, Profiler

pytestmark = pytest.mark.anyio

GUEST = """(module
  (import "env" "hook" (func $hook (param i32) (result i32)))
  (import "env" "later" (func $later (param i32) (result i32)))
  (memory 1)
  (func (export "hook") (param i32) (result i32) (call $hook (local.get 0)))
  (func (export "later") (param i32) (result i32) (call $later (local.get 0)))
  (func (export "quiet"))
  (func (export "boom") unreachable)
  (func (export "grow") (result i32) (memory.grow (i32.const 2)))
  (func $inner (param i32) (loop (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0))))
  (func $busy (export "busy") (param i32) (call $inner (local.get 0))))"""


def environment() -> HostModule:
    env = HostModule("env")

    @env.function
    def hook(value: i32) -> i32:
        return value

    @env.function
    async def later(caller: Caller[Any], value: i32) -> i32:
        await anyio.sleep(0)
        return value

    return env


class Recorder(Listener):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def select(self, function: Any) -> bool:
        return function.type.params != () or function.name != "$4"

    def before(self, function: Any, arguments: tuple[Any, ...]) -> None:
        self.heard.append(("before", arguments))

    def after(self, function: Any, results: Any) -> None:
        self.heard.append(("after", results))

    def abort(self, function: Any, error: BaseException) -> None:
        self.heard.append(("abort", type(error)))

    def host_call(self, function: Any) -> None:
        self.heard.append(("host", function.name))

    def grew(self, instance: Any, what: Any, old: int, new: int) -> None:
        self.heard.append(("grew", old, new))

    def yielded(self, instance: Any, fuel: int) -> None:
        self.heard.append(("yielded", fuel))

    def close(self, instance: Any, exit_code: int) -> None:
        self.heard.append(("close", exit_code))


async def test_what_listeners_hear(engine: str) -> None:
    recorder = Recorder()
    module = await Module.from_text(GUEST)
    async with Store(engine=engine) as store:
        guest = await store.instantiate(module, imports={"env": environment()}, listeners=[recorder])
        await guest.exports.hook(1)
        await guest.exports.later(2)
        guest.exports.hook.nowait(3)
        await guest.exports.quiet()
        with pytest.raises(Trap):
            await guest.exports.boom()
        await guest.exports.grow()
        await guest.aclose(5)
    heard = [what for what in recorder.heard if what[0] != "yielded"]
    assert heard == [
        *[("before", (1,)), ("host", "hook"), ("after", 1)],
        *[("before", (2,)), ("host", "later"), ("after", 2)],
        *[("before", (3,)), ("host", "hook"), ("after", 3)],
        *[("before", ()), ("abort", Trap)],
        *[("before", ()), ("grew", 1, 3), ("after", 1)],
        ("close", 5),
    ]


async def test_others_are_not_heard(engine: str) -> None:
    recorder = Recorder()
    module = await Module.from_text(GUEST)
    env = environment()
    async with Store(engine=engine) as store:
        listened = await store.instantiate(module, imports={"env": env}, listeners=[recorder])
        quiet = await store.instantiate(module, imports={"env": env})
        await quiet.exports.hook(1)
        await quiet.exports.later(1)
        assert recorder.heard == []
        assert quiet.listeners is None
        assert quiet.plain
        assert not listened.plain
        assert quiet.core is not None
        assert listened.core is not None
        assert quiet.core.funcs[0] is not listened.core.funcs[0]


async def test_start_functions_are_heard(engine: str) -> None:
    recorder = Recorder()
    text = """(module (import "env" "hook" (func $hook (param i32) (result i32)))
      (func $start (drop (call $hook (i32.const 1)))) (start $start)
      (func (export "_initialize") {}))"""
    async with Store(engine=engine, listeners=[recorder]) as store:
        await store.instantiate(await Module.from_text(text.format("")), imports={"env": environment()})
        with pytest.raises(Trap):
            await store.instantiate(await Module.from_text(text.format("unreachable")), imports={"env": environment()})
    start = [("before", ()), ("host", "hook"), ("after", None)]
    once = [*start, ("before", ()), ("after", None)]
    heard = [what for what in recorder.heard if what[0] != "yielded"]
    assert heard == [*once, *start, ("before", ()), ("abort", Trap), ("close", EXIT_CANCELLED), ("close", 0)]


async def test_a_profile_of_fuel(engine: str, tmp_path: Path) -> None:
    profiler = Profiler("test")
    async with Store(engine=engine, listeners=[profiler], fixed_slice=100) as store:
        guest = await store.instantiate(await Module.from_text(GUEST), name="guest", imports={"env": environment()})
        await guest.exports.busy(1000)
    target = tmp_path / "profile.json"
    profiler.write(target)
    profile = json.loads(target.read_text())
    names = [frame["name"] for frame in profile["shared"]["frames"]]
    assert len(names) == 2
    assert all(name.startswith("guest!") for name in names)
    samples = profile["profiles"][0]
    assert len(samples["samples"]) == len(samples["weights"]) > 20
    assert sum(samples["weights"]) == samples["endValue"] <= guest.fuel_consumed
    assert samples["endValue"] > guest.fuel_consumed - 200


async def test_a_log_of_host_calls(engine: str, caplog: pytest.LogCaptureFixture) -> None:
    async with Store(engine=engine, listeners=[HostCallLogger()]) as store:
        guest = await store.instantiate(await Module.from_text(GUEST), imports={"env": environment()})
        with caplog.at_level(logging.INFO, "aiowasm.host_calls"):
            await guest.exports.hook(1)
            await guest.exports.later(1)
    assert [record.message for record in caplog.records] == ["host call: hook", "host call: later"]
