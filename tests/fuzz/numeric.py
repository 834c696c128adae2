"""Innermost loops over floats and vectors, or integers alone, of code that stays in the loop: engines keep locals and
constants of such loops in registers. Locals change between being read and being used, branches leave in the middle,
everything is seen afterwards."""

from __future__ import annotations

from aiowasm.syntax.types import F32, F64, I32, I64, V128, NumType
from tests.fuzz.emitter import LabelTypes, Types, address_type
from tests.fuzz.expressions import NUMTYPES
from tests.fuzz.structures import Structures
from tests.fuzz.values import bits_of

_INTEGERS = frozenset(("i32", "i64"))
_ALIGNMENTS: dict[NumType, int] = {I32: 2, I64: 3, F32: 2, F64: 3, V128: 4}
_LOADS = (("load", 0), ("load8_s", 0), ("load8_u", 0), ("load16_s", 1), ("load16_u", 1))
_STORES = (("store", 0), ("store8", 0), ("store16", 1))
_TRAPPING = ("div_s", "div_u", "rem_s", "rem_u")


class NumericLoops(Structures):
    """Loops that compute."""

    own: list[tuple[NumType, int]]
    """Locals of the loop with their types, its counter too."""
    constants: list[tuple[NumType, int]]
    """Few, so that they are used more than once."""
    integral = False
    """Whether nothing but integers occurs."""

    def numeric_loop(self, depth: int) -> None:
        """A loop over a few locals and constants."""
        self.integral = self.rng.random() < 0.6
        floats: list[NumType] = [F32, F64, *([V128] if V128 in self.valtypes else [])]
        if self.integral:
            floats = [I32, I64]
        types = [self.rng.choice(floats) for _ in range(self.rng.randrange(1, 16 if self.integral else 9))]
        own = [(t, self.settable(t) if self.rng.random() < 0.4 else self.local(t)) for t in types]
        self.constants = [(t, bits_of(self.rng, t)) for t in floats for _ in range(2)]
        counter = self.local(I32, reserved=True)
        self.const(I32, self.rng.choice((1, 2, 5, 20)))
        self.op("local.set", counter)
        self.op("loop", None)
        self.labels.append(LabelTypes((), counter))
        self.own = [*own, (I32, counter)]
        steps = [self.assign, self.assign, self.alias, self.condition, self.spill, self.escape]
        if self.integral:
            steps += [self.rotate, self.skip, self.deep, self.assign]
        for _ in range(self.rng.randrange(1, 12 if self.integral else 7)):
            self.rng.choice(steps)(own)
        self.count_down(counter)
        self.op("br_if", 0)
        self.labels.pop()
        self.op("end")
        for t, local in own:
            self.put(t, local)

    def numeric(self, valtype: NumType, depth: int) -> None:
        """Push a number from nothing but locals of the loop, constants and operators."""
        rng = self.rng
        if depth <= 0 or rng.random() < 0.25:
            found = [local for t, local in self.own if t is valtype]
            constants = [bits for t, bits in self.constants if t is valtype]
            if found and rng.random() < 0.7:
                self.op("local.get", rng.choice(found))
            else:
                self.const(valtype, rng.choice(constants) if constants else bits_of(rng, valtype))
            return
        if rng.random() < 0.08:
            self.numeric(valtype, depth - 1)
            self.numeric(valtype, depth - 1)
            self.numeric(I32, depth - 1)
            self.op("select")
            return
        while True:
            row = rng.choice(self.single[valtype])
            operator = row.name.partition(".")[2]
            traps = operator in _TRAPPING or (operator.startswith("trunc_f"))
            fitting = not self.integral or (row.type is not None and _INTEGERS.issuperset(row.type[0]))
            if row.type is not None and fitting and (not traps or self.risky()):
                break
        for word in row.type[0]:
            self.numeric(NUMTYPES[word], depth - 1)
        self.op(row.name, *self.lane_immediates(row))

    def assign(self, own: list[tuple[NumType, int]]) -> None:
        """Compute a local from others."""
        valtype, local = self.rng.choice(own)
        self.numeric(valtype, 3)
        if self.rng.random() < 0.3:
            self.op("local.tee", local)
            self.op("local.set", self.rng.choice([each for t, each in own if t is valtype]))
        else:
            self.op("local.set", local)

    def alias(self, own: list[tuple[NumType, int]]) -> None:
        """Set a local while what it was is still to be used."""
        valtype, local = self.rng.choice(own)
        self.op("local.get", local)
        self.numeric(valtype, 2)
        self.op("local.set", local)
        self.op("local.get", local)
        add = {F32: "f32.add", F64: "f64.add", V128: "i16x8.sub"}.get(valtype, f"{valtype}.sub")
        self.op(add)
        self.op("local.set", local)

    def condition(self, own: list[tuple[NumType, int]]) -> None:
        """Something under a condition on floats."""
        self.numeric(I32, 2)
        self.op("if", None)
        self.labels.append(LabelTypes(()))
        self.assign(own)
        if self.rng.random() < 0.5:
            self.op("else")
            self.assign(own)
        self.close()

    def somewhere(self) -> None:
        """Push an address."""
        at = address_type(self.module.mems[0].addrtype)
        self.numeric(at, 1)
        self.const(at, 0xFFF)
        self.op(f"{at}.and")

    def spill(self, own: list[tuple[NumType, int]]) -> None:
        """Through memory and back."""
        valtype, local = self.rng.choice(own)
        self.put(valtype, local)
        self.somewhere()
        name, align = self.rng.choice(_LOADS) if valtype in (I32, I64) else ("load", _ALIGNMENTS[valtype])
        name, align = ("load", _ALIGNMENTS[valtype]) if name == "load" else (name, align)
        self.op(f"{valtype}.{name}", self.memarg(0, align, False))
        self.op("local.set", local)

    def put(self, valtype: NumType, local: int) -> None:
        """A local to memory, where it is seen."""
        self.somewhere()
        self.op("local.get", local)
        name, align = self.rng.choice(_STORES) if valtype in (I32, I64) else ("store", 0)
        self.op(f"{valtype}.{name}", self.memarg(0, align if name != "store" else _ALIGNMENTS[valtype], False))

    def rotate(self, own: list[tuple[NumType, int]]) -> None:
        """Locals take the values of one another, as rounds of hashes do."""
        valtype = self.rng.choice(own)[0]
        chosen = [local for t, local in own if t is valtype]
        self.rng.shuffle(chosen)
        for local in chosen:
            self.op("local.get", local)
        for local in chosen:
            self.op("local.set", local)

    def skip(self, own: list[tuple[NumType, int]]) -> None:
        """A block that a branch in it leaves, or one back to the loop's start."""
        self.op("block", None)
        self.labels.append(LabelTypes(()))
        self.assign(own)
        self.numeric(I32, 2)
        self.op("br_if", 0)
        self.assign(own)
        if self.rng.random() < 0.3:
            self.numeric(I32, 1)
            self.op("if", None)
            self.labels.append(LabelTypes(()))
            self.rotate(own)
            self.op("br", 1)
            self.close()
        self.close()

    def deep(self, own: list[tuple[NumType, int]]) -> None:
        """Many operands at once, of which some are there while locals change."""
        valtype = self.rng.choice(own)[0]
        count = self.rng.randrange(4, 14)
        for _ in range(count):
            self.numeric(valtype, 1)
        self.assign(own)
        for _ in range(count - 1):
            self.op(f"{valtype}.{self.rng.choice(('xor', 'sub', 'mul', 'rotl', 'add'))}")
        self.op("local.set", self.rng.choice([local for t, local in own if t is valtype]))

    def escape(self, _own: list[tuple[NumType, int]]) -> None:
        """A branch out of the loop, with what its label wants."""
        chosen = self.rng.choice(self.forward())
        types: Types = self.labels[-1 - chosen].types
        if not all(isinstance(t, NumType) for t in types):
            return
        for each in types:
            self.numeric(NUMTYPES[str(each)], 1)
        self.numeric(I32, 2)
        self.const(I32, 7)
        self.op("i32.and")
        self.op("i32.eqz")
        self.op("br_if", chosen)
        for _ in types:
            self.op("drop")
