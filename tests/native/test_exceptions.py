"""Exceptions that generated code throws and catches by itself mean what they mean to the interpreter."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from aiowasm.engine.base import NO_LIMIT, Engine, Outcome
from aiowasm.engine.func import FuncInst
from aiowasm.engine.heap import Heap
from aiowasm.engine.instantiate import Bounds, instantiate
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.native import Native
from aiowasm.engine.tag import TagInst
from aiowasm.features import ALL
from aiowasm.syntax.types import AbsHeapType, NumType, RefType
from aiowasm.text.parser import parse_module
from aiowasm.validation.module import validate_module
from tests.native.driver import call, export, finish, functype, load, start

I32 = NumType.I32

TAGS = {
    "none": "",
    "one": "i32",
    "some": "i64 f64",
    "vector": "v128 f32",
    "most": "i32 v128 i64 f32 f64",
    "more": "v128 v128 v128 i32",
    "reference": "externref i32",
}
VALUES = {
    "i32": "(call $random)",
    "i64": "(i64.extend_i32_s (call $random))",
    "f32": "(f32.convert_i32_s (call $random))",
    "f64": "(f64.convert_i32_s (call $random))",
    "v128": "(i32x4.splat (call $random))",
    "externref": "(ref.null extern)",
}
HASHED = {
    "i32": "(call $hash)",
    "i64": "(call $hash (i32.wrap_i64))",
    "f32": "(call $hash (i32.reinterpret_f32))",
    "f64": "(call $hash (i32.wrap_i64 (i64.reinterpret_f64)))",
    "v128": "(call $hash (i32x4.extract_lane 3))",
    "externref": "(call $hash (ref.is_null))",
}
PRELUDE = """
  (global $seed (mut i32) (i32.const 1))
  (global $acc (mut i32) (i32.const 0))
  (table $kept 4 exnref)
  (func $random (result i32)
    (global.set $seed (i32.add (i32.mul (global.get $seed) (i32.const 1103515245)) (i32.const 12345)))
    (i32.shr_u (global.get $seed) (i32.const 8)))
  (func $hash (param i32)
    (global.set $acc (i32.add (i32.mul (global.get $acc) (i32.const 31)) (local.get 0))))
"""


class Writer:
    """Random functions that call one another, throw, catch and throw again."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.labels = 0

    def module(self) -> str:
        """The text of a module with `run`, which calls and catches again and again."""
        tags = "".join(f"(tag ${name} (param {params}))" for name, params in TAGS.items())
        functions = "".join(
            f"(func $f{number} (param $n i32) (result i32) (local $e exnref) (local $k i32)\n"
            f"(if (i32.eqz (local.get $n)) (then {self.throw()} (return (i32.const 1))))\n"
            f"{self.statements(3)} (call $random))\n"
            for number in range(4)
        )
        return f"""(module {tags} {PRELUDE} {functions}
          (func (export "run") (param $times i32) (result i32)
            (loop $again
              (call $hash (i32.const 1))
              (block $caught (try_table (catch_all $caught) (call $hash (call $f0 (i32.const 4)))))
              (br_if $again (local.tee $times (i32.sub (local.get $times) (i32.const 1)))))
            (global.get $acc))
          (func (export "once") (result i32) (call $f0 (i32.const 3))))"""

    def statements(self, depth: int) -> str:
        return "".join(self.statement(depth) for _ in range(self.random.randint(1, 3)))

    def statement(self, depth: int) -> str:
        ways = [self.throw, self.call]
        if depth:
            ways += [lambda: self.try_table(depth - 1)] * 3 + [lambda: self.legacy(depth - 1)]
        return self.random.choice(ways)()

    def maybe(self, text: str, odds: int = 3) -> str:
        return f"(if (i32.eqz (i32.rem_u (call $random) (i32.const {odds}))) (then {text}))\n"

    def tag(self) -> str:
        return self.random.choice(list(TAGS))

    def throw(self) -> str:
        tag = self.tag()
        values = " ".join(VALUES[word] for word in TAGS[tag].split())
        odd = "(local.get $k)" if self.random.random() < 0.3 else ""
        return self.maybe(f"{odd} (throw ${tag} {values})", self.random.randint(1, 5))

    def call(self) -> str:
        callee = f"$f{self.random.randrange(4)} (i32.sub (local.get $n) (i32.const 1))"
        return f"(local.set $k (i32.add (local.get $k) (call {callee})))\n"

    def label(self) -> str:
        self.labels += 1
        return f"$l{self.labels}"

    def try_table(self, depth: int) -> str:
        out = self.label()
        opened, closed, clauses = f"(block {out}\n", "", ""
        for _ in range(self.random.randint(1, 3)):
            label, tag = self.label(), self.tag()
            kind = self.random.choice(["catch", "catch_ref", "catch_all", "catch_all_ref"])
            words = ([] if "all" in kind else TAGS[tag].split()) + (["exnref"] if "ref" in kind else [])
            clauses += f"({kind} {label})" if "all" in kind else f"({kind} ${tag} {label})"
            opened += f"(block {label} (result {' '.join(words)})\n" if words else f"(block {label}\n"
            closed = f") {self.caught(words)} (br {out})\n" + closed
        return f"{opened} (try_table {clauses} {self.statements(depth)}) (br {out}) {closed})\n"

    def caught(self, words: list[str]) -> str:
        text = ""
        for word in reversed(words):
            if word == "exnref":
                text += "(local.set $e)"
                place = self.random.randrange(4)
                text += self.maybe(f"(table.set $kept (i32.const {place}) (local.get $e))", 4)
                text += self.maybe("(throw_ref (local.get $e))")
                text += self.maybe(f"(throw_ref (table.get $kept (i32.const {place})))", 9)
            else:
                text += HASHED[word]
        return text

    def legacy(self, depth: int) -> str:
        tag, body = self.tag(), self.statements(depth)
        if self.random.random() < 0.3:
            return f"(block (try (do {body}) (delegate {self.random.randrange(2)})))\n"
        again = self.maybe("(rethrow 1)") if self.random.random() < 0.5 else ""
        consumed = "".join(HASHED[word] for word in reversed(TAGS[tag].split()))
        every = f"(catch_all {again})" if self.random.random() < 0.5 else ""
        return f"(try (do {body}) (catch ${tag} {consumed} {again}) {every})\n"


