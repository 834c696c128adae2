"""Descriptors: what a guest's numbers stand for, with rights, flags and position, and the table of them."""

from __future__ import annotations

import heapq
from typing import Final

from aiowasm.host.wasi.abi import Errno, FdFlags, FileType, Rights
from aiowasm.host.wasi.errno import WasiError
from aiowasm.host.wasi.filesystem import Directory, Entry, File
from aiowasm.host.wasi.sockets import Connection, Listener
from aiowasm.host.wasi.streams import Input, Output

__all__ = (
    "ALL_RIGHTS",
    "DIRECTORY_RIGHTS",
    "FILE_RIGHTS",
    "Descriptor",
    "DirectoryDescriptor",
    "FileDescriptor",
    "ListenerDescriptor",
    "SocketDescriptor",
    "StreamDescriptor",
    "Table",
)

ALL_RIGHTS: Final = int(~Rights(0))
FILE_RIGHTS: Final = int(
    Rights.FD_DATASYNC
    | Rights.FD_READ
    | Rights.FD_SEEK
    | Rights.FD_FDSTAT_SET_FLAGS
    | Rights.FD_SYNC
    | Rights.FD_TELL
    | Rights.FD_WRITE
    | Rights.FD_ADVISE
    | Rights.FD_ALLOCATE
    | Rights.FD_FILESTAT_GET
    | Rights.FD_FILESTAT_SET_SIZE
    | Rights.FD_FILESTAT_SET_TIMES
    | Rights.POLL_FD_READWRITE
)
"""What can be done with a regular file."""
DIRECTORY_RIGHTS: Final = int(
    Rights.FD_DATASYNC
    | Rights.FD_FDSTAT_SET_FLAGS
    | Rights.FD_SYNC
    | Rights.FD_ADVISE
    | Rights.PATH_CREATE_DIRECTORY
    | Rights.PATH_CREATE_FILE
    | Rights.PATH_LINK_SOURCE
    | Rights.PATH_LINK_TARGET
    | Rights.PATH_OPEN
    | Rights.FD_READDIR
    | Rights.PATH_READLINK
    | Rights.PATH_RENAME_SOURCE
    | Rights.PATH_RENAME_TARGET
    | Rights.PATH_FILESTAT_GET
    | Rights.PATH_FILESTAT_SET_SIZE
    | Rights.PATH_FILESTAT_SET_TIMES
    | Rights.FD_FILESTAT_GET
    | Rights.FD_FILESTAT_SET_TIMES
    | Rights.PATH_SYMLINK
    | Rights.PATH_REMOVE_DIRECTORY
    | Rights.PATH_UNLINK_FILE
    | Rights.POLL_FD_READWRITE
)
"""What can be done with a directory."""
SOCKET_RIGHTS: Final = int(
    Rights.FD_READ
    | Rights.FD_WRITE
    | Rights.FD_FDSTAT_SET_FLAGS
    | Rights.FD_FILESTAT_GET
    | Rights.POLL_FD_READWRITE
    | Rights.SOCK_SHUTDOWN
)
_STREAM_RIGHTS: Final = int(Rights.FD_FDSTAT_SET_FLAGS | Rights.FD_FILESTAT_GET | Rights.POLL_FD_READWRITE)


class Descriptor:
    """What a number stands for. `rights` and `inheriting` can only lose bits."""

    __slots__ = ("flags", "inheriting", "rights")
    filetype: FileType = FileType.UNKNOWN
    preopen: bytes | None = None
    """The guest path of a preopened directory."""

    def __init__(self, rights: int, inheriting: int, flags: int = 0) -> None:
        self.rights = rights
        self.inheriting = inheriting
        self.flags = flags

    def close(self) -> None:
        """Give back what it holds."""


class FileDescriptor(Descriptor):
    """An open regular file and the position in it."""

    __slots__ = ("file", "position")
    filetype = FileType.REGULAR_FILE

    def __init__(self, file: File, rights: int, inheriting: int, flags: int = 0) -> None:
        super().__init__(rights, inheriting, flags)
        self.file = file
        self.position = 0

    def close(self) -> None:
        self.file.close()


