"""Element and data instances (the standard's chapters 4.2.11 and 4.2.12): segments that can be dropped."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, overload

from aiowasm.engine.func import FuncInst
from aiowasm.engine.heap import Reference
from aiowasm.syntax.module import Data
from aiowasm.syntax.types import RefType

if TYPE_CHECKING:
    from aiowasm.engine.instance import ModuleInst

__all__ = ("NO_DATAS", "DataInst", "DataInsts", "ElemInst", "Funcrefs")


class DataInst:
    """A data segment: `data`, which may be part of the module's binary, is empty once dropped."""

    __slots__ = ("data",)

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = data

    def drop(self) -> None:
        """Free the bytes. Spec: `data.drop`."""
        self.data = b""


class DataInsts(dict[int, DataInst]):
    """The data segments of an instance; each is made when it is first asked for, which few ever are.

    Active ones are dropped once they are written: those before `written`, where instantiation ended. What it left in
    tables of other instances can still use those behind.
    """

    __slots__ = ("datas", "written")

    def __init__(self, datas: Sequence[Data]) -> None:
        super().__init__()
        self.datas = datas
        self.written = 0

    def __missing__(self, dataidx: int) -> DataInst:
        data = self.datas[dataidx]
        made = self[dataidx] = DataInst(data.view if data.mode is None or dataidx >= self.written else b"")
        return made


NO_DATAS: Final = DataInsts(())
"""Those of the many instances that have none."""


class Funcrefs(Sequence[FuncInst]):
    """References to functions of `instance` by their indices: a function is made when somebody takes it out.

    Programs have tables of thousands of functions, most of which nobody ever sees (benchmarks/fairness.py --starting).
    """

    __slots__ = ("funcidxs", "instance")

    def __init__(self, instance: ModuleInst, funcidxs: array[int]) -> None:
        self.instance = instance
        self.funcidxs = funcidxs

    def __len__(self) -> int:
        return len(self.funcidxs)

    def __iter__(self) -> Iterator[FuncInst]:
        return map(self.instance.funcs.__getitem__, self.funcidxs)

    @overload
    def __getitem__(self, index: int) -> FuncInst: ...

    @overload
    def __getitem__(self, index: slice) -> Funcrefs: ...

    def __getitem__(self, index: int | slice) -> FuncInst | Funcrefs:
        if isinstance(index, slice):
            return Funcrefs(self.instance, self.funcidxs[index])
        return self.instance.funcs[self.funcidxs[index]]


class ElemInst:
    """An element segment of closed type `reftype`: `elements` is empty once dropped."""

    __slots__ = ("elements", "reftype")

    def __init__(self, reftype: RefType, elements: Sequence[Reference]) -> None:
        self.reftype = reftype
        self.elements = elements

    def drop(self) -> None:
        """Free the references. Spec: `elem.drop`."""
        self.elements = ()
