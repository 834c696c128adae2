"""Guest stacks: one mapping each, with guard pages at both ends, pooled.

From the bottom: guard page, the activation block, values (growing up), room for signal frames, return addresses
(growing down), guard page. The logical limits (slots, depth) are always reached before the two meet.

Guests that wait in a host function keep their stack, but only so many: who has waited longest has what is in use of it
copied, a few hundred bytes as a rule, and gives up the rest. Stacks hold few addresses of themselves: `put_back` lists
them, so that it can go on with any other stack.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import TYPE_CHECKING, Final, NamedTuple

from aiowasm.engine.native.layout import Activation, Saved
from aiowasm.errors import LimitError

if TYPE_CHECKING:
    from weakref import ref

    from aiowasm.engine.native.execution import NativeExecution

__all__ = ("Contents", "GuestStack", "StackPool", "protect")

_PAGE: Final = mmap.PAGESIZE
_RESERVE_NBYTES: Final = 1 << 16  # signal frames run on the current stack (11 KiB with AMX state)
_SLOT_NBYTES: Final = 16  # a v128 counts as one slot
_FRAME_NBYTES: Final = 32  # a return address; a frame that crossed instances has three more
_POOLED: Final = 16
_WAITING: Final = 128
_SP: Final = Activation.GUEST_SP // 8
_PROT_NONE: Final = 0

_libc = ctypes.CDLL(None, use_errno=True)
_mprotect = _libc.mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def protect(address: int, nbytes: int) -> bool:
    """Make pages inaccessible for good; returns whether the system refused."""
    return bool(_mprotect(address, nbytes, _PROT_NONE))


class Contents(NamedTuple):
    """What is in use of a stack: its values from `values` bytes on, its return addresses from `frames` bytes on."""

    data: bytes
    values: int
    frames: int
    activation: int
    """Where it was."""


class GuestStack:
    """Memory for one activation: `activation` is the address of its block, `values` of slot 0, `top` of its end."""

    __slots__ = (
        "_mapping",
        "activation",
        "depth",
        "longs",
        "nbytes",
        "prepared",
        "reserve",
        "slots",
        "top",
        "values",
        "view",
    )

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
        self.reserve = self.values + slots * _SLOT_NBYTES + _RESERVE_NBYTES & ~15
        """The end of the room for signal frames."""
        usable = nbytes - 2 * _PAGE
        self.longs = (ctypes.c_int64 * (usable // 8)).from_buffer(self._mapping, _PAGE)
        """All of it but the guards, as 64-bit numbers; index 0 is the start of the activation block."""
        self.view = memoryview(self.longs).cast("B")
        self.prepared = False
        """Whether the constant part of the activation block is there."""

    def contents(self, end: int) -> Contents:
        """Copy what is in use of it, if the guest has left and no slot from address *end* on is in use."""
        view = self.view
        data = view[: Activation.STATE_NBYTES].tobytes() + view[Activation.NBYTES : end - self.activation].tobytes()
        frames = len(data)
        data += view[self.longs[_SP] - self.activation :].tobytes()
        return Contents(data, Activation.STATE_NBYTES, frames, self.activation)

    def put_back(self, contents: Contents) -> int:
        """Take over what was in use of another stack of this size; returns how far addresses have moved."""
        data, start, frames, activation = contents
        view, longs = self.view, self.longs
        at = self.top - self.activation - (len(data) - frames)
        view[:start] = data[:start]
        view[Activation.NBYTES : Activation.NBYTES + frames - start] = data[start:frames]
        view[at:] = data[frames:]
        moved = self.activation - activation
        sp = at >> 3
        for index in (_SP, Activation.FRAME // 8, Activation.DEPTH_LIMIT // 8, sp + Saved.ACTIVATION, sp + Saved.FRAME):
            longs[index] += moved
        return moved


class StackPool:
    """The stacks of an engine. Stale contents are never read: generated code writes a slot before it reads it.

    `waiting` are those of guests that wait in a host function, the longest first, with the executions they belong to.
    """

    def __init__(self) -> None:
        self._free: list[GuestStack] = []
        self.waiting: dict[GuestStack, ref[NativeExecution]] = {}

    def take(self, slots: int, depth: int) -> GuestStack:
        """Return a stack for the given logical limits.

        Raises:
            LimitError: If the system refuses the memory.
        """
        free = self._free
        for at in range(len(free) - 1, -1, -1):
            if free[at].slots == slots and free[at].depth == depth:
                return free.pop(at)
        stack = self._reclaim(slots, depth, _WAITING)
        if stack is not None:
            return stack
        try:
            return GuestStack(slots, depth)
        except LimitError:
            stack = self._reclaim(slots, depth, 0)
            if stack is None:
                raise
            return stack

    def _reclaim(self, slots: int, depth: int, count: int) -> GuestStack | None:
        """Take a stack of the given size from who has waited longest, if more than *count* - 1 guests wait.

        Stacks of other sizes are in the way: they are freed.
        """
        while self.waiting and len(self.waiting) >= count:
            fitting = (stack for stack in list(self.waiting) if stack.slots == slots and stack.depth == depth)
            stack = next(fitting, None) or next(iter(self.waiting))
            execution = self.waiting.pop(stack)()
            if execution is None:  # being finalised, which gives the stack back
                continue
            execution.put_aside()
            if stack.slots == slots and stack.depth == depth:
                return stack
        return None

    def give(self, stack: GuestStack) -> None:
        """Take back a stack."""
        if len(self._free) < _POOLED:
            self._free.append(stack)
