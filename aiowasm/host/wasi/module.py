"""The host modules a guest imports: every call of the table, bound to the guest's `System`.

What fails becomes an errno here and nowhere else. Calls that cannot wait are `def` functions, which run inside the
engine; which those are depends on whether a file system of the guest waits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Generator
from typing import Any, Final

from aiowasm.host.module import HostModule
from aiowasm.host.wasi import calls_fd, calls_path, calls_poll, calls_process, calls_readdir, calls_sock, unstable
from aiowasm.host.wasi.abi import FUNCTIONS, SNAPSHOT_0, SNAPSHOTS, Errno, Signature
from aiowasm.host.wasi.errno import WasiError, errno_of
from aiowasm.host.wasi.system import System
from aiowasm.store.definitions import HostFunction
from aiowasm.syntax.types import I32, I64, FuncType

__all__ = ("host_module",)

_TYPES: Final = {"i": I32, "l": I64, "s": I64}
_NEVER_WAITS: Final = frozenset(
    {
        "args_get",
        "args_sizes_get",
        "environ_get",
        "environ_sizes_get",
        "clock_res_get",
        "clock_time_get",
        "fd_advise",
        "fd_close",
        "fd_fdstat_get",
        "fd_fdstat_set_flags",
        "fd_fdstat_set_rights",
        "fd_prestat_get",
        "fd_prestat_dir_name",
        "fd_renumber",
        "fd_tell",
        "proc_exit",
        "proc_raise",
        "sched_yield",
        "sock_shutdown",
    }
)
_WAITS_WITH_FILES: Final = frozenset(
    {
        "fd_filestat_get",
        "fd_filestat_set_size",
        "fd_filestat_set_times",
        "fd_seek",
        *(name for name in FUNCTIONS if name.startswith("path_")),
    }
)
"""What waits only if a file system does."""
_NOT_IN_SNAPSHOT_0: Final = frozenset({"sock_accept"})
_FAILURES: Final = (WasiError, OSError, OverflowError, MemoryError, UnicodeError)

Call = Callable[..., Any]


def host_module(name: str, system: System, functions: Collection[str] = FUNCTIONS) -> HostModule:
    """Return the host module *name* for one guest, with those of *functions* that there are.

    Raises:
        ValueError: There is no such snapshot of WASI.
    """
    if name not in SNAPSHOTS:
        raise ValueError(f"no snapshot of WASI is called {name!r}")
    module = HostModule(name)
    module.on_close = system.close
    for function, signature in FUNCTIONS.items():
        if function not in functions or (name == SNAPSHOT_0 and function in _NOT_IN_SNAPSHOT_0):
            continue
        call = (unstable.CALLS.get(function) if name == SNAPSHOT_0 else None) or _call(function)
        module.define(_bind(system, function, signature, call))
    return module


def _call(name: str) -> Call:
    for module in (calls_process, calls_fd, calls_readdir, calls_path, calls_poll, calls_sock):
        call: Call | None = getattr(module, name, None)
        if call is not None:
            return call
    raise AttributeError(f"no call is named {name}")


def _bind(system: System, name: str, signature: Signature, call: Call) -> HostFunction:
    waits = name not in _NEVER_WAITS and (name not in _WAITS_WITH_FILES or system.waits)
    return HostFunction(
        name,
        FuncType(tuple(_TYPES[letter] for letter in signature.parameters), (I32,) if signature.returns else ()),
        _waiting(system, call) if waits else _immediate(system, call),
        waits,
        True,
        0,
        tuple(letter != "s" for letter in signature.parameters),
        _attempting(system, call) if waits else None,
    )


def _immediate(system: System, call: Call) -> Call:
    def immediate(caller: Any, *arguments: int) -> int | None:
        try:
            answer: int | None = call(system, caller, *arguments)
        except _FAILURES as error:
            return int(errno_of(error))
        return 0 if answer is Errno.SUCCESS else answer

    return immediate


class _Later:
    """What is left to await of a call that began inside the engine."""

    __slots__ = ("_work",)

    def __init__(self, work: Coroutine[Any, Any, int]) -> None:
        self._work = work

    def __await__(self) -> Generator[Any, Any, int]:
        return _caught(self._work).__await__()

    def __del__(self) -> None:
        self._work.close()  # one that is never awaited, as its guest was cancelled first, is no mistake


async def _caught(work: Coroutine[Any, Any, int]) -> int:
    try:
        return int(await work)
    except _FAILURES as error:
        return int(errno_of(error))


def _attempting(system: System, call: Call) -> Call:
    def attempting(caller: Any, *arguments: int) -> int | _Later:
        try:
            answer: int | Coroutine[Any, Any, int] = call(system, caller, *arguments)
        except _FAILURES as error:
            return int(errno_of(error))
        if answer is Errno.SUCCESS:
            return 0
        return int(answer) if isinstance(answer, int) else _Later(answer)

    return attempting


def _waiting(system: System, call: Call) -> Call:
    async def waiting(caller: Any, *arguments: int) -> int:
        try:
            answer: int | Coroutine[Any, Any, int] = call(system, caller, *arguments)
            if not isinstance(answer, int):
                answer = await answer
        except _FAILURES as error:
            return int(errno_of(error))
        return int(answer)

    return waiting
