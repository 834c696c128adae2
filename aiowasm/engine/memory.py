"""Memory instances (the standard's chapter 4.2.8): bytes, bounds, growth.

A memory is one reservation of address space, committed by the operating system as pages are touched, so that growing
moves nothing. Who waits for a notification is kept here, how they suspend is not; neither are fuel and ownership.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from types import CellType
from typing import ClassVar, Final

from aiowasm.errors import LimitError, Trap, TrapCode
from aiowasm.syntax.types import MemType

__all__ = ("DEFAULT_MAX_NBYTES", "MemInst", "Waiter")

DEFAULT_MAX_NBYTES: Final = 1 << 32
"""What a memory may grow to where its owner names no limit."""

_FILL_NBYTES: Final = 1 << 20  # memory.fill is guest-controlled: it must not cost a temporary as large as the memory
_Buffer = mmap.mmap | bytearray

# Without MAP_NORESERVE a reservation counts as memory in use on systems that do not overcommit; without any flags
# (Windows) an anonymous map is all there is.
_FLAGS: Final[int] = (
    getattr(mmap, "MAP_PRIVATE", 0) | getattr(mmap, "MAP_ANONYMOUS", 0) | getattr(mmap, "MAP_NORESERVE", 0)
)


def _map(nbytes: int) -> mmap.mmap:
    return mmap.mmap(-1, nbytes, flags=_FLAGS) if _FLAGS else mmap.mmap(-1, nbytes)  # type: ignore[call-arg,unused-ignore]


def _reserve(minimum: int, capacity: int, guard_nbytes: int) -> _Buffer:
    """Reserve *capacity* bytes, or as many as the system gives but no fewer than *minimum*; *guard_nbytes* more."""
    nbytes = capacity
    while nbytes:
        try:
            return _map(nbytes + guard_nbytes)
        except (OSError, OverflowError, ValueError, MemoryError):
            if nbytes <= minimum:
                raise
            nbytes = max(minimum, nbytes >> 1)
    return bytearray()  # a map cannot be empty


class Waiter:
    """One memory.atomic.wait in progress at `address`; `woken` says whether a notify has ended it.

    `on_wake`, if set, is called once when that happens: by the agent that notifies, so it must only schedule.
    """

    __slots__ = ("address", "memory", "on_wake", "woken")

    def __init__(self, memory: MemInst, address: int) -> None:
        self.memory = memory
        self.address = address
        self.woken = False
        self.on_wake: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Wait no longer (a timeout, or the activation is dropped). Idempotent."""
        queue = self.memory.waiters.get(self.address)
        if queue is not None and self in queue:
            queue.remove(self)
            if not queue:
                del self.memory.waiters[self.address]


_NO_WAITERS: Final[dict[int, list[Waiter]]] = {}
"""What memories have that nobody waits at, which are nearly all."""


