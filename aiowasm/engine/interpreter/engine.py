"""The portable engine: needs nothing but Python, supports every feature, pauses at any check point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.interpreter.machine import Machine
from aiowasm.engine.memory import MemInst
from aiowasm.engine.table import TableInst

if TYPE_CHECKING:
    from aiowasm.engine.func import FuncInst
    from aiowasm.engine.heap import Reference
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.syntax.types import GlobalType, MemType, TableType
    from aiowasm.validation.module import ValidatedModule

__all__ = ("Interpreter",)


class Interpreter:
    """The `Engine` of `engine.base` on pure Python."""

    name = "interpreter"

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

    def bind(self, instance: ModuleInst) -> None:
        """Nothing to do: functions are made ready on their first call."""

    def call(
        self, func: FuncInst, arguments: tuple[Any, ...], *, limit: int, call_depth: int, stack_slots: int
    ) -> Machine:
        """Return an execution of *func*, not started."""
        return Machine(func, arguments, limit=limit, call_depth=call_depth, stack_slots=stack_slots)

    def close(self, instance: ModuleInst, error: Exception) -> None:
        """Make every later call of the functions of *instance* end with *error*."""
        instance.error = error
