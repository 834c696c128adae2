"""What api.md-style code does first: modules, instances, calls, host functions, memory, errors, closing."""

from __future__ import annotations

import anyio
import pytest

from aiowasm import (
    EXIT_CANCELLED,
    EXIT_DEADLINE,
    Caller,
    DeadlineError,
    ExitError,
    HostModule,
    Limits,
    LinkError,
    Module,
    OutOfFuel,
    Store,
    Trap,
    i32,
    u64,
)
from tests.store.waiting import deadline_when, until

pytestmark = pytest.mark.anyio

PLUGIN = """(module
  (import "env" "fetch" (func $fetch (param i32) (result i32)))
  (import "env" "mix" (func $mix (param i64 i64) (result i64)))
  (memory (export "memory") 1)
  (global (export "counter") (mut i32) (i32.const 7))
  (table (export "table") 2 funcref)
  (func (export "nop"))
  (func (export "alloc") (param i32) (result i32) (i32.const 100))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "pair") (param i32) (result i32 i64) (local.get 0) (i64.const -1))
  (func (export "go") (param i32) (result i32) (call $fetch (local.get 0)))
  (func (export "mix") (param i64 i64) (result i64) (call $mix (local.get 0) (local.get 1)))
  (func (export "spin") (loop (br 0)))
  (func (export "boom") unreachable))"""


def environment() -> HostModule:
    env = HostModule("env")

    @env.function
    async def fetch(caller: Caller[dict[int, bytes]], key: i32) -> i32:
        row = caller.data[key]
        await anyio.sleep(0)
        where: int = await caller.call("alloc", len(row))
        caller.memory.write(where, row)
        return len(row)

    @env.function(fuel=10)
    def mix(a: u64, b: u64) -> u64:
        return (a ^ b) + 1

    return env


async def test_a_plugin_calls_the_host_and_the_host_calls_back(engine: str) -> None:
    module = await Module.from_text(PLUGIN)
    async with Store(engine=engine, data={3: b"hello"}) as store:
        await store.instantiate(environment())
        plugin = await store.instantiate(module, name="plugin")
        assert await plugin.exports.add(2, 3) == 5
        assert await plugin.exports["add"](2, -3) == -1
        assert await plugin.exports.pair(4) == (4, -1)
        assert plugin.exports.add.nowait(2**32 - 1, 1) == 0
        assert await plugin.call("go", 3) == 5
        assert plugin.memory is not None
        assert plugin.memory.read(100, 5) == b"hello"
        assert await plugin.exports.mix(1, 2**63) == -(2**63) + 2
        assert plugin.globals["counter"].value == 7
        plugin.globals["counter"].value = -1
        assert plugin.exports.counter.value == -1
        assert len(plugin.tables["table"]) == 2
        assert list(plugin.exports)[:3] == ["memory", "counter", "table"]
        assert "nop" in plugin.exports
        assert store["plugin"] is plugin
        assert plugin.engine == engine
    with pytest.raises(ExitError, match="closed with exit code 0"):
        await plugin.exports.add(1, 2)


async def test_arguments_are_checked(engine: str) -> None:
    async with Store(engine=engine) as store:
        plugin = await store.instantiate(await Module.from_text(PLUGIN), imports={"env": environment()})
        with pytest.raises(TypeError, match="expected 2 arguments, got 1"):
            await plugin.exports.add(1)
        with pytest.raises(TypeError, match="argument 2: expected an int for i32, got str"):
            await plugin.exports.add(1, "2")
        with pytest.raises(OverflowError, match="argument 1: out of range for i32"):
            await plugin.exports.add(2**32, 0)
        with pytest.raises(AttributeError, match="exports no 'missing'"):
            _ = plugin.exports.missing
        with pytest.raises(KeyError):
            _ = plugin.exports["missing"]
        with pytest.raises(IndexError, match="memory access out of bounds"):
            plugin.exports.memory.read(65_530, 7)


async def test_a_trap_leaves_the_instance_open(engine: str) -> None:
    async with Store(engine=engine) as store:
        plugin = await store.instantiate(await Module.from_text(PLUGIN), imports={"env": environment()})
        with pytest.raises(Trap, match="unreachable"):
            await plugin.exports.boom()
        assert plugin.exit_code is None
        assert await plugin.exports.add(1, 1) == 2