def seen(engine: Engine, text: str, slice_fuel: int, limit: int = NO_LIMIT, **bounds: int) -> list[Any]:
    """All that can be seen of calls of `run` and `once`."""
    instance = load(engine, text)
    found: list[Any] = []
    for name, arguments in [("run", (60,)), ("once", ()), ("run", (7,))]:
        execution = start(engine, export(instance, name), *arguments, limit=limit, **bounds)
        outcome = finish(execution, slice_fuel)
        exception = execution.exception
        found += [outcome, execution.results, execution.consumed, execution.trap and execution.trap.code]
        found.append(exception and (instance.tags.index(exception.tag), exception.values))
        found.append(execution.trap and execution.trap.frames)
    return found


@pytest.mark.parametrize("first", range(0, 40, 8))
def test_random_programs_mean_the_same(native: Native, first: int) -> None:
    for seed in range(first, first + 8):
        text = Writer(seed).module()
        expected = seen(Interpreter(), text, 1_000_000)
        for slice_fuel in (1_000_000, 100):
            assert seen(native, text, slice_fuel) == expected, (seed, slice_fuel)
        for limits in ({"limit": 500}, {"call_depth": 4}, {"stack_slots": 90}):
            assert seen(native, text, 997, **limits) == seen(Interpreter(), text, 997, **limits), (seed, limits)


KEPT = """
(module
  (import "" "look" (func $look (param exnref)))
  (tag $t (param i32 i64))
  (table $kept 1 exnref)
  (global $sum (mut i64) (i64.const 0))
  (func $caught (param i32) (result exnref)
    (block $h (result i32 i64 exnref)
      (try_table (catch_ref $t $h)
        (throw $t (local.get 0) (i64.mul (i64.extend_i32_u (local.get 0)) (i64.const 0x100000001))))
      (unreachable))
    (return))
  (func $value (param exnref)
    (block $h (result i32 i64)
      (try_table (catch $t $h) (throw_ref (local.get 0)))
      (unreachable))
    (global.set $sum (i64.add (i64.mul (global.get $sum) (i64.const 31))))
    (i64.extend_i32_u)
    (global.set $sum (i64.add (global.get $sum))))
  (func $deep (export "deep") (param $n i32) (result i64) (local $mine exnref) (local $k i32)
    (local.set $mine (call $caught (local.get $n)))
    (if (local.get $n) (then (drop (call $deep (i32.sub (local.get $n) (i32.const 1))))))
    (loop $more
      (drop (call $caught (local.get $k)))
      (br_if $more (i32.lt_u (local.tee $k (i32.add (local.get $k) (i32.const 1))) (i32.const 40))))
    (if (i32.eqz (i32.and (local.get $n) (i32.const 7)))
      (then
        (table.set $kept (i32.const 0) (local.get $mine))
        (call $value (table.get $kept (i32.const 0)))
        (call $look (local.get $mine))))
    (call $value (local.get $mine))
    (global.get $sum)))
"""


