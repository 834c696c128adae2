"""Guest stacks: one mapping each, with guard pages at both ends, pooled.

From the bottom: guard page, the activation block, values (growing up), room for signal frames, return addresses
(growing down), guard page. The logical limits (slots, depth) are always reached before the two meet.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Final

from aiowasm.engine.native.layout import Activation
from aiowasm.errors import LimitError

__all__ = ("GuestStack", "StackPool", "protect")

_PAGE: Final = mmap.PAGESIZE
_RESERVE_NBYTES: Final = 1 << 16  # signal frames run on the current stack (11 KiB with AMX state)
_SLOT_NBYTES: Final = 16  # a v128 counts as one slot
_FRAME_NBYTES: Final = 32  # a return address; a frame that crossed instances has three more
_POOLED: Final = 64
_PROT_NONE: Final = 0

_libc = ctypes.CDLL(None, use_errno=True)
_mprotect = _libc.mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def protect(address: int, nbytes: int) -> bool:
    """Make pages inaccessible for good; returns whether the system refused."""
    return bool(_mprotect(address, nbytes, _PROT_NONE))


class GuestStack:
    """Memory for one activation: `activation` is the address of its block, `values` of slot 0, `top` of its end."""

    __slots__ = ("_mapping", "activation", "depth", "longs", "nbytes", "prepared", "slots", "top", "values", "view")

    def __init__(self, slots: int, depth: int) -> None:
        used = Activation.NBYTES + slots * _SLOT_NBYTES + _RESERVE_NBYTES + depth * _FRAME_NBYTES
        nbytes = 2 * _PAGE + -(-used // _PAGE) * _PAGE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        try:
            self._mapping = mmap.mmap(-1, nbytes, flags=flags)
        except (OSError, OverflowError, ValueError, MemoryError) as error:
            raise LimitError(f"cannot allocate a guest stack of {nbytes} bytes", limit="stack_slots") from error
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))
        for guard in (base, base + nbytes - _PAGE):
            if protect(guard, _PAGE):
                raise LimitError("cannot protect a guest stack", limit="stack_slots")
        self.slots = slots
        self.depth = depth
        self.nbytes = nbytes
        self.activation = base + _PAGE
        self.values = self.activation + Activation.NBYTES
        self.top = base + nbytes - _PAGE
        usable = nbytes - 2 * _PAGE
        self.longs = (ctypes.c_int64 * (usable // 8)).from_buffer(self._mapping, _PAGE)
        """All of it but the guards, as 64-bit numbers; index 0 is the start of the activation block."""
        self.view = memoryview(self.longs).cast("B")
        self.prepared = False
        """Whether the constant part of the activation block is there."""


class StackPool:
    """Stacks that are not in use. Stale contents are never read: generated code writes a slot before it reads it."""

    def __init__(self) -> None:
        self._free: list[GuestStack] = []

    def take(self, slots: int, depth: int) -> GuestStack:
        """Return a stack for the given logical limits.

        Raises:
            LimitError: If the system refuses the memory.
        """
        free = self._free
        for at in range(len(free) - 1, -1, -1):
            if free[at].slots == slots and free[at].depth == depth:
                return free.pop(at)
        return GuestStack(slots, depth)

    def give(self, stack: GuestStack) -> None:
        """Take back a stack."""
        if len(self._free) < _POOLED:
            self._free.append(stack)
