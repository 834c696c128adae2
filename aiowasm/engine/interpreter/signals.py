"""What is raised to leave running guest code: signals between generated code, the direct interpreter and the machine.

None is an error and none leaves the machine. Whoever raises one has nothing to put away: frames are read from the
traceback (see `capture`).
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiowasm.engine.func import FuncInst
    from aiowasm.engine.heap import Reference
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.engine.interpreter.code import FunctionCode
    from aiowasm.engine.memory import MemInst, Waiter
    from aiowasm.engine.table import TableInst

__all__ = ("Ask", "Bulk", "Deep", "Failed", "Leave", "Load", "Promote", "Suspend", "Tail", "WaitFor")


class _Signal(Exception):  # noqa: N818 - no signal is an error
    """Any of them."""


class Suspend(_Signal):
    """The slice is used up at a check point."""


class Deep(_Signal):
    """The callee does not fit on this Python stack; nothing of it has happened yet."""


class Load(_Signal):
    """The callee is not ready and too large to be made ready at once; nothing of it has happened yet."""

    def __init__(self, func: FuncInst, arguments: tuple[Any, ...]) -> None:
        super().__init__()
        self.func = func
        self.arguments = arguments


class Promote(_Signal):
    """The innermost frame has become hot at a loop header: it can go on in generated code."""

    def __init__(self, code: FunctionCode) -> None:
        super().__init__()
        self.code = code


class Leave(_Signal):
    """A host function that cannot be called here."""

    def __init__(self, func: FuncInst, arguments: tuple[Any, ...], caller: ModuleInst | None) -> None:
        super().__init__()
        self.func = func
        self.arguments = arguments
        self.caller = caller


class Ask(_Signal):
    """A growth that needs leave; `units` of fuel are charged once it is granted."""

    def __init__(self, entity: MemInst | TableInst, delta: int, init: Reference, units: int) -> None:
        super().__init__()
        self.entity = entity
        self.delta = delta
        self.init = init
        self.units = units


class WaitFor(_Signal):
    """memory.atomic.wait."""

    def __init__(self, waiter: Waiter, timeout_ns: int) -> None:
        super().__init__()
        self.waiter = waiter
        self.timeout_ns = timeout_ns


class Bulk(_Signal):
    """A bulk instruction too long for one step: checked and charged, to be done by exhausting `chunks`."""

    def __init__(self, chunks: Generator[None, None, None]) -> None:
        super().__init__()
        self.chunks = chunks


class Failed(BaseException):
    """Carries an error that is no trap past every handler: a host function's, a closed instance's, an invalid body's.

    A BaseException, so that `except Exception` in a host function's wrapper cannot take it for its own.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class Tail:
    """Returned by a function that ends in a tail call: whoever called it calls *func* now."""

    __slots__ = ("arguments", "func")

    def __init__(self, func: FuncInst, arguments: tuple[Any, ...]) -> None:
        self.func = func
        self.arguments = arguments
