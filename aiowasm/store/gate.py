"""The gate of an event loop: guest time per loop iteration is bounded over all guests and all stores.

A guest that uses up its slice needs the baton for the next one. There is one baton; it is kept across the holder's own
checkpoint or handed to the head of a FIFO queue, which then runs in the next iteration. Guests that finish within what
is left of the budget never queue. Locks of linkage groups are taken before the gate, never by its holder.
"""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Generator
from threading import active_count, get_ident
from time import perf_counter_ns, sleep
from typing import Any, Final, TypeVar
from weakref import WeakSet

import anyio
from anyio.lowlevel import RunVar, checkpoint, current_token

from aiowasm.store.interrupts import protect

__all__ = ("Gate", "Turn", "current_gate", "stepwise")


T = TypeVar("T")

_OFFER_NS: Final = 3_000_000
_OFFER_SECONDS: Final = 30e-6
TICK_BUDGET_NS: Final = 500_000
"""asyncio takes four iterations to answer over a socket, with a turn of a guest in each."""


class Turn:
    """Whoever takes turns at the gate; turns do, and work that is done in steps."""

    weight = 1
    turns = 1
    waiter: Any = None
    """Its place in a queue, of a group or of the gate: what has an `event` to wake it."""


class _Waiter:
    """A place in the queue; `handed` is True once the baton is this waiter's."""

    __slots__ = ("event", "handed", "turn")

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.event = anyio.Event()
        self.handed = False


class Gate:
    """The baton, its queue, and until when guests may run in this iteration: `deadline`, of `perf_counter_ns`."""

    def __init__(self, native_token: Any) -> None:
        self.native_token = native_token
        self.thread = get_ident()
        self.identity = array("Q", (self.thread,))
        """`thread` for machine code."""
        self.holder: Turn | None = None
        self.queue: deque[_Waiter] = deque()
        self.deadline = 0
        self.offered = 0

    def check(self) -> None:
        """Raise unless this is the gate of the running loop.

        Raises:
            RuntimeError: A store is used from another event loop or thread than its own.
        """
        if get_ident() != self.thread or current_token().native_token is not self.native_token:
            raise RuntimeError(
                "a store belongs to one event loop (of one process): use it there, or make another store"
            )

    def soon(self, callback: Any) -> None:
        """Call *callback* on the loop's thread; may be called from any thread."""
        call = getattr(self.native_token, "call_soon_threadsafe", None) or self.native_token.run_sync_soon
        call(callback)

    async def enter(self, turn: Turn, budget_ns: int = TICK_BUDGET_NS) -> None:
        """Wait until *turn* may run for *budget_ns*: it then holds the baton, in a new iteration of the loop.

        Cancellation: leaves the gate as it was; a baton that was handed over meanwhile is passed on.
        """
        if self.holder is None:
            self.holder = turn
            try:
                await checkpoint()
            except BaseException:
                self.release(turn)
                raise
        elif self.holder is turn and (not self.queue or turn.turns > 1):
            turn.turns -= 1
            await checkpoint()
        elif not await self._queue(turn):
            return
        now = perf_counter_ns()
        if now >= self.offered + _OFFER_NS:
            now = self._offer(now)
        self.deadline = now + budget_ns

    def _offer(self, now: int) -> int:
        """Let other threads have the GIL, if there are any, and return what time it is then.

        Loops release it in every iteration, for less than a thread takes to wake up on another core: it finds the GIL
        taken again, and waits anew, before it has waited long enough to demand it (benchmarks/fairness.py: threads).
        """
        self.offered = now
        if active_count() == 1:
            return now
        sleep(_OFFER_SECONDS)
        return perf_counter_ns()

    async def _queue(self, turn: Turn) -> bool:
        """Wait for the baton; False: woken because the turn has to leave."""
        waiter = _Waiter(turn)
        self.queue.append(waiter)
        turn.waiter = waiter
        try:
            # The holder hands over only once it has a place in the queue: nobody finds the gate free in between.
            self.release(turn)
            await waiter.event.wait()
        except BaseException:
            if get_ident() == self.thread:
                self._drop(turn, waiter)
            else:  # a coroutine that was dropped may be finalised anywhere
                self.soon(lambda: self._drop(turn, waiter))
            raise
        finally:
            turn.waiter = None
        if not waiter.handed:  # woken to leave
            self.queue.remove(waiter)
            return False
        turn.turns = turn.weight
        return True

    def _drop(self, turn: Turn, waiter: _Waiter) -> None:
        if waiter.handed:
            self.release(turn)
        else:
            self.queue.remove(waiter)

    def release(self, turn: Turn) -> None:
        """Hand the baton to the head of the queue, if *turn* has it."""
        if self.holder is not turn:
            return
        for waiter in self.queue:
            if not waiter.event.is_set():
                self.queue.remove(waiter)
                waiter.handed = True
                self.holder = waiter.turn
                waiter.event.set()
                return
        self.holder = None


_gates: WeakSet[Gate] = WeakSet()


def _forked() -> None:
    """In the child of a fork nothing runs that ran in the parent: stores refuse to be used there."""
    for gate in _gates:
        gate.thread = -1
        gate.identity[0] = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)

_gate: RunVar[Gate] = RunVar("aiowasm.gate")


def current_gate() -> Gate:
    """Return the gate of the running event loop."""
    gate = _gate.get(None)
    if gate is None:
        token = current_token().native_token
        if type(token).__module__.startswith("trio."):
            protect()
        gate = Gate(token)
        _gate.set(gate)
        _gates.add(gate)
    return gate


async def stepwise(steps: Generator[None, None, T]) -> T:
    """Run *steps* to their end, within the loop's budget for guests; return what they return.

    Cancellation: the generator is closed.
    """
    gate = current_gate()
    turn = Turn()
    try:
        while True:
            if perf_counter_ns() >= gate.deadline:
                await gate.enter(turn)
            try:
                next(steps)
            except StopIteration as stop:
                result: T = stop.value
                return result
    finally:
        steps.close()
        gate.release(turn)
