"""Calls on descriptors: reading, writing, positions, what is known of them.

Each tries without waiting and returns an errno; where it would wait it returns a coroutine, which looks at the guest's
memory anew after every await.
"""

from __future__ import annotations

from typing import Final

from aiowasm.host.wasi.abi import (
    FDSTAT,
    FILESTAT,
    PRESTAT,
    Errno,
    FdFlags,
    FstFlags,
    Rights,
    Whence,
)
from aiowasm.host.wasi.descriptors import (
    Descriptor,
    DirectoryDescriptor,
    FileDescriptor,
    ListenerDescriptor,
    SocketDescriptor,
    StreamDescriptor,
)
from aiowasm.host.wasi.errno import WasiError
from aiowasm.host.wasi.filesystem import Stat
from aiowasm.host.wasi.streams import scatter
from aiowasm.host.wasi.system import Answer, Guest, System, check, put_u32, put_u64, run

_MAX_OFFSET: Final = (1 << 63) - 1
_SYNC: Final = int(FdFlags.SYNC | FdFlags.DSYNC)
_APPEND: Final = int(FdFlags.APPEND)
_NONBLOCK: Final = int(FdFlags.NONBLOCK)
_FD_READ: Final = int(Rights.FD_READ)
_FD_WRITE: Final = int(Rights.FD_WRITE)
_FD_SEEK: Final = int(Rights.FD_SEEK)
_FD_TELL: Final = int(Rights.FD_TELL)


def _file(system: System, fd: int, rights: int) -> FileDescriptor:
    """Return the open file *fd*. What is none is told apart before rights are looked at."""
    descriptor = system.table[fd]
    if type(descriptor) is not FileDescriptor:
        raise WasiError(Errno.ISDIR if isinstance(descriptor, DirectoryDescriptor) else Errno.SPIPE)
    if descriptor.rights & rights != rights:
        raise WasiError(Errno.NOTCAPABLE)
    return descriptor


def _fd(system: System, fd: int, rights: int) -> Descriptor:
    """Return the descriptor *fd*, which can be read or written: no directory."""
    descriptor = system.table[fd]
    if isinstance(descriptor, DirectoryDescriptor):
        raise WasiError(Errno.ISDIR)
    if isinstance(descriptor, ListenerDescriptor):
        raise WasiError(Errno.NOTCONN)
    if descriptor.rights & rights != rights:
        raise WasiError(Errno.NOTCAPABLE)
    return descriptor


def _cut(buffers: list[memoryview], offset: int) -> list[memoryview]:
    """Return what of *buffers* can be filled from *offset*: no file has bytes beyond `_MAX_OFFSET`."""
    left = _MAX_OFFSET - offset
    found = []
    for buffer in buffers:
        if left:
            found.append(buffer[:left])
            left -= len(found[-1])
    return found


def _check_end(offset: int, nbytes: int) -> None:
    if offset + nbytes > _MAX_OFFSET:
        raise WasiError(Errno.FBIG)


def fd_read(system: System, caller: Guest, fd: int, iovs: int, count: int, result: int) -> Answer:
    descriptor = _fd(system, fd, _FD_READ)
    view = system.view(caller)
    check(view, result, 4)
    buffers = system.buffers(caller, view, iovs, count)
    done: int | None
    if isinstance(descriptor, FileDescriptor):
        nbytes = sum(map(len, buffers))
        if descriptor.file.may_wait(nbytes):
            return _read_file(system, caller, descriptor, iovs, count, None, result)
        if descriptor.position + nbytes > _MAX_OFFSET:
            buffers = _cut(buffers, descriptor.position)
        done = run(descriptor.file.pread(buffers, descriptor.position)) if buffers else 0
        descriptor.position += done
    else:
        done = _read_nowait(descriptor, buffers)
        if done is None:
            if descriptor.flags & _NONBLOCK:
                return Errno.AGAIN
            return _read_stream(system, caller, descriptor, iovs, count, result)
    view[result : result + 4] = done.to_bytes(4, "little")
    return Errno.SUCCESS


def _read_nowait(descriptor: Descriptor, buffers: list[memoryview]) -> int | None:
    if isinstance(descriptor, StreamDescriptor) and descriptor.input is not None:
        return descriptor.input.read_nowait(buffers)
    if isinstance(descriptor, SocketDescriptor):
        return descriptor.connection.recv_nowait(buffers) if buffers else 0
    raise WasiError(Errno.BADF)


async def _read_stream(
    system: System, caller: Guest, descriptor: Descriptor, iovs: int, count: int, result: int
) -> int:
    while True:
        if isinstance(descriptor, StreamDescriptor) and descriptor.input is not None:
            await descriptor.input.wait_readable()
        elif isinstance(descriptor, SocketDescriptor):
            await descriptor.connection.wait_readable()
        view = system.view(caller)
        done = _read_nowait(descriptor, system.buffers(None, view, iovs, count))
        if done is not None:
            put_u32(view, result, done)
            return Errno.SUCCESS


