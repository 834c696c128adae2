"""What the suite cannot see: pauses, fuel in host calls, unwinding across instances, what a dropped execution holds."""

from __future__ import annotations

import gc
from itertools import pairwise
from pathlib import Path
from weakref import ref

import pytest

from aiowasm.engine.base import HostReturned, Outcome, Thrown
from aiowasm.engine.func import FuncInst
from aiowasm.engine.heap import ExnInst, Heap
from aiowasm.engine.instantiate import instantiate_steps
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.native import Native
from aiowasm.engine.native import execution as execution_module
from aiowasm.engine.native.code import address_of
from aiowasm.engine.tag import TagInst
from aiowasm.errors import Trap, TrapCode
from aiowasm.syntax.types import EXTERNREF, F64, I32, I64
from aiowasm.text.parser import parse_module
from aiowasm.validation.module import validate_module
from tests.native.driver import call, export, finish, functype, load, start

LOOP = """
(module (memory 1)
  (func (export "sum") (param i32) (result i32) (local i32)
    (loop (local.set 1 (i32.add (local.get 1) (local.get 0)))
      (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
    (local.get 1))
  (func $deep (export "deep") (param i32) (result i32)
    (if (result i32) (local.get 0)
      (then (i32.add (i32.const 1) (call $deep (i32.sub (local.get 0) (i32.const 1)))))
      (else (i32.const 0))))
  (func (export "forever") (loop (br 0)))
  (func (export "load") (param i32) (result i32) (i32.load (local.get 0))))
"""


def test_pauses_change_nothing(native: Native) -> None:
    instance = load(native, LOOP)
    whole = start(native, export(instance, "sum"), 100)
    assert finish(whole) is Outcome.RETURNED
    # Now it is compiled: compiling may pause too.
    execution = start(native, export(instance, "sum"), 100)
    points = [0]
    while execution.resume(37) is Outcome.PAUSED:
        points.append(execution.consumed)
    # Check points lie nine units apart in this loop.
    assert all(37 <= after - before < 37 + 9 for before, after in pairwise(points))
    assert (execution.results, execution.consumed) == (whole.results, whole.consumed) == ((5050,), 902)


