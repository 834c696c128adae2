"""Ten thousand instances, each waiting inside an async host function: memory, host awaits per second, time to wake one.

    python benchmarks/scale.py [--engine interpreter] [--instances 10000] [--functions 5 1000]

Bounds: resident memory per instance (the process's growth, less 4 KiB for the one page of its memory that each guest
has touched) at most 20 kB with the interpreter, 12 kB with the native engine; at least 20,000 host awaits per second.
Each row comes from a process of its own: what another row has freed would not count as growth. The system's page tables
are not resident memory and stand beside: two pages for each memory, which has address space to grow into.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import time
from pathlib import Path

import anyio

from aiowasm import HostModule, Instance, Limits, Module, Store, i32

TOUCHED_NBYTES = 4096


def text(functions: int) -> str:
    """A module of so many functions, of which at most ten run."""
    body = "\n".join(
        f"(func $f{number} (param i32) (result i32) (i32.add (local.get 0) (i32.const {number})))"
        for number in range(functions - 2)
    )
    calls = "".join(f"(local.set 0 (call $f{number} (local.get 0)))" for number in range(min(functions - 2, 8)))
    return f"""(module (import "env" "wait" (func $wait (param i32) (result i32))) (memory 1)
      {body}
      (func (export "run") (param i32) (result i32)
        (i32.store (i32.const 64) (local.get 0))
        {calls}
        (call $wait (local.get 0)))
      (func (export "again") (param i32)
        (loop (drop (call $wait (i32.const 0)))
          (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if 0 (local.get 0)))))"""


def resident() -> int:
    """Bytes of memory that the process has in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def page_tables() -> int:
    """Bytes of page tables that the process has."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmPTE:")[2].split()[0]) * 1024


async def main(engine: str, count: int, functions: int) -> None:
    env = HostModule("env")
    free = anyio.Event()
    one = anyio.Event()
    waiting = 0
    woken: list[float] = []

    @env.function
    async def wait(value: i32) -> i32:
        nonlocal waiting
        if value == -1:
            await one.wait()
            woken.append(time.perf_counter())
        elif value:
            waiting += 1
            await free.wait()
        else:
            await anyio.sleep(0)
        return value

    module = await Module.from_text(text(functions))
    async with Store(engine=engine, limits=Limits(total_memory_pages=2 * count)) as store:
        first = await store.instantiate(module, imports={"env": env})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.exports.run, 1)
            await anyio.sleep(0.05)
            gc.collect()
            before, tables = resident(), page_tables()
            start = time.perf_counter()
            instances: list[Instance] = []
            for _ in range(count):
                instance = await store.instantiate(module, imports={"env": env})
                instances.append(instance)
                tasks.start_soon(instance.exports.run, 1)
            while waiting <= count:
                await anyio.sleep(0.01)
            seconds = time.perf_counter() - start
            gc.collect()
            each = (resident() - before) / count - TOUCHED_NBYTES
            tables = page_tables() - tables
            single = await store.instantiate(module, imports={"env": env})
            tasks.start_soon(single.call, "run", -9)
            sleeper = await store.instantiate(module, imports={"env": env})
            tasks.start_soon(sleeper.call, "run", -1 - sum(range(min(functions - 2, 8))))
            await anyio.sleep(0.05)
            told = time.perf_counter()
            one.set()
            while not woken:
                await anyio.sleep(0)
            free.set()
        many = 200
        start = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for instance in instances[:1000]:
                tasks.start_soon(instance.exports.again, many)
        rate = 1000 * many / (time.perf_counter() - start)
    print(
        f"{count} instances of {functions} functions: {each / 1000:.1f} kB each "
        f"(and {tables / count / 1000:.1f} kB of page tables), made in {seconds:.1f} s; "
        f"{rate:,.0f} host awaits per second; one woken in {(woken[0] - told) * 1e6:.0f} us",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", default="interpreter")
    parser.add_argument("--instances", type=int, default=10_000)
    parser.add_argument("--functions", type=int, nargs="*", default=[5, 1000])
    options = parser.parse_args()
    for number in options.functions:
        process = multiprocessing.get_context("spawn").Process(
            target=anyio.run, args=(main, options.engine, options.instances, number)
        )
        process.start()
        process.join()
