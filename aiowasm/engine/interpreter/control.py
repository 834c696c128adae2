"""Generating code for control: structured instructions, branches, calls, exceptions. Handlers are named after them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiowasm.engine.interpreter.emitter import Scope, shape_of, zero_text
from aiowasm.engine.interpreter.expressions import MASKS, clean
from aiowasm.engine.interpreter.operands import OperandGenerator
from aiowasm.engine.interpreter.shapes import Unsupported, functype_of
from aiowasm.syntax.types import AddressType

if TYPE_CHECKING:
    from aiowasm.validation.record import Block

__all__ = ("ControlGenerator",)


class ControlGenerator(OperandGenerator):
    """Handlers of control instructions."""

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
            self.line(f"{names}{',' if given and self.nlocals == 1 else ''}={given}{','.join(zeros)}")
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
