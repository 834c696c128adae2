"""Every test of the store runs on each event loop, and those that run guests on each engine that is available."""

from __future__ import annotations

import asyncio
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from aiowasm.store.engines import available


def _backends() -> list[Any]:
    found: list[Any] = [pytest.param(("asyncio", {}), id="asyncio")]
    if sys.version_info >= (3, 12):

        def eager() -> asyncio.AbstractEventLoop:
            loop = asyncio.new_event_loop()
            loop.set_task_factory(asyncio.eager_task_factory)
            return loop

        found.append(pytest.param(("asyncio", {"loop_factory": eager}), id="asyncio+eager"))
    if find_spec("uvloop") is not None:
        found.append(pytest.param(("asyncio", {"use_uvloop": True}), id="asyncio+uvloop"))
    found.append(pytest.param(("trio", {}), id="trio"))
    return found


@pytest.fixture(params=_backends())
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=available())
def engine(request: pytest.FixtureRequest) -> str:
    """The name of an engine."""
    name: str = request.param
    return name
