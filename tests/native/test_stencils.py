"""Every stencil is used, and means what the interpreter and wasmtime mean, on every kind of operand with edge values.

A stencil that nothing uses would be weight in every wheel, and never be tried. Accesses are tried at all ends of a
memory, with offsets of all sizes: a guard lies behind it, so that one that is let through would kill the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from aiowasm.engine.func import FuncInst
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.native import Native, engine, platform
from aiowasm.engine.native.stencils import Stencils
from aiowasm.syntax.types import I32
from tests.fuzz.differential import Adapter, Ours, Wasmtime, compare, program_of, without_heap
from tests.fuzz.operands import operand_programs
from tests.native.driver import call, functype, load

wasmtime = pytest.importorskip("wasmtime")

NCALLS = 40 if os.environ.get("AIOWASM_LONG") else 2


class Watched(dict[str, bytes]):
    """The code of stencils by name; remembers what was asked for."""

    def __init__(self, code: dict[str, bytes]) -> None:
        super().__init__(code)
        self.used: set[str] = set()

    def __getitem__(self, name: str) -> bytes:
        self.used.add(name)
        return super().__getitem__(name)


LEVELS = ("x86-64-v3", "x86-64-v2")
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
    return list(LEVELS[LEVELS.index(best) :])


# What random programs seldom contain: each is called with 0 and with 1.
SELDOM = """
(module
  (import "" "h" (func $h (param i32) (result i32)))
  (type $seventeen (func (result RESULTS)))
  (type $f (func (param i32) (result i32)))
  (elem declare func $h)
  (table $t 3 funcref)
  (global $g (mut f64) (f64.const 1.5))
  (func (export "call an import") (param i32) (result i32) (call $h (local.get 0)))
  (func (export "tail call an import") (param i32) (result i32) (return_call $h (local.get 0)))
  (func (export "move many values") (param i32) (result i32)
    (block $out (type $seventeen)
      (i64.const 9)
      VALUES
      (br_if $out (local.get 0))
      (br $out))
    SUM)
  (func (export "charge much at once") (param i32) (result i32) (drop (call $h (local.get 0))) NOPS (local.get 0))
  (func (export "trap") (param i32) (result i32) (if (local.get 0) (then (unreachable))) (i32.const 4))
  (func (export "as non-null") (param i32) (result i32)
    (call_ref $f (local.get 0) (ref.as_non_null
      (if (result (ref null $f)) (local.get 0) (then (ref.func $h)) (else (ref.null $f))))))
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
)
""".replace("RESULTS", "i32 " * 17).replace("VALUES", "".join(f"(i32.const {n * n})" for n in range(17)))
SELDOM = SELDOM.replace("SUM", "(i32.sub)" * 16).replace("NOPS", "(drop (i32.const 1))" * 200)
NAMES = [line.split('"')[1] for line in SELDOM.splitlines() if '(export "' in line]


def outcome(work: Callable[[], object]) -> object:
    try:
        return work()
    except Exception as error:
        return type(error), error.args


@pytest.mark.parametrize("argument", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_seldom(levels: list[str], name: str, argument: int) -> None:
    host = functype((I32,), (I32,))
    seen = []
    for each in (Interpreter(), *(watched(level)[0] for level in levels)):
        instance = load(each, SELDOM, (FuncInst(host, host=lambda _caller, value: value + 70),))
        seen.append(outcome(lambda each=each, instance=instance: call(each, instance, name, argument)))
    assert all(one == seen[0] for one in seen)


def test_operands(levels: list[str]) -> None:
    """Every row of the table on every kind of operand."""
    adapters: list[Adapter] = [Ours("interpreter", Interpreter)]
    adapters += [Ours(level, lambda level=level: watched(level)[0]) for level in levels]
    adapters.append(Wasmtime())
    for row, program in operand_programs(seed=NCALLS, ncalls=NCALLS):
        try:
            compare(program, adapters, fuel=False)
        except Exception as error:
            error.add_note(f"({row.name})")
            raise


def test_no_stencil_is_unused(levels: list[str]) -> None:
    """After the tests above, and some random programs for what is between operators."""
    for level in levels:
        native, seen = watched(level)
        if not seen.used >= {"6a.SR", "call_import"}:
            pytest.skip("the tests before this one did not run")
        for seed in range(40):
            program, _ = program_of(seed, without_heap)
            Ours(level, lambda native=native: native).run(program)
        assert not sorted(set(seen) - seen.used)
