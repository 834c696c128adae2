"""HostDir: a directory of the host as a capability: nothing outside it can be reached through it.

Every operation is relative to an open directory and follows no symbolic link (`dir_fd`, `O_NOFOLLOW`); devices, pipes
and sockets found inside are not opened. Where the standard library has no such calls (Windows) there is no HostDir.
"""

from __future__ import annotations

import errno
import os
import stat as modes
import sys
from collections.abc import Callable, Sequence
from typing import Final, Literal, ParamSpec, TypeVar

import anyio
from anyio import to_thread

from aiowasm.host.wasi.abi import Errno, FileType, OFlags
from aiowasm.host.wasi.errno import WasiError
from aiowasm.host.wasi.filesystem import Directory, Entry, File, FileSystem, Stat

__all__ = ("HostDir", "Offload")

P = ParamSpec("P")
T = TypeVar("T")

Offload = Literal["large", "always", "never"]

LARGE_NBYTES: Final = 256 << 10
"""What is read or written in the event loop's thread at most, unless offloading is off."""
MAX_ENTRIES: Final = 1_000_000
"""A directory with more entries cannot be listed: the listing is kept in memory."""

_COMMON: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
# A pipe would wait for its other end; for regular files and directories the flag means nothing.
_OPEN: Final = _COMMON | getattr(os, "O_NONBLOCK", 0)
_OPEN_DIRECTORY: Final = _COMMON | os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
_HAS_OPENAT: Final = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_RWF_APPEND: Final[int] = getattr(os, "RWF_APPEND", 0)

_FILETYPES: Final = {
    modes.S_IFREG: FileType.REGULAR_FILE,
    modes.S_IFDIR: FileType.DIRECTORY,
    modes.S_IFLNK: FileType.SYMBOLIC_LINK,
    modes.S_IFCHR: FileType.CHARACTER_DEVICE,
    modes.S_IFBLK: FileType.BLOCK_DEVICE,
    modes.S_IFSOCK: FileType.SOCKET_STREAM,
}


