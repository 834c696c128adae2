"""From a function's record to Python source: one function that can be entered after any check point and after any call.

Its parameters are the function's, the frame budget `d`, the entry point `pc` (the operator after which to go on), the
other locals, and the operand slots that live at such points. A shallow tree of `if pc<n:` without else leads to the
leaves: code from one entry point or label to the next; falling out of a leaf runs into the next one. What contains no
entry point becomes Python's own control flow inside its leaf, so nesting in the guest never nests deeper here.

Generated code saves nothing: where it may stop, a comment at the end of the line before says what a driver needs:
  #D                nothing has happened yet
  #kPC:COST         a check point: go on at PC, COST will be charged again
  #cPC:K:N          a call: go on at PC with N results in the variables from K
  #tI, #zI, #bI, #sI, #aI, #xI
                    operator I may trap (an access, a division, a table, a structure, an array), or throws
How instances are bound to it is in `unit`, arithmetic in `expressions`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Generator as Generator_
from typing import TYPE_CHECKING, Any

from aiowasm.engine.interpreter.accesses import LOAD_FORMS, STORE_FORMS
from aiowasm.engine.interpreter.emitter import Emitter, Scope, shape_of, zero_text
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
    constant,
    whole,
)
from aiowasm.engine.interpreter.shapes import CALLISH, Unsupported, functype_of, resumable, signature
from aiowasm.engine.storage import LOAD_LANES, STORE_LANES
from aiowasm.syntax.floats import bits_from_f64, f32_from_bits, f64_from_bits
from aiowasm.syntax.instructions import BY_CODE, BY_NAME
from aiowasm.syntax.types import AddressType, NumType, PackedType, RefType, StorageType

if TYPE_CHECKING:
    from aiowasm.validation.context import Context
    from aiowasm.validation.record import Block, FunctionRecord

__all__ = ("Generated", "Generator")

_LOCAL_GET = BY_NAME["local.get"].code
_INTEGER_CONSTS = frozenset(BY_NAME[name].code for name in ("i32.const", "i64.const"))
_STEP_MASK = 0x3FF  # operators between two steps: about 3 ms


class Generated:
    """A function's source and what is needed to bind and to resume it."""

    __slots__ = ("cells", "clauses", "defaults", "has_tail", "names", "nlocals", "nparams", "slots", "source", "tries")

    def __init__(self) -> None:
        self.source = ""
        self.cells: dict[str, tuple[str, Any]] = {}
        self.names: list[str] = []
        """Variables of a suspended frame, in order: locals, then slots."""
        self.nlocals = 0
        self.nparams = 0
        self.slots = 0
        """What a frame costs of the limit on stack slots."""
        self.defaults: list[str] = []
        self.has_tail = False
        self.tries: list[tuple[int, int, list[tuple[int, int | None, int]]]] = []
        """Innermost first: (start, end, [(kind, tagidx, clause)])."""
        self.clauses: list[tuple[int, int, int]] = []
        """Where a clause lands: (pc or -1 for the function's end, first variable, number of values)."""


