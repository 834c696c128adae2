"""Random programs under random schedules: see `tests.store.explorer`, which explores more when run by itself."""

from __future__ import annotations

import anyio
import pytest

from aiowasm.store.engines import available
from tests.store import explorer

_STEP = 500


@pytest.mark.parametrize("first", range(0, 2000, _STEP))
@pytest.mark.parametrize("name", available())
def test_shuffled_schedules_of_asyncio(name: str, first: int) -> None:
    explorer.explore_shuffled(range(first, first + _STEP), name)


@pytest.mark.parametrize("name", available())
def test_schedules_of_trio(name: str) -> None:
    """Trio shuffles what is ready by itself; its clock jumps."""
    testing = pytest.importorskip("trio.testing")
    clock = testing.MockClock(rate=50.0)
    anyio.run(explorer.explore, range(100), name, backend="trio", backend_options={"clock": clock})


def test_a_lost_wake_up_would_be_found() -> None:
    async def forever() -> None:
        await anyio.Event().wait()

    with pytest.raises(explorer.FoundError, match="lost wake-up"):
        anyio.run(forever, backend_options={"loop_factory": explorer.ShuffledLoop})
