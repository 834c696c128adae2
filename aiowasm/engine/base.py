"""The seam between store and engines: what an engine offers, and what a call into a guest answers.

A call is an `Execution`. `resume` runs the guest until something happens that the engine cannot do alone and says what:
it never awaits, knows no event loop, and raises nothing that a guest or a host function caused. One loop in the store
drives it.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable, Collection
    from contextvars import ContextVar

    from aiowasm.engine.func import FuncInst
    from aiowasm.engine.global_ import GlobalInst
    from aiowasm.engine.heap import ExnInst, Reference
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.engine.memory import MemInst
    from aiowasm.engine.table import TableInst
    from aiowasm.errors import FrameInfo, Trap
    from aiowasm.syntax.steps import Steps
    from aiowasm.syntax.types import GlobalType, MemType, TableType
    from aiowasm.validation.module import ValidatedModule

__all__ = (
    "NO_LIMIT",
    "DirectEngine",
    "Engine",
    "Execution",
    "Guard",
    "HostReturned",
    "HostWaits",
    "Outcome",
    "Thrown",
    "Unfinished",
)

NO_LIMIT = (1 << 63) - 1
"""The fuel limit of a call that has none: everything is metered, always."""


class Outcome(Enum):
    """Why `Execution.resume` came back."""

    RETURNED = "returned"
    """The guest returned; `results` holds the values."""
    TRAPPED = "trapped"
    """The guest trapped; `trap` is the error. The execution is over."""
    PAUSED = "paused"
    """The slice is used up at a check point, or a step of something long is done. Resume to go on."""
    HOST_CALL = "host call"
    """The guest called `host`, which cannot be called here; answer with `deliver` or `throw`, then resume."""
    GROW = "grow"
    """`arguments` is (memory or table, delta, initial element): an entity whose `asks` is set; deliver the previous
    size, or -1, after growing it."""
    WAIT = "wait"
    """`arguments` is (waiter, timeout in ns or -1): memory.atomic.wait; deliver 0 (woken) or 2 (timed out)."""
    THROWN = "thrown"
    """An exception that no frame caught is in `exception`. The execution is over."""
    FAILED = "failed"
    """`error` is what a host function raised, or a closed instance, an invalid function. The execution is over."""


class Thrown(Exception):  # noqa: N818 - a signal of the standard's `throw`, not an error
    """Raised by a `FuncInst.host` to throw `exception` into the guest that called it."""

    def __init__(self, exception: ExnInst) -> None:
        super().__init__(exception)
        self.exception = exception


class HostReturned(Exception):  # noqa: N818 - a signal
    """Raised by a `FuncInst.host` to return `result` (in its return form) and pause the execution right there.

    `count`, the number of results, is the engine's to fill in.
    """

    def __init__(self, result: object) -> None:
        super().__init__(result)
        self.result = result
        self.count = 0


class HostWaits(Exception):  # noqa: N818 - a signal
    """Raised by a `FuncInst.host` that has to wait after all: the outcome is HOST_CALL, as without `host`.

    Only for engines whose `defers_host_calls` is True.
    """


class Execution(Protocol):
    """One activation: a call from the host into a guest, with all guest frames below it.

    Values are in engine form. Nothing about it is kept in an instance: any number can be alive, resumed in any order.
    """

    results: tuple[Any, ...]
    trap: Trap | None
    exception: ExnInst | None
    error: BaseException | None
    host: FuncInst | None
    arguments: tuple[Any, ...]
    caller: ModuleInst | None
    limit: int
    """Fuel that may be used; a check point above it traps. May be changed whenever the guest is not running."""

    @property
    def consumed(self) -> int:
        """Fuel used so far; exact whenever guest code is not running, inside a host function too."""

    def resume(self, slice_fuel: int) -> Outcome:
        """Run until something happens, for about *slice_fuel* units at most.

        A `FuncInst.host` is called inside; what it raises is in `error` (FAILED), but for `Thrown` and `HostReturned`.
        """

    def deliver(self, results: tuple[Any, ...]) -> None:
        """Answer HOST_CALL, GROW or WAIT with *results*."""

    def throw(self, exception: ExnInst) -> None:
        """Answer HOST_CALL by throwing *exception* into the guest at that call."""

    def charge(self, units: int) -> None:
        """Add *units* to `consumed` (the price of host functions); the next check point compares with the limit."""

    def frames(self) -> tuple[FrameInfo, ...]:
        """Return the guest frames, innermost first; also inside a host function, and of what ended with FAILED."""

    def instances(self) -> Collection[ModuleInst]:
        """Return the instances that have a live frame."""

    def discard(self) -> None:
        """Drop all frames and give back what they hold; no guest code runs.

        Idempotent; allowed whenever the guest is not running.
        """


class Unfinished:
    """What a direct call returns that has no result: `execution` goes on, or is None if nothing has happened yet."""

    __slots__ = ("execution",)

    def __init__(self, execution: Execution | None) -> None:
        self.execution = execution


class Engine(Protocol):
    """What runs the functions of module instances. One belongs to one store: one guest of it runs at a time."""

    name: str

    def missing(self, validated: ValidatedModule) -> str | None:
        """Return the name of a feature of *validated* that this engine lacks, or None."""

    def memory(self, memtype: MemType, max_nbytes: int) -> MemInst:
        """Return a new memory that instances of this engine can use."""

    def table(self, tabletype: TableType, init: Reference, max_elements: int) -> TableInst:
        """Return a new table that instances of this engine can use."""

    def global_(self, globaltype: GlobalType, value: Any) -> GlobalInst:
        """Return a new global that instances of this engine can use."""

    def prepare_steps(self, validated: ValidatedModule) -> Steps[None]:
        """Make ready what all instances of a module share, before anything of an instance is made."""

    def bind_steps(self, instance: ModuleInst) -> Steps[None]:
        """Make the functions of a newly allocated *instance* callable; no code is compiled yet."""

    def call(
        self, func: FuncInst, arguments: tuple[Any, ...], *, limit: int, call_depth: int, stack_slots: int
    ) -> Execution:
        """Return an execution of *func*, not started."""

    def close(self, instance: ModuleInst, error: Exception) -> None:
        """Make every later call of the functions of *instance* end with FAILED and *error*, also calls from guests."""


class Guard(Protocol):
    """Whether direct calls of an instance may begin; else they answer `Unfinished(None)`. It is closed at first."""

    def open(self, first: list[Any], second: list[Any]) -> None:
        """Let them begin while both lists are empty."""

    def close(self) -> None:
        """Let none begin any more."""

    def take(self) -> int:
        """Return the fuel that those have used which returned, since the last time."""


class DirectEngine(Engine, Protocol):
    """An engine whose guests can be called without an execution, as long as they do nothing unusual.

    Engines need not have this: ask for `direct` with getattr.
    """

    def guard(self, thread: array[int], variable: ContextVar[Any]) -> Guard:
        """Return a guard: calls begin only in *thread* (an identity, in an array of one) and if *variable* is None."""

    def direct(
        self, func: FuncInst, guard: Any, *, units: int, call_depth: int, stack_slots: int
    ) -> Callable[..., Any] | None:
        """Return a function for calls of *func* with values in host form, or None if there can be none.

        It returns the result in host form, or `Unfinished`: arguments that need more than copying, whatever *guard*
        forbids, a guest that has not returned with *units* of fuel, calls the host, traps. It never lets go of the GIL.
        """
