"""Tanks of fuel: store, namespace, instance, call. All of them are charged; each may have a limit."""

from __future__ import annotations

from aiowasm.engine.base import NO_LIMIT

__all__ = ("Tank", "charge", "remaining")


class Tank:
    """What has been used, and how much may be: `limit` None means any amount. A call may use more than its limit."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.used = 0

    def add(self, units: int) -> None:
        """Raise the limit by *units*; a tank without a limit has no use for them."""
        if isinstance(units, bool) or not isinstance(units, int):
            raise TypeError(f"fuel must be an int, got {type(units).__name__}")
        if units < 0:
            raise ValueError(f"fuel to add must not be negative, got {units}")
        if self.limit is not None:
            self.limit += units


def remaining(tanks: tuple[Tank, ...]) -> int:
    """Return the least that is left in any of *tanks*, at least 0; `NO_LIMIT` if none has a limit."""
    least = NO_LIMIT
    for tank in tanks:
        if tank.limit is not None and tank.limit - tank.used < least:
            least = tank.limit - tank.used
    return max(least, 0)


def charge(tanks: tuple[Tank, ...], units: int) -> None:
    """Use *units* of every tank."""
    for tank in tanks:
        tank.used += units
