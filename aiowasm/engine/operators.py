"""`EVALUATE`: what every arithmetic instruction computes, by `Instruction.code`.

The functions are those of `numerics` and `vectors`, chosen by the operation column of the instruction table. Constants
and memory accesses are not here: see `storage` for the latter.
"""

from __future__ import annotations

from aiowasm.engine.numerics import Operator, floats, integers, scalar_conversion, wide
from aiowasm.engine.vectors import FAMILIES
from aiowasm.syntax.instructions import INSTRUCTIONS, Operation

__all__ = ("EVALUATE",)

_SCALARS = {"i32": integers(32), "i64": integers(64), "f32": floats(32), "f64": floats(64)}
_WIDE = wide()


def _operator(operation: Operation) -> Operator | None:
    match operation.family:
        case "unop" | "binop" | "testop" | "relop":
            return _SCALARS[operation.shape][operation.operator]
        case "cvtop":
            return scalar_conversion(operation.shape, operation.operator, operation.source)
        case "wideop":
            return _WIDE[operation.operator]
    factory = FAMILIES.get(operation.family)
    return None if factory is None else factory(operation)


EVALUATE: dict[int, Operator] = {}
"""Code -> pure function of the operands in stack order; before them the lane (or 16 lanes), if it has such."""
for _row in INSTRUCTIONS:
    if _row.operation is not None and (_function := _operator(_row.operation)) is not None:
        EVALUATE[_row.code] = _function
