"""Which features a module uses: the smallest set that admits it, as far as structure and instructions tell."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator

from aiowasm.features import Feature
from aiowasm.syntax.code import decode_locals, instructions
from aiowasm.syntax.instructions import Instruction
from aiowasm.syntax.module import Elem, Expr, Module
from aiowasm.syntax.types import (
    AbsHeapType,
    AddressType,
    ArrayType,
    FieldType,
    FuncType,
    GlobalType,
    MemType,
    NumType,
    RecType,
    RefType,
    StructType,
    TableType,
    TagType,
)

__all__ = ("features_used",)

_EXCEPTIONS = (AbsHeapType.EXN, AbsHeapType.NOEXN)
_TAG_SECTION = 13
_PLAIN = (AbsHeapType.FUNC, AbsHeapType.EXTERN)


def features_used(module: Module) -> list[Feature]:
    """Return the features that *module* needs beyond the first version of the standard, in the order of `Feature`.

    Raises:
        MalformedError: A body that nobody validated is not code.
    """
    return _Search(module).run()


class _Search:
    def __init__(self, module: Module) -> None:
        self.module = module
        self.found: set[Feature] = set()
        self.functypes: dict[int, FuncType] = {}

    def run(self) -> list[Feature]:
        self.types()
        self.externs()
        self.segments()
        self.code()
        return [feature for feature in Feature if feature in self.found]

    # Types.

    def types(self) -> None:
        number = 0
        for rectype in self.module.types:
            self.rectype(rectype)
            for subtype in rectype.subtypes:
                if isinstance(subtype.comptype, FuncType):
                    self.functypes[number] = subtype.comptype
                number += 1

    def rectype(self, rectype: RecType) -> None:
        if len(rectype.subtypes) != 1:
            self.found.add(Feature.GC)
        for subtype in rectype.subtypes:
            comptype = subtype.comptype
            if subtype.supertypes or not subtype.final or not isinstance(comptype, FuncType):
                self.found.add(Feature.GC)
            if isinstance(comptype, FuncType):
                self.values(comptype.params + comptype.results)
                if len(comptype.results) > 1:
                    self.found.add(Feature.MULTI_VALUE)
            else:
                self.fields(comptype)

    def fields(self, comptype: StructType | ArrayType) -> None:
        fields: tuple[FieldType, ...] = comptype.fields if isinstance(comptype, StructType) else (comptype.field,)
        self.values(field.storage for field in fields)

    def values(self, types: Iterable[object]) -> None:
        for type_ in types:
            if type_ is NumType.V128:
                self.found.add(Feature.SIMD)
            elif isinstance(type_, RefType):
                self.reference(type_)

    def reference(self, reftype: RefType) -> None:
        self.found.add(Feature.REFERENCE_TYPES)
        heaptype = reftype.heaptype
        if heaptype in _EXCEPTIONS:
            self.found.add(Feature.EXCEPTIONS)
        elif isinstance(heaptype, AbsHeapType) and heaptype not in _PLAIN:
            self.found.add(Feature.GC)
        if not reftype.nullable or not isinstance(heaptype, AbsHeapType):
            self.found.add(Feature.FUNCTION_REFERENCES)

    # What is defined, imported and exported.

    def externs(self) -> None:
        module = self.module
        imported = [declaration.type for declaration in module.imports]
        mems = [type_ for type_ in imported if isinstance(type_, MemType)] + list(module.mems)
        tables = [type_ for type_ in imported if isinstance(type_, TableType)] + [t.type for t in module.tables]
        globals_ = [type_ for type_ in imported if isinstance(type_, GlobalType)]
        self.memories(mems)
        self.tables(tables)
        if any(table.init is not None for table in module.tables):
            self.found.add(Feature.FUNCTION_REFERENCES)
        if any(type_.mutable for type_ in globals_):
            self.found.add(Feature.MUTABLE_GLOBALS)
        globals_ += [definition.type for definition in module.globals]
        self.values(type_.valtype for type_ in globals_)
        exported = (globals_[e.index] for e in module.exports if e.kind == "global" and e.index < len(globals_))
        if any(type_.mutable for type_ in exported):
            self.found.add(Feature.MUTABLE_GLOBALS)
        # Both proposals have tags; which one it is, the code says.
        self.has_tags = bool(module.tags) or any(isinstance(type_, TagType) for type_ in imported)
        # A custom section may stand behind a tag section that is empty.
        self.has_tags = self.has_tags or any(custom.place == _TAG_SECTION for custom in module.customs)

    def memories(self, mems: list[MemType]) -> None:
        if len(mems) > 1:
            self.found.add(Feature.MULTI_MEMORY)
        for memtype in mems:
            if memtype.addrtype is AddressType.I64:
                self.found.add(Feature.MEMORY64)
            if memtype.shared:
                self.found.add(Feature.THREADS)
            if memtype.page_size_log2 != 16:
                self.found.add(Feature.CUSTOM_PAGE_SIZES)

    def tables(self, tables: list[TableType]) -> None:
        if len(tables) > 1:
            self.found.add(Feature.REFERENCE_TYPES)
        for tabletype in tables:
            if tabletype.addrtype is AddressType.I64:
                self.found.add(Feature.MEMORY64)
            if tabletype.reftype != RefType(True, AbsHeapType.FUNC):
                self.reference(tabletype.reftype)

    def segments(self) -> None:
        module = self.module
        for elem in module.elems:
            self.elem(elem)
        # A segment of another memory than the first has a form that came with bulk memory.
        if module.data_count is not None or any(data.mode is None or data.mode[0] for data in module.datas):
            self.found.add(Feature.BULK_MEMORY)

    def elem(self, elem: Elem) -> None:
        if isinstance(elem.mode, str):
            self.found.add(Feature.BULK_MEMORY)
        elif elem.mode[0]:
            self.found |= {Feature.BULK_MEMORY, Feature.REFERENCE_TYPES}
        if not isinstance(elem.init, array):
            self.found.add(Feature.BULK_MEMORY)
            self.reference(elem.type)

    # Instructions.

    def code(self) -> None:
        nimported = sum(isinstance(declaration.type, GlobalType) for declaration in self.module.imports)
        for expr in self.expressions():
            for row, immediates in instructions(expr.code, 0):
                if row.name == "global.get" and immediates[0] >= nimported:
                    self.found.add(Feature.GC)
                if isinstance(row.constant, Feature):
                    self.found.add(row.constant)
                if row.feature is not None:
                    self.found.add(row.feature)
        for code in self.module.funcs:
            runs, body = decode_locals(code)
            self.values(valtype for count, valtype in runs if count)
            for row, immediates in instructions(code.buffer, body, code.end):
                if row.feature is not None:
                    self.found.add(row.feature)
                if row.immediates:
                    self.immediates(row, immediates)
        if self.has_tags and not self.found & {Feature.EXCEPTIONS, Feature.LEGACY_EXCEPTIONS}:
            self.found.add(Feature.EXCEPTIONS)

    def immediates(self, row: Instruction, immediates: tuple[object, ...]) -> None:
        if row.immediates[0] == "block":
            self.block(immediates[0])
        elif row.name == "select_t":
            for value in immediates:
                if isinstance(value, tuple):
                    self.values(value)
        else:
            for word, value in zip(row.immediates, immediates, strict=True):
                if word == "heaptype" and isinstance(value, AbsHeapType | int):
                    self.reference(RefType(True, value))

    def block(self, word: object) -> None:
        if isinstance(word, int) and not isinstance(word, NumType):
            functype = self.functypes.get(word)
            if functype is not None and (functype.params or len(functype.results) > 1):
                self.found.add(Feature.MULTI_VALUE)
        else:
            self.values((word,))

    def expressions(self) -> Iterator[Expr]:
        module = self.module
        for definition in module.globals:
            yield definition.init
        for table in module.tables:
            if table.init is not None:
                yield table.init
        for elem in module.elems:
            if not isinstance(elem.init, array):
                yield from elem.init
            if isinstance(elem.mode, tuple):
                yield elem.mode[1]
        for data in module.datas:
            if data.mode is not None:
                yield data.mode[1]
