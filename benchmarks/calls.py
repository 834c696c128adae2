"""What crossing the border costs: microseconds per call, in both directions, rivals beside.

    python benchmarks/calls.py [--engine interpreter] [--backend asyncio]

Bounds for the interpreter: an awaited no-op at most 3 us, a synchronous host call at most 1 us, an async one that does
not suspend at most 12 us. Host calls are measured as what one more of them costs within a call.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable

import anyio

from aiowasm import HostModule, Instance, Module, Store, i32

ROUNDS = 7
CALLS = 3000

TEXT = """(module
  (import "env" "now" (func $now (param i32) (result i32)))
  (import "env" "later" (func $later (param i32) (result i32)))
  (func (export "nop"))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "loop") (param i32)
    (loop (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0))))
  (func (export "now") (param i32)
    (loop (drop (call $now (local.get 0)))
      (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0))))
  (func (export "later") (param i32)
    (loop (drop (call $later (local.get 0)))
      (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0)))))"""


async def best(function: Callable[[], Awaitable[object]], calls: int) -> float:
    """Microseconds per call: the best of some rounds."""
    fastest = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        await function()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest / calls * 1e6


async def measure(instance: Instance) -> dict[str, float]:
    nop, add = instance.exports.nop, instance.exports.add

    async def nops() -> None:
        for _ in range(CALLS):
            await nop()

    async def adds() -> None:
        for _ in range(CALLS):
            await add(1, 2)

    async def nowaits() -> None:
        for _ in range(CALLS):
            nop.nowait()

    found = {
        "awaited no-op": await best(nops, CALLS),
        "awaited add(i32, i32)": await best(adds, CALLS),
        "no-op, nowait": await best(nowaits, CALLS),
    }
    empty = await best(lambda: instance.exports.loop(CALLS), CALLS)
    found["def host call"] = await best(lambda: instance.exports.now(CALLS), CALLS) - empty
    found["async def host call that does not suspend"] = (
        await best(lambda: instance.exports.later(CALLS), CALLS) - empty
    )
    found["a call with one such host call"] = await best(lambda: instance.exports.later(1), 1)
    return found


def wasmtime() -> dict[str, float]:
    try:
        import wasmtime as rival  # noqa: PLC0415 - need not be installed
    except ImportError:
        return {}
    store = rival.Store()
    host = rival.Func(store, rival.FuncType([rival.ValType.i32()], [rival.ValType.i32()]), lambda value: value)
    instance = rival.Instance(store, rival.Module(store.engine, TEXT), [host, host])
    exports = instance.exports(store)

    def best_of(name: str, calls: int, *arguments: int) -> float:
        fastest = float("inf")
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for _ in range(calls):
                exports[name](store, *arguments)
            fastest = min(fastest, time.perf_counter() - start)
        return fastest * 1e6

    return {
        "awaited no-op": best_of("nop", CALLS) / CALLS,
        "awaited add(i32, i32)": best_of("add", CALLS, 1, 2) / CALLS,
        "def host call": best_of("now", 1, CALLS) / CALLS,
    }


async def main(engine: str) -> None:
    env = HostModule("env")

    @env.function
    def now(value: i32) -> i32:
        return value

    @env.function
    async def later(value: i32) -> i32:
        return value

    async with Store(engine=engine) as store:
        instance = await store.instantiate(await Module.from_text(TEXT), imports={"env": env})
        found = await measure(instance)
    rival = wasmtime()
    print(f"{'':45}{engine:>12}{'wasmtime-py':>14}  (us; wasmtime-py has no async calls: these are synchronous)")
    for what, microseconds in found.items():
        beside = f"{rival[what]:14.2f}" if what in rival else f"{'-':>14}"
        print(f"{what:45}{microseconds:12.2f}{beside}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", default="interpreter")
    parser.add_argument("--backend", default="asyncio")
    options = parser.parse_args()
    anyio.run(main, options.engine, backend=options.backend)
