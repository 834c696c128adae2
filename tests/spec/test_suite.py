"""The standard's test suite on the interpreter, one test per script: nothing fails and nothing is skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aiowasm.cli.wast.profiles import profile
from aiowasm.cli.wast.runner import run_script
from aiowasm.engine.interpreter.engine import Interpreter

REQUIRED = (".", "custom", "legacy", "proposals/threads", "proposals/custom-page-sizes", "proposals/wide-arithmetic")


def scripts() -> list[str]:
    """Names of the scripts below WASM_TESTSUITE; one that the fixture skips if it is not set."""
    root = Path(os.environ.get("WASM_TESTSUITE") or "/nonexistent")
    found = [
        path.relative_to(root).as_posix() for folder in REQUIRED for path in sorted((root / folder).glob("*.wast"))
    ]
    return found or ["address.wast"]


@pytest.mark.parametrize("name", scripts())
def test_script(testsuite: Path, name: str) -> None:
    path = testsuite / name
    features = profile(path)
    assert not isinstance(features, str)
    report = run_script(path.read_bytes(), features, Interpreter())
    assert not report.failures, "\n".join(f"{name}:{line}: {what}" for line, what in report.failures[:20])
    assert not report.skips
    assert report.passed or not path.read_text(encoding="utf-8").strip()


def test_the_suite_is_complete(testsuite: Path) -> None:
    assert len(list(testsuite.glob("*.wast"))) >= 257
    for folder in REQUIRED:
        assert list((testsuite / folder).glob("*.wast")), folder
