"""Innermost loops of integers as code that keeps values in registers, where the architecture has such code.

A loop that needs more than is done here becomes code in the usual way, operator by operator. A register is only a place
within one round: pauses, at the head, find every local in its slot. What is gained is most of the loads and stores
between operators (benchmarks/wasi.py: SHA-256; benchmarks/native.py: sha256, sieve).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiowasm.engine.native import treatment as c
from aiowasm.engine.native.encoding.x86_64_integers import IntegerCode
from aiowasm.engine.native.loop_plan import BARRIERS, ROWS, Plan, plan_loop
from aiowasm.engine.native.loop_values import NotTaken, Value, Values
from aiowasm.engine.storage import WIDTHS

if TYPE_CHECKING:
    from collections.abc import Generator

    from aiowasm.engine.native.compiler import Compiler, Label
    from aiowasm.validation.record import Block

__all__ = ("compile_loop",)

_STEP: Final = 64
_BRANCH: Final = 16
"""What a branch counts for in a step."""
_EQUAL: Final = 4
_NEGATIVE: Final = 8


def compile_loop(compiler: Compiler, index: int) -> Generator[None, None, bool]:
    """Append the code of the loop that operator *index* starts, up to its `end`; False: it is none of those.

    Yields now and then: an operator takes 8 us, a branch some 100, where everything is in use.
    """
    code = compiler.stencils.encoding.integer_code()
    if code is None:
        return False
    block: Any = compiler.record.immediates[index]
    treatment = c.treatment_of(compiler.stencils)
    plan = plan_loop(compiler.validated, compiler.record, block, treatment, code)
    if plan is None:
        return False
    loop = _Loop(compiler, block, plan, code, treatment)
    try:
        yield from loop.walk(index)
    except NotTaken:
        return False
    loop.append()
    return True


class _Target:
    """A block within the loop that is open: the operands below it, and the branches that want to know its end."""

    __slots__ = ("fixups", "height", "otherwise")

    def __init__(self, height: int) -> None:
        self.height = height
        self.fixups: list[int] = []
        self.otherwise = -1


class _Exit:
    """A way out: the branch that takes it, the code that brings values to their slots, and where it leads."""

    __slots__ = ("body", "fixup", "label")

    def __init__(self, fixup: int, body: bytes, label: Label | None) -> None:
        self.fixup = fixup
        self.body = body
        self.label = label
        """None: the function returns."""


class _Loop:
    """One walk over the operators of a loop. `code.out` starts at the loop's head."""

    def __init__(self, compiler: Compiler, block: Block, plan: Plan, code: IntegerCode, treatment: list[int]) -> None:
        self.compiler = compiler
        self.record = compiler.record
        self.block = block
        self.plan = plan
        self.code = code
        self.treatment = treatment
        base = compiler.nlocals + len(compiler.stack)
        self.values = Values(code, plan, compiler.places, base)
        self.targets: dict[int, _Target] = {}
        self.open: list[Block] = []
        self.exits: list[_Exit] = []
        self.traps: list[tuple[int, int]] = []
        self.marks: list[int] = []
        self.pause = -1
        self.dead = False

    # The walk

    def walk(self, start: int) -> Generator[None, None, None]:
        """Make the code of all operators; raises `NotTaken`, and then nothing has happened."""
        values, code, treatment, end = self.values, self.code, self.treatment, self.block.end
        ops, cost, marks = self.record.ops, self.record.cost, self.marks
        values.index = start
        code.charge(cost[start])
        self.pause = code.branch(_NEGATIVE)
        values.start()
        index, work = start + 1, 0
        while index < end:
            values.index = index
            marks.append(len(code.out))
            following = self.operator(index)
            while len(marks) < following - start - 1:
                marks.append(len(code.out))
            index = following
            if units := cost.get(index - 1):
                code.charge(units)
            work += _BRANCH if treatment[ops[index - 1]] in BARRIERS else 1
            if work >= _STEP:
                work = 0
                yield
        marks.append(len(code.out))
        if not self.dead:
            values.index = index
            values.leave_slots(len(self.block.results), values.base, keep_locals=True)

    def operator(self, index: int) -> int:
        """Make the code of an operator, or of several at once; returns the index of the next."""
        record, values = self.record, self.values
        op, immediate = record.ops[index], record.immediates[index]
        kind = self.treatment[op]
        local: Any = immediate
        if kind == c.GET:
            values.push(values.locals[local])
        elif kind in (c.CONST32, c.CONST64):
            values.push(Value(kind == c.CONST64, bits=local))
        elif kind == c.SET:
            value = values.pop()
            values.name(local, value)
            values.release(value)
        elif kind == c.TEE:
            values.name(local, values.stack[-1])
        elif kind in (c.COMPARE1, c.COMPARE2):
            return self.comparison(index)
        elif op in ROWS:
            self.compute(op, immediate, index)
        elif kind == c.SELECT:
            self.select(*self.truth_of(values.pop()))
        elif kind == c.DROP:
            values.release(values.pop())
        elif kind != c.NOP:
            self.control(kind, immediate, index)
        return index + 1

    def control(self, kind: int, immediate: Any, index: int) -> None:
        values = self.values
        if kind == c.BLOCK:
            self.enter(immediate)
        elif kind == c.IF:
            self.begin_if(immediate, *self.truth_of(values.pop()))
        elif kind == c.ELSE:
            self.otherwise()
        elif kind == c.END:
            self.end()
        elif kind == c.BR_IF:
            self.branch_if(immediate, *self.truth_of(values.pop()))
        elif kind == c.BR:
            self.branch(immediate)
        elif kind == c.RETURN:
            self.leave(self.code.jump(), None, len(self.record.results), 0)
            self.dead = True
        else:
            raise NotTaken

    # What computes

    def operand(self, value: Value, *pinned: Value) -> int:
        """A popped value as an operand: from its slot if that is the only use."""
        values = self.values
        if value.register < 0 and value.bits < 0 and values.is_used_again(value) and values.spare() >= 0:
            values.in_register(value, *pinned)
        return value.operand

    def target(self, a: Value, b: Value | None, commutes: bool) -> int:
        """A register for the result of an operator: that of an operand which nobody else needs, or a free one."""
        values = self.values
        for value in (a, b) if commutes else (a,):
            if value is not None and value.references == 1 and value.register >= 0:
                return value.register
        return values.free_register(a, *(() if b is None else (b,)))

    def finish(self, register: int, wide: bool, *operands: Value) -> None:
        """Let go of operands and push the result, which is in a register now."""
        values = self.values
        for value in operands:
            if value.register == register:
                del values.registers[register]
                value.register = -1
            values.release(value)
        result = Value(wide)
        result.references = 1
        values.take(register, result)
        values.stack.append(result)

    def compute(self, op: int, immediate: Any, index: int) -> None:
        operation = ROWS[op]
        values, code = self.values, self.code
        wide = operation.shape == "i64"
        if operation.family == "load":
            self.load(operation.operator, wide, immediate, index)
        elif operation.family == "store":
            self.store(operation.operator, immediate, index)
        elif operation.family == "binop":
            b = values.pop()
            a = values.pop()
            b_operand = self.operand(b, a)
            a_operand = self.operand(a, b)
            register = self.target(a, b, code.is_commutative(operation.operator))
            code.binary(operation.operator, wide, register, a_operand, b_operand)
            self.finish(register, wide, a, b)
        else:
            a = values.pop()
            operand = self.operand(a)
            register = self.target(a, None, False)
            if operation.operator in ("wrap", "extend_u"):
                # Moved if it is in place already, too: what is above an i32 in a register is zero.
                code.truncate(register, operand)
            else:
                operator = "iextend32_s" if operation.operator == "extend_s" else operation.operator
                code.unary(operator, wide, register, operand)
            self.finish(register, wide, a)

    def address(self, nbytes: int, offset: int, index: int, *pinned: Value) -> tuple[Value, int]:
        """Pop an address and make sure that an access there is in bounds; returns it and its register."""
        values = self.values
        address = values.pop()
        register = values.in_register(address, *pinned)
        if address.checked_nbytes < offset + nbytes:
            address.checked_nbytes = offset + nbytes
            self.traps.append((self.code.check(register, offset + nbytes), index))
        return address, register

    def load(self, storage: str, wide: bool, offset: int, index: int) -> None:
        address, base = self.address(WIDTHS[self.record.ops[index]], offset, index)
        register = self.target(address, None, False)
        self.code.load(storage, wide, register, base, offset)
        self.finish(register, wide, address)

    def store(self, storage: str, offset: int, index: int) -> None:
        values = self.values
        value = values.pop()
        if value.bits >= 0 or (value.register < 0 and values.spare() >= 0):
            values.in_register(value)
        address, base = self.address(WIDTHS[self.record.ops[index]], offset, index, value)
        self.code.save(storage, base, offset, value.operand)
        values.release(value)
        values.release(address)

    # Comparisons and what follows them

    def truth_of(self, value: Value) -> tuple[int, tuple[Value, ...], bool, Value, Value | None]:
        """What `compare` needs to know of an i32 that is true if it is not zero."""
        return _EQUAL ^ 1, (value,), False, value, None

    def comparison(self, index: int) -> int:
        """A comparison, with the `eqz` behind it and the operator that wants to know."""
        record, values = self.record, self.values
        ops, cost = record.ops, record.cost
        operation = ROWS[ops[index]]
        condition = self.code.condition(operation.operator)
        if condition is None:
            raise NotTaken
        second = values.pop() if operation.family == "relop" else None
        first = values.pop()
        following = index + 1
        while following < self.block.end and following - 1 not in cost and _is_eqz(ops[following]):
            condition ^= 1
            following += 1
        operands = (first,) if second is None else (first, second)
        known = condition, operands, operation.shape == "i64", first, second
        values.index = following - 1
        if following < self.block.end and following - 1 not in cost:
            kind, immediate = self.treatment[ops[following]], record.immediates[following]
            target: Any = immediate
            if kind in (c.BR_IF, c.IF, c.SELECT):
                values.index = following
            if kind == c.BR_IF:
                self.branch_if(target, *known)
                return following + 1
            if kind == c.IF:
                self.begin_if(target, *known)
                return following + 1
            if kind == c.SELECT:
                self.select(*known)
                return following + 1
        condition = self.compare(*known)
        register = values.free_register()  # making room leaves the flags alone
        self.code.truth(condition, register)
        self.finish(register, False)
        return following

    def compare(
        self, condition: int, operands: tuple[Value, ...], wide: bool, first: Value, second: Value | None
    ) -> int:
        """Set the flags, and let go of the operands; returns the condition to ask for."""
        values = self.values
        if second is None:
            self.code.test(wide, self.operand(first))
        else:
            if first.bits >= 0 and second.bits >= 0:
                values.in_register(first, second)
            b = self.operand(second, first)
            a = self.operand(first, second)
            condition = self.code.compare(wide, condition, a, b)
        for value in operands:
            values.release(value)
        return condition

    def select(
        self, condition: int, operands: tuple[Value, ...], wide: bool, first: Value, second: Value | None
    ) -> None:
        values, code = self.values, self.code
        b = values.pop()
        a = values.pop()
        pinned = (a, b, *operands)
        if a.bits >= 0 and a.register < 0:
            values.in_register(a, *pinned)
        register = values.free_register(*pinned)
        code.move(register, b.operand, b.wide)
        # It is taken until the comparison is done.
        held = Value(b.wide)
        held.references = 1
        values.take(register, held)
        if second is not None and first.bits >= 0 and second.bits >= 0:
            values.in_register(first, *pinned, held)
        x = first.operand
        if second is None:
            code.test(wide, x)
        else:
            condition = code.compare(wide, condition, x, second.operand)
        code.choose(condition, b.wide, register, a.operand)
        for value in (a, b, *operands):
            values.release(value)
        values.stack.append(held)

    # Control

    def go_home(self) -> None:
        """Bring everything to where the label that comes next expects it."""
        self.values.go_home(len(self.values.stack), self.values.index)

    def enter(self, block: Block) -> None:
        self.open.append(block)
        self.targets[id(block)] = _Target(len(self.values.stack))

    def begin_if(self, block: Block, *known: Any) -> None:
        condition = self.compare(*known)
        self.enter(block)
        self.go_home()
        self.targets[id(block)].otherwise = self.code.branch(condition ^ 1)
        self.values.start(len(self.values.stack))

    def otherwise(self) -> None:
        target = self.targets[id(self.open[-1])]
        if not self.dead:
            self.go_home()
            target.fixups.append(self.code.jump())
        self.dead = False
        self.code.fix(target.otherwise, len(self.code.out))
        target.otherwise = -1
        self.values.start(target.height)

    def end(self) -> None:
        block = self.open.pop()
        target = self.targets.pop(id(block))
        joined = bool(target.fixups) or target.otherwise >= 0
        if not joined:
            return
        if not self.dead:
            self.go_home()
        if target.otherwise >= 0:
            target.fixups.append(target.otherwise)
        for fixup in target.fixups:
            self.code.fix(fixup, len(self.code.out))
        self.dead = False
        self.values.start(target.height)

    def branch_if(self, block: Block, *known: Any) -> None:
        condition = self.compare(*known)
        values, code = self.values, self.code
        if block is self.block and self.plan.transient:
            # Not by way of home, where these would be lost for what follows.
            skip = code.branch(condition ^ 1)
            restore = values.snapshot()
            values.go_home(0, self.block.start)
            code.fix(code.jump(), 0)
            restore()
            code.fix(skip, len(code.out))
        elif block is self.block:
            self.go_home()
            code.fix(code.branch(condition), 0)
            values.start(len(values.stack))
        elif id(block) in self.targets:
            self.go_home()
            self.targets[id(block)].fixups.append(code.branch(condition))
            values.start(len(values.stack))
        else:
            self.leave_to(code.branch(condition), block)

    def branch(self, block: Block) -> None:
        values, code = self.values, self.code
        if block is self.block or id(block) in self.targets:
            height = 0 if block is self.block else self.targets[id(block)].height
            values.go_home(height, self.block.start if block is self.block else values.index)
            fixup = code.jump()
            if block is self.block:
                code.fix(fixup, 0)
            else:
                self.targets[id(block)].fixups.append(fixup)
        else:
            self.leave_to(code.jump(), block)
        self.dead = True

    def leave_to(self, fixup: int, block: Block) -> None:
        """A branch to a label around the loop."""
        label = self.compiler.labels[block.depth]
        self.leave(fixup, label, label.arity, self.compiler.destination(label))

    def leave(self, fixup: int, label: Label | None, results: int, to: int) -> None:
        """Make the code of a way out, which stands elsewhere."""
        code, values = self.code, self.values
        out, code.out = code.out, bytearray()
        try:
            keeps = label is not None and label.block.kind != "func"
            values.leave_slots(results, to, keep_locals=keeps)
            self.exits.append(_Exit(fixup, bytes(code.out), label))
        finally:
            code.out = out

    # Putting it together

    def append(self) -> None:
        """Append all code: what stands before the head, first of all what is rare, and the loop."""
        compiler, code, values = self.compiler, self.code, self.values
        used = frozenset(values.used) & code.restored
        main = code.out
        if not self.dead:
            code.restore(used)
        code.out = before = bytearray()
        over = code.jump()
        pause = self._pause(used)
        to_main = len(before)
        code.jump()  # back behind the charge
        places = []
        fixups: list[tuple[int, Label]] = []
        for way in self.exits:
            places.append(len(before))
            before += way.body
            code.restore(used)
            if way.label is None:
                before += compiler.stencils.fragment["ret", "HA", compiler.slots]
            else:
                fixups.append((code.jump(), way.label))
        traps = []
        if used:
            for _fixup, index in self.traps:
                places.append(len(before))
                code.restore(used)
                traps.append((code.jump(), index))
        code.fix(over, len(before))
        self._enter(used)
        head = len(before)
        code.out = before + main
        code.fix(to_main + 1, head + self.pause + 4)
        code.fix(head + self.pause, pause)
        sources = [way.fixup for way in self.exits] + ([fixup for fixup, _ in self.traps] if used else [])
        for fixup, place in zip(sources, places, strict=True):
            code.fix(head + fixup, place)
        self._land(head, fixups, traps if used else [(head + fixup, index) for fixup, index in self.traps])

    def _land(self, head: int, fixups: list[tuple[int, Label]], traps: list[tuple[int, int]]) -> None:
        """Hand the code over to the compiler."""
        compiler = self.compiler
        start = len(compiler.out)
        compiler.out += self.code.out
        for fixup, label in fixups:
            if label.head >= 0:
                compiler.fix(start + fixup, label.head)
            else:
                label.fixups.append(start + fixup)
        compiler.traps.extend(start + fixup for fixup, _ in traps)
        if compiler.marks is not None:
            compiler.trapping.extend(index for _, index in traps)
            compiler.marks.extend(start + head + mark for mark in self.marks)
        if self.dead:
            compiler.dead = True
        else:
            compiler.push_slots(len(self.block.results))

    def _pause(self, used: frozenset[int]) -> int:
        """Code that brings locals to their slots, pauses, and loads them again; returns where it starts."""
        code, plan, places = self.code, self.plan, self.compiler.places
        start = len(code.out)
        for local, register in plan.homes.items():
            if local in plan.set_locals:
                code.store(places[local], ~register)
        code.restore(used)
        code.out += self.compiler.stencils.raw("yield")
        self._enter(used)
        return start

    def _enter(self, used: frozenset[int]) -> None:
        """Code that brings locals from their slots to their registers."""
        code, plan = self.code, self.plan
        code.set_aside(used)
        for local, register in plan.homes.items():
            code.move(register, self.compiler.places[local], plan.is_wide[local])


def _is_eqz(op: int) -> bool:
    return op in ROWS and ROWS[op].operator == "ieqz"
