"""The seam between store and engines: what an engine offers, and what a call into a guest answers.

A call is an `Execution`. `resume` runs the guest until something happens that the engine cannot do alone and says what:
it never awaits, knows no event loop, and raises nothing that a guest or a host function caused. One loop in the store
drives it.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from aiowasm.engine.func import FuncInst
    from aiowasm.engine.heap import ExnInst
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.errors import Trap

__all__ = ("NO_LIMIT", "Execution", "Outcome")

NO_LIMIT = (1 << 63) - 1
"""The fuel limit of a call that has none: everything is metered, always."""


class Outcome(Enum):
    """Why `Execution.resume` came back."""

    RETURNED = "returned"
    """The guest returned; `results` holds the values."""
    TRAPPED = "trapped"
    """The guest trapped; `trap` is the error. The execution is over."""
    PAUSED = "paused"
    """The slice is used up at a check point. Resume to go on."""
    HOST_CALL = "host call"
    """The guest called `host` with `arguments`; answer with `deliver` or `throw`, then resume."""
    THROWN = "thrown"
    """An exception that no frame caught is in `exception`. The execution is over."""


class Execution(Protocol):
    """One activation: a call from the host into a guest, with all guest frames below it."""

    results: tuple[object, ...]
    trap: Trap | None
    exception: ExnInst | None
    host: FuncInst | None
    arguments: tuple[object, ...]
    caller: ModuleInst | None
    consumed: int
    """Fuel used so far; exact whenever the execution is not running."""
    limit: int
    """Fuel that may be used; a check point above it traps."""

    def resume(self, slice_fuel: int) -> Outcome:
        """Run until something happens, for about *slice_fuel* units at most."""

    def deliver(self, results: tuple[object, ...]) -> None:
        """Answer a host call with *results* in engine form."""

    def throw(self, exception: ExnInst) -> None:
        """Answer a host call by throwing *exception* into the guest at that call."""
