"""The portable interpreter beside pywasm on small CPU kernels: warm, and the cold first run beside.

    WASM_KERNELS=folder python benchmarks/interpreter.py [kernel ...]

Needs pywasm (`pip install pywasm`). Each kernel folder holds module.wasm and case.json; the calls of the run `small`
are made, metered, on one instance, and their results checked. "Warm" is the median of several runs on instances of a
module whose hot functions are generated already; runs of both rivals alternate, so that drift hits both alike.
"""

from __future__ import annotations

import json
import os
import statistics
import struct
import sys
import time
from pathlib import Path
from typing import Any

from aiowasm.binary.decoder import decode
from aiowasm.engine.base import NO_LIMIT, Outcome
from aiowasm.engine.instantiate import instantiate
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.validation.module import validate_module

KERNELS = ("fib", "sieve", "sha256", "nbody", "matmul", "qsort")
RUNS = 7
SLICE_FUEL = 20_000


def value(entry: dict[str, str]) -> Any:
    """A value of case.json in engine form."""
    kind, text = entry["type"], entry["value"]
    if kind in ("i32", "i64"):
        return int(text) & ((1 << int(kind[1:])) - 1)
    if text.startswith("0x"):
        letters = ("<I", "<f") if kind == "f32" else ("<Q", "<d")
        return struct.unpack(letters[1], struct.pack(letters[0], int(text, 16)))[0]
    return float(text)


def ours(validated: Any, calls: list[dict[str, Any]], slice_fuel: int) -> tuple[float, int]:
    """Seconds and fuel of one run on a new instance."""
    engine = Interpreter()
    instance = instantiate(validated, (), engine)
    exports = {export.name: export.index for export in validated.module.exports}
    start, fuel = time.perf_counter(), 0
    for call in calls:
        arguments = tuple(value(argument) for argument in call["args"])
        func = instance.funcs[exports[call["export"]]]
        execution = engine.call(func, arguments, limit=NO_LIMIT, call_depth=10_000, stack_slots=65_536)
        while (outcome := execution.resume(slice_fuel)) is Outcome.PAUSED:
            pass
        expected = tuple(value(result) for result in call["results"])
        if outcome is not Outcome.RETURNED or execution.results != expected:
            raise SystemExit(f"{call['export']}: {outcome}, {execution.results} instead of {expected}")
        fuel += execution.consumed
    return time.perf_counter() - start, fuel


class Rival:
    """pywasm with one instance; None where it is not installed."""

    def __init__(self, path: Path) -> None:
        import pywasm  # noqa: PLC0415 - the rival is optional

        self.runtime = pywasm.core.Runtime()
        self.instance = self.runtime.instance_from_file(str(path))

    def run(self, calls: list[dict[str, Any]]) -> float:
        """Seconds of one run."""
        start = time.perf_counter()
        for call in calls:
            arguments = [float(a["value"]) if a["type"][0] == "f" else int(a["value"]) for a in call["args"]]
            self.runtime.invocate(self.instance, call["export"], arguments)
        return time.perf_counter() - start


def main() -> None:
    """Print a row a kernel and the geometric mean of the ratios."""
    folder = Path(os.environ.get("WASM_KERNELS") or sys.exit("WASM_KERNELS is not set: the folder of the kernels"))
    ratios = []
    print("kernel      M instr   ours M/s [min-max]     pywasm M/s   ratio   cold run ms")
    for name in sys.argv[1:] or KERNELS:
        case = json.loads((folder / name / "case.json").read_text())
        calls = next(run["calls"] for run in case["runs"] if run["id"] == "small")
        data = (folder / name / "module.wasm").read_bytes()
        start = time.perf_counter()
        validated = validate_module(decode(data))
        _, fuel = ours(validated, calls, SLICE_FUEL)
        cold = time.perf_counter() - start
        ours(validated, calls, SLICE_FUEL)
        rival = Rival(folder / name / "module.wasm")
        times, rivals = [], []
        for number in range(RUNS):
            times.append(ours(validated, calls, SLICE_FUEL)[0])
            if number < 3:  # it takes seconds
                rivals.append(rival.run(calls))
        speed = fuel / statistics.median(times) / 1e6
        ratio = statistics.median(rivals) / statistics.median(times)
        ratios.append(ratio)
        print(
            f"{name:10} {fuel / 1e6:8.3f} {speed:8.1f} [{fuel / max(times) / 1e6:.1f}-{fuel / min(times) / 1e6:.1f}] "
            f"{fuel / statistics.median(rivals) / 1e6:14.3f} {ratio:10.1f} {cold * 1e3:10.0f}",
            flush=True,
        )
    print(f"geometric mean of the ratios: {statistics.geometric_mean(ratios):.1f}")


if __name__ == "__main__":
    main()
