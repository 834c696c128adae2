"""Loops whose integers are in registers mean what they mean on the interpreter, on every processor level."""

from __future__ import annotations

from collections.abc import Generator
from itertools import product

import pytest

from aiowasm.engine.base import Engine, Outcome
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.native import Native, integer_loops, platform
from aiowasm.engine.native.loop_plan import ROWS
from aiowasm.errors import Trap, TrapCode
from aiowasm.features import WASM_2, Feature
from aiowasm.syntax.instructions import BY_CODE, Instruction
from tests.fuzz.differential import Ours, compare
from tests.fuzz.generator import Options, generate
from tests.native.driver import call, export, load, start
from tests.native.test_stencils import levels, watched

__all__ = ("levels",)

EDGES = {
    "i32": [0, 1, 31, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x80FF8001],
    "i64": [0, 1, 63, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF, 0x80FF8001FF],
}
MANY = 14
"""More locals than there are registers: some of the operands are in slots."""
DATA = "".join(f"\\{n * 37 % 256:02x}" for n in range(64))
FORMS = ("(local.get {0})", "(local.get {1})", "({t}.const {2})")
"""Of an operand: a local that is used most, one that is used least, a constant."""


@pytest.fixture
def taken(native: Native, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each loop that is compiled, whether it was one of these."""
    if platform.load_stencils().encoding.integer_code() is None:
        pytest.skip("no loop of integers has code of its own on this architecture")
    answers: list[bool] = []
    original = integer_loops.compile_loop

    def spy(*arguments: object) -> Generator[None, None, bool]:
        answers.append((yield from original(*arguments)))  # type: ignore[arg-type]
        return answers[-1]

    monkeypatch.setattr("aiowasm.engine.native.compiler.compile_loop", spy)
    return answers


def rows(*families: str) -> list[Instruction]:
    """Instructions of such families that these loops may contain."""
    found = [BY_CODE[code] for code, operation in ROWS.items() if operation.family in families]
    return [row for row in found if row is not None]


def operator_module(row: Instruction) -> tuple[str, list[tuple[str, ...]]]:
    """Functions of two numbers: a loop of two rounds in which *row* is computed, for each form of its operands."""
    assert row.type is not None
    operands, (result,) = row.type
    forms = list(product(range(len(FORMS)), repeat=len(operands)))
    text = ""
    for number, form in enumerate(forms):
        for edge in range(len(EDGES["i32"])) if 2 in form else (0,):
            taken = [
                FORMS[kind].format(2 * at, 2 * at + 1, EDGES[t][edge], t=t)
                for at, (kind, t) in enumerate(zip(form, operands, strict=True))
            ]
            computed = f"({row.name} {' '.join(taken)})"
            wide = "(i64.extend_i32_u {})" if result == "i32" else "{}"
            # What is used often gets the registers: locals from 20 on.
            pressed = "".join(
                f"(local.set {at} (i32.add (local.get {at}) (i32.mul (local.get {at}) (local.get {at}))))"
                for at in range(20, 20 + MANY)
            )
            text += (
                f'(func (export "f{number}.{edge}") (param {" ".join(t for t in operands for _ in range(2))})'
                f" (result i64) {'(local i32)' * (16 + 4 - 2 * len(operands))} {'(local i32)' * MANY}"
                f"(local $sum i64) (local $n i32)"
                f"(loop {pressed} (local.set $sum (i64.add (i64.rotl (local.get $sum) (i64.const 7)) "
                f"{wide.format(computed)}))"
                f"(br_if 0 (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 2))))"
                f"(local.get $sum))"
            )
    return f"(module {text})", [operands] * len(forms)


def outcome(engine: Engine, text: str, name: str, *arguments: int) -> object:
    """Results, or the trap's code."""
    try:
        return call(engine, load(engine, text), name, *arguments)
    except Trap as trap:
        return trap.code


@pytest.mark.parametrize("row", rows("unop", "binop", "testop", "relop", "cvtop"), ids=lambda row: row.name)
def test_operators_agree_whatever_their_operands_are(levels: list[str], row: Instruction, taken: list[bool]) -> None:
    text, _ = operator_module(row)
    assert row.type is not None
    operands = row.type[0]
    oracle = Interpreter(hot=1 << 62)
    expected = load(oracle, text)
    names = [each.name for each in expected.validated.module.exports]
    traps = row.name.partition(".")[2].startswith(("div", "rem"))
    for level in levels:
        engine, _seen = watched(level)
        instance = load(engine, text)
        for name in names:
            for values in product(*(EDGES[t][1 if traps else 0 :: 2] for t in operands)):
                arguments = [value for value in values for _ in range(2)]
                found = []
                for each, where in ((oracle, expected), (engine, instance)):
                    try:
                        found.append(call(each, where, name, *arguments))
                    except Trap as trap:
                        found.append((trap.code,))
                assert found[0] == found[1], f"{level} {name} {arguments}"
    counts = row.operation is not None and row.operation.operator in ("iclz", "ictz", "ipopcnt")
    assert all(taken) or traps or (counts and "x86-64-v2" in levels)
    assert any(taken) != traps


@pytest.mark.parametrize("name", [row.name for row in rows("load", "store")])
def test_accesses_agree_and_trap_where_memory_ends(levels: list[str], name: str, taken: list[bool]) -> None:
    shape = name[:3]
    access = f"({name} offset=3 (local.get $at))"
    if "store" in name:
        access = f"({name} offset=3 (local.get $at) (local.get $x)) ({shape}.load offset=3 (local.get $at))"
    text = f"""(module (memory (export "m") 1) (data (i32.const 0) "{DATA}")
      (func (export "f") (param $at i32) (param $x {shape}) (result {shape}) (local $sum {shape})
        (loop (local.set $sum ({shape}.xor (local.get $sum) {access}))
          (br_if 0 (i32.and (local.tee $at (i32.add (local.get $at) (i32.const 1))) (i32.const 3))))
        (local.get $sum)))"""
    places = [0, 1, 5, 65_520, 65_526, 65_529, 65_530, 65_532, 65_533, 65_536, 0x7FFFFFFD, 0xFFFFFFFC, 0xFFFFFFFD]
    for at in places:
        expected = outcome(Interpreter(), text, "f", at, EDGES[shape][-1])
        for level in levels:
            assert outcome(watched(level)[0], text, "f", at, EDGES[shape][-1]) == expected, (level, at)
    assert taken
    assert all(taken)


OPTIONS = Options(
    features=WASM_2 - {Feature.SIMD}, shapes=True, numeric=True, bulk=False, traps=0.003,
    ncalls=3, nfunctions=3, ninstructions=25, depth=2,
)  # fmt: skip


@pytest.mark.parametrize("first", range(0, 160, 40))
def test_random_loops_agree(levels: list[str], first: int, taken: list[bool]) -> None:
    for seed in range(first, first + 40):
        program = generate(seed, OPTIONS)
        adapters = [Ours("interpreter", Interpreter)]
        for level in levels:
            engine = watched(level)[0]
            adapters.append(Ours(level, lambda engine=engine: engine))  # type: ignore[misc]
            adapters.append(Ours(f"{level}, paused often", lambda engine=engine: engine, 1))  # type: ignore[misc]
        compare(program, adapters)
    assert sum(taken) > 20


def test_memory_that_grows_while_a_loop_is_paused_can_be_used(native: Native, taken: list[bool]) -> None:
    pressed = "".join(
        f"(local.set {n} (i32.add (local.get {n}) (i32.mul (local.get {n}) (local.get $at))))" for n in range(2, 14)
    )
    text = f"""(module (memory (export "m") 1 4)
      (func (export "f") (param $at i32) (param $end i32) (result i32) {"(local i32)" * 12}
        (loop {pressed}
          (i32.store (local.get $at) (local.get $at))
          (br_if 0 (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 4096))) (local.get $end))))
        (local.get $at)))"""
    instance = load(native, text)
    memory = instance.mems[0]
    execution = start(native, export(instance, "f"), 0, 4 * 65_536)
    pages = 1
    while (now := execution.resume(500)) is Outcome.PAUSED:
        if pages < 4:
            memory.grow(1)
            pages += 1
    assert now is Outcome.RETURNED
    assert execution.results == (4 * 65_536,)
    small = load(native, text)
    execution = start(native, export(small, "f"), 0, 2 * 65_536)
    while (now := execution.resume(500)) is Outcome.PAUSED:
        pass
    assert now is Outcome.TRAPPED
    assert execution.trap.code is TrapCode.MEMORY_OUT_OF_BOUNDS
    assert all(taken)


def test_a_way_out_carries_values_and_locals(levels: list[str], taken: list[bool]) -> None:
    text = """(module
      (func (export "f") (param i32 i32 i32) (result i32 i32 i32 i32)
        (block (result i32 i32)
          (loop (result i32)
            (local.get 1) (local.get 0) (local.set 1) (local.set 0)
            (br_if 1 (local.get 0) (i32.const 77) (i32.eq (local.get 1) (local.get 2)))
            drop drop
            (br_if 0 (i32.gt_s (local.tee 2 (i32.sub (local.get 2) (i32.const 1))) (i32.const 3)))
            (i32.const 5))
          (i32.const 6))
        (local.get 0) (local.get 1)))"""
    for arguments in product((0, 3, 9), (1, 4, 9), (0, 2, 9, 30)):
        expected = outcome(Interpreter(), text, "f", *arguments)
        for level in levels:
            assert outcome(watched(level)[0], text, "f", *arguments) == expected, (level, arguments)
    assert all(taken)


def test_locals_below_many_results_keep_what_they_were(native: Native) -> None:
    below = "".join("(local.get 0)" for _ in range(40))
    results = " ".join(["i32"] * 30)
    text = f"""(module
      (func $many (result {results}) {"(i32.const 65)" * 30})
      (func (export "f") (param i32) (result i32)
        {below} (call $many) (local.set 0) {"drop " * 29} {"i32.add " * 39}))"""
    assert call(native, load(native, text), "f", 3) == (120,)