class HostDir(FileSystem):
    """A directory of the host.

    The directory is opened once, here: renaming it or its parents changes nothing. Permissions are those of this
    process.

    Args:
        path: The directory; symbolic links in this path itself are followed.
        read_only: Whether guests may only read; what would change something is `ROFS`.
        offload: What runs in a worker thread: reads and writes of more than 256 KiB, every operation (for slow or
            network file systems), or none.

    Raises:
        OSError: The directory cannot be opened.
        NotImplementedError: This system has no calls that keep a guest inside a directory.
    """

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False, offload: Offload = "large") -> None:
        if not _HAS_OPENAT:
            raise NotImplementedError(f"{sys.platform} has no openat: a HostDir could not keep guests inside")
        if offload not in ("large", "always", "never"):
            raise ValueError(f"offload must be 'large', 'always' or 'never', got {offload!r}")
        self.path = os.fspath(path)
        self.read_only = read_only
        self.offload = offload
        self.waits = offload == "always"
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._limiter: anyio.CapacityLimiter | None = None

    def __repr__(self) -> str:
        return f"HostDir({self.path!r}{', read_only=True' if self.read_only else ''})"

    def close(self) -> None:
        """Close the directory; guests that have it keep it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def open_root(self) -> Directory:
        """Return the directory."""
        if self._fd < 0:
            raise ValueError("this HostDir is closed")
        return _HostDirectory(self, _duplicate(self._fd))

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *function* here, or in a worker thread if all is offloaded."""
        if self.waits:
            return await self.run_in_thread(function, *args, **kwargs)
        return function(*args, **kwargs)

    async def run_in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call *function* in a worker thread. It is never abandoned: what it does is known when this returns.

        Cancellation: takes effect before the thread starts, or once it is done.
        """
        if self._limiter is None:  # made where a loop runs; the application's own threads stay free
            self._limiter = anyio.CapacityLimiter(4)
        return await to_thread.run_sync(lambda: function(*args, **kwargs), limiter=self._limiter)


def _duplicate(fd: int) -> int:
    # Opened anew rather than duplicated: nothing is shared with the other, such as the position of a listing.
    return os.open(".", _OPEN_DIRECTORY, dir_fd=fd)


_MAX_TIME: Final = (1 << 64) - 1


def _time(nanoseconds: int) -> int:
    """Return the nearest time that a guest can be told: from 1970 to 2554."""
    return min(max(0, nanoseconds), _MAX_TIME)


def _stat(result: os.stat_result) -> Stat:
    return Stat(
        result.st_dev & (1 << 64) - 1,
        result.st_ino,
        _FILETYPES.get(modes.S_IFMT(result.st_mode), FileType.UNKNOWN),
        result.st_nlink,
        result.st_size,
        _time(result.st_atime_ns),
        _time(result.st_mtime_ns),
        _time(result.st_ctime_ns),
    )


def _times(result: os.stat_result, atim: int | None, mtim: int | None) -> tuple[int, int]:
    return (result.st_atime_ns if atim is None else atim, result.st_mtime_ns if mtim is None else mtim)


class _HostFile(File):
    __slots__ = ("_fd", "_fs", "_writable")

    def __init__(self, fs: HostDir, fd: int) -> None:
        self._fs = fs
        self._fd = fd
        self.waits = fs.waits

    def may_wait(self, nbytes: int) -> bool:
        return self.waits or (nbytes > LARGE_NBYTES and self._fs.offload == "large")

    def _check_writable(self) -> None:
        if self._fs.read_only:
            raise WasiError(Errno.ROFS)

    async def stat(self) -> Stat:
        return _stat(await self._fs.run(os.fstat, self._fd))

    async def pread(self, buffers: Sequence[memoryview], offset: int) -> int:
        if not self.waits and sum(map(len, buffers)) <= LARGE_NBYTES:
            return os.preadv(self._fd, buffers, offset)
        return await self._move(os.preadv, buffers, offset)

    async def pwrite(self, buffers: Sequence[memoryview], offset: int) -> int:
        self._check_writable()
        if not self.waits and sum(map(len, buffers)) <= LARGE_NBYTES:
            return os.pwritev(self._fd, buffers, offset)
        return await self._move(os.pwritev, buffers, offset)

    async def _move(
        self, function: Callable[[int, Sequence[memoryview], int], int], buffers: Sequence[memoryview], offset: int
    ) -> int:
        if self._fs.offload == "never":
            return function(self._fd, buffers, offset)
        return await self._fs.run_in_thread(function, self._fd, buffers, offset)

    async def append(self, buffers: Sequence[memoryview]) -> tuple[int, int]:
        self._check_writable()
        nbytes = (
            await self._move(_append, buffers, 0)
            if self.may_wait(sum(map(len, buffers)))
            else _append(self._fd, buffers, 0)
        )
        return nbytes, (await self._fs.run(os.fstat, self._fd)).st_size

    async def set_size(self, nbytes: int) -> None:
        self._check_writable()
        await self._fs.run(os.ftruncate, self._fd, nbytes)

    async def allocate(self, offset: int, nbytes: int) -> None:
        self._check_writable()
        if hasattr(os, "posix_fallocate"):
            try:
                # Where a file system cannot, the C library writes zeros: that takes time.
                await self._fs.run_in_thread(os.posix_fallocate, self._fd, offset, nbytes)
                return
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                    raise
        await super().allocate(offset, nbytes)

    async def set_times(self, atim: int | None, mtim: int | None) -> None:
        self._check_writable()
        await self._fs.run(_set_fd_times, self._fd, atim, mtim)

    async def sync(self, *, data_only: bool) -> None:
        await self._fs.run_in_thread(_sync, self._fd, data_only)

    def close(self) -> None:
        os.close(self._fd)


def _append(fd: int, buffers: Sequence[memoryview], _offset: int) -> int:
    if _RWF_APPEND:
        return os.pwritev(fd, buffers, 0, _RWF_APPEND)
    return os.pwritev(fd, buffers, os.fstat(fd).st_size)


def _sync(fd: int, data_only: bool) -> None:
    if data_only and hasattr(os, "fdatasync"):
        os.fdatasync(fd)
    else:
        os.fsync(fd)


def _set_fd_times(fd: int, atim: int | None, mtim: int | None) -> None:
    os.utime(fd, ns=_times(os.fstat(fd), atim, mtim))


class _HostDirectory(Directory):
    __slots__ = ("_fd", "_fs")

    def __init__(self, fs: HostDir, fd: int) -> None:
        self._fs = fs
        self._fd = fd
        self.waits = fs.waits
        self.key = fs

    def _check_writable(self) -> None:
        if self._fs.read_only:
            raise WasiError(Errno.ROFS)

    def _lstat(self, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=self._fd, follow_symlinks=False)

    async def stat(self) -> Stat:
        return _stat(await self._fs.run(os.fstat, self._fd))

    async def stat_entry(self, name: str) -> Stat:
        return _stat(await self._fs.run(self._lstat, name))

    async def duplicate(self) -> Directory:
        return _HostDirectory(self._fs, await self._fs.run(_duplicate, self._fd))

    async def open_directory(self, name: str) -> Directory:
        return _HostDirectory(self._fs, await self._fs.run(self._open_directory, name))

    def _open_directory(self, name: str) -> int:
        try:
            return os.open(name, _OPEN_DIRECTORY, dir_fd=self._fd)
        except OSError as error:
            # A symbolic link is ELOOP or ENOTDIR, depending on the system.
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK) and self._is_link(name):
                raise WasiError(Errno.LOOP) from None
            raise

    def _is_link(self, name: str) -> bool:
        try:
            return modes.S_ISLNK(self._lstat(name).st_mode)
        except OSError:
            return False

    async def open_entry(self, name: str, oflags: OFlags, *, read: bool, write: bool) -> File | Directory:
        fd, is_directory = await self._fs.run(self._open_entry, name, oflags, read, write)
        return _HostDirectory(self._fs, fd) if is_directory else _HostFile(self._fs, fd)

    def _open_entry(self, name: str, oflags: OFlags, read: bool, write: bool) -> tuple[int, bool]:
        writes = write or bool(oflags & OFlags.TRUNC)
        refused = self._refusal(name, oflags, writes)
        if refused is not None:
            raise WasiError(refused)
        flags = _OPEN | ((os.O_RDWR if read else os.O_WRONLY) if writes else os.O_RDONLY)
        flags |= os.O_TRUNC if oflags & OFlags.TRUNC else 0
        flags |= os.O_DIRECTORY if oflags & OFlags.DIRECTORY else 0
        if oflags & OFlags.CREAT and not self._fs.read_only:
            flags |= os.O_CREAT | (os.O_EXCL if oflags & OFlags.EXCL else 0)
        try:
            fd = os.open(name, flags, 0o666, dir_fd=self._fd)
        except OSError as error:
            raise self._open_error(name, error) from None
        try:
            mode = os.fstat(fd).st_mode
            if not (modes.S_ISREG(mode) or modes.S_ISDIR(mode)):
                raise WasiError(Errno.NOTSUP)
        except BaseException:
            os.close(fd)
            raise
        return fd, modes.S_ISDIR(mode)

    def _refusal(self, name: str, oflags: OFlags, writes: bool) -> Errno | None:
        """Return why *name* is not opened, or None.

        Asked before it is opened, as opening a device or a pipe does something already: it starts a watchdog, or ends
        what somebody reads. If it is replaced in between, opening it has the last word.
        """
        try:
            mode = self._lstat(name).st_mode
        except FileNotFoundError:
            if oflags & OFlags.CREAT:
                return Errno.ROFS if self._fs.read_only else None
            return Errno.NOENT
        if oflags & OFlags.CREAT and oflags & OFlags.EXCL:
            return Errno.EXIST
        if modes.S_ISLNK(mode):
            return Errno.LOOP
        if modes.S_ISDIR(mode):
            return Errno.ISDIR if writes or oflags & OFlags.CREAT else None
        if oflags & OFlags.DIRECTORY:
            return Errno.NOTDIR
        if not modes.S_ISREG(mode):
            return Errno.NOTSUP
        return Errno.ROFS if writes and self._fs.read_only else None

    def _open_error(self, name: str, error: OSError) -> Exception:
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK) and self._is_link(name):
            return WasiError(Errno.LOOP)
        if error.errno == errno.ENXIO:  # a socket, or a pipe without a reader
            return WasiError(Errno.NOTSUP)
        return error

    def listing_waits(self) -> bool:
        # On the file systems that matter the size of a directory follows the number of its entries.
        return self.waits or (self._fs.offload != "never" and os.fstat(self._fd).st_size > LARGE_NBYTES)

    async def entries(self) -> Sequence[Entry]:
        return await (self._fs.run_in_thread if self.listing_waits() else self._fs.run)(self._entries)

    def _entries(self) -> list[Entry]:
        found: list[Entry] = []
        with os.scandir(self._fd) as entries:
            for entry in entries:
                try:
                    entry.name.encode()
                except UnicodeEncodeError:
                    continue  # no guest could name it
                if len(found) >= MAX_ENTRIES:
                    raise WasiError(Errno.NOMEM)
                found.append(Entry(entry.name, entry.inode(), _entry_type(entry)))
        return found

    async def readlink(self, name: str) -> str:
        target: str = await self._fs.run(os.readlink, name, dir_fd=self._fd)
        try:
            target.encode()
        except UnicodeEncodeError:
            raise WasiError(Errno.ILSEQ) from None
        return target

    async def set_times(self, atim: int | None, mtim: int | None) -> None:
        self._check_writable()
        await self._fs.run(_set_fd_times, self._fd, atim, mtim)

    async def set_entry_times(self, name: str, atim: int | None, mtim: int | None) -> None:
        self._check_writable()
        await self._fs.run(self._set_entry_times, name, atim, mtim)

    def _set_entry_times(self, name: str, atim: int | None, mtim: int | None) -> None:
        os.utime(name, ns=_times(self._lstat(name), atim, mtim), dir_fd=self._fd, follow_symlinks=False)

    async def create_directory(self, name: str) -> None:
        if self._fs.read_only:
            await self._fs.run(self._refuse_new, name)
        await self._fs.run(os.mkdir, name, dir_fd=self._fd)

    def _refuse_new(self, name: str) -> None:
        try:
            self._lstat(name)
        except FileNotFoundError:
            raise WasiError(Errno.ROFS) from None
        raise WasiError(Errno.EXIST)

    async def remove_directory(self, name: str) -> None:
        if self._fs.read_only:
            await self.stat_entry(name)
            raise WasiError(Errno.ROFS)
        await self._fs.run(os.rmdir, name, dir_fd=self._fd)

    async def unlink(self, name: str) -> None:
        await self._fs.run(self._unlink, name)

    def _unlink(self, name: str) -> None:
        # Asked first: some systems report EPERM for a directory, and some let root unlink one.
        if modes.S_ISDIR(self._lstat(name).st_mode):
            raise WasiError(Errno.ISDIR)
        self._check_writable()
        os.unlink(name, dir_fd=self._fd)

    async def symlink(self, name: str, target: str) -> None:
        if self._fs.read_only:
            await self._fs.run(self._refuse_new, name)
        await self._fs.run(os.symlink, target, name, dir_fd=self._fd)

    async def link(self, name: str, to: Directory, to_name: str) -> None:
        if not isinstance(to, _HostDirectory):
            raise WasiError(Errno.XDEV)
        if self._fs.read_only:
            await self.stat_entry(name)
            await self._fs.run(to._refuse_new, to_name)
        await self._fs.run(os.link, name, to_name, src_dir_fd=self._fd, dst_dir_fd=to._fd, follow_symlinks=False)

    async def rename(self, name: str, to: Directory, to_name: str) -> None:
        if not isinstance(to, _HostDirectory):
            raise WasiError(Errno.XDEV)
        if self._fs.read_only:
            await self.stat_entry(name)
            raise WasiError(Errno.ROFS)
        await self._fs.run(os.rename, name, to_name, src_dir_fd=self._fd, dst_dir_fd=to._fd)

    async def sync(self, *, data_only: bool) -> None:
        await self._fs.run_in_thread(_sync, self._fd, data_only)

    def close(self) -> None:
        os.close(self._fd)


def _entry_type(entry: os.DirEntry[str]) -> FileType:
    if entry.is_symlink():
        return FileType.SYMBOLIC_LINK
    if entry.is_dir(follow_symlinks=False):
        return FileType.DIRECTORY
    if entry.is_file(follow_symlinks=False):
        return FileType.REGULAR_FILE
    try:
        return _FILETYPES.get(modes.S_IFMT(entry.stat(follow_symlinks=False).st_mode), FileType.UNKNOWN)
    except OSError:
        return FileType.UNKNOWN
