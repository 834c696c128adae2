"""Bounded pipes between a guest and the application, both on one event loop: what `open_command` connects.

A full pipe suspends whoever writes, an empty one whoever reads; nothing is lost when either is cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import anyio
import anyio.lowlevel
from anyio.abc import ByteReceiveStream, ByteSendStream

from aiowasm.host.wasi.abi import Errno
from aiowasm.host.wasi.errno import WasiError
from aiowasm.host.wasi.streams import Input, Output

__all__ = ("Pipe", "PipeReader", "PipeWriter")

DEFAULT_NBYTES: Final = 64 << 10


class Pipe:
    """A buffer of at most `max_nbytes` between one writer and one reader."""

    def __init__(self, max_nbytes: int = DEFAULT_NBYTES) -> None:
        self.max_nbytes = max_nbytes
        self._data = bytearray()
        self._writer_left = False
        self._reader_left = False
        self._changed: list[anyio.Event] = []

    @property
    def room(self) -> int:
        """How much can be written at once."""
        return self.max_nbytes - len(self._data)

    @property
    def readable(self) -> bool:
        """Whether reading would not wait: there is something, or nothing will come any more."""
        return bool(self._data) or self._writer_left

    @property
    def writable(self) -> bool:
        """Whether writing would not wait: there is room, or nobody reads any more."""
        return self.room > 0 or self._reader_left

    @property
    def is_broken(self) -> bool:
        """Whether nobody reads any more."""
        return self._reader_left

    def __len__(self) -> int:
        return len(self._data)

    def put(self, data: memoryview) -> int:
        """Take what fits of *data* and return how much that is."""
        piece = data[: self.room]
        self._data += piece
        self._wake()
        return len(piece)

    def take(self, nbytes: int) -> bytes:
        """Remove and return up to *nbytes* bytes."""
        piece = bytes(self._data[:nbytes])
        del self._data[:nbytes]
        self._wake()
        return piece

    def leave_writer(self) -> None:
        """The reader gets what is there, then the end."""
        self._writer_left = True
        self._wake()

    def leave_reader(self) -> None:
        """What is there is dropped; writing fails from now on."""
        self._reader_left = True
        self._data.clear()
        self._wake()

    async def wait_readable(self) -> None:
        """Suspend until `readable`."""
        while not self.readable:
            await self._wait()

    async def wait_writable(self) -> None:
        """Suspend until `writable`."""
        while not self.writable:
            await self._wait()

    async def _wait(self) -> None:
        event = anyio.Event()
        self._changed.append(event)
        try:
            await event.wait()
        finally:
            if event in self._changed:
                self._changed.remove(event)

    def _wake(self) -> None:
        changed, self._changed = self._changed, []
        for event in changed:
            event.set()


class PipeInput(Input):
    """The guest's end that it reads."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def read_nowait(self, buffers: Sequence[memoryview]) -> int | None:
        if not self._pipe.readable:
            return None if any(map(len, buffers)) else 0
        done = 0
        for buffer in buffers:
            piece = self._pipe.take(len(buffer))
            buffer[: len(piece)] = piece
            done += len(piece)
            if len(piece) < len(buffer):
                break
        return done

    async def wait_readable(self) -> None:
        await self._pipe.wait_readable()

    def available(self) -> int | None:
        return len(self._pipe) if self._pipe.readable else None

    def close(self) -> None:
        self._pipe.leave_reader()


class PipeOutput(Output):
    """The guest's end that it writes."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def write_nowait(self, buffers: Sequence[memoryview]) -> int | None:
        if self._pipe.is_broken:
            raise WasiError(Errno.PIPE)
        if not any(map(len, buffers)):
            return 0
        if not self._pipe.room:
            return None
        done = 0
        for buffer in buffers:
            taken = self._pipe.put(buffer)
            done += taken
            if taken < len(buffer):
                break
        return done

    async def write(self, buffers: Sequence[memoryview]) -> int:
        while True:
            done = self.write_nowait(buffers)
            if done is not None:
                return done
            await self._pipe.wait_writable()

    def writable(self) -> bool:
        return self._pipe.writable

    async def wait_writable(self) -> None:
        await self._pipe.wait_writable()

    def close(self) -> None:
        self._pipe.leave_writer()


class PipeWriter(ByteSendStream):
    """The application's end that it writes: a guest's stdin."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._closed = False

    async def send(self, item: bytes) -> None:
        """Write all of *item*; suspends while the guest has not read enough.

        Raises:
            anyio.ClosedResourceError: This end was closed.
            anyio.BrokenResourceError: The guest reads no more.
        """
        await anyio.lowlevel.checkpoint()
        rest = memoryview(item)
        while True:
            if self._closed:
                raise anyio.ClosedResourceError
            if self._pipe.is_broken:
                raise anyio.BrokenResourceError
            rest = rest[self._pipe.put(rest) :]
            if not rest:
                return
            await self._pipe.wait_writable()

    async def aclose(self) -> None:
        """Let the guest read the end once it has read what is there."""
        self._closed = True
        self._pipe.leave_writer()
        await anyio.lowlevel.checkpoint()


class PipeReader(ByteReceiveStream):
    """The application's end that it reads: a guest's stdout or stderr."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._closed = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return what is there, at most *max_bytes*; suspends while there is nothing.

        Raises:
            anyio.EndOfStream: The guest has ended or closed its side, and everything was read.
            anyio.ClosedResourceError: This end was closed.
        """
        await anyio.lowlevel.checkpoint()
        if self._closed:
            raise anyio.ClosedResourceError
        await self._pipe.wait_readable()
        data = self._pipe.take(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    async def aclose(self) -> None:
        """Take no more; the guest's next write fails with `PIPE`."""
        self._closed = True
        self._pipe.leave_reader()
        await anyio.lowlevel.checkpoint()
