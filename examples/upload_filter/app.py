"""A filter in the path of an upload: the body of a request streams through a guest, and back to the client.

Neither side is kept in memory: the guest reads as the client sends, and is suspended while the client does not take
what it writes. Who closes the connection, or sends more than a guest may work on, ends the guest. Plain ASGI, on
asyncio and on trio alike:

    uvicorn examples.upload_filter.app:app
    hypercorn --worker-class trio examples.upload_filter.app:app
    curl -T some-file http://127.0.0.1:8000/

The filter is filter.wat, or any WASI program that UPLOAD_FILTER names (filter.c is the same in C).
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio

from aiowasm import AiowasmError, Limits, Module, Process, open_command

PROGRAM = Path(os.environ.get("UPLOAD_FILTER", str(Path(__file__).parent / "filter.wat")))
LIMITS = Limits(memory_pages=512, fuel=20_000_000_000)
TIMEOUT_SECONDS = 300.0

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_modules: dict[Path, Module] = {}


async def program() -> Module:
    """Return the filter, decoded and validated once."""
    if PROGRAM not in _modules:
        _modules[PROGRAM] = await Module.from_file(PROGRAM)
    return _modules[PROGRAM]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer a request with its body, filtered."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "http":
        await answer(receive, send)


async def lifespan(receive: Receive, send: Send) -> None:
    """Load the filter when the server starts."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await program()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def answer(receive: Receive, send: Send) -> None:
    """Stream a body through the filter."""
    started = False
    failure = ""
    gone = anyio.Event()
    module = await program()
    async with (
        open_command(module, args=["filter"], limits=LIMITS, timeout=TIMEOUT_SECONDS) as process,
        anyio.create_task_group() as group,
    ):
        group.start_soon(feed, process, receive, gone)
        async for chunk in process.stdout:
            if not started:
                started = True
                await start(send, 200)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        try:
            exit_code = await process.wait()
            failure = f"the filter ended with {exit_code}\n" if exit_code else ""
        except AiowasmError as error:
            failure = f"{error}\n"
        group.cancel_scope.cancel()
    if gone.is_set() or (failure and started):
        return  # nobody listens, or what was begun stays unfinished: the client sees that the body is cut off
    if not started:
        await start(send, 422 if failure else 200)
    await send({"type": "http.response.body", "body": failure.encode()})


async def start(send: Send, status: int) -> None:
    """Send the head of the response."""
    headers = [(b"content-type", b"application/octet-stream")]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def feed(process: Process, receive: Receive, gone: anyio.Event) -> None:
    """Send the body to the guest, as fast as it reads; end the guest if the client goes away."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            gone.set()
            process.kill()
            return
        try:
            await process.stdin.send(message.get("body", b""))
        except anyio.BrokenResourceError:
            continue  # the filter has read enough
        if not message.get("more_body", False):
            await process.stdin.aclose()
