"""Each fault seeded into the store turns a test red: see `tests.store.mutants`."""

from __future__ import annotations

import pytest

from tests.store.mutants import FAULTS, Fault, notices


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-")[:40])
def test_a_fault_is_noticed(fault: Fault) -> None:
    assert notices(fault)


def test_there_are_enough() -> None:
    assert len({fault.name for fault in FAULTS}) >= 12
