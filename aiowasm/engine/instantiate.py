"""Instantiation (the standard's chapter 4.7): allocate, evaluate constants, initialise. Imports are resolved already.

The start function is not called here: it is an ordinary activation of the store. Active segments run in order and trap
like the instructions they stand for; what they wrote to imported tables and memories before a trap stays, as the
standard says.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from aiowasm.engine.base import Engine
from aiowasm.engine.func import FuncInst
from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.heap import Heap
from aiowasm.engine.instance import ModuleInst
from aiowasm.engine.interpreter.constants import evaluate
from aiowasm.engine.memory import DEFAULT_MAX_NBYTES, MemInst
from aiowasm.engine.segments import DataInsts, ElemInst, Funcrefs
from aiowasm.engine.table import TableInst
from aiowasm.engine.tag import TagInst
from aiowasm.limits import MAX_TABLE_ELEMENTS
from aiowasm.syntax.code import constant_number
from aiowasm.syntax.module import Datas, Elem, Expr
from aiowasm.syntax.steps import Steps, finish
from aiowasm.syntax.types import AddressType, NumType, ValType
from aiowasm.validation.code import validate_expr
from aiowasm.validation.module import ValidatedModule

__all__ = ("Bounds", "Import", "instantiate", "instantiate_steps")

T = TypeVar("T")

_PER_STEP: Final = 128
"""Elements, segments or globals that are made in one step."""
_PLAIN_PER_STEP: Final = 1000
"""Data segments that are copied in one step, if they are plain."""
_STEP_NBYTES: Final = 1 << 20

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
        number = constant_number(expr, expected)
        if number is not None:
            return number
        record = validate_expr(self.validated, expr, expected, len(self.instance.globals))
        return evaluate(record, self.instance)

    def allocate(self, imports: Sequence[Import]) -> Steps[None]:
        instance, module, validated = self.instance, self.module, self.validated
        yield from self.engine.prepare_steps(validated)
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
            if not len(globals_) % _PER_STEP:
                yield
        instance.globals = tuple(globals_)
        for table in module.tables:
            tabletype = validated.tables[len(tables)]
            init = None if table.init is None else self.value(table.init, tabletype.reftype)
            tables.append(self.engine.table(tabletype, init, self.bounds.table_elements))
            yield
        instance.tables = tuple(tables)
        yield from self.engine.bind_steps(instance)

    def references(self, elem: Elem, elemidx: int) -> Steps[Sequence[Any]]:
        if isinstance(elem.init, array):
            return Funcrefs(self.instance, elem.init)
        found: list[Any] = []
        reftype = self.validated.elems[elemidx]
        for start in range(0, len(elem.init), _PER_STEP):
            found.extend(self.value(expr, reftype) for expr in elem.init[start : start + _PER_STEP])
            yield
        return tuple(found)

    def segments(self) -> Steps[None]:
        instance, module, validated = self.instance, self.module, self.validated
        elems = []
        for elemidx, elem in enumerate(module.elems):
            elems.append(ElemInst(validated.elems[elemidx], (yield from self.references(elem, elemidx))))
        instance.elems = tuple(elems)
        if module.datas:
            instance.datas = DataInsts(module.datas)

    def initialise(self) -> Steps[None]:
        instance, module = self.instance, self.module
        for elem, elem_instance in zip(module.elems, instance.elems, strict=True):
            if isinstance(elem.mode, tuple):
                tableidx, offset = elem.mode
                table = instance.tables[tableidx]
                start = self.value(offset, _address(table.addrtype))
                yield from _init_table(table, start, elem_instance.elements)
            if elem.mode != "passive":
                elem_instance.drop()
        number, datas = 0, module.datas
        try:
            while number < len(datas):
                before, number = number, self.write_plain(number)
                for _ in range(min(len(datas) - number, 1 if number > before else _PER_STEP)):
                    data = datas[number]
                    if data.mode is not None:
                        yield from self.write(data.view, *data.mode)
                    number += 1
                yield
        finally:
            instance.datas.written = number

    def write_plain(self, number: int) -> int:
        """Copy plain data segments into memory 0, from *number* on; return the first one that `write` has to look at.

        It is one that is not plain, does not fit or is large; or enough is done for a step.
        """
        datas = self.module.datas
        if not isinstance(datas, Datas) or not self.instance.mems:
            return number
        view, source, room = self.instance.mems[0].view, memoryview(datas.buffer), _STEP_NBYTES
        size, last = len(view), number + _PLAIN_PER_STEP
        for address, start, end in zip(
            datas.addresses[number:last], datas.starts[number:last], datas.ends[number:last], strict=True
        ):
            nbytes = end - start
            if address < 0 or address + nbytes > size or nbytes > room:
                break
            view[address : address + nbytes] = source[start:end]
            room -= nbytes
            number += 1
        return number

    def write(self, init: memoryview, memidx: int, offset: Expr) -> Steps[None]:
        """Copy an active data segment into its memory."""
        memory = self.instance.mems[memidx]
        start = self.value(offset, _address(memory.addrtype))
        for at in _pieces(start, len(init), len(memory.view), _STEP_NBYTES):
            memory.init(start + at.start, init, at.start, at.stop - at.start)
            if len(init) * _PER_STEP >= 8 * _STEP_NBYTES:
                yield


def _pieces(start: int, count: int, size: int, most: int) -> Iterator[range]:
    """Cut *count* elements into pieces of *most*, unless they do not fit at *start* of *size*: that traps at once."""
    if start + count > size or count <= most:
        yield range(count)
        return
    for at in range(0, count, most):
        yield range(at, min(at + most, count))


def _init_table(table: TableInst, start: int, elements: Sequence[Any]) -> Steps[None]:
    for at in _pieces(start, len(elements), table.size, _PER_STEP):
        table.init(start + at.start, elements, at.start, at.stop - at.start)
        yield


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
    return finish(instantiate_steps(validated, imports, engine, name, bounds, adopt))


def instantiate_steps(
    validated: ValidatedModule,
    imports: Sequence[Import],
    engine: Engine,
    name: str | None = None,
    bounds: Bounds | None = None,
    adopt: Callable[[ModuleInst], None] | None = None,
) -> Steps[ModuleInst]:
    """Like `instantiate`, in steps of less than a millisecond; nothing runs in the instance between them."""
    work = _Instantiation(validated, engine, name, bounds or Bounds(Heap()))
    yield from work.allocate(imports)
    if adopt is not None:
        adopt(work.instance)
    yield from work.segments()
    yield from work.initialise()
    return work.instance
