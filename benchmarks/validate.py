"""Seconds per MB of code for decoding and validating `.wasm` files; wasmtime's compilation beside it where importable.

    python benchmarks/validate.py file.wasm...

The bound (aiowasm/validation/code.py) is one second per MB of the code section, by the walk in Python; what most bodies
cost where there is machine code for it stands beside.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from aiowasm.binary.decoder import decode
from aiowasm.features import ALL
from aiowasm.store.engines import scan
from aiowasm.syntax.steps import finish
from aiowasm.validation.module import validate_module, validate_module_steps


def _wasmtime(data: bytes) -> float | None:
    try:
        import wasmtime  # noqa: PLC0415 - a rival that need not be installed
    except ImportError:
        return None
    engine = wasmtime.Engine()
    start = time.process_time()  # of all its threads
    try:
        wasmtime.Module(engine, data)
    except wasmtime.WasmtimeError:
        return None
    return time.process_time() - start


RUNS = 3


def main() -> None:
    """Measure every file named on the command line; the best of some runs, in processor time."""
    for name in sys.argv[1:]:
        data = Path(name).read_bytes()
        best, fast = (float("inf"), 0.0), float("inf")
        for _ in range(RUNS):
            start = time.process_time()
            module = decode(data, ALL)
            decoded = time.process_time()
            validate_module(module, ALL)
            walked = time.process_time()
            best = min(best, (walked - start, decoded - start))
            finish(validate_module_steps(module, ALL, scan()))
            fast = min(fast, time.process_time() - walked)
        size = sum(code.nbytes for code in module.funcs) / 1e6
        rival = _wasmtime(data)
        print(
            f"{Path(name).name}: {size:.3f} MB of code; decode {best[1]:.3f} s, validate {best[0] - best[1]:.3f} s: "
            f"{best[0] / size if size else 0:.2f} s/MB; by machine code {fast:.3f} s; "
            f"wasmtime compiles in {'-' if rival is None else format(rival, '.3f')} s"
        )


if __name__ == "__main__":
    main()
