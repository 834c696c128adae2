"""The context of validation: a module's index spaces with closed types (the standard's chapter 3.1).

Lookups raise `InvalidError` with the standard's phrase and no place: whoever walks the code adds it.
Nothing here reads code.
"""

from __future__ import annotations

from typing import NoReturn

from aiowasm.errors import InvalidError, MalformedError
from aiowasm.features import Feature, Features
from aiowasm.syntax.matching import DefType, one_reftype
from aiowasm.syntax.module import Module
from aiowasm.syntax.types import (
    AbsHeapType,
    AddressType,
    ArrayType,
    FuncType,
    GlobalType,
    HeapType,
    MemType,
    NumType,
    RefType,
    StructType,
    TableType,
    ValType,
)

__all__ = ("Context", "disabled", "unknown")

_FUNCTION_REFERENCES_HEAPTYPES = frozenset({AbsHeapType.FUNC, AbsHeapType.EXTERN})
_EXCEPTION_HEAPTYPES = frozenset({AbsHeapType.EXN, AbsHeapType.NOEXN})


def unknown(what: str, index: int) -> NoReturn:
    """Raise that *index* is outside an index space."""
    raise InvalidError(f"unknown {what} {index}")


def disabled(feature: Feature, what: str) -> NoReturn:
    """Raise that *what* needs a feature that is off."""
    raise InvalidError(f"{what} needs the feature {feature.value}, which is disabled", feature=feature.value)


class Context:
    """Index spaces of a module, imports first, with closed types."""

    def __init__(self, module: Module, features: Features) -> None:
        self.module = module
        self.features = features
        self.deftypes: list[DefType] = []
        self.funcs: list[DefType] = []
        self.tables: list[TableType] = []
        self.mems: list[MemType] = []
        self.globals: list[GlobalType] = []
        self.tags: list[DefType] = []
        self.elems: list[RefType] = []
        self.refs: set[int] = set()
        self.aggregates = False
        """Whether there are types of structures or arrays."""
        self.nimported_funcs = 0
        self.nimported_globals = 0
        self.place = (0, 0)
        """Section and item that is being validated, for errors that have no offset of their own."""
        self.work = 0
        """Parts of types checked since the last step."""
        self.matched: set[tuple[int, int]] = set()
        """Identities of types of which the first matches the second, for long lists of operands."""
        self.operands: dict[int, tuple[ValType, ...]] = {}
        """What struct.new pops, by type index."""
        self.defaultable: set[int] = set()
        """Indices of structure types known to have default values."""

    def functype(self, funcidx: int) -> DefType:
        """The type of a function of the function index space."""
        return self.funcs[funcidx]

    def need(self, feature: Feature, what: str) -> None:
        """Raise unless *feature* is on."""
        if feature not in self.features:
            disabled(feature, what)

    def reftype(self, nullable: bool, heaptype: HeapType) -> RefType:
        """The reference type, one object per type so that the walk compares by identity."""
        return one_reftype(nullable, heaptype)

    def close_heaptype(self, heaptype: HeapType) -> HeapType:
        """Check *heaptype* and return it closed."""
        if isinstance(heaptype, int):
            if heaptype >= len(self.deftypes):
                unknown("type", heaptype)
            self.need(Feature.FUNCTION_REFERENCES, "a typed reference")
            return self.deftypes[heaptype]
        if isinstance(heaptype, AbsHeapType) and heaptype not in _FUNCTION_REFERENCES_HEAPTYPES:
            self.need(Feature.EXCEPTIONS if heaptype in _EXCEPTION_HEAPTYPES else Feature.GC, f"type {heaptype}")
        return heaptype

    def close_reftype(self, reftype: RefType) -> RefType:
        """Check *reftype* and return it closed."""
        self.need(Feature.REFERENCE_TYPES, "a reference type")
        if not reftype.nullable:
            self.need(Feature.FUNCTION_REFERENCES, "a reference that is not null")
        return self.reftype(reftype.nullable, self.close_heaptype(reftype.heaptype))

    def close_valtype(self, valtype: ValType) -> ValType:
        """Check *valtype* and return it closed."""
        if isinstance(valtype, RefType):
            return self.close_reftype(valtype)
        if valtype is NumType.V128:
            self.need(Feature.SIMD, "type v128")
        return valtype

    def deftype(self, typeidx: int) -> DefType:
        """The type of index *typeidx*."""
        if typeidx >= len(self.deftypes):
            unknown("type", typeidx)
        return self.deftypes[typeidx]

    def func_comptype(self, typeidx: int) -> FuncType:
        """The function type of index *typeidx*."""
        comptype = self.deftype(typeidx).comptype
        if not isinstance(comptype, FuncType):
            raise InvalidError(f"type mismatch: type {typeidx} is not a function type")
        return comptype

    def struct(self, typeidx: int) -> StructType:
        """The structure type of index *typeidx*."""
        comptype = self.deftype(typeidx).comptype
        if not isinstance(comptype, StructType):
            raise InvalidError(f"type mismatch: type {typeidx} is not a structure type")
        return comptype

    def array(self, typeidx: int) -> ArrayType:
        """The array type of index *typeidx*."""
        comptype = self.deftype(typeidx).comptype
        if not isinstance(comptype, ArrayType):
            raise InvalidError(f"type mismatch: type {typeidx} is not an array type")
        return comptype

    def table(self, tableidx: int) -> TableType:
        """The table of index *tableidx*."""
        if tableidx >= len(self.tables):
            unknown("table", tableidx)
        return self.tables[tableidx]

    def mem(self, memidx: int) -> MemType:
        """The memory of index *memidx*."""
        if memidx >= len(self.mems):
            unknown("memory", memidx)
        return self.mems[memidx]

    def tag(self, tagidx: int) -> FuncType:
        """The type of the tag of index *tagidx*."""
        if tagidx >= len(self.tags):
            unknown("tag", tagidx)
        comptype = self.tags[tagidx].comptype
        if not isinstance(comptype, FuncType):
            raise InvalidError("type mismatch: the type of a tag is not a function type")
        return comptype

    def elem(self, elemidx: int) -> RefType:
        """The type of the element segment of index *elemidx*."""
        if elemidx >= len(self.elems):
            unknown("elem segment", elemidx)
        return self.elems[elemidx]

    def data(self, dataidx: int) -> None:
        """Check that there is a data segment of index *dataidx*."""
        if self.module.data_count is None:
            raise MalformedError("data count section required")
        if dataidx >= self.module.data_count:
            unknown("data segment", dataidx)


def address(addrtype: AddressType) -> NumType:
    """The number type of an address type."""
    return NumType.I64 if addrtype is AddressType.I64 else NumType.I32
