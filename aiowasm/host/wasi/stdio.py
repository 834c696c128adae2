"""What an application may give a guest as stdin, stdout and stderr, and the stream it becomes."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from typing import IO

from anyio.abc import ByteReceiveStream, ByteSendStream, ObjectReceiveStream, ObjectSendStream

from aiowasm.host.wasi.hostfd import FdInput, FdOutput
from aiowasm.host.wasi.streams import (
    BytesInput,
    CalledInput,
    CalledOutput,
    Capture,
    FileObjectInput,
    FileObjectOutput,
    Input,
    Output,
    ReceivedInput,
    SentOutput,
)

__all__ = ("InputSource", "OutputTarget", "input_of", "output_of")

InputSource = (
    Input
    | bytes
    | bytearray
    | memoryview
    | IO[bytes]
    | ByteReceiveStream
    | ObjectReceiveStream[bytes]
    | Callable[[], bytes]
    | Callable[[], Awaitable[bytes]]
    | None
)
OutputTarget = (
    Output
    | bytearray
    | IO[bytes]
    | ByteSendStream
    | ObjectSendStream[bytes]
    | Callable[[bytes], object]
    | Callable[[bytes], Awaitable[object]]
    | None
)


def _descriptor_of(file: object) -> int | None:
    try:
        return int(file.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError, io.UnsupportedOperation):
        return None


def input_of(source: InputSource) -> Input:
    """Return what a guest reads from *source*.

    Raises:
        TypeError: It is nothing a guest could read from.
    """
    if isinstance(source, Input):
        return source
    if source is None:
        return BytesInput(b"")
    if isinstance(source, bytes | bytearray | memoryview):
        return BytesInput(bytes(source))
    if isinstance(source, ByteReceiveStream | ObjectReceiveStream):
        return ReceivedInput(source)
    fd = _descriptor_of(source)
    if fd is not None:
        return FdInput(fd)
    if callable(source):
        return CalledInput(source)
    if hasattr(source, "read"):
        return FileObjectInput(source)
    raise TypeError(f"stdin must be bytes, a binary file, a stream or a callable, not {type(source).__name__}")


def output_of(target: OutputTarget, max_nbytes: int) -> Output:
    """Return what a guest writes to for *target*; None is captured.

    Raises:
        TypeError: It is nothing a guest could write to.
    """
    if isinstance(target, Output):
        return target
    if target is None or isinstance(target, bytearray):
        return Capture(max_nbytes, target)
    if isinstance(target, ByteSendStream | ObjectSendStream):
        return SentOutput(target)
    fd = _descriptor_of(target)
    if fd is not None:
        if hasattr(target, "flush"):
            target.flush()
        return FdOutput(fd)
    if callable(target):
        return CalledOutput(target)
    if hasattr(target, "write"):
        return FileObjectOutput(target)
    raise TypeError(
        f"an output must be a binary file, a stream, a bytearray or a callable, not {type(target).__name__}"
    )
