"""Calls on sockets that a guest was given."""

from __future__ import annotations

from typing import Final

from aiowasm.host.wasi.abi import Errno, FdFlags, RiFlags, Rights, SdFlags
from aiowasm.host.wasi.descriptors import ListenerDescriptor, SocketDescriptor
from aiowasm.host.wasi.errno import WasiError
from aiowasm.host.wasi.sockets import Connection
from aiowasm.host.wasi.system import Answer, Guest, System, check, put_u32

_NONBLOCK: Final = int(FdFlags.NONBLOCK)
_ALL_RIFLAGS: Final = int(~RiFlags(0))


def _socket(system: System, fd: int, right: int) -> SocketDescriptor:
    descriptor = system.table[fd]
    if isinstance(descriptor, ListenerDescriptor):
        raise WasiError(Errno.NOTCONN)
    if not isinstance(descriptor, SocketDescriptor):
        raise WasiError(Errno.NOTSOCK)
    if descriptor.rights & right != right:
        raise WasiError(Errno.NOTCAPABLE)
    return descriptor


def sock_accept(system: System, caller: Guest, fd: int, flags: int, result: int) -> Answer:
    descriptor = system.table[fd]
    if isinstance(descriptor, SocketDescriptor):
        raise WasiError(Errno.INVAL)
    if not isinstance(descriptor, ListenerDescriptor):
        raise WasiError(Errno.NOTSOCK)
    if not descriptor.rights & Rights.SOCK_ACCEPT:
        raise WasiError(Errno.NOTCAPABLE)
    check(system.view(caller), result, 4)
    if flags & ~_NONBLOCK:
        raise WasiError(Errno.INVAL)
    system.table.check_room()
    if _accept(system, caller, descriptor, flags, result):
        return Errno.SUCCESS
    if descriptor.flags & _NONBLOCK:
        return Errno.AGAIN
    return _accept_later(system, caller, descriptor, flags, result)


def _accept(system: System, caller: Guest, descriptor: ListenerDescriptor, flags: int, result: int) -> bool:
    accepted = descriptor.listener.accept_nowait()
    if accepted is None:
        return False
    system.attach(caller)
    connection = SocketDescriptor(Connection(accepted), flags, descriptor.inheriting)
    try:
        put_u32(system.view(caller), result, system.table.add(connection))
    except BaseException:
        connection.close()
        raise
    return True


async def _accept_later(system: System, caller: Guest, descriptor: ListenerDescriptor, flags: int, result: int) -> int:
    # Cancelled before the connection is taken or not at all: none is lost.
    while True:
        await descriptor.listener.wait_readable()
        if _accept(system, caller, descriptor, flags, result):
            return Errno.SUCCESS


def sock_recv(
    system: System, caller: Guest, fd: int, iovs: int, count: int, flags: int, result: int, result_flags: int
) -> Answer:
    descriptor = _socket(system, fd, int(Rights.FD_READ))
    view = system.view(caller)
    check(view, result, 4)
    check(view, result_flags, 2)
    if flags & ~_ALL_RIFLAGS:
        raise WasiError(Errno.INVAL)
    buffers = system.buffers(caller, view, iovs, count)
    wanted = sum(map(len, buffers))
    done = descriptor.connection.recv_nowait(buffers, peek=bool(flags & RiFlags.PEEK)) if buffers else 0
    if done is None and descriptor.flags & _NONBLOCK:
        return Errno.AGAIN
    waits_for_all = flags & RiFlags.WAITALL and not flags & RiFlags.PEEK and not descriptor.flags & _NONBLOCK
    if done is None or (waits_for_all and 0 < done < wanted):
        return _recv_later(system, caller, descriptor, (iovs, count), flags, done or 0, result, result_flags)
    _received(view, done, result, result_flags)
    return Errno.SUCCESS


def _received(view: memoryview, done: int, result: int, result_flags: int) -> None:
    put_u32(view, result, done)
    view[result_flags : result_flags + 2] = b"\0\0"  # streams truncate nothing


async def _recv_later(
    system: System,
    caller: Guest,
    descriptor: SocketDescriptor,
    iovecs: tuple[int, int],
    flags: int,
    done: int,
    result: int,
    result_flags: int,
) -> int:
    connection = descriptor.connection
    while True:
        await connection.wait_readable()
        buffers = system.buffers(None, system.view(caller), *iovecs)
        received = connection.recv_nowait(_after(buffers, done), peek=bool(flags & RiFlags.PEEK))
        if received is None:
            continue
        done += received
        if not received or not flags & RiFlags.WAITALL or done == sum(map(len, buffers)):
            break
    _received(system.view(caller), done, result, result_flags)
    return Errno.SUCCESS


def _after(buffers: list[memoryview], nbytes: int) -> list[memoryview]:
    """Return what of *buffers* comes after *nbytes* bytes."""
    rest = []
    for buffer in buffers:
        if nbytes < len(buffer):
            rest.append(buffer[nbytes:])
        nbytes = max(0, nbytes - len(buffer))
    return rest


def sock_send(system: System, caller: Guest, fd: int, iovs: int, count: int, flags: int, result: int) -> Answer:
    descriptor = _socket(system, fd, int(Rights.FD_WRITE))
    view = system.view(caller)
    check(view, result, 4)
    if flags:
        raise WasiError(Errno.INVAL)
    buffers = system.buffers(caller, view, iovs, count)
    done = descriptor.connection.send_nowait(buffers) if buffers else 0
    if done is None:
        return Errno.AGAIN if descriptor.flags & _NONBLOCK else _send_later(system, caller, descriptor, buffers, result)
    put_u32(view, result, done)
    return Errno.SUCCESS


async def _send_later(
    system: System, caller: Guest, descriptor: SocketDescriptor, buffers: list[memoryview], result: int
) -> int:
    while True:
        await descriptor.connection.wait_writable()
        done = descriptor.connection.send_nowait(buffers)
        if done is not None:
            put_u32(system.view(caller), result, done)
            return Errno.SUCCESS


def sock_shutdown(system: System, _caller: Guest, fd: int, how: int) -> int:
    descriptor = _socket(system, fd, int(Rights.SOCK_SHUTDOWN))
    if not how or how & ~int(~SdFlags(0)):
        raise WasiError(Errno.INVAL)
    descriptor.connection.shutdown(SdFlags(how))
    return Errno.SUCCESS
