"""Sockets a guest was given: connected streams and listeners, always non-blocking on the host's side."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Final

import anyio
from anyio import TypedAttributeProvider
from anyio.abc import SocketAttribute
from anyio.streams.stapled import MultiListener

from aiowasm.host.wasi.abi import Errno, SdFlags
from aiowasm.host.wasi.errno import WasiError
from aiowasm.host.wasi.readiness import is_ready

__all__ = ("Connection", "Listener", "check_socket", "raw_socket")


_PEEK_NBYTES: Final = 64 << 10


class Connection:
    """A connected stream socket."""

    __slots__ = ("socket",)

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self.socket = connected

    def recv_nowait(self, buffers: Sequence[memoryview], *, peek: bool = False) -> int | None:
        """Receive what is there; 0 at the end, None if there is nothing yet."""
        try:
            if hasattr(self.socket, "recvmsg_into"):
                return self.socket.recvmsg_into(buffers, 0, socket.MSG_PEEK if peek else 0)[0]
            return self.socket.recv_into(buffers[0], 0, socket.MSG_PEEK if peek else 0) if buffers else 0
        except BlockingIOError:
            return None

    def send_nowait(self, buffers: Sequence[memoryview]) -> int | None:
        """Send what can be sent; None if nothing can."""
        try:
            if hasattr(self.socket, "sendmsg"):
                return self.socket.sendmsg(buffers)
            return self.socket.send(buffers[0]) if buffers else 0
        except BlockingIOError:
            return None

    async def wait_readable(self) -> None:
        """Suspend until there is something to receive."""
        await anyio.wait_readable(self.socket)

    async def wait_writable(self) -> None:
        """Suspend until something can be sent."""
        await anyio.wait_writable(self.socket)

    def ready(self, *, write: bool) -> int | None:
        """Return how much can be moved without waiting (1 where unknown, 0 at the end), or None."""
        if write:
            return 1 if is_ready(self.socket.fileno(), write=True) else None
        try:
            return len(self.socket.recv(_PEEK_NBYTES, socket.MSG_PEEK))
        except BlockingIOError:
            return None

    def shutdown(self, how: SdFlags) -> None:
        """Close one direction, or both."""
        ways = {SdFlags.RD: socket.SHUT_RD, SdFlags.WR: socket.SHUT_WR, SdFlags.RD | SdFlags.WR: socket.SHUT_RDWR}
        if how not in ways:
            raise WasiError(Errno.INVAL)
        self.socket.shutdown(ways[how])

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()


class Listener:
    """A listening socket. It is the application's, who closes it, unless it is *owned*."""

    __slots__ = ("_owned", "socket")

    def __init__(self, listening: socket.socket, owned: bool) -> None:
        listening.setblocking(False)
        self.socket = listening
        self._owned = owned

    def accept_nowait(self) -> socket.socket | None:
        """Accept a connection, or return None if there is none yet."""
        try:
            return self.socket.accept()[0]
        except BlockingIOError:
            return None

    def ready(self) -> int | None:
        """Return 1 if there is a connection to accept, or None."""
        return 1 if is_ready(self.socket.fileno(), write=False) else None

    async def wait_readable(self) -> None:
        """Suspend until there is a connection to accept."""
        await anyio.wait_readable(self.socket)

    def close(self) -> None:
        """Close the socket if it is ours."""
        if self._owned:
            self.socket.close()


def check_socket(source: object) -> None:
    """Refuse what has no socket behind it.

    Raises:
        TypeError: It has none.
    """
    found, is_duplicate = raw_socket(source)
    if is_duplicate:
        found.close()


def raw_socket(source: object) -> tuple[socket.socket, bool]:
    """Return the socket behind what an application gave, and whether it is a duplicate.

    Raises:
        TypeError: There is none.
    """
    if isinstance(source, socket.socket):
        return source, False
    if isinstance(source, MultiListener):
        if len(source.listeners) != 1:
            raise TypeError("a MultiListener of several sockets: give its listeners one by one")
        source = source.listeners[0]
    if isinstance(source, TypedAttributeProvider):
        raw = source.extra(SocketAttribute.raw_socket, None)
        if raw is not None:
            # What the backend of the event loop wraps; a duplicate is a plain socket of the same connection.
            return socket.socket(fileno=os.dup(raw.fileno())), True
    raise TypeError(f"a socket of a guest must be a socket or a stream of one, not {type(source).__name__}")
