"""From a function's record to what the direct interpreter runs: a flat list of (kind, operand) pairs.

Labels become positions in that list, segment costs become operators of their own (CHARGE, and CHECK at check points),
and what does nothing at run time (block, loop, end, nop) disappears. `where` maps a position back to the record's
operator, for traps and for the search of handlers. Nothing is executed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from aiowasm.engine.interpreter.rules import RULES
from aiowasm.engine.operators import EVALUATE
from aiowasm.engine.storage import CMPXCHGS, LOAD_LANES, LOADS, RMWS, STORE_LANES, STORES, WIDTHS
from aiowasm.syntax.floats import f32_from_bits, f64_from_bits
from aiowasm.syntax.instructions import BY_CODE, BY_NAME, Instruction

if TYPE_CHECKING:
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.validation.record import Block, FunctionRecord

__all__ = ("DELEGATE", "Handler", "Kind", "Label", "Prepared", "prepare")


class Kind:
    """What the interpreter's loop does with an operand; in about the order of frequency."""

    LOCAL_GET = 0
    CONST = 1
    BINARY = 2
    LOCAL_SET = 3
    LOCAL_TEE = 4
    LOAD = 5
    STORE = 6
    BR_IF = 7
    CHARGE = 8
    CHECK = 9
    UNARY = 10
    BR = 11
    IF = 12
    RETURN = 14
    BR_TABLE = 15
    DROP = 16
    SELECT = 17
    RULE = 18
    """`operand` is (rule, immediate): the rule works on the operand stack."""
    LEAVE = 19
    """`operand` is (rule, immediate): the rule gives a function to call."""
    TAIL = 20
    BR_ON = 21
    """`operand` is (rule, immediate, label): branch if the rule says so."""
    THROW = 22
    WAIT = 23
    """`operand` is (rule, immediate): the rule gives a waiter and its timeout, or None and has given the result."""


class Label(NamedTuple):
    """Where a branch goes: position, operand height below the values it carries, how many it carries."""

    pc: int
    height: int
    arity: int


DELEGATE = 4
"""The kind of a handler that gives exceptions to those around `Handler.label.pc`, an operator of the record."""


class Handler(NamedTuple):
    """A clause of a try block around the operators `start` < i < `end` of the record.

    `keeps` says that code may rethrow what was caught (legacy exceptions).
    """

    start: int
    end: int
    kind: int
    tagidx: int | None
    label: Label
    keeps: bool = False


class Prepared(NamedTuple):
    """A function ready to be interpreted."""

    code: list[tuple[int, Any]]
    where: list[int]
    handlers: list[Handler]
    """Innermost first."""
    record: FunctionRecord


_CALLS = {BY_NAME[name].code for name in ("call", "call_indirect", "call_ref")}
_TAILS = {BY_NAME[name].code for name in ("return_call", "return_call_indirect", "return_call_ref")}
_THROWS = {BY_NAME[name].code for name in ("throw", "throw_ref", "rethrow")}
_BR_ON = {BY_NAME[name].code for name in ("br_on_null", "br_on_non_null", "br_on_cast", "br_on_cast_fail")}


