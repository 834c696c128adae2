"""The calls that differ in wasi_unstable, the snapshot before preview 1, which old programs still import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aiowasm.host.wasi import calls_fd, calls_path, calls_poll
from aiowasm.host.wasi.abi import FILESTAT_UNSTABLE, Errno, Rights, Whence
from aiowasm.host.wasi.descriptors import Descriptor, DirectoryDescriptor
from aiowasm.host.wasi.system import Answer, Guest, System, check, run

__all__ = ("CALLS",)

_WHENCE: Final = (Whence.CUR, Whence.END, Whence.SET)


def _fd_seek(system: System, caller: Guest, fd: int, offset: int, whence: int, result: int) -> Answer:
    return calls_fd.fd_seek(system, caller, fd, offset, _WHENCE[whence] if whence < 3 else 3, result)


def _fd_filestat_get(system: System, caller: Guest, fd: int, result: int) -> Answer:
    descriptor = system.descriptor(fd, int(Rights.FD_FILESTAT_GET))
    check(system.view(caller), result, FILESTAT_UNSTABLE.size)
    work = _fd_filestat(system, caller, descriptor, result)
    return work if system.waits else run(work)


async def _fd_filestat(system: System, caller: Guest, descriptor: Descriptor, result: int) -> int:
    return _put(system, caller, result, await calls_fd.stat_of(descriptor))


def _path_filestat_get(
    system: System, caller: Guest, fd: int, lookup: int, path: int, path_nbytes: int, result: int
) -> Answer:
    base, name, follow = calls_path.stat_request(system, caller, fd, lookup, path, path_nbytes)
    check(system.view(caller), result, FILESTAT_UNSTABLE.size)
    work = _path_filestat(system, caller, base, name, follow, result)
    return work if system.waits else run(work)


async def _path_filestat(
    system: System, caller: Guest, base: DirectoryDescriptor, path: str, follow: bool, result: int
) -> int:
    return _put(system, caller, result, await calls_path.stat_path(system, base, path, follow))


def _put(system: System, caller: Guest, result: int, stat: Any) -> int:
    links = min(stat.nlink, 0xFFFF_FFFF)
    FILESTAT_UNSTABLE.pack_into(system.view(caller), result, *stat._replace(nlink=links))
    return Errno.SUCCESS


def _poll_oneoff(system: System, caller: Guest, subscriptions: int, events: int, count: int, result: int) -> Answer:
    return calls_poll.poll_oneoff(system, caller, subscriptions, events, count, result, unstable=True)


CALLS: Final[dict[str, Callable[..., Any]]] = {
    "fd_seek": _fd_seek,
    "fd_filestat_get": _fd_filestat_get,
    "path_filestat_get": _path_filestat_get,
    "poll_oneoff": _poll_oneoff,
}
