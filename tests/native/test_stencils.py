"""Every stencil is used, and means what the interpreter and wasmtime mean, on every kind of operand with edge values.

A stencil that nothing uses would be weight in every wheel, and never be tried. Accesses are tried at all ends of a
memory, with offsets of all sizes: a guard lies behind it, so that one that is let through would kill the process.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from aiowasm.engine.base import Engine
from aiowasm.engine.func import FuncInst
from aiowasm.engine.instance import ModuleInst
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.native import Native, engine, platform
from aiowasm.engine.native.stencils import Stencils
from aiowasm.errors import Trap
from aiowasm.syntax.types import I32
from tests.fuzz.differential import Adapter, Direct, Ours, Wasmtime, compare
from tests.fuzz.operands import operand_programs
from tests.native.driver import call, export, finish, functype, load, start

try:
    import wasmtime
except ImportError:  # where it has no wheel the interpreter is second opinion enough
    wasmtime = None

LONG = bool(os.environ.get("AIOWASM_LONG"))
NCALLS = 40 if LONG else 2


class Watched(dict[str, bytes]):
    """The code of stencils by name; remembers what was asked for."""

    def __init__(self, code: dict[str, bytes]) -> None:
        super().__init__(code)
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> bytes:
        self.used.add(name)
        return super().__getitem__(name)


LEVELS = ("x86-64-v3", "x86-64-v2", "aarch64")
_watched: dict[str, tuple[Native, Watched]] = {}
"""Never given up: engines of one blob share what depends on it."""


def watched(level: str) -> tuple[Native, Watched]:
    """An engine on the stencils of a *level*, and what it has used of them."""
    if level not in _watched:
        stencils = Stencils(Path(platform.__file__).with_name(f"{level}.stencils"))
        stencils.encoding.code = seen = Watched(stencils.encoding.code)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "load_stencils", lambda: stencils)
            _watched[level] = Native(), seen
    return _watched[level]


@pytest.fixture
def levels(native: Native) -> list[str]:
    """What this processor can run, best first."""
    best = Path(str(platform._blob())).stem
    if best not in LEVELS:
        pytest.skip(f"{best} has a test of its own")
    return [level for level in LEVELS[LEVELS.index(best) :] if level.startswith("x86") == best.startswith("x86")]


# What lies between operators: each function is called with 0 and with 1.
BETWEEN = """
(module
  (import "" "h" (func $h (param i32) (result i32)))
  (type $seventeen (func (result RESULTS)))
  (type $f (func (param i32) (result i32)))
  (memory 1) (memory 2)
  (tag $tag (param i32))
  (global $i (mut i32) (i32.const 3))
  (global $g (mut f64) (f64.const 1.5))
  (global $v (mut v128) (v128.const i64x2 1 2))
  (elem declare func $h $id)
  (table $t 3 funcref)
  (elem (table $t) (i32.const 1) func $id $h)
  (func $id (param i32) (result i32) (local.get 0))
  (func (export "call") (param i32) (result i32) (call $id (local.get 0)))
  (func (export "call in a loop") (param i32) (result i32) (local $n i32)
    (loop $l
      (local.set 0 (call $id (local.get 0)))
      (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 3))))
    (local.get 0))
  (func (export "call an import") (param i32) (result i32) (call $h (local.get 0)))
  (func (export "call through a table") (param i32) (result i32)
    (call_indirect $t (type $f) (local.get 0) (local.get 0)))
  (func (export "tail call") (param i32) (result i32) (return_call $id (local.get 0)))
  (func (export "tail call an import") (param i32) (result i32) (return_call $h (local.get 0)))
  (func (export "tail call through a table") (param i32) (result i32)
    (return_call_indirect $t (type $f) (local.get 0) (i32.add (local.get 0) (i32.const 1))))
  (func (export "tail call a reference") (param i32) (result i32)
    (return_call_ref $f (local.get 0)
      (if (result (ref null $f)) (local.get 0) (then (ref.func $h)) (else (ref.null $f)))))
  (func (export "move many values") (param i32) (result i32)
    (block $out (type $seventeen)
      (i64.const 9)
      VALUES
      (br_if $out (local.get 0))
      (br $out))
    SUM)
  (func (export "charge much at once") (param i32) (result i32) (drop (call $h (local.get 0))) NOPS (local.get 0))
  (func (export "trap") (param i32) (result i32) (if (local.get 0) (then (unreachable))) (i32.const 4))
  (func (export "is null") (param i32) (result i32) (ref.is_null (table.get $t (local.get 0))))
  (func (export "as non-null") (param i32) (result i32)
    (call_ref $f (local.get 0) (ref.as_non_null
      (if (result (ref null $f)) (local.get 0) (then (ref.func $h)) (else (ref.null $f))))))
  (func (export "branch on what is not null") (param i32) (result i32)
    (block $b (result (ref func))
      (br_on_non_null $b (table.get $t (local.get 0)))
      (return (i32.const 3)))
    (drop)
    (i32.const 4))
  (func (export "carry a value past null") (param i32) (result i32)
    (i32.const 100)
    (block $b (result i32 (ref $f))
      (i64.const 5)
      (i32.const 7)
      (if (result (ref null $f)) (local.get 0) (then (ref.func $h)) (else (ref.null $f)))
      (br_on_non_null $b)
      (drop) (drop)
      (return (i32.const 3)))
    (drop)
    (i32.add))
  (func (export "branch on a local") (param i32) (result i32)
    (block $b (br_if $b (local.get 0)) (return (i32.const 5))) (i32.const 6))
  (func (export "branch on a sum") (param i32) (result i32)
    (block $b (br_if $b (i32.sub (local.get 0) (i32.const 1))) (return (i32.const 5)))
    (if (result i32) (i32.sub (local.get 0) (i32.const 2)) (then (i32.const 6)) (else (i32.const 7))))
  (func (export "branch by a table") (param i32) (result i32)
    (block $a (block $b (br_table $a $b (local.get 0))) (return (i32.const 8))) (i32.const 9))
  (func (export "loop") (param i32) (result i32)
    (loop $l (local.set 0 (i32.add (local.get 0) (i32.const 3))) (br_if $l (i32.lt_u (local.get 0) (i32.const 30))))
    (local.get 0))
  (func (export "select") (param i32) (result i32)
    (i32.trunc_f64_s (select (f64.const 4) (f64.const 5) (local.get 0)))
    (i32x4.extract_lane 1 (select (v128.const i32x4 1 2 3 4) (v128.const i32x4 5 6 7 8) (local.get 0)))
    (i32.add (i32.sub (select (i32.const 50) (i32.const 60) (local.get 0)))))
  (func (export "globals") (param i32) (result i32) (local v128)
    (local.set 1 (i32x4.splat (local.get 0)))
    (i32.trunc_f64_s (global.get $g))
    (i32x4.extract_lane 2 (global.get $v))
    (global.set $i (i32.add (global.get $i) (i32.const 1)))
    (global.set $g (f64.add (global.get $g) (f64.const 2)))
    (global.set $v (local.get 1))
    (i32.add (i32.add (global.get $i))))
  (func (export "sizes") (param i32) (result i32)
    (i32.add (i32.mul (memory.size 0) (memory.size 1)) (table.size $t)))
  (func (export "bulk") (param i32) (result i32)
    (memory.fill (i32.const 10) (i32.const 7) (i32.const 20))
    (memory.copy (i32.const 25) (i32.const 12) (i32.const 9))
    (i32.load (i32.add (i32.const 28) (local.get 0))))
  (func (export "many locals") (param i32) (result i32) (local i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)
    (i32.add (local.get 9) (local.get 0)))
  (func (export "throw") (param i32) (result i32)
    (block $out (result i32 exnref)
      (try_table (result i32) (catch_ref $tag $out)
        (if (local.get 0) (then (throw $tag (i32.const 5)))) (i32.const 6))
      (return))
    (block $again (param i32 exnref) (result i32)
      (block $out (param exnref) (result i32)
        (try_table (param exnref) (result i32) (catch $tag $out) (throw_ref)))
      (i32.add)))
)
""".replace("RESULTS", "i32 " * 17).replace("VALUES", "".join(f"(i32.const {n * n})" for n in range(17)))
BETWEEN = BETWEEN.replace("SUM", "(i32.sub)" * 16).replace("NOPS", "(drop (i32.const 1))" * 9000)


def keeping(name: str, valtype: str, source: str, add: str, result: str, constants: str) -> str:
    """A function whose loop keeps five locals in registers, and another that keeps five constants."""
    turns = "".join(
        f"(local.set $a{n} ({add} (local.get $a{n}) (local.get $z)))"
        f"(local.set $a{n} ({add} (local.get $a{n}) (local.get $a{(n + 1) % 5})))"
        f"(if (i32.eq (local.get $k) (i32.const {n})) (then (local.set $a{n} (local.get $z))))"
        f"(local.set $a{n} ({add} (local.tee $a{n} (local.get $a{n})) (local.get $a{n})))"
        for n in range(5)
    )
    total = "(local.get $a0)" + "".join(f"({add} (local.get $a{n}))" for n in range(1, 5))
    more = "".join(f"(local.set $z ({add} (local.get $z) ({constants.format(n)})))" * 2 for n in range(5))
    again = "(br_if $l (i32.lt_s (local.tee $k (i32.add (local.get $k) (i32.const 1))) (i32.const 8)))"
    head = f"(param i32) (result i32) (local $k i32) (local $z {valtype}) (local.set $z ({source} (local.get 0)))"
    named = "".join(f"(local $a{n} {valtype})" for n in range(5))
    head = head.replace("(local.set", named + "(local.set", 1)
    return f"""
  (func (export "keep {name}") {head} (loop $l {turns} {again}) {total} ({result}))
  (func (export "keep constants of {name}") {head} (loop $l {more} {again}) (local.get $z) ({result}))
