"""From a function's record to what the direct interpreter runs: kinds and operands, side by side.

Labels become positions in that list, segment costs become operators of their own (CHARGE, and CHECK at check points),
and what does nothing at run time (block, loop, end, nop) disappears. `where` maps a position back to the record's
operator, for traps and for the search of handlers. It knows no instance: all instances of a module share it. Nothing is
executed here.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple

from aiowasm.engine.interpreter.handlers import DELEGATE, Clause, Handlers
from aiowasm.engine.interpreter.rules import RULES
from aiowasm.engine.operators import EVALUATE
from aiowasm.engine.storage import CMPXCHGS, LOAD_LANES, LOADS, RMWS, STORE_LANES, STORES, WIDTHS
from aiowasm.syntax.floats import f32_from_bits, f64_from_bits
from aiowasm.syntax.instructions import BY_CODE, BY_NAME, Instruction
from aiowasm.syntax.steps import finish
from aiowasm.validation.record import make_old

if TYPE_CHECKING:
    from aiowasm.validation.record import Block, FunctionRecord

__all__ = ("Kind", "Label", "Prepared", "prepare", "prepare_steps", "rule_of")


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
    GLOBAL_GET = 24
    GLOBAL_SET = 25
    WAIT = 23
    """`operand` is (rule, immediate): the rule gives a waiter and its timeout, or None and has given the result."""


_UNRESOLVED = frozenset([Kind.BR, Kind.IF, Kind.BR_IF, Kind.BR_TABLE, Kind.BR_ON])
_MAX_SHARED = 50_000
_STEP = 1500  # operators: about 2 ms
_BLOCKS_PER_STEP = 500
_CLAUSE_WIDTH = 4
_LOOP = BY_NAME["loop"].code


class Label(NamedTuple):
    """Where a branch goes: position, operand height below the values it carries, how many it carries."""

    pc: int
    height: int
    arity: int


class Prepared(NamedTuple):
    """A function ready to be interpreted."""

    kinds: bytes
    operands: list[Any]
    where: array[int]
    handlers: Handlers[Any]
    """Targets are (label, whether code may rethrow what was caught), or an operator for DELEGATE."""
    width: int
    """How many labels its instructions have; a clause counts as several, as it does in generated code."""


_CALLS = {BY_NAME[name].code for name in ("call", "call_indirect", "call_ref")}
_TAILS = {BY_NAME[name].code for name in ("return_call", "return_call_indirect", "return_call_ref")}
_THROWS = {BY_NAME[name].code for name in ("throw", "throw_ref", "rethrow")}
_BR_ON = {BY_NAME[name].code for name in ("br_on_null", "br_on_non_null", "br_on_cast", "br_on_cast_fail")}


class _Preparer:
    """The pass over one record: emits, remembers where labels are, and resolves them at the end."""

    def __init__(self, record: FunctionRecord) -> None:
        self.record = record
        # Two sequences, no pairs: a million objects of one body would have Python's collector hold the loop up.
        self.kinds = bytearray()
        self.operands: list[Any] = []
        self.made: dict[tuple[int, Any], Any] = {}
        self.where = array("i")
        self.width = 0
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

    def run(self) -> Generator[None, None, Prepared]:
        make_old(len(self.record.ops))
        self.charge(-1)
        costs = iter(self.record.cost)  # ascending: asking for every operator would search every time
        charged = next(costs, -2)
        while charged == -1:
            charged = next(costs, -2)
        for index, code in enumerate(self.record.ops):
            if not index % _STEP:
                yield
            row = BY_CODE[code]
            if row is None:
                raise RuntimeError(f"validation recorded an unknown operator {code:#x}")
            self.operator(index, row, self.record.immediates[index])
            if index == charged:
                self.charge(index)
                charged = next(costs, -2)
        self.ends.setdefault(len(self.record.ops) - 1, len(self.kinds))
        self.emit(len(self.record.ops) - 1, Kind.RETURN, len(self.record.results))
        operands = self.operands
        for pc, kind in enumerate(self.kinds):
            if not pc % _STEP:
                yield
            if kind in _UNRESOLVED:
                operands[pc] = self.resolve(kind, operands[pc])
        handlers: Handlers[Any] = Handlers()
        for number, block in enumerate(self.record.tries):
            handlers.add(*self.guard(block))
            if not number % _BLOCKS_PER_STEP:
                yield
        handlers.close()
        return Prepared(bytes(self.kinds), operands, self.where, handlers, self.width)

    def emit(self, index: int, kind: int, operand: Any) -> None:
        self.kinds.append(kind)
        self.operands.append(operand)
        self.where.append(index)

    def charge(self, index: int) -> None:
        cost = self.record.cost.get(index, 0)
        if index in self.record.checks:
            loop = index >= 0 and self.record.ops[index] == _LOOP
            self.emit(index, Kind.CHECK, (cost, index if loop else -1))
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
        elif code in LOADS or code in STORES:
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
            self.emit(
                index,
                Kind.WAIT if name.startswith("memory.atomic.wait") else Kind.RULE,
                self.shared(row, immediate, rule_of),
            )

    def arithmetic(self, index: int, row: Instruction, immediate: Any) -> None:
        if row.type is None:
            raise RuntimeError(f"{row.name} has no stack type")
        arity, results = len(row.type[0]), len(row.type[1])
        if immediate is None and results == 1 and arity == 2:
            self.emit(index, Kind.BINARY, EVALUATE[row.code])
        elif immediate is None and results == 1 and arity == 1:
            self.emit(index, Kind.UNARY, EVALUATE[row.code])
        else:
            self.emit(index, Kind.RULE, self.shared(row, immediate, rule_of))

    def access(self, index: int, row: Instruction, immediate: Any) -> None:
        code = row.code
        if code in LOADS:
            self.emit(index, Kind.LOAD, self.shared(row, immediate, _load))
        else:
            self.emit(index, Kind.STORE, self.shared(row, immediate, _store))

    def shared(self, row: Instruction, immediate: Any, make: Callable[[Instruction, Any], Any]) -> Any:
        """One operand for all instructions that are the same: a body of megabytes has few different ones."""
        key = (row.code, immediate)
        operand = self.made.get(key)
        if operand is None:
            operand = make(row, immediate)
            if len(self.made) < _MAX_SHARED:  # growing a dictionary of millions holds the loop up too
                self.made[key] = operand
        return operand

    def structure(self, index: int, name: str, immediate: Any) -> None:
        if name == "loop":
            self.heads[index] = len(self.kinds)
        elif name == "if":
            self.emit(index, Kind.IF, immediate)
        elif name in ("else", "catch", "catch_all"):
            # The arm before falls into a jump to the end; this one starts behind it.
            self.emit(index, Kind.BR, _Skip(index))
            self.elses[index] = len(self.kinds)
        elif name in ("end", "delegate"):
            self.ends[index] = len(self.kinds)

    def label(self, block: Block) -> Label:
        if block.kind == "loop":
            return Label(self.heads[block.start], block.height, len(block.params))
        return Label(self.ends[block.end], block.height, len(block.results))

    def resolve(self, kind: int, operand: Any) -> Any:
        if kind == Kind.BR and isinstance(operand, _Skip):
            return Label(self.ends[self.after[operand.at]], -1, 0)
        if kind == Kind.IF:
            block: Block = operand
            return self.elses[block.else_] if block.else_ >= 0 else self.ends[block.end]
        if kind in (Kind.BR, Kind.BR_IF):
            return self.label(operand)
        if kind == Kind.BR_TABLE:
            self.width += len(operand)
            # A table may name a few blocks a million times.
            labels = {block: self.label(block) for block in dict.fromkeys(operand)}
            return tuple(map(labels.__getitem__, operand))
        if kind == Kind.BR_ON:
            rule, immediate = operand
            block = immediate[0] if isinstance(immediate, tuple) else immediate
            return (rule, immediate, self.label(block))
        return operand

    def guard(self, block: Block) -> tuple[int, int, list[Clause[Any]]]:
        # The catches of a legacy try do not guard one another: what it guards ends with the first of them.
        end = min([target for _kind, _tagidx, target in block.catches if isinstance(target, int)], default=block.end)
        clauses: list[Clause[Any]] = []
        for kind, tagidx, target in block.catches:
            if isinstance(target, int):
                clauses.append(Clause(kind, tagidx, (Label(self.elses[target], block.height, 0), True)))
            elif kind == DELEGATE:
                clauses.append(Clause(kind, None, target.start))
            else:
                clauses.append(Clause(kind, tagidx, (self.label(target), False)))
        self.width += _CLAUSE_WIDTH * len(clauses)
        return block.start, end, clauses


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
    "global.get": Kind.GLOBAL_GET,
    "global.set": Kind.GLOBAL_SET,
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


def _access(row: Instruction, immediate: Any) -> tuple[int, int, int, int]:
    """What an access needs: offset, memidx, bytes, and the address bits that an atomic one wants to be zero."""
    memidx, offset = immediate if isinstance(immediate, tuple) else (0, immediate)
    nbytes = WIDTHS[row.code]
    return offset, memidx, nbytes, nbytes - 1 if row.name.partition(".")[2].startswith("atomic") else 0


def _load(row: Instruction, immediate: Any) -> tuple[Any, ...]:
    return LOADS[row.code], *_access(row, immediate)


def _store(row: Instruction, immediate: Any) -> tuple[Any, ...]:
    return STORES[row.code], *_access(row, immediate)


def rule_of(row: Instruction, immediate: Any) -> tuple[Callable[..., Any], Any]:
    """Return the rule of an instruction that is not control, and what it takes for its immediate."""
    code = row.code
    if code in EVALUATE:
        if row.type is None:
            raise RuntimeError(f"{row.name} has no stack type")
        return RULES["*"], (EVALUATE[code], immediate, len(row.type[0]), len(row.type[1]))
    if code in LOAD_LANES or code in STORE_LANES:
        access, lane = immediate
        return RULES["*lane"], (LOAD_LANES.get(code), STORE_LANES.get(code), lane, *_access(row, access))
    if code in RMWS or code in CMPXCHGS:
        return RULES["*rmw"], (RMWS.get(code) or CMPXCHGS[code], code in RMWS, *_access(row, immediate))
    if row.name == "memory.atomic.notify":
        return RULES[row.name], _access(row, immediate)
    if row.name.startswith("memory.atomic.wait"):
        return RULES["*wait"], _access(row, immediate)
    return RULES[row.name], immediate


def prepare_steps(record: FunctionRecord) -> Generator[None, None, Prepared]:
    """Bring *record* into the form the direct interpreter runs, yielding now and then."""
    return _Preparer(record).run()


def prepare(record: FunctionRecord) -> Prepared:
    """Return *record* in the form the direct interpreter runs."""
    return finish(prepare_steps(record))
