"""Global instances (the standard's chapter 4.2.9). Whether a value fits, and who may set it, is checked elsewhere."""

from __future__ import annotations

from types import CellType

from aiowasm.engine.heap import Value
from aiowasm.syntax.types import GlobalType

__all__ = ("GlobalInst",)


class GlobalInst:
    """A global of closed type `globaltype`.

    `cell` holds the value in engine form: i32 and i64 as unsigned ints, floats, v128 as 16 bytes, references with None
    for null. Code closes over the cell, so that a global costs what a closure variable costs. `owner` is the store's.
    """

    __slots__ = ("__weakref__", "cell", "globaltype", "owner")

    def __init__(self, globaltype: GlobalType, value: Value) -> None:
        self.globaltype = globaltype
        self.owner: object = None
        self.cell = CellType(value)

    @property
    def value(self) -> Value:
        """The current value in engine form."""
        value: Value = self.cell.cell_contents
        return value

    @value.setter
    def value(self, value: Value) -> None:
        self.cell.cell_contents = value
