"""Binary modules read: the standard's chapter 5, sections and what is in them.

Function bodies are not looked into, only their sizes are: whoever validates walks them. Constant expressions are walked
to find their ends. Every count is held against the bytes that are left before anything is allocated for it. Work is
done in steps of about a millisecond, so that a caller can let an event loop run in between. Names of functions and
locals are in `aiowasm.binary.names`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import TypeVar

from aiowasm import limits
from aiowasm.binary.datas import read_plain
from aiowasm.errors import InvalidError, MalformedError
from aiowasm.features import DEFAULT, Feature, Features
from aiowasm.syntax.code import decode_locals, instructions_at, read_instruction, read_reftype, read_valtype
from aiowasm.syntax.leb128 import read_s, read_u
from aiowasm.syntax.module import Custom, Datas, Elem, Export, Expr, Funcs, Global, Import, Module, Table
from aiowasm.syntax.steps import Steps, finish
from aiowasm.syntax.types import (
    FUNCREF,
    AbsHeapType,
    AddressType,
    ArrayType,
    CompType,
    ExternType,
    FieldType,
    FuncExternType,
    FuncType,
    GlobalType,
    Limits,
    MemType,
    PackedType,
    RecType,
    RefType,
    StorageType,
    StructType,
    SubType,
    TableType,
    TagType,
    ValType,
)

__all__ = ("MAGIC", "SECTION_ORDER", "VERSION", "decode", "decode_steps")

T = TypeVar("T")

MAGIC = b"\0asm"
VERSION = b"\1\0\0\0"
SECTION_ORDER = (1, 2, 3, 4, 5, 13, 6, 7, 8, 9, 12, 10, 11)
"""Ids of the sections in the order they must have."""

_RANK = {section: rank for rank, section in enumerate(SECTION_ORDER)}
_EXPORT_KINDS = ("func", "table", "memory", "global", "tag")
_PACKED = {t.value: t for t in PackedType}
_FUNC_ELEMS = RefType(False, AbsHeapType.FUNC)
_OPENING = frozenset({"block", "loop", "if", "try", "try_table"})
_I32_CONST, _END = b"\x41", 0x0B
_CLOSING = frozenset({"end", "delegate"})
_INNER = frozenset({"else", "catch", "catch_all"})
# Items per step: a small object takes some microseconds, a number a third of one.
_OBJECTS_PER_STEP = 0xFF
_NUMBERS_PER_STEP = 0x7FF
_PLAIN_PER_STEP = 1000
_MAX_SHARED = 4096


def decode(data: bytes | memoryview, features: Features = DEFAULT) -> Module:
    """Decode a binary module.

    Raises:
        MalformedError: The bytes are not a module.
        InvalidError: The module needs a feature that is not enabled, or exceeds an implementation limit.
    """
    return finish(decode_steps(data, features))


def decode_steps(data: bytes | memoryview, features: Features = DEFAULT) -> Steps[Module]:
    """Decode as `decode` does, in steps: yields None about every millisecond of work, returns the module."""
    if len(data) > limits.MAX_MODULE_NBYTES:
        raise InvalidError(f"module too large: MAX_MODULE_NBYTES is {limits.MAX_MODULE_NBYTES:,}", offset=0)
    return (yield from _Decoder(bytes(data), features).module())


class _Decoder:
    """A position in the bytes of a module, and what has been decoded so far."""

    def __init__(self, data: bytes, features: Features) -> None:
        self.data = data
        self.features = features
        self.pos = 0
        self.end = len(data)
        self.types: list[RecType] = []
        self.imports: list[Import] = []
        self.typeidxs: array[int] = array("I")
        self.starts: array[int] = array("Q")
        self.ends: array[int] = array("Q")
        self.tables: list[Table] = []
        self.mems: list[MemType] = []
        self.tags: list[TagType] = []
        self.globals: list[Global] = []
        self.exports: list[Export] = []
        self.start: int | None = None
        self.elems: list[Elem] = []
        self.data_count: int | None = None
        self.datas = Datas(data)
        self.customs: list[Custom] = []
        self.shared_types: dict[bytes, RecType] = {}
        self.shared_fields: dict[bytes, FieldType] = {}
        self.places: dict[int, array[int]] = {}

    # Numbers, names and other parts of everything.

    def error(self, reason: str, offset: int | None = None) -> MalformedError:
        return MalformedError(reason, offset=self.pos if offset is None else offset)

    def need(self, feature: Feature, what: str, offset: int) -> None:
        if feature not in self.features:
            raise InvalidError(
                f"{what} needs the feature {feature.value}, which is not enabled", offset=offset, feature=feature.value
            )

    def check_end(self, after: int) -> None:
        if after > self.end:
            raise self.error("unexpected end of section or function")

    def byte(self) -> int:
        if self.pos >= self.end:
            raise self.error("unexpected end of section or function")
        self.pos += 1
        return self.data[self.pos - 1]

    def u32(self) -> int:
        self.check_end(self.pos + 1)
        value, after = read_u(self.data, self.pos, 32)
        self.check_end(after)
        self.pos = after
        return value

    def u64(self) -> int:
        self.check_end(self.pos + 1)
        value, after = read_u(self.data, self.pos, 64)
        self.check_end(after)
        self.pos = after
        return value

    def count(self, limit: str, already: int = 0) -> int:
        """Read the length of a vector whose elements take a byte at least; `limit` is the constant that bounds it."""
        at = self.pos
        count = self.u32()
        if count > len(self.data) - at:
            raise self.error("length out of bounds", at)
        maximum: int = getattr(limits, limit)
        if count + already > maximum:
            raise InvalidError(f"too many items: {limit} is {maximum:,}", offset=at)
        # The last element may be missing in a way that has a better message than this.
        if count > self.end - self.pos + 1:
            raise self.error("unexpected end of section or function", at)
        return count

    def name(self) -> str:
        at = self.pos
        if at >= len(self.data):
            raise self.error("unexpected end of section or function")
        size, self.pos = read_u(self.data, at, 32)
        if size > len(self.data) - self.pos:
            raise self.error("length out of bounds", at)
        self.check_end(self.pos + size)
        if size > limits.MAX_NAME_NBYTES:
            raise InvalidError(f"name too long: MAX_NAME_NBYTES is {limits.MAX_NAME_NBYTES:,}", offset=at)
        try:
            name = self.data[self.pos : self.pos + size].decode()
        except UnicodeDecodeError:
            raise self.error("malformed UTF-8 encoding") from None
        self.pos += size
        return name

    def mutability(self) -> bool:
        flag = self.byte()
        if flag > 1:
            raise self.error("malformed mutability", self.pos - 1)
        return flag == 1

    def valtype(self) -> ValType:
        if self.pos >= self.end:
            raise self.error("unexpected end of section or function")
        valtype, after = read_valtype(self.data, self.pos)
        self.check_end(after)
        self.pos = after
        return valtype

    def reftype(self) -> RefType:
        if self.pos >= self.end:
            raise self.error("unexpected end of section or function")
        reftype, after = read_reftype(self.data, self.pos)
        self.check_end(after)
        self.pos = after
        return reftype

    def expr(self) -> Steps[Expr]:
        """Find the `end` of a constant expression; what may stand in it is for validation to say."""
        start = pos = self.pos
        data, end = self.data, self.end
        if data[pos : pos + 1] == _I32_CONST:  # nearly all of them, and there may be thousands
            _value, after = read_s(data, pos + 1, 32)
            if after < end and data[after] == _END:
                self.pos = after + 1
                return Expr(data[start : after + 1], start)
        depth = number = 0
        while True:
            if pos >= end:
                raise self.error("unexpected end of section or function", pos)
            row, _immediates, after = read_instruction(data, pos)
            if after > end:
                raise self.error("unexpected end of section or function", pos)
            name = row.name
            if name in _CLOSING:
                if depth == 0:
                    if name == "delegate":
                        raise self.error("END opcode expected", pos)
                    break
                depth -= 1
            elif name in _OPENING:
                depth += 1
                if depth > limits.MAX_NESTING:
                    raise InvalidError(f"nesting too deep: MAX_NESTING is {limits.MAX_NESTING:,}", offset=pos)
            elif depth == 0 and name in _INNER:
                raise self.error("END opcode expected", pos)
            pos = after
            number += 1
            if not number & _OBJECTS_PER_STEP:
                yield
        self.pos = after
        return Expr(data[start:after], start)

    # Types.

    def storage(self) -> StorageType:
        packed = _PACKED.get(self.data[self.pos]) if self.pos < self.end else None
        if packed is None:
            return self.valtype()
        self.pos += 1
        return packed

    def field(self) -> FieldType:
        at = self.pos
        storage = self.storage()
        field = FieldType(storage, self.mutability())
        # Large structures have few different fields.
        return self.shared_fields.setdefault(self.data[at : self.pos], field)

    def comptype(self) -> Steps[CompType]:
        form = self.byte()
        if form == 0x60:
            params = tuple([self.valtype() for _ in range(self.count("MAX_PARAMS"))])
            results = tuple([self.valtype() for _ in range(self.count("MAX_RESULTS"))])
            return FuncType(params, results)
        at = self.pos - 1
        if form == 0x5F:
            self.need(Feature.GC, "a structure type", at)
            fields = []
            for number in range(self.count("MAX_STRUCT_FIELDS")):
                fields.append(self.field())
                if number & _OBJECTS_PER_STEP == _OBJECTS_PER_STEP:
                    yield
            return StructType(tuple(fields))
        if form == 0x5E:
            self.need(Feature.GC, "an array type", at)
            return ArrayType(self.field())
        if form >= 0x80:
            raise self.error("integer representation too long", at)
        raise self.error("malformed definition type", at)

    def subtype(self) -> Steps[SubType]:
        form = self.data[self.pos] if self.pos < self.end else 0
        if form not in (0x50, 0x4F):
            return SubType(True, (), (yield from self.comptype()))
        self.need(Feature.GC, "a subtype", self.pos)
        self.pos += 1
        supertypes = yield from self.numbers(self.count("MAX_TYPES"))
        return SubType(form == 0x4F, tuple(supertypes), (yield from self.comptype()))

    def type_section(self) -> Steps[None]:
        number = total = 0
        places = self.places[1]
        for _ in range(self.count("MAX_TYPES")):
            at = self.pos
            places.append(at)
            if at < self.end and self.data[at] == 0x4E:
                self.need(Feature.GC, "a recursion group", at)
                self.pos += 1
                subtypes = []
                for _member in range(self.count("MAX_RECGROUP_TYPES", total)):
                    subtypes.append((yield from self.subtype()))
                    number += 1
                    if not number & _OBJECTS_PER_STEP:
                        yield
                self.types.append(RecType(tuple(subtypes)))
                total += len(subtypes)
            else:
                rectype = RecType(((yield from self.subtype()),))
                # Thousands of equal types are common in practice and cheap to write for an attacker.
                if len(self.shared_types) < _MAX_SHARED:
                    rectype = self.shared_types.setdefault(self.data[at : self.pos], rectype)
                self.types.append(rectype)
                total += 1
            # Wide types count as many items.
            number += 1
            if self.pos - at > _OBJECTS_PER_STEP:
                yield
            if not number & _OBJECTS_PER_STEP:
                yield
        if total > limits.MAX_TYPES:
            raise InvalidError(f"too many items: MAX_TYPES is {limits.MAX_TYPES:,}", offset=self.pos)

    def flags(self, allowed: int) -> int:
        at = self.pos
        flags = self.byte()
        if flags & ~allowed:
            raise self.error("malformed limits flags", at)
        if flags & 8 and Feature.CUSTOM_PAGE_SIZES not in self.features:
            raise self.error("malformed limits flags: custom-page-sizes is not enabled", at)
        if flags & 2:
            self.need(Feature.THREADS, "a shared memory", at)
        if flags & 4:
            self.need(Feature.MEMORY64, "an address type of 64 bits", at)
        return flags

    def limits(self, flags: int) -> tuple[Limits, AddressType]:
        # With 64-bit addresses came wider numbers for all limits; validation bounds them by the address type.
        read = self.u64 if Feature.MEMORY64 in self.features else self.u32
        minimum = read()
        maximum = read() if flags & 1 else None
        return Limits(minimum, maximum), AddressType.I64 if flags & 4 else AddressType.I32

    def tabletype(self) -> TableType:
        reftype = self.reftype()
        bounds, addrtype = self.limits(self.flags(0b0101))
        return TableType(bounds, reftype, addrtype)

    def memtype(self) -> MemType:
        flags = self.flags(0b1111)
        bounds, addrtype = self.limits(flags)
        page_size_log2 = 16
        if flags & 8:
            at = self.pos
            page_size_log2 = self.u32()
            # Here already, because two to the power of it is a number that nobody should compute.
            if page_size_log2 > 64:
                raise self.error("invalid custom page size", at)
        return MemType(bounds, addrtype, bool(flags & 2), page_size_log2)

    def globaltype(self) -> GlobalType:
        valtype = self.valtype()
        return GlobalType(valtype, self.mutability())

    def tagtype(self) -> TagType:
        at = self.pos
        if not self.features & {Feature.EXCEPTIONS, Feature.LEGACY_EXCEPTIONS}:
            self.need(Feature.EXCEPTIONS, "a tag", at)
        if self.byte() != 0:
            raise self.error("malformed tag attribute", at)
        return TagType(self.u32())

    # Sections, in their order.

    def one_import(self) -> Import:
        module, name = self.name(), self.name()
        at = self.pos
        kind = self.byte()
        externtype: ExternType
        if kind == 0:
            externtype = FuncExternType(self.u32())
        elif kind == 1:
            externtype = self.tabletype()
        elif kind == 2:
            externtype = self.memtype()
        elif kind == 3:
            externtype = self.globaltype()
        elif kind == 4:
            externtype = self.tagtype()
        else:
            raise self.error("malformed import kind", at)
        return Import(module, name, externtype)

    def one_table(self) -> Steps[Table]:
        at = self.pos
        if at < self.end and self.data[at] == 0x40:
            self.pos += 1
            self.need(Feature.FUNCTION_REFERENCES, "an initial value of a table", at)
            if self.byte() != 0:
                raise self.error("zero byte expected", at + 1)
            tabletype = self.tabletype()
            return Table(tabletype, (yield from self.expr()))
        return Table(self.tabletype())

    def one_global(self) -> Steps[Global]:
        globaltype = self.globaltype()
        return Global(globaltype, (yield from self.expr()))

    def one_export(self) -> Export:
        name = self.name()
        kind = self.byte()
        if kind >= len(_EXPORT_KINDS):
            raise self.error("malformed export kind", self.pos - 1)
        return Export(name, _EXPORT_KINDS[kind], self.u32())

    def one_elem(self) -> Steps[Elem]:
        at = self.pos
        flags = self.u32()
        if flags > 7:
            raise self.error("malformed elements segment kind", at)
        if flags:
            self.need(Feature.BULK_MEMORY, "an element segment of this kind", at)
        mode: str | tuple[int, Expr]
        if flags & 1:
            mode = "declarative" if flags & 2 else "passive"
        else:
            table = self.u32() if flags & 2 else 0
            mode = (table, (yield from self.expr()))
        if not flags & 4:
            if flags & 3 and self.byte() != 0:
                raise self.error("malformed element kind", self.pos - 1)
            indices = yield from self.numbers(self.count("MAX_TABLE_ELEMENTS"))
            return Elem(_FUNC_ELEMS, indices, mode)
        reftype = self.reftype() if flags & 3 else FUNCREF
        exprs = []
        for number in range(self.count("MAX_TABLE_ELEMENTS")):
            exprs.append((yield from self.expr()))
            if number & _OBJECTS_PER_STEP == _OBJECTS_PER_STEP:
                yield
        if reftype == _FUNC_ELEMS:
            functions: array[int] = array("I")
            for number, expr in enumerate(exprs):
                row, immediates, after = read_instruction(expr.code, 0)
                if number & _OBJECTS_PER_STEP == _OBJECTS_PER_STEP:
                    yield
                if row.name != "ref.func" or after != len(expr.code) - 1:
                    break
                functions.append(immediates[0])
            else:
                return Elem(reftype, functions, mode)
        return Elem(reftype, tuple(exprs), mode)

    def numbers(self, count: int) -> Steps[array[int]]:
        """Read `count` indices."""
        numbers: array[int] = array("I")
        data, end, pos = self.data, self.end, self.pos
        while (left := count - len(numbers)) > 0:
            some = data[pos : min(pos + min(left, _NUMBERS_PER_STEP), end)]
            if some and some.isascii():  # types are mostly single bytes, which are taken many at a time
                numbers.extend(some)
                pos += len(some)
            else:
                for _ in range(min(left, _NUMBERS_PER_STEP)):
                    if pos >= end:
                        raise self.error("unexpected end of section or function", pos)
                    value, pos = read_u(data, pos, 32)
                    numbers.append(value)
            if left > _NUMBERS_PER_STEP:
                yield
        self.check_end(pos)
        self.pos = pos
        return numbers

    def data_section(self, places: array[int]) -> Steps[None]:
        count = self.count("MAX_DATA_SEGMENTS")
        while (left := count - len(self.datas)) > 0:
            before = self.pos
            self.pos = read_plain(self.data, before, self.end, min(left, _PLAIN_PER_STEP), places, self.datas)
            # Who writes one that is not plain may write many.
            for _ in range(min(count - len(self.datas), 1 if self.pos > before else _OBJECTS_PER_STEP)):
                places.append(self.pos)
                yield from self.one_data()
            yield

    def one_data(self) -> Steps[None]:
        at = self.pos
        flags = self.u32()
        if flags > 2:
            raise self.error("malformed data segment kind", at)
        if flags:
            self.need(Feature.BULK_MEMORY, "a data segment of this kind", at)
        memidx, expr = -1, (0, 0)
        if flags != 1:
            memidx = self.u32() if flags == 2 else 0
            offset = (yield from self.expr()).offset
            expr = (offset, self.pos)
        size = self.u32()
        self.check_end(self.pos + size)
        self.pos += size
        self.datas.append(memidx, expr, self.pos - size, self.pos)

    def code_section(self) -> Steps[None]:
        data, end = self.data, self.end
        count = self.count("MAX_FUNCTIONS")
        pos = self.pos
        add_start, add_end = self.starts.append, self.ends.append
        for number in range(count):
            if pos >= end:
                raise self.error("unexpected end of section or function", pos)
            size, start = read_u(data, pos, 32)
            pos = start + size
            # Two bytes at least: no locals, and `end`.
            if pos > end or size == 0:
                raise self.error("unexpected end of section or function", start)
            if size > limits.MAX_FUNCTION_NBYTES:
                raise InvalidError(
                    f"function too large: MAX_FUNCTION_NBYTES is {limits.MAX_FUNCTION_NBYTES:,}", offset=start
                )
            add_start(start)
            add_end(pos)
            if number & _NUMBERS_PER_STEP == _NUMBERS_PER_STEP:
                yield
        self.pos = pos

    def each(self, limit: str, one: Callable[[], T], into: list[T], places: array[int]) -> Steps[None]:
        for number in range(self.count(limit)):
            places.append(self.pos)
            into.append(one())
            if number & _OBJECTS_PER_STEP == _OBJECTS_PER_STEP:
                yield

    def each_in_steps(
        self, limit: str, one: Callable[[], Steps[T]], add: Callable[[T], None], places: array[int]
    ) -> Steps[None]:
        for number in range(self.count(limit)):
            places.append(self.pos)
            add((yield from one()))
            if number & _OBJECTS_PER_STEP == _OBJECTS_PER_STEP:
                yield

    def section(self, section: int) -> Steps[None]:
        """Decode the content of a section that is not custom."""
        places = self.places[section] = array("I")
        if section == 1:
            yield from self.type_section()
        elif section == 2:
            yield from self.each("MAX_IMPORTS", self.one_import, self.imports, places)
        elif section == 3:
            count = self.count("MAX_FUNCTIONS")
            places.append(self.pos)
            self.typeidxs = yield from self.numbers(count)
        elif section == 4:
            yield from self.each_in_steps("MAX_TABLES", self.one_table, self.tables.append, places)
        elif section == 5:
            yield from self.each("MAX_MEMORIES", self.memtype, self.mems, places)
        elif section == 13:
            yield from self.each("MAX_TAGS", self.tagtype, self.tags, places)
        elif section == 6:
            yield from self.each_in_steps("MAX_GLOBALS", self.one_global, self.globals.append, places)
        elif section == 7:
            yield from self.each("MAX_EXPORTS", self.one_export, self.exports, places)
        elif section == 8:
            places.append(self.pos)
            self.start = self.u32()
        elif section == 9:
            yield from self.each_in_steps("MAX_ELEM_SEGMENTS", self.one_elem, self.elems.append, places)
        elif section == 12:
            self.need(Feature.BULK_MEMORY, "a data count section", self.pos)
            self.data_count = self.u32()
        elif section == 10:
            yield from self.code_section()
        else:
            yield from self.data_section(places)

    def module(self) -> Steps[Module]:
        data = self.data
        for expected, reason in ((MAGIC, "magic header not detected"), (VERSION, "unknown binary version")):
            found = data[self.pos : self.pos + 4]
            if len(found) < 4:
                raise self.error("unexpected end", len(data))
            if found != expected:
                raise self.error(reason)
            self.pos += 4
        try:
            yield from self.sections()
        except MalformedError:
            yield from self.check_code()
            raise
        return Module(
            types=tuple(self.types),
            imports=tuple(self.imports),
            funcs=Funcs(self.typeidxs, data, self.starts, self.ends),
            tables=tuple(self.tables),
            mems=tuple(self.mems),
            tags=tuple(self.tags),
            globals=tuple(self.globals),
            exports=tuple(self.exports),
            start=self.start,
            elems=tuple(self.elems),
            data_count=self.data_count,
            datas=self.datas,
            customs=tuple(self.customs),
            places=self.places,
        )

    def check_code(self) -> Steps[None]:
        """Look for an error in the code before the place of another one: the first in the module is the one to report.

        A number that is too long in a function often makes the sections after it unreadable.
        """
        number = 0
        for code in Funcs(array("I", bytes(4 * len(self.ends))), self.data, self.starts, self.ends):
            _runs, body = decode_locals(code)
            for _instruction in instructions_at(self.data, body, code.end):
                number += 1
                if not number & _OBJECTS_PER_STEP:
                    yield

    def sections(self) -> Steps[None]:
        """Decode all sections."""
        data = self.data
        rank, place, number = -1, 0, 0
        while self.pos < len(data):
            self.end = len(data)
            at = self.pos
            section = self.byte()
            if section > 13:
                raise self.error("malformed section id", at)
            size = self.u32()
            if size > len(data) - self.pos:
                raise self.error("length out of bounds", at + 1)
            if section == 13 and not self.features & {Feature.EXCEPTIONS, Feature.LEGACY_EXCEPTIONS}:
                self.need(Feature.EXCEPTIONS, "a tag section", at)
            self.end = self.pos + size
            if section == 0:
                name = self.name()
                self.customs.append(Custom(name, data, place, self.pos, self.end))
                self.pos = self.end
            else:
                if _RANK[section] <= rank:
                    raise self.error("unexpected content after last section", at)
                rank, place = _RANK[section], section
                yield from self.section(section)
                if self.pos != self.end:
                    raise self.error("section size mismatch")
            number += 1
            if not number & _OBJECTS_PER_STEP:
                yield
        if len(self.typeidxs) != len(self.starts):
            raise self.error("function and code section have inconsistent lengths")
        if self.data_count is not None and self.data_count != len(self.datas):
            raise self.error("data count and data section have inconsistent lengths")
