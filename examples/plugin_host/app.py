"""A web application that runs other people's plugins: modules that read its database through host functions.

Every request gets a fresh instance, with limits. A client that goes away takes its guest along: servers do not tell an
application by themselves, so the connection is watched. The same application runs on asyncio and on trio:

    uvicorn examples.plugin_host.app:app
    hypercorn --worker-class trio examples.plugin_host.app:app
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from aiowasm import AiowasmError, Caller, HostModule, Limits, Module, Store, i32, i64, u32

PLUGINS = Path(__file__).parent / "plugins"
LIMITS = Limits(memory_pages=16, instances=10_000)
CLIENT_GONE = 499

host = HostModule("host")


class Database:
    """A table of users in SQLite. sqlite3 blocks, so it is used in worker threads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.execute("create table if not exists users (id integer primary key, name text, score integer)")
            rows = [(number, f"user {number}", number * number) for number in range(1000)]
            connection.executemany("insert or replace into users values (?, ?, ?)", rows)

    def _one(self, column: str, user: int) -> Any:
        connection = sqlite3.connect(self.path)
        try:
            query = f"select {column} from users where id = ?"
            row = connection.execute(query, (user,)).fetchone()
        finally:
            connection.close()
        return row and row[0]

    async def one(self, column: str, user: int) -> Any:
        """Return a column of a user, or None."""
        return await anyio.to_thread.run_sync(self._one, column, user)


@host.function
async def name_of(caller: Caller[Database], user: i32, where: u32, nbytes: u32) -> i32:
    """Write the name of *user* into the guest's memory; return its length in bytes, at most *nbytes*."""
    name = await caller.data.one("name", user) or ""
    data = name.encode()[:nbytes]
    caller.memory.write(where, data)
    return len(data)


@host.function
async def score_of(caller: Caller[Database], user: i32) -> i64:
    """Return the score of *user*, 0 if there is no such user."""
    score: int = await caller.data.one("score", user) or 0
    return score


async def while_connected(request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
    """Do *work* for as long as the client waits for it."""
    response = Response(status_code=CLIENT_GONE)
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        response = await work()
        tasks.cancel_scope.cancel()
    return response


async def run_plugin(request: Request) -> Response:
    store: Store[Database] = request.app.state.store
    module: Module | None = request.app.state.modules.get(request.path_params["name"])
    if module is None:
        return PlainTextResponse("no such plugin", status_code=404)

    async def work() -> Response:
        instance = await store.instantiate(module)
        try:
            offset, nbytes = await instance.exports.handle(request.path_params["user"])
            return PlainTextResponse(instance.memory.read(offset, nbytes))
        except AiowasmError as error:
            return PlainTextResponse(str(error), status_code=500)
        finally:
            instance.close_soon()

    return await while_connected(request, work)


async def ping(request: Request) -> Response:
    return PlainTextResponse("pong")


async def statistics(request: Request) -> Response:
    found = request.app.state.store.statistics()
    return JSONResponse({"instances": found.instances, "activations": found.activations})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder) / "users.sqlite3")
        await anyio.to_thread.run_sync(database.create)
        app.state.modules = {path.stem: await Module.from_file(path) for path in sorted(PLUGINS.glob("*.wat"))}
        engine = os.environ.get("AIOWASM_ENGINE", "auto")
        async with Store(engine=engine, limits=LIMITS, data=database) as store:
            await store.instantiate(host)
            app.state.store = store
            yield


app = Starlette(
    routes=[
        Route("/ping", ping),
        Route("/statistics", statistics),
        Route("/plugins/{name}/{user:int}", run_plugin),
    ],
    lifespan=lifespan,
)
