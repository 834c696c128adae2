"""The examples run, with real parts: servers, an HTTP client, a database."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import anyio
import pytest

from aiowasm.store.engines import available

ROOT = Path(__file__).parent.parent.parent


def test_the_quickstart_prints_what_it_says() -> None:
    done = subprocess.run(
        [sys.executable, "examples/quickstart.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    first, second = done.stdout.splitlines()
    assert first == "hello, user 7"
    assert second.startswith("stopped with exit code 0xefffffff")


@pytest.mark.parametrize("engine", available())
@pytest.mark.parametrize("server", ["uvicorn", "hypercorn"])
def test_the_plugin_host_serves_and_stops_guests(server: str, engine: str) -> None:
    for name in ("starlette", "httpx", server):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    from examples.plugin_host.measure import measure, served  # noqa: PLC0415

    with served(server, engine) as url:
        found = anyio.run(measure, url, 10, 0.5)
    # Times are for its own script to show; that every guest has stopped, `measure` has waited for.
    assert set(found) == {
        "idle p50",
        "idle p99",
        "ping p50",
        "ping p99",
        "stopped, median",
        "stopped, worst",
    }
