"""Element and data instances (the standard's chapters 4.2.11 and 4.2.12): segments that can be dropped."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

from aiowasm.engine.func import FuncInst
from aiowasm.engine.heap import Reference
from aiowasm.syntax.types import RefType

if TYPE_CHECKING:
    from aiowasm.engine.instance import ModuleInst

__all__ = ("DataInst", "ElemInst", "Funcrefs")


class DataInst:
    """A data segment: `data`, which may be part of the module's binary, is empty once dropped."""

    __slots__ = ("data",)

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = data

    def drop(self) -> None:
        """Free the bytes. Spec: `data.drop`."""
        self.data = b""


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
