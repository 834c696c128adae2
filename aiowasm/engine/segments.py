"""Element and data instances (the standard's chapters 4.2.11 and 4.2.12): segments that can be dropped."""

from __future__ import annotations

from aiowasm.engine.heap import Reference
from aiowasm.syntax.types import RefType

__all__ = ("DataInst", "ElemInst")


class DataInst:
    """A data segment: `data` is empty once dropped."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def drop(self) -> None:
        """Free the bytes. Spec: `data.drop`."""
        self.data = b""


class ElemInst:
    """An element segment of closed type `reftype`: `elements` is empty once dropped."""

    __slots__ = ("elements", "reftype")

    def __init__(self, reftype: RefType, elements: tuple[Reference, ...]) -> None:
        self.reftype = reftype
        self.elements = elements

    def drop(self) -> None:
        """Free the references. Spec: `elem.drop`."""
        self.elements = ()
