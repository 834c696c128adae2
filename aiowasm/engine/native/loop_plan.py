"""Which loops keep their integers in registers, and which of their locals have a register of their own.

Innermost loops are taken that neither call nor leave, whose operators work on integers alone and which have no more
than a bounded number of them; how they become code is `integer_loops`.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiowasm.engine.native import treatment as c
from aiowasm.engine.storage import WIDTHS
from aiowasm.syntax.instructions import INSTRUCTIONS
from aiowasm.syntax.types import AddressType, NumType

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiowasm.engine.native.encoding.x86_64_integers import IntegerCode
    from aiowasm.validation.module import ValidatedModule
    from aiowasm.validation.record import Block, FunctionRecord

__all__ = ("BARRIERS", "ROWS", "Plan", "plan_loop")

_OPERATORS_MAX: Final = 600
_LOCALS_MAX: Final = 48
_HOMES_MAX: Final = 800
"""Locals times branches: each looks after all of them."""
_OFFSET_MAX: Final = (1 << 31) - 64
_TEMPORARIES: Final = 3
"""Registers that are left to what locals do not hold."""
_SET: Final = 3
_ONLY_READ: Final = 1
"""What a use of a local is worth: the next round waits for the store of one that the loop sets."""
_FAMILIES: Final = frozenset(("unop", "binop", "testop", "relop", "cvtop", "load", "store"))
_INTEGERS: Final = frozenset((NumType.I32, NumType.I64))
_CONVERSIONS: Final = frozenset(("wrap", "extend_s", "extend_u"))

ROWS: Final = {
    row.code: row.operation
    for row in INSTRUCTIONS
    if row.operation is not None
    and row.operation.family in _FAMILIES
    and row.operation.shape in ("i32", "i64")
    and (row.operation.family != "cvtop" or row.operation.operator in _CONVERSIONS)
}
"""Opcode -> operation of all instructions that work on integers alone."""
_PLAIN: Final = frozenset((c.CONST32, c.CONST64, c.DROP, c.SELECT, c.NOP, c.RETURN))
_CONSTANTS: Final = frozenset((c.CONST32, c.CONST64))
_BRANCHES: Final = frozenset((c.BR, c.BR_IF))
_BLOCKS: Final = frozenset((c.BLOCK, c.IF))
BARRIERS: Final = frozenset((c.BR, c.BR_IF, c.BLOCK, c.IF, c.ELSE, c.END, c.RETURN))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of a loop before it becomes code.

    Args:
        homes: Register of each local that has one.
        is_wide: Local that occurs -> whether it is an i64.
        set_locals: Those that the loop sets.
        transient: Those of them that every round sets before it can read them or be left: a round starts without them.
        accesses: Local -> ascending indices of the operators that read or set it.
        reads: Indices of those of them that read.
        barriers: Ascending indices of operators at which other code may want the value of any local.
        registers: Those that may be used, the preferred first.
    """

    homes: dict[int, int]
    is_wide: dict[int, bool]
    set_locals: frozenset[int]
    transient: frozenset[int]
    accesses: dict[int, list[int]]
    reads: frozenset[int]
    barriers: list[int]
    registers: tuple[int, ...]

    def is_absent(self, local: int, index: int) -> bool:
        """Whether a local has no value that matters at operator *index*."""
        return local in self.transient and self.accesses[local][0] > index

    def next_access(self, local: int, index: int) -> int:
        """Index of the first access of *local* after operator *index*, or -1."""
        accesses = self.accesses[local]
        at = bisect_right(accesses, index)
        return accesses[at] if at < len(accesses) else -1

    def next_barrier(self, index: int) -> int:
        """Index of the first barrier from operator *index* on; the end of the loop is one."""
        at = bisect_right(self.barriers, index - 1)
        return self.barriers[at]