class _Preparer:
    """The pass over one record: emits, remembers where labels are, and resolves them at the end."""

    def __init__(self, record: FunctionRecord, instance: ModuleInst) -> None:
        self.record = record
        self.instance = instance
        self.code: list[tuple[int, Any]] = []
        self.where: list[int] = []
        self.ends: dict[int, int] = {}
        self.elses: dict[int, int] = {}
        self.heads: dict[int, int] = {}
        self.after: dict[int, int] = {}
        """Operator that starts another arm of its block (else, catch) -> the end of the block."""
        for block in record.blocks:
            if block.else_ >= 0:
                self.after[block.else_] = block.end
        for block in record.tries:
            self.after.update(
                {target: block.end for _kind, _tagidx, target in block.catches if isinstance(target, int)}
            )

    def run(self) -> Prepared:
        self.charge(-1)
        for index, code in enumerate(self.record.ops):
            row = BY_CODE[code]
            if row is None:
                raise RuntimeError(f"validation recorded an unknown operator {code:#x}")
            self.operator(index, row, self.record.immediates[index])
            self.charge(index)
        self.ends.setdefault(len(self.record.ops) - 1, len(self.code))
        self.emit(len(self.record.ops) - 1, Kind.RETURN, len(self.record.results))
        resolved = [self.resolve(kind, operand) for kind, operand in self.code]
        return Prepared(resolved, self.where, self.handlers(), self.record)

    def emit(self, index: int, kind: int, operand: Any) -> None:
        self.code.append((kind, operand))
        self.where.append(index)

    def charge(self, index: int) -> None:
        cost = self.record.cost.get(index, 0)
        if index in self.record.checks:
            self.emit(index, Kind.CHECK, cost)
        elif cost:
            self.emit(index, Kind.CHARGE, cost)

    def operator(self, index: int, row: Instruction, immediate: Any) -> None:
        code = row.code
        operation = row.operation
        name = row.name
        if operation is not None and operation.family == "const":
            self.emit(index, Kind.CONST, _constant(operation.shape, immediate))
        elif code in EVALUATE:
            self.arithmetic(index, row, immediate)
        elif code in WIDTHS:
            self.access(index, row, immediate)
        elif name in _PLAIN:
            self.emit(index, _PLAIN[name], immediate)
        elif row.immediates[:1] == ("block",) or name in ("else", "catch", "catch_all", "end", "delegate"):
            self.structure(index, name, immediate)
        elif name == "return":
            self.emit(index, Kind.RETURN, len(self.record.results))
        elif code in _CALLS:
            self.emit(index, Kind.LEAVE, (RULES[name], immediate))
        elif code in _TAILS:
            self.emit(index, Kind.TAIL, (RULES[name], immediate))
        elif code in _THROWS:
            self.emit(index, Kind.THROW, (RULES[name], immediate))
        elif code in _BR_ON:
            self.emit(index, Kind.BR_ON, (RULES[name], immediate))
        elif name != "nop":
            self.emit(index, Kind.RULE, (RULES[name], immediate))

    def arithmetic(self, index: int, row: Instruction, immediate: Any) -> None:
        function = EVALUATE[row.code]
        if row.type is None:
            raise RuntimeError(f"{row.name} has no stack type")
        arity, results = len(row.type[0]), len(row.type[1])
        if immediate is None and results == 1 and arity == 2:
            self.emit(index, Kind.BINARY, function)
        elif immediate is None and results == 1 and arity == 1:
            self.emit(index, Kind.UNARY, function)
        else:
            self.emit(index, Kind.RULE, (RULES["*"], (function, immediate, arity, results)))

    def access(self, index: int, row: Instruction, immediate: Any) -> None:
        code, lane = row.code, 0
        if code in LOAD_LANES or code in STORE_LANES:
            immediate, lane = immediate
        memidx, offset = immediate if isinstance(immediate, tuple) else (0, immediate)
        atomic = row.name.partition(".")[2].startswith("atomic")
        nbytes = WIDTHS[code]
        access = (offset, self.instance.mems[memidx].cell, nbytes, nbytes - 1 if atomic else 0)
        if code in LOADS:
            self.emit(index, Kind.LOAD, (LOADS[code], *access))
        elif code in STORES:
            self.emit(index, Kind.STORE, (STORES[code], *access))
        elif code in RMWS or code in CMPXCHGS:
            self.emit(index, Kind.RULE, (RULES["*rmw"], (RMWS.get(code) or CMPXCHGS[code], code in RMWS, *access)))
        elif row.name == "memory.atomic.notify":
            self.emit(index, Kind.RULE, (RULES[row.name], (self.instance.mems[memidx], *access)))
        elif row.name.startswith("memory.atomic.wait"):
            self.emit(index, Kind.WAIT, (RULES["*wait"], (self.instance.mems[memidx], *access)))
        else:
            load, store = LOAD_LANES.get(code), STORE_LANES.get(code)
            self.emit(index, Kind.RULE, (RULES["*lane"], (load, store, lane, *access)))

    def structure(self, index: int, name: str, immediate: Any) -> None:
        if name == "loop":
            self.heads[index] = len(self.code)
        elif name == "if":
            self.emit(index, Kind.IF, immediate)
        elif name in ("else", "catch", "catch_all"):
            # The arm before falls into a jump to the end; this one starts behind it.
            self.emit(index, Kind.BR, _Skip(index))
            self.elses[index] = len(self.code)
        elif name in ("end", "delegate"):
            self.ends[index] = len(self.code)

    def label(self, block: Block) -> Label:
        if block.kind == "loop":
            return Label(self.heads[block.start], block.height, len(block.params))
        return Label(self.ends[block.end], block.height, len(block.results))

    def resolve(self, kind: int, operand: Any) -> tuple[int, Any]:
        if kind == Kind.BR and isinstance(operand, _Skip):
            return kind, Label(self.ends[self.after[operand.at]], -1, 0)
        if kind == Kind.IF:
            block: Block = operand
            return kind, self.elses[block.else_] if block.else_ >= 0 else self.ends[block.end]
        if kind in (Kind.BR, Kind.BR_IF):
            return kind, self.label(operand)
        if kind == Kind.BR_TABLE:
            return kind, tuple(self.label(block) for block in operand)
        if kind == Kind.BR_ON:
            rule, immediate = operand
            block = immediate[0] if isinstance(immediate, tuple) else immediate
            return kind, (rule, immediate, self.label(block))
        return kind, operand

    def handlers(self) -> list[Handler]:
        # Try blocks are recorded in order of their start, so the innermost around an operator comes last.
        return [handler for block in reversed(self.record.tries) for handler in self.clauses(block)]

    def clauses(self, block: Block) -> Iterator[Handler]:
        # The catches of a legacy try do not guard one another: what it guards ends with the first of them.
        end = min([target for _kind, _tagidx, target in block.catches if isinstance(target, int)], default=block.end)
        for kind, tagidx, target in block.catches:
            if isinstance(target, int):
                yield Handler(block.start, end, kind, tagidx, Label(self.elses[target], block.height, 0), True)
            elif kind == DELEGATE:
                yield Handler(block.start, end, kind, None, Label(target.start, 0, 0))
            else:
                yield Handler(block.start, end, kind, tagidx, self.label(target))


class _Skip(NamedTuple):
    """The jump over another arm of its block, until the position of the end is known."""

    at: int


_PLAIN = {
    "local.get": Kind.LOCAL_GET,
    "local.set": Kind.LOCAL_SET,
    "local.tee": Kind.LOCAL_TEE,
    "br": Kind.BR,
    "br_if": Kind.BR_IF,
    "br_table": Kind.BR_TABLE,
    "drop": Kind.DROP,
    "select": Kind.SELECT,
    "select_t": Kind.SELECT,
}


def _constant(shape: str, immediate: Any) -> object:
    if shape == "f32" and isinstance(immediate, int):
        return f32_from_bits(immediate)
    if shape == "f64" and isinstance(immediate, int):
        return f64_from_bits(immediate)
    return immediate


def prepare(record: FunctionRecord, instance: ModuleInst) -> Prepared:
    """Return *record* in the form the direct interpreter runs, bound to the memories of *instance*."""
    return _Preparer(record, instance).run()
