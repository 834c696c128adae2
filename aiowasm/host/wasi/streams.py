"""Streams of a guest: how each kind is read, written and waited for. Which there are is `aiowasm.host.wasi.stdio`.

An `Input` or `Output` first tries without waiting; `wait_readable` then suspends the guest alone. Cancelling a wait
loses nothing: what arrived is kept for the next read, and what a guest was told is written was handed over.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import IO, Any, Final

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, ObjectReceiveStream, ObjectSendStream

from aiowasm.errors import LimitError
from aiowasm.host.wasi.abi import Errno, FileType
from aiowasm.host.wasi.errno import WasiError

__all__ = (
    "BytesInput",
    "CalledInput",
    "CalledOutput",
    "Capture",
    "Discard",
    "FileObjectInput",
    "FileObjectOutput",
    "Input",
    "Output",
    "ReceivedInput",
    "SentOutput",
    "Stream",
    "gather",
    "scatter",
)

CHUNK_NBYTES: Final = 64 << 10
"""How much is asked of a stream at once."""
MAX_WRITE_NBYTES: Final = 1 << 20
"""How much of one write is copied for a stream; the guest is told how much was taken."""


class Stream(ABC):
    """What both directions have in common."""

    filetype: FileType = FileType.UNKNOWN

    def fileno(self) -> int | None:
        """Return the descriptor of the host behind it, or None."""
        return None

    def close(self) -> None:
        """Give back what it holds; what the application passed in stays open."""


class Input(Stream):
    """Something a guest reads."""

    @abstractmethod
    def read_nowait(self, buffers: Sequence[memoryview]) -> int | None:
        """Fill *buffers* with what is there; 0 at the end, None if there is nothing yet."""

    @abstractmethod
    async def wait_readable(self) -> None:
        """Suspend until `read_nowait` does not return None. Nothing is lost by cancelling it."""

    def available(self) -> int | None:
        """Return how many bytes can be read at once (0: the end is reached), or None if reading would wait."""
        return None


class Output(Stream):
    """Something a guest writes to."""

    def write_nowait(self, buffers: Sequence[memoryview]) -> int | None:
        """Take what can be taken at once; None if nothing can."""
        return None

    @abstractmethod
    async def write(self, buffers: Sequence[memoryview]) -> int:
        """Take some of *buffers*, at least one byte, and return how much. Cancelled, it has taken nothing."""

    def writable(self) -> bool:
        """Return whether a write would not wait, as far as is known."""
        return True

    async def wait_writable(self) -> None:
        """Suspend until a write would not wait."""


def scatter(data: memoryview, buffers: Sequence[memoryview]) -> int:
    """Copy *data* into *buffers* and return how much fitted."""
    done = 0
    for buffer in buffers:
        piece = data[done : done + len(buffer)]
        buffer[: len(piece)] = piece
        done += len(piece)
        if done == len(data):
            break
    return done


def gather(buffers: Sequence[memoryview], max_nbytes: int = MAX_WRITE_NBYTES) -> bytes:
    """Return a copy of what is in *buffers*, up to *max_nbytes*."""
    if len(buffers) == 1:
        return bytes(buffers[0][:max_nbytes])
    pieces: list[memoryview] = []
    for buffer in buffers:
        piece = buffer[:max_nbytes]
        pieces.append(piece)
        max_nbytes -= len(piece)
        if not max_nbytes:
            break
    return b"".join(pieces)


class _Buffered(Input):
    """An input with bytes that are here already."""

    def __init__(self, data: bytes = b"") -> None:
        self._left = memoryview(data)
        self._ended = False

    def read_nowait(self, buffers: Sequence[memoryview]) -> int | None:
        if self._left:
            done = scatter(self._left, buffers)
            self._left = self._left[done:]
            return done
        return 0 if self._ended or not any(map(len, buffers)) else None

    def available(self) -> int | None:
        return len(self._left) if self._left or self._ended else None

    def _arrived(self, data: bytes) -> None:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"an input of a guest must give bytes, not {type(data).__name__}")
        self._left = memoryview(bytes(data))
        self._ended = not data

    async def wait_readable(self) -> None:
        if not self._left and not self._ended:
            self._arrived(await self._receive())

    async def _receive(self) -> bytes:
        return b""


class BytesInput(_Buffered):
    """Given bytes, then the end."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._ended = True