async def _read_file(
    system: System, caller: Guest, descriptor: FileDescriptor, iovs: int, count: int, offset: int | None, result: int
) -> int:
    # Beside the guest's memory: that may move meanwhile, and must not change under a guest that was cancelled.
    nbytes = sum(map(len, system.buffers(None, system.view(caller), iovs, count)))
    start = descriptor.position if offset is None else offset
    own = memoryview(bytearray(min(nbytes, _MAX_OFFSET - start)))
    done = await descriptor.file.pread([own], start) if own else 0
    if offset is None:
        descriptor.position += done
    view = system.view(caller)
    scatter(own[:done], system.buffers(None, view, iovs, count))
    put_u32(view, result, done)
    return Errno.SUCCESS


def fd_pread(system: System, caller: Guest, fd: int, iovs: int, count: int, offset: int, result: int) -> Answer:
    descriptor = _file(system, fd, _FD_READ | _FD_SEEK)
    view = system.view(caller)
    check(view, result, 4)
    buffers = system.buffers(caller, view, iovs, count)
    if offset > _MAX_OFFSET:
        raise WasiError(Errno.INVAL)
    nbytes = sum(map(len, buffers))
    if descriptor.file.may_wait(nbytes):
        return _read_file(system, caller, descriptor, iovs, count, offset, result)
    if offset + nbytes > _MAX_OFFSET:
        buffers = _cut(buffers, offset)
    put_u32(view, result, run(descriptor.file.pread(buffers, offset)) if buffers else 0)
    return Errno.SUCCESS


def fd_write(system: System, caller: Guest, fd: int, iovs: int, count: int, result: int) -> Answer:
    descriptor = _fd(system, fd, _FD_WRITE)
    view = system.view(caller)
    check(view, result, 4)
    buffers = system.buffers(caller, view, iovs, count)
    done: int | None
    if isinstance(descriptor, FileDescriptor):
        nbytes = sum(map(len, buffers))
        if not descriptor.flags & _APPEND:
            _check_end(descriptor.position, nbytes)
        if descriptor.flags & _SYNC or descriptor.file.may_wait(nbytes):
            return _write_file(system, caller, descriptor, buffers, None, result)
        if descriptor.flags & _APPEND:
            done, descriptor.position = run(descriptor.file.append(buffers))
        else:
            done = run(descriptor.file.pwrite(buffers, descriptor.position)) if buffers else 0
            descriptor.position += done
    else:
        done = _write_nowait(descriptor, buffers)
        if done is None:
            if descriptor.flags & _NONBLOCK and _would_wait(descriptor):
                return Errno.AGAIN
            return _write_stream(system, caller, descriptor, buffers, result)
    view[result : result + 4] = done.to_bytes(4, "little")
    return Errno.SUCCESS


def _write_nowait(descriptor: Descriptor, buffers: list[memoryview]) -> int | None:
    if isinstance(descriptor, StreamDescriptor) and descriptor.output is not None:
        return descriptor.output.write_nowait(buffers)
    if isinstance(descriptor, SocketDescriptor):
        return descriptor.connection.send_nowait(buffers) if buffers else 0
    raise WasiError(Errno.BADF)


def _would_wait(descriptor: Descriptor) -> bool:
    return not isinstance(descriptor, StreamDescriptor) or (
        descriptor.output is not None and not descriptor.output.writable()
    )


async def _write_stream(
    system: System, caller: Guest, descriptor: Descriptor, buffers: list[memoryview], result: int
) -> int:
    done: int | None
    if isinstance(descriptor, SocketDescriptor):
        while True:
            await descriptor.connection.wait_writable()
            done = descriptor.connection.send_nowait(buffers)
            if done is not None:
                break
    elif isinstance(descriptor, StreamDescriptor) and descriptor.output is not None:
        done = await descriptor.output.write(buffers)
    else:
        raise WasiError(Errno.BADF)
    put_u32(system.view(caller), result, done)
    return Errno.SUCCESS


async def _write_file(
    system: System,
    caller: Guest,
    descriptor: FileDescriptor,
    buffers: list[memoryview],
    offset: int | None,
    result: int,
) -> int:
    own = [memoryview(b"".join(buffers))] if buffers else []
    if offset is not None:
        done = await descriptor.file.pwrite(own, offset) if own else 0
    elif descriptor.flags & _APPEND:
        done, descriptor.position = await descriptor.file.append(own)
    else:
        done = await descriptor.file.pwrite(own, descriptor.position) if own else 0
        descriptor.position += done
    if descriptor.flags & _SYNC:
        await descriptor.file.sync(data_only=not descriptor.flags & FdFlags.SYNC)
    put_u32(system.view(caller), result, done)
    return Errno.SUCCESS


