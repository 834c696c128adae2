"""Closed types: equal ones are one object, whoever makes them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from aiowasm.syntax import matching
from aiowasm.syntax.matching import DefType, close_rectype
from aiowasm.syntax.types import I32, I64, FuncType, RecType, SubType


def test_a_type_that_another_thread_makes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    rectype = RecType((SubType(True, (), FuncType((I32, I64, I64, I32, I64), (I64, I64, I32, I64))),))
    original = matching._find
    looks = 0
    made: list[DefType] = []

    def find(*arguments: Any) -> Generator[None, None, Any]:
        nonlocal looks
        looks += 1
        is_last = looks == 2
        found = yield from original(*arguments)
        if is_last:
            # Nothing was there at the last look; now there is.
            made.extend(close_rectype(rectype, 0, []))
        return found

    monkeypatch.setattr(matching, "_find", find)
    made.extend(close_rectype(rectype, 0, []))
    monkeypatch.undo()
    made.extend(close_rectype(rectype, 0, []))
    assert len(made) == 3
    assert made[0] is made[1] is made[2]
