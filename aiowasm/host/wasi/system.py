"""The state of one guest under WASI, and how its calls reach its memory.

A `System` is made for each instance from a `Wasi`. The calls themselves are in the modules `calls_*`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Final, NoReturn, TypeVar

from aiowasm.host.wasi.abi import IOVEC, ClockId, Errno
from aiowasm.host.wasi.clocks import Clock
from aiowasm.host.wasi.descriptors import Descriptor, Table
from aiowasm.host.wasi.errno import WasiError
from aiowasm.host.wasi.filesystem import Directory
from aiowasm.host.wasi.streams import Discard, Output
from aiowasm.store.caller import Caller

__all__ = ("MAX_CALL_NBYTES", "MAX_IOVECS", "Answer", "Guest", "System", "check", "put_u32", "put_u64", "run")

T = TypeVar("T")

Guest = Caller[Any]
Answer = int | Coroutine[Any, Any, int]
"""What a call returns: an errno, or what to await for it."""

MAX_IOVECS: Final = 1024
"""IOV_MAX of Linux; more is `INVAL`."""
MAX_CALL_NBYTES: Final = 16 << 20
"""What one call moves at most; the guest is told how much it was."""
FUEL_NBYTES: Final = 64
"""Bytes moved for one unit of fuel."""


class System:
    """What one guest has: its arguments, descriptors, clock and randomness."""

    __slots__ = (
        "_attached",
        "args",
        "clock",
        "env",
        "exited",
        "mounts",
        "peak_memory_nbytes",
        "random",
        "stderr",
        "stdout",
        "table",
        "waits",
    )

    def __init__(
        self,
        *,
        args: Iterable[bytes],
        env: Iterable[bytes],
        clock: Clock,
        random: Callable[[int], bytes],
        max_open: int,
    ) -> None:
        self.args = list(args)
        self.env = list(env)
        self.clock = clock
        self.random = random
        self.table = Table(max_open)
        self.mounts: dict[tuple[str, ...], Directory] = {}
        """Roots of file systems that lie below another's, by guest path."""
        self.waits = False
        """Whether operations of a file system may suspend."""
        self.stdout: Output = Discard()
        self.stderr: Output = Discard()
        self.exited: int | None = None
        """The code of proc_exit."""
        self._attached = False
        self.peak_memory_nbytes = 0

    def now(self) -> int:
        """Return the time of day, in nanoseconds."""
        return self.clock.now(ClockId.REALTIME)

    def view(self, caller: Guest) -> memoryview:
        """Return the guest's whole memory as it is now; to be asked again after every await."""
        try:
            view = caller.memory.view()
        except LookupError:
            raise WasiError(Errno.FAULT) from None
        self.peak_memory_nbytes = max(self.peak_memory_nbytes, len(view))
        return view

    def buffers(self, caller: Guest | None, view: memoryview, address: int, count: int) -> list[memoryview]:
        """Return the bytes that *count* iovecs at *address* name, without empty ones, up to MAX_CALL_NBYTES.

        Charges *caller* a unit of fuel for each iovec and for each 64 bytes; None if it was charged already.
        """
        if count == 1:  # nearly always; a loop would cost as much as the call
            start, nbytes = IOVEC.unpack_from(view, check(view, address, 8))
            if start + nbytes > len(view):
                raise WasiError(Errno.FAULT)
            nbytes = min(nbytes, MAX_CALL_NBYTES)
            if caller is not None:
                caller.consume_fuel(1 + nbytes // FUEL_NBYTES)
            return [view[start : start + nbytes]] if nbytes else []
        if count > MAX_IOVECS:
            raise WasiError(Errno.INVAL)
        check(view, address, 8 * count)
        found = []
        left = MAX_CALL_NBYTES
        for start, nbytes in IOVEC.iter_unpack(view[address : address + 8 * count]):
            if start + nbytes > len(view):
                raise WasiError(Errno.FAULT)
            if nbytes and left:
                part = min(nbytes, left)
                left -= part
                found.append(view[start : start + part])
        if caller is not None:
            caller.consume_fuel(count + (MAX_CALL_NBYTES - left) // FUEL_NBYTES)
        return found

    def bytes_at(self, caller: Guest, address: int, nbytes: int, max_nbytes: int) -> bytes:
        """Return a copy of *nbytes* bytes; more than *max_nbytes* is `NAMETOOLONG`."""
        view = self.view(caller)
        check(view, address, nbytes)
        if nbytes > max_nbytes:
            raise WasiError(Errno.NAMETOOLONG)
        return bytes(view[address : address + nbytes])

    def descriptor(self, fd: int, rights: int) -> Descriptor:
        """Return the descriptor *fd* if it has *rights*."""
        descriptor = self.table[fd]
        if descriptor.rights & rights != rights:
            raise WasiError(Errno.NOTCAPABLE)
        return descriptor

    def exit(self, caller: Guest, code: int) -> NoReturn:
        """End the guest with *code*."""
        with suppress(WasiError):
            self.view(caller)  # its size counts: it is gone once the instance is closed
        self.exited = code
        caller.exit(code)

    def attach(self, caller: Guest) -> None:
        """Let the descriptors be closed with the calling instance."""
        if not self._attached:
            self._attached = True
            caller.instance.on_close(self.close)

    def __del__(self) -> None:
        # A guest that opened nothing never told us which instance it is: it closes with its host module.
        if hasattr(self, "mounts"):
            with suppress(OSError):
                self.close()

    def close(self) -> None:
        """Close all descriptors and give back the mounted file systems."""
        mounts, self.mounts = self.mounts, {}
        for directory in mounts.values():
            directory.close()
        self.table.close()


def check(view: memoryview, address: int, nbytes: int) -> int:
    """Return *address* if *nbytes* bytes there are in memory."""
    if address + nbytes > len(view):
        raise WasiError(Errno.FAULT)
    return address


def put_u32(view: memoryview, address: int, value: int) -> None:
    """Store 32 bits."""
    view[check(view, address, 4) : address + 4] = value.to_bytes(4, "little")


def put_u64(view: memoryview, address: int, value: int) -> None:
    """Store 64 bits."""
    view[check(view, address, 8) : address + 8] = value.to_bytes(8, "little")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine*, which does not suspend, and return its result."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    coroutine.close()
    raise RuntimeError("a file system that does not say it waits has suspended")
