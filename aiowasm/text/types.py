"""Types of the text format (the standard's chapter 6.4), and the index spaces that resolve their identifiers.

`Context` is what identifiers of one module mean. Definitions of types are `typedef` here; uses of function types, which
may define types themselves, are `typeuse`. Instructions and the other fields of a module are not here.
"""

from __future__ import annotations

from aiowasm.syntax.types import (
    AbsHeapType,
    AddressType,
    ArrayType,
    CompType,
    FieldType,
    FuncType,
    GlobalType,
    HeapType,
    Limits,
    MemType,
    NumType,
    PackedType,
    RecType,
    RefType,
    StorageType,
    StructType,
    SubType,
    TableType,
    ValType,
)
from aiowasm.text.lexer import Lexer
from aiowasm.text.numbers import parse_unsigned

__all__ = ("SPACES", "Context")

SPACES = ("type", "func", "table", "memory", "global", "tag", "elem", "data")
_SPACE_NAMES = {"elem": "elem segment", "data": "data segment", "func": "function"}
_NUMTYPES = {str(numtype): numtype for numtype in NumType}
_PACKED = {str(packed): packed for packed in PackedType}
_HEAPTYPES = {str(heaptype): heaptype for heaptype in AbsHeapType if heaptype is not AbsHeapType.BOT}
_REFTYPES = {
    name + "ref": RefType(True, heaptype) for name, heaptype in _HEAPTYPES.items() if not name.startswith("no")
} | {
    "nullref": RefType(True, AbsHeapType.NONE),
    "nullfuncref": RefType(True, AbsHeapType.NOFUNC),
    "nullexternref": RefType(True, AbsHeapType.NOEXTERN),
    "nullexnref": RefType(True, AbsHeapType.NOEXN),
}


