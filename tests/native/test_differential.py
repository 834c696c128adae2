"""Random programs mean the same on the native engine and the interpreter, in slices of any size, at any limit."""

from __future__ import annotations

import pytest

from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.native import Native
from aiowasm.features import Feature
from tests.fuzz.differential import Ours, compare, program_of, without


@pytest.mark.parametrize("first", range(40, 100, 10))
def test_engines_agree(native: Native, first: int) -> None:
    adapters = [
        Ours("interpreter", Interpreter),
        Ours("native", lambda: native),
        Ours("native, slices of one", lambda: native, slice_fuel=1),
        Ours("native, slices of a thousand", lambda: native, slice_fuel=1000),
    ]
    for seed in range(first, first + 10):
        program, _options = program_of(seed, without(Feature.GC))
        compare(program, adapters)


def test_limits_of_fuel_stop_at_the_same_point(native: Native) -> None:
    for seed in range(12):
        program, _options = program_of(seed, without(Feature.GC))
        for limit in (0, 1, 10, 100, 1000, 5000):
            compare(
                program,
                [
                    Ours("interpreter", Interpreter, limit=limit),
                    Ours("native", lambda: native, limit=limit),
                    Ours("native in slices", lambda: native, 7, limit),
                ],
            )
