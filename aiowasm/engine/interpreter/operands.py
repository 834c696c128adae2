"""Generating code for what computes, reads and writes: everything but control.

Handlers are named after instructions. Arithmetic is `expressions`, the operand stack `emitter`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiowasm.engine.interpreter.accesses import LOAD_FORMS, STORE_FORMS
from aiowasm.engine.interpreter.emitter import Emitter, Scope, shape_of
from aiowasm.engine.interpreter.expressions import (
    BOOL,
    EXACT,
    MASKS,
    NAN_CANONICAL,
    NAN_DIRTY,
    TEMPLATES,
    TRAPS,
    Expr,
    canonical,
    clean,
    whole,
)
from aiowasm.engine.interpreter.shapes import CALLISH, resumable, signature
from aiowasm.engine.storage import LOAD_LANES, STORE_LANES
from aiowasm.syntax.floats import bits_from_f64, f32_from_bits, f64_from_bits
from aiowasm.syntax.instructions import BY_CODE, BY_NAME
from aiowasm.syntax.types import AddressType, NumType, PackedType, RefType, StorageType

if TYPE_CHECKING:
    from aiowasm.validation.context import Context
    from aiowasm.validation.record import Block, FunctionRecord

__all__ = ("OperandGenerator",)

_EQZ = frozenset(BY_NAME[name].code for name in ("i32.eqz", "i64.eqz"))


class OperandGenerator(Emitter):
    """Handlers of instructions that are not control."""

    def __init__(self, record: FunctionRecord, context: Context, funcidx: int) -> None:
        super().__init__(len(record.locals))
        self.record = record
        self.context = context
        self.funcidx = funcidx
        self.cost = dict(record.cost.items())
        self.checks = set(record.checks)
        self.shapes = [shape_of(valtype) for valtype in record.locals]
        self.resumable = resumable(record)
        self.budget = self.nlocals + record.max_height + 4
        self.scopes: list[Scope] = []
        self.tries: list[tuple[Block, list[tuple[int, int | None, Scope]]]] = []
        self.live = True
        self.has_tail = False

    # Fuel, and statements that can be left

    def charge(self, index: int) -> None:
        """Charge the segment after operator *index*; stop there if that is a check point and the slice is used up."""
        units = self.cost.get(index, 0)
        if index in self.checks:
            self.line(f"fuel-={units}#k{index + 1}:{units}")
            self.line("if fuel<0:raise Suspend")
        elif units:
            self.line(f"fuel-={units}")

    def split(self, index: int) -> None:
        """A check point between two operators."""
        if not self.live:
            return
        self.flush_all()
        self.leaf(index + 1)
        self.charge(index)

    def charge_or_split(self, index: int) -> None:
        if index in self.checks:
            self.split(index)
        else:
            self.charge(index)

    def arguments(self, shapes: list[str]) -> str:
        count = len(shapes)
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return "".join(self.typed(value, shape) + "," for value, shape in zip(values, shapes, strict=True))

    def leave(self, index: int, call: str, results: list[str]) -> None:
        """A statement after which the function can be resumed: a call and its like; its operands are popped already."""
        height = len(self.stack)
        targets = ",".join(f"s{height + i}" for i in range(len(results)))
        self.line(f"#c{index + 1}:{self.nlocals + height}:{len(results)}\n{targets + '=' if results else ''}{call}")
        self.stack += [self.slot(height + i, shape) for i, shape in enumerate(results)]
        self.leaf(index + 1)

    # Arithmetic and accesses

    def arithmetic(self, index: int, code: int) -> None:
        template = TEMPLATES[code]
        stack = self.stack
        arity = len(BY_CODE[code].type[0])  # type: ignore[union-attr,index]
        if arity == 2:
            right = whole(stack.pop())
            made = template(whole(stack.pop()), right)
        elif arity == 1:
            operand = stack.pop()
            made = template(operand if code in _EQZ else whole(operand))
        else:
            operands = [whole(expr) for expr in stack[len(stack) - arity :]]
            del stack[len(stack) - arity :]
            made = template(*operands)
        if code in TRAPS:
            made = Expr(f"(#z{index}\n{made.text})", made.bound, made.deps | 1)
        self.push(made)

    def address(self, expr: Expr, memidx: int, offset: int) -> str:
        wide = self.context.mems[memidx].addrtype is AddressType.I64
        if expr.text[0].isdigit():
            return str(expr.bound + offset)
        text = clean(expr, MASKS["i64" if wide else "i32"])
        return f"{text}+{offset}" if offset else text

    def load(self, index: int, code: int, immediate: Any) -> None:
        memidx, offset = immediate if isinstance(immediate, tuple) else (0, immediate)
        form, bound = LOAD_FORMS[code]
        operand = self.pop()
        text = form.format(m=self.cell("M", memidx), a=self.address(operand, memidx, offset))
        self.push(Expr(f"(#t{index}\n{text})", bound, operand.deps | 1))

    def store(self, index: int, code: int, immediate: Any) -> None:
        memidx, offset = immediate if isinstance(immediate, tuple) else (0, immediate)
        form, shape, mask = STORE_FORMS[code]
        if form[0] == "{" and self.stack[-1].deps & 1:
            self.settle(2)  # Python evaluates the right side of an assignment first
        value, operand = self.pop(), self.pop()
        self.flush()
        if mask:
            text = value.text if 0 <= value.bound <= mask else f"{value.text}&{mask}"
        else:
            text = self.typed(value, shape)
            if form[:2] == "pf" and value.bound not in (NAN_DIRTY, NAN_CANONICAL):
                form = "sf" + form[2:]  # struct's 'f' makes signalling NaNs quiet
        where = self.address(operand, memidx, offset)
        self.line(f"#t{index}\n" + form.format(m=self.cell("M", memidx), a=where, v=text))

    # Variables

    def assign(self, k: int, expr: Expr) -> None:
        if expr.deps & 1:
            self.flush()
        self.flush(2 << k)
        text = self.typed(expr, self.shapes[k])
        if text != f"l{k}":
            self.line(f"l{k}={text}")

    def local_set(self, _index: int, k: int) -> None:
        self.assign(k, self.pop())

    def local_tee(self, _index: int, k: int) -> None:
        self.assign(k, self.pop())
        self.stack.append(Expr(f"l{k}", MASKS.get(self.shapes[k], EXACT), 2 << k))

    def global_get(self, _index: int, globalidx: int) -> None:
        globaltype = self.context.globals[globalidx]
        bound = MASKS.get(shape_of(globaltype.valtype), EXACT)
        self.stack.append(Expr(self.cell("g", globalidx), bound, 1 if globaltype.mutable else 0))

    def global_set(self, _index: int, globalidx: int) -> None:
        expr = self.pop()
        self.flush()
        shape = shape_of(self.context.globals[globalidx].valtype)
        self.line(f"{self.cell('g', globalidx)}={self.typed(expr, shape)}")

    # Constants, and what only moves operands

    def f32_const(self, _index: int, bits: int) -> None:
        self._float(f32_from_bits(bits))

    def f64_const(self, _index: int, bits: int) -> None:
        self._float(f64_from_bits(bits))

    def _float(self, value: float) -> None:
        if value - value == 0.0:
            text = repr(value)
            self.stack.append(Expr(f"({text})" if text[0] == "-" else text, EXACT, 0))
        else:
            self.stack.append(Expr(f"f64_from_bits({bits_from_f64(value)})", EXACT, 0))

    def v128_const(self, _index: int, value: bytes) -> None:
        self.stack.append(Expr(repr(bytes(value)), EXACT, 0))

    def drop(self, _index: int, _immediate: Any) -> None:
        expr = self.pop()
        if expr.deps & 1:
            self.flush()
            self.line(f"({expr.text})" if expr.text[0] != "(" else expr.text)

    def select(self, _index: int, valtype: Any) -> None:
        if (self.stack[-2].deps | self.stack[-3].deps) & 1:
            self.settle(3)  # both operands are evaluated, whichever is taken
        condition = self.stack.pop()
        second, first = self.pop(), self.pop()
        shape = shape_of(valtype) if isinstance(valtype, NumType | RefType) else "ref"
        if shape in MASKS:
            if first.bound >= 0 and second.bound >= 0:
                bound = max(first.bound, second.bound)
            else:
                bound = -max(-x.bound if x.bound < 0 else x.bound.bit_length() for x in (first, second))
        else:
            first, second = canonical(first), canonical(second)
            bound = EXACT
        deps = first.deps | second.deps | condition.deps
        text = f"({first.text} if {self.condition(condition)} else {second.text})"
        self.push(Expr(text, bound, deps))

    def condition(self, expr: Expr) -> str:
        return expr.text if expr.bound == BOOL else clean(expr, MASKS["i32"])

    # References, tables, structures and arrays that are worth a template

    def ref_null(self, _index: int, _immediate: Any) -> None:
        self.stack.append(Expr("None", EXACT, 0))

    def ref_func(self, _index: int, funcidx: int) -> None:
        self.stack.append(Expr(self.bound("func", funcidx), EXACT, 0))

    def ref_is_null(self, _index: int, _immediate: Any) -> None:
        reference = self.pop()
        self.stack.append(Expr(f"({reference.text} is None)", BOOL, reference.deps))

    def ref_eq(self, _index: int, _immediate: Any) -> None:
        right, left = self.pop(), self.pop()
        self.push(Expr(f"ref_eq({left.text},{right.text})", BOOL, left.deps | right.deps))

    def ref_test(self, _index: int, reftype: Any) -> None:
        reference = self.pop()
        self.push(Expr(f"{self.bound('matches', reftype)}({reference.text})", BOOL, reference.deps))

    def convert(self, _index: int, _immediate: Any) -> None:
        """Both hierarchies hold the same Python objects."""

    def memory_size(self, _index: int, memidx: int) -> None:
        log2 = self.context.mems[memidx].page_size_log2
        view = self.cell("M", memidx)
        text = f"(len({view})>>{log2})" if log2 else f"len({view})"
        wide = self.context.mems[memidx].addrtype is AddressType.I64
        self.stack.append(Expr(text, MASKS["i64" if wide else "i32"], 1))

    def table_size(self, _index: int, tableidx: int) -> None:
        wide = self.context.tables[tableidx].addrtype is AddressType.I64
        self.stack.append(Expr(f"len({self.cell('T', tableidx)})", MASKS["i64" if wide else "i32"], 1))

    def table_get(self, index: int, tableidx: int) -> None:
        wide = self.context.tables[tableidx].addrtype is AddressType.I64
        at = self.pop()
        text = f"(#b{index}\n{self.cell('T', tableidx)}[{clean(at, MASKS['i64' if wide else 'i32'])}])"
        self.push(Expr(text, EXACT, at.deps | 1))

    def _storage(self, storage: StorageType, text: str, *, signed: bool) -> tuple[str, int]:
        if isinstance(storage, PackedType):
            bits = 8 if storage is PackedType.I8 else 16
            half = 1 << bits - 1
            return (f"(({text}^{half})-{half})", -bits - 1) if signed else (text, 2 * half - 1)
        return text, MASKS.get(shape_of(storage), EXACT)

    def struct_get(self, index: int, immediate: Any, *, signed: bool = False) -> None:
        typeidx, fieldidx = immediate
        reference = self.pop()
        storage = self.context.struct(typeidx).fields[fieldidx].storage
        text, bound = self._storage(storage, f"{self.atom(reference)}.fields[{fieldidx}]", signed=signed)
        self.push(Expr(f"(#s{index}\n{text})", bound, reference.deps | 1))

    def struct_get_s(self, index: int, immediate: Any) -> None:
        self.struct_get(index, immediate, signed=True)

    def atom(self, reference: Expr) -> str:
        return reference.text if reference.text.isidentifier() else f"({reference.text})"

    def array_get(self, index: int, typeidx: int, *, signed: bool = False) -> None:
        self.settle(2) if self.stack[-1].deps & 1 else None
        at, reference = self.pop(), self.pop()
        storage = self.context.array(typeidx).field.storage
        text = f"{self.atom(reference)}.elements[{clean(at, MASKS['i32'])}]"
        text, bound = self._storage(storage, text, signed=signed)
        self.push(Expr(f"(#a{index}\n{text})", bound, reference.deps | at.deps | 1))

    def array_get_s(self, index: int, typeidx: int) -> None:
        self.array_get(index, typeidx, signed=True)

    def array_len(self, index: int, _immediate: Any) -> None:
        reference = self.pop()
        text = f"(#a{index}\nlen({self.atom(reference)}.elements))"
        self.push(Expr(text, MASKS["i32"], reference.deps | 1))

    def nop(self, _index: int, _immediate: Any) -> None:
        """Nothing at all."""

    # Everything else is a call of what binding makes of its rule

    def other(self, index: int, code: int, immediate: Any) -> None:
        if code in LOAD_LANES or code in STORE_LANES:
            self.lane(index, code, immediate)
            return
        params, results = signature(self.context, code, immediate)
        given = self.arguments(params)
        # Operands below may still read the slots that the results go to.
        self.flush(1 | (-1 << self.nlocals + len(self.stack) + 1))
        call = f"{self.bound('rule', (code, immediate))}({given})"
        if code in CALLISH:
            self.flush_all()
            self.leave(index, call, results)
            return
        height = len(self.stack)
        targets = ",".join(f"s{height + i}" for i in range(len(results)))
        self.line(f"#t{index}\n{targets + '=' if results else ''}{call}")
        self.stack += [self.slot(height + i, shape) for i, shape in enumerate(results)]

    def lane(self, index: int, code: int, immediate: Any) -> None:
        access, lane = immediate
        memidx, offset = access if isinstance(access, tuple) else (0, access)
        vector, operand = self.pop(), self.pop()
        where = self.address(operand, memidx, offset)
        text = f"A{code}({self.cell('M', memidx)},{where},{lane},{vector.text})"
        if code in LOAD_LANES:
            self.push(Expr(f"(#t{index}\n{text})", EXACT, operand.deps | vector.deps | 1))
        else:
            self.flush()
            self.line(f"#t{index}\n{text}")