def fd_pwrite(system: System, caller: Guest, fd: int, iovs: int, count: int, offset: int, result: int) -> Answer:
    descriptor = _file(system, fd, _FD_WRITE | _FD_SEEK)
    view = system.view(caller)
    check(view, result, 4)
    buffers = system.buffers(caller, view, iovs, count)
    if offset > _MAX_OFFSET:
        raise WasiError(Errno.INVAL)
    nbytes = sum(map(len, buffers))
    _check_end(offset, nbytes)
    if descriptor.flags & _SYNC or descriptor.file.may_wait(nbytes):
        return _write_file(system, caller, descriptor, buffers, offset, result)
    put_u32(view, result, run(descriptor.file.pwrite(buffers, offset)) if buffers else 0)
    return Errno.SUCCESS


def fd_seek(system: System, caller: Guest, fd: int, offset: int, whence: int, result: int) -> Answer:
    # Asking for the position without changing it needs less.
    asks = whence == Whence.CUR and offset == 0
    descriptor = _file(system, fd, 0)
    if not descriptor.rights & (_FD_SEEK | (_FD_TELL if asks else 0)):
        raise WasiError(Errno.NOTCAPABLE)
    view = system.view(caller)
    check(view, result, 8)
    if whence > Whence.END:
        raise WasiError(Errno.INVAL)
    if whence == Whence.END:
        work = _seek_end(system, caller, descriptor, offset, result)
        return work if descriptor.file.waits else run(work)
    _move(descriptor, offset + (descriptor.position if whence == Whence.CUR else 0))
    put_u64(view, result, descriptor.position)
    return Errno.SUCCESS


async def _seek_end(system: System, caller: Guest, descriptor: FileDescriptor, offset: int, result: int) -> int:
    _move(descriptor, (await descriptor.file.stat()).size + offset)
    put_u64(system.view(caller), result, descriptor.position)
    return Errno.SUCCESS


def _move(descriptor: FileDescriptor, position: int) -> None:
    if position < 0:
        raise WasiError(Errno.INVAL)
    if position > _MAX_OFFSET:
        raise WasiError(Errno.OVERFLOW)
    descriptor.position = position


def fd_tell(system: System, caller: Guest, fd: int, result: int) -> int:
    put_u64(system.view(caller), result, _file(system, fd, _FD_TELL).position)
    return Errno.SUCCESS


def fd_close(system: System, _caller: Guest, fd: int) -> int:
    system.table.remove(fd).close()
    return Errno.SUCCESS


def fd_renumber(system: System, _caller: Guest, fd: int, to: int) -> int:
    system.table.renumber(fd, to)
    return Errno.SUCCESS


def _sync(system: System, fd: int, right: Rights, *, data_only: bool) -> Answer:
    descriptor = system.table[fd]
    if not isinstance(descriptor, FileDescriptor | DirectoryDescriptor):
        raise WasiError(Errno.INVAL)
    if not descriptor.rights & right:
        raise WasiError(Errno.NOTCAPABLE)
    opened = descriptor.file if isinstance(descriptor, FileDescriptor) else descriptor.directory
    return _synced(opened.sync(data_only=data_only))


async def _synced(work: object) -> int:
    await work  # type: ignore[misc]
    return Errno.SUCCESS


def fd_sync(system: System, _caller: Guest, fd: int) -> Answer:
    return _sync(system, fd, Rights.FD_SYNC, data_only=False)


def fd_datasync(system: System, _caller: Guest, fd: int) -> Answer:
    return _sync(system, fd, Rights.FD_DATASYNC, data_only=True)


def fd_advise(system: System, _caller: Guest, fd: int, offset: int, nbytes: int, advice: int) -> int:
    descriptor = system.table[fd]
    if not isinstance(descriptor, FileDescriptor | DirectoryDescriptor):
        raise WasiError(Errno.SPIPE)
    if not descriptor.rights & Rights.FD_ADVISE:
        raise WasiError(Errno.NOTCAPABLE)
    if advice > 5 or offset + nbytes > _MAX_OFFSET:  # normal, sequential, random, willneed, dontneed, noreuse
        raise WasiError(Errno.INVAL)
    return Errno.SUCCESS


def fd_allocate(system: System, _caller: Guest, fd: int, offset: int, nbytes: int) -> Answer:
    descriptor = _file(system, fd, int(Rights.FD_ALLOCATE))
    if not nbytes:
        raise WasiError(Errno.INVAL)
    if offset + nbytes > _MAX_OFFSET:
        raise WasiError(Errno.FBIG)
    return _synced(descriptor.file.allocate(offset, nbytes))