class DirectoryDescriptor(Descriptor):
    """An open directory; `listing` is what readdir hands out, taken when a guest starts at the beginning.

    `place` is its guest path as components, known for as long as no guest moves it: where other file systems are
    mounted below it depends on it.
    """

    __slots__ = ("directory", "listing", "place", "preopen")
    filetype = FileType.DIRECTORY

    def __init__(
        self,
        directory: Directory,
        rights: int,
        inheriting: int,
        flags: int = 0,
        *,
        preopen: bytes | None = None,
        place: tuple[str, ...] = (),
    ) -> None:
        super().__init__(rights, inheriting, flags)
        self.directory = directory
        self.listing: list[Entry] | None = None
        self.preopen = preopen
        self.place = place

    def close(self) -> None:
        self.directory.close()


class StreamDescriptor(Descriptor):
    """stdin, stdout, stderr: one direction, or both."""

    __slots__ = ("filetype", "input", "output")

    def __init__(self, *, input: Input | None = None, output: Output | None = None) -> None:  # noqa: A002
        rights = _STREAM_RIGHTS
        rights |= int(Rights.FD_READ) if input is not None else 0
        rights |= int(Rights.FD_WRITE) if output is not None else 0
        super().__init__(rights, 0)
        self.input = input
        self.output = output
        stream = input if input is not None else output
        self.filetype = FileType.UNKNOWN if stream is None else stream.filetype

    def close(self) -> None:
        for stream in (self.input, self.output):
            if stream is not None:
                stream.close()


class SocketDescriptor(Descriptor):
    """A connected stream socket."""

    __slots__ = ("connection",)
    filetype = FileType.SOCKET_STREAM

    def __init__(self, connection: Connection, flags: int = 0, rights: int = SOCKET_RIGHTS) -> None:
        super().__init__(rights, 0, flags)
        self.connection = connection

    def close(self) -> None:
        self.connection.close()


class ListenerDescriptor(Descriptor):
    """A listening socket."""

    __slots__ = ("listener",)
    filetype = FileType.SOCKET_STREAM

    def __init__(self, listener: Listener) -> None:
        rights = Rights.SOCK_ACCEPT | Rights.FD_FDSTAT_SET_FLAGS | Rights.FD_FILESTAT_GET | Rights.POLL_FD_READWRITE
        super().__init__(int(rights), SOCKET_RIGHTS)
        self.listener = listener

    def close(self) -> None:
        self.listener.close()


class Table:
    """The open descriptors of a guest. The lowest free number is the next one, as POSIX says."""

    __slots__ = ("_free", "_next", "entries", "max_open")

    def __init__(self, max_open: int) -> None:
        self.entries: dict[int, Descriptor] = {}
        self.max_open = max_open
        self._free: list[int] = []
        self._next = 0

    def __getitem__(self, fd: int) -> Descriptor:
        try:
            return self.entries[fd]
        except KeyError:
            raise WasiError(Errno.BADF) from None

    def check_room(self) -> None:
        """Refuse to open one more if there are too many."""
        if len(self.entries) >= self.max_open:
            raise WasiError(Errno.MFILE)

    def add(self, descriptor: Descriptor) -> int:
        """Give *descriptor* a number and return it."""
        self.check_room()
        if self._free:
            fd = heapq.heappop(self._free)
        else:
            fd = self._next
            self._next += 1
        self.entries[fd] = descriptor
        return fd

    def remove(self, fd: int) -> Descriptor:
        """Take the number away and return what it stood for."""
        descriptor = self[fd]
        del self.entries[fd]
        heapq.heappush(self._free, fd)
        return descriptor

    def renumber(self, source: int, target: int) -> None:
        """Let *target*, which is open and gets closed, stand for what *source* does."""
        moved = self[source]
        replaced = self[target]
        if source == target:
            return
        self.remove(source)
        self.entries[target] = moved
        replaced.close()

    def close(self) -> None:
        """Close everything. The first error is raised when all are closed."""
        error: Exception | None = None
        while self.entries:
            _, descriptor = self.entries.popitem()
            try:
                descriptor.close()
            except OSError as caught:
                error = error or caught
        self._free.clear()
        self._next = 0
        if error is not None:
            raise error


def has_flag(descriptor: Descriptor, flag: FdFlags) -> bool:
    """Return whether *descriptor* has *flag*."""
    return bool(descriptor.flags & flag)
