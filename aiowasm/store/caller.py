"""What a host function sees of the instance that calls it: the type that annotations name.

The store makes these; nothing here awaits or knows engines.
"""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ("Caller",)

D = TypeVar("D")


class Caller(Generic[D]):
    """The calling instance, as the optional first parameter of a host function. `D` is the type of the store's data."""

    __slots__ = ()
