"""Random code that leaves the stack as it was: stores, branches, loops, calls, bulk instructions, exceptions."""

from __future__ import annotations

from collections.abc import Callable

from aiowasm.features import Feature
from aiowasm.syntax.types import EXNREF, FUNCREF, I32, AbsHeapType, NumType, RefType, ValType
from tests.fuzz.emitter import LabelTypes, Types, address_type
from tests.fuzz.expressions import Expressions


class Statements(Expressions):
    """Effects, and the values that come with them."""

    def statement(self, depth: int) -> None:
        """Some statement."""
        if depth <= 0 or self.left <= 0:
            self.set_local(0)
            return
        self.rng.choice(self.statements())(depth - 1)

    def statements(self) -> list[Callable[[int], None]]:
        """What may be written; what stands here twice is twice as likely."""
        made: list[Callable[[int], None]] = [self.set_local] * 3 + [self.store] * 4
        made += [self.drop, self.set_global, self.nop, self.br_if_statement, self.br_statement, self.br_table]
        made += [self.if_statement, self.loop_statement, self.block_statement, self.call_statement, self.leave]
        if self.bulk and self.has(Feature.BULK_MEMORY):
            made += [self.memory_fill, self.memory_copy, self.memory_init]
            if self.has(Feature.REFERENCE_TYPES):
                made += [self.table_copy, self.table_init]
        if self.bulk:
            made.append(self.memory_grow)
        if self.has(Feature.REFERENCE_TYPES):
            made += [self.table_set, *([self.table_fill, self.table_grow] if self.bulk else [])]
        if len(self.module.tables) > 1:
            made += [self.call_elsewhere] * 2
        if self.has(Feature.EXCEPTIONS):
            made += [self.throw]
        return made

    def body(self, depth: int) -> None:
        """The whole function."""
        while self.left > 0:
            self.statement(depth)
        self.exprs(self.functype.results, depth)
        self.op("end")

    # Simple ones

    def set_local(self, depth: int) -> None:
        """local.set."""
        valtype = self.rng.choice(self.valtypes)
        self.expr(valtype, depth)
        self.op("local.set", self.settable(valtype))

    def drop(self, depth: int) -> None:
        """A value for nothing."""
        self.expr(self.rng.choice(self.valtypes), depth)
        self.op("drop")

    def nop(self, _depth: int) -> None:
        """Nop."""
        self.op("nop")

    def set_global(self, depth: int) -> None:
        """global.set, never of the budget."""
        mutable = [at for at, t in enumerate(self.module.globals) if t.mutable and at]
        chosen = self.rng.choice(mutable)
        self.expr(self.module.globals[chosen].valtype, depth)
        self.op("global.set", chosen)

    def store(self, depth: int) -> None:
        """Something to memory; an access with a result is dropped."""
        rows = [row for row in self.accesses if len(row.type[0] if row.type else ()) > 1]
        row = self.rng.choice(rows)
        self.access(row, depth)
        if row.type and row.type[1]:
            self.op("drop")

    # Branches

    def br_if_statement(self, depth: int) -> None:
        """A conditional branch; to a loop only while its counter lasts."""
        chosen = self.rng.choice([at for at, label in enumerate(reversed(self.labels)) if not label.closed])
        label = self.labels[-1 - chosen]
        self.exprs(label.types, depth)
        if label.counter is None:
            self.expr(I32, depth)
        else:
            self.count_down(label.counter)
        self.op("br_if", chosen)
        for _ in label.types:
            self.op("drop")

    def conditional(self, depth: int) -> None:
        """Open an if without results."""
        self.expr(I32, depth)
        self.op("if", None)
        self.labels.append(LabelTypes(()))

    def close(self) -> None:
        """Close it."""
        self.labels.pop()
        self.op("end")

    def br_statement(self, depth: int) -> None:
        """An unconditional branch somewhere, sometimes from above other values."""
        self.conditional(depth)
        chosen = self.rng.choice(self.forward())
        if self.rng.random() < 0.3:
            self.expr(self.rng.choice(self.valtypes), depth)
        self.exprs(self.labels[-1 - chosen].types, depth)
        self.op("br", chosen)
        self.dead_code()
        self.close()

    def br_table(self, depth: int) -> None:
        """A br_table over labels of equal types."""
        self.op("block", None)
        self.labels.append(LabelTypes(()))
        forward = self.forward()
        types = self.labels[-1 - self.rng.choice(forward)].types
        same = [at for at in forward if self.labels[-1 - at].types == types]
        self.exprs(types, depth)
        self.expr(I32, depth)
        if self.rng.random() < 0.7:
            self.const(I32, 7)
            self.op("i32.and")
        self.op("br_table", tuple(self.rng.choice(same) for _ in range(self.rng.randrange(1, 8))))
        self.dead_code()
        self.close()

    def leave(self, depth: int) -> None:
        """Leave the function early: return, tail call, trap."""
        self.conditional(depth)
        kind = self.rng.random()
        if self.risky() and kind < 0.3:
            self.op("unreachable")
        elif kind < 0.6 and self.has(Feature.TAIL_CALLS):
            self.tail_call(depth)
        else:
            self.exprs(self.functype.results, depth)
            self.op("return")
        self.dead_code()
        self.close()

    def if_statement(self, depth: int) -> None:
        """If with or without else."""
        self.conditional(depth)
        self.statement(depth)
        if self.rng.random() < 0.5:
            self.op("else")
            self.statement(depth)
        self.close()

    def block_statement(self, depth: int) -> None:
        """A block around statements."""
        self.op("block", None)
        self.labels.append(LabelTypes(()))
        for _ in range(self.rng.randrange(1, 4)):
            self.statement(depth)
        self.close()

    def loop_statement(self, depth: int) -> None:
        """A loop for its effects."""
        self.loop_value(I32, depth)
        self.op("drop")

    # Calls

    def callee(self) -> int:
        """A function that may be called."""
        return self.rng.choice(self.callable)

    def call_value(self, valtype: ValType, depth: int) -> None:
        """A call of which one result is kept."""
        fitting = [at for at in self.callable if valtype in self.module.functypes[at].results]
        if not fitting:
            self.leaf(valtype)
            return
        chosen = self.rng.choice(fitting)
        self.call(chosen, depth, tail=False)
        results = self.module.functypes[chosen].results
        kept = max(at for at, t in enumerate(results) if t == valtype)
        for _ in results[kept + 1 :]:
            self.op("drop")
        if kept:
            local = self.settable(valtype)
            self.op("local.set", local)
            for _ in range(kept):
                self.op("drop")
            self.op("local.get", local)

    def call_statement(self, depth: int) -> None:
        """A call for its effects."""
        if not self.callable:
            self.nop(depth)
            return
        chosen = self.callee()
        self.call(chosen, depth, tail=False)
        for _ in self.module.functypes[chosen].results:
            self.op("drop")

    def call_elsewhere(self, depth: int) -> None:
        """A call through a table where functions of others stand."""
        tableidx = self.rng.choice([at for at in range(len(self.module.tables)) if at != self.module.home])
        layout = self.module.layouts[tableidx]
        slot = self.rng.randrange(len(layout))
        self.exprs(layout[slot].params, depth)
        self.const(self.table_at(tableidx), slot)
        self.op("call_indirect", self.module.typeidx(layout[slot]), tableidx)
        for _ in layout[slot].results:
            self.op("drop")

    def tail_call(self, depth: int) -> None:
        """A tail call of a function with the same results, or a trap."""
        fitting = [at for at in self.callable if self.module.functypes[at].results == self.functype.results]
        if fitting:
            self.call(self.rng.choice(fitting), depth, tail=True)
        else:
            self.exprs(self.functype.results, depth)
            self.op("return")

    def call(self, funcidx: int, depth: int, tail: bool) -> None:
        """A call of a function in one of three ways."""
        functype = self.module.functypes[funcidx]
        self.exprs(functype.params, depth)
        prefix = "return_" if tail else ""
        typeidx = self.module.typeidx(functype)
        kind = self.rng.random()
        if kind < 0.4:
            self.op(prefix + "call", funcidx)
        elif kind < 0.7 or not self.has(Feature.FUNCTION_REFERENCES):
            home = self.module.home
            if self.risky():
                self.table_index(home, depth)
            else:
                self.const(self.table_at(home), funcidx)
            self.op(prefix + "call_indirect", typeidx, home)
        else:
            if self.risky() and self.rng.random() < 0.5:
                self.op("ref.null", typeidx)
            else:
                self.op("ref.func", funcidx)
            self.op(prefix + "call_ref", typeidx)

    # Bulk

    def length(self, at: NumType) -> None:
        """Push a length: mostly a small one."""
        kind = self.rng.random()
        if kind < 0.5:
            self.const(at, self.rng.choice((0, 1, 7, 63, 64, 65, 200)))
        else:
            self.expr(at, 1)
            if not self.risky():
                self.const(at, 0xFF)
                self.op(f"{at}.and")

    def at(self, memidx: int) -> NumType:
        """The address type of a memory."""
        return address_type(self.module.mems[memidx].addrtype)

    def memory_fill(self, depth: int) -> None:
        """memory.fill."""
        memidx = self.memidx()
        self.address(memidx, depth)
        self.expr(I32, depth)
        self.length(self.at(memidx))
        self.op("memory.fill", memidx)

    def memory_copy(self, depth: int) -> None:
        """memory.copy, overlapping or not."""
        to, source = self.memidx(), self.memidx()
        self.address(to, depth)
        self.address(source, depth)
        self.length(I32 if I32 in (self.at(to), self.at(source)) else self.at(to))
        self.op("memory.copy", to, source)

    def memory_init(self, depth: int) -> None:
        """memory.init and data.drop."""
        memidx = self.memidx()
        dataidx = self.rng.randrange(len(self.module.datas))
        self.address(memidx, depth)
        self.const(I32, self.rng.randrange(4))
        self.const(I32, self.rng.randrange(40 if self.risky() else 8))
        self.op("memory.init", dataidx, memidx)
        if self.rng.random() < 0.1:
            self.op("data.drop", dataidx)

    def memory_grow(self, depth: int) -> None:
        """memory.grow, its result kept."""
        memidx = self.memidx()
        at = self.at(memidx)
        self.const(at, self.rng.choice((0, 1, 1, 2, 100, 0xFFFF, 0x1_0000)))
        self.op("memory.grow", memidx)
        self.op("local.set", self.settable(at))

    def behind(self, tableidx: int, most: int) -> None:
        """Push an index behind the functions that are called through a table."""
        self.const(self.table_at(tableidx), len(self.module.layouts[tableidx]) + self.rng.randrange(most))

    def few(self, tableidx: int, most: int) -> None:
        """Push a small number of elements, seldom a larger one."""
        self.const(self.table_at(tableidx), self.rng.randrange(9 if self.risky() else most))

    def table_set(self, depth: int) -> None:
        """table.set behind the functions that are called through the table."""
        tableidx = self.tableidx()
        at = self.table_at(tableidx)
        self.expr(at, depth)
        self.const(at, 4)
        self.op(f"{at}.rem_u")
        self.const(at, len(self.module.layouts[tableidx]))
        self.op(f"{at}.add")
        self.expr(FUNCREF, depth)
        self.op("table.set", tableidx)

    def table_fill(self, depth: int) -> None:
        """table.fill."""
        tableidx = self.tableidx()
        self.behind(tableidx, 5)
        self.expr(FUNCREF, depth)
        self.few(tableidx, 2)
        self.op("table.fill", tableidx)

    def table_grow(self, depth: int) -> None:
        """table.grow, its result kept."""
        tableidx = self.tableidx()
        at = self.table_at(tableidx)
        self.expr(FUNCREF, depth)
        self.const(at, self.rng.choice((0, 1, 2, 1000)))
        self.op("table.grow", tableidx)
        self.op("local.set", self.settable(at))

    def table_copy(self, _depth: int) -> None:
        """table.copy behind the functions."""
        to, source = self.tableidx(), self.tableidx()
        self.behind(to, 4)
        self.behind(source, 4)
        self.few(source if self.table_at(to) is not I32 else to, 2)
        self.op("table.copy", to, source)

    def table_init(self, _depth: int) -> None:
        """table.init and elem.drop."""
        tableidx = self.tableidx()
        self.behind(tableidx, 3)
        self.const(I32, 0)
        self.const(I32, self.rng.randrange(9 if self.risky() else 3))
        passive = len(self.module.elems) - 1
        self.op("table.init", passive, tableidx)
        if self.rng.random() < 0.1:
            self.op("elem.drop", passive)

    # Exceptions

    def throw(self, depth: int) -> None:
        """Throw under a condition; uncaught it leaves the function."""
        if not self.tries and not self.risky():
            self.nop(depth)
            return
        self.conditional(depth)
        tag = self.rng.randrange(len(self.module.tags))
        self.exprs(self.module.tags[tag], depth)
        self.op("throw", tag)
        self.dead_code()
        self.close()

    def try_value(self, valtype: ValType, depth: int) -> None:
        """A value from a try_table, or from what one of its clauses caught."""
        tag = self.rng.randrange(len(self.module.tags))
        carried: Types = self.module.tags[tag]
        kind = self.rng.randrange(4)
        exn: Types = (EXNREF,) if kind & 1 else ()
        types = (carried if kind < 2 else ()) + exn
        exn_labels: Types = (RefType(False, AbsHeapType.EXN),) if exn and self.has(Feature.FUNCTION_REFERENCES) else exn
        caught = types[: len(types) - len(exn)] + exn_labels
        self.op("block", valtype)
        self.labels.append(LabelTypes((valtype,)))
        self.op("block", self.blocktype((), caught))
        self.labels.append(LabelTypes(caught, closed=bool(exn)))
        clauses = [(kind, tag if kind < 2 else None, 0)]
        if not caught and self.rng.random() < 0.3:
            clauses.append((2, None, 0))
        self.op("try_table", valtype, tuple(clauses))
        self.labels.append(LabelTypes((valtype,)))
        self.tries += 1
        if self.rng.random() < 0.6:
            self.throw_here(tag, depth)
        self.maybe_statement(depth)
        self.expr(valtype, depth)
        self.tries -= 1
        self.labels.pop()
        self.op("end")
        self.op("br", 1)
        self.labels.pop()
        self.op("end")
        self.handle(carried if kind < 2 else (), bool(exn))
        self.expr(valtype, depth)
        self.labels.pop()
        self.op("end")

    def throw_here(self, tag: int, depth: int) -> None:
        """Throw under a condition, for the clause around."""
        self.conditional(depth)
        self.exprs(self.module.tags[tag], depth)
        self.op("throw", tag)
        self.close()

    def handle(self, carried: Types, exn: bool) -> None:
        """Take what a clause caught from the stack; sometimes throw it again."""
        if exn:
            if self.rng.random() < 0.3:
                self.op("local.set", self.settable(EXNREF))
            elif self.risky() and self.rng.random() < 0.3:
                local = self.local(EXNREF, reserved=True)
                self.op("local.set", local)
                self.expr(I32, 1)
                self.op("if", None)
                self.op("local.get", local)
                self.op("throw_ref")
                self.op("end")
            else:
                self.op("drop")
        for valtype in reversed(carried):
            self.op("local.set", self.settable(valtype))
