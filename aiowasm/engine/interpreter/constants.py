"""Constant expressions (the standard's chapter 3.4.14), evaluated by the direct interpreter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiowasm.engine.base import NO_LIMIT
from aiowasm.engine.func import FuncInst
from aiowasm.engine.interpreter.code import FunctionCode
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.interpreter.frames import Frame
from aiowasm.engine.interpreter.prepare import prepare
from aiowasm.syntax.matching import close_rectype
from aiowasm.syntax.types import FuncType, RecType, SubType

if TYPE_CHECKING:
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.validation.record import FunctionRecord

__all__ = ("evaluate",)

_FUNCTYPE = FuncType((), ())
_CONSTANT = close_rectype(RecType((SubType(True, (), _FUNCTYPE),)), 0, [])[0]


def evaluate(record: FunctionRecord, instance: ModuleInst) -> Any:
    """Return the value of a constant expression, given as the record of its validation.

    Raises:
        Trap: If it traps; constants of GC types can exhaust the heap.
    """
    if len(record.ops) == 2 and isinstance(record.immediates[0], int) and record.ops[0] in (0x41, 0x42):
        return record.immediates[0]  # i32.const, i64.const: most of them
    code = FunctionCode(0, _FUNCTYPE, 0)
    code.adopt(record, prepare(record))
    engine = Interpreter()
    engine.fuel.cell_contents = NO_LIMIT
    return engine.run([Frame(FuncInst(_CONSTANT, instance, 0), instance, code, ())], NO_LIMIT)
