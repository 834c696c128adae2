"""What a module imports, exports and consists of, as plain data with types in the text format."""

from __future__ import annotations

from typing import Any

from aiowasm.binary.decoder import MAGIC
from aiowasm.binary.names import decode_names
from aiowasm.cli.features import features_used
from aiowasm.syntax.leb128 import read_u
from aiowasm.syntax.module import Module
from aiowasm.syntax.types import (
    ExternType,
    FuncExternType,
    GlobalType,
    MemType,
    SubType,
    TableType,
    TagType,
)
from aiowasm.text.printer import print_externtype

__all__ = ("describe_module", "import_types", "sections")

_SECTIONS = (
    *("custom", "type", "import", "function", "table", "memory", "global", "export", "start", "element", "code"),
    *("data", "data count", "tag"),
)
_KINDS: dict[type, str] = {
    FuncExternType: "func",
    TableType: "table",
    MemType: "memory",
    GlobalType: "global",
    TagType: "tag",
}


def _subtypes(module: Module) -> list[SubType]:
    return [subtype for rectype in module.types for subtype in rectype.subtypes]


def import_types(module: Module) -> list[tuple[str, str, str]]:
    """Return module, name and type of every import, in order."""
    subtypes = _subtypes(module)
    return [(entry.module, entry.name, print_externtype(entry.type, subtypes)) for entry in module.imports]


def _spaces(module: Module) -> dict[str, list[ExternType]]:
    """The types in each index space, imports first."""
    spaces: dict[str, list[ExternType]] = {kind: [] for kind in _KINDS.values()}
    for entry in module.imports:
        spaces[_KINDS[type(entry.type)]].append(entry.type)
    spaces["func"] += [FuncExternType(typeidx) for typeidx in module.funcs.typeidxs]
    spaces["table"] += [table.type for table in module.tables]
    spaces["memory"] += module.mems
    spaces["global"] += [definition.type for definition in module.globals]
    spaces["tag"] += module.tags
    return spaces


def sections(binary: bytes) -> list[dict[str, Any]]:
    """Return name, offset and size of the content of every section of a well-formed binary module."""
    found = []
    pos = len(MAGIC) + 4
    while pos < len(binary):
        section = binary[pos]
        nbytes, pos = read_u(binary, pos + 1, 32)
        name = _SECTIONS[section]
        if section == 0:
            length, start = read_u(binary, pos, 32)
            name = f'custom "{binary[start : start + length].decode()}"'
        found.append({"name": name, "offset": pos, "nbytes": nbytes})
        pos += nbytes
    return found


def describe_module(module: Module, binary: bytes) -> dict[str, Any]:
    """Return what `aiowasm inspect` shows of a valid module and its binary form."""
    subtypes = _subtypes(module)
    spaces = _spaces(module)
    names = [custom.data for custom in module.customs if custom.name == "name"]
    imports = [{"module": where, "name": name, "type": text} for where, name, text in import_types(module)]
    exports = [
        {"name": export.name, "type": print_externtype(spaces[export.kind][export.index], subtypes)}
        for export in module.exports
    ]
    described: dict[str, Any] = {
        "name": decode_names(names[0]).module if names else None,
        "nbytes": len(binary),
        "features": [feature.value for feature in features_used(module)],
        "imports": imports,
        "exports": exports,
        "start": module.start,
        "types": len(subtypes),
        "functions": len(spaces["func"]),
    }
    for key, kind in (("memories", "memory"), ("tables", "table"), ("globals", "global"), ("tags", "tag")):
        described[key] = [print_externtype(type_, subtypes) for type_ in spaces[kind]]
    described["element_segments"] = len(module.elems)
    described["data_segments"] = len(module.datas)
    described["sections"] = sections(binary)
    return described
