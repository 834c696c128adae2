"""`Wasi`: what a guest is given, and running it as a command."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiowasm.errors import AiowasmError, DeadlineError, ExitError, LinkError
from aiowasm.host.module import HostModule
from aiowasm.host.wasi.abi import SNAPSHOTS
from aiowasm.host.wasi.clocks import Clock, FakeClock, SeededRandom, SystemClock
from aiowasm.host.wasi.descriptors import (
    ALL_RIGHTS,
    DIRECTORY_RIGHTS,
    DirectoryDescriptor,
    ListenerDescriptor,
    SocketDescriptor,
    StreamDescriptor,
)
from aiowasm.host.wasi.filesystem import FileSystem
from aiowasm.host.wasi.module import host_module
from aiowasm.host.wasi.paths import place_of
from aiowasm.host.wasi.sockets import Connection, Listener, check_socket, raw_socket
from aiowasm.host.wasi.stdio import InputSource, OutputTarget, input_of, output_of
from aiowasm.host.wasi.streams import Capture, Output
from aiowasm.host.wasi.system import System
from aiowasm.store.definitions import Command
from aiowasm.store.module import Module

if TYPE_CHECKING:
    from aiowasm.store.limits import Limits
    from aiowasm.store.namespace import Importable, Namespace

__all__ = ("CommandResult", "Wasi")

DEFAULT_OUTPUT_NBYTES: Final = 64 << 20
DEFAULT_OPEN_FILES: Final = 1024
_MAX_STRINGS_NBYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What came of a command. `stdout` and `stderr` are empty where they went elsewhere."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    fuel_consumed: int
    peak_memory_bytes: int


class Wasi(Command[CommandResult]):
    """What a guest is given: nothing that is not named here. Any number of guests can be run with one of them.

    Args:
        args: The arguments, the program's name first.
        env: The environment.
        stdin: Bytes, a binary file, a receiving stream of anyio, or a function that returns (or awaits) the next
            bytes, b"" at the end. None: the end at once.
        stdout: A binary file, a sending stream of anyio, a function that takes bytes (and may be awaited), or a
            bytearray. None: captured for the result. A guest that writes faster than it is taken is suspended.
        stderr: The same.
        fs: Guest paths to file systems. The longest matching path counts, also for paths that lead from one file
            system to where another is mounted in it.
        listeners: Listening sockets (or anyio's listeners) that the guest may accept from. They stay open.
        sockets: Connected sockets (or anyio's streams of them), which are the guest's from then on.
        clock: Where time comes from; the system's by default.
        random: Returns that many random bytes; the system's by default.
        max_open_files: How many descriptors the guest may have open.
        max_output_nbytes: How much of stdout and stderr each is captured; more is a LimitError.

    Raises:
        ValueError: A NUL in an argument or the environment, or a path that cannot be mounted at.
        TypeError: A stream is nothing a guest could use.
    """

    def __init__(
        self,
        args: Iterable[str | bytes] = (),
        env: Mapping[str, str] | None = None,
        *,
        stdin: InputSource = None,
        stdout: OutputTarget = None,
        stderr: OutputTarget = None,
        fs: Mapping[str, FileSystem] | None = None,
        listeners: Iterable[object] = (),
        sockets: Iterable[object] = (),
        clock: Clock | None = None,
        random: Callable[[int], bytes] = os.urandom,
        max_open_files: int = DEFAULT_OPEN_FILES,
        max_output_nbytes: int = DEFAULT_OUTPUT_NBYTES,
    ) -> None:
        self.args = [_string(argument, "an argument") for argument in args]
        self.env = [_variable(name, value) for name, value in (env or {}).items()]
        if sum(len(string) + 1 for string in (*self.args, *self.env)) > _MAX_STRINGS_NBYTES:
            raise ValueError(f"arguments and environment are more than {_MAX_STRINGS_NBYTES} bytes")
        self.fs = dict(fs or {})
        self._places = {path: place_of(path) for path in self.fs}
        if len(set(self._places.values())) < len(self._places):
            raise ValueError("two file systems are mounted at the same path")
        for path, filesystem in self.fs.items():
            if not isinstance(filesystem, FileSystem):
                raise TypeError(f"{path!r} must be a file system, not {type(filesystem).__name__}")
        self._stdin = stdin
        self._stdout = stdout
        self._stderr = stderr
        self._listeners = list(listeners)
        self._sockets = list(sockets)
        for source in (*self._listeners, *self._sockets):
            check_socket(source)
        self._clock = clock
        self._random = random
        self._max_open_files = max_open_files
        self._max_output_nbytes = max_output_nbytes
        self._is_deterministic = False
        # What is no stream is an error now, not when the guest starts.
        input_of(stdin)
        output_of(stdout, 0)
        output_of(stderr, 0)

    @classmethod
    def deterministic(
        cls, args: Iterable[str | bytes] = (), env: Mapping[str, str] | None = None, *, seed: int = 0, **options: Any
    ) -> Wasi:
        """Return a `Wasi` under which a guest does the same every time: fake clocks, randomness from *seed*.

        Time passes by being looked at and slept through. Each guest starts afresh. The contents of `MemFS` are stamped
        with the fake time; what other file systems and streams give is theirs.
        """
        wasi = cls(args, env, **options)
        wasi._is_deterministic = True
        wasi._seed = seed
        return wasi

    _seed = 0

    def system(self) -> System:
        """Return the state of a new guest, with everything opened."""
        fake = self._is_deterministic
        system = System(
            args=self.args,
            env=self.env,
            clock=self._clock or (FakeClock() if fake else SystemClock()),
            random=SeededRandom(self._seed) if fake and self._random is os.urandom else self._random,
            max_open=self._max_open_files,
        )
        try:
            self._open(system)
        except BaseException:
            system.close()
            raise
        return system

    def _open(self, system: System) -> None:
        table = system.table
        system.stdout = output_of(self._stdout, self._max_output_nbytes)
        # The same object for both keeps the order of what is written.
        same = self._stderr is self._stdout and self._stdout is not None
        system.stderr = system.stdout if same else output_of(self._stderr, self._max_output_nbytes)
        table.add(StreamDescriptor(input=input_of(self._stdin)))
        table.add(StreamDescriptor(output=system.stdout))
        table.add(StreamDescriptor(output=system.stderr))
        for path, filesystem in self.fs.items():
            if self._is_deterministic:
                filesystem.use_clock(system.now)
            place = self._places[path]
            system.waits = system.waits or filesystem.waits
            table.add(
                DirectoryDescriptor(
                    filesystem.open_root(), DIRECTORY_RIGHTS, ALL_RIGHTS, preopen=path.encode(), place=place
                )
            )
            if any(other != place and place[: len(other)] == other for other in self._places.values()):
                system.mounts[place] = filesystem.open_root()
        for listening in self._listeners:
            table.add(ListenerDescriptor(Listener(*raw_socket(listening))))
        for connected in self._sockets:
            table.add(SocketDescriptor(Connection(raw_socket(connected)[0])))

    def imports(self, module: Module | None = None) -> dict[str, HostModule]:
        """Return what a new guest imports: `store.instantiate(module, imports=wasi.imports())`, for reactors.

        Args:
            module: Make only what this one imports, which takes less time.
        """
        return _imports(self.system(), module)

    async def run_command(
        self,
        namespace: Namespace[Any],
        module: Module | bytes,
        *,
        imports: Mapping[str, Importable] | None = None,
        limits: Limits | None = None,
    ) -> CommandResult:
        """Run *module* as a program in *namespace*. See `Namespace.run_command`."""
        if not isinstance(module, Module):
            module = await Module.from_bytes(module, features=namespace.store.features)
        system = self.system()
        own = _imports(system, module)
        try:
            return await _run(namespace, module, system, {**own, **(imports or {})}, limits)
        finally:
            system.close()
            for host in own.values():  # made for this guest alone: a store that lives on must not keep them
                namespace.host(host).close_soon()


def _imports(system: System, module: Module | None) -> dict[str, HostModule]:
    if module is None:
        return {name: host_module(name, system) for name in SNAPSHOTS}
    wanted: dict[str, list[str]] = {}
    for entry in module.imports:
        if entry.module in SNAPSHOTS:
            wanted.setdefault(entry.module, []).append(entry.name)
    return {name: host_module(name, system, functions) for name, functions in wanted.items()}


async def _run(
    namespace: Namespace[Any],
    module: Module,
    system: System,
    imports: Mapping[str, Importable],
    limits: Limits | None,
) -> CommandResult:
    instance = None
    try:
        instance = await namespace.instantiate(module, imports=imports, limits=limits)
        if "_start" not in instance.exports:
            raise LinkError('unknown export: the module exports no "_start": it is no command')
        await instance.exports["_start"]()
    except DeadlineError as error:
        error.result = _result(system, instance, error.exit_code)
        raise
    except ExitError as error:
        if system.exited is None:  # somebody else closed it
            error.__dict__["result"] = _result(system, instance, error.exit_code)
            raise
    except AiowasmError as error:
        # What a guest that trapped had written usually says why.
        error.__dict__["result"] = _result(system, instance, 1)
        raise
    finally:
        if instance is not None:
            _note_memory(system, instance)
            instance.close_soon()
    return _result(system, instance, system.exited or 0)


def _note_memory(system: System, instance: Any) -> None:
    memory = instance.memory if instance.exit_code is None else None
    if memory is not None:
        system.peak_memory_nbytes = max(system.peak_memory_nbytes, memory.nbytes)


def _result(system: System, instance: Any, exit_code: int) -> CommandResult:
    if instance is not None:
        _note_memory(system, instance)
    return CommandResult(
        exit_code=exit_code,
        stdout=_captured(system.stdout),
        stderr=_captured(system.stderr),
        fuel_consumed=0 if instance is None else instance.fuel_consumed,
        peak_memory_bytes=system.peak_memory_nbytes,
    )


def _captured(output: Output) -> bytes:
    return bytes(output.data) if isinstance(output, Capture) else b""


def _string(value: str | bytes, what: str) -> bytes:
    data = os.fsencode(value)
    if b"\0" in data:
        raise ValueError(f"{what} must not contain a NUL: {value!r}")
    return data


def _variable(name: str, value: str) -> bytes:
    if not name or "=" in name:
        raise ValueError(f"the name of a variable must not be empty or contain '=': {name!r}")
    return _string(f"{name}={value}", "a variable")
