"""The native engine where it runs; elsewhere its tests skip and say why."""

from __future__ import annotations

import pytest

from aiowasm.engine.native import Native, why_not


@pytest.fixture
def native() -> Native:
    why = why_not()
    if why is not None:
        pytest.skip(f"{why}; `python hatch_build.py` makes the machine code of a source checkout")
    return Native()
