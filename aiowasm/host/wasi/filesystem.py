"""The one interface behind which all file systems are: open directories and open files.

Every operation names one entry of one open directory; `aiowasm.host.wasi.paths` turns paths into such steps, so that
no file system ever sees `..`, a slash or a symbolic link it has to follow. All methods are coroutines; those of a file
system whose `waits` is False never suspend, which lets a guest's call run without leaving the engine.

Failures are `WasiError`, or an OSError whose errno says the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aiowasm.host.wasi.abi import Errno, FileType, OFlags
from aiowasm.host.wasi.errno import WasiError

__all__ = ("Directory", "Entry", "File", "FileSystem", "Stat")


class Stat(NamedTuple):
    """What is known of a file. Times are nanoseconds since 1970; `(dev, ino)` identifies it."""

    dev: int
    ino: int
    filetype: FileType
    nlink: int = 1
    size: int = 0
    atim: int = 0
    mtim: int = 0
    ctim: int = 0


class Entry(NamedTuple):
    """An entry of a directory."""

    name: str
    ino: int
    filetype: FileType


class FileSystem(ABC):
    """Something that has a root directory: what `Wasi(fs=...)` maps guest paths to.

    A file system may be given to any number of guests. Subclasses whose methods wait for something set `waits`.
    """

    waits: bool = False
    read_only: bool = False
    """Whether everything that would change something is `ROFS`."""

    @abstractmethod
    def open_root(self) -> Directory:
        """Return its root directory, newly opened."""

    def use_clock(self, clock: Callable[[], int]) -> None:
        """Stamp everything with the time *clock* tells, now and later: for runs that must repeat exactly."""


class File(ABC):
    """An open regular file. It has no position of its own: that is the descriptor's.

    Buffers are writable or readable memoryviews of bytes, of the guest's memory unless the file system `waits`; they
    are not kept after the call.
    """

    waits: bool = False

    def may_wait(self, nbytes: int) -> bool:
        """Return whether moving *nbytes* bytes suspends."""
        return self.waits

    @abstractmethod
    async def stat(self) -> Stat:
        """Return what is known of the file."""

    @abstractmethod
    async def pread(self, buffers: Sequence[memoryview], offset: int) -> int:
        """Fill *buffers* from *offset* and return the number of bytes, 0 at the end."""

    async def pwrite(self, buffers: Sequence[memoryview], offset: int) -> int:
        """Write *buffers* at *offset* and return the number of bytes written."""
        raise WasiError(Errno.ROFS)

    async def append(self, buffers: Sequence[memoryview]) -> tuple[int, int]:
        """Write *buffers* at the end; return the number of bytes written and the position after them."""
        raise WasiError(Errno.ROFS)

    async def set_size(self, nbytes: int) -> None:
        """Cut or extend with zeros."""
        raise WasiError(Errno.ROFS)

    async def allocate(self, offset: int, nbytes: int) -> None:
        """Extend, if needed, so that *nbytes* bytes at *offset* exist."""
        end = offset + nbytes
        if end > (await self.stat()).size:
            await self.set_size(end)

    async def set_times(self, atim: int | None, mtim: int | None) -> None:
        """Set the times that are not None."""
        raise WasiError(Errno.ROFS)

    async def sync(self, *, data_only: bool) -> None:
        """Make what was written durable. May suspend whatever `waits` says."""

    def close(self) -> None:
        """Give back what it holds; called once."""


class Directory(ABC):
    """An open directory. Names are single components: not empty, not `.` or `..`, without `/` and NUL.

    No method follows a symbolic link: opening one fails with `LOOP`. The methods that change something fail with
    `ROFS` unless overridden.
    """

    waits: bool = False
    key: object = None
    """What must be the same object for `rename` and `link` between two directories."""

    @abstractmethod
    async def stat(self) -> Stat:
        """Return what is known of the directory itself."""

    @abstractmethod
    async def stat_entry(self, name: str) -> Stat:
        """Return what is known of an entry."""

    @abstractmethod
    async def duplicate(self) -> Directory:
        """Return the same directory, opened once more."""

    @abstractmethod
    async def open_directory(self, name: str) -> Directory:
        """Open a directory; fails with `NOTDIR` for what is none and `LOOP` for a symbolic link."""

    @abstractmethod
    async def open_entry(self, name: str, oflags: OFlags, *, read: bool, write: bool) -> File | Directory:
        """Open a regular file or a directory, creating or truncating a file as *oflags* say.

        A directory is opened only for reading (else `ISDIR`) and is never truncated; `OFlags.DIRECTORY` wants one.
        Anything that is neither (a device, a pipe) fails with `NOTSUP`.
        """

    @abstractmethod
    async def entries(self) -> Sequence[Entry]:
        """Return all entries, without `.` and `..`."""

    def listing_waits(self) -> bool:
        """Return whether `entries` suspends."""
        return self.waits

    @abstractmethod
    async def readlink(self, name: str) -> str:
        """Return the target of a symbolic link, `INVAL` if it is none."""

    async def set_times(self, atim: int | None, mtim: int | None) -> None:
        """Set the times of the directory itself."""
        raise WasiError(Errno.ROFS)

    async def set_entry_times(self, name: str, atim: int | None, mtim: int | None) -> None:
        """Set the times of an entry; of a symbolic link itself."""
        raise WasiError(Errno.ROFS)

    async def create_directory(self, name: str) -> None:
        """Make a directory."""
        raise WasiError(Errno.ROFS)

    async def remove_directory(self, name: str) -> None:
        """Remove an empty directory."""
        raise WasiError(Errno.ROFS)

    async def unlink(self, name: str) -> None:
        """Remove an entry that is no directory (`ISDIR`)."""
        raise WasiError(Errno.ROFS)

    async def symlink(self, name: str, target: str) -> None:
        """Make a symbolic link."""
        raise WasiError(Errno.ROFS)

    async def link(self, name: str, to: Directory, to_name: str) -> None:
        """Make a hard link *to_name* in *to*, a directory of the same `key`, to an entry that is no directory."""
        raise WasiError(Errno.ROFS)

    async def rename(self, name: str, to: Directory, to_name: str) -> None:
        """Rename as POSIX does, into a directory of the same `key`."""
        raise WasiError(Errno.ROFS)

    async def sync(self, *, data_only: bool) -> None:
        """Make what was written durable."""

    def close(self) -> None:
        """Give back what it holds; called once."""
