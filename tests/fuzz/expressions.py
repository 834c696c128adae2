"""Random code that leaves one value of a wanted type: operators, loads, variables, calls, blocks.

Everything is bounded: `left` counts instructions down, and deep or late code takes the cheapest way to a value.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from aiowasm.features import Feature, Features
from aiowasm.syntax.instructions import INSTRUCTIONS, Instruction
from aiowasm.syntax.types import EXTERNREF, FUNCREF, I32, I64, AddressType, FuncType, NumType, RefType, ValType
from tests.fuzz.emitter import Emitter, LabelTypes, ModuleBuilder, Types, address_type, value_types
from tests.fuzz.values import bits_of

NUMTYPES = {str(t): t for t in NumType}
_LANES = {"i8x16": 16, "i16x8": 8, "i32x4": 4, "i64x2": 2, "f32x4": 4, "f64x2": 2}
_DIVISIONS = ("div_s", "div_u", "rem_s", "rem_u")
_SEEN: dict[Features, tuple[dict[ValType, list[Instruction]], list[Instruction], list[Instruction]]] = {}


def _rows(
    features: Features,
) -> tuple[dict[ValType, list[Instruction]], list[Instruction], list[Instruction]]:
    """Rows that compute one value, by its type; rows that compute several; rows that access memory."""
    if features not in _SEEN:
        single: dict[ValType, list[Instruction]] = {valtype: [] for valtype in NumType}
        several, memory = [], []
        for row in INSTRUCTIONS:
            if row.operation is None or row.type is None or (row.feature and row.feature not in features):
                continue
            # Waiting would block, and needs a shared memory; the outcome of a notify is always 0 here.
            if row.immediates[:1] and row.immediates[0].startswith("memarg"):
                if row.operation.family != "atomic_wait":
                    memory.append(row)
            elif row.operation.family != "const":
                results = row.type[1]
                if len(results) == 1:
                    single[NUMTYPES[results[0]]].append(row)
                else:
                    several.append(row)
        _SEEN[features] = single, several, memory
    return _SEEN[features]


class Expressions(Emitter):
    """Values."""

    def __init__(
        self, module: ModuleBuilder, rng: Random, functype: FuncType, ninstructions: int, traps: float, bulk: bool
    ) -> None:
        super().__init__(module, rng, functype)
        self.left = ninstructions
        self.traps = traps
        self.bulk = bulk
        self.features = module.features
        self.valtypes = value_types(module.features)
        self.single, self.several, self.accesses = _rows(module.features)
        self.callable: list[int] = []
        self.tries = 0

    def op(self, name: str, *immediates: object) -> None:
        """Write one instruction and count it."""
        self.left -= 1
        super().op(name, *immediates)

    def has(self, feature: Feature) -> bool:
        """Whether a feature is on."""
        return feature in self.features

    def risky(self) -> bool:
        """Whether to write something that may well trap."""
        return self.rng.random() < self.traps

    def expr(self, valtype: ValType, depth: int) -> None:
        """Push a value of *valtype*."""
        if depth <= 0 or self.left <= 0:
            self.leaf(valtype)
            return
        self.rng.choice(self.ways(valtype))(valtype, depth - 1)

    def exprs(self, valtypes: Types, depth: int) -> None:
        """Push values."""
        for valtype in valtypes:
            self.expr(valtype, depth)

    def ways(self, valtype: ValType) -> list[Callable[[ValType, int], None]]:
        """How to get a value of *valtype*; what stands here twice is twice as likely."""
        ways: list[Callable[[ValType, int], None]] = [self.tee, self.any_leaf, self.if_value, self.block_value]
        ways += [self.select, self.br_if_value, self.loop_value, self.call_value]
        if isinstance(valtype, NumType):
            ways += [self.operator] * 12 + [self.load] * 3
            if valtype is I64 and self.several:
                ways += [self.wide] * 2
            if valtype is I32 and self.has(Feature.REFERENCE_TYPES):
                ways += [self.ref_is_null, self.table_size]
            if valtype in (I32, I64):
                ways.append(self.memory_size)
            if self.has(Feature.MULTI_VALUE):
                ways += [self.block_params] * 2
        elif valtype == FUNCREF:
            ways += [self.table_get] * 2
        if self.has(Feature.EXCEPTIONS):
            ways += [self.try_value] * 2
        return ways

    def try_value(self, valtype: ValType, depth: int) -> None:
        """A value from a block that may catch; see `tests.fuzz.statements`."""
        raise NotImplementedError

    def call_value(self, valtype: ValType, depth: int) -> None:
        """A value from a call; see `tests.fuzz.statements`."""
        raise NotImplementedError

    def statement(self, depth: int) -> None:
        """Code that leaves the stack as it was; see `tests.fuzz.statements`."""
        raise NotImplementedError

    # Leaves

    def leaf(self, valtype: ValType) -> None:
        """The cheapest value: a constant or a variable."""
        rng = self.rng
        locals_ = [at for at, t in enumerate(self.locals) if t == valtype and at not in self.reserved]
        kind = rng.random()
        if kind < 0.5 and locals_:
            self.op("local.get", rng.choice(locals_))
            return
        globals_ = [at for at, t in enumerate(self.module.globals) if t.valtype == valtype and at]
        if kind < 0.6 and globals_:
            self.op("global.get", rng.choice(globals_))
        elif isinstance(valtype, NumType):
            self.const(valtype, bits_of(rng, valtype))
        elif valtype == FUNCREF and rng.random() < 0.7 and self.module.functypes:
            self.op("ref.func", rng.randrange(len(self.module.functypes)))
        elif valtype == EXTERNREF and self.has(Feature.GC) and rng.random() < 0.7:
            self.const(I32, bits_of(rng, I32))
            self.op("ref.i31")
            self.op("extern.convert_any")
        else:
            self.op("ref.null", valtype.heaptype)

    def any_leaf(self, valtype: ValType, _depth: int) -> None:
        """A leaf, among other ways."""
        self.leaf(valtype)

    def tee(self, valtype: ValType, depth: int) -> None:
        """A value that is kept in a local, too."""
        self.expr(valtype, depth)
        self.op("local.tee", self.settable(valtype))

    def settable(self, valtype: ValType) -> int:
        """A local of *valtype* that may be set, made if need be."""
        found = [at for at, t in enumerate(self.locals) if t == valtype and at not in self.reserved]
        return self.rng.choice(found) if found else self.local(valtype)

    # Operators

    def operator(self, valtype: ValType, depth: int) -> None:
        """One row of the instruction table that computes a *valtype*."""
        row = self.rng.choice(self.single[valtype])
        if row.type is None:
            raise RuntimeError(f"{row.name} has no stack type")
        operator = row.name.partition(".")[2]
        params = [NUMTYPES[word] for word in row.type[0]]
        if operator in _DIVISIONS and not self.risky():
            self.exprs(tuple(params), depth)
            self.const(params[0], 3)
            self.op(f"{params[0]}.or")
        elif operator.startswith("trunc_f") and not self.risky():
            self.expr(I32, depth)
            self.const(I32, 0x7FFF)
            self.op("i32.and")
            self.op(f"{params[0]}.convert_i32_s")
        else:
            self.exprs(tuple(params), depth)
        self.op(row.name, *self.lane_immediates(row))

    def lane_immediates(self, row: Instruction) -> list[object]:
        """Immediates of a row that computes."""
        shape = row.name.partition(".")[0]
        if row.immediates == ("lane",):
            return [self.rng.randrange(_LANES[shape])]
        if row.immediates == ("lanes",):
            return [bytes(self.rng.randrange(32) for _ in range(16))]
        return []

    def wide(self, _valtype: ValType, depth: int) -> None:
        """Operators with two results, of which one is kept."""
        row = self.rng.choice(self.several)
        self.exprs((I64,) * len(row.type[0] if row.type else ()), depth - 1)
        self.op(row.name)
        self.op(self.rng.choice(("i64.xor", "i64.sub", "i64.rotl")))

    def select(self, valtype: ValType, depth: int) -> None:
        """One of two values."""
        self.exprs((valtype, valtype, I32), depth)
        if isinstance(valtype, RefType) or (self.has(Feature.REFERENCE_TYPES) and self.rng.random() < 0.3):
            self.op("select_t", (valtype,))
        else:
            self.op("select")

    # Memory

    def memarg(self, memidx: int, log2: int, atomic: bool) -> tuple[int, int, int]:
        """Alignment, memory and offset of an access."""
        align = log2 if atomic else self.rng.randrange(log2 + 1)
        offset = self.rng.choice((0, 0, 0, 8, 16, 160, 4096))
        if self.risky():
            offset = self.rng.choice((1, 0xFFFF, 0x1_0000, 0xFFFF_FFFF))
            if self.module.mems[memidx].addrtype is AddressType.I64:
                offset = self.rng.choice((offset, (1 << 64) - 1, 1 << 32))
        return align, memidx, offset

    def address(self, memidx: int, depth: int, mask: int = 0xFFF) -> None:
        """Push an address, of a byte of the memory more often than not."""
        at = address_type(self.module.mems[memidx].addrtype)
        if self.risky() and self.rng.random() < 0.5:
            self.const(at, 0x1_0000 - self.rng.randrange(20))
            return
        self.expr(at, depth)
        if not self.risky():
            self.const(at, mask)
            self.op(f"{at}.and")

    def memidx(self) -> int:
        """Some memory."""
        return self.rng.randrange(len(self.module.mems))

    def access(self, row: Instruction, depth: int) -> None:
        """A load, a store, or an atomic access."""
        if row.type is None or row.operation is None:
            raise RuntimeError(f"{row.name} has no stack type")
        memidx = self.memidx()
        log2 = int(row.immediates[0].partition(":")[2])
        atomic = row.operation.family.startswith("atomic")
        self.address(memidx, depth, 0xFFF & -(1 << log2) if atomic else 0xFFF)
        self.exprs(tuple(NUMTYPES[word] for word in row.type[0][1:]), depth)
        immediates: list[object] = [self.memarg(memidx, log2, atomic)]
        if "lane" in row.immediates:
            immediates.append(self.rng.randrange(16 >> log2))
        self.op(row.name, *immediates)

    def load(self, valtype: ValType, depth: int) -> None:
        """Something from memory."""
        rows = [row for row in self.accesses if row.type and row.type[1] and NUMTYPES[row.type[1][0]] is valtype]
        self.access(self.rng.choice(rows), depth)

    def memory_size(self, valtype: ValType, _depth: int) -> None:
        """The size of a memory."""
        memidx = self.memidx()
        self.op("memory.size", memidx)
        at = address_type(self.module.mems[memidx].addrtype)
        if at is not valtype:
            self.op("i64.extend_i32_u" if at is I32 else "i32.wrap_i64")

    # Control

    def forward(self) -> list[int]:
        """Depths of the labels that code may branch to, but those of loops."""
        return [at for at, t in enumerate(reversed(self.labels)) if t.counter is None and not t.closed]

    def if_value(self, valtype: ValType, depth: int) -> None:
        """A value from one of two arms."""
        self.expr(I32, depth)
        self.op("if", valtype)
        self.labels.append(LabelTypes((valtype,)))
        self.maybe_statement(depth)
        self.expr(valtype, depth)
        self.op("else")
        self.maybe_statement(depth)
        self.expr(valtype, depth)
        self.labels.pop()
        self.op("end")

    def maybe_statement(self, depth: int) -> None:
        """Sometimes a statement."""
        if self.left > 0 and self.rng.random() < 0.4:
            self.statement(depth - 1)

    def block_value(self, valtype: ValType, depth: int) -> None:
        """A value from a block, sometimes by a branch from above other values."""
        self.op("block", valtype)
        self.labels.append(LabelTypes((valtype,)))
        self.maybe_statement(depth)
        self.expr(valtype, depth)
        if self.rng.random() < 0.3:
            self.expr(self.rng.choice(self.valtypes), depth)
            self.expr(valtype, depth)
            self.op("br", 0)
            self.dead_code()
        self.labels.pop()
        self.op("end")

    def br_if_value(self, valtype: ValType, depth: int) -> None:
        """A value that a conditional branch may carry away."""
        self.expr(valtype, depth)
        depths = [at for at in self.forward() if self.labels[-1 - at].types == (valtype,)]
        if depths:
            self.expr(I32, depth)
            self.op("br_if", self.rng.choice(depths))

    def loop_value(self, valtype: ValType, depth: int) -> None:
        """A value from a loop, whose parameter it is if parameters are there."""
        if sum(label.counter is not None for label in self.labels) >= 2:
            self.leaf(valtype)
            return
        counter = self.local(I32, reserved=True)
        params = (valtype,) if self.has(Feature.MULTI_VALUE) and self.rng.random() < 0.5 else ()
        self.const(I32, self.rng.randrange(1, 6))
        self.op("local.set", counter)
        self.exprs(params, depth)
        self.op("loop", self.blocktype(params, (valtype,)))
        self.labels.append(LabelTypes(params, counter))
        if params:
            self.op("local.set", self.settable(valtype))
        self.maybe_statement(depth)
        if params or self.rng.random() < 0.5:
            self.expr(valtype, depth)
            self.op("local.set", self.settable(valtype))
        self.exprs(params, depth)
        self.count_down(counter)
        self.op("br_if", 0)
        if not params:
            self.expr(valtype, depth)
        self.labels.pop()
        self.op("end")

    def count_down(self, counter: int) -> None:
        """Push whether a loop may go round once more."""
        self.op("local.get", counter)
        self.op("i32.const", 1)
        self.op("i32.sub")
        self.op("local.tee", counter)
        self.op("i32.const", 0)
        self.op("i32.gt_s")

    def block_params(self, valtype: ValType, depth: int) -> None:
        """A block that takes parameters and leaves several results, of which one is kept."""
        params = tuple(self.rng.choice(self.valtypes) for _ in range(self.rng.randrange(3)))
        others = tuple(self.rng.choice(self.valtypes) for _ in range(self.rng.randrange(1, 3)))
        self.exprs(params, depth)
        with_else = self.rng.random() < 0.5
        if with_else:
            self.expr(I32, depth)
        self.op("if" if with_else else "block", self.blocktype(params, (valtype, *others)))
        self.labels.append(LabelTypes((valtype, *others)))
        for arm in range(1 + with_else):
            if arm:
                self.op("else")
            for param in reversed(params):
                self.op("local.set", self.settable(param))
            self.maybe_statement(depth)
            self.exprs((valtype, *others), depth)
        self.labels.pop()
        self.op("end")
        for _ in others:
            self.op("drop")

    def dead_code(self) -> None:
        """Instructions that cannot be reached, typed as the standard types them."""
        known: list[ValType] = []
        for _ in range(self.rng.randrange(4)):
            row = self.rng.choice(self.single[self.rng.choice([t for t in self.valtypes if isinstance(t, NumType)])])
            if row.type is None:
                continue
            params = [NUMTYPES[word] for word in row.type[0]]
            top = known[-len(params) :]
            if params[len(params) - len(top) :] != top:
                continue
            del known[len(known) - len(top) :]
            self.op(row.name, *self.lane_immediates(row))
            known += [NUMTYPES[word] for word in row.type[1]]
        if self.rng.random() < 0.3:
            self.op("block", None)
            self.op("br", 0)
            self.op("end")
        for _ in known:
            self.op("drop")

    # References and tables

    def ref_is_null(self, _valtype: ValType, depth: int) -> None:
        """Whether a reference is null."""
        self.expr(self.rng.choice([t for t in self.valtypes if isinstance(t, RefType)]), depth)
        self.op("ref.is_null")

    def tableidx(self) -> int:
        """Some table."""
        return self.rng.randrange(len(self.module.tables))

    def table_at(self, tableidx: int) -> NumType:
        """The type of indices into a table."""
        return address_type(self.module.tables[tableidx].addrtype)

    def table_size(self, _valtype: ValType, _depth: int) -> None:
        """The size of a table."""
        tableidx = self.tableidx()
        self.op("table.size", tableidx)
        if self.table_at(tableidx) is I64:
            self.op("i32.wrap_i64")

    def table_get(self, _valtype: ValType, depth: int) -> None:
        """A reference from a table."""
        tableidx = self.tableidx()
        self.table_index(tableidx, depth)
        self.op("table.get", tableidx)

    def table_index(self, tableidx: int, depth: int) -> None:
        """Push an index into a table, in bounds more often than not."""
        at = self.table_at(tableidx)
        self.expr(at, depth)
        if not self.risky():
            self.const(at, self.module.tables[tableidx].limits.minimum)
            self.op(f"{at}.rem_u")
