"""The portable engine: needs nothing but Python, supports every feature, pauses at any check point.

Functions start in the direct interpreter and go on in generated code once they are hot. Every function, in either form
and of the host, is called alike: `entry(*arguments, d)`, where `d` are the stack slots left on this Python stack. An
instance's functions keep their entries in `FuncInst.cell`, made when they are first needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import CellType
from typing import TYPE_CHECKING, Any

from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.interpreter.binding import InstanceState, bind, host_entry
from aiowasm.engine.interpreter.code import HOT, INLINE_NBYTES, INLINE_OPERATORS, FunctionCode, code_of
from aiowasm.engine.interpreter.direct import make_run
from aiowasm.engine.interpreter.frames import Frame
from aiowasm.engine.interpreter.machine import Machine
from aiowasm.engine.interpreter.signals import Failed, Load, Tail
from aiowasm.engine.memory import MemInst
from aiowasm.engine.table import TableInst
from aiowasm.errors import InvalidError, LinkError, OutOfFuel

if TYPE_CHECKING:
    from aiowasm.engine.func import FuncInst
    from aiowasm.engine.heap import Reference
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.syntax.steps import Steps
    from aiowasm.syntax.types import GlobalType, MemType, TableType
    from aiowasm.validation.module import ValidatedModule

__all__ = ("Interpreter",)

if sys.implementation.name != "cpython":
    raise ImportError("aiowasm's interpreter needs CPython: it reads the frames of generated code from tracebacks")


def _closed(error: Exception) -> Callable[..., Any]:
    def closed(*_arguments: Any) -> None:
        raise Failed(error)

    return closed


class Interpreter:
    """The `Engine` of `engine.base` on pure Python.

    Args:
        hot: Calls and loop iterations after which a function is run as generated code; for tests, -1 is at once.
    """

    name = "interpreter"
    defers_host_calls = True

    def __init__(self, hot: int = HOT) -> None:
        self.hot = hot
        self.machine: Machine | None = None
        """The execution that is running."""
        run, fuel = make_run(self)
        self.run = run
        self.fuel: CellType = fuel
        """Fuel left of the slice; the closure cell of all code of this engine."""

    # The protocol

    def missing(self, validated: ValidatedModule) -> str | None:
        """Nothing is missing."""
        return None

    def memory(self, memtype: MemType, max_nbytes: int) -> MemInst:
        """Return a new memory."""
        return MemInst(memtype, max_nbytes)

    def table(self, tabletype: TableType, init: Reference, max_elements: int) -> TableInst:
        """Return a new table."""
        return TableInst(tabletype, init, max_elements)

    def global_(self, globaltype: GlobalType, value: Any) -> GlobalInst:
        """Return a new global."""
        return GlobalInst(globaltype, value)

    def prepare_steps(self, validated: ValidatedModule) -> Steps[None]:
        """Do nothing."""
        yield from ()

    def bind_steps(self, instance: ModuleInst) -> Steps[None]:
        """Prepare for functions, which are made ready on their first call."""
        instance.state = InstanceState()
        yield from ()

    def call(
        self, func: FuncInst, arguments: tuple[Any, ...], *, limit: int, call_depth: int, stack_slots: int
    ) -> Machine:
        """Return an execution of *func*, not started."""
        return Machine(self, func, arguments, limit=limit, call_depth=call_depth, stack_slots=stack_slots)

    def close(self, instance: ModuleInst, error: Exception) -> None:
        """Make every later call of the functions of *instance* end with *error*."""
        instance.error = error
        closed = _closed(error)
        for func in instance.own_funcs():
            func.cell.cell_contents = closed

    # Entries

    def entry(self, func: FuncInst, caller: ModuleInst | None) -> Callable[..., Any]:
        """Return what *caller* calls to call *func*."""
        try:
            made: Callable[..., Any] = func.cell.cell_contents
        except ValueError:  # an empty cell: the first call, or a host function
            return self._first_entry(func, caller)
        return made

    def _first_entry(self, func: FuncInst, caller: ModuleInst | None) -> Callable[..., Any]:
        instance, funcidx = func.instance, func.funcidx
        if instance is None or funcidx is None:
            if caller is None or caller.state.__class__ is not InstanceState:
                return host_entry(func, caller)
            hosts: dict[FuncInst, Callable[..., Any]] = caller.state.hosts
            made = hosts.get(func)
            if made is None:
                made = hosts[func] = host_entry(func, caller)
            return made
        if instance.state.__class__ is not InstanceState:
            raise LinkError("a function of another engine")
        if instance.error is not None:
            made = _closed(instance.error)
        else:
            func.state = code = code_of(instance.validated, funcidx, self.hot)
            made = self._cold_entry(func, instance, code)
        func.cell.cell_contents = made
        return made

    def _cold_entry(self, func: FuncInst, instance: ModuleInst, code: FunctionCode) -> Callable[..., Any]:
        """The entry of a function that has no code yet: into the direct interpreter, until it is hot."""

        def body(*arguments: Any) -> Any:
            if code.prepared is None:
                self._load(func, instance, code, arguments)
            code.heat += 1
            if code.compiled is not None or (code.heat > code.hot and not code.refused):
                hot = self._hot_body(func, instance, code, arguments)
                if hot is not None:
                    return hot(*arguments)
            d = arguments[-1] - code.slots
            if d < 0:
                # The frame exists, so that the machine finds the call; nothing of it has happened.
                raise Load(func, arguments[:-1])
            if code.weight:
                self.tire(code.weight)
            return self.run([Frame(func, instance, code, arguments[:-1])], d)

        def cold(*arguments: Any) -> Any:
            result = body(*arguments)
            return result if result.__class__ is not Tail else self.follow(result, instance, arguments[-1])

        cold.body = body  # type: ignore[attr-defined]
        cold.cold = code  # type: ignore[attr-defined]
        return cold

    def _load(self, func: FuncInst, instance: ModuleInst, code: FunctionCode, arguments: tuple[Any, ...]) -> None:
        if code.nbytes > INLINE_NBYTES:
            raise Load(func, arguments[:-1])
        try:
            for _ in code.prepare_steps(instance.validated):
                pass
        except InvalidError as error:
            raise Failed(error) from None

    def _hot_body(
        self, func: FuncInst, instance: ModuleInst, code: FunctionCode, arguments: tuple[Any, ...]
    ) -> Callable[..., Any] | None:
        if code.compiled is None:
            if code.noperators > INLINE_OPERATORS:
                raise Load(func, arguments[:-1])
            for _ in code.compile_steps(instance.validated):
                pass
        return self.promote(func, code)

    def promote(self, func: FuncInst, code: FunctionCode) -> Callable[..., Any] | None:
        """Let *func* run in generated code from now on, if there is any; return its body."""
        if code.compiled is None or func.instance is None:
            return None
        body = bind(self, func, code)
        entry: Callable[..., Any] = body
        if code.tail:
            instance = func.instance

            def entry(*arguments: Any) -> Any:
                result = body(*arguments)
                return result if result.__class__ is not Tail else self.follow(result, instance, arguments[-1])

            entry.body = body  # type: ignore[attr-defined]
        func.cell.cell_contents = entry
        return body

    def body(self, func: FuncInst) -> Callable[..., Any]:
        """Return the function object of *func* without what follows tail calls."""
        entry = self.entry(func, None)
        body: Callable[..., Any] = getattr(entry, "body", entry)
        return body

    def follow(self, tail: Tail, caller: ModuleInst | None, d: int) -> Any:
        """Make tail calls until one returns: on a stack that does not grow."""
        result: Any = tail
        while result.__class__ is Tail:
            func = result.func
            entry = self.entry(func, caller)
            caller = func.instance
            result = getattr(entry, "body", entry)(*result.arguments, d)
        return result

    # What rules ask

    def charge(self, units: int) -> bool:
        """Charge *units* of a bulk operation; trap before it writes anything if they exceed the limit.

        Returns whether the slice is used up: the operation is then for the next one.
        """
        fuel: int = self.fuel.cell_contents - units
        self.fuel.cell_contents = fuel
        if fuel < 0 and self.machine is not None and self.machine.consumed > self.machine.limit:
            raise OutOfFuel
        return fuel < 0

    def tire(self, units: int) -> None:
        """Let the slice end *units* sooner, for work that fuel does not measure; the meter stays as it is."""
        machine = self.machine
        if machine is not None:
            self.fuel.cell_contents -= units
            machine.shorten(units)
