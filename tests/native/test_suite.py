"""The standard's test suite on the native engine: nothing fails; what is skipped or follows from it is GC's alone.

And call by call it is the interpreter's run: results, traps and the frames they name, fuel, memories, globals, tables.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aiowasm.cli.wast.profiles import profile
from aiowasm.cli.wast.runner import Report, run_script
from aiowasm.engine.base import Engine
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.native import Native
from tests.native.recording import Recording

FOLDERS = (".", "legacy", "proposals/threads", "proposals/custom-page-sizes", "proposals/wide-arithmetic")
# They count to a million, or fill memories with loops: paused at every check point that takes long.
LONG = ("return_call", "memory_fill", "memory_copy", "memory_grow", "skip-stack")


def scripts() -> list[str]:
    root = Path(os.environ.get("WASM_TESTSUITE") or "/nonexistent")
    found = [path.relative_to(root).as_posix() for folder in FOLDERS for path in sorted((root / folder).glob("*.wast"))]
    return found or ["address.wast"]


def record(path: Path, engine: Engine, slice_fuel: int) -> tuple[Report, Recording]:
    features = profile(path)
    assert not isinstance(features, str)
    recording = Recording(engine)
    return run_script(path.read_bytes(), features, recording, slice_fuel), recording


@pytest.mark.parametrize("name", scripts())
def test_script(testsuite: Path, native: Native, name: str) -> None:
    path = testsuite / name
    report, seen = record(path, native, 1_000_000)
    assert not report.failures, "\n".join(f"{name}:{line}: {what}" for line, what in report.failures[:20])
    assert all("lacks gc" in what for _line, what in report.skips)
    _, expected = record(path, Interpreter(), 1_000_000)
    if report.skips:
        # What the native engine could run, it ran alike and in the same order.
        records = iter(expected.records)
        assert all(each in records for each in seen.records)
        pytest.skip("needs gc, which the native engine lacks")
    compare(seen, expected)
    if not path.name.startswith(LONG):
        _, in_slices = record(path, native, 3)
        compare(in_slices, expected)


def compare(seen: Recording, expected: Recording) -> None:
    for number, (ours, theirs) in enumerate(zip(seen.records, expected.records, strict=True)):
        assert ours == theirs, f"call {number}"
    assert seen.end() == expected.end()
