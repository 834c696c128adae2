"""Programs of the generator are valid, deterministic, and mean the same to wasmtime and in slices of any size."""

from __future__ import annotations

import pytest

from aiowasm.binary.decoder import decode
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.features import ALL
from aiowasm.syntax.code import decode_locals, instructions
from aiowasm.syntax.instructions import INSTRUCTIONS
from aiowasm.syntax.types import I32
from aiowasm.validation.module import validate_module
from tests.fuzz.differential import PROFILES, Ours, Wasmtime, adapters_for, comparable_fuel, compare, program_of
from tests.fuzz.generator import Call, Program, generate

wasmtime = pytest.importorskip("wasmtime")


@pytest.mark.parametrize("profile", range(len(PROFILES)))
def test_programs_are_valid_and_deterministic(profile: int) -> None:
    options = PROFILES[profile]
    for seed in range(5):
        program = generate(seed, options)
        validate_module(decode(program.binary, options.features), options.features)
        assert generate(seed, options) == program


def test_the_generator_knows_every_operator() -> None:
    written = set()
    for seed in range(300):
        program, _options = program_of(seed)
        for code in decode(program.binary, ALL).funcs:
            _runs, body = decode_locals(code)
            written |= {row.name for row, _immediates in instructions(code.buffer, body, code.end)}
    missing = {row.name for row in INSTRUCTIONS if row.operation is not None and row.name not in written}
    assert not missing


@pytest.mark.parametrize("first", range(0, 2 * len(PROFILES), len(PROFILES)))
def test_engines_agree(first: int) -> None:
    adapters = [
        Ours("interpreter", Interpreter),
        Ours("interpreter, slices of one", Interpreter, slice_fuel=1),
        Ours("interpreter, slices of a thousand", Interpreter, slice_fuel=1000),
        Ours("generated code", lambda: Interpreter(hot=-1)),
        Ours("generated code, slices of one", lambda: Interpreter(hot=-1), slice_fuel=1),
        Ours("direct interpreter", lambda: Interpreter(hot=1 << 62)),
        Wasmtime(),
    ]
    for seed in range(first, first + len(PROFILES)):
        program, options = program_of(seed)
        compare(program, adapters_for(options, adapters), fuel=comparable_fuel(options))


def test_limits_of_fuel_stop_at_the_same_point() -> None:
    for seed in range(6):
        program, _options = program_of(seed)
        for limit in (0, 10, 100, 1000):
            compare(program, [Ours("one slice", Interpreter, limit=limit), Ours("many", Interpreter, 7, limit)])


def test_fuel_of_an_exception_caught_where_it_is_thrown() -> None:
    text = """(module (tag $t) (func (export "f") (result i32)
      (block $h (try_table (catch_all $h) (drop (i32.const 1)) (drop (i32.const 2)) (throw $t)))
      (i32.const 7)))"""
    program = Program(0, bytes(wasmtime.wat2wasm(text)), (Call("f", (), (), (I32,)),))
    runs = compare(program, [Ours("interpreter", Interpreter), Wasmtime()])
    assert runs[0].calls[0].fuel == 6


def test_a_tail_call_of_itself_resets_a_single_local() -> None:
    text = """(module (global $left (mut i32) (i32.const 50))
      (func $f (export "f") (result i32) (local i32)
        (local.set 0 (i32.add (local.get 0) (i32.const 3)))
        (global.set $left (i32.sub (global.get $left) (i32.const 1)))
        (if (global.get $left) (then (return_call $f)))
        (local.get 0)))"""
    program = Program(0, bytes(wasmtime.wat2wasm(text)), (Call("f", (), (), (I32,)),))
    runs = compare(program, [Ours("interpreter", Interpreter), Ours("slices of one", Interpreter, 1), Wasmtime()])
    assert runs[0].calls[0].results == (3,)
