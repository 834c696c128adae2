"""Long work as generators that yield now and then, so that an event loop can run between: how it is done at once."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

__all__ = ("Steps", "finish")

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Work in steps of less than a millisecond; what it returns is the result."""


def finish(steps: Steps[T]) -> T:
    """Do what is left of *steps* and return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result
