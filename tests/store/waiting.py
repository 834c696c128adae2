"""Waiting for conditions instead of times, so that tests say the same on a machine that is busy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

__all__ = ("deadline_when", "until")


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds."""
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.001)


@asynccontextmanager
async def deadline_when(condition: Callable[[], bool]) -> AsyncIterator[anyio.CancelScope]:
    """A cancel scope whose deadline is over soon after *condition* holds, and not before."""
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:

            async def strike() -> None:
                await until(condition)
                scope.deadline = anyio.current_time() + 0.02  # time to take note of it

            tasks.start_soon(strike)
            yield scope
        tasks.cancel_scope.cancel()
