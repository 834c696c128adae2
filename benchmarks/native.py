"""The native engine beside wasmtime, unmetered and with fuel, over the import-free kernels of WASM_KERNELS.

    WASM_KERNELS=folder python benchmarks/native.py [--repeat N] [kernel...]

Per row: the best of some runs of the kernel's largest case, in ms, without compilation (a first run compiles); results
are compared with those the kernel states. The last line has the geometric means of the ratios.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wasmtime

from aiowasm.binary.decoder import decode
from aiowasm.engine.base import NO_LIMIT, Outcome
from aiowasm.engine.instantiate import instantiate
from aiowasm.engine.native import Native
from aiowasm.features import ALL
from aiowasm.syntax.floats import bits_from_f32, bits_from_f64, f32_from_bits, f64_from_bits
from aiowasm.validation.module import validate_module

Call = Callable[[str, list[dict[str, str]]], list[int]]
FUEL = 1 << 60


def bits(value: dict[str, str]) -> int:
    """The bits of a value of a case file."""
    width = 32 if value["type"] in ("i32", "f32") else 64
    return int(value["value"], 0) & ((1 << width) - 1)


def ours(binary: bytes) -> Call | str:
    """How to call exports on the native engine, or what it lacks."""
    validated = validate_module(decode(binary, ALL), ALL)
    engine = Native()
    lacks = engine.missing(validated)
    if lacks is not None:
        return lacks
    instance = instantiate(validated, (), engine)
    exports = {export.name: export.index for export in validated.module.exports if export.kind == "func"}
    from_bits = {"f32": f32_from_bits, "f64": f64_from_bits}

    def call(name: str, arguments: list[dict[str, str]]) -> list[int]:
        func = instance.funcs[exports[name]]
        values = tuple(from_bits.get(each["type"], int)(bits(each)) for each in arguments)
        execution = engine.call(func, values, limit=NO_LIMIT, call_depth=10_000, stack_slots=65_536)
        while (outcome := execution.resume(5_000_000)) is Outcome.PAUSED:
            pass
        if outcome is not Outcome.RETURNED:
            raise RuntimeError(f"{name}: {outcome} {execution.trap or execution.error}")
        kinds = [str(valtype) for valtype in func.deftype.comptype.results]  # type: ignore[union-attr]
        back = {"f32": bits_from_f32, "f64": bits_from_f64}
        return [back.get(kind, int)(value) for kind, value in zip(kinds, execution.results, strict=True)]

    return call


def theirs(binary: bytes, fuel: bool) -> Call | str:
    """How to call exports on wasmtime, or what it says."""
    config = wasmtime.Config()
    config.consume_fuel = fuel
    for name in ("wasm_multi_memory", "wasm_memory64", "wasm_tail_call", "wasm_exceptions", "wasm_gc"):
        if isinstance(getattr(wasmtime.Config, name, None), property):
            setattr(config, name, True)
        else:
            getattr(wasmtime._bindings, f"wasmtime_config_{name}_set")(config.ptr(), True)
    store = wasmtime.Store(wasmtime.Engine(config))
    if fuel:
        store.set_fuel(FUEL)
    try:
        module = wasmtime.Module(store.engine, binary)
    except wasmtime.WasmtimeError as error:
        return str(error).splitlines()[0]
    exports = wasmtime.Instance(store, module, []).exports(store)

    def call(name: str, arguments: list[dict[str, str]]) -> list[int]:
        values: list[Any] = []
        for each in arguments:
            raw, kind = bits(each), each["type"]
            if kind == "f64":
                values.append(f64_from_bits(raw))
            elif kind == "f32":
                values.append(f32_from_bits(raw))
            else:
                width = 32 if kind == "i32" else 64
                values.append(raw - (1 << width) if raw >> (width - 1) else raw)
        results = exports[name](store, *values)
        listed = [] if results is None else results if isinstance(results, list) else [results]
        kinds = [str(kind) for kind in exports[name].type(store).results]
        return [_raw(kind, value) for kind, value in zip(kinds, listed, strict=True)]

    return call


def _raw(kind: str, value: Any) -> int:
    if kind == "f64":
        return int(struct.unpack("<Q", struct.pack("<d", value))[0])
    if kind == "f32":
        return int(struct.unpack("<I", struct.pack("<f", value))[0])
    return int(value) & ((1 << (32 if kind == "i32" else 64)) - 1)


def measure(call: Call, calls: list[dict[str, Any]], repeat: int) -> float:
    """Best time of all *calls*, in ms, after one that checks results."""
    for each in calls:
        found = call(each["export"], each["args"])
        if found != [bits(result) for result in each["results"]]:
            raise RuntimeError(f"{each['export']}: {found}, not {each['results']}")
    best = math.inf
    for _ in range(repeat):
        started = time.perf_counter()
        for each in calls:
            call(each["export"], each["args"])
        best = min(best, time.perf_counter() - started)
    return best * 1e3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("kernels", nargs="*")
    arguments = parser.parse_args()
    root = Path(os.environ["WASM_KERNELS"])
    logs: list[tuple[float, float]] = []
    print(f"{'kernel':18}{'aiowasm':>10}{'wasmtime':>10}{'with fuel':>10}{'ratio':>8}{'ratio':>8}")
    for path in sorted(root.glob("*/case.json")):
        case = json.loads(path.read_text())
        if case["imports"] or (arguments.kernels and case["name"] not in arguments.kernels):
            continue
        binary = (path.parent / case["wasm"]).read_bytes()
        callers = [ours(binary), theirs(binary, fuel=False), theirs(binary, fuel=True)]
        problems = [caller for caller in callers if isinstance(caller, str)]
        if problems:
            print(f"{case['name']:18} left out: {'; '.join(problems)}")
            continue
        calls = case["runs"][-1]["calls"]
        mine, plain, fuel = (
            measure(caller, calls, arguments.repeat) for caller in callers if not isinstance(caller, str)
        )
        logs.append((math.log(mine / plain), math.log(mine / fuel)))
        print(
            f"{case['name']:18}{mine:10.2f}{plain:10.2f}{fuel:10.2f}{mine / plain:8.2f}{mine / fuel:8.2f}", flush=True
        )
    if logs:
        means = [math.exp(sum(column) / len(logs)) for column in zip(*logs, strict=True)]
        print(f"geometric means over {len(logs)} kernels: {means[0]:.2f} unmetered, {means[1]:.2f} with fuel")


if __name__ == "__main__":
    main()
