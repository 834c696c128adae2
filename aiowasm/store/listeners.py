"""Listeners: observers of calls across the border of guests, of yields, growth and closing.

They are chosen when a module is instantiated; an instance without listeners pays nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiowasm.engine.func import FuncInst
    from aiowasm.store.activation import Activation
    from aiowasm.store.instance import Instance

__all__ = ("Hearing", "Listener", "Listeners")


class Listener:
    """Base class of listeners: override what you want to hear. What a listener raises goes to the caller."""

    def select(self, function: Any) -> bool:
        """Whether to hear of calls of *function*; asked once, before the first of them."""
        return True

    def before(self, function: Any, arguments: tuple[Any, ...]) -> None:
        """*function* is about to run."""

    def after(self, function: Any, results: Any) -> None:
        """*function* has returned."""

    def abort(self, function: Any, error: BaseException) -> None:
        """*function* has ended with *error*."""

    def host_call(self, function: Any) -> None:
        """A guest calls the host function *function*."""

    def yielded(self, instance: Instance, fuel: int) -> None:
        """A call of *instance* lets other tasks run, having used *fuel* units since the last time."""

    def grew(self, instance: Instance, what: Any, old: int, new: int) -> None:
        """A memory (in pages) or a table (in elements) of *instance* has grown."""

    def close(self, instance: Instance, exit_code: int) -> None:
        """*instance* is closed."""


class Listeners:
    """The listeners of one instance."""

    __slots__ = ("_selected", "instance", "listeners")

    def __init__(self, instance: Instance, listeners: Sequence[Listener]) -> None:
        self.instance = instance
        self.listeners = tuple(listeners)
        self._selected: dict[FuncInst, tuple[Listener, ...]] = {}

    def of(self, func: FuncInst) -> tuple[Listener, ...]:
        """Return those that want to hear of *func*."""
        selected = self._selected.get(func)
        if selected is None:
            handle = self.instance.store.handle(func)
            selected = tuple(listener for listener in self.listeners if listener.select(handle))
            self._selected[func] = selected
        return selected

    def host_call(self, func: FuncInst) -> None:
        """Tell of a host call."""
        for listener in self.of(func):
            listener.host_call(self.instance.store.handle(func))

    def grew(self, entity: Any, old: int, new: int) -> None:
        """Tell of growth."""
        for listener in self.listeners:
            listener.grew(self.instance, self.instance.store.handle(entity), old, new)

    def close(self, instance: Instance, exit_code: int) -> None:
        """Tell of closing."""
        for listener in self.listeners:
            listener.close(instance, exit_code)

    def yielded(self, activation: Activation) -> None:
        """Tell of a pause."""
        used = activation.accounted - activation.told
        activation.told = activation.accounted
        for listener in self.listeners:
            listener.yielded(self.instance, used)


class Hearing:
    """Around one call: its listeners hear of it before and after. `results` is what it returns."""

    __slots__ = ("_arguments", "_function", "_selected", "results")

    def __init__(self, listeners: Listeners | None, func: FuncInst, arguments: tuple[Any, ...]) -> None:
        self._selected = () if listeners is None else listeners.of(func)
        if listeners is not None and self._selected:
            self._function = listeners.instance.store.handle(func)
        self._arguments = arguments
        self.results: Any = None

    def __enter__(self) -> Hearing:
        for listener in self._selected:
            listener.before(self._function, self._arguments)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for listener in self._selected:
            if error is None:
                listener.after(self._function, self.results)
            else:
                listener.abort(self._function, error)