def plan_loop(
    validated: ValidatedModule,
    record: FunctionRecord,
    block: Block,
    treatment: Sequence[int],
    code: IntegerCode,
) -> Plan | None:
    """Return the plan of a loop, or None if it is not one of those."""
    start, end = block.start + 1, block.end
    if block.has_loop or block.has_call or block.params or end - start > _OPERATORS_MAX:
        return None
    if not _INTEGERS.issuperset(block.results):
        return None
    ops, immediates, checks = record.ops, record.immediates, record.checks
    accesses: dict[int, list[int]] = {}
    reads, stored, transient, barriers = set(), set(), set(), []
    needs_count = False
    depth, may_leave = 0, False
    before = -1
    for index in range(start, end):
        op = ops[index]
        kind = treatment[op]
        immediate: Any = immediates[index]
        if kind in (c.GET, c.SET, c.TEE):
            if kind != c.GET and immediate not in accesses and not depth and not may_leave:
                transient.add(immediate)
            accesses.setdefault(immediate, []).append(index)
            if kind == c.GET:
                reads.add(index)
            else:
                stored.add(immediate)
        elif kind in BARRIERS:
            barriers.append(index)
            if kind in _BLOCKS and (immediate.params or immediate.results):
                return None
            depth += (kind in _BLOCKS) - (kind == c.END)
            may_leave = may_leave or kind == c.RETURN or (kind in _BRANCHES and immediate.start <= block.start)
        elif op in ROWS:
            if not _is_taken(validated, op, immediate, code):
                return None
            if not needs_count and before not in _CONSTANTS and code.needs_count_register(ROWS[op].operator):
                needs_count = True
        elif kind not in _PLAIN:
            return None
        if index in checks:
            return None
        before = kind
    barriers.append(end)
    is_wide = {}
    for local in accesses:
        valtype = record.locals[local]
        if valtype not in _INTEGERS:
            return None
        is_wide[local] = valtype is NumType.I64
    if len(accesses) > _LOCALS_MAX or len(accesses) * len(barriers) > _HOMES_MAX:
        return None
    ranked = _ranked(record, block, treatment, stored)
    registers = [each for each in code.order if not (needs_count and each == code.count_register)]
    if len(ranked) > len(registers) - _TEMPORARIES:
        registers.append(code.give_up_size())
    homes = ranked[: len(registers) - _TEMPORARIES]
    return Plan(
        {local: registers[number] for number, local in enumerate(homes)},
        is_wide, frozenset(stored), frozenset(transient), accesses, frozenset(reads), barriers, tuple(registers),
    )  # fmt: skip


def _is_taken(validated: ValidatedModule, op: int, immediate: Any, code: IntegerCode) -> bool:
    operation = ROWS[op]
    match operation.family:
        case "load" | "store":
            if isinstance(immediate, tuple) or op not in WIDTHS:
                return False
            return immediate <= _OFFSET_MAX and validated.mems[0].addrtype is AddressType.I32
        case "relop" | "testop":
            return code.condition(operation.operator) is not None
        case "cvtop":
            return True
    return code.computes(operation.operator)


def _ranked(record: FunctionRecord, block: Block, treatment: Sequence[int], stored: set[int]) -> list[int]:
    """The locals that are worth a register of their own, those first that are worth most.

    What counts is how often operators take the value that a local has when a round starts, under whatever name.
    """
    worth: dict[int, int] = {}
    names: dict[int, int] = {}  # local -> the local whose first value it has; -1: another value
    stack: list[int] = []
    ops, immediates = record.ops, record.immediates

    def take(count: int) -> None:
        while count and stack:
            origin = stack.pop()
            count -= 1
            if origin >= 0:
                worth[origin] = worth.get(origin, 0) + (_SET if origin in stored else _ONLY_READ)

    for index in range(block.start + 1, block.end):
        kind = treatment[ops[index]]
        local: Any = immediates[index]
        if kind == c.GET:
            stack.append(names.get(local, local))
        elif kind == c.SET:
            names[local] = stack.pop() if stack else -1
        elif kind == c.TEE:
            names[local] = stack[-1] if stack else -1
        elif kind in (c.CONST32, c.CONST64):
            stack.append(-1)
        elif kind in (c.INT2, c.COMPARE2):
            take(2)
            stack.append(-1)
        elif kind in (c.INT1, c.COMPARE1, c.LOAD, c.WRAP):
            take(1)
            stack.append(-1)
        elif kind == c.STORE:
            take(2)
        elif kind == c.SELECT:
            take(3)
            stack.append(-1)
        elif kind == c.DROP:
            stack.pop()
        elif kind in BARRIERS:
            take(kind in (c.BR_IF, c.IF))
            if kind != c.BLOCK and not (kind == c.BR_IF and local.start < block.start):
                names.clear()
    return sorted(worth, key=lambda local: -worth[local])
