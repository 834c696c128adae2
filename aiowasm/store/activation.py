"""Activations: one call into a guest each, with what it holds. How they run is `aiowasm.store.drive`."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Sequence
from contextvars import ContextVar
from enum import Enum
from typing import TYPE_CHECKING, Any

from aiowasm.engine.base import Execution
from aiowasm.store.gate import Gate, Turn

if TYPE_CHECKING:
    import anyio

    from aiowasm.engine.global_ import GlobalInst
    from aiowasm.errors import ExitError
    from aiowasm.store.caller import Caller
    from aiowasm.store.group import Group
    from aiowasm.store.instance import Instance
    from aiowasm.store.store import Store

__all__ = ("CURRENT", "MAX_NESTED", "MAX_NESTED_SYNC", "Activation", "State", "alive")

MAX_NESTED = 64
"""How deep guest-host-guest calls may nest; each costs frames of Python."""
MAX_NESTED_SYNC = 8
"""How deep those may nest that are synchronous: they nest on Python's own stack."""


class State(Enum):
    """Where an activation is."""

    QUEUED = "queued"
    RUNNING = "running"
    YIELDED = "yielded"
    IN_HOST = "in host"
    LIMITER = "limiter"
    DONE = "done"


class Activation(Turn):
    """A call into a guest, or an instantiation. The task that made it runs it.

    Most fields stay at what the class says: a call that neither waits nor nests sets few of them.
    """

    execution: Execution | None = None
    depth = 0
    sync_depth = 0
    state = State.QUEUED
    in_host = False
    """Whether a host function that it called is running: the only time when nested calls may begin."""
    stopping = False
    """Whether the guest must stop at its next chance: it was closed, or asked to yield."""
    exit: ExitError | None = None
    """Set by whoever closes an instance that has a frame in it."""
    abandoned = False
    """Whether its coroutine was dropped in another thread, and the loop's own thread still has to clean up."""
    deferred: Awaitable[Any] | None = None
    """What a host function that was called inside the engine has left to await."""
    scope: anyio.CancelScope | None = None
    """Around host functions that are awaited, so that closing can cancel them."""
    accounted = 0
    """How much of the execution's fuel has been charged to the tanks."""
    told = 0
    """`accounted` when listeners last heard of it."""
    resumed_at = 0
    """`accounted` when it was last resumed."""
    looked_at = -(1 << 62)
    """`slice_start` when `deadline` was last looked up."""
    slice_start = 0
    slice_end = 0
    deadline = float("inf")
    """The effective deadline of the task at the last suspension."""
    waits_for: Any = None
    """The group it waits for."""
    children: list[Activation] | None = None
    """Calls nested in it that hold a group: it goes on when they have ended."""
    blocked: list[Activation] | None = None
    """Calls nested in it that wait for a group."""
    ended: anyio.Event | None = None
    """Set when a nested call ends, if someone waits for that."""
    caller: Caller[Any] | None = None
    sync_fuel: int | None = None
    """For a synchronous call: the execution's fuel at which it would block."""
    stack_pointers: Sequence[tuple[GlobalInst, Any]] = ()
    """Shadow stack pointers and what they were at the start, if they are to be put back."""
    groups: tuple[Group, ...] = ()
    """The groups it holds; a call that found its group free does not say so."""
    parked: Group | None = None
    """The group that it has given away while it is in a host function (interleave)."""
    gate: Gate

    def __init__(self, store: Store[Any], instance: Instance, parent: Activation | None) -> None:
        self.store = store
        self.instance = instance
        self.parent = parent
        self.tanks = instance.tanks
        if parent is not None:
            self.depth = parent.depth + 1
            self.sync_depth = parent.sync_depth
            if parent.in_host:
                self.tanks = parent.tanks

    def descends_from(self, other: Activation) -> bool:
        """Whether this is *other* or was called, however indirectly, by a host function of it."""
        activation: Activation | None = self
        while activation is not None:
            if activation is other:
                return True
            activation = activation.parent
        return False

    def runs_in(self, instance: Instance) -> bool:
        """Whether it has a frame in *instance*, or is about to start there."""
        execution = self.execution
        if execution is None or self.state is State.QUEUED:
            return self.instance is instance
        return instance.core is not None and instance.core in execution.instances()

    def __repr__(self) -> str:
        return f"<Activation of {self.instance!r}: {self.state.value}>"

    def in_limiter(self) -> bool:
        """Whether it is nested in a callback that decides on growth or fuel."""
        activation = self.parent
        while activation is not None:
            if activation.state is State.LIMITER:
                return True
            activation = activation.parent
        return False

    def waited_for(self) -> Iterator[Group]:
        """Yield the groups that this and the calls nested in it wait for."""
        if self.waits_for is not None:
            yield self.waits_for
        for nested in (*(self.children or ()), *(self.blocked or ())):
            yield from nested.waited_for()

    @property
    def awaits_host(self) -> bool:
        """Whether it waits for a host function: calls that may wait themselves can be nested in it now."""
        return self.in_host and self.state is not State.RUNNING

    @property
    def awaits_nested(self) -> bool:
        """Whether its host function is done, and calls that are nested in it are not."""
        return self.ended is not None and not self.in_host and bool(self.children)

    def over(self) -> None:
        """Tell the call that this one is nested in that it holds nothing any more.

        Calls that are left, because a host function has failed around them, are nested in that one from now on.
        """
        parent = self.parent
        left, self.children = self.children or (), None
        for nested in left:
            nested.parent = parent
        if parent is not None and parent.children is not None and self in parent.children:
            parent.children = [*(nested for nested in parent.children if nested is not self), *left]
            if parent.ended is not None:
                parent.ended.set()

    def live_instances(self) -> list[Instance]:
        """Return the instances that have a live frame in it."""
        if self.execution is None:
            return []
        return [core.owner for core in self.execution.instances() if core.owner is not None]  # type: ignore[misc]

    def stop(self, error: ExitError) -> None:
        """Make it end with *error* at its next safe point; wake it if it waits."""
        if self.exit is None:
            self.exit = error
        self.stopping = True
        if self.waiter is not None:
            self.waiter.event.set()
        if self.scope is not None and self.in_host:
            self.scope.cancel()


CURRENT: ContextVar[Activation | None] = ContextVar("aiowasm.activation", default=None)
"""The activation that a task works for: flows into the tasks and threads that its host functions start."""


def alive(activation: Activation | None) -> Activation | None:
    """Return the nearest of *activation* and its parents that is not over: a token of what is over says nothing."""
    while activation is not None and activation.state is State.DONE:
        activation = activation.parent
    return activation
