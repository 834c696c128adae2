"""Programs like subprocesses: `run_command` runs one to its end, `open_command` is a live one.

`open_command` owns a task group while it is open: the only place where aiowasm starts a task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, TaskGroup

from aiowasm.errors import EXIT_CANCELLED, AiowasmError, ExitError
from aiowasm.store.limits import Limits
from aiowasm.store.module import Module
from aiowasm.store.store import Store

if TYPE_CHECKING:
    from aiowasm.host.wasi.filesystem import FileSystem
    from aiowasm.host.wasi.stdio import InputSource, OutputTarget
    from aiowasm.host.wasi.wasi import CommandResult
    from aiowasm.store.namespace import Importable

__all__ = ("Process", "open_command", "run_command")

EngineName = Literal["auto", "native", "interpreter"]


async def run_command(
    module: Module | bytes,
    *,
    args: Iterable[str | bytes] = (),
    env: Mapping[str, str] | None = None,
    stdin: InputSource = None,
    stdout: OutputTarget = None,
    stderr: OutputTarget = None,
    fs: Mapping[str, FileSystem] | None = None,
    imports: Mapping[str, Importable] | None = None,
    timeout: float | None = None,
    limits: Limits | None = None,
    engine: EngineName = "auto",
    deterministic: bool = False,
    **options: Any,
) -> CommandResult:
    """Run a WASI program in a store of its own and return what came of it.

    Args:
        module: A module that exports `_start`, or the bytes of one.
        args: The arguments, the program's name first.
        env: The environment; the application's own is not passed on.
        stdin: What it reads: bytes, a binary file, a stream or a function; see `Wasi`.
        stdout: Where its output goes; captured by default.
        stderr: The same.
        fs: Guest paths to file systems.
        imports: Where else it imports from, by module name: host modules of yours.
        timeout: Seconds it may take.
        limits: What it may consume.
        engine: Which engine runs it.
        deterministic: Whether time and randomness are the same in every run.
        **options: Further options of `Wasi`.

    Returns:
        Exit code, captured output, fuel consumed and peak memory.

    Cancellation: ends the guest wherever it is.

    Raises:
        Trap: The guest trapped. `result`, an attribute of the error, is what it had written until then.
        DeadlineError: *timeout* ran out; it has a `result` too.
        MalformedError, InvalidError, LinkError: The module cannot be run.
    """
    wasi = _wasi(deterministic, args=args, env=env, stdin=stdin, stdout=stdout, stderr=stderr, fs=fs, **options)
    limits = _limits(limits, timeout)
    async with Store[None](engine=engine, limits=limits) as store:
        return await store.run_command(module, wasi, imports=imports)


def _wasi(deterministic: bool, **options: Any) -> Any:
    # Imported here: an application that runs no programs does not pay for it.
    from aiowasm.host.wasi.wasi import Wasi  # noqa: PLC0415

    return Wasi.deterministic(**options) if deterministic else Wasi(**options)


def _limits(limits: Limits | None, timeout: float | None) -> Limits:
    limits = Limits() if limits is None else limits
    return limits if timeout is None else replace(limits, timeout=timeout)


class Process:
    """A running program; an async context manager made by `open_command`.

    Leaving the block closes stdin, takes no more output, and waits for the program to end; leaving it with an
    exception or by cancellation kills the program.
    """

    def __init__(
        self,
        module: Module | bytes,
        store: Callable[[], Store[None]],
        imports: Mapping[str, Importable] | None,
        options: dict[str, Any],
    ) -> None:
        self._module = module
        self._imports = imports
        self._make_store = store
        self._options = options
        self._group: TaskGroup | None = None
        self._scope: anyio.CancelScope | None = None
        self._ended: anyio.Event | None = None
        self._error: Exception | None = None
        self._unseen: Exception | None = None
        self.stdin: ByteSendStream
        """What the program reads."""
        self.stdout: ByteReceiveStream
        """What the program writes. It is suspended while 64 KiB are waiting here."""
        self.stderr: ByteReceiveStream
        """The same. Read both, or close what you do not read, lest the program wait for you."""
        self.exit_code: int | None = None
        """None while it runs; EXIT_CANCELLED if it was killed, 134 after a trap."""
        self.result: CommandResult | None = None
        """Fuel and memory used, once it has ended."""

    async def __aenter__(self) -> Process:
        from aiowasm.host.wasi import pipes  # noqa: PLC0415

        self._ended = anyio.Event()
        stdin, stdout, stderr = pipes.Pipe(), pipes.Pipe(), pipes.Pipe()
        self.stdin, self.stdout, self.stderr = (
            pipes.PipeWriter(stdin),
            pipes.PipeReader(stdout),
            pipes.PipeReader(stderr),
        )
        ends = (pipes.PipeInput(stdin), pipes.PipeOutput(stdout), pipes.PipeOutput(stderr))
        wasi = _wasi(**self._options, stdin=ends[0], stdout=ends[1], stderr=ends[2])
        self._scope = anyio.CancelScope()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._run, wasi, ends)
        return self

    async def _run(self, wasi: Any, ends: Iterable[Any]) -> None:
        try:
            with self._scope or anyio.CancelScope():
                async with self._make_store() as store:
                    result: CommandResult = await store.run_command(self._module, wasi, imports=self._imports)
                    self.result = result
                    self.exit_code = result.exit_code
        except ExitError as error:
            self._fail(error, error.exit_code)
        except Exception as error:
            self._fail(error, 134)  # what the command line says of a trap
        finally:
            if self.exit_code is None:
                self.exit_code = EXIT_CANCELLED
            for end in ends:
                end.close()
            if self._ended is not None:
                self._ended.set()

    def _fail(self, error: Exception, exit_code: int) -> None:
        self._error = error
        # What no rule says of guests must not be lost if nobody waits.
        self._unseen = None if isinstance(error, AiowasmError) else error
        self.exit_code = exit_code
        self.result = getattr(error, "result", None)

    async def wait(self) -> int:
        """Wait until the program has ended and return its exit code. Read its output meanwhile.

        Raises:
            Trap, LinkError, DeadlineError and so on: why it ended, if not by itself; what a host function raised.
        """
        if self._ended is None:
            raise RuntimeError("the program is not started: use `async with`")
        await self._ended.wait()
        if self._error is not None:
            error, self._unseen = self._error, None
            raise error
        return EXIT_CANCELLED if self.exit_code is None else self.exit_code

    def kill(self) -> None:
        """End the program, wherever it is. It has ended once `wait` returns."""
        if self._scope is not None:
            self._scope.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        if self._group is None:
            return None
        if error is None:
            await self._leave()
        else:
            self.kill()
        if isinstance(error, anyio.get_cancelled_exc_class()):
            return await self._group.__aexit__(kind, error, traceback)
        await self._group.__aexit__(None, None, None)  # which would wrap the error of the block in a group
        if error is None and self._unseen is not None:
            raise self._unseen
        return None

    async def _leave(self) -> None:
        try:
            for stream in (self.stdin, self.stdout, self.stderr):
                await stream.aclose()
            if self._ended is not None:
                await self._ended.wait()
        except BaseException as error:
            self.kill()
            if self._group is not None:
                await self._group.__aexit__(type(error), error, error.__traceback__)
            raise


def open_command(
    module: Module | bytes,
    *,
    args: Iterable[str | bytes] = (),
    env: Mapping[str, str] | None = None,
    fs: Mapping[str, FileSystem] | None = None,
    imports: Mapping[str, Importable] | None = None,
    timeout: float | None = None,
    limits: Limits | None = None,
    engine: EngineName = "auto",
    deterministic: bool = False,
    **options: Any,
) -> Process:
    """Return a WASI program that runs while the `async with` block is open.

    The arguments are those of `run_command`; its streams are `process.stdin`, `process.stdout`, `process.stderr`.
    """
    limits = _limits(limits, timeout)
    return Process(
        module,
        lambda: Store[None](engine=engine, limits=limits),
        imports,
        {"deterministic": deterministic, "args": args, "env": env, "fs": fs, **options},
    )
