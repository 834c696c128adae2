"""An engine that writes down what becomes of each call on another one: two engines can be compared call by call.

A `Record` is plain data: outcome, results, fuel, trap and the frames it names, and what the called instance's memories,
globals and tables hold afterwards. References are told apart as far as an embedder can tell them apart.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from aiowasm.cli.wast.values import HostReference
from aiowasm.engine.base import Engine, Outcome
from aiowasm.engine.func import FuncInst
from aiowasm.engine.heap import I31
from aiowasm.engine.instance import ModuleInst
from aiowasm.errors import FrameInfo, TrapCode
from aiowasm.syntax.steps import Steps

__all__ = ("Record", "Recording", "state_of")

_OVER = frozenset((Outcome.RETURNED, Outcome.TRAPPED, Outcome.THROWN, Outcome.FAILED))
_SMALL_NBYTES = 4 << 20
"""Memories up to this size are looked at after every call; larger ones at the end."""
_SMALL_ELEMENTS = 1000


@dataclass(frozen=True)
class Record:
    """What became of one call."""

    function: tuple[int | None, str]
    arguments: tuple[Any, ...]
    outcome: Outcome
    results: tuple[Any, ...]
    fuel: int
    trap: TrapCode | None
    frames: tuple[FrameInfo, ...]
    state: tuple[Any, ...]


def _plain(value: Any) -> Any:
    """A value as data: floats as bits, so that NaNs compare."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, FuncInst):
        return ("func", value.funcidx, value.name)
    if isinstance(value, I31):
        return ("i31", value.value)
    if value is None or isinstance(value, int | bytes | HostReference):
        return value
    return type(value).__name__


def state_of(instance: ModuleInst, *, whole: bool = False) -> tuple[Any, ...]:
    """What *instance* can see: sizes and checksums of memories, globals, elements of tables."""
    mems = []
    for memory in instance.mems:
        nbytes = len(memory.view)
        mems.append((nbytes, crc32(memory.view) if whole or nbytes <= _SMALL_NBYTES else None))
    tables = []
    for table in instance.tables:
        seen = range(table.size if whole else min(table.size, _SMALL_ELEMENTS))
        tables.append((table.size, tuple(_plain(table.get(index)) for index in seen)))
    return (*mems, *tables, *(_plain(each.value) for each in instance.globals))


class Recording:
    """An `Engine` that is another one, and fills `records`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.records: list[Record] = []
        self.instances: list[ModuleInst] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def bind_steps(self, instance: ModuleInst) -> Steps[None]:
        """Make an instance known."""
        self.instances.append(instance)
        return self.engine.bind_steps(instance)

    def call(self, func: FuncInst, arguments: tuple[Any, ...], **limits: int) -> _Watched:
        """An execution that is written down when it is over."""
        return _Watched(self, func, arguments, self.engine.call(func, arguments, **limits))

    def end(self) -> list[tuple[Any, ...]]:
        """The state of every instance that was ever made."""
        return [state_of(instance, whole=True) for instance in self.instances]


class _Watched:
    """An execution of a `Recording`."""

    def __init__(self, recording: Recording, func: FuncInst, arguments: tuple[Any, ...], execution: Any) -> None:
        self._recording = recording
        self._func = func
        self._plain_arguments = tuple(map(_plain, arguments))
        self._execution = execution

    def __getattr__(self, name: str) -> Any:
        return getattr(self._execution, name)

    def resume(self, slice_fuel: int) -> Outcome:
        """Resume, and write down what came of it if that was the end."""
        execution, func = self._execution, self._func
        outcome: Outcome = execution.resume(slice_fuel)
        if outcome in _OVER:
            trap = execution.trap
            self._recording.records.append(
                Record(
                    (func.funcidx, func.name),
                    self._plain_arguments,
                    outcome,
                    tuple(map(_plain, execution.results)),
                    execution.consumed,
                    trap and trap.code,
                    trap.frames if trap else (),
                    state_of(func.instance) if func.instance is not None else (),
                )
            )
        return outcome
