"""How the compiler's walk treats each opcode, given what stencils there are; names and tables, no code generation."""

from __future__ import annotations

from typing import Final

from aiowasm.engine.native.rules import RULES
from aiowasm.engine.native.stencils import Stencils
from aiowasm.engine.operators import EVALUATE
from aiowasm.engine.storage import WIDTHS
from aiowasm.syntax.instructions import INSTRUCTIONS

__all__ = ()

# How the walk treats an opcode, in about the order of frequency; it relies on the order of the first nine.
(
    GET, LOAD, CONST32, STORE, INT2, SET, TEE, COMPARE2, COMPARE1, BR_IF, BLOCK, LOOP, IF, END, ELSE, BR, CALL,
    CONST64, CONSTF, FLOAT2, INT1, FLOAT1, INDIRECT, RETURN, UNREACHABLE, BR_TABLE, DROP, SELECT,
    GLOBAL_GET, GLOBAL_SET, WRAP, NOP, MEMORY_SIZE, RULE, REF_NULL, REF_IS_NULL, NON_NULL, BR_ON_NULL,
    BR_ON_NON_NULL, CALL_REF, TAIL, TAIL_INDIRECT, TAIL_REF, TABLE_SIZE, CONSTV, TRY_TABLE, THROW,
    CATCH, BR_ON_CAST, VECTOR, SHUFFLE, LOAD_LANE, STORE_LANE, UNSUPPORTED,
) = range(54)  # fmt: skip
TREATMENTS: Final = 54

_NAMED: Final = {
    "local.get": GET,
    "local.set": SET,
    "local.tee": TEE,
    "i32.const": CONST32,
    "i64.const": CONST64,
    "f32.const": CONSTF,
    "f64.const": CONSTF,
    "v128.const": CONSTV,
    "br_if": BR_IF,
    "block": BLOCK,
    "loop": LOOP,
    "if": IF,
    "else": ELSE,
    "end": END,
    "br": BR,
    "br_table": BR_TABLE,
    "return": RETURN,
    "call": CALL,
    "call_indirect": INDIRECT,
    "call_ref": CALL_REF,
    "return_call": TAIL,
    "return_call_indirect": TAIL_INDIRECT,
    "return_call_ref": TAIL_REF,
    "unreachable": UNREACHABLE,
    "drop": DROP,
    "select": SELECT,
    "select_t": SELECT,
    "global.get": GLOBAL_GET,
    "global.set": GLOBAL_SET,
    "i32.wrap_i64": WRAP,
    "nop": NOP,
    "atomic.fence": NOP,
    "memory.size": MEMORY_SIZE,
    "table.size": TABLE_SIZE,
    "ref.null": REF_NULL,
    "ref.is_null": REF_IS_NULL,
    "ref.as_non_null": NON_NULL,
    "br_on_null": BR_ON_NULL,
    "br_on_non_null": BR_ON_NON_NULL,
    "try_table": TRY_TABLE,
    "throw": THROW,
    "throw_ref": THROW,
    "rethrow": THROW,
    "try": TRY_TABLE,
    "catch": CATCH,
    "catch_all": CATCH,
    "delegate": END,
    "br_on_cast": BR_ON_CAST,
    "br_on_cast_fail": BR_ON_CAST,
    "any.convert_extern": NOP,
    "extern.convert_any": NOP,
}
LEAVING: Final = frozenset(("ref.test", "ref.test_null", "ref.cast", "ref.cast_null"))
"""Names of instructions that leave for a rule of another name."""


def _treatment(stencils: Stencils) -> list[int]:
    """How to treat each opcode, given what stencils there are."""
    table = [UNSUPPORTED] * 0x600
    for row in INSTRUCTIONS:
        code = row.code
        if row.name in _NAMED:
            table[code] = _NAMED[row.name]
        elif row.operation is not None and row.operation.family in _LANES:
            table[code] = _LANES[row.operation.family]
        elif row.type is not None and _has_stencils(stencils, code):
            table[code] = _class_of(row.type, row.operation.family if row.operation else "")
        elif row.name in RULES or row.name in LEAVING or code in EVALUATE or code in WIDTHS:
            table[code] = RULE
    return table


def _has_stencils(stencils: Stencils, code: int) -> bool:
    return any(f"{code:x}.{kinds}" in stencils for kinds in ("S", "SS", "F", "FS", "SSS", "0.S", "0.SS"))


_LANES: Final = {"load_lane": LOAD_LANE, "store_lane": STORE_LANE, "vshuffle": SHUFFLE}


def _class_of(stacktype: tuple[tuple[str, ...], tuple[str, ...]], family: str) -> int:
    params, results = stacktype
    if family.startswith("load"):
        return LOAD
    if family == "store":
        return STORE
    if family in ("relop", "testop"):
        return COMPARE2 if len(params) == 2 else COMPARE1
    if "v128" in params or "v128" in results:
        return VECTOR
    if results[0] in ("i32", "i64"):
        return INT2 if len(params) == 2 else INT1
    return FLOAT2 if len(params) == 2 else FLOAT1


_treatments: dict[int, list[int]] = {}


def treatment_of(stencils: Stencils) -> list[int]:
    """By opcode; worked out once for each blob, which stays for ever."""
    table = _treatments.get(id(stencils))
    if table is None:
        table = _treatments[id(stencils)] = _treatment(stencils)
    return table