def fd_fdstat_get(system: System, caller: Guest, fd: int, result: int) -> int:
    descriptor = system.table[fd]
    view = system.view(caller)
    check(view, result, FDSTAT.size)
    FDSTAT.pack_into(view, result, descriptor.filetype, descriptor.flags, descriptor.rights, descriptor.inheriting)
    return Errno.SUCCESS


def fd_fdstat_set_flags(system: System, _caller: Guest, fd: int, flags: int) -> int:
    descriptor = system.descriptor(fd, int(Rights.FD_FDSTAT_SET_FLAGS))
    if flags & ~int(~FdFlags(0)):
        raise WasiError(Errno.INVAL)
    descriptor.flags = flags
    return Errno.SUCCESS


def fd_fdstat_set_rights(system: System, _caller: Guest, fd: int, rights: int, inheriting: int) -> int:
    descriptor = system.table[fd]
    if rights & ~descriptor.rights or inheriting & ~descriptor.inheriting:
        raise WasiError(Errno.NOTCAPABLE)
    descriptor.rights = rights
    descriptor.inheriting = inheriting
    return Errno.SUCCESS


def fd_filestat_get(system: System, caller: Guest, fd: int, result: int) -> Answer:
    descriptor = system.descriptor(fd, int(Rights.FD_FILESTAT_GET))
    check(system.view(caller), result, FILESTAT.size)
    work = _filestat(system, caller, descriptor, result)
    return work if system.waits else run(work)


async def stat_of(descriptor: Descriptor) -> Stat:
    """Return what is known of what *descriptor* stands for."""
    if isinstance(descriptor, FileDescriptor):
        return await descriptor.file.stat()
    if isinstance(descriptor, DirectoryDescriptor):
        return await descriptor.directory.stat()
    return Stat(0, 0, descriptor.filetype, 0)


async def _filestat(system: System, caller: Guest, descriptor: Descriptor, result: int) -> int:
    stat = await stat_of(descriptor)
    FILESTAT.pack_into(system.view(caller), result, *stat)
    return Errno.SUCCESS


def fd_filestat_set_size(system: System, _caller: Guest, fd: int, nbytes: int) -> Answer:
    descriptor = _file(system, fd, int(Rights.FD_FILESTAT_SET_SIZE))
    if nbytes > _MAX_OFFSET:
        raise WasiError(Errno.INVAL)
    work = _synced(descriptor.file.set_size(nbytes))
    return work if descriptor.file.waits else run(work)


def times_of(system: System, atim: int, mtim: int, flags: int) -> tuple[int | None, int | None]:
    """Return the access and modification time to set, None for one that stays."""
    if (
        flags & ~int(~FstFlags(0))
        or (flags & FstFlags.ATIM and flags & FstFlags.ATIM_NOW)
        or (flags & FstFlags.MTIM and flags & FstFlags.MTIM_NOW)
    ):
        raise WasiError(Errno.INVAL)
    now = system.now() if flags & (FstFlags.ATIM_NOW | FstFlags.MTIM_NOW) else 0
    access = now if flags & FstFlags.ATIM_NOW else atim if flags & FstFlags.ATIM else None
    modification = now if flags & FstFlags.MTIM_NOW else mtim if flags & FstFlags.MTIM else None
    return access, modification


def fd_filestat_set_times(system: System, _caller: Guest, fd: int, atim: int, mtim: int, flags: int) -> Answer:
    descriptor = system.descriptor(fd, int(Rights.FD_FILESTAT_SET_TIMES))
    access, modification = times_of(system, atim, mtim, flags)
    if isinstance(descriptor, FileDescriptor):
        work = _synced(descriptor.file.set_times(access, modification))
    elif isinstance(descriptor, DirectoryDescriptor):
        work = _synced(descriptor.directory.set_times(access, modification))
    else:
        raise WasiError(Errno.BADF)
    return work if system.waits else run(work)


def fd_prestat_get(system: System, caller: Guest, fd: int, result: int) -> int:
    preopen = system.table[fd].preopen
    if preopen is None:
        raise WasiError(Errno.BADF)
    view = system.view(caller)
    check(view, result, PRESTAT.size)
    PRESTAT.pack_into(view, result, 0, len(preopen))
    return Errno.SUCCESS


def fd_prestat_dir_name(system: System, caller: Guest, fd: int, path: int, nbytes: int) -> int:
    preopen = system.table[fd].preopen
    if preopen is None:
        raise WasiError(Errno.BADF)
    if nbytes < len(preopen):
        raise WasiError(Errno.NAMETOOLONG)
    view = system.view(caller)
    view[check(view, path, len(preopen)) : path + len(preopen)] = preopen
    return Errno.SUCCESS
