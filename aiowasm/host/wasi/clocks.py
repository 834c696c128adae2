"""Where a guest's time and randomness come from: the system, or something that is the same every time."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from typing import Final

import anyio
import anyio.lowlevel

from aiowasm.host.wasi.abi import ClockId, Errno
from aiowasm.host.wasi.errno import WasiError

__all__ = ("Clock", "FakeClock", "SeededRandom", "SystemClock", "clock_of")

_NS: Final = 1_000_000_000
_MAX_SLEEP: Final = 86_400 * _NS


class Clock(ABC):
    """Tells the time and waits for it. Everything is in nanoseconds."""

    @abstractmethod
    def now(self, clock: ClockId) -> int:
        """Return the time, since 1970 for `REALTIME` and since an unspecified moment for the others."""

    @abstractmethod
    def resolution(self, clock: ClockId) -> int:
        """Return the resolution, at least 1."""

    @abstractmethod
    async def sleep(self, nanoseconds: int) -> None:
        """Suspend until `now` is *nanoseconds* later."""

    def poll(self, nanoseconds: int) -> float | None:
        """Return *nanoseconds* as seconds for a wait for something else; None if waiting for time is not real."""
        return nanoseconds / _NS


class SystemClock(Clock):
    """The clocks of this system. CPU time is that of this process, from when the clock was made."""

    def __init__(self) -> None:
        self._process_start = time.process_time_ns()

    def now(self, clock: ClockId) -> int:
        if clock is ClockId.REALTIME:
            return time.time_ns()
        if clock is ClockId.MONOTONIC:
            return time.monotonic_ns()
        return time.process_time_ns() - self._process_start

    def resolution(self, clock: ClockId) -> int:
        name = {ClockId.REALTIME: "time", ClockId.MONOTONIC: "monotonic"}.get(clock, "process_time")
        return max(1, round(time.get_clock_info(name).resolution * _NS))  # type: ignore[arg-type]

    async def sleep(self, nanoseconds: int) -> None:
        # A guest may ask for centuries: timers of event loops overflow.
        while nanoseconds > _MAX_SLEEP:
            await anyio.sleep(_MAX_SLEEP / _NS)
            nanoseconds -= _MAX_SLEEP
        await anyio.sleep(max(0, nanoseconds) / _NS)


class FakeClock(Clock):
    """Time that passes only by being looked at and slept through: the same in every run.

    Args:
        start: The time since 1970 at the beginning; 2022-01-01 by default.
        step: By how much every look moves time on.
    """

    def __init__(self, start: int = 1_640_995_200 * _NS, step: int = 1_000_000) -> None:
        self._start = start
        self._step = step
        self._elapsed = 0

    def now(self, clock: ClockId) -> int:
        self._elapsed += self._step
        return self._start + self._elapsed if clock is ClockId.REALTIME else self._elapsed

    def resolution(self, clock: ClockId) -> int:
        return 1000 if clock is ClockId.REALTIME else 1

    async def sleep(self, nanoseconds: int) -> None:
        self._elapsed += max(0, nanoseconds)
        await anyio.lowlevel.checkpoint()

    def poll(self, nanoseconds: int) -> float | None:
        return None


class SeededRandom:
    """Random bytes that are the same for the same *seed*. Of no use for secrets."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)

    def __call__(self, nbytes: int) -> bytes:
        return self._random.randbytes(nbytes)


def clock_of(number: int) -> ClockId:
    """Return the clock a guest means."""
    try:
        return ClockId(number)
    except ValueError:
        raise WasiError(Errno.INVAL) from None