@pytest.mark.parametrize("waits", [False, True])
def test_references_are_good_for_as_long_as_they_are_held(native: Native, waits: bool) -> None:
    exnref = RefType(True, AbsHeapType.EXN)
    found = []
    for engine in (Interpreter(), native):
        seen: list[tuple[Any, ...]] = []
        look = FuncInst(functype((exnref,)), host=None if waits else lambda _, each, to=seen: to.append(each.values))
        instance = load(engine, KEPT, (look,))
        execution = start(engine, export(instance, "deep"), 100)
        while (outcome := finish(execution)) is Outcome.HOST_CALL:
            seen.append(execution.arguments[0].values)
            if isinstance(engine, Native):
                execution.put_aside()
                others = [start(engine, export(load(engine, KEPT, (look,)), "deep"), 3) for _ in range(2)]
                assert [finish(each) for each in others] == [Outcome.HOST_CALL] * 2
            execution.deliver(())
        assert outcome is Outcome.RETURNED
        found.append((execution.results, execution.consumed, seen))
    assert found[0] == found[1]
    assert len(found[0][2]) == 13


PASSED_ON = """
(module
  (tag $mine (import "" "t") (param i32))
  (tag $same (import "" "t") (param i32))
  (func $next (import "" "next") (param i32))
  (tag $other (param i32))
  (func (export "f") (param i32) (result i32) (local $e exnref)
    (block $out (result i32)
      (block $r (result i32 exnref)
        (try_table (catch $other $out) (catch_ref $same $r)
          (call $next (local.get 0)))
        (unreachable))
      (local.set $e) (drop)
      (throw_ref (local.get $e))))
  (func (export "throw") (param i32) (throw $mine (i32.add (local.get 0) (i32.const 1))))
  (func $down (call $down))
  (func (export "sink") (param i32) (result i32)
    (drop (call $loop (local.get 0))) (call $down) (i32.const 0))
  (func $loop (export "loop") (param i32) (result i32) (local $sum i32)
    (loop $again
      (block $h (result i32)
        (try_table (catch $mine $h) (call $next (local.get 0)))
        (unreachable))
      (local.set $sum (i32.add (local.get $sum)))
      (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
    (local.get $sum)))
"""


def test_through_instances_of_other_modules(native: Native) -> None:
    results = []
    for engine in (Interpreter(), native):
        tag = TagInst(functype((I32,)))
        void = FuncInst(functype((I32,)), host=lambda _, each: None)
        inner = load(engine, PASSED_ON, (tag, tag, void))
        middle = load(engine, PASSED_ON, (tag, tag, export(inner, "throw")))
        drops = '(module (import "" "f" (func $f (param i32) (result i32)))'
        adapter = load(engine, f"{drops} (func (export \"g\") (param i32) (drop (call $f (local.get 0)))))",
                       (export(middle, "f"),))  # fmt: skip
        outer = load(engine, PASSED_ON, (tag, tag, export(adapter, "g")))
        execution = start(engine, export(outer, "loop"), 500, call_depth=5, stack_slots=90)
        assert finish(execution, 10) is Outcome.RETURNED
        # Whoever lands gets back exactly the room that frames before took.
        sinking = start(engine, export(outer, "sink"), 100, call_depth=12)
        assert finish(sinking) is Outcome.TRAPPED
        results.append((execution.results, execution.consumed, sinking.consumed, len(sinking.frames())))
    assert results[0] == results[1]
    assert results[0][0] == (sum(range(1, 501)) + 500,)


HOARDED = """
(module
  (tag $t (param i32))
  (table $kept 3000 exnref)
  (func (export "f") (param $n i32) (local $at i32)
    (loop $again
      (table.set $kept (local.get $at)
        (block $h (result exnref)
          (try_table (catch_all_ref $h) (throw $t (local.get $at)))
          (unreachable)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $at) (local.get $n))))))
"""


@pytest.mark.parametrize("limit", [0, 223, 224, 1000, 50_000, 200_000])
def test_a_heap_holds_as_many_exceptions(limit: int, native: Native) -> None:
    seen = []
    for engine in (Interpreter(), native):
        heap = Heap(limit)
        module = validate_module(parse_module(HOARDED.encode(), ALL), ALL)
        instance = instantiate(module, (), engine, bounds=Bounds(heap))
        execution = start(engine, export(instance, "f"), 2000)
        seen.append((finish(execution), execution.consumed, execution.trap.code, execution.trap.frames))
        assert heap.used <= limit
    assert seen[0] == seen[1]


def test_nothing_is_left_on_the_heap(native: Native) -> None:
    instance = load(native, HOARDED.replace("table.set $kept (local.get $at)", "drop"))
    call(native, instance, "f", 5000)
    assert instance.heap.used == 0


def test_a_stack_that_goes_to_another_guest_takes_nothing_along(native: Native) -> None:
    # One that has thrown, then another on the same stack whose instance has another tag at the same place.
    for value in range(50):
        instance = load(native, HOARDED.replace("throw $t (local.get $at)", f"throw $t (i32.const {value})"))
        call(native, instance, "f", 20)
        kept = [each.values for each in instance.tables[0].elements[:20]]
        assert kept == [(value,)] * 20
