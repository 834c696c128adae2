"""What crossing the border of the native engine costs in one run with wasmtime-py: microseconds per call.

    python benchmarks/crossing.py [--backend asyncio]

Exports are looked up once, on both sides. Bounds: an awaited add(i32, i32) at most 0.8 us, with `nowait` at most 0.25;
a synchronous host call at most 1.5 us, an async one that does not suspend at most 3: what one more of them costs within
a call.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable

import anyio

from aiowasm import Caller, HostModule, Instance, Module, Store, i32

ROUNDS = 9
CALLS = 3000

TEXT = """(module
  (import "env" "now" (func $now (param i32) (result i32)))
  (import "env" "now_caller" (func $now_caller (param i32) (result i32)))
  (import "env" "later" (func $later (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "nop"))
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "mul") (param f64 f64) (result f64) (f64.mul (local.get 0) (local.get 1)))
  (func (export "loop") (param i32)
    (loop (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0))))
  (func (export "now") (param i32)
    (loop (drop (call $now (local.get 0)))
      (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0))))
  (func (export "now_caller") (param i32)
    (loop (drop (call $now_caller (local.get 0)))
      (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0))))
  (func (export "later") (param i32)
    (loop (drop (call $later (local.get 0)))
      (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0)))))"""


def fastest(function: Callable[[], object]) -> float:
    """Seconds of the fastest of some rounds."""
    found = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        function()
        found = min(found, time.perf_counter() - start)
    return found


async def fastest_awaited(function: Callable[[], Awaitable[object]]) -> float:
    """Seconds of the fastest of some rounds."""
    found = float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        await function()
        found = min(found, time.perf_counter() - start)
    return found


async def ours(instance: Instance) -> dict[str, float]:
    """Seconds for `CALLS` of each kind."""
    exports = instance.exports
    nop, add, mul = exports.nop, exports.add, exports.mul

    async def nops() -> None:
        for _ in range(CALLS):
            await nop()

    async def adds() -> None:
        for _ in range(CALLS):
            await add(1, 2)

    async def muls() -> None:
        for _ in range(CALLS):
            await mul(1.5, 2.5)

    def adds_now() -> None:
        for _ in range(CALLS):
            add.nowait(1, 2)

    found = {
        "await nop()": await fastest_awaited(nops),
        "await add(i32, i32)": await fastest_awaited(adds),
        "await mul(f64, f64)": await fastest_awaited(muls),
        "add.nowait(i32, i32)": fastest(adds_now),
    }
    empty = await fastest_awaited(lambda: exports.loop(CALLS))
    for what, export in (
        ("def host call", exports.now),
        ("def host call with its Caller", exports.now_caller),
        ("async def host call that does not suspend", exports.later),
    ):
        found[what] = await fastest_awaited(lambda: export(CALLS)) - empty  # noqa: B023 - called at once
    for what, export in (("a call with one def host call", exports.now), ("a call with one async one", exports.later)):
        found[what] = await fastest_awaited(lambda: export(1)) * CALLS  # noqa: B023
    return found


def theirs() -> dict[str, float]:
    """Seconds for `CALLS` of each kind with wasmtime-py, whose calls are all synchronous."""
    try:
        import wasmtime  # noqa: PLC0415 - need not be installed
    except ImportError:
        return {}
    store = wasmtime.Store()
    functype = wasmtime.FuncType([wasmtime.ValType.i32()], [wasmtime.ValType.i32()])
    host = wasmtime.Func(store, functype, lambda value: value)
    with_caller = wasmtime.Func(store, functype, lambda caller, value: value, access_caller=True)
    instance = wasmtime.Instance(store, wasmtime.Module(store.engine, TEXT), [host, with_caller, host])
    exports = instance.exports(store)

    def calls(name: str, *arguments: float) -> float:
        function = exports[name]

        def many() -> None:
            for _ in range(CALLS):
                function(store, *arguments)

        return fastest(many)

    found = {
        "await nop()": calls("nop"),
        "await add(i32, i32)": calls("add", 1, 2),
        "await mul(f64, f64)": calls("mul", 1.5, 2.5),
        "add.nowait(i32, i32)": calls("add", 1, 2),
    }
    for what, name in (("def host call", "now"), ("def host call with its Caller", "now_caller")):
        found[what] = fastest(lambda: exports[name](store, CALLS))  # noqa: B023
    found["a call with one def host call"] = fastest(lambda: exports["now"](store, 1)) * CALLS
    return found


async def main() -> None:
    env = HostModule("env")

    @env.function
    def now(value: i32) -> i32:
        return value

    @env.function
    def now_caller(caller: Caller, value: i32) -> i32:
        return value

    @env.function
    async def later(value: i32) -> i32:
        return value

    async with Store(engine="native") as store:
        instance = await store.instantiate(await Module.from_text(TEXT), imports={"env": env})
        found = await ours(instance)
    rival = theirs()
    print(f"{'us':45}{'native':>12}{'wasmtime-py':>14}  (which has no async calls: these are synchronous)")
    for what, seconds in found.items():
        beside = f"{rival[what] / CALLS * 1e6:14.2f}" if what in rival else f"{'-':>14}"
        print(f"{what:45}{seconds / CALLS * 1e6:12.2f}{beside}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="asyncio")
    anyio.run(main, backend=parser.parse_args().backend)
