"""Wherever the bits of a NaN can be seen, they are the canonical ones, however late machine code makes them so."""

from __future__ import annotations

import os

import pytest

from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.native import Native
from tests.fuzz.differential import Direct, Ours, Wasmtime, compare
from tests.fuzz.nans import nan_programs

wasmtime = pytest.importorskip("wasmtime")

NCALLS = 100 if os.environ.get("AIOWASM_LONG") else 1


def test_nans_are_canonical_wherever_they_are_seen(native: Native) -> None:
    adapters = [
        Ours("interpreter", Interpreter),
        Ours("native", lambda: native),
        Direct("direct calls", lambda: native, None),
        Wasmtime(),
    ]
    for program in nan_programs(seed=NCALLS, ncalls=NCALLS):
        compare(program, adapters, fuel=False)
