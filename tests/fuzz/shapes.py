"""Random code of unusual shapes: deep operand stacks, values that stay on the stack across blocks, branch tables over
labels at many heights, functions with many locals, several catch clauses at once, legacy exceptions, waiting."""

from __future__ import annotations

from collections.abc import Callable

from aiowasm.features import Feature
from aiowasm.syntax.types import EXNREF, I32, I64, AbsHeapType, NumType, RefType, ValType
from tests.fuzz.emitter import LabelTypes, Types
from tests.fuzz.numeric import NumericLoops

_DEPTHS = (17, 30, 46, 47, 48, 49, 50, 70, 110)


class Shapes(NumericLoops):
    """All that there is to generate."""

    numeric_weight = 3
    """How likely a loop over floats is."""

    def statements(self) -> list[Callable[[int], None]]:
        """What may be written."""
        made = super().statements()
        made += [self.deep_stack, self.table_of_heights, *([self.numeric_loop] * self.numeric_weight)]
        if self.has(Feature.MULTI_VALUE):
            made += [self.kept_params] * 3
        if self.has(Feature.THREADS) and (self.module.mems[0].shared or self.risky()):
            made.append(self.wait)
        return made

    def ways(self, valtype: ValType) -> list[Callable[[ValType, int], None]]:
        """How to get a value of *valtype*."""
        ways = super().ways(valtype)
        if self.has(Feature.EXCEPTIONS):
            ways += [self.many_catches] * 2
        if self.has(Feature.LEGACY_EXCEPTIONS):
            ways += [self.legacy_try] * 4
        return ways

    def body(self, depth: int) -> None:
        """The whole function, sometimes with many locals."""
        if self.rng.random() < 0.15:
            for _ in range(self.rng.randrange(60, 200)):
                self.local(self.rng.choice(self.valtypes))
        super().body(depth)

    def keep(self, valtypes: Types) -> None:
        """Pop values: into locals, or drop them."""
        for valtype in reversed(valtypes):
            if self.rng.random() < 0.6:
                self.op("local.set", self.settable(valtype))
            else:
                self.op("drop")

    def deep_stack(self, depth: int) -> None:
        """Many operands below what happens."""
        types = tuple(self.rng.choice(self.valtypes) for _ in range(self.rng.choice(_DEPTHS)))
        for valtype in types:
            self.expr(valtype, self.rng.random() < 0.1)
        self.maybe_statement(depth)
        if self.rng.random() < 0.5:
            self.expr(I32, depth)
            self.op("drop")
        self.keep(types)

    def some_types(self, most: int) -> Types:
        """A few types, seldom many."""
        many = self.rng.random() < 0.05
        return tuple(self.rng.choice(self.valtypes) for _ in range(self.rng.randrange(1, 24 if many else most)))

    def kept_params(self, depth: int) -> None:
        """A block whose parameters are its results, without a local in between."""
        types = self.some_types(5)
        self.exprs(types, depth)
        kind = self.rng.choice(("block", "if", "loop"))
        counter = None
        if kind == "loop":
            if sum(label.counter is not None for label in self.labels) >= 2:
                kind = "block"
            else:
                counter = self.local(I32, reserved=True)
                self.const(I32, self.rng.randrange(1, 5))
                self.op("local.set", counter)
        if kind == "if":
            self.expr(I32, depth)
        self.op(kind, self.blocktype(types, types))
        self.labels.append(LabelTypes(types, counter))
        for arm in range(1 + (kind == "if")):
            if arm:
                self.op("else")
            self.maybe_statement(depth)
            if self.rng.random() < 0.4:
                self.op("local.tee", self.settable(types[-1]))
            elif self.rng.random() < 0.5:
                self.op("drop")
                self.expr(types[-1], depth)
            if counter is not None:
                self.count_down(counter)
                self.op("br_if", 0)
            elif self.rng.random() < 0.5:
                self.expr(I32, depth)
                self.op("br_if", 0)
        self.labels.pop()
        self.op("end")
        self.keep(types)

    def table_of_heights(self, depth: int) -> None:
        """A br_table over blocks that lie at different heights."""
        types = self.some_types(4) if self.has(Feature.MULTI_VALUE) and self.rng.random() < 0.6 else ()
        below = []
        for _ in range(self.rng.randrange(2, 6)):
            filler = tuple(self.rng.choice(self.valtypes) for _ in range(self.rng.randrange(3)))
            self.exprs(filler, 0)
            below.append(filler)
            self.op("block", self.blocktype((), types))
            self.labels.append(LabelTypes(types))
        ntargets = self.rng.choice((1, 3, 10, 60, 300))
        self.exprs(types, depth)
        self.expr(I32, depth)
        self.const(I32, ntargets + 1)
        self.op("i32.rem_u")
        self.op("br_table", tuple(self.rng.randrange(len(below)) for _ in range(ntargets + 1)))
        self.dead_code()
        while below:
            self.labels.pop()
            self.op("end")
            self.keep(types)
            self.keep(below.pop())
            if below:
                self.exprs(types, 0)

    def many_catches(self, valtype: ValType, depth: int) -> None:
        """Clauses of all kinds around one body, each with a place of its own; which one fits is seen in a local."""
        tags = self.module.tags
        which = self.local(I32, reserved=True)
        clauses: list[tuple[int, int | None, int]] = []
        places: list[tuple[Types, bool]] = []
        reference = RefType(False, AbsHeapType.EXN) if self.has(Feature.FUNCTION_REFERENCES) else EXNREF
        for number in range(self.rng.randrange(1, 5)):
            kind, tag = self.rng.randrange(4), self.rng.randrange(len(tags))
            places.append((tags[tag] if kind < 2 else (), bool(kind & 1)))
            clauses.append((kind, tag if kind < 2 else None, number))
        self.op("block", valtype)
        self.labels.append(LabelTypes((valtype,)))
        for carried, exn in reversed(places):
            types = (*carried, reference) if exn else carried
            self.op("block", self.blocktype((), types))
            self.labels.append(LabelTypes(types, closed=True))
        self.op("try_table", valtype, tuple(clauses))
        self.labels.append(LabelTypes((valtype,)))
        self.tries += 1
        if self.rng.random() < 0.7:
            self.throw_here(self.rng.randrange(len(tags)), depth)
        self.maybe_statement(depth)
        self.expr(valtype, depth)
        self.tries -= 1
        self.labels.pop()
        self.op("end")
        self.op("br", len(places))
        for number, (carried, exn) in enumerate(places):
            self.labels.pop()
            self.op("end")
            if exn:
                self.op("local.set", self.settable(EXNREF))
            self.keep(carried)
            self.const(I32, number)
            self.op("local.set", which)
            if self.risky():
                self.op("local.get", self.settable(EXNREF))
                self.op("throw_ref")
            else:
                self.expr(valtype, 0)
                self.op("br", len(places) - 1 - number)
        self.labels.pop()
        self.op("end")

    def legacy_try(self, valtype: ValType, depth: int) -> None:
        """try with catch, catch_all and rethrow, or with delegate."""
        self.op("try", valtype)
        self.labels.append(LabelTypes((valtype,)))
        self.tries += 1
        if self.rng.random() < 0.7:
            self.throw_here(self.rng.randrange(len(self.module.tags)), depth)
        self.maybe_statement(depth)
        self.expr(valtype, depth)
        self.tries -= 1
        if self.rng.random() < 0.25:
            self.labels.pop()
            self.op("delegate", self.rng.randrange(len(self.labels)))
            return
        for tag in self.rng.sample(range(len(self.module.tags)), self.rng.randrange(len(self.module.tags) + 1)):
            self.op("catch", tag)
            self.keep(self.module.tags[tag])
            self.caught(valtype, depth)
        if self.rng.random() < 0.5:
            self.op("catch_all")
            self.caught(valtype, depth)
        self.labels.pop()
        self.op("end")

    def caught(self, valtype: ValType, depth: int) -> None:
        """An arm of a legacy try: throws on, or gives a value."""
        if self.tries or self.risky():
            self.conditional(depth)
            self.op("rethrow", 1)
            self.close()
        self.maybe_statement(depth)
        self.expr(valtype, 0)

    def wait(self, depth: int) -> None:
        """Waiting: for a value that is not there, or in vain."""
        bits = self.rng.choice((32, 64))
        operand: NumType = I32 if bits == 32 else I64
        log2 = 2 if bits == 32 else 3
        self.address(0, depth, 0xFFF & -(1 << log2))
        self.expr(operand, depth)
        self.const(I64, self.rng.choice((0, 1, 1000, (1 << 64) - 1)))
        self.op(f"memory.atomic.wait{bits}", (log2, 0, self.rng.choice((0, 8))))
        self.op("local.set", self.settable(I32))