class Generator(Emitter):
    """The walk over one record."""

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

    # The function as a whole

    def steps(self) -> Generator_[None, None, Generated]:
        """Generate the function, yielding now and then."""
        record = self.record
        ops, immediates, cost = record.ops, record.immediates, self.cost
        stack, shapes = self.stack, self.shapes
        self.scopes.append(Scope(record.blocks[0], "func", 0, simple=False))
        self.leaf(0)
        self.line(f"#D\nif d<{self.budget}:raise Deep")
        self.charge(-1)
        for index, code in enumerate(ops):
            if not index & _STEP_MASK:
                yield
            immediate = immediates[index]
            if code == _LOCAL_GET:
                stack.append(Expr(f"l{immediate}", MASKS.get(shapes[immediate], EXACT), 2 << immediate))  # type: ignore[call-overload,operator]
            elif code in _INTEGER_CONSTS:
                stack.append(constant(immediate))  # type: ignore[arg-type]
            elif code in TEMPLATES:
                self.arithmetic(index, code)
            elif code in LOAD_FORMS:
                self.load(index, code, immediate)
            elif code in STORE_FORMS:
                self.store(index, code, immediate)
            elif code in _HANDLERS:
                _HANDLERS[code](self, index, immediate)
            else:
                self.other(index, code, immediate)
            if index in cost and code not in _CHARGED:
                self.charge_or_split(index)
            stack = self.stack
        return self.finish()

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

    def finish(self) -> Generated:
        made = Generated()
        made.nlocals, made.nparams, made.slots = self.nlocals, self.record.nparams, self.budget
        made.names = [f"l{k}" for k in range(self.nlocals)] + [f"s{height}" for height in range(self.nslots)]
        made.defaults = [zero_text(valtype) for valtype in self.record.locals][made.nparams :] + ["0"] * self.nslots
        made.has_tail = self.has_tail
        self.catches(made)
        made.source = self.source(made)
        made.cells = self.cells
        return made

    def catches(self, made: Generated) -> None:
        for block, clauses in reversed(self.tries):
            row = []
            for kind, tagidx, scope in clauses:
                row.append((kind, tagidx, len(made.clauses)))
                count = len(scope.labels)
                if scope.kind == "func":
                    made.clauses.append((-1, 0, count))
                else:
                    made.clauses.append((scope.pc, self.nlocals + scope.base, count))
                    self.nslots = max(self.nslots, scope.base + count)
            made.tries.append((block.start, block.end, row))
        made.names = [f"l{k}" for k in range(self.nlocals)] + [f"s{height}" for height in range(self.nslots)]
        made.defaults += ["0"] * (len(made.names) - made.nparams - len(made.defaults))

    def source(self, made: Generated) -> str:
        """The text: an outer function whose parameters become the closure's cells."""
        globals_ = [name for name, (kind, _) in self.cells.items() if kind == "g"]
        cells = ["fuel", "this", *self.cells, *(["catch"] if self.tries else [])]
        parameters = [*made.names[: made.nparams], "d", "pc=0"]
        parameters += [f"{name}={zero}" for name, zero in zip(made.names[made.nparams :], made.defaults, strict=True)]
        out = [
            f"def mk({','.join(cells)}):",
            f" def f{self.funcidx}({','.join(parameters)}):",
            f"  nonlocal {','.join(['fuel', 'this', *globals_])}",
        ]
        if self.jumps:
            out.append("  j=0")
        out.append("  while True:")
        indent = 3
        if self.tries:
            out.append("   try:")
            indent = 4
        self.tree(out, 0, len(self.leaves), indent)
        if self.tries:
            out.append("   except Thrown as e:")
            out.append("    t,v=catch(e)")
            for number, (pc, first, count) in enumerate(made.clauses):
                out.append(f"    if t=={number}:")
                if pc < 0:
                    out.append("     return " + ("v[0]" if count == 1 else "tuple(v)" if count else ""))
                    continue
                if count:
                    out.append("     " + "".join(f"{made.names[first + i]}," for i in range(count)) + "=v")
                out.append(f"     pc={pc}")
                out.append("     continue")
            out.append("    raise")
        out.append(f" return f{self.funcidx}\n")
        return "\n".join(out)

    def tree(self, out: list[str], low: int, high: int, indent: int) -> None:
        """The leaves from *low* to *high*, found by `pc` in log2 comparisons."""
        if high - low == 1:
            lines = self.leaves[low][1]
            out.extend([" " * (indent + depth) + text for depth, text in lines])
            if not lines:
                out.append(" " * indent + "pass")
            return
        middle = (low + high) // 2
        out.append(" " * indent + f"if pc<{self.leaves[middle][0]}:")
        self.tree(out, low, middle, indent + 1)
        self.tree(out, middle, high, indent)

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
            made = Expr(f"(#z{index}\n{made.text})", made.bound, made.deps | 1, made.zeros)
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
        self.push(Expr(text, bound, deps, min(first.zeros, second.zeros)))

    def condition(self, expr: Expr) -> str:
        return expr.text if expr.bound == BOOL else clean(expr, MASKS["i32"])

    # Structured control

    def open(self, index: int, block: Block) -> None:
        name = block.kind
        condition = self.stack.pop() if name == "if" else None
        if condition is not None:
            if condition.deps & 1:
                self.flush()
            text = self.condition(condition)
        self.flush_all()
        base = len(self.stack) - len(block.params)
        for i, valtype in enumerate(block.params):
            self.normalise(base + i, shape_of(valtype))
        simple = block not in self.resumable
        scope = Scope(block, "block" if name == "try_table" else name, base, simple=simple)
        self.scopes.append(scope)
        scope.saved = list(self.stack)
        if name == "try_table":
            clauses = [(kind, tagidx, self.scope_of(target)) for kind, tagidx, target in block.catches]
            self.tries.append((block, clauses))
        if name == "loop":
            self.leaf(index + 1)
        if scope.loops:
            self.open_while(scope)
        if name == "loop":
            self.charge(index)
        elif condition is not None:
            self.open_if(index, scope, text)
        else:
            self.charge_or_split(index)

    def open_if(self, index: int, scope: Scope, condition: str) -> None:
        if scope.simple:
            self.line(f"if {condition}:")
            self.depth += 1
        else:
            self.line(f"if not {condition}:")
            self.depth += 1
            self.goto((scope.block.else_ if scope.block.else_ >= 0 else scope.block.end) + 1)
            self.depth -= 1
        self.charge_or_split(index)

    def else_(self, index: int, _immediate: Any) -> None:
        scope = self.scopes[-1]
        scope.then_live = self.live
        if self.live:
            self.carry(scope)
        if scope.simple:
            self.no_empty_arm()
            self.depth -= 1
            self.line("else:")
            self.depth += 1
        else:
            if self.live:
                self.goto(scope.pc)
            self.leaf(index + 1)
        self.stack = list(scope.saved)
        self.live = True
        self.charge_or_split(index)

    def no_empty_arm(self) -> None:
        if self.lines[-1][1].endswith(":"):
            self.line("pass")

    def carry(self, scope: Scope) -> None:
        """The results of a block into their slots, where its end is reached by falling into it."""
        for i, shape in enumerate(scope.shapes):
            self.normalise(len(self.stack) - len(scope.shapes) + i, shape)

    def end(self, index: int, _immediate: Any) -> None:
        scope = self.scopes[-1]
        if scope.kind == "func":
            if self.live:
                self.branch(scope)
            return
        block = scope.block
        if self.live:
            self.carry(scope)
        self.scopes.pop()
        reached = self.live
        if scope.kind != "loop":
            reached = reached or block.targeted
            if scope.kind == "if":
                reached = reached or block.else_ == -1 or scope.then_live
                if scope.simple:
                    self.no_empty_arm()
                    self.depth -= 1
        if scope.loops:
            if self.live or scope.kind == "if":
                self.line("break")
            self.close_while()
        elif not scope.simple and scope.kind != "loop" and reached and (block.targeted or scope.kind == "if"):
            self.leaf(index + 1)
        del self.stack[scope.base :]
        if reached:
            self.stack += [self.slot(scope.base + i, shape) for i, shape in enumerate(scope.shapes)]
            if not scope.simple:
                self.nslots = max(self.nslots, len(self.stack))
        self.live = reached
        if reached:
            self.charge_or_split(index)

    def scope_of(self, block: Any) -> Scope:
        for scope in reversed(self.scopes):
            if scope.block is block:
                return scope
        raise Unsupported("a label out of scope")

    # Branches

    def dead(self) -> None:
        self.live = False

    def br(self, _index: int, block: Block) -> None:
        self.flush()
        self.branch(self.scope_of(block))
        self.dead()

    def br_if(self, index: int, block: Block) -> None:
        condition = self.stack.pop()
        self.flush()
        self.conditional(self.condition(condition), self.scope_of(block))
        self.charge_or_split(index)

    def charge_or_split(self, index: int) -> None:
        if index in self.checks:
            self.split(index)
        else:
            self.charge(index)

    def conditional(self, condition: str, scope: Scope) -> None:
        self.line(f"if {condition}:")
        self.depth += 1
        self.branch(scope)
        self.depth -= 1

    def br_on(self, index: int, test: str, block: Block, *, keep: tuple[bool, bool]) -> None:
        """Branch on a test of the reference on top; *keep* it when the branch is taken, and when it is not."""
        self.flush_all()
        reference = self.stack[-1]
        if not keep[0]:
            self.stack.pop()
        self.conditional(test.format(reference.text), self.scope_of(block))
        if not keep[0] and keep[1]:
            self.stack.append(reference)
        if keep[0] and not keep[1]:
            self.stack.pop()
        self.charge_or_split(index)

    def br_on_null(self, index: int, block: Block) -> None:
        self.br_on(index, "{} is None", block, keep=(False, True))

    def br_on_non_null(self, index: int, block: Block) -> None:
        self.br_on(index, "{} is not None", block, keep=(True, False))

    def br_on_cast(self, index: int, immediate: Any) -> None:
        self.br_on(index, self.bound("matches", immediate[-1]) + "({})", immediate[0], keep=(True, True))

    def br_on_cast_fail(self, index: int, immediate: Any) -> None:
        self.br_on(index, "not " + self.bound("matches", immediate[-1]) + "({})", immediate[0], keep=(True, True))

    def br_table(self, _index: int, blocks: tuple[Block, ...]) -> None:
        selector = self.pop()
        self.flush()
        self.line(f"t={clean(selector, MASKS['i32'])}")
        scopes = [self.scope_of(block) for block in blocks]
        if len(scopes) > 1 and all(not scope.loops and scope.kind != "func" and not scope.labels for scope in scopes):
            pcs = ",".join(str(scope.pc) for scope in scopes[:-1])
            self.line(f"pc=({pcs},)[t] if t<{len(scopes) - 1} else {scopes[-1].pc}")
            self.jump_to_pc()
        else:
            runs: list[tuple[int, Scope]] = []
            for i, scope in enumerate(scopes):
                if not runs or runs[-1][1] is not scope:
                    runs.append((i, scope))
            self.choose(runs)
        self.dead()

    def jump_to_pc(self) -> None:
        if not self.whiles:
            self.line("continue")
            return
        self.jumps = True
        self.line("j=-1")
        self.line("break")
        for scope in self.whiles:
            scope.far.add(-1)

    def choose(self, runs: list[tuple[int, Scope]]) -> None:
        """Branch to the run that `t` is in, by halving."""
        if len(runs) == 1:
            self.branch(runs[0][1])
            return
        middle = len(runs) // 2
        self.line(f"if t<{runs[middle][0]}:")
        self.depth += 1
        self.choose(runs[:middle])
        self.depth -= 1
        self.choose(runs[middle:])

    def return_(self, _index: int, _immediate: Any) -> None:
        self.flush()
        self.branch(self.scopes[0])
        self.dead()

    def unreachable(self, index: int, _immediate: Any) -> None:
        self.flush()
        self.line(f"#t{index}\nunreachable()")
        self.dead()

    # Calls

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

    def _call(self, index: int, callee: str, typeidx_or_type: Any) -> None:
        params, results = functype_of(self.context, typeidx_or_type)
        given = self.arguments(params)
        self.flush_all()
        self.leave(index, f"{callee}({given}d-{self.budget})", results)
        self.charge_or_split(index)

    def call(self, index: int, funcidx: int) -> None:
        self._call(index, self.cell("F", funcidx), self.context.funcs[funcidx])

    def call_indirect(self, index: int, immediate: Any) -> None:
        typeidx, tableidx = immediate
        params, _ = functype_of(self.context, self.context.deftypes[typeidx])
        self.settle(len(params) + 1)  # the function is looked up before Python evaluates the arguments
        mask = MASKS["i64" if self.context.tables[tableidx].addrtype is AddressType.I64 else "i32"]
        selector = clean(self.pop(), mask)
        callee = f"{self.bound('indirect', (typeidx, tableidx))}({selector})"
        self._call(index, callee, self.context.deftypes[typeidx])

    def call_ref(self, index: int, typeidx: int) -> None:
        params, _ = functype_of(self.context, self.context.deftypes[typeidx])
        self.settle(len(params) + 1)
        callee = f"{self.bound('callee', None)}({self.pop().text})"
        self._call(index, callee, self.context.deftypes[typeidx])

    def _tail(self, index: int, callee: str, deftype: Any) -> None:
        params, _ = functype_of(self.context, deftype)
        given = self.arguments(params)
        self.flush()
        self.has_tail = True
        self.line(f"#t{index}\nreturn Tail({callee},({given}))")
        self.dead()

    def return_call(self, index: int, funcidx: int) -> None:
        if funcidx == self.funcidx:
            self.again()
        else:
            self._tail(index, self.bound("func", funcidx), self.context.funcs[funcidx])

    def again(self) -> None:
        """A tail call of the function itself: new arguments, and from the top."""
        params, _ = functype_of(self.context, self.context.funcs[self.funcidx])
        texts = [f"l{i}" for i in range(len(params))]
        given = self.arguments(params)
        zeros = [zero_text(valtype) for valtype in self.record.locals][len(params) :]
        names = ",".join(texts + [f"l{k}" for k in range(len(params), self.nlocals)])
        self.flush()
        if names:
            self.line(f"{names}{',' if self.nlocals == 1 else ''}={given}{','.join(zeros)}")
        self.goto(0)
        self.dead()

    def return_call_indirect(self, index: int, immediate: Any) -> None:
        typeidx, tableidx = immediate
        params, _ = functype_of(self.context, self.context.deftypes[typeidx])
        self.settle(len(params) + 1)
        mask = MASKS["i64" if self.context.tables[tableidx].addrtype is AddressType.I64 else "i32"]
        selector = clean(self.pop(), mask)
        callee = f"{self.bound('lookup', (typeidx, tableidx))}({selector})"
        self._tail(index, callee, self.context.deftypes[typeidx])

    def return_call_ref(self, index: int, typeidx: int) -> None:
        params, _ = functype_of(self.context, self.context.deftypes[typeidx])
        self.settle(len(params) + 1)
        callee = f"nonnull_func({self.pop().text})"
        self._tail(index, callee, self.context.deftypes[typeidx])

    # Exceptions

    def throw(self, index: int, tagidx: int) -> None:
        params, _ = functype_of(self.context, self.context.tags[tagidx])
        given = self.arguments(params)
        self.flush()
        self.line(f"#x{index}\n{self.bound('throw', tagidx)}({given})")
        self.dead()

    def throw_ref(self, index: int, _immediate: Any) -> None:
        reference = self.pop()
        self.flush()
        self.line(f"#x{index}\nthrow_ref({reference.text})")
        self.dead()

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


