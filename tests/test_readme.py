"""The README's example runs as printed, and so does the quickstart."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*arguments: str, source: str | None = None) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_runs_as_printed() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    assert run("-", source=found[1]).split() == ["42", "0xefffffff"]


@pytest.mark.parametrize("optimised", [False, True])
def test_the_quickstart_runs(optimised: bool) -> None:
    arguments = ["-O"] if optimised else []
    assert run(*arguments, str(Path("examples", "quickstart.py"))).startswith("hello, user 7\n")
