"""Random programs mean the same on the native engine and the interpreter, in slices of any size, at any limit."""

from __future__ import annotations

import pytest

from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.native import Native
from tests.fuzz.differential import PROFILES, Direct, Ours, compare, program_of, without_heap


@pytest.mark.parametrize("first", range(40, 40 + 4 * len(PROFILES), len(PROFILES)))
def test_engines_agree(native: Native, first: int) -> None:
    adapters = [
        Ours("interpreter", Interpreter),
        Ours("native", lambda: native),
        Ours("native, slices of one", lambda: native, slice_fuel=1),
        Ours("native, slices of any size", lambda: native, slice_fuel=None, hosts="leave"),
        Ours("native, hosts that pause", lambda: native, hosts="pause"),
        Direct("native, direct calls", lambda: native),
    ]
    for seed in range(first, first + len(PROFILES)):
        program, _options = program_of(seed, without_heap)
        compare(program, adapters)


def test_limits_of_fuel_stop_at_the_same_point(native: Native) -> None:
    for seed in range(12):
        program, _options = program_of(seed, without_heap)
        for limit in (0, 1, 10, 100, 1000, 5000):
            compare(
                program,
                [
                    Ours("interpreter", Interpreter, limit=limit),
                    Ours("native", lambda: native, limit=limit),
                    Ours("native in slices", lambda: native, 7, limit, hosts="leave"),
                ],
            )


@pytest.mark.parametrize("bounds", [{"call_depth": 3}, {"call_depth": 12, "stack_slots": 400}, {"stack_slots": 150}])
def test_stacks_are_exhausted_at_the_same_point(native: Native, bounds: dict[str, int]) -> None:
    for seed in range(24):
        program, _options = program_of(seed, without_heap)
        compare(
            program,
            [
                Ours("interpreter", Interpreter, **bounds),
                Ours("direct interpreter", lambda: Interpreter(hot=1 << 62), **bounds),
                Ours("native", lambda: native, **bounds),
            ],
        )
