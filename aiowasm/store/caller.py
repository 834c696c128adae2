"""What a host function sees of the instance that calls it: the optional first parameter that annotations name.

Everything here is valid while the host function runs; `lend` hands the right to call back to another task.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from aiowasm.errors import ExitError
from aiowasm.store.activation import CURRENT, Activation

if TYPE_CHECKING:
    from aiowasm.store.handles import Memory
    from aiowasm.store.instance import Instance

__all__ = ("Caller", "Loan")

D = TypeVar("D")


class Caller(Generic[D]):
    """The calling instance, as the optional first parameter of a host function. `D` is the type of the store's data."""

    __slots__ = ("_activation", "instance")

    def __init__(self, activation: Activation, instance: Instance) -> None:
        self._activation = activation
        self.instance = instance
        """The instance whose code called (the host module's own if the host called it directly)."""

    @property
    def memory(self) -> Memory:
        """Memory 0 of the calling instance.

        Raises:
            LookupError: It has none.
        """
        memory = self.instance.memory
        if memory is None:
            raise LookupError("the calling instance has no memory")
        return memory

    @property
    def data(self) -> D:
        """What the application gave the namespace or, without that, the store."""
        return self.instance.namespace.data  # type: ignore[no-any-return]

    async def call(self, name: str, *arguments: Any, fuel: int | None = None, timeout: float | None = None) -> Any:
        """Call an export of the calling instance, nested in this host call; also from a task it did not start."""
        return await self.instance.call_from(self._activation, name, arguments, fuel, timeout)

    def call_sync(self, name: str, *arguments: Any) -> Any:
        """Call an export of the calling instance without waiting, for at most `Limits.sync_fuel`.

        Raises:
            WouldBlock: The guest has to wait, or needs more fuel.
        """
        return self.instance.call_from_now(self._activation, name, arguments)

    nowait = call_sync

    def consume_fuel(self, units: int) -> None:
        """Charge *units* for what the host function does; the guest traps at its next check point if they are too many.

        Raises:
            ValueError: *units* is negative.
        """
        if units < 0:
            raise ValueError(f"fuel must not be negative, got {units}")
        if self._activation.execution is not None:
            self._activation.execution.charge(units)

    def lend(self) -> Loan:
        """Return a context manager under which another task makes nested calls for this host call.

        Tasks that the host function starts need none: they inherit the right.
        """
        return Loan(self._activation)

    def exit(self, exit_code: int) -> NoReturn:
        """End the guest: close every instance with a frame in this call, and raise ExitError.

        This is WASI's proc_exit.
        """
        exit_code &= 0xFFFF_FFFF
        for instance in (self.instance, *self._activation.live_instances()):
            instance.shut(exit_code, "exit")
        raise ExitError(exit_code, "exit")

    def yield_soon(self) -> None:
        """Let other tasks run once this host function, a `def`, has returned (WASI's sched_yield)."""
        self._activation.stopping = True


class Loan:
    """The right to make calls nested in a host call; see `Caller.lend`. Usable once at a time."""

    __slots__ = ("_activation", "_previous")

    def __init__(self, activation: Activation) -> None:
        self._activation = activation
        self._previous: Activation | None = None

    def __enter__(self) -> Loan:
        self._previous = CURRENT.get()
        CURRENT.set(self._activation)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        CURRENT.set(self._previous)