class MemInst:
    """A memory of type `memtype`, whose minimum is the current size in pages.

    `view` is the current contents; `cell` holds it for code that closes over it. Growth puts a new view in both:
    whoever keeps a view across a call or a growth must take it anew, since growth beyond the reservation moves bytes
    (shared memories never move: they fail to grow instead).

    `asks` makes a growth by guests an outcome of the execution (GROW); `owner` is the store's; `waiters` are those of
    memory.atomic.wait by address, oldest first.

    Args:
        memtype: The declared type; its minimum is the initial size.
        max_nbytes: What the owner lets the memory grow to, whatever its type declares.

    Raises:
        LimitError: If the initial size exceeds *max_nbytes* or cannot be had from the system.
    """

    guard_nbytes: ClassVar[int] = 0
    """What is reserved behind the bytes and never becomes part of them."""

    __slots__ = (
        "__weakref__",
        "_buffer",
        "_closed",
        "addrtype",
        "asks",
        "cell",
        "max_pages",
        "maximum",
        "owner",
        "page_size_log2",
        "shared",
        "view",
        "waiters",
    )

    def __init__(self, memtype: MemType, max_nbytes: int = DEFAULT_MAX_NBYTES) -> None:
        self.asks = False
        self.owner: object = None
        self.waiters = _NO_WAITERS
        self.addrtype = memtype.addrtype
        self.maximum = memtype.limits.maximum
        self.shared = memtype.shared
        self.page_size_log2 = log2 = memtype.page_size_log2
        bits = memtype.addrtype.value
        # The size in pages must itself be an address: with pages of one byte the last one is out of reach.
        ceiling = min(1 << (bits - log2), (1 << bits) - 1, max(max_nbytes, 0) >> log2)
        self.max_pages = ceiling if self.maximum is None else min(self.maximum, ceiling)
        if not 0 <= memtype.limits.minimum <= self.max_pages:
            raise LimitError(
                f"a memory of {memtype.limits.minimum} pages exceeds {self.max_pages} pages", limit="memory_nbytes"
            )
        nbytes = memtype.limits.minimum << log2
        try:
            self._buffer = _reserve(nbytes, self.max_pages << log2, self.guard_nbytes)
        except (OSError, OverflowError, ValueError, MemoryError) as error:
            raise LimitError(f"cannot allocate a memory of {nbytes} bytes", limit="memory_nbytes") from error
        self._closed = False
        self.view = memoryview(self._buffer)[:nbytes]
        self.cell = CellType(self.view)

    @property
    def size(self) -> int:
        """The current size in pages."""
        return len(self.view) >> self.page_size_log2

    def grow(self, delta: int) -> int:
        """Grow by *delta* pages and return the previous size in pages, or -1 if that is not possible; never traps."""
        previous = self.size
        pages = previous + delta
        if delta < 0 or pages > self.max_pages or self._closed:
            return -1
        if not delta:
            return previous
        nbytes = pages << self.page_size_log2
        if nbytes > len(self._buffer) - self.guard_nbytes:
            if self.shared:  # threads may be writing to the bytes that would be left behind
                return -1
            capacity = self.max_pages << self.page_size_log2
            try:
                # Doubling keeps repeated growth linear where one large reservation was refused.
                buffer = _reserve(nbytes, min(max(nbytes, 2 * len(self._buffer)), capacity), self.guard_nbytes)
            except (OSError, OverflowError, ValueError, MemoryError):
                return -1
            with memoryview(buffer) as target:
                target[: len(self.view)] = self.view
            self._buffer = buffer  # the old one goes with its last view
        self.view = self.cell.cell_contents = memoryview(self._buffer)[:nbytes]
        return previous

    def read(self, address: int, nbytes: int) -> bytes:
        """Return a copy of *nbytes* bytes at *address*."""
        if address < 0 or nbytes < 0 or address + nbytes > len(self.view):
            raise Trap(TrapCode.MEMORY_OUT_OF_BOUNDS)
        return bytes(self.view[address : address + nbytes])

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store *data* (contiguous bytes) at *address*, all of it or none."""
        nbytes = data.nbytes if isinstance(data, memoryview) else len(data)
        if address < 0 or address + nbytes > len(self.view):
            raise Trap(TrapCode.MEMORY_OUT_OF_BOUNDS)
        # Host memory may come in another format; slice assignment wants bytes.
        self.view[address : address + nbytes] = memoryview(data).cast("B") if nbytes else b""

    def fill(self, address: int, value: int, nbytes: int) -> None:
        """Set *nbytes* bytes at *address* to the low byte of *value*. Spec: `memory.fill`."""
        view = self.view
        end = address + nbytes
        if address < 0 or nbytes < 0 or end > len(view):
            raise Trap(TrapCode.MEMORY_OUT_OF_BOUNDS)
        chunk = bytes((value & 0xFF,)) * min(nbytes, _FILL_NBYTES)
        while end - address > _FILL_NBYTES:
            view[address : address + _FILL_NBYTES] = chunk
            address += _FILL_NBYTES
        if address < end:
            view[address:end] = chunk[: end - address]

    def copy(self, address: int, source: MemInst, source_address: int, nbytes: int) -> None:
        """Copy from *source*, which may be this memory with overlap. Spec: `memory.copy`."""
        if (
            address < 0
            or source_address < 0
            or nbytes < 0
            or address + nbytes > len(self.view)
            or source_address + nbytes > len(source.view)
        ):
            raise Trap(TrapCode.MEMORY_OUT_OF_BOUNDS)
        self.view[address : address + nbytes] = source.view[source_address : source_address + nbytes]

    def init(self, address: int, data: bytes | memoryview, offset: int, nbytes: int) -> None:
        """Copy *nbytes* bytes of a data segment's bytes from *offset*. Spec: `memory.init`."""
        if address < 0 or offset < 0 or nbytes < 0 or address + nbytes > len(self.view) or offset + nbytes > len(data):
            raise Trap(TrapCode.MEMORY_OUT_OF_BOUNDS)
        self.view[address : address + nbytes] = memoryview(data)[offset : offset + nbytes]

    def wait(self, address: int) -> Waiter:
        """Register one more waiter at *address*: the caller suspends until it is woken, or cancels it."""
        waiter = Waiter(self, address)
        if not self.waiters:
            self.waiters = {}
        self.waiters.setdefault(address, []).append(waiter)
        return waiter

    def notify(self, address: int, count: int) -> int:
        """Wake up to *count* waiters at *address*, the oldest first; return how many. Spec: `memory.atomic.notify`."""
        queue = self.waiters.get(address)
        if queue is None or count <= 0:
            return 0
        woken = queue[:count]
        del queue[:count]
        if not queue:
            del self.waiters[address]
        for waiter in woken:
            waiter.woken = True
            if waiter.on_wake is not None:
                waiter.on_wake()
        return len(woken)

    def close(self) -> None:
        """Give the bytes back: at once if no view of them is kept elsewhere, else with the last one.

        The memory is empty from then on and does not grow.
        """
        buffer, self._buffer = self._buffer, bytearray()
        self._closed = True
        self.view = self.cell.cell_contents = memoryview(self._buffer)
        if isinstance(buffer, mmap.mmap):
            try:
                buffer.close()
            except BufferError:  # someone still looks at it
                return
