"""A synchronous driver of one engine, and modules from text."""

from __future__ import annotations

from typing import Any

from aiowasm.engine.base import NO_LIMIT, Engine, Outcome
from aiowasm.engine.func import FuncInst
from aiowasm.engine.heap import Heap
from aiowasm.engine.instance import ModuleInst
from aiowasm.engine.instantiate import Bounds, Import, instantiate
from aiowasm.features import ALL
from aiowasm.syntax.matching import close_rectype
from aiowasm.syntax.types import FuncType, RecType, SubType
from aiowasm.text.parser import parse_module
from aiowasm.validation.module import validate_module

CALL_DEPTH, STACK_SLOTS = 1000, 65_536


def load(engine: Engine, text: str, imports: tuple[Import, ...] = ()) -> ModuleInst:
    """An instance of the module *text*."""
    return instantiate(validate_module(parse_module(text.encode(), ALL), ALL), imports, engine, bounds=Bounds(Heap()))


def functype(params: tuple[Any, ...] = (), results: tuple[Any, ...] = ()) -> Any:
    """A closed function type."""
    return close_rectype(RecType((SubType(True, (), FuncType(params, results)),)), 0, [])[0]


def export(instance: ModuleInst, name: str) -> FuncInst:
    """An exported function."""
    index = next(each.index for each in instance.validated.module.exports if each.name == name)
    return instance.funcs[index]


def start(engine: Engine, func: FuncInst, *arguments: Any, limit: int = NO_LIMIT, **limits: int) -> Any:
    """An execution, not started."""
    bounds = {"call_depth": CALL_DEPTH, "stack_slots": STACK_SLOTS} | limits
    return engine.call(func, arguments, limit=limit, **bounds)


def finish(execution: Any, slice_fuel: int = 1_000_000) -> Outcome:
    """Resume until it does not pause."""
    while (outcome := execution.resume(slice_fuel)) is Outcome.PAUSED:
        pass
    return outcome


def call(engine: Engine, instance: ModuleInst, name: str, *arguments: Any) -> tuple[Any, ...]:
    """Results of a call, or the trap raised."""
    execution = start(engine, export(instance, name), *arguments)
    outcome = finish(execution)
    if outcome is Outcome.TRAPPED:
        raise execution.trap
    assert outcome is Outcome.RETURNED
    results: tuple[Any, ...] = execution.results
    return results