Handler = Callable[[Generator, int, Any], None]
_HANDLERS: dict[int, Handler] = {
    BY_NAME[name].code: handler
    for names, handler in (
        ("local.set", Generator.local_set),
        ("local.tee", Generator.local_tee),
        ("global.get", Generator.global_get),
        ("global.set", Generator.global_set),
        ("f32.const", Generator.f32_const),
        ("f64.const", Generator.f64_const),
        ("v128.const", Generator.v128_const),
        ("drop", Generator.drop),
        ("select select_t", Generator.select),
        ("block loop if try_table", Generator.open),
        ("else", Generator.else_),
        ("end", Generator.end),
        ("br", Generator.br),
        ("br_if", Generator.br_if),
        ("br_on_null", Generator.br_on_null),
        ("br_on_non_null", Generator.br_on_non_null),
        ("br_on_cast", Generator.br_on_cast),
        ("br_on_cast_fail", Generator.br_on_cast_fail),
        ("br_table", Generator.br_table),
        ("return", Generator.return_),
        ("unreachable", Generator.unreachable),
        ("call", Generator.call),
        ("call_indirect", Generator.call_indirect),
        ("call_ref", Generator.call_ref),
        ("return_call", Generator.return_call),
        ("return_call_indirect", Generator.return_call_indirect),
        ("return_call_ref", Generator.return_call_ref),
        ("throw", Generator.throw),
        ("throw_ref", Generator.throw_ref),
        ("ref.null", Generator.ref_null),
        ("ref.func", Generator.ref_func),
        ("ref.is_null", Generator.ref_is_null),
        ("ref.eq", Generator.ref_eq),
        ("ref.test ref.test_null", Generator.ref_test),
        ("any.convert_extern extern.convert_any", Generator.convert),
        ("memory.size", Generator.memory_size),
        ("table.size", Generator.table_size),
        ("table.get", Generator.table_get),
        ("struct.get struct.get_u", Generator.struct_get),
        ("struct.get_s", Generator.struct_get_s),
        ("array.get array.get_u", Generator.array_get),
        ("array.get_s", Generator.array_get_s),
        ("array.len", Generator.array_len),
        ("nop atomic.fence", Generator.nop),
    )
    for name in names.split()
}
_EQZ = frozenset(BY_NAME[name].code for name in ("i32.eqz", "i64.eqz"))
_CHARGED = frozenset(
    BY_NAME[name].code
    for name in [
        "block",
        "loop",
        "if",
        "try_table",
        "else",
        "end",
        "br_if",
        "br_on_null",
        "br_on_non_null",
        "br_on_cast",
        "br_on_cast_fail",
        "call",
        "call_indirect",
        "call_ref",
    ]
)
"""Handlers of these charge the segment after them themselves."""