@pytest.mark.parametrize("failing", ["unreachable", "call $host"])
def test_what_went_wrong_in_a_large_function_is_found_out_in_steps(
    native: Native, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    # Where code is which operator's is not kept: a trap compiles the function again.
    def host(*_arguments: object) -> None:
        raise ValueError("from the host")

    dull = "(drop (i32.add (local.get 0) (i32.const 1))) " * 2000
    text = f"""(module (import "" "h" (func $host))
      (func (export "fine") (param i32) {dull})
      (func $large (param i32) {dull} (if (local.get 0) (then {failing})))
      (func (export "wrong") (param i32) (call $large (local.get 0))))"""
    instance = load(native, text, (FuncInst(functype(), host=host),))
    monkeypatch.setattr(execution_module, "_COMPILE_NS", 0)
    pauses = {}
    for name in ("fine", "wrong", "wrong again"):
        execution = start(native, export(instance, name.split()[0]), 1)
        pauses[name] = 0
        while (outcome := execution.resume(1_000_000)) is Outcome.PAUSED:
            pauses[name] += 1
        if name != "fine":
            failed = failing == "call $host"
            assert outcome is (Outcome.FAILED if failed else Outcome.TRAPPED)
            frames = execution.frames() if failed else execution.trap.frames
            assert [frame.funcidx for frame in frames][-2:] == [2, 3]
    assert pauses["fine"] > 10
    assert pauses["wrong"] > 2 * pauses["fine"] - 5
    assert pauses["wrong again"] < 5


def test_a_limit_may_be_raised_in_flight(native: Native) -> None:
    execution = start(native, export(load(native, LOOP), "forever"), limit=1000)
    assert execution.resume(900) is Outcome.PAUSED
    execution.limit = 10_000
    assert finish(execution) is Outcome.TRAPPED
    assert execution.trap.code is TrapCode.OUT_OF_FUEL
    assert 10_000 < execution.consumed < 10_100


@pytest.mark.parametrize(("depth", "slots"), [(10, 65_536), (1000, 100), (1, 65_536), (1000, 5)])
def test_stack_limits_are_logical(native: Native, depth: int, slots: int) -> None:
    seen = []
    for engine in (native, Interpreter()):
        func = export(load(engine, LOOP), "deep")
        outcomes = []
        for n in range(25):
            execution = start(engine, func, n, call_depth=depth, stack_slots=slots)
            outcome = finish(execution)
            outcomes.append((outcome, execution.consumed, execution.trap and execution.trap.frames))
        seen.append(outcomes)
    assert seen[0] == seen[1]
    assert {outcome for outcome, _, _ in seen[0]} == {Outcome.RETURNED, Outcome.TRAPPED} or depth == 1 or slots == 5


def test_many_suspended_guests_in_any_order(native: Native) -> None:
    instance = load(native, LOOP)
    executions = [start(native, export(instance, "sum"), 50 + n) for n in range(200)]
    alive = list(range(200))
    while alive:
        alive = [n for n in reversed(alive) if executions[n].resume(23) is Outcome.PAUSED]
    assert [execution.results[0] for execution in executions] == [(50 + n) * (51 + n) // 2 for n in range(200)]


def test_what_is_dropped_gives_its_stack_back(native: Native) -> None:
    instance = load(native, LOOP)
    for _ in range(300):
        execution = start(native, export(instance, "forever"))
        assert execution.resume(100) is Outcome.PAUSED
        execution.discard()
        execution.discard()
    execution = start(native, export(instance, "forever"))
    execution.resume(100)
    del execution
    gc.collect()
    assert len(native.pool._free) == 1


HOST = """
(module
  (import "" "mix" (func $mix (param i32 i64 f64) (result f64 i32)))
  (func (export "f") (param i32 i64 f64) (result f64 i32)
    (call $mix (local.get 0) (local.get 1) (local.get 2)))
  (func (export "tail") (param i32 i64 f64) (result f64 i32)
    (return_call $mix (local.get 0) (local.get 1) (local.get 2))))
"""
MIX = functype((I32, I64, F64), (F64, I32))


@pytest.mark.parametrize("name", ["f", "tail"])
def test_host_functions(native: Native, name: str) -> None:
    seen = []

    def mix(caller, a, b, c):
        seen.append((caller, a, b, c, execution.consumed, len(execution.frames())))
        execution.charge(1000)
        return c + a, a + 1

    instance = load(native, HOST, (FuncInst(MIX, host=mix),))
    execution = start(native, export(instance, name), 2**32 - 1, 2**64 - 1, 0.5)
    assert finish(execution) is Outcome.RETURNED
    assert execution.results == (2**32 - 0.5, 0)
    assert seen[0][1:4] == (2**32 - 1, 2**64 - 1, 0.5)
    assert seen[0][0] is (instance if name == "f" else None)
    assert execution.consumed == seen[0][4] + 1000
    assert seen[0][5] == (1 if name == "f" else 0)


def test_host_functions_that_wait(native: Native) -> None:
    instance = load(native, HOST, (FuncInst(MIX),))
    execution = start(native, export(instance, "f"), 1, 2, 3.0)
    assert finish(execution, 100) is Outcome.HOST_CALL
    assert execution.arguments == (1, 2, 3.0)
    assert execution.caller is instance
    assert execution.instances() == {instance}
    execution.deliver((4.0, 5))
    assert execution.resume(100) is Outcome.RETURNED
    assert execution.results == (4.0, 5)


def test_what_host_functions_raise(native: Native) -> None:
    def fail(caller, *arguments):
        raise KeyError(arguments)

    def stop(caller, *arguments):
        raise HostReturned((1.0, 2))

    execution = start(native, export(load(native, HOST, (FuncInst(MIX, host=fail),)), "f"), 1, 2, 3.0)
    assert finish(execution, 100) is Outcome.FAILED
    assert isinstance(execution.error, KeyError)
    assert len(execution.frames()) == 1
    execution = start(native, export(load(native, HOST, (FuncInst(MIX, host=stop),)), "f"), 1, 2, 3.0)
    assert execution.resume(100) is Outcome.PAUSED
    assert finish(execution, 100) is Outcome.RETURNED
    assert execution.results == (1.0, 2)


THROWER = """
(module
  (import "" "host" (func $host (param i32)))
  (tag $t (import "" "t") (param i32 f64))
  (func $g (export "g") (param i32)
    (if (i32.eqz (local.get 0)) (then (throw $t (i32.const 7) (f64.const 1.5))))
    (call $host (local.get 0))
    (call $g (i32.sub (local.get 0) (i32.const 1)))))
"""
CATCHER = """
(module
  (import "" "g" (func $g (param i32)))
  (tag $t (import "" "t") (param i32 f64))
  (func (export "f") (param i32) (result i32 f64 i32)
    (local i32)
    (local.set 1 (i32.const 99))
    (block $out (result i32 f64)
      (try_table (catch $t $out) (call $g (local.get 0)))
      (unreachable))
    (local.get 1)))
"""


@pytest.mark.parametrize("thrown_by_host", [False, True])
def test_exceptions_cross_instances(native: Native, thrown_by_host: bool) -> None:
    tag = TagInst(functype((I32, F64)))

    def host(caller, n):
        if thrown_by_host and n == 2:
            raise Thrown(ExnInst(Heap(), tag, (8, 2.5)))

    thrower = load(native, THROWER, (FuncInst(functype((I32,)), host=host), tag))
    catcher = load(native, CATCHER, (export(thrower, "g"), tag))
    for _ in range(50):  # what unwinding forgets to give back would run out
        execution = start(native, export(catcher, "f"), 5, call_depth=9, stack_slots=80)
        assert finish(execution, 3) is Outcome.RETURNED
        assert execution.results == ((8, 2.5, 99) if thrown_by_host else (7, 1.5, 99))


PEERS = """
(module
  (import "" "table" (table 2 funcref))
  (type $n (func (param i32) (result i32)))
  (global $calls (mut i32) (i32.const 0))
  (func $f (export "f") (param i32) (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (if (result i32) (local.get 0)
      (then (return_call_indirect (type $n) (i32.sub (local.get 0) (i32.const 1)) (i32.const OTHER)))
      (else (i32.const 77))))
  (func (export "calls") (result i32) (global.get $calls))
  (elem (i32.const SELF) func $f))
"""


def test_tail_calls_between_instances_need_no_stack(native: Native) -> None:
    host = load(native, '(module (table (export "table") 2 funcref))')
    first = load(native, PEERS.replace("OTHER", "1").replace("SELF", "0"), (host.tables[0],))
    second = load(native, PEERS.replace("OTHER", "0").replace("SELF", "1"), (host.tables[0],))
    execution = start(native, export(first, "f"), 10_001, call_depth=3, stack_slots=40)
    assert finish(execution) is Outcome.RETURNED
    assert execution.results == (77,)
    assert call(native, first, "calls") == call(native, second, "calls") == (5001,)


def test_functions_outlive_the_table_they_were_in(native: Native) -> None:
    text = """(module (import "" "drop" (func $drop))
      (table $t (export "t") 1 funcref) (type $f (func (result i32)))
      (func (export "run") (result i32) (local funcref)
        (local.set 0 (table.get $t (i32.const 0)))
        (call $drop)
        (table.set $t (i32.const 0) (local.get 0))
        (call_indirect (type $f) (i32.const 0))))"""
    guest: list = []

    def drop(_caller):
        guest[0].tables[0].set(0, None)
        gc.collect()

    guest.append(load(native, text, (FuncInst(functype(), host=drop),)))
    other = load(native, '(module (func (export "f") (result i32) (i32.const 5)))')
    guest[0].tables[0].set(0, export(other, "f"))
    del other
    gc.collect()
    assert call(native, guest[0], "run") == (5,)
    guest[0].tables[0].set(0, None)
    gc.collect()
    assert not native._buried


def test_references_of_the_host_do_not_pile_up(native: Native) -> None:
    text = """(module (import "" "make" (func $make (result externref)))
      (func (export "run") (param i32) (result externref) (local externref)
        (loop (local.set 1 (call $make))
          (br_if 0 (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))
        (local.get 1)))"""

    class Thing:
        alive = 0

        def __init__(self):
            Thing.alive += 1

        def __del__(self):
            Thing.alive -= 1

    most = 0

    def make(_caller):
        nonlocal most
        most = max(most, Thing.alive)
        return Thing()

    instance = load(native, text, (FuncInst(functype((), (EXTERNREF,)), host=make),))
    (result,) = call(native, instance, "run", 20_000)
    assert isinstance(result, Thing)
    assert most < 10_000


def test_a_closed_instance_runs_nothing(native: Native) -> None:
    instance = load(native, LOOP)
    native.close(instance, RuntimeError("closed"))
    execution = start(native, export(instance, "sum"), 5)
    assert execution.resume(100) is Outcome.FAILED
    assert str(execution.error) == "closed"


def test_guests_cannot_call_what_was_closed_meanwhile(native: Native) -> None:
    callee = load(native, '(module (func (export "f") (result i32) (i32.const 1)))')
    text = """(module (import "" "f" (func $f (result i32))) (import "" "shut" (func $shut (param i32)))
      (table funcref (elem $f))
      (func (export "go") (param i32) (result i32)
        (drop (call $f)) (drop (call_indirect (result i32) (i32.const 0)))
        (call $shut (local.get 0)) (call_indirect (result i32) (i32.const 0))))"""

    def shut(_caller, yes):
        if yes:
            native.close(callee, RuntimeError("closed"))

    caller = load(native, text, (export(callee, "f"), FuncInst(functype((I32,)), host=shut)))
    assert call(native, caller, "go", 0) == (1,)
    execution = start(native, export(caller, "go"), 1)
    assert finish(execution) is Outcome.FAILED
    assert str(execution.error) == "closed"
    assert len(execution.frames()) == 1


@pytest.mark.parametrize(("target", "source"), [(0, 5_000_001), (5_000_001, 0), (100, 99), (99, 100)])
def test_long_copies_pause_and_keep_overlap(native: Native, target: int, source: int) -> None:
    instance = load(
        native,
        """(module (memory (export "m") 600)
          (func (export "copy") (param i32 i32 i32) (memory.copy (local.get 0) (local.get 1) (local.get 2)))
          (func (export "fill") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (local.get 2))))""",
    )
    memory = instance.mems[0]
    expected = bytearray(bytes(range(251)) * (len(memory.view) // 251) + bytes(len(memory.view) % 251))
    memory.write(0, expected)
    nbytes = 30_000_000
    assert call(native, instance, "copy", target, source, nbytes) == ()
    expected[target : target + nbytes] = expected[source : source + nbytes]
    assert memory.view == expected
    execution = start(native, export(instance, "fill"), target, 7, nbytes)
    assert finish(execution, 1 << 40) is Outcome.RETURNED
    expected[target : target + nbytes] = b"\7" * nbytes
    assert memory.view == expected
    assert execution.consumed == 1 + 4 + nbytes // 64


@pytest.mark.parametrize("pages", ["1", "1 3", "0 5", "3 3"])
def test_behind_memories_lies_a_guard(native: Native, pages: str) -> None:
    instance = load(native, f'(module (memory (export "m") {pages}))')
    memory = instance.mems[0]
    memory.grow(1)
    memory.write(0, b"\1" * len(memory.view))
    end = address_of(memory._buffer) + len(memory._buffer)
    regions = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    guards = [each for each in regions if int(each[0].split("-")[0], 16) < end <= int(each[0].split("-")[1], 16)]
    assert [each[1] for each in guards] == ["---p"]


@pytest.mark.parametrize(("name", "base", "unit"), [("memory", 3, 1024), ("table", 4, 12)])
def test_growth_is_paid_for_before_it_happens(native: Native, name: str, base: int, unit: int) -> None:
    text = """(module (memory 1 10) (table 8 1000 funcref)
      (func (export "memory") (param i32) (result i32) (memory.grow (local.get 0)))
      (func (export "table") (param i32) (result i32) (table.grow (ref.null func) (local.get 0))))"""
    delta = 1 if name == "memory" else 100
    for limit in (base - 1, base, base + unit - 1, base + unit):
        seen = []
        for engine in (native, Interpreter()):
            instance = load(engine, text)
            execution = start(engine, export(instance, name), delta, limit=limit)
            outcome = finish(execution)
            seen.append((outcome, execution.consumed, instance.mems[0].size, instance.tables[0].size))
            assert (outcome is Outcome.RETURNED) == (limit == base + unit)
        assert seen[0] == seen[1]


LARGE = """(module (memory 1)
  (func (export "f") (param i32 i32) (result i32)
    (drop (i32.load (local.get 1)))
    (block (br_if 0 (local.get 1))
      (loop BODY (br_if 0 (i32.lt_s (local.get 0) (i32.const 0)))))
    (local.get 0)))"""


def test_branches_across_a_megabyte_of_code(native: Native) -> None:
    step = "(local.set 0 (i32.add (local.get 0) (i32.const 1234567)))"
    instance = load(native, LARGE.replace("BODY", step * 60_000))
    first = (1234567 * 60_000) % (1 << 32)
    assert first < 1 << 31
    assert call(native, instance, "f", 0, 0) == (first,)
    assert call(native, instance, "f", 5, 1) == (5,)
    last = 1 << 31
    while last >> 31:
        last = (last + first) % (1 << 32)
    assert call(native, instance, "f", 1 << 31, 0) == (last,)
    with pytest.raises(Trap) as caught:
        call(native, instance, "f", 0, 65_533)
    assert caught.value.code is TrapCode.MEMORY_OUT_OF_BOUNDS
    (frame,) = caught.value.frames
    assert frame.offset < 1000


def test_locals_far_from_the_frame_pointer(native: Native) -> None:
    count = 9001
    text = f"""(module
      (func $callee (param i64 v128) (result i64 v128) (local.get 0) (local.get 1))
      (func (export "f") (param i64) (result i64 i64 i32) (local {"i64 " * (count - 1)} v128 i32)
        (local.set {count - 1} (i64.add (local.get 0) (i64.const 1)))
        (local.set {count} (i64x2.splat (local.get {count - 1})))
        (local.set {count + 1} (i32.const 77))
        (call $callee (i64.mul (local.get {count - 1}) (i64.const 3)) (local.get {count}))
        (i64x2.extract_lane 1)
        (local.get {count + 1})))"""
    instance = load(native, text)
    assert call(native, instance, "f", 4) == (15, 5, 77)


def test_traps_name_the_place(native: Native) -> None:
    with pytest.raises(Trap) as caught:
        call(native, load(native, LOOP), "load", 65_533)
    assert caught.value.code is TrapCode.MEMORY_OUT_OF_BOUNDS
    assert caught.value.frames[0].offset is not None


def test_functions_of_tables_become_objects_when_somebody_asks(native: Native) -> None:
    functions = "".join(f"(func $f{number} (result i32) (i32.const {number}))" for number in range(100))
    names = " ".join(f"$f{number}" for number in range(100))
    text = f"""(module (table $t 200 funcref) (type $i (func (result i32))) {functions}
      (func (export "call") (param i32) (result i32) (call_indirect $t (type $i) (local.get 0)))
      (func (export "copy") (table.copy (i32.const 100) (i32.const 0) (i32.const 100)))
      (func (export "fill") (param i32) (table.fill (i32.const 0) (table.get (local.get 0)) (i32.const 100)))
      (export "f7" (func $f7)) (elem (table $t) (i32.const 0) func {names}))"""
    instance = load(native, text)
    assert not instance.funcs
    assert call(native, instance, "call", 42) == (42,)
    call(native, instance, "copy")
    assert call(native, instance, "call", 142) == (42,)
    assert set(instance.funcs) == {100, 101}
    (table,) = instance.tables
    assert table.get(107) is table.get(7) is instance.funcs[7]
    call(native, instance, "fill", 150)
    assert table.get(0) is table.get(99) is instance.funcs[50]
    table.grow(2, instance.funcs[3])
    assert [table.size, table.get(201)] == [202, instance.funcs[3]]
    assert call(native, instance, "call", 201) == (3,)
    assert set(instance.funcs) == {3, 7, 50, 100, 101, 102}


def test_tables_keep_the_instances_of_their_functions_and_no_others(native: Native) -> None:
    owner = load(native, '(module (table (export "t") 4 funcref))')
    (table,) = owner.tables
    text = '(module (func $f (export "f") (result i32) (i32.const 5)) (func $g) (elem declare func $f $g))'
    other = load(native, text)
    gone = ref(other)
    table.fill(0, other.funcs[0], 4)
    del other
    gc.collect()
    kept = gone()
    assert kept is not None
    assert table.get(3) is kept.funcs[0]
    del kept
    table.set(0, None)
    table.copy(1, table, 0, 1)
    table.fill(2, None, 2)
    gc.collect()
    assert gone() is None
    assert [table.get(index) for index in range(4)] == [None] * 4


def test_two_who_begin_with_a_module_at_once_share_its_code(native: Native) -> None:
    count = 20_000
    texts = "".join(f"(func (result i32) (i32.const {number}))" for number in range(count))
    module = parse_module(
        f"(module {texts} (table funcref (elem {' '.join(map(str, range(count)))}))"
        '(func (export "call") (param i32) (result i32) (call_indirect (result i32) (local.get 0))))'
    )
    validated = validate_module(module)
    both = [instantiate_steps(validated, (), native) for _ in range(2)]
    steps, made = 0, []
    while both:
        for one in tuple(both):
            try:
                next(one)
                steps += 1
            except StopIteration as stop:
                made.append(stop.value)
                both.remove(one)
    assert steps > 2 * count // 8192
    assert native.native(made[0]).code is native.native(made[1]).code
    for instance in made:
        assert [call(native, instance, "call", at) for at in (0, 8191, 8192, count - 1)] == [
            (0,),
            (8191,),
            (8192,),
            (count - 1,),
        ]
