"""Linkage groups: instances that share state, and the lock that keeps their activations apart.

A group has a stack of activations, each nested in a host call of the one below; all others wait in one FIFO queue. An
activation may go on top if the stack is empty, or if the top one is inside a host call from which this call came.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import count
from threading import get_ident
from typing import TYPE_CHECKING

import anyio

from aiowasm.errors import LimitError, ReentrancyError
from aiowasm.store.activation import Activation, alive

if TYPE_CHECKING:
    from aiowasm.store.instance import Instance

__all__ = ("Group", "merge")

_arrival = count()
_serial = count()


class _Waiter:
    """A place in a group's queue. `granted` is True once the activation is on the stack."""

    __slots__ = ("activation", "arrived", "event", "granted")

    def __init__(self, activation: Activation) -> None:
        self.activation = activation
        self.arrived = next(_arrival)
        self.event = anyio.Event()
        self.granted = False


class Group:
    """The members, the stack of activations that hold the group, and who waits for it."""

    __slots__ = ("leaving", "members", "parked", "queue", "serial", "stack")

    def __init__(self, member: Instance) -> None:
        # An empty deque takes 600 bytes, a set 200, and most groups have one member and nobody who waits.
        self.serial = next(_serial)
        """The order in which the locks of several groups are taken."""
        self.members: Collection[Instance] = (member,)
        self.stack: list[Activation] = []
        self.queue: list[_Waiter] = []
        self.parked: tuple[Activation, ...] = ()
        """Activations that have given the group away while they are in a host function."""
        self.leaving: tuple[Instance, ...] = ()
        """Members that are closed while activations with frames in them have not left yet."""

    def admits(self, activation: Activation) -> bool:
        """Whether *activation* may go on top of the stack now."""
        if not self.stack:
            return True
        top = self.stack[-1]
        # In a `def` host function only calls that end before it does have a place: no others above code that runs.
        inside = top.in_host if activation.sync_fuel is not None else top.awaits_host
        # It may wait for nested calls that gave the group away, and those for calls nested in them.
        inside = inside or top.awaits_nested
        return inside and activation.descends_from(top)

    def try_enter(self, activation: Activation) -> bool:
        """Put *activation* on the stack if nobody is before it; a nested call passes those who wait for the stack."""
        if not self.admits(activation) or (self.queue and not self.stack):
            return False
        self._push(activation)
        return True

    def _push(self, activation: Activation) -> None:
        self.stack.append(activation)
        activation.groups = (*activation.groups, self)
        parent = activation.parent = alive(activation.parent)
        if parent is not None and activation not in (parent.children or ()):
            # From now on, whether it has begun or not: the call below must not go on while this is above it.
            parent.children = [*(parent.children or ()), activation]

    async def enter(self, activation: Activation, max_waiters: int) -> bool:
        """Wait for a place on the stack; False: woken because the instance it wants is closed.

        The group may have been merged into another meanwhile; the place is then one in that.

        Cancellation: the place in the queue is given up; a place on the stack that was granted meanwhile too.

        Raises:
            LimitError: Too many wait already.
            ReentrancyError: Whoever holds the group waits for what this call's own chain holds.
        """
        if len(self.queue) >= max_waiters:
            raise LimitError(f"more than {max_waiters} callers wait for one group of instances", limit="waiters")
        if self._closes_cycle(activation):
            raise ReentrancyError("the call would wait for itself: its group is held by a call that waits for this one")
        waiter = _Waiter(activation)
        self.queue.append(waiter)
        activation.waits_for = self
        activation.waiter = waiter
        parent = activation.parent
        if parent is not None:
            parent.blocked = [*(parent.blocked or ()), activation]
        try:
            seconds = activation.store.deadlock_timeout_seconds
            if seconds is None:
                await waiter.event.wait()
            else:
                with anyio.move_on_after(seconds):
                    await waiter.event.wait()
                if not waiter.event.is_set():
                    raise ReentrancyError(f"the call has waited {seconds} s for its group: {self._described()}")
        except BaseException:
            if get_ident() == activation.gate.thread:
                activation.waits_for._drop(activation, waiter)
            else:  # a coroutine that was dropped may be finalised anywhere
                group = activation.waits_for
                activation.store.soon(lambda: group._drop(activation, waiter))
            raise
        else:
            if not waiter.granted:
                activation.waits_for._give_up(waiter)
            return waiter.granted
        finally:
            activation.waiter = None
            activation.waits_for = None
            if parent is not None and parent.blocked is not None:
                parent.blocked.remove(activation)

    def _drop(self, activation: Activation, waiter: _Waiter) -> None:
        if waiter.granted:
            self.leave(activation)
        else:
            self._give_up(waiter)

    def _give_up(self, waiter: _Waiter) -> None:
        """Leave the queue. Those behind may have come while the stack was free already."""
        self.queue.remove(waiter)
        self.wake()

    def _described(self) -> str:
        return ", ".join(f"{holder!r} holds it" for holder in self.stack) or "nobody holds it"

    def _closes_cycle(self, activation: Activation) -> bool:
        """Whether a holder of this group is kept from leaving by a call that waits for what *activation* holds."""
        seen: set[Group] = set()
        pending: list[Group] = [self]
        while pending:
            group = pending.pop()
            if group in seen:
                continue
            seen.add(group)
            for holder in group.stack:
                if group is not self and activation.descends_from(holder):
                    return True
                pending.extend(holder.waited_for())
        return False

    def leave(self, activation: Activation) -> None:
        """Take *activation* off the stack and let in who may come next."""
        self._take_off(activation)
        if not activation.groups:
            activation.over()
        self.left()

    def _take_off(self, activation: Activation) -> None:
        self.stack.remove(activation)
        if activation.groups:
            activation.groups = tuple(group for group in activation.groups if group is not self)

    def left(self) -> None:
        """Let in who may come next, and free who could not be while a call had frames there."""
        if self.queue:
            self.wake()
        if self.leaving:
            self.free()

    def park(self, activation: Activation) -> None:
        """Let others in while *activation* is in a host function; its frames stay."""
        self.parked = (*self.parked, activation)
        self._take_off(activation)
        self.left()

    def unpark(self, activation: Activation) -> None:
        """*activation* has the group again, or is over."""
        self.parked = tuple(parked for parked in self.parked if parked is not activation)

    def remove(self, member: Instance) -> None:
        """*member* is closed and shares nothing any more."""
        if isinstance(self.members, set):
            self.members.discard(member)
        elif member in self.members:
            self.members = ()

    def wake(self) -> None:
        """Grant a place to the first waiter that may have it."""
        for waiter in self.queue:
            if not waiter.event.is_set() and self.admits(waiter.activation):
                self.queue.remove(waiter)
                waiter.granted = True
                self._push(waiter.activation)
                waiter.event.set()
                return

    def free(self) -> None:
        """Free the members that are closed and no longer have frames."""
        free = [member for member in self.leaving if not self.has_frames(member)]
        if free:
            self.leaving = tuple(member for member in self.leaving if member not in free)
        for instance in free:
            instance.free()

    def has_frames(self, instance: Instance) -> bool:
        """Whether an activation has a frame in *instance*."""
        return any(activation.runs_in(instance) for activation in (*self.stack, *self.parked))


def merge(groups: list[Group]) -> Group:
    """Make one group of *groups*, which their caller holds all: the largest takes in the others."""
    target = max(groups, key=lambda group: len(group.members))
    for group in groups:
        if group is target:
            continue
        for instance in group.members:
            instance.group = target
            if instance.guard is not None and instance.plain:
                instance.guard.open(target.stack, target.queue)
        if not isinstance(target.members, set):
            target.members = set(target.members)
        target.members.update(group.members)
        target.leaving += group.leaving
        target.stack.extend(activation for activation in group.stack if activation not in target.stack)
        target.queue.extend(group.queue)
        for parked in group.parked:
            parked.parked = target
        target.parked += group.parked
        for waiter in group.queue:
            waiter.activation.waits_for = target
        for activation in group.stack:
            if activation.groups:
                renamed = (target if held is group else held for held in activation.groups)
                activation.groups = tuple(dict.fromkeys(renamed))
        group.members = group.leaving = group.parked = ()
        group.stack, group.queue = [], []
    target.stack.sort(key=lambda activation: activation.depth)
    target.queue.sort(key=lambda waiter: waiter.arrived)
    return target
