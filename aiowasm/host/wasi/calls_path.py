"""Calls on paths. Each walks to the last component below an open directory and does one thing to one entry there."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Final

from aiowasm.host.wasi.abi import FILESTAT, Errno, FdFlags, FileType, LookupFlags, OFlags, Rights
from aiowasm.host.wasi.calls_fd import times_of
from aiowasm.host.wasi.descriptors import (
    ALL_RIGHTS,
    DIRECTORY_RIGHTS,
    FILE_RIGHTS,
    Descriptor,
    DirectoryDescriptor,
    FileDescriptor,
)
from aiowasm.host.wasi.errno import WasiError
from aiowasm.host.wasi.filesystem import Directory, File, Stat
from aiowasm.host.wasi.paths import MAX_PATH_NBYTES, Walk, decode_path
from aiowasm.host.wasi.system import FUEL_NBYTES, Answer, Guest, System, check, put_u32, run

_WRITES: Final = int(Rights.FD_WRITE | Rights.FD_ALLOCATE | Rights.FD_FILESTAT_SET_SIZE)
_ALL_OFLAGS: Final = int(~OFlags(0))
_ALL_FDFLAGS: Final = int(~FdFlags(0))
_FOLLOW: Final = int(LookupFlags.SYMLINK_FOLLOW)


def _base(system: System, fd: int, right: int) -> DirectoryDescriptor:
    descriptor = system.table[fd]
    if not isinstance(descriptor, DirectoryDescriptor):
        raise WasiError(Errno.NOTDIR)
    if descriptor.rights & right != right:
        raise WasiError(Errno.NOTCAPABLE)
    return descriptor


def _path(system: System, caller: Guest, address: int, nbytes: int) -> str:
    caller.consume_fuel(nbytes // FUEL_NBYTES)
    return decode_path(system.bytes_at(caller, address, nbytes, MAX_PATH_NBYTES))


def _follows(flags: int) -> bool:
    if flags & ~_FOLLOW:
        raise WasiError(Errno.INVAL)
    return bool(flags)


def _answer(system: System, work: Coroutine[Any, Any, int]) -> Answer:
    return work if system.waits else run(work)


def _walk(system: System, base: DirectoryDescriptor) -> Walk:
    return Walk(base.directory, system.mounts, base.place)


def path_open(
    system: System,
    caller: Guest,
    fd: int,
    lookup: int,
    path: int,
    path_nbytes: int,
    oflags: int,
    rights: int,
    inheriting: int,
    fdflags: int,
    result: int,
) -> Answer:
    base = _base(system, fd, int(Rights.PATH_OPEN))
    check(system.view(caller), result, 4)
    name = _path(system, caller, path, path_nbytes)
    follow = _follows(lookup)
    if oflags & ~_ALL_OFLAGS or fdflags & ~_ALL_FDFLAGS:
        raise WasiError(Errno.INVAL)
    needed = int(Rights.PATH_CREATE_FILE) if oflags & OFlags.CREAT else 0
    needed |= int(Rights.PATH_FILESTAT_SET_SIZE) if oflags & OFlags.TRUNC else 0
    # Bits that mean nothing are ignored: some programs ask for all 64.
    rights &= ALL_RIGHTS
    inheriting &= ALL_RIGHTS
    if base.rights & needed != needed or (rights | inheriting) & ~base.inheriting:
        raise WasiError(Errno.NOTCAPABLE)
    if oflags & OFlags.CREAT and oflags & OFlags.DIRECTORY:
        raise WasiError(Errno.INVAL)
    system.table.check_room()
    request = _Open(name, OFlags(oflags), rights, inheriting, fdflags, follow)
    return _answer(system, _open(system, caller, base, request, result))


class _Open:
    """What a guest asked `path_open` for."""

    __slots__ = ("fdflags", "follow", "inheriting", "oflags", "path", "rights")

    def __init__(self, path: str, oflags: OFlags, rights: int, inheriting: int, fdflags: int, follow: bool) -> None:
        self.path = path
        self.oflags = oflags
        self.rights = rights
        self.inheriting = inheriting
        self.fdflags = fdflags
        self.follow = follow

    @property
    def writes(self) -> bool:
        return bool(self.rights & _WRITES)


async def _open(system: System, caller: Guest, base: DirectoryDescriptor, request: _Open, result: int) -> int:
    walk = _walk(system, base)
    try:
        await walk.start(request.path)
        opened = await _open_last(walk, request)
        place = walk.place if walk.name is None else (*walk.place, walk.name)
    finally:
        walk.close()
    system.attach(caller)
    descriptor: Descriptor
    if isinstance(opened, Directory):
        descriptor = DirectoryDescriptor(
            opened, request.rights & DIRECTORY_RIGHTS, request.inheriting, request.fdflags, place=place
        )
    else:
        descriptor = FileDescriptor(opened, request.rights & FILE_RIGHTS, 0, request.fdflags)
    try:
        put_u32(system.view(caller), result, system.table.add(descriptor))
    except BaseException:
        descriptor.close()
        raise
    return Errno.SUCCESS


async def _open_last(walk: Walk, request: _Open) -> File | Directory:
    oflags = request.oflags
    while True:
        whole = walk.directory if walk.name is None else walk.mount()
        if whole is not None or walk.name is None:
            if oflags & OFlags.CREAT and oflags & OFlags.EXCL:
                raise WasiError(Errno.EXIST)
            if request.writes or oflags & (OFlags.CREAT | OFlags.TRUNC):
                raise WasiError(Errno.ISDIR)
            return await (whole or walk.directory).duplicate()
        if walk.must_be_directory:
            if oflags & OFlags.CREAT:
                raise WasiError(Errno.ISDIR)
            oflags |= OFlags.DIRECTORY
        try:
            return await walk.directory.open_entry(
                walk.name, oflags, read=bool(request.rights & Rights.FD_READ), write=request.writes
            )
        except WasiError as error:
            if error.errno is not Errno.LOOP or not (request.follow or walk.must_be_directory):
                raise
            if oflags & OFlags.CREAT and oflags & OFlags.EXCL:
                raise WasiError(Errno.EXIST) from None
        await walk.follow_link()


async def _stat_last(walk: Walk) -> Stat:
    mounted = walk.mount()
    if mounted is not None:
        return await mounted.stat()
    if walk.name is None:
        return await walk.directory.stat()
    stat = await walk.directory.stat_entry(walk.name)
    if walk.must_be_directory and stat.filetype is not FileType.DIRECTORY:
        raise WasiError(Errno.NOTDIR)
    return stat


def path_filestat_get(
    system: System, caller: Guest, fd: int, lookup: int, path: int, path_nbytes: int, result: int
) -> Answer:
    base, name, follow = stat_request(system, caller, fd, lookup, path, path_nbytes)
    check(system.view(caller), result, FILESTAT.size)
    return _answer(system, _filestat_get(system, caller, base, name, follow, result))


def stat_request(
    system: System, caller: Guest, fd: int, lookup: int, path: int, path_nbytes: int
) -> tuple[DirectoryDescriptor, str, bool]:
    """Return the directory, the path and whether to follow, of a `path_filestat_get`."""
    base = _base(system, fd, int(Rights.PATH_FILESTAT_GET))
    return base, _path(system, caller, path, path_nbytes), _follows(lookup)


async def _filestat_get(
    system: System, caller: Guest, base: DirectoryDescriptor, path: str, follow: bool, result: int
) -> int:
    FILESTAT.pack_into(system.view(caller), result, *await stat_path(system, base, path, follow))
    return Errno.SUCCESS


async def stat_path(system: System, base: DirectoryDescriptor, path: str, follow: bool) -> Stat:
    """Return what is known of what *path* names."""
    walk = _walk(system, base)
    try:
        await walk.start(path)
        while True:
            try:
                stat = await _stat_last(walk)
            except WasiError:
                # A link with a slash behind it stands for the directory it leads to.
                if not walk.must_be_directory or walk.name is None:
                    raise
                stat = await walk.directory.stat_entry(walk.name)
                if stat.filetype is not FileType.SYMBOLIC_LINK:
                    raise
            if stat.filetype is not FileType.SYMBOLIC_LINK or not (follow or walk.must_be_directory):
                return stat
            await walk.follow_link()
    finally:
        walk.close()


def path_filestat_set_times(
    system: System,
    caller: Guest,
    fd: int,
    lookup: int,
    path: int,
    path_nbytes: int,
    atim: int,
    mtim: int,
    flags: int,
) -> Answer:
    base = _base(system, fd, int(Rights.PATH_FILESTAT_SET_TIMES))
    name = _path(system, caller, path, path_nbytes)
    follow = _follows(lookup)
    access, modification = times_of(system, atim, mtim, flags)
    return _answer(system, _set_times(system, base, name, follow, access, modification))


async def _set_times(
    system: System, base: DirectoryDescriptor, path: str, follow: bool, atim: int | None, mtim: int | None
) -> int:
    walk = _walk(system, base)
    try:
        await walk.start(path, follow=follow)
        await _stat_last(walk)
        mounted = walk.mount()
        if mounted is not None:
            await mounted.set_times(atim, mtim)
        elif walk.name is None:
            await walk.directory.set_times(atim, mtim)
        else:
            await walk.directory.set_entry_times(walk.name, atim, mtim)
    finally:
        walk.close()
    return Errno.SUCCESS


def path_create_directory(system: System, caller: Guest, fd: int, path: int, path_nbytes: int) -> Answer:
    base = _base(system, fd, int(Rights.PATH_CREATE_DIRECTORY))
    return _answer(system, _create_directory(system, base, _path(system, caller, path, path_nbytes)))


async def _create_directory(system: System, base: DirectoryDescriptor, path: str) -> int:
    walk = _walk(system, base)
    try:
        await walk.start(path, follow_before_slash=False)
        if walk.name is None or walk.is_mount():
            raise WasiError(Errno.EXIST)
        await walk.directory.create_directory(walk.name)
    finally:
        walk.close()
    return Errno.SUCCESS


def path_remove_directory(system: System, caller: Guest, fd: int, path: int, path_nbytes: int) -> Answer:
    base = _base(system, fd, int(Rights.PATH_REMOVE_DIRECTORY))
    return _answer(system, _remove_directory(system, base, _path(system, caller, path, path_nbytes)))


async def _remove_directory(system: System, base: DirectoryDescriptor, path: str) -> int:
    walk = _walk(system, base)
    try:
        await walk.start(path, follow_before_slash=False)
        if walk.name is None:
            # `.`, or the directory a path ends at with `..`: not empty, or the guest's own.
            raise WasiError(Errno.INVAL if walk.ends_with_dot or walk.is_at_base else Errno.NOTEMPTY)
        _refuse_mount(system, walk)
        await walk.directory.remove_directory(walk.name)
    finally:
        walk.close()
    return Errno.SUCCESS


def _refuse_mount(system: System, walk: Walk) -> None:
    """Refuse to take away where another file system is mounted, or a directory on the way there."""
    if system.mounts and walk.name is not None:
        place = (*walk.place, walk.name)
        if any(mount[: len(place)] == place for mount in system.mounts):
            raise WasiError(Errno.BUSY)


def path_unlink_file(system: System, caller: Guest, fd: int, path: int, path_nbytes: int) -> Answer:
    base = _base(system, fd, int(Rights.PATH_UNLINK_FILE))
    return _answer(system, _unlink_file(system, base, _path(system, caller, path, path_nbytes)))


async def _unlink_file(system: System, base: DirectoryDescriptor, path: str) -> int:
    walk = _walk(system, base)
    try:
        await walk.start(path)
        if walk.name is None or walk.is_mount():
            raise WasiError(Errno.ISDIR)
        if walk.must_be_directory:
            stat = await walk.directory.stat_entry(walk.name)
            raise WasiError(Errno.ISDIR if stat.filetype is FileType.DIRECTORY else Errno.NOTDIR)
        await walk.directory.unlink(walk.name)
    finally:
        walk.close()
    return Errno.SUCCESS


def path_readlink(
    system: System, caller: Guest, fd: int, path: int, path_nbytes: int, buffer: int, nbytes: int, result: int
) -> Answer:
    base = _base(system, fd, int(Rights.PATH_READLINK))
    view = system.view(caller)
    check(view, result, 4)
    check(view, buffer, nbytes)
    name = _path(system, caller, path, path_nbytes)
    return _answer(system, _readlink(system, caller, base, name, buffer, nbytes, result))


async def _readlink(
    system: System, caller: Guest, base: DirectoryDescriptor, path: str, buffer: int, nbytes: int, result: int
) -> int:
    walk = _walk(system, base)
    try:
        await walk.start(path)
        if walk.name is None or walk.is_mount():
            raise WasiError(Errno.INVAL)
        if walk.must_be_directory:
            await stat_path(system, base, path, follow=True)
            raise WasiError(Errno.INVAL)
        target = (await walk.directory.readlink(walk.name)).encode()[:nbytes]
    finally:
        walk.close()
    view = system.view(caller)
    view[buffer : buffer + len(target)] = target
    put_u32(view, result, len(target))
    return Errno.SUCCESS


def path_symlink(
    system: System, caller: Guest, target: int, target_nbytes: int, fd: int, path: int, path_nbytes: int
) -> Answer:
    base = _base(system, fd, int(Rights.PATH_SYMLINK))
    to = _path(system, caller, target, target_nbytes)
    name = _path(system, caller, path, path_nbytes)
    if not to:
        raise WasiError(Errno.NOENT)
    if to.startswith("/"):  # it could never be followed
        raise WasiError(Errno.NOTCAPABLE)
    return _answer(system, _symlink(system, base, to, name))


async def _symlink(system: System, base: DirectoryDescriptor, target: str, path: str) -> int:
    walk = _walk(system, base)
    try:
        await walk.start(path)
        await _check_new_entry(walk)
        await walk.directory.symlink(walk.name or "", target)
    finally:
        walk.close()
    return Errno.SUCCESS


async def _check_new_entry(walk: Walk) -> None:
    """Refuse what cannot become a file or a link: a directory, a mount, a name with a slash behind it."""
    if walk.name is None or walk.is_mount():
        raise WasiError(Errno.EXIST)
    if walk.must_be_directory:
        stat = await walk.directory.stat_entry(walk.name)  # NOENT
        raise WasiError(Errno.EXIST if stat.filetype is FileType.DIRECTORY else Errno.NOTDIR)


def path_link(
    system: System,
    caller: Guest,
    old_fd: int,
    lookup: int,
    old_path: int,
    old_nbytes: int,
    new_fd: int,
    new_path: int,
    new_nbytes: int,
) -> Answer:
    old = _base(system, old_fd, int(Rights.PATH_LINK_SOURCE))
    new = _base(system, new_fd, int(Rights.PATH_LINK_TARGET))
    source = _path(system, caller, old_path, old_nbytes)
    target = _path(system, caller, new_path, new_nbytes)
    if _follows(lookup):  # a link to what a symbolic link leads to is no call that systems have
        raise WasiError(Errno.INVAL)
    return _answer(system, _link(system, old, source, new, target))


async def _link(system: System, old: DirectoryDescriptor, source: str, new: DirectoryDescriptor, target: str) -> int:
    walk, to = _walk(system, old), _walk(system, new)
    try:
        await walk.start(source)
        await to.start(target)
        if walk.name is None or walk.is_mount():
            raise WasiError(Errno.PERM)
        stat = await walk.directory.stat_entry(walk.name)
        if walk.must_be_directory and stat.filetype is not FileType.DIRECTORY:
            raise WasiError(Errno.NOTDIR)
        await _check_new_entry(to)
        if walk.directory.key is not to.directory.key:
            raise WasiError(Errno.XDEV)
        await walk.directory.link(walk.name, to.directory, to.name or "")
    finally:
        to.close()
        walk.close()
    return Errno.SUCCESS


def path_rename(
    system: System,
    caller: Guest,
    old_fd: int,
    old_path: int,
    old_nbytes: int,
    new_fd: int,
    new_path: int,
    new_nbytes: int,
) -> Answer:
    old = _base(system, old_fd, int(Rights.PATH_RENAME_SOURCE))
    new = _base(system, new_fd, int(Rights.PATH_RENAME_TARGET))
    source = _path(system, caller, old_path, old_nbytes)
    target = _path(system, caller, new_path, new_nbytes)
    return _answer(system, _rename(system, old, source, new, target))


async def _rename(system: System, old: DirectoryDescriptor, source: str, new: DirectoryDescriptor, target: str) -> int:
    walk, to = _walk(system, old), _walk(system, new)
    try:
        await walk.start(source, follow_before_slash=False)
        await to.start(target, follow_before_slash=False)
        if walk.name is None or to.name is None:
            raise WasiError(Errno.BUSY)
        _refuse_mount(system, walk)
        _refuse_mount(system, to)
        stat = await walk.directory.stat_entry(walk.name)
        if stat.filetype is not FileType.DIRECTORY and (walk.must_be_directory or to.must_be_directory):
            raise WasiError(Errno.NOTDIR)
        if walk.directory.key is not to.directory.key:
            raise WasiError(Errno.XDEV)
        await walk.directory.rename(walk.name, to.directory, to.name)
    finally:
        to.close()
        walk.close()
    return Errno.SUCCESS
