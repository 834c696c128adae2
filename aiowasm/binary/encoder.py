"""Modules written in the binary format, canonically: shortest numbers, shortest forms, no empty sections.

Function bodies and constant expressions are copied as they are: they are kept in the binary format. Nothing is checked
here but that there is an encoding.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import TypeVar

from aiowasm.binary.decoder import MAGIC, SECTION_ORDER, VERSION
from aiowasm.syntax.code import write_reftype, write_valtype
from aiowasm.syntax.leb128 import write_u
from aiowasm.syntax.module import Data, Elem, Export, Global, Import, Module, Table
from aiowasm.syntax.types import (
    FUNCREF,
    AddressType,
    CompType,
    FieldType,
    FuncExternType,
    FuncType,
    GlobalType,
    Limits,
    MemType,
    PackedType,
    RecType,
    StructType,
    SubType,
    TableType,
    TagType,
    ValType,
)

__all__ = ("encode",)

T = TypeVar("T")

_EXPORT_KINDS = {"func": 0, "table": 1, "memory": 2, "global": 3, "tag": 4}


def _name(out: bytearray, name: str) -> None:
    _bytes(out, name.encode())


def _bytes(out: bytearray, data: bytes | bytearray) -> None:
    write_u(out, len(data))
    out += data


def _vector(out: bytearray, write: Callable[[bytearray, T], None], items: Iterable[T]) -> None:
    listed = tuple(items)
    write_u(out, len(listed))
    for item in listed:
        write(out, item)


def _valtypes(out: bytearray, valtypes: tuple[ValType, ...]) -> None:
    _vector(out, write_valtype, valtypes)


def _field(out: bytearray, field: FieldType) -> None:
    if isinstance(field.storage, PackedType):
        out.append(field.storage.value)
    else:
        write_valtype(out, field.storage)
    out.append(field.mutable)


def _comptype(out: bytearray, comptype: CompType) -> None:
    if isinstance(comptype, FuncType):
        out.append(0x60)
        _valtypes(out, comptype.params)
        _valtypes(out, comptype.results)
    elif isinstance(comptype, StructType):
        out.append(0x5F)
        _vector(out, _field, comptype.fields)
    else:
        out.append(0x5E)
        _field(out, comptype.field)


def _subtype(out: bytearray, subtype: SubType) -> None:
    if not subtype.final or subtype.supertypes:
        out.append(0x4F if subtype.final else 0x50)
        write_u(out, len(subtype.supertypes))
        for supertype in subtype.supertypes:
            if not isinstance(supertype, int):
                raise ValueError(f"supertype {supertype} has no encoding")
            write_u(out, supertype)
    _comptype(out, subtype.comptype)


def _rectype(out: bytearray, rectype: RecType) -> None:
    if len(rectype.subtypes) == 1:
        _subtype(out, rectype.subtypes[0])
    else:
        out.append(0x4E)
        _vector(out, _subtype, rectype.subtypes)


def _limits(out: bytearray, limits: Limits, addrtype: AddressType, flags: int) -> None:
    out.append(flags | (limits.maximum is not None) | (4 if addrtype is AddressType.I64 else 0))
    write_u(out, limits.minimum)
    if limits.maximum is not None:
        write_u(out, limits.maximum)


def _tabletype(out: bytearray, tabletype: TableType) -> None:
    write_reftype(out, tabletype.reftype)
    _limits(out, tabletype.limits, tabletype.addrtype, 0)


def _memtype(out: bytearray, memtype: MemType) -> None:
    custom = memtype.page_size_log2 != 16
    _limits(out, memtype.limits, memtype.addrtype, (2 if memtype.shared else 0) | (8 if custom else 0))
    if custom:
        write_u(out, memtype.page_size_log2)


def _globaltype(out: bytearray, globaltype: GlobalType) -> None:
    write_valtype(out, globaltype.valtype)
    out.append(globaltype.mutable)


def _tagtype(out: bytearray, tagtype: TagType) -> None:
    out.append(0)
    write_u(out, tagtype.typeidx)


def _import(out: bytearray, item: Import) -> None:
    _name(out, item.module)
    _name(out, item.name)
    externtype = item.type
    if isinstance(externtype, FuncExternType):
        out.append(0)
        write_u(out, externtype.typeidx)
    elif isinstance(externtype, TableType):
        out.append(1)
        _tabletype(out, externtype)
    elif isinstance(externtype, MemType):
        out.append(2)
        _memtype(out, externtype)
    elif isinstance(externtype, GlobalType):
        out.append(3)
        _globaltype(out, externtype)
    else:
        out.append(4)
        _tagtype(out, externtype)


def _table(out: bytearray, table: Table) -> None:
    if table.init is not None:
        out += b"\x40\x00"
    _tabletype(out, table.type)
    if table.init is not None:
        out += table.init.code


def _global(out: bytearray, item: Global) -> None:
    _globaltype(out, item.type)
    out += item.init.code


def _export(out: bytearray, export: Export) -> None:
    _name(out, export.name)
    out.append(_EXPORT_KINDS[export.kind])
    write_u(out, export.index)


def _elem(out: bytearray, elem: Elem) -> None:
    indices = isinstance(elem.init, array)
    flags = 0 if indices else 4
    if isinstance(elem.mode, str):
        flags |= 3 if elem.mode == "declarative" else 1
    # The short form of an active segment has table 0 and, with expressions, the type funcref.
    elif elem.mode[0] or not (indices or elem.type == FUNCREF):
        flags |= 2
    write_u(out, flags)
    if not isinstance(elem.mode, str):
        if flags & 2:
            write_u(out, elem.mode[0])
        out += elem.mode[1].code
    if flags & 3:
        if indices:
            out.append(0)
        else:
            write_reftype(out, elem.type)
    write_u(out, len(elem.init))
    for item in elem.init:
        if isinstance(item, int):
            write_u(out, item)
        else:
            out += item.code


def _data(out: bytearray, data: Data) -> None:
    if data.mode is None:
        out.append(1)
    else:
        memory, offset = data.mode
        write_u(out, 2 if memory else 0)
        if memory:
            write_u(out, memory)
        out += offset.code
    _bytes(out, data.init)


def _section(module: Module, section: int) -> bytearray | None:
    """The content of a section, None where the module has none."""
    vectors: dict[int, tuple[Callable[[bytearray, object], None], Iterable[object]]] = {
        1: (_rectype, module.types),  # type: ignore[dict-item]
        2: (_import, module.imports),  # type: ignore[dict-item]
        3: (write_u, module.funcs.typeidxs),  # type: ignore[dict-item]
        4: (_table, module.tables),  # type: ignore[dict-item]
        5: (_memtype, module.mems),  # type: ignore[dict-item]
        13: (_tagtype, module.tags),  # type: ignore[dict-item]
        6: (_global, module.globals),  # type: ignore[dict-item]
        7: (_export, module.exports),  # type: ignore[dict-item]
        9: (_elem, module.elems),  # type: ignore[dict-item]
        10: (lambda out, code: _bytes(out, bytes(code)), module.funcs),  # type: ignore[call-overload]
        11: (_data, module.datas),  # type: ignore[dict-item]
    }
    out = bytearray()
    if section == 8:
        number = module.start
    elif section == 12:
        number = module.data_count
    else:
        write, items = vectors[section]
        _vector(out, write, items)
        return None if out == b"\0" else out
    if number is None:
        return None
    write_u(out, number)
    return out


def encode(module: Module) -> bytes:
    """Encode a module. Custom sections stand where their `place` says."""
    out = bytearray(MAGIC + VERSION)
    places: dict[int, list[bytearray]] = {}
    for custom in module.customs:
        content = bytearray()
        _name(content, custom.name)
        content += custom.data
        places.setdefault(custom.place, []).append(content)
    for section in (0, *SECTION_ORDER):
        if section:
            content_or_none = _section(module, section)
            if content_or_none is None and section in places and section not in {8, 12}:
                # A custom section needs it to stand behind, so that decoding gives the same module again.
                content_or_none = bytearray(b"\0")
            if content_or_none is not None:
                out.append(section)
                _bytes(out, content_or_none)
        for content in places.get(section, ()):
            out.append(0)
            _bytes(out, content)
    return bytes(out)
