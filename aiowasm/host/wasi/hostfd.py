"""Streams that are descriptors of this process: files, pipes and terminals, without blocking the event loop.

Pipes are read and written with calls that never wait where the system has them (Linux). What has no such call, a
terminal for one, is read by a thread of its own, on demand, so that neither cancelling nor leaving the program waits
for somebody to press a key.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat as modes
import threading
from collections.abc import Sequence
from typing import Final

import anyio

from aiowasm.host.wasi.abi import FileType
from aiowasm.host.wasi.readiness import is_ready
from aiowasm.host.wasi.streams import CHUNK_NBYTES, Input, Output, scatter

__all__ = ("FdInput", "FdOutput", "filetype_of_fd")

_RWF_NOWAIT: Final[int] = getattr(os, "RWF_NOWAIT", 0)
_NOT_SUPPORTED: Final = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ESPIPE, errno.EINVAL, errno.ENOSYS)
_PIPE_BUF: Final[int] = getattr(select, "PIPE_BUF", 512)
"""What a descriptor that is ready for writing takes without waiting."""


def filetype_of_fd(fd: int) -> FileType:
    """Return what kind of thing a descriptor of the host is."""
    mode = os.fstat(fd).st_mode
    if modes.S_ISREG(mode):
        return FileType.REGULAR_FILE
    if modes.S_ISCHR(mode):
        # A guest takes a character device for a terminal.
        return FileType.CHARACTER_DEVICE if os.isatty(fd) else FileType.UNKNOWN
    return FileType.SOCKET_STREAM if modes.S_ISSOCK(mode) else FileType.UNKNOWN


class _Reader:
    """Reads a descriptor in a daemon thread, only when asked, and keeps what arrived for whoever reads next."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Condition()
        self._wanted = False
        self._waiting: list[socket.socket] = []
        self.data = memoryview(b"")
        self.ended = False
        self.error: OSError | None = None
        threading.Thread(target=self._run, daemon=True, name=f"aiowasm reader of descriptor {fd}").start()

    @property
    def ready(self) -> bool:
        return bool(self.data) or self.ended or self.error is not None

    async def wait(self) -> None:
        """Suspend until `ready`."""
        ours, theirs = socket.socketpair()
        try:
            with self._lock:
                if self.ready:
                    return
                self._waiting.append(theirs)
                self._wanted = True
                self._lock.notify_all()
            await anyio.wait_readable(ours)
        finally:
            with self._lock:
                if theirs in self._waiting:
                    self._waiting.remove(theirs)
            ours.close()
            theirs.close()

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._wanted or self.ready:
                    self._lock.wait()
            data, error = b"", None
            try:
                data = os.read(self._fd, CHUNK_NBYTES)
            except OSError as caught:
                error = caught
            with self._lock:
                self._wanted = False
                self.data = memoryview(data)
                self.ended = not data and error is None
                self.error = error
                for waiting in self._waiting:
                    waiting.send(b"x")

    def take(self, buffers: Sequence[memoryview]) -> int:
        """Hand out what arrived."""
        with self._lock:
            if self.error is not None:
                error, self.error = self.error, None
                raise error
            if not self.data:
                self.ended = False  # a terminal may go on after its end of file
                return 0
            done = scatter(self.data, buffers)
            self.data = self.data[done:]
            return done


_readers: dict[tuple[int, int, int], _Reader] = {}


def _reader_of(fd: int) -> _Reader:
    """Return the one reader of a descriptor in this process: two would steal from each other."""
    result = os.fstat(fd)
    key = (fd, result.st_dev, result.st_ino)
    if key not in _readers:
        _readers[key] = _Reader(fd)
    return _readers[key]


class FdInput(Input):
    """A descriptor to read from. It stays the application's: closing is not done here."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.filetype = filetype_of_fd(fd)
        mode = os.fstat(fd).st_mode
        self._is_regular = modes.S_ISREG(mode)
        self._is_pipe = modes.S_ISFIFO(mode) and bool(_RWF_NOWAIT)
        self._reader: _Reader | None = None

    def fileno(self) -> int | None:
        return self._fd

    def read_nowait(self, buffers: Sequence[memoryview]) -> int | None:
        if self._is_regular:
            return os.readv(self._fd, buffers)
        if self._is_pipe:
            try:
                return os.preadv(self._fd, buffers, -1, _RWF_NOWAIT)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno not in _NOT_SUPPORTED:
                    raise
                self._is_pipe = False
        if not any(map(len, buffers)):
            return 0
        reader = self._reader_now()
        return reader.take(buffers) if reader.ready else None

    def _reader_now(self) -> _Reader:
        if self._reader is None:
            self._reader = _reader_of(self._fd)
        return self._reader

    async def wait_readable(self) -> None:
        if self._is_regular:
            return
        if self._is_pipe:
            await anyio.wait_readable(self._fd)
        else:
            await self._reader_now().wait()

    def available(self) -> int | None:
        if self._is_regular:
            return max(0, os.fstat(self._fd).st_size - os.lseek(self._fd, 0, os.SEEK_CUR))
        if self._is_pipe:
            return 1 if is_ready(self._fd, write=False) else None
        reader = self._reader_now()
        return len(reader.data) if reader.ready else None


class FdOutput(Output):
    """A descriptor to write to. It stays the application's."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.filetype = filetype_of_fd(fd)
        mode = os.fstat(fd).st_mode
        self._waits = not modes.S_ISREG(mode) and os.name != "nt"
        self._is_pipe = modes.S_ISFIFO(mode) and bool(_RWF_NOWAIT)

    def fileno(self) -> int | None:
        return self._fd

    def write_nowait(self, buffers: Sequence[memoryview]) -> int | None:
        if not any(map(len, buffers)):
            return 0
        if not self._waits:
            return os.writev(self._fd, buffers) if hasattr(os, "writev") else os.write(self._fd, b"".join(buffers))
        if self._is_pipe:
            try:
                return os.pwritev(self._fd, buffers, -1, _RWF_NOWAIT)
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno not in _NOT_SUPPORTED:
                    raise
                self._is_pipe = False
        if not self.writable():
            return None
        first = next(buffer for buffer in buffers if len(buffer))
        return os.write(self._fd, first[:_PIPE_BUF])

    async def write(self, buffers: Sequence[memoryview]) -> int:
        while True:
            done = self.write_nowait(buffers)
            if done is not None:
                return done
            await self.wait_writable()

    def writable(self) -> bool:
        return not self._waits or is_ready(self._fd, write=True)

    async def wait_writable(self) -> None:
        if self._waits:
            try:
                await anyio.wait_writable(self._fd)
            except PermissionError:
                return  # no system waits for what is always ready
