"""The standard's test suite on the native engine: nothing fails; what is skipped or follows from it is GC's alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aiowasm.cli.wast.profiles import profile
from aiowasm.cli.wast.runner import run_script
from aiowasm.engine.native import Native

FOLDERS = (".", "legacy", "proposals/threads", "proposals/custom-page-sizes", "proposals/wide-arithmetic")


def scripts() -> list[str]:
    root = Path(os.environ.get("WASM_TESTSUITE") or "/nonexistent")
    found = [path.relative_to(root).as_posix() for folder in FOLDERS for path in sorted((root / folder).glob("*.wast"))]
    return found or ["address.wast"]


@pytest.mark.parametrize("name", scripts())
def test_script(testsuite: Path, native: Native, name: str) -> None:
    path = testsuite / name
    features = profile(path)
    assert not isinstance(features, str)
    report = run_script(path.read_bytes(), features, native)
    if report.skips:
        assert all("lacks gc" in what for _line, what in report.skips)
        pytest.skip("needs gc, which the native engine lacks")
    assert not report.failures, "\n".join(f"{name}:{line}: {what}" for line, what in report.failures[:20])
