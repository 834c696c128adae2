"""Instantiation (the standard's chapter 4.7): allocate, evaluate constants, initialise. Imports are resolved already.

The start function is not called here: it is an ordinary activation of the store. Active segments run in order and trap
like the instructions they stand for; what they wrote to imported tables and memories before a trap stays, as the
standard says.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiowasm.engine.base import Engine
from aiowasm.engine.func import FuncInst
from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.heap import Heap
from aiowasm.engine.instance import ModuleInst
from aiowasm.engine.interpreter.constants import evaluate
from aiowasm.engine.memory import DEFAULT_MAX_NBYTES, MemInst
from aiowasm.engine.segments import DataInst, ElemInst
from aiowasm.engine.table import TableInst
from aiowasm.engine.tag import TagInst
from aiowasm.limits import MAX_TABLE_ELEMENTS
from aiowasm.syntax.module import Elem, Expr
from aiowasm.syntax.types import AddressType, NumType, ValType
from aiowasm.validation.code import validate_expr
from aiowasm.validation.module import ValidatedModule

__all__ = ("Bounds", "Import", "instantiate")

Import = FuncInst | TableInst | MemInst | GlobalInst | TagInst


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the owner of an instance lets each of its memories and tables grow to, and the account of its heap."""

    heap: Heap
    memory_nbytes: int = DEFAULT_MAX_NBYTES
    table_elements: int = MAX_TABLE_ELEMENTS


class _Instantiation:
    """One instantiation in progress: the instance and what evaluating its constants needs."""

    def __init__(self, validated: ValidatedModule, engine: Engine, name: str | None, bounds: Bounds) -> None:
        self.validated = validated
        self.module = validated.module
        self.engine = engine
        self.bounds = bounds
        self.instance = ModuleInst(validated, name, bounds.heap)

    def value(self, expr: Expr, expected: ValType) -> Any:
        record = validate_expr(self.validated, expr, expected, len(self.instance.globals))
        return evaluate(record, self.instance)

    def allocate(self, imports: Sequence[Import]) -> None:
        instance, module, validated = self.instance, self.module, self.validated
        tables, mems, globals_, tags = list[TableInst](), list[MemInst](), list[GlobalInst](), list[TagInst]()
        spaces: dict[type, list[Any]] = {TableInst: tables, MemInst: mems, GlobalInst: globals_, TagInst: tags}
        for entity in imports:
            if isinstance(entity, FuncInst):
                instance.funcs[len(instance.funcs)] = entity
            else:
                # Engines have classes of their own for some of them.
                next(space for kind, space in spaces.items() if isinstance(entity, kind)).append(entity)
        mems.extend(self.engine.memory(memtype, self.bounds.memory_nbytes) for memtype in module.mems)
        tags.extend(TagInst(deftype) for deftype in validated.tags[len(tags) :])
        instance.mems, instance.tags = tuple(mems), tuple(tags)
        instance.globals = globals_  # initialisers refer to those before them
        for definition in module.globals:
            globaltype = validated.globals[len(globals_)]
            value = self.value(definition.init, globaltype.valtype)
            globals_.append(self.engine.global_(globaltype, value))
        instance.globals = tuple(globals_)
        for table in module.tables:
            tabletype = validated.tables[len(tables)]
            init = None if table.init is None else self.value(table.init, tabletype.reftype)
            tables.append(self.engine.table(tabletype, init, self.bounds.table_elements))
        instance.tables = tuple(tables)
        self.engine.bind(instance)

    def references(self, elem: Elem, elemidx: int) -> tuple[Any, ...]:
        if isinstance(elem.init, array):
            return tuple(self.instance.funcs[funcidx] for funcidx in elem.init)
        reftype = self.validated.elems[elemidx]
        return tuple(self.value(expr, reftype) for expr in elem.init)

    def segments(self) -> None:
        instance, module, validated = self.instance, self.module, self.validated
        instance.elems = tuple(
            ElemInst(validated.elems[elemidx], self.references(elem, elemidx))
            for elemidx, elem in enumerate(module.elems)
        )
        instance.datas = tuple(DataInst(data.init) for data in module.datas)

    def initialise(self) -> None:
        instance, module = self.instance, self.module
        for elem, elem_instance in zip(module.elems, instance.elems, strict=True):
            if isinstance(elem.mode, tuple):
                tableidx, offset = elem.mode
                table = instance.tables[tableidx]
                start = self.value(offset, _address(table.addrtype))
                table.init(start, elem_instance.elements, 0, len(elem_instance.elements))
            if elem.mode != "passive":
                elem_instance.drop()
        for data, data_instance in zip(module.datas, instance.datas, strict=True):
            if data.mode is not None:
                memidx, offset = data.mode
                memory = instance.mems[memidx]
                start = self.value(offset, _address(memory.addrtype))
                memory.init(start, data_instance.data, 0, len(data_instance.data))
                data_instance.drop()


def _address(addrtype: AddressType) -> NumType:
    return NumType.I64 if addrtype is AddressType.I64 else NumType.I32


def instantiate(
    validated: ValidatedModule,
    imports: Sequence[Import],
    engine: Engine,
    name: str | None = None,
    bounds: Bounds | None = None,
    adopt: Callable[[ModuleInst], None] | None = None,
) -> ModuleInst:
    """Return an initialised instance of *validated*; *imports* are entities in order of the module's imports.

    Types are not checked: linking has matched every import. The start function has not run. *adopt* is called once
    everything is allocated and nothing initialised: what it raises ends the instantiation.

    Raises:
        Trap: "out of bounds table access" or "out of bounds memory access" from an active segment.
        LimitError: If a memory or table is larger than allowed.

    Spec: `$instantiate`, `$allocmodule`.
    """
    work = _Instantiation(validated, engine, name, bounds or Bounds(Heap()))
    work.allocate(imports)
    if adopt is not None:
        adopt(work.instance)
    work.segments()
    work.initialise()
    return work.instance
