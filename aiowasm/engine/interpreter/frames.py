"""Explicit frames: the state of a guest that is not running, as plain data.

A `Frame` belongs to the direct interpreter, a `CodeFrame` to generated code, an `Entry` is a call that has not begun.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiowasm.engine.func import FuncInst
    from aiowasm.engine.heap import ExnInst
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.engine.interpreter.code import FunctionCode
    from aiowasm.engine.interpreter.prepare import Prepared

__all__ = ("AnyFrame", "CodeFrame", "Entry", "Frame", "Operands")


class Operands:
    """An operand stack for a rule outside a frame."""

    __slots__ = ("instance", "stack")

    def __init__(self, instance: ModuleInst, stack: list[Any]) -> None:
        self.instance = instance
        self.stack = stack


class Frame:
    """A frame of the direct interpreter: where it goes on in the prepared code, its locals and operands."""

    __slots__ = ("caught", "code", "func", "instance", "locals", "pc", "prepared", "stack")

    def __init__(self, func: FuncInst, instance: ModuleInst, code: FunctionCode, arguments: Any) -> None:
        self.func = func
        self.instance = instance
        self.code = code
        self.prepared: Prepared = code.prepared  # type: ignore[assignment]
        self.pc = 0
        self.locals: list[Any] = [*arguments, *code.zeros]
        self.stack: list[Any] = []
        self.caught: dict[int, ExnInst] = {}
        """What the legacy try that starts at an operator has caught last."""

    def receive(self, result: Any, count: int) -> None:
        """Take the *count* results of a call, in the form in which functions return them."""
        if count == 1:
            self.stack.append(result)
        elif count:
            self.stack.extend(result)

    def catch(self, exception: ExnInst, tire: Callable[[int], None]) -> bool:
        """Go on at the innermost handler of *exception* around here; False: there is none."""
        found = self.prepared.handlers.find(self.prepared.where[self.pc - 1], exception, self.instance.tags, tire)
        if found is None:
            return False
        start, (kind, _tagidx, (label, keeps)) = found
        values = list(exception.values) if kind < 2 else []
        if kind & 1:
            values.append(exception)
        if keeps:
            self.caught[start] = exception
        self.stack[label.height :] = values
        self.pc = label.pc
        return True

    @property
    def index(self) -> int:
        """The operator of the record that the frame is at; -1 before the first."""
        return self.prepared.where[max(self.pc - 1, 0)]


class CodeFrame:
    """A frame of generated code: it goes on at `pc`, once the results of a call are in the variables from `first`."""

    __slots__ = ("code", "first", "func", "instance", "pc", "values")

    def __init__(self, func: FuncInst, code: FunctionCode, pc: int, values: list[Any], first: int) -> None:
        self.func = func
        self.instance: ModuleInst = func.instance  # type: ignore[assignment]
        self.code = code
        self.pc = pc
        self.values = values
        self.first = first

    def receive(self, result: Any, count: int) -> None:
        """Take the *count* results of a call, in the form in which functions return them."""
        if count == 1:
            self.values[self.first] = result
        elif count:
            self.values[self.first : self.first + count] = result

    @property
    def index(self) -> int:
        """The operator of the record that the frame is at; -1 before the first."""
        return self.pc - 1


class Entry:
    """A call of `func` that has not begun."""

    __slots__ = ("arguments", "func", "instance")

    def __init__(self, func: FuncInst, arguments: Any) -> None:
        self.func = func
        self.instance = func.instance
        self.arguments = arguments

    index = -1


AnyFrame = Frame | CodeFrame | Entry
