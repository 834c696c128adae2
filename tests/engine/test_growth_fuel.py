"""Growth and fuel: a refused growth costs its base, one that cannot be paid traps before anything grows."""

from __future__ import annotations

import pytest

from aiowasm.engine.base import Outcome
from aiowasm.engine.instantiate import instantiate
from aiowasm.engine.interpreter import code
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.text.parser import parse_module
from aiowasm.validation.module import validate_module

TEXT = """(module
  (memory 1 10)
  (table 8 1000 funcref)
  (func (export "memory") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "table") (param i32) (result i32) (table.grow (ref.null func) (local.get 0))))
"""
BASE = {"memory": 3, "table": 4}
REFUSED = 0xFFFF_FFFF


@pytest.mark.parametrize("hot", [32, -1], ids=["direct", "generated"])
@pytest.mark.parametrize("kind", ["memory", "table"])
def test_growth_is_paid_for_before_it_happens(kind: str, hot: int, monkeypatch) -> None:
    monkeypatch.setattr(code, "HOT", hot)
    engine = Interpreter()
    instance = instantiate(validate_module(parse_module(TEXT)), [], engine)
    entity = instance.mems[0] if kind == "memory" else instance.tables[0]
    func = instance.funcs[0 if kind == "memory" else 1]
    base = BASE[kind]

    def call(delta: int, limit: int) -> tuple[Outcome, int, int | None]:
        execution = engine.call(func, (delta,), limit=limit, call_depth=10, stack_slots=1000)
        outcome = execution.resume(10**9)
        while outcome is Outcome.PAUSED:
            outcome = execution.resume(10**9)
        return outcome, execution.consumed, execution.results[0] if execution.results else None

    unit, size = (1024, 1) if kind == "memory" else (100 * 8 // 64, 8)
    delta = 1 if kind == "memory" else 100
    assert call(delta, base - 1)[0] is Outcome.TRAPPED
    assert call(5000, base) == (Outcome.RETURNED, base, REFUSED)
    assert call(0, base) == (Outcome.RETURNED, base, size)
    for limit in (base, base + unit - 1):
        assert call(delta, limit) == (Outcome.TRAPPED, base + unit, None)
        assert entity.size == size
    assert call(delta, base + unit) == (Outcome.RETURNED, base + unit, size)
    assert entity.size == size + delta
