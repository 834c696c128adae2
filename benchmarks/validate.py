"""Seconds per MB of code for decoding and validating `.wasm` files; wasmtime's compilation beside it where importable.

    python benchmarks/validate.py file.wasm...

The bound (aiowasm/validation/code.py) is one second per MB of the code section.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from aiowasm.binary.decoder import decode
from aiowasm.features import ALL
from aiowasm.validation.module import validate_module


def _wasmtime(data: bytes) -> float | None:
    try:
        import wasmtime  # noqa: PLC0415 - a rival that need not be installed
    except ImportError:
        return None
    engine = wasmtime.Engine()
    start = time.perf_counter()
    try:
        wasmtime.Module(engine, data)
    except wasmtime.WasmtimeError:
        return None
    return time.perf_counter() - start


def main() -> None:
    """Measure every file named on the command line."""
    for name in sys.argv[1:]:
        data = Path(name).read_bytes()
        start = time.perf_counter()
        module = decode(data, ALL)
        decoded = time.perf_counter()
        validate_module(module, ALL)
        done = time.perf_counter()
        size = sum(code.nbytes for code in module.funcs) / 1e6
        rival = _wasmtime(data)
        print(
            f"{name}: {size:.3f} MB of code; decode {decoded - start:.3f} s, validate {done - decoded:.3f} s; "
            f"{(done - start) / size if size else 0:.2f} s/MB; "
            f"wasmtime compiles in {'-' if rival is None else format(rival, '.3f')} s"
        )


if __name__ == "__main__":
    main()