"""


BETWEEN = BETWEEN.rstrip().removesuffix(")") + (
    keeping("f64", "f64", "f64.convert_i32_s", "f64.add", "i32.trunc_sat_f64_s", "f64.const {}.25")
    + keeping("f32", "f32", "f32.convert_i32_s", "f32.add", "i32.trunc_sat_f32_s", "f32.const {}.25")
    + keeping("v128", "v128", "i32x4.splat", "i32x4.add", "i32x4.extract_lane 1", "v128.const i32x4 1 {} 3 4")
    + ")"
)
NAMES = [line.split('"')[1] for line in BETWEEN.splitlines() if '(export "' in line]


@cache
def between(level: str) -> tuple[Engine, ModuleInst]:
    """An engine with an instance of that module; "": the interpreter."""
    host = FuncInst(functype((I32,), (I32,)), host=lambda _caller, value: value + 70)
    found = watched(level)[0] if level else Interpreter()
    return found, load(found, BETWEEN, (host,))


def outcome(level: str, name: str, argument: int) -> object:
    try:
        return call(*between(level), name, argument)
    except Trap as trap:
        return trap.code, trap.frames


@pytest.mark.parametrize("argument", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_between_operators(levels: list[str], name: str, argument: int) -> None:
    expected = outcome("", name, argument)
    for level in levels:
        assert outcome(level, name, argument) == expected


def test_operands(levels: list[str]) -> None:
    """Every row of the table on every kind of operand; without AIOWASM_LONG every third program on all engines."""
    adapters: list[Adapter] = [Ours("interpreter", Interpreter)]
    adapters += [Ours(level, lambda level=level: watched(level)[0]) for level in levels]
    others: list[Adapter] = [Direct("direct calls", lambda: watched(levels[0])[0], None)]
    if wasmtime is not None:
        others.append(Wasmtime())
    for number, (row, program) in enumerate(operand_programs(seed=NCALLS, ncalls=NCALLS)):
        try:
            compare(program, adapters if number % 3 and not LONG else [*adapters, *others], fuel=False)
        except Exception as error:
            error.add_note(f"({row.name})")
            raise


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("keep")])
def test_pauses_in_loops_that_keep_values(levels: list[str], name: str) -> None:
    host = FuncInst(functype((I32,), (I32,)))
    seen = []
    for each in (Interpreter(), *(watched(level)[0] for level in levels)):
        instance = load(each, BETWEEN, (host,))
        for slice_fuel in (1_000_000, 1):
            execution = start(each, export(instance, name), 3)
            finish(execution, slice_fuel)
            seen.append((execution.results, execution.consumed))
    assert len(set(seen)) == 1


def test_no_stencil_is_unused(levels: list[str]) -> None:
    """After the tests above."""
    for level in levels:
        _, seen = watched(level)
        if not seen.used >= {"6a.SR", "throw"}:
            pytest.skip("the tests before this one did not run")
        assert sorted(set(seen) - seen.used) == []
