"""What the generator writes into: one function's code, its locals and labels, and the module around it.

Choices are not made here; neither is anything checked: an error of the generator shows as an invalid module.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from random import Random
from typing import Any

from aiowasm.features import Feature, Features
from aiowasm.syntax.code import encode_instruction, encode_locals
from aiowasm.syntax.instructions import BY_NAME
from aiowasm.syntax.module import (
    Data,
    Elem,
    Export,
    Expr,
    Funcs,
    Global,
    Import,
    Module,
    Table,
)
from aiowasm.syntax.types import (
    EXNREF,
    EXTERNREF,
    F32,
    F64,
    FUNCREF,
    I32,
    I64,
    V128,
    AbsHeapType,
    AddressType,
    CompType,
    FuncType,
    GlobalType,
    MemType,
    NumType,
    RecType,
    RefType,
    SubType,
    TableType,
    TagType,
    ValType,
)

Types = tuple[ValType, ...]


@dataclass
class ModuleBuilder:
    """The module so far. Functions are declared with their types before any has code."""

    features: Features
    types: list[CompType] = field(default_factory=list)
    functypes: list[FuncType] = field(default_factory=list)
    codes: list[bytes] = field(default_factory=list)
    mems: list[MemType] = field(default_factory=list)
    tables: list[TableType] = field(default_factory=list)
    tags: list[Types] = field(default_factory=list)
    globals: list[GlobalType] = field(default_factory=list)
    inits: list[Expr] = field(default_factory=list)
    exports: list[Export] = field(default_factory=list)
    elems: list[Elem] = field(default_factory=list)
    datas: list[Data] = field(default_factory=list)
    imports: list[Import] = field(default_factory=list)
    nimported_funcs: int = 0
    nimported_globals: int = 0
    nimported_tables: int = 0
    nimported_mems: int = 0
    nimported_tags: int = 0
    home: int = 0
    """The table where function i stands at i."""
    layouts: list[list[FuncType]] = field(default_factory=list)
    """Of each table, the types of the functions it begins with; code leaves those where they are."""
    start: int | None = None

    def typeidx(self, comptype: CompType) -> int:
        """The index of a type, made if need be."""
        if comptype not in self.types:
            self.types.append(comptype)
        return self.types.index(comptype)

    def add_global(self, globaltype: GlobalType, name: str, *immediates: Any) -> int:
        """Add a global whose initial value is one instruction; give its index. Imported ones are there already."""
        self.globals.append(globaltype)
        self.inits.append(constant(name, *immediates))
        return len(self.globals) - 1

    def module(self) -> Module:
        """The module. Every function can be referred to, by a declarative segment."""
        elems = list(self.elems)
        if Feature.REFERENCE_TYPES in self.features:
            elems.append(Elem(RefType(False, AbsHeapType.FUNC), array("I", range(len(self.functypes))), "declarative"))
        buffer = b"".join(self.codes)
        ends = array("Q")
        for code in self.codes:
            ends.append((ends[-1] if ends else 0) + len(code))
        typeidxs = array("I", [self.typeidx(functype) for functype in self.functypes[self.nimported_funcs :]])
        tags = tuple(TagType(self.typeidx(FuncType(types, ()))) for types in self.tags[self.nimported_tags :])
        return Module(
            types=tuple(RecType((SubType(True, (), comptype),)) for comptype in self.types),
            funcs=Funcs(typeidxs, buffer, array("Q", [0, *ends[:-1]]), ends),
            imports=tuple(self.imports),
            tables=tuple(Table(tabletype) for tabletype in self.tables[self.nimported_tables :]),
            mems=tuple(self.mems[self.nimported_mems :]),
            tags=tags,
            globals=tuple(map(Global, self.globals[self.nimported_globals :], self.inits)),
            start=self.start,
            exports=tuple(self.exports),
            elems=tuple(elems),
            data_count=len(self.datas) if Feature.BULK_MEMORY in self.features else None,
            datas=tuple(self.datas),
        )


def constant(name: str, *immediates: Any) -> Expr:
    """A constant expression of one instruction."""
    out = bytearray()
    encode_instruction(out, BY_NAME[name], immediates)
    out.append(0x0B)
    return Expr(bytes(out))


@dataclass(frozen=True)
class LabelTypes:
    """A label: the types a branch carries, the counter of a loop, whether random branches leave it alone."""

    types: Types
    counter: int | None = None
    closed: bool = False


class Emitter:
    """Instructions of one function."""

    def __init__(self, module: ModuleBuilder, rng: Random, functype: FuncType) -> None:
        self.module = module
        self.rng = rng
        self.functype = functype
        self.out = bytearray()
        self.locals: list[ValType] = list(functype.params)
        self.reserved: set[int] = set()
        self.labels: list[LabelTypes] = [LabelTypes(functype.results)]

    def op(self, name: str, *immediates: Any) -> None:
        """Write one instruction."""
        encode_instruction(self.out, BY_NAME[name], immediates)

    def const(self, valtype: NumType, bits: int) -> None:
        """Write a constant given as bits."""
        self.op(f"{valtype}.const", bits.to_bytes(16, "little") if valtype is V128 else bits)

    def local(self, valtype: ValType, reserved: bool = False) -> int:
        """Declare a local; a reserved one is never set by chance."""
        self.locals.append(valtype)
        if reserved:
            self.reserved.add(len(self.locals) - 1)
        return len(self.locals) - 1

    def blocktype(self, params: Types, results: Types) -> ValType | int | None:
        """A block type in its shortest form."""
        if params or len(results) > 1:
            return self.module.typeidx(FuncType(params, results))
        return results[0] if results else None

    def code(self) -> bytes:
        """The entry of the code section, without its size."""
        out = bytearray()
        runs: list[tuple[int, ValType]] = []
        for valtype in self.locals[len(self.functype.params) :]:
            if runs and runs[-1][1] == valtype:
                runs[-1] = (runs[-1][0] + 1, valtype)
            else:
                runs.append((1, valtype))
        encode_locals(out, runs)
        return bytes(out + self.out)


def address_type(addrtype: AddressType) -> NumType:
    """The type of addresses."""
    return I64 if addrtype is AddressType.I64 else I32


def value_types(features: Features) -> Types:
    """The types of parameters, locals and results."""
    types: list[ValType] = [I32, I64, F32, F64]
    if Feature.SIMD in features:
        types.append(V128)
    if Feature.REFERENCE_TYPES in features:
        types += [FUNCREF, EXTERNREF]
    if Feature.EXCEPTIONS in features:
        types.append(EXNREF)
    return tuple(types)