class ReceivedInput(_Buffered):
    """A stream of anyio."""

    def __init__(self, stream: ByteReceiveStream | ObjectReceiveStream[bytes]) -> None:
        super().__init__()
        self._stream = stream

    async def _receive(self) -> bytes:
        try:
            if isinstance(self._stream, ByteReceiveStream):
                return await self._stream.receive(CHUNK_NBYTES)
            while True:
                data = await self._stream.receive()
                if data:  # an empty item is not the end of a stream of objects
                    return data
        except anyio.EndOfStream:
            return b""
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise WasiError(Errno.IO) from None


class CalledInput(_Buffered):
    """A function that returns the next bytes, or awaits them; b"" is the end."""

    def __init__(self, function: Callable[[], Any]) -> None:
        super().__init__()
        self._function = function

    async def _receive(self) -> bytes:
        result = self._function()
        data: bytes = await result if inspect.isawaitable(result) else result
        return data


class FileObjectInput(_Buffered):
    """A file object without a descriptor, such as io.BytesIO: its reads do not wait."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file

    def read_nowait(self, buffers: Sequence[memoryview]) -> int | None:
        if not self._left and not self._ended:
            self._arrived(self._file.read(min(CHUNK_NBYTES, max(1, sum(map(len, buffers))))))
        return super().read_nowait(buffers)

    def available(self) -> int | None:
        if not self._left and not self._ended:
            self._arrived(self._file.read(CHUNK_NBYTES))
        return super().available()


class Capture(Output):
    """Keeps what is written in `data`.

    Raises:
        LimitError: (from the guest's call) More than `max_nbytes` are written; the limit is "output_nbytes".
    """

    def __init__(self, max_nbytes: int, data: bytearray | None = None) -> None:
        self.data = bytearray() if data is None else data
        self.max_nbytes = max_nbytes

    def write_nowait(self, buffers: Sequence[memoryview]) -> int | None:
        nbytes = sum(map(len, buffers))
        if len(self.data) + nbytes > self.max_nbytes:
            raise LimitError(f"a guest wrote more than {self.max_nbytes} bytes", limit="output_nbytes")
        for buffer in buffers:
            self.data += buffer
        return nbytes

    async def write(self, buffers: Sequence[memoryview]) -> int:
        return self.write_nowait(buffers) or 0


class Discard(Output):
    """Takes everything and keeps nothing."""

    def write_nowait(self, buffers: Sequence[memoryview]) -> int | None:
        return sum(map(len, buffers))

    async def write(self, buffers: Sequence[memoryview]) -> int:
        return sum(map(len, buffers))


class SentOutput(Output):
    """A stream of anyio: a write returns when the stream has taken it, which is what holds a fast guest back."""

    def __init__(self, stream: ByteSendStream | ObjectSendStream[bytes]) -> None:
        self._stream = stream

    async def write(self, buffers: Sequence[memoryview]) -> int:
        data = gather(buffers)
        if data:
            try:
                await self._stream.send(data)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                raise WasiError(Errno.PIPE) from None
        return len(data)


class CalledOutput(Output):
    """A function that takes bytes, awaited if it returns something to await."""

    def __init__(self, function: Callable[[bytes], Any]) -> None:
        self._function = function

    async def write(self, buffers: Sequence[memoryview]) -> int:
        data = gather(buffers)
        if data:
            result = self._function(data)
            if inspect.isawaitable(result):
                await result
        return len(data)


class FileObjectOutput(Output):
    """A file object without a descriptor."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write_nowait(self, buffers: Sequence[memoryview]) -> int | None:
        done = 0
        for buffer in buffers:
            written = self._file.write(bytes(buffer))
            done += len(buffer) if written is None else written
        self._file.flush()
        return done

    async def write(self, buffers: Sequence[memoryview]) -> int:
        return self.write_nowait(buffers) or 0
