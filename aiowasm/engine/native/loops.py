"""What a loop keeps in float registers: locals and constants of innermost loops that stay in generated code.

A register holds a copy: the slot of a local is always up to date, so that leaving the loop, pausing and trapping need
nothing. Only after a pause registers are loaded again. What is gained is the time from a store to the load of the next
iteration, which is most of the time of numeric loops (benchmarks/native.py: k-matmul, k-mandelbrot).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiowasm.engine.native import treatment as c
from aiowasm.engine.native.compiler import vector_constant
from aiowasm.engine.native.encoding.operands import signed
from aiowasm.engine.native.stencils import CF, KEPT, slot
from aiowasm.syntax.types import NumType

if TYPE_CHECKING:
    from aiowasm.engine.native.compiler import Compiler
    from aiowasm.validation.record import Block

__all__ = ("begin_loop",)

_OPERATORS_MAX: Final = 2000
_STAYING: Final = frozenset(
    [
        *(c.GET, c.SET, c.TEE, c.CONST32, c.CONST64, c.CONSTF, c.CONSTV, c.INT1, c.INT2, c.FLOAT1, c.FLOAT2, c.LOAD),
        *(c.STORE, c.COMPARE1, c.COMPARE2, c.BR, c.BR_IF, c.BR_TABLE, c.BLOCK, c.IF, c.ELSE, c.END, c.DROP, c.SELECT),
        *(c.WRAP, c.NOP, c.MEMORY_SIZE, c.RETURN, c.UNREACHABLE, c.VECTOR, c.SHUFFLE, c.LOAD_LANE, c.STORE_LANE),
    ]
)
"""Treatments of operators that neither call nor leave nor pause, so that registers keep what they have."""
_FLOATING: Final = frozenset((c.FLOAT1, c.FLOAT2, c.VECTOR))
_FLOATS: Final = frozenset((NumType.F32, NumType.F64, NumType.V128))
_STORED, _READ, _CONSTANT, _WIDE_CONSTANT = 3, 1, 3, 6
"""What a use is worth: a read of a local that the loop sets waits for the store; a constant takes two to five steps."""


def _choose(self: Compiler, block: Block, count: int) -> list[Any]:
    """The locals (their indices) and constants (as on the stack; two for v128) that are worth most."""
    record, treatment = self.record, c.treatment_of(self.stencils)
    start, end = block.start + 1, block.end
    if block.has_loop or block.has_call or end - start > _OPERATORS_MAX:
        return []
    kinds = [treatment[op] for op in record.ops[start:end]]
    if not _STAYING.issuperset(kinds) or _FLOATING.isdisjoint(kinds):
        return []
    if any(at in record.checks for at in range(start, end)):
        return []
    reads: dict[int, int] = {}
    worth: dict[Any, int] = {}
    stored = set()
    immediates: list[Any] = record.immediates
    for at, kind in enumerate(kinds, start):
        immediate = immediates[at]
        if kind == c.GET:
            reads[immediate] = reads.get(immediate, 0) + 1
        elif kind in (c.SET, c.TEE):
            stored.add(immediate)
        elif kind == c.CONSTF:
            worth[CF + immediate] = worth.get(CF + immediate, 0) + _CONSTANT
        elif kind == c.CONSTV:
            key = vector_constant(immediate)
            worth[key] = worth.get(key, 0) + _WIDE_CONSTANT
    for local, times in reads.items():
        if record.locals[local] in _FLOATS:
            worth[local] = times * (_STORED if local in stored else _READ)
    return sorted((key for key in worth if worth[key] > 1), key=lambda key: -worth[key])[:count]


def begin_loop(self: Compiler, block: Block, cost: int) -> int:
    """Append the head of a loop: code that charges *cost*, or leaves; returns where its label is."""
    stencils, out = self.stencils, self.out
    registers = stencils.encoding.kept
    chosen = _choose(self, block, len(registers)) if registers else ()
    if not chosen:
        head = len(out) + stencils.labels["loop_head"]
        out += stencils.fragment["loop", "HA", cost]
        return head
    self.keeper = block
    loads = b"".join(_keep(self, key, register) for key, register in zip(chosen, registers, strict=False))
    over = self.open_branch(*stencils.encoding.jump)
    pause = len(out)
    out += stencils.raw("yield") + loads
    back = self.open_branch(*stencils.encoding.jump)
    self.fix(over, len(out))
    out += loads
    head = len(out)
    self.fix(self.open_branch(*stencils.patch("head", False, {"HA": cost})), pause)
    self.fix(back, len(out))
    return head


def _keep(self: Compiler, key: Any, register: int) -> bytes:
    """Code that loads a local or constant; it is kept in the register from now on."""
    stencils = self.stencils
    if isinstance(key, tuple):
        self.kept[key] = KEPT + register
        low, high = (signed(part - CF, 64) for part in key)
        return bytes(stencils.fragment[f"keepW{register}", "HQ", low, "HQ2", high])
    if key >= CF:
        self.kept[key] = KEPT + register
        return bytes(stencils.fragment[f"keepC{register}", "HQ", signed(key - CF, 64)])
    place = self.places[key]
    self.kept[place] = KEPT + register
    kind = "V" if self.record.locals[key] is NumType.V128 else "S"
    return stencils.patch(f"keep{kind}{register}", True, {"HA": slot(place)})[0]
