"""Resolving imports: from names to entities whose types match (the standard's chapters 3.3 and 4.7).

All that is missing or does not match is reported, in order. Where entities come from (namespaces, mappings, host
modules) is the caller's business: it gives a function from module and name to an entity.
"""

from __future__ import annotations

from collections.abc import Callable

from aiowasm.engine.func import FuncInst
from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.instantiate import Import
from aiowasm.engine.memory import MemInst
from aiowasm.engine.table import TableInst
from aiowasm.engine.tag import TagInst
from aiowasm.errors import LinkError
from aiowasm.syntax.matching import matches_valtype
from aiowasm.syntax.types import (
    AddressType,
    ExternType,
    FuncExternType,
    GlobalType,
    MemType,
    TableType,
)
from aiowasm.validation.module import ValidatedModule

__all__ = ("resolve",)

Lookup = Callable[[str, str], Import | None]


def resolve(validated: ValidatedModule, lookup: Lookup) -> list[Import]:
    """Return the entities for the imports of *validated*, in order.

    Raises:
        LinkError: "unknown import" or "incompatible import type", with every import concerned.
    """
    found: list[Import] = []
    problems: list[tuple[str, str, str]] = []
    counts = {"func": 0, "table": 0, "memory": 0, "global": 0, "tag": 0}
    for declaration in validated.module.imports:
        kind = _kind(declaration.type)
        index = counts[kind]
        counts[kind] += 1
        entity = lookup(declaration.module, declaration.name)
        if entity is None:
            problems.append(("unknown import", declaration.module, declaration.name))
        elif not _matches(validated, kind, index, entity):
            problems.append(("incompatible import type", declaration.module, declaration.name))
        else:
            found.append(entity)
    if problems:
        _, module, name = problems[0]
        raise LinkError(
            "; ".join(f"{words}: {where}.{what}" for words, where, what in problems), module=module, name=name
        ) from None
    return found


def _kind(externtype: ExternType) -> str:
    if isinstance(externtype, FuncExternType):
        return "func"
    if isinstance(externtype, TableType):
        return "table"
    if isinstance(externtype, MemType):
        return "memory"
    return "global" if isinstance(externtype, GlobalType) else "tag"


def _matches(validated: ValidatedModule, kind: str, index: int, entity: Import) -> bool:
    if isinstance(entity, FuncInst):
        return kind == "func" and entity.deftype.is_subtype_of(validated.funcs[index])
    if isinstance(entity, TagInst):
        return kind == "tag" and entity.deftype is validated.tags[index]
    if isinstance(entity, GlobalInst):
        return kind == "global" and _matches_global(entity.globaltype, validated.globals[index])
    if isinstance(entity, TableInst):
        return kind == "table" and _matches_table(entity, validated.tables[index])
    return kind == "memory" and _matches_memory(entity, validated.mems[index])


def _matches_global(actual: GlobalType, expected: GlobalType) -> bool:
    if actual.mutable != expected.mutable or not matches_valtype(actual.valtype, expected.valtype):
        return False
    return not actual.mutable or matches_valtype(expected.valtype, actual.valtype)


def _matches_limits(size: int, maximum: int | None, expected: TableType | MemType) -> bool:
    limits = expected.limits
    return size >= limits.minimum and (limits.maximum is None or (maximum is not None and maximum <= limits.maximum))


def _matches_table(actual: TableInst, expected: TableType) -> bool:
    return (
        actual.addrtype is expected.addrtype
        and _matches_limits(actual.size, actual.maximum, expected)
        and matches_valtype(actual.reftype, expected.reftype)
        and matches_valtype(expected.reftype, actual.reftype)
    )


def _matches_memory(actual: MemInst, expected: MemType) -> bool:
    addrtype: AddressType = actual.addrtype
    return (
        addrtype is expected.addrtype
        and actual.shared == expected.shared
        and actual.page_size_log2 == expected.page_size_log2
        and _matches_limits(actual.size, actual.maximum, expected)
    )
