"""Random code with structures, arrays, i31 and casts (garbage collection): each expression makes what it looks at."""

from __future__ import annotations

from collections.abc import Callable

from aiowasm.features import Feature
from aiowasm.syntax.types import (
    ANYREF,
    F64,
    FUNCREF,
    I8,
    I16,
    I32,
    I64,
    AbsHeapType,
    ArrayType,
    FieldType,
    RefType,
    StructType,
    ValType,
)
from tests.fuzz.emitter import LabelTypes
from tests.fuzz.statements import Statements

_STRUCT = StructType((FieldType(I32, True), FieldType(I8, True), FieldType(I64, False), FieldType(F64, True)))
_ARRAY = ArrayType(FieldType(I32, True))
_PACKED = ArrayType(FieldType(I16, True))


class Structures(Statements):
    """Statements and values, and those of the heap where the feature is on."""

    heap = True
    """Whether there are structures and arrays, or i31 alone."""

    def ways(self, valtype: ValType) -> list[Callable[[ValType, int], None]]:
        """How to get a value of *valtype*."""
        ways = super().ways(valtype)
        if valtype is I32 and self.has(Feature.GC):
            ways += [self.i31, self.cast, self.br_on_cast] * 2
            if self.heap:
                ways += [self.structure, self.array, self.packed_array] * 2
        if valtype is I32 and self.has(Feature.FUNCTION_REFERENCES):
            ways += [self.br_on_null, self.br_on_non_null]
        return ways

    def nop(self, depth: int) -> None:
        """What does nothing here."""
        if self.has(Feature.THREADS) and self.rng.random() < 0.5:
            self.op("atomic.fence", 0)
        else:
            super().nop(depth)

    def br_on_null(self, _valtype: ValType, depth: int) -> None:
        """A branch if a function reference is null."""
        self.op("block", I32)
        self.labels.append(LabelTypes((I32,)))
        self.op("block", None)
        self.labels.append(LabelTypes(()))
        self.expr(FUNCREF, depth)
        self.op("br_on_null", 0)
        self.op("drop")
        self.expr(I32, depth)
        self.op("br", 1)
        self.close()
        self.expr(I32, depth)
        self.close()

    def br_on_non_null(self, _valtype: ValType, depth: int) -> None:
        """A branch with a function reference that is not null."""
        self.op("block", I32)
        self.labels.append(LabelTypes((I32,)))
        self.op("block", RefType(False, AbsHeapType.FUNC))
        self.labels.append(LabelTypes((), closed=True))
        self.expr(FUNCREF, depth)
        self.op("br_on_non_null", 0)
        self.expr(I32, depth)
        self.op("br", 1)
        self.close()
        self.op("drop")
        self.expr(I32, depth)
        self.close()

    def structure(self, _valtype: ValType, depth: int) -> None:
        """Fields of a structure, one of them set on the way."""
        typeidx = self.module.typeidx(_STRUCT)
        local = self.local(RefType(True, typeidx), reserved=True)
        if self.rng.random() < 0.2:
            self.op("struct.new_default", typeidx)
        elif self.risky():
            self.op("ref.null", typeidx)
        else:
            self.exprs((I32, I32, I64, F64), depth - 1)
            self.op("struct.new", typeidx)
        self.op("local.tee", local)
        self.expr(I32, depth)
        field = self.rng.randrange(2)
        self.op("struct.set", typeidx, field)
        self.op("local.get", local)
        if self.rng.random() < 0.2:
            self.op("ref.as_non_null")
        if self.rng.random() < 0.5:
            self.op(self.rng.choice(("struct.get_s", "struct.get_u")), typeidx, 1)
        elif self.rng.random() < 0.5:
            self.op("struct.get", typeidx, 0)
        else:
            self.op("struct.get", typeidx, 2)
            self.op("i32.wrap_i64")

    def index(self, depth: int, length: int) -> None:
        """Push an index below *length* more often than not."""
        self.expr(I32, depth)
        if not self.risky():
            self.const(I32, length)
            self.op("i32.rem_u")

    def array(self, _valtype: ValType, depth: int) -> None:
        """An element of an array, or its length."""
        typeidx = self.module.typeidx(_ARRAY)
        length = self.rng.randrange(1, 6)
        if self.bulk and self.has(Feature.BULK_MEMORY) and self.rng.random() < 0.2:
            length = self.rng.randrange(1, 6 if self.risky() else 4)
            self.const(I32, self.rng.randrange(3))
            self.const(I32, length)
            self.op("array.new_data", typeidx, len(self.module.datas) - 1)
        elif self.rng.random() < 0.5:
            self.exprs((I32,) * length, depth - 1)
            self.op("array.new_fixed", typeidx, length)
        else:
            self.expr(I32, depth)
            self.const(I32, length)
            self.op("array.new", typeidx)
        if self.rng.random() < 0.2:
            self.op("array.len")
        else:
            self.index(depth, length)
            self.op("array.get", typeidx)

    def packed_array(self, _valtype: ValType, depth: int) -> None:
        """An element of a packed array after a set, and a fill or a copy onto itself."""
        typeidx = self.module.typeidx(_PACKED)
        local = self.local(RefType(True, typeidx), reserved=True)
        length = self.rng.randrange(2, 9)
        self.const(I32, length)
        self.op("array.new_default", typeidx)
        self.op("local.tee", local)
        self.index(depth, length)
        self.expr(I32, depth)
        self.op("array.set", typeidx)
        if self.bulk:
            self.op("local.get", local)
            self.const(I32, self.rng.randrange(2))
            if self.rng.random() < 0.5:
                self.expr(I32, depth)
                self.const(I32, length - 1 if not self.risky() else length + 1)
                self.op("array.fill", typeidx)
            else:
                self.op("local.get", local)
                self.const(I32, self.rng.randrange(2))
                self.const(I32, length - 1 if not self.risky() else length + 1)
                self.op("array.copy", typeidx, typeidx)
        self.op("local.get", local)
        self.index(depth, length)
        self.op(self.rng.choice(("array.get_s", "array.get_u")), typeidx)

    def i31(self, _valtype: ValType, depth: int) -> None:
        """An integer through a reference."""
        if self.risky():
            self.op("ref.null", AbsHeapType.I31)
        else:
            self.expr(I32, depth)
            self.op("ref.i31")
        if self.rng.random() < 0.2:
            self.op("extern.convert_any")
            self.op("any.convert_extern")
            self.op("ref.cast_null", AbsHeapType.I31)
        self.op(self.rng.choice(("i31.get_s", "i31.get_u")))

    def anything(self, depth: int) -> None:
        """Push one of several references, as anyref."""
        self.expr(I32, depth)
        self.op("if", ANYREF)
        self.labels.append(LabelTypes((ANYREF,), closed=True))
        self.expr(I32, depth)
        self.op("ref.i31")
        self.op("else")
        kind = self.rng.randrange(3) if self.heap else 0
        if kind == 0:
            self.op("ref.null", AbsHeapType.NONE)
        elif kind == 1:
            self.op("struct.new_default", self.module.typeidx(_STRUCT))
        else:
            self.const(I32, 3)
            self.op("array.new_default", self.module.typeidx(_ARRAY))
        self.labels.pop()
        self.op("end")

    def heaptype(self) -> AbsHeapType | int:
        """Something to test for."""
        kinds: list[AbsHeapType | int] = [AbsHeapType.I31, AbsHeapType.EQ, AbsHeapType.STRUCT, AbsHeapType.ARRAY]
        if self.heap:
            kinds += [self.module.typeidx(_STRUCT), self.module.typeidx(_ARRAY)]
        return self.rng.choice((*kinds, AbsHeapType.NONE))

    def cast(self, _valtype: ValType, depth: int) -> None:
        """A test, or a cast that may fail and a comparison."""
        self.anything(depth)
        if self.risky():
            self.op(self.rng.choice(("ref.cast", "ref.cast_null")), self.heaptype())
            self.op("ref.is_null")
        elif self.rng.random() < 0.3:
            self.op("ref.cast_null", AbsHeapType.EQ)
            self.op("ref.null", AbsHeapType.NONE)
            self.op("ref.eq")
        else:
            self.op(self.rng.choice(("ref.test", "ref.test_null")), self.heaptype())

    def br_on_cast(self, _valtype: ValType, depth: int) -> None:
        """A branch on what a reference is."""
        self.op("block", I32)
        self.labels.append(LabelTypes((I32,)))
        self.op("block", ANYREF)
        self.labels.append(LabelTypes((ANYREF,), closed=True))
        self.anything(depth)
        nullable = self.rng.randrange(2)
        name = self.rng.choice(("br_on_cast", "br_on_cast_fail"))
        self.op(name, 1 | nullable << 1, 0, AbsHeapType.ANY, self.heaptype())
        self.op("drop")
        self.expr(I32, depth)
        self.op("br", 1)
        self.labels.pop()
        self.op("end")
        self.op("ref.is_null")
        self.labels.pop()
        self.op("end")
