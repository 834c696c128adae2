"""Finding handlers: as a walk over all blocks would, but without its cost."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from aiowasm.engine.base import Outcome
from aiowasm.engine.instantiate import instantiate
from aiowasm.engine.interpreter import code
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.interpreter.handlers import DELEGATE, Clause, Handlers
from aiowasm.text.parser import parse_module
from aiowasm.validation.module import validate_module

TAGS = [object() for _ in range(4)]


def random_blocks(rng: random.Random) -> tuple[list[tuple[int, int, list[Clause]]], int]:
    """Properly nested blocks in order of start, and the number of operators."""
    blocks: list[list] = []
    open_: list[int] = []
    position = 0
    for _ in range(rng.randrange(1, 40)):
        position += rng.randrange(1, 3)
        if open_ and rng.random() < 0.5:
            blocks[open_.pop()][1] = position
        else:
            clauses = []
            for _ in range(rng.randrange(4)):
                kind = rng.choice([0, 0, 1, 2, 3])
                clauses.append(Clause(kind, rng.randrange(4) if kind < 2 else None, rng.random()))
            if open_ and rng.random() < 0.2:
                clauses = [Clause(DELEGATE, None, blocks[rng.choice(open_)][0])]
            open_.append(len(blocks))
            blocks.append([position, -1, clauses])
    while open_:
        position += 1
        blocks[open_.pop()][1] = position
    return [(start, end, clauses) for start, end, clauses in blocks], position + 2


def walk(blocks: list[tuple[int, int, list[Clause]]], index: int, tag: object) -> tuple[int, Clause] | None:
    outermost = index
    for start, end, clauses in reversed(blocks):
        if start > outermost or not start < index < end:
            continue
        for clause in clauses:
            if clause.kind == DELEGATE:
                outermost = clause.target
            elif clause.kind > 1 or TAGS[clause.tagidx] is tag:
                return start, clause
    return None


@pytest.mark.parametrize("seed", range(60))
def test_handlers_are_those_of_a_walk(seed: int) -> None:
    blocks, count = random_blocks(random.Random(seed))
    handlers: Handlers = Handlers()
    for block in blocks:
        handlers.add(*block)
    handlers.close()
    for index in range(-1, count):
        for tag in TAGS:
            found = handlers.find(index, SimpleNamespace(tag=tag), TAGS, lambda _units: None)
            assert found == walk(blocks, index, tag)


def test_many_clauses_are_measured() -> None:
    handlers: Handlers = Handlers()
    handlers.add(0, 9, [Clause(0, number, number) for number in range(1000)])
    handlers.close()
    tags = [object() for _ in range(1000)]
    units: list[int] = []
    found = handlers.find(1, SimpleNamespace(tag=tags[-1]), tags, units.append)
    assert found == (0, Clause(0, 999, 999))
    assert units
    assert sum(units) >= 1000


def test_of_equal_clauses_the_first_is_kept() -> None:
    handlers: Handlers = Handlers()
    handlers.add(
        0, 9, [Clause(1, 3, "first"), *[Clause(0, 3, "later")] * 1000, Clause(2, None, "all"), Clause(0, 1, "")]
    )
    handlers.close()
    units: list[int] = []
    found = [handlers.find(1, SimpleNamespace(tag=tag), TAGS, units.append) for tag in (TAGS[3], TAGS[1])]
    assert [clause.target for _, clause in found] == ["first", "all"]
    assert not units


def test_functions_with_many_labels_stay_in_the_direct_interpreter(monkeypatch) -> None:
    monkeypatch.setattr(code, "HOT", -1)
    engine = Interpreter()
    text = f'(module (func (export "f") (result i32) (br_table {"0 " * 5000} (i32.const 7) (i32.const 0))))'
    instance = instantiate(validate_module(parse_module(text)), [], engine)
    monkeypatch.setattr(code, "compile", None, raising=False)  # calling it would fail
    execution = engine.call(instance.funcs[0], (), limit=10**6, call_depth=10, stack_slots=1000)
    outcome = execution.resume(10**6)
    while outcome is Outcome.PAUSED:
        outcome = execution.resume(10**6)
    assert outcome is Outcome.RETURNED
    assert execution.results == (7,)