async def test_a_spinning_guest_is_cancelled_and_closed(engine: str) -> None:
    async with Store(engine=engine) as store:
        plugin = await store.instantiate(await Module.from_text(PLUGIN), imports={"env": environment()})
        async with deadline_when(lambda: plugin.fuel_consumed > 0) as scope:
            await plugin.exports.spin()
        assert scope.cancelled_caught
        assert plugin.exit_code == EXIT_DEADLINE
        with pytest.raises(ExitError, match=str(EXIT_DEADLINE)):
            await plugin.exports.nop()

        other = await store.instantiate(await Module.from_text(PLUGIN), imports={"env": environment()})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.exports.spin)
            await until(lambda: other.fuel_consumed > 0)
            tasks.cancel_scope.cancel()
        assert other.exit_code == EXIT_CANCELLED


async def test_fuel_and_time_of_one_call(engine: str) -> None:
    async with Store(engine=engine) as store:
        plugin = await store.instantiate(await Module.from_text(PLUGIN), imports={"env": environment()})
        with pytest.raises(OutOfFuel):
            await plugin.call("spin", fuel=1000)
        assert 1000 < plugin.fuel_consumed < 1010
        assert plugin.exit_code is None
        with pytest.raises(DeadlineError):
            await plugin.call("spin", timeout=0.2)
        assert plugin.exit_code == EXIT_DEADLINE


async def test_missing_imports_are_all_named(engine: str) -> None:
    module = await Module.from_text(
        """(module (import "b" "f" (func)) (import "a" "g" (func)) (import "b" "h" (memory 1)))"""
    )
    async with Store(engine=engine) as store:
        with pytest.raises(LinkError) as info:
            await store.instantiate(module, name="m")
        assert str(info.value).startswith("unknown import: module[b] not instantiated; module[a] not instantiated")
        assert "m" not in store
        assert store.statistics().instances == 0


async def test_names_are_claimed_once(engine: str) -> None:
    module = await Module.from_text("(module)")
    async with Store(engine=engine) as store:
        await store.instantiate(module, name="m")
        with pytest.raises(LinkError, match=r"module\[m\] has already been instantiated"):
            await store.instantiate(module, name="m")
        await store["m"].aclose()
        await store.instantiate(module, name="m")
        async with store.namespace("tenant") as tenant:
            await tenant.instantiate(module, name="m")
            assert tenant["m"] is not store["m"]
            with pytest.raises(LinkError, match=r"namespace\[tenant\] already exists"):
                store.namespace("tenant")


async def test_limits_of_memory(engine: str) -> None:
    module = await Module.from_text(
        """(module (memory 1) (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))"""
    )
    async with Store(engine=engine, limits=Limits(memory_pages=3)) as store:
        guest = await store.instantiate(module)
        assert await guest.exports.grow(2) == 1
        assert await guest.exports.grow(1) == -1


async def test_guests_call_what_the_host_puts_into_their_table(engine: str) -> None:
    text = """(module (table (export "t") 2 funcref)
      (func (export "seven") (result i32) (i32.const 7))
      (func (export "call") (param i32) (result i32) (call_indirect (result i32) (local.get 0)))
      (func (export "is_null") (param i32) (result i32) (ref.is_null (table.get (local.get 0)))))"""
    env = HostModule("env")

    @env.function
    def eight() -> i32:
        return 8

    async with Store(engine=engine) as store:
        guest = await store.instantiate(await Module.from_text(text))
        table = guest.tables["t"]
        table[1] = guest.exports.seven
        assert (await guest.exports.call(1), table[1]) == (7, guest.exports.seven)
        host = await store.instantiate(env)
        table[1] = host.exports.eight
        assert (await guest.exports.call(1), table[1]) == (8, host.exports.eight)
        assert [await guest.exports.is_null(index) for index in range(2)] == [1, 0]
        table[1] = None
        assert await guest.exports.is_null(1) == 1
        with pytest.raises(Trap, match="uninitialized element"):
            await guest.exports.call(1)
