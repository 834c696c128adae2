"""Each fault seeded into the store turns a test red: see `tests.store.mutants`."""

from __future__ import annotations

import pytest

from tests.store.mutants import FAULTS, ROOT, Fault, notices

STORE = ROOT / "aiowasm" / "store"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-")[:40])
def test_a_fault_is_noticed(fault: Fault) -> None:
    assert notices(fault)


def test_there_are_enough() -> None:
    assert len({fault.name for fault in FAULTS}) >= 12


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-")[:40])
def test_a_fault_has_its_place(fault: Fault) -> None:
    assert (STORE / fault.file).read_text(encoding="utf-8").count(fault.old) == 1
