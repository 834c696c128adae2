"""From a function's record to machine code: one walk over its operators strings stencils together.

An operand is where it is: a slot, the integer register, the float register, or a constant. `local.get` and constants
emit nothing. At labels, calls and check points every operand has its own ("canonical") slot or is known at compile
time, so that a suspended guest is slots and return addresses. Hot: benchmarks/start.py measures it.

Operands deeper than `_LAZY` are canonical at once: it bounds every search through the operand stack, and guests are
hostile.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Generator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from aiowasm.engine.native.compiled import Compiled, Layout, landings
from aiowasm.engine.native.encoding import ReachError
from aiowasm.engine.native.encoding.operands import signed
from aiowasm.engine.native.integer_loops import compile_loop
from aiowasm.engine.native.rules import RULES, Site
from aiowasm.engine.native.stencils import C32, C64, CF, KEPT, LOADED, NEAR, PAD, F, R, Stencils, V, slot
from aiowasm.engine.native.treatment import (
    COMPARE1,
    CONST32,
    CONST64,
    CONSTF,
    END,
    FLOAT2,
    GET,
    INT1,
    INT2,
    LOAD,
    LOOP,
    NOP,
    STORE,
    TEE,
    TREATMENTS,
    WRAP,
    treatment_of,
)
from aiowasm.engine.native.values import slots_of
from aiowasm.engine.storage import WIDTHS
from aiowasm.errors import LimitError
from aiowasm.syntax.instructions import BY_NAME, INSTRUCTIONS
from aiowasm.syntax.types import AddressType, NumType

if TYPE_CHECKING:
    from aiowasm.validation.module import ValidatedModule
    from aiowasm.validation.record import Block, FunctionRecord

__all__ = ("compile_function",)

_V128: Final = NumType.V128
_LAZY: Final = 48
_PUSHED: Final = 4  # no operator pushes more lazy operands
_STEP: Final = 500
_MAX_CODE_NBYTES: Final = 1 << 28  # ours: labels with a thousand values make much of little
SLOTS_PER_FRAME: Final = 4
_pack_into = struct.pack_into


_CANONICAL: Final = frozenset(
    [
        *("add", "sub", "mul", "div", "min", "max", "sqrt", "ceil", "floor", "trunc", "nearest", "demote", "promote"),
    ]
)
_NANS: Final = {
    row.code: f"nan.{row.operation.shape}"
    for row in INSTRUCTIONS
    if row.operation is not None and row.operation.shape[0] == "f"
}
_NAN_SHAPES: Final = {
    row.code: row.operation.shape
    for row in INSTRUCTIONS
    if row.operation is not None
    and row.operation.family in ("unop", "binop", "cvtop", "vunop", "vbinop")
    and row.operation.operator.removeprefix("f") in _CANONICAL
}
"""Instructions whose results are canonical if they are NaNs, with the shape of the results."""
_ABSORB: Final = {
    row.code: row.operation.source or row.operation.shape
    for row in INSTRUCTIONS
    if row.operation is not None
    and (
        row.code in _NAN_SHAPES
        or (row.operation.family in ("relop", "vrelop") and row.operation.shape[0] == "f")
        or (row.operation.family == "cvtop" and row.operation.operator.startswith("trunc_"))
    )
}
"""Instructions in whose results nothing is left of which NaNs their operands are, with the shape of the operands."""
_ABSORB_TWO: Final = {
    row.code: _ABSORB[row.code]
    for row in INSTRUCTIONS
    if row.code in _ABSORB and row.type is not None and len(row.type[0]) == 2
}
_OPERANDS: Final = frozenset(BY_NAME[name].code for name in ("local.get", "f32.const", "f64.const", "v128.const"))
_TWO_LOCALS: Final = array("H", [BY_NAME["local.get"].code] * 2)
_EQZ: Final = BY_NAME["i32.eqz"].code
_BR_IF_CODE: Final = BY_NAME["br_if"].code
_IF_CODE: Final = BY_NAME["if"].code
_LOOP_CODE: Final = BY_NAME["loop"].code


_COMPUTED: Final = ("",)
_COMPARISONS: Final = ("", ".t", ".f")
"""Senses of stencils: of what makes a value, and all of those that compare."""


def letter(entry: int) -> str:
    """The kind of an operand for `Stencils.takes_kept`; constants of floats will be in slots."""
    if entry < PAD:
        return "K"
    if entry < 0:
        return "R" if entry == R else "F"
    return "S" if entry < C32 or entry >= CF else "C"


def vector_constant(value: bytes) -> tuple[int, int]:
    """The two operands that stand for a v128 constant."""
    return CF + int.from_bytes(value[:8], "little"), CF + int.from_bytes(value[8:], "little")


OTHERS: list[Callable[[Compiler, int, Any, int], None] | None] = [None] * TREATMENTS
"""Treatment -> handler (compiler, opcode, immediate, index), for rarer operators; filled by `operators.py`."""


class Label:
    """A block that is open: where its operands start, what a branch to it carries, where it is or who waits to know."""

    __slots__ = ("arity", "base", "block", "entries", "fixups", "head", "live", "otherwise", "results")

    def __init__(self, block: Block, base: int, arity: int, results: int) -> None:
        self.block = block
        self.base = base
        self.arity = arity
        self.results = results
        self.head = -1
        self.fixups: list[int] = []
        self.entries: list[tuple[int, int]] = []  # of br_table: (where, start of the table)
        self.otherwise = -1
        self.live = False


class Compiler:
    """The state of one walk. `out` is the code so far, `stack` the operands."""

    def __init__(
        self, validated: ValidatedModule, record: FunctionRecord, layout: Layout, stencils: Stencils, sites: list[Site],
        marks: list[int] | None,
    ) -> None:  # fmt: skip
        self.validated = validated
        self.record = record
        self.layout = layout
        self.stencils = stencils
        self._fix = stencils.encoding.fix
        self.sites = sites
        self.marks = marks
        self.out = bytearray()
        self.stack: list[int] = []
        self.labels: list[Label] = []
        self.traps: list[int] = []  # branches to where an operator's access is out of bounds
        self.trapping: list[int] = []  # those operators, if there are marks
        self.nans: list[tuple[int, int]] = []  # branches to where a NaN of this opcode is made canonical
        locals_ = record.locals
        self.places: list[int] | range = range(len(locals_))
        self.nlocals = len(locals_)
        types = locals_ if isinstance(locals_, tuple) else [valtype for _, valtype in locals_.runs()]
        if _V128 in types:
            places, at = [], 0
            for valtype in locals_:
                places.append(at)
                at += 2 if valtype is _V128 else 1
            self.places, self.nlocals = places, at
        self.nparams = slots_of(tuple(islice(locals_, record.nparams)))
        self.narrow = bool(validated.mems) and validated.mems[0].addrtype is AddressType.I32
        """Whether addresses of memory 0 are i32."""
        self.slots = len(locals_) + record.max_height + SLOTS_PER_FRAME
        self.dead = False
        self.segments = iter(record.cost.items())
        self.segment, self.units = next(self.segments)
        """The operator that ends a segment of fuel (or the function), and what the next segment costs."""
        self.tried = -1
        """The last loop that was looked at."""
        self.kept: dict[Any, int] = {}
        """What the innermost loop keeps in float registers: places of locals and constants, as operands."""
        self.keeper: Block | None = None
        self.landings, self.landings_of = landings(record)

    # Operands

    def spill(self, register: int) -> None:
        """Put what is in a register (R, or F for both F and V) into its slot."""
        stack = self.stack
        if len(stack) > _LAZY:
            return
        if register == R:
            if R in stack:
                self._settle(stack.index(R))
        elif F in stack:
            self._settle(stack.index(F))
        elif V in stack:
            self._settle(stack.index(V))

    def _settle(self, at: int) -> None:
        """Make the operand at *at* canonical."""
        entry, place = self.stack[at], self.nlocals + at
        self.out += self.stencils.store[entry, place]
        self.stack[at] = place
        if entry == V:
            self.stack[at + 1] = place + 1

    def flush(self, low: int) -> None:
        """Make operands from *low* on canonical, and take lower ones out of registers."""
        stack, nlocals, store = self.stack, self.nlocals, self.stencils.store
        top = len(stack)
        # Of a deep stack only the top can be lazy, or all of it if it has just become deep.
        for at in range(0 if top <= _LAZY + _PUSHED else top - _PUSHED, top):
            entry, place = stack[at], nlocals + at
            if entry != place and (at >= low or entry < 0):
                self.out += store[entry, place]
                stack[at] = place
                if entry == V:
                    stack[at + 1] = place + 1

    def push_slots(self, count: int) -> None:
        """Push *count* canonical slots."""
        stack = self.stack
        if count > _PUSHED and len(stack) <= _LAZY < len(stack) + count - _PUSHED:
            self.flush(0)  # what is below so many will not be looked at again
        at = self.nlocals + len(stack)
        stack.extend(range(at, at + count))

    def push_vector(self) -> None:
        """Push the v128 that was computed into the register."""
        self.stack.append(V)
        self.stack.append(PAD)

    def pop_vector(self) -> int:
        """Pop a v128: V, or the first of its two slots."""
        stack = self.stack
        if stack[-2] == V:
            del stack[-2:]
            return V
        at = len(stack) - 2
        low, high = stack[at:]
        if low < 0 or low >= C32 or high != low + 1:
            self._settle(at)
            self._settle(at + 1)
            low = self.nlocals + at
        del stack[at:]
        return low

    def to_r(self, entry: int) -> None:
        """Bring a popped integer entry into R, which nothing else on the stack needs afterwards."""
        if entry != R:
            self.spill(R)
            self.out += self.stencils.integer(entry)

    def in_registers(self, name: str, senses: tuple[str, ...], *entries: int) -> tuple[int, ...]:
        """Popped operands of a stencil, those that the loop keeps in registers replaced if it can take them there."""
        kept = self.kept
        found = tuple([kept.get(entry, entry) for entry in entries])
        if found != entries and self.stencils.takes_kept[name, senses, *map(letter, found)]:
            return found
        return entries

    def absorbs(self, index: int) -> bool:
        """Whether whoever takes the result of operator *index* makes one NaN of all NaNs, or looks at none.

        Then the result needs no check of its own: it is the next operator, or there is only another operand between.
        """
        ops, following = self.record.ops, index + 1
        taker = ops[following] if following < len(ops) else 0
        shape = _NAN_SHAPES.get(ops[index])
        if taker in _OPERANDS and following + 1 < len(ops):
            return shape is not None and _ABSORB_TWO.get(ops[following + 1]) == shape
        return shape is not None and _ABSORB.get(taker) == shape

    def refresh(self, entry: int, kind: str, place: int) -> None:
        """*entry* has been stored to the local at *place*, which the loop keeps in a register.

        *kind* is S, or V for a v128.
        """
        register = self.kept[place] - KEPT
        if entry in (F, V):
            self.out += self.stencils.raw(f"keepF{register}")
        elif entry != place:
            self.out += self.stencils.patch(f"keep{kind}{register}", True, {"HA": slot(place)})[0]

    def float_operand(self, entry: int, at: int) -> int:
        """A popped float entry as F or a slot; *at* is its place on the stack."""
        if entry < CF:
            return entry
        self.out += self.stencils.store[entry, self.nlocals + at]
        return self.nlocals + at

    # Control

    def fix(self, fixup: int, target: int) -> None:
        self._fix(self.out, fixup, target)

    def branch_to(self, label: Label, code: tuple[bytes, tuple[int, ...]]) -> None:
        """Append code whose branches go to *label*."""
        made, targets = code
        start = len(self.out)
        self.out += made
        for target in targets:
            if label.head >= 0:
                self.fix(start + target, label.head)
            else:
                label.fixups.append(start + target)

    def table_entry(self, at: int, table: int, place: int) -> None:
        """Make the entry at *at* of a br_table's *table* lead to *place*."""
        _pack_into("<i", self.out, at, place - table)

    def jump(self, label: Label) -> None:
        self.branch_to(label, self.stencils.encoding.jump)

    def destination(self, label: Label) -> int:
        """The slot of the first value that a branch to *label* carries."""
        return 0 if label.block.kind == "func" else self.nlocals + label.base

    def move(self, label: Label) -> None:
        """Copy the operands on top to where *label* wants them."""
        count = label.arity
        if not count:
            return
        base, to = len(self.stack) - count, self.destination(label)
        self.move_down(base, to, count)

    def move_down(self, base: int, to: int, count: int) -> None:
        """Copy *count* operands from *base* on to the slots from *to* on, which lie below or at their own."""
        stack, store = self.stack, self.stencils.store
        if count > 1 and to < self.nlocals:
            # Locals that are operands too would be overwritten before they are read.
            self.flush(base)
        if count > 16:
            self.flush(base)
            if self.nlocals + base != to:
                values = ("HA", slot(to), "HB", slot(self.nlocals + base), "WA", count)
                self.out += self.stencils.fragment["copy", *values]
            return
        at = base
        while at < base + count:
            entry = stack[at]
            if entry != to + at - base:
                self.out += store[entry, to + at - base]
            at += 2 if entry == V else 1

    def site(self, name: str, at: int, immediate: Any, row: Any = None) -> int:
        """A new site of a rule whose operands start at *at* of the stack; returns its number."""
        site = Site(RULES[name], immediate, slot(self.nlocals + at), row)
        number = len(self.sites)
        self.sites.append(site)
        while self.sites[number] is not site:
            number += 1  # another thread, which compiles for another store, was faster
        return number

    def leave(self, name: str, at: int, immediate: Any, row: Any = None) -> None:
        self.out += self.stencils.fragment["leave", "WA", self.site(name, at, immediate, row)]

    def charge(self, index: int, cost: int) -> None:
        """Charge the segment that starts after operator *index*."""
        if index in self.record.checks:
            self.spill(R)
            self.spill(F)
            self.out += self.stencils.fragment["check", "HA", cost]
        elif cost:
            self.out += self.stencils.charge[cost]

    # The walk

    def run(self) -> Generator[None, None, Compiled]:
        record = self.record
        self.prologue()
        function = record.blocks[0]
        results = slots_of(record.results)
        self.labels.append(Label(function, 0, results, results))
        index, count = 0, len(record.ops)
        while index < count:
            index = self.walk(index, min(index + _STEP, count))
            if index < count and record.ops[index] == _LOOP_CODE and index != self.tried:
                index = yield from self.loop(index)
            if len(self.out) > _MAX_CODE_NBYTES:
                raise LimitError("a function is too large to be compiled", limit="code_nbytes")
            if index < count:
                yield
        out = self.out
        cold = len(out)
        trap = self.stencils.raw("out")
        for at in range(0, len(self.traps), _STEP):
            if at:
                yield
            fixups = self.traps[at : at + _STEP]
            self.stencils.encoding.fix_each(out, fixups, len(out), len(trap))
            out += trap * len(fixups)
        for fixup, op in self.nans:
            self.fix(fixup, len(out))
            out += self.stencils.raw(_NANS[op])
            jump, (target,) = self.stencils.encoding.jump
            out += jump
            self.fix(len(out) - len(jump) + target, fixup + 4)
        compiled = Compiled(
            bytes(out), self.stencils.labels["enter_entry"], self.slots, self.landings, self.marks or []
        )
        if self.marks is not None:
            compiled.cold, compiled.cold_nbytes, compiled.cold_marks = cold, len(trap), self.trapping
        return compiled

    def prologue(self) -> None:
        stencils = self.stencils
        self.out += stencils.fragment["enter", "HA", self.slots, "HB", self.record.cost[-1]]
        extra = self.nlocals - self.nparams
        if 0 < extra <= 8:
            self.out += stencils.zeros[self.nparams, extra]
        elif extra:
            self.out += stencils.fragment["zeros", "HA", slot(self.nparams), "WA", extra]

    def walk(self, index: int, stop: int) -> int:
        """Compile operators from *index* on until *stop* (or one or two more), or a loop; returns the next.

        Much of the time that a program takes to start is spent here (benchmarks/start.py): what is frequent comes
        first, and makes no calls where it is simple.
        """
        record = self.record
        ops, checks, last = record.ops, record.checks, len(record.ops) - 1
        immediates: list[Any] = record.immediates
        stencils, stack, places, kept = self.stencils, self.stack, self.places, self.kept
        code, store, treatment = stencils.code, stencils.store, treatment_of(stencils)
        load, save, charge = stencils.load, stencils.save, stencils.charge
        out, marks, traps = self.out, self.marks, self.traps
        simple, narrow = isinstance(places, range), self.narrow
        # Operands deeper than _LAZY are canonical, so that nothing is to be found there.
        shallow = 2 * record.max_height <= _LAZY
        while index < stop:
            while self.segment < index:
                self.segment, self.units = next(self.segments, (last, 0))
            end, units = self.segment, self.units
            following = end + 1 if end < stop else stop
            for index in range(index, following):  # noqa: B020, PLR1704
                op = ops[index]
                kind = treatment[op]
                if marks is not None:
                    marks.append(len(out))
                if kind == GET:
                    local = immediates[index]
                    if simple:
                        stack.append(local)
                    else:
                        place = places[local]
                        stack.append(place)
                        if record.locals[local] is _V128:
                            stack.append(place + 1)
                elif kind == LOAD:
                    address = stack[-1]
                    if narrow and (found := load[op, address, immediates[index]]) is not None:
                        if address != R and (shallow or len(stack) <= _LAZY) and R in stack:
                            self._settle(stack.index(R))
                        traps.append(len(out) + found[1])
                        if marks is not None:
                            self.trapping.append(index)
                        out += found[0]
                        stack[-1] = R
                    else:
                        self.load(op, immediates[index], index)
                elif kind == CONST32:
                    stack.append(C32 + immediates[index])
                elif kind == STORE:
                    if narrow and (found := save[op, stack[-2], stack[-1], immediates[index]]) is not None:
                        traps.append(len(out) + found[1])
                        if marks is not None:
                            self.trapping.append(index)
                        out += found[0]
                        del stack[-2:]
                    else:
                        self.store(op, immediates[index], index)
                elif kind == INT2:
                    second = stack.pop()
                    first = stack[-1]
                    if first != R and second != R and (shallow or len(stack) <= _LAZY) and R in stack:  # noqa: PLR1714
                        self._settle(stack.index(R))
                    out += code[op, first, second]
                    stack[-1] = R
                elif kind <= TEE:  # or SET
                    if simple:
                        local = immediates[index]
                        entry = stack.pop()
                        if (shallow or len(stack) <= _LAZY) and local in stack:
                            self.save_aliases(local)
                        if entry != local:
                            out += store[entry, local]
                        if kept and local in kept:
                            self.refresh(entry, "S", local)
                            entry = local
                        if kind == TEE:
                            stack.append(local if entry < 0 and self.is_pushed_upon(index) else entry)
                    else:
                        self.set_local(immediates[index], kind == TEE, index)
                elif kind <= COMPARE1:  # or COMPARE2
                    right = None if kind == COMPARE1 else stack.pop()
                    left = stack.pop()
                    if right is not None and (kept or left >= CF or right >= CF):
                        left, right = self.compared(op, left, right)
                    is_next = index + 1 == end
                    if (is_next or (index + 2 == end and ops[index + 1] == _EQZ)) and self.takes_comparison(
                        end, op, left, right, is_next
                    ):
                        if marks is not None:
                            marks.extend([len(out)] * (end - index))
                        following = end + 1
                        break
                    if (shallow or len(stack) <= _LAZY) and R in stack:
                        self._settle(stack.index(R))
                    out += code[op, left, right] if right is not None else code[op, left]
                    stack.append(R)
                elif kind == END:
                    self.end()
                elif (handler := OTHERS[kind]) is not None:
                    if kind == LOOP and index != self.tried:
                        if marks is not None:
                            marks.pop()
                        return index
                    handler(self, op, immediates[index], index)
                elif kind == FLOAT2:
                    second, first = stack.pop(), stack.pop()
                    if kept:
                        first, second = self.in_registers(f"{op:x}", _COMPUTED, first, second)
                    if first >= CF:
                        first = self.float_operand(first, len(stack))
                    if second >= CF:
                        second = self.float_operand(second, len(stack) + 1)
                    if len(stack) <= _LAZY and (F in stack or V in stack):
                        self.spill(F)
                    if self.absorbs(index):
                        made, nans = stencils.unchecked[f"{op:x}", first, second]
                    else:
                        made, nans = stencils.float[op, first, second]
                    if nans:
                        self.nans.append((len(out) + nans[0], op))
                    out += made
                    stack.append(F)
                elif kind == CONST64:
                    self.constant64(immediates[index])
                elif kind == CONSTF:
                    stack.append(CF + immediates[index])
                elif kind == NOP:
                    pass
                elif kind == WRAP:
                    # Slots and R hold i32 with any upper half.
                    if stack[-1] >= C64:
                        stack[-1] = C32 + (stack[-1] - C64 & 0xFFFFFFFF)
                else:  # INT1, FLOAT1
                    first = stack.pop()
                    if kept:
                        (first,) = self.in_registers(f"{op:x}", _COMPUTED, first)
                    if first >= CF:
                        first = self.float_operand(first, len(stack))
                    if (kind == INT1 or first >= C32) and len(stack) <= _LAZY and R in stack:
                        self._settle(stack.index(R))
                    if kind == INT1:
                        out += code[op, first]
                        stack.append(R)
                    else:
                        self.spill(F)
                        if self.absorbs(index):
                            made, nans = stencils.unchecked[f"{op:x}", first]
                        else:
                            made, nans = stencils.float[op, first]
                        if nans:
                            self.nans.append((len(out) + nans[0], op))
                        out += made
                        stack.append(F)
                if not shallow and len(stack) > _LAZY:
                    self.flush(0)
            index = following
            if index > end and ops[end] != _LOOP_CODE:
                if end in checks:
                    self.charge(end, units)
                elif units:
                    out += charge[units]
        return index

    def loop(self, index: int) -> Generator[None, None, int]:
        """Compile all of the loop that operator *index* starts if its values can be in registers; returns the next."""
        self.tried = index
        self.flush(0)
        start, marks = len(self.out), self.marks
        if not (yield from compile_loop(self, index)):
            return index
        if marks is not None:
            marks.insert(index, start)
        immediate: Any = self.record.immediates[index]
        end: int = immediate.end
        if len(self.stack) > _LAZY:
            self.flush(0)
        if end in self.record.cost:
            self.charge(end, self.record.cost[end])
        return end + 1

    def compared(self, op: int, first: int, second: int) -> tuple[int, int]:
        """Where the popped operands of a comparison are, of floats or where the loop keeps some."""
        if self.kept:
            first, second = self.in_registers(f"{op:x}", _COMPARISONS, first, second)
        at = len(self.stack)
        return self.float_operand(first, at), self.float_operand(second, at + 1)

    def save_aliases(self, place: int) -> None:
        """Give operands that are the local at *place* their own slots, before it changes."""
        stack, nlocals = self.stack, self.nlocals
        if len(stack) > _LAZY:
            return
        for at, entry in enumerate(stack):
            if entry == place:
                self.out += self.stencils.store[place, nlocals + at]
                stack[at] = nlocals + at

    def constant64(self, value: int) -> None:
        """Push an i64 constant: lazily if instructions can hold it."""
        if value < 1 << 31 or value >= (1 << 64) - (1 << 31):
            self.stack.append(C64 + value)
            return
        self.spill(R)
        self.stack.append(R)
        self.out += self.stencils.fragment["imm64R", "HQ", signed(value, 64)]

    def is_pushed_upon(self, index: int) -> bool:
        """Whether two operands follow operator *index*: what it leaves in a register would have to make room."""
        return self.record.ops[index + 1 : index + 3] == _TWO_LOCALS

    def set_local(self, local: int, tee: bool, index: int) -> None:
        """local.set and local.tee where some locals are v128."""
        stack, store, place = self.stack, self.stencils.store, self.places[local]
        if self.record.locals[local] is not _V128:
            entry = stack.pop()
            self.save_aliases(place)
            if entry != place:
                self.out += store[entry, place]
            if place in self.kept:
                self.refresh(entry, "S", place)
                entry = place
            if tee:
                stack.append(place if entry < 0 and self.is_pushed_upon(index) else entry)
            return
        entry = self.pop_vector()
        self.save_aliases(place)
        self.save_aliases(place + 1)
        if entry == V:
            self.out += store[V, place]
        elif entry != place:
            self.out += self.stencils.fragment["movV", "HA", slot(place), "HB", slot(entry)]
        if place in self.kept:
            self.refresh(entry, "V", place)
            entry = place
        if entry == V and tee and self.is_pushed_upon(index):
            entry = place
        if tee:
            stack.extend((V, PAD) if entry == V else (entry, entry + 1))

    # Memory

    def access(self, immediate: Any, nbytes: int) -> tuple[str, int, int, int]:
        """What an access adds to the choice of a stencil: variant, offset, bytes, place of the memory's pointer."""
        memidx, offset = immediate if isinstance(immediate, tuple) else (0, immediate)
        wide = self.validated.mems[memidx].addrtype is AddressType.I64
        variant = ("m" if memidx else "") + ("w" if wide else "")
        return variant, offset, nbytes, self.layout.mems + 8 * memidx if memidx else 0

    def large_offset(self, address: int, immediate: Any, nbytes: int) -> tuple[str, int, int, int]:
        """Add an offset that no instruction holds to the address, which is in R afterwards as an i64."""
        memidx, offset = immediate if isinstance(immediate, tuple) else (0, immediate)
        self.to_r(address)
        if self.validated.mems[memidx].addrtype is AddressType.I64:
            self.out += self.stencils.fragment["offset64", "HQ", signed(offset, 64)]
        else:
            self.out += self.stencils.raw("zextR") + self.stencils.fragment["offset", "HQ", offset]
        return "mw" if memidx else "w", 0, nbytes, self.layout.mems + 8 * memidx if memidx else 0

    def load(self, op: int, immediate: Any, index: int) -> None:
        stack = self.stack
        address = stack.pop()
        nbytes = WIDTHS[op]
        access = self.access(immediate, nbytes)
        if access[1] > NEAR:
            access = self.large_offset(address, immediate, nbytes)
            address = R
        result = LOADED[op]
        if result == R or address >= C32:
            self.spill(R)
        if result != R:
            self.spill(F)
        made, traps = self.stencils.access[op, address, None, access]
        self.trap(traps, index)
        self.out += made
        if result == V:
            self.push_vector()
        else:
            stack.append(result)

    def store(self, op: int, immediate: Any, index: int) -> None:
        stack = self.stack
        vector = LOADED[op] == V
        value = self.pop_vector() if vector else stack.pop()
        at = len(stack)
        if value >= CF:
            value = self.float_operand(value, at)
        address = stack.pop()
        nbytes = WIDTHS[op]
        access = self.access(immediate, nbytes)
        if access[1] > NEAR:
            if value == R or value >= C32:
                self.out += self.stencils.store[value, self.nlocals + at]
                value = self.nlocals + at
            access = self.large_offset(address, immediate, nbytes)
            address = R
        elif address >= C32 and value >= C32:
            self.spill(R)
        made, traps = self.stencils.access[op, address, value, access]
        self.trap(traps, index)
        self.out += made

    def trap(self, targets: tuple[int, ...], index: int) -> None:
        """Code of operator *index* that comes next has branches at *targets* to where an access out of bounds traps."""
        for target in targets:
            self.traps.append(len(self.out) + target)
            if self.marks is not None:
                self.trapping.append(index)

    # Blocks and branches

    def open(self, block: Block) -> Label:
        params = slots_of(block.params) if block.params else 0
        results = slots_of(block.results) if block.results else 0
        label = Label(block, len(self.stack) - params, params if block.kind == "loop" else results, results)
        self.labels.append(label)
        return label

    def fused(self, op: int, first: int, second: int | None, sense: bool) -> tuple[bytes, tuple[int, ...]]:
        """A comparison and a branch that is taken if it comes out as *sense*."""
        if first >= C32 and (second is None or second >= C32):
            self.spill(R)
        found: tuple[bytes, tuple[int, ...]] = self.stencils.branch[op, first, second, ".t" if sense else ".f"]
        return found

    def takes_comparison(self, taker: int, op: int, first: int, second: int | None, sense: bool) -> bool:
        """Compile operator *taker* if it branches without values: on a comparison, as *sense*. False: it does not."""
        ops, immediate = self.record.ops, self.record.immediates[taker]
        block: Any = immediate
        if ops[taker] == _IF_CODE:
            if self.stack:
                self.flush(0)
            label = self.open(block)
            label.otherwise = self.open_branch(*self.fused(op, first, second, not sense))
            return True
        if ops[taker] != _BR_IF_CODE or self.labels[block.depth].arity:
            return False
        self.branch_to(self.labels[block.depth], self.fused(op, first, second, sense))
        return True

    def open_branch(self, code: bytes, targets: tuple[int, ...]) -> int:
        """Append code with a branch; returns the branch's fixup."""
        start = len(self.out)
        self.out += code
        if len(targets) == 1:
            return start + targets[0]
        # Rare (comparisons of floats): one jump that all of them reach, and another past it.
        jump, (fixup,) = self.stencils.encoding.jump
        self.out += self.stencils.encoding.skip
        here = len(self.out)
        for target in targets:
            self.fix(start + target, here)
        self.out += jump
        return here + fixup

    def end(self) -> None:
        """The `end` of a block, or of the function."""
        label = self.labels.pop()
        block, stack, out = label.block, self.stack, self.out
        kind = block.kind
        if block is self.keeper:
            self.kept.clear()
            self.keeper = None
        dead, self.dead = self.dead, False
        if kind == "func":
            if not dead:
                self.move(label)
        elif not (block.targeted and kind != "loop") and not label.live and label.otherwise < 0:
            if dead:
                del stack[label.base :]
                self.dead = True
            return
        elif stack and not dead:
            self.flush(label.base)
        here = len(out)
        for fixup in label.fixups:
            self._fix(out, fixup, here)
        if label.otherwise >= 0:
            self._fix(out, label.otherwise, here)
        for at, table in label.entries:
            self.table_entry(at, table, here)
        if self.landings_of:
            self.land(block, here, self.destination(label))
        if kind == "func":
            out += self.stencils.fragment["ret", "HA", self.slots]
            return
        del stack[label.base :]
        if label.results:
            self.push_slots(label.results)

    def otherwise(self) -> None:
        """The `else` of an if."""
        label = self.labels[-1]
        if not self.dead:
            self.flush(label.base)
            self.jump(label)
            label.live = True
        self.dead = False
        self.fix(label.otherwise, len(self.out))
        label.otherwise = -1
        del self.stack[label.base :]
        self.push_slots(slots_of(label.block.params))

    def land(self, target: Block | int, offset: int, place: int) -> None:
        """Tell clauses whose target is a block, or a catch, where it is."""
        for landing in self.landings_of.get(target if isinstance(target, int) else id(target), ()):
            landing.offset, landing.slot = offset, slot(place)


def compile_function(
    validated: ValidatedModule,
    record: FunctionRecord,
    layout: Layout,
    stencils: Stencils,
    sites: list[Site],
    marks: list[int] | None = None,
) -> Generator[None, None, Compiled]:
    """Compile a function in steps: yields now and then, returns its code.

    Args:
        validated: The module.
        record: The function's, from its validation.
        layout: Of the module's instances.
        stencils: What code is made of.
        sites: Numbered places where code leaves for a rule; those of this function are added.
        marks: A list to fill with the offset of each operator.

    Raises:
        LimitError: If the code would be unreasonably large.
    """
    try:
        compiled = yield from Compiler(validated, record, layout, stencils, sites, marks).run()
    except ReachError:
        if marks is not None:
            marks.clear()
        compiled = yield from Compiler(validated, record, layout, stencils.far, sites, marks).run()
    return compiled
