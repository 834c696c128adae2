"""Handles: the numbers that stand for references in slots, where those are no functions. One set for each execution."""

from __future__ import annotations

from array import array
from typing import Any, Final

__all__ = ("Handles",)

_FIRST: Final = 0x7E57_0000_0000_0000
_MIN: Final = 4096


class Handles:
    """Objects that slots of one guest stack may refer to: kept alive until `sweep` finds no slot with theirs."""

    __slots__ = ("_free", "_max", "_numbers", "_objects")

    def __init__(self) -> None:
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._free: list[int] = []
        self._max = _MIN

    def get(self, handle: int) -> Any:
        """Return what *handle* stands for."""
        return self._objects[handle - _FIRST]

    def find(self, value: object) -> int | None:
        """Return the handle of *value* if it has one."""
        return self._numbers.get(id(value))

    def is_full(self) -> bool:
        """Whether it is time to sweep before another one is made."""
        return len(self._numbers) >= self._max

    def make(self, value: object) -> int:
        """Return a new handle of *value*, which has none."""
        if self._free:
            handle = self._free.pop()
            self._objects[handle - _FIRST] = value
        else:
            handle = _FIRST + len(self._objects)
            self._objects.append(value)
        self._numbers[id(value)] = handle
        return handle

    def sweep(self, words: array[int]) -> None:
        """Forget handles that are not among *words*. Stale slots keep some alive a little longer; that is all."""
        found = {word for word in words if _FIRST <= word < _FIRST + len(self._objects)}
        for key, handle in list(self._numbers.items()):
            if handle not in found:
                del self._numbers[key]
                self._objects[handle - _FIRST] = None
                self._free.append(handle)
        self._max = max(_MIN, 2 * len(self._numbers))
