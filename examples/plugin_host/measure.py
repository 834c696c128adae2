"""Measures the plugin host with a real HTTP client: is /ping flat while a hundred guests spin, do they stop in time?

    python -m examples.plugin_host.measure [--servers uvicorn hypercorn] [--guests 100] [--seconds 5]

Bounds: p99 of /ping under 10 ms; a guest is gone at most 50 ms after its client.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import httpx

ROOT = Path(__file__).parent.parent.parent
APP = "examples.plugin_host.app:app"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def served(server: str, engine: str = "auto") -> Iterator[str]:
    """The application under "uvicorn" (asyncio) or "hypercorn" (trio), as a process of its own; gives its address."""
    port = free_port()
    commands = {
        "uvicorn": ["uvicorn", "--port", str(port), "--log-level", "warning", "--no-access-log", APP],
        "hypercorn": ["hypercorn", "--worker-class", "trio", "--bind", f"127.0.0.1:{port}", APP],
    }
    environment = os.environ | {"AIOWASM_ENGINE": engine, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", *commands[server]], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(url + "/ping")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        else:
            raise RuntimeError(f"{server} does not answer")
        yield url
    finally:
        process.terminate()
        process.wait()


async def pings(client: httpx.AsyncClient, seconds: float) -> tuple[float, float]:
    """Milliseconds of /ping, median and 99th percentile."""
    taken = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        assert (await client.get("/ping")).text == "pong"
        taken.append((time.perf_counter() - start) * 1e3)
        await anyio.sleep(0.01)
    taken.sort()
    return taken[len(taken) // 2], taken[int(len(taken) * 0.99)]


async def instances(client: httpx.AsyncClient) -> int:
    count: int = (await client.get("/statistics")).json()["instances"]
    return count


async def spinning(client: httpx.AsyncClient, stop: anyio.Event) -> None:
    """One client that asks for what never comes, until it goes away: its connection is closed."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.get, "/plugins/spin/0")
        await stop.wait()
        tasks.cancel_scope.cancel()


async def measure(url: str, guests: int, seconds: float) -> dict[str, float]:
    """Return what was measured, in milliseconds."""
    found: dict[str, float] = {}
    unlimited = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=url, timeout=30) as client,
        httpx.AsyncClient(base_url=url, timeout=None, limits=unlimited) as spinners,
    ):
        assert (await client.get("/plugins/greet/7")).text == "hello, user 7"
        found["idle p50"], found["idle p99"] = await pings(client, seconds / 2)
        stops = [anyio.Event() for _ in range(guests)]
        async with anyio.create_task_group() as tasks:
            for stop in stops:
                tasks.start_soon(spinning, spinners, stop)
            while await instances(client) < guests:
                await anyio.sleep(0.02)
            found["ping p50"], found["ping p99"] = await pings(client, seconds)
            gone = []
            for stop in stops[: min(10, guests)]:
                before = await instances(client)
                start = time.perf_counter()
                stop.set()
                while await instances(client) >= before:
                    await anyio.sleep(0)
                gone.append((time.perf_counter() - start) * 1e3)
            found["stopped, median"], found["stopped, worst"] = sorted(gone)[len(gone) // 2], max(gone)
            for stop in stops:
                stop.set()
        while await instances(client):
            await anyio.sleep(0.01)
        assert (await client.get("/plugins/total/10")).text == str(sum(number * number for number in range(10)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--servers", nargs="*", default=["uvicorn", "hypercorn"])
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--guests", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    for server in options.servers:
        with served(server, options.engine) as url:
            found = anyio.run(measure, url, options.guests, options.seconds)
        line = "  ".join(f"{what} {milliseconds:.1f} ms" for what, milliseconds in found.items())
        print(f"{server:10}{options.guests} spinning guests: {line}", flush=True)


if __name__ == "__main__":
    main()
