"""Guests that take all they can get: the loop goes on all the same, counted in its iterations, not in time."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from aiowasm import EXIT_CANCELLED, HostModule, Instance, Limits, Module, Store, i32

pytestmark = pytest.mark.anyio

HOGS = """(module
  (import "env" "hook" (func $hook (param i32) (result i32)))
  (memory 1 {pages})
  (tag $t)
  (global $n (export "n") (mut i32) (i32.const 0))
  (func $count (global.set $n (i32.add (global.get $n) (i32.const 1))))
  (func (export "spin") (loop (call $count) (br 0)))
  (func (export "host") (loop (call $count) (drop (call $hook (i32.const 1))) (br 0)))
  (func (export "copy") (loop (call $count)
    (memory.copy (i32.const 1) (i32.const 0) (i32.sub (i32.shl (memory.size) (i32.const 16)) (i32.const 1))) (br 0)))
  (func (export "grow") (loop (call $count) (drop (memory.grow (i32.const 1))) (br 0)))
  (func (export "throw") (loop (block (try_table (catch $t 0) (call $count) (throw $t))) (br 0)))
  (func (export "wait") (drop (call $hook (i32.const 2)))))"""


def environment() -> HostModule:
    env = HostModule("env")

    @env.function
    def hook(value: i32) -> i32:
        return value

    return env


async def others_run(hogs: list[Any], iterations: int) -> None:
    """Let another task run for so many iterations of the loop while *hogs* do."""
    seen = 0
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            for hog in hogs:
                tasks.start_soon(hog)
            while seen < iterations:
                seen += 1
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["spin", "host", "copy", "grow", "throw"])
async def test_the_loop_goes_on_whatever_a_guest_only_does(engine: str, name: str) -> None:
    text = HOGS.format(pages=64)
    if name == "copy":
        text = text.replace("(memory 1 64)", "(memory 64)")
    async with Store(engine=engine) as store:
        guest = await store.instantiate(await Module.from_text(text), imports={"env": environment()})
        await others_run([guest.exports[name]], 100)
        assert guest.exit_code == EXIT_CANCELLED
        assert guest.fuel_consumed > 0


async def test_equal_guests_get_equal_shares(engine: str) -> None:
    async with Store(engine=engine, fixed_slice=1000, on_cancel="unwind") as store:
        module, env = await Module.from_text(HOGS.format(pages=1)), environment()
        guests = [await store.instantiate(module, imports={"env": env}) for _ in range(10)]
        await others_run([guest.exports.spin for guest in guests], 200)
        used = [guest.fuel_consumed for guest in guests]
        assert sum(used) ** 2 / (len(used) * sum(units * units for units in used)) >= 0.95


async def test_worker_threads_go_on_while_guests_spin(engine: str) -> None:
    async with Store(engine=engine) as store:
        guest = await store.instantiate(await Module.from_text(HOGS.format(pages=1)), imports={"env": environment()})
        seen: set[int] = set()
        with anyio.fail_after(60):  # who gets the GIL is up to CPython: on a busy machine that takes long
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(guest.exports.spin)
                for _ in range(5):
                    seen.add(await anyio.to_thread.run_sync(threading.get_ident))
                tasks.cancel_scope.cancel()
        assert threading.get_ident() not in seen


async def test_many_suspended_stores_and_one_that_is_woken(engine: str) -> None:
    """Each waits in a host function; one returns, the rest is cancelled."""
    count = 300
    env = HostModule("env")
    wake = anyio.Event()
    waiting = 0

    @env.function
    async def hook(value: i32) -> i32:
        nonlocal waiting
        waiting += 1
        await (wake.wait() if waiting == count // 2 else anyio.sleep_forever())
        return value

    module = await Module.from_text(HOGS.format(pages=1))
    stores = [Store[None](engine=engine, limits=Limits(memory_pages=1)) for _ in range(count)]
    guests: list[Instance] = [await store.instantiate(module, imports={"env": env}) for store in stores]
    ended: list[int] = []
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:

            async def call(number: int) -> None:
                await guests[number].exports.wait()
                ended.append(number)

            for number in range(count):
                tasks.start_soon(call, number)
            while waiting < count:
                await anyio.lowlevel.checkpoint()
            wake.set()
            while not ended:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    assert len(ended) == 1
    assert [guest.exit_code for guest in guests].count(None) == 1
    for store in stores:
        await store.aclose()


def test_two_loops_in_two_threads(engine: str) -> None:
    """Each with a store of its own, both busy at once, both called back by the host."""
    results: dict[str, int] = {}
    meeting = threading.Barrier(2, timeout=20)

    async def main(name: str) -> None:
        meeting.wait()
        async with Store(engine=engine) as store:
            guest = await store.instantiate(
                await Module.from_text(HOGS.format(pages=4)), imports={"env": environment()}
            )
            for hog in ("spin", "host", "throw"):
                other = await store.instantiate(
                    await Module.from_text(HOGS.format(pages=4)), imports={"env": environment()}
                )
                await others_run([other.exports[hog]], 30)
            await guest.exports.wait()
            results[name] = guest.fuel_consumed

    def run(backend: str) -> None:
        anyio.run(main, backend, backend=backend)

    threads = [threading.Thread(target=run, args=(backend,)) for backend in ("asyncio", "trio")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(results) == {"asyncio", "trio"}
    assert len(set(results.values())) == 1


async def test_code_of_megabytes_without_a_branch_pauses(engine: str) -> None:
    """Decoding, validating, compiling and running it: the loop goes on all the while."""
    body = b"\0" + b"\x41\x01\x1a" * 700_000 + b"\x0b"  # i32.const 1, drop
    code = bytes((10,)) + leb(len(body) + len(leb(len(body))) + 1) + b"\x01" + leb(len(body)) + body
    binary = b"\0asm\1\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x05\x01\x01f\0\0" + code
    iterations = 0
    async with Store(engine=engine) as store:
        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:

                async def count() -> None:
                    nonlocal iterations
                    while True:
                        iterations += 1
                        await anyio.lowlevel.checkpoint()

                tasks.start_soon(count)
                guest = await store.instantiate(binary)
                loaded = iterations
                await guest.exports.f()
                tasks.cancel_scope.cancel()
        assert loaded > 100
        assert iterations - loaded > 100
        assert guest.fuel_consumed == 700_000 + 1


def leb(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)