class Context:
    """The identifiers and types of one module, and the parsers of what only they are needed for."""

    def __init__(self, lexer: Lexer, limit_bits: int = 64) -> None:
        self.lexer = lexer
        self.limit_bits = limit_bits
        self.ids: dict[str, dict[str, int]] = {space: {} for space in SPACES}
        self.counts = dict.fromkeys(SPACES, 0)
        self.fields: dict[int, dict[str, int]] = {}
        self.rectypes: list[RecType] = []
        self.subtypes: list[SubType] = []
        self._simple: dict[FuncType, int] = {}

    # Indices.

    def unsigned(self, bits: int = 32, kind: str = "") -> int:
        """Pass an unsigned number."""
        lexer = self.lexer
        value = str(lexer.take("number"))
        try:
            return parse_unsigned(value, bits, kind)
        except ValueError as error:
            lexer.position -= 1
            raise lexer.error(str(error)) from None

    def index(self, space: str) -> int:
        """Pass an index or an identifier of an index space."""
        lexer = self.lexer
        if lexer.kind == "id":
            found = self.ids[space].get(str(lexer.value))
            if found is None:
                raise lexer.error(f"unknown {_SPACE_NAMES.get(space, space)} {lexer.value!s}")
            lexer.position += 1
            return found
        return self.unsigned()

    def at_index(self) -> bool:
        """Whether an index or identifier comes next."""
        return self.lexer.kind in ("id", "number")

    # Types.

    def heaptype(self) -> HeapType:
        """Pass a heap type."""
        lexer = self.lexer
        if lexer.kind == "keyword":
            found = _HEAPTYPES.get(str(lexer.value))
            if found is None:
                raise lexer.unexpected()
            lexer.position += 1
            return found
        return self.index("type")

    def reftype(self) -> RefType:
        """Pass a reference type."""
        lexer = self.lexer
        if lexer.accept_form("ref"):
            nullable = lexer.accept("null")
            heaptype = self.heaptype()
            lexer.close()
            return RefType(nullable, heaptype)
        found = _REFTYPES.get(str(lexer.value)) if lexer.kind == "keyword" else None
        if found is None:
            raise lexer.unexpected()
        lexer.position += 1
        return found

    def valtype(self) -> ValType:
        """Pass a value type."""
        lexer = self.lexer
        found = _NUMTYPES.get(str(lexer.value)) if lexer.kind == "keyword" else None
        if found is None:
            return self.reftype()
        lexer.position += 1
        return found

    def valtypes(self) -> list[ValType]:
        """Pass value types up to a closing parenthesis, that too."""
        found = []
        while self.lexer.kind != ")":
            found.append(self.valtype())
        self.lexer.close()
        return found

    def fieldtype(self) -> FieldType:
        """Pass the type of a field."""
        mutable = self.lexer.accept_form("mut")
        storage: StorageType
        packed = _PACKED.get(str(self.lexer.value)) if self.lexer.kind == "keyword" else None
        if packed is None:
            storage = self.valtype()
        else:
            self.lexer.position += 1
            storage = packed
        if mutable:
            self.lexer.close()
        return FieldType(storage, mutable)

    def params(self, names: dict[str, int] | None) -> list[ValType]:
        """Pass `(param ...)` forms; identifiers go into `names`, or are refused where that is None."""
        lexer = self.lexer
        types: list[ValType] = []
        while lexer.accept_form("param"):
            if lexer.kind == "id":
                if names is None:
                    raise lexer.unexpected()
                name = str(lexer.value)
                if name in names:
                    raise lexer.error(f"duplicate local {name}")
                lexer.position += 1
                names[name] = len(types)
                types.append(self.valtype())
                lexer.close()
            else:
                types.extend(self.valtypes())
        return types

    def results(self) -> list[ValType]:
        """Pass `(result ...)` forms."""
        types: list[ValType] = []
        while self.lexer.accept_form("result"):
            types.extend(self.valtypes())
        return types

    def comptype(self, typeidx: int) -> CompType:
        """Pass a composite type in parentheses; names of its fields belong to `typeidx`."""
        lexer = self.lexer
        if lexer.accept_form("func"):
            params = self.params({})
            comptype: CompType = FuncType(tuple(params), tuple(self.results()))
        elif lexer.accept_form("struct"):
            fields: list[FieldType] = []
            names = self.fields.setdefault(typeidx, {})
            while lexer.accept_form("field"):
                name = lexer.accept_id()
                if name is None:
                    while lexer.kind != ")":
                        fields.append(self.fieldtype())
                else:
                    if name in names:
                        raise lexer.error(f"duplicate field {name}")
                    names[name] = len(fields)
                    fields.append(self.fieldtype())
                lexer.close()
            comptype = StructType(tuple(fields))
        elif lexer.accept_form("array"):
            comptype = ArrayType(self.fieldtype())
        else:
            if lexer.kind == "(":
                lexer.position += 1
            raise lexer.unexpected()
        lexer.close()
        return comptype

    def typedef(self, typeidx: int) -> SubType:
        """Pass `(type ...)`, whose `(type` is passed already."""
        lexer = self.lexer
        lexer.accept_id()
        if lexer.accept_form("sub"):
            final = lexer.accept("final")
            supertypes: list[HeapType] = []
            while self.at_index():
                supertypes.append(self.index("type"))
            subtype = SubType(final, tuple(supertypes), self.comptype(typeidx))
            lexer.close()
        else:
            subtype = SubType(True, (), self.comptype(typeidx))
        lexer.close()
        return subtype

    def add_rectype(self, subtypes: list[SubType]) -> None:
        """Add a recursion group to the module's types."""
        if len(subtypes) == 1 and subtypes[0].final and not subtypes[0].supertypes:
            comptype = subtypes[0].comptype
            if isinstance(comptype, FuncType):
                self._simple.setdefault(comptype, len(self.subtypes))
        self.rectypes.append(RecType(tuple(subtypes)))
        self.subtypes.extend(subtypes)

    def typeidx_of(self, functype: FuncType) -> int:
        """The first type that is this function type and nothing more; it is added where there is none."""
        found = self._simple.get(functype)
        if found is None:
            found = len(self.subtypes)
            self.add_rectype([SubType(True, (), functype)])
        return found

    def functype_at(self, typeidx: int) -> FuncType | None:
        """The function type of an index, if it is one."""
        if typeidx < len(self.subtypes):
            comptype = self.subtypes[typeidx].comptype
            if isinstance(comptype, FuncType):
                return comptype
        return None

    def explicit_typeuse(self, names: dict[str, int] | None) -> tuple[int | None, FuncType]:
        """Pass a type use: its index, where it has one, and the function type it stands for."""
        lexer = self.lexer
        typeidx: int | None = None
        at = lexer.position
        if lexer.accept_form("type"):
            typeidx = self.index("type")
            lexer.close()
        given = FuncType(tuple(self.params(names)), tuple(self.results()))
        if lexer.at_form("param"):
            # Parameters come before results.
            raise lexer.unexpected()
        if typeidx is None:
            return None, given
        functype = self.functype_at(typeidx)
        if given.params or given.results:
            if typeidx >= len(self.subtypes):
                raise lexer.error("unknown type", lexer.offsets[at])
            if given != functype:
                raise lexer.error("inline function type", lexer.offsets[at])
        return typeidx, functype or FuncType((), ())

    def typeuse(self, names: dict[str, int] | None = None) -> tuple[int, FuncType]:
        """Pass a type use; a type is added to the module where none is named and there is none like it."""
        typeidx, functype = self.explicit_typeuse(names)
        return (self.typeidx_of(functype) if typeidx is None else typeidx), functype

    # Types of memories, tables and globals.

    def addrtype(self) -> AddressType:
        """Pass an address type, or nothing for i32."""
        if self.lexer.accept("i64"):
            return AddressType.I64
        self.lexer.accept("i32")
        return AddressType.I32

    def limits(self) -> Limits:
        """Pass limits; whether they fit the address type is for validation."""
        bits = self.limit_bits
        minimum = self.unsigned(bits)
        return Limits(minimum, self.unsigned(bits) if self.lexer.kind == "number" else None)

    def pagesize(self) -> int:
        """Pass `(pagesize n)`, or nothing: the binary logarithm of the size."""
        lexer = self.lexer
        if not lexer.accept_form("pagesize"):
            return 16
        size = self.unsigned(32)
        if size == 0 or size & (size - 1):
            lexer.position -= 1
            raise lexer.error("invalid custom page size")
        lexer.close()
        return size.bit_length() - 1

    def memtype(self) -> MemType:
        """Pass a memory type."""
        addrtype = self.addrtype()
        limits = self.limits()
        shared = self.lexer.accept("shared")
        return MemType(limits, addrtype, shared, self.pagesize())

    def tabletype(self) -> TableType:
        """Pass a table type."""
        addrtype = self.addrtype()
        return TableType(self.limits(), self.reftype(), addrtype)

    def globaltype(self) -> GlobalType:
        """Pass a global type."""
        if self.lexer.accept_form("mut"):
            valtype = self.valtype()
            self.lexer.close()
            return GlobalType(valtype, True)
        return GlobalType(self.valtype(), False)
