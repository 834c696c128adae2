"""Module instances (the standard's chapter 4.2.5): the index spaces of one instantiated module.

Instances hold entities directly; there are no store addresses. Knows nothing of names, namespaces or event loops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiowasm.engine.func import FuncInst
    from aiowasm.engine.global_ import GlobalInst
    from aiowasm.engine.memory import MemInst
    from aiowasm.engine.segments import DataInst, ElemInst
    from aiowasm.engine.table import TableInst
    from aiowasm.engine.tag import TagInst
    from aiowasm.syntax.matching import DefType
    from aiowasm.validation.module import ValidatedModule

__all__ = ("ModuleInst",)


class ModuleInst:
    """One instance: imports first in every index space, as in the standard."""

    __slots__ = (
        "__weakref__",
        "datas",
        "deftypes",
        "elems",
        "funcs",
        "globals",
        "mems",
        "name",
        "tables",
        "tags",
        "validated",
    )

    def __init__(self, validated: ValidatedModule, name: str | None = None) -> None:
        self.validated = validated
        self.name = name
        self.deftypes: list[DefType] = validated.deftypes
        self.funcs: list[FuncInst] = []
        self.tables: list[TableInst] = []
        self.mems: list[MemInst] = []
        self.globals: list[GlobalInst] = []
        self.tags: list[TagInst] = []
        self.elems: list[ElemInst] = []
        self.datas: list[DataInst] = []
