"""The standard's test suite on the interpreter, one test per script: nothing fails and nothing is skipped.

Once as it is, functions beginning in the direct interpreter; once more in generated code alone, paused at almost every
check point. Fuel must be the same, call by call: neither the form of the code nor where it pauses may show in it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aiowasm.cli.wast.profiles import profile
from aiowasm.cli.wast.runner import Report, run_script
from aiowasm.engine.interpreter.code import HOT
from aiowasm.engine.interpreter.engine import Interpreter

REQUIRED = (".", "custom", "legacy", "proposals/threads", "proposals/custom-page-sizes", "proposals/wide-arithmetic")
# They count to a million or fill memories with loops: paused at every check point that takes half a minute.
LONG = ("return_call", "memory_fill", "memory_copy", "memory_grow", "skip-stack")
ALWAYS_GENERATED = -1


def scripts() -> list[str]:
    """Names of the scripts below WASM_TESTSUITE; one that the fixture skips if it is not set."""
    root = Path(os.environ.get("WASM_TESTSUITE") or "/nonexistent")
    found = [
        path.relative_to(root).as_posix() for folder in REQUIRED for path in sorted((root / folder).glob("*.wast"))
    ]
    return found or ["address.wast"]


def run(path: Path, slice_fuel: int, hot: int = HOT) -> Report:
    features = profile(path)
    if isinstance(features, str):
        raise TypeError(f"{features} is not supported")
    return run_script(path.read_bytes(), features, Interpreter(hot), slice_fuel)


@pytest.mark.parametrize("name", scripts())
def test_script(testsuite: Path, name: str) -> None:
    path = testsuite / name
    report = run(path, 1_000_000)
    assert not report.failures, "\n".join(f"{name}:{line}: {what}" for line, what in report.failures[:20])
    assert not report.skips
    assert report.passed or not path.read_text(encoding="utf-8").strip()
    again = run(path, 1_000_000 if path.name.startswith(LONG) else 3, ALWAYS_GENERATED)
    assert not again.failures, "\n".join(f"{name}:{line}: {what}" for line, what in again.failures[:20])
    assert again.passed == report.passed
    assert again.fuel == report.fuel


def test_the_suite_is_complete(testsuite: Path) -> None:
    assert len(list(testsuite.glob("*.wast"))) >= 257
    for folder in REQUIRED:
        assert list((testsuite / folder).glob("*.wast")), folder
