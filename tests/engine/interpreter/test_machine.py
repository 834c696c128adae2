"""The machine: everything that can stop a guest, at any depth, in either form, with the same meter."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from aiowasm.engine.base import NO_LIMIT, HostReturned, Outcome, Thrown
from aiowasm.engine.func import FuncInst
from aiowasm.engine.heap import ExnInst, Heap
from aiowasm.engine.instance import ModuleInst
from aiowasm.engine.instantiate import instantiate
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.interpreter.machine import Machine
from aiowasm.engine.tag import TagInst
from aiowasm.errors import ExitError, OutOfFuel, TrapCode
from aiowasm.features import ALL
from aiowasm.syntax.matching import close_rectype
from aiowasm.syntax.types import I32, FuncType, RecType, SubType
from aiowasm.text.parser import parse_module
from aiowasm.validation.module import validate_module

DIRECT, MIXED, GENERATED = 1 << 62, 3, -1


@pytest.fixture(params=[DIRECT, MIXED, GENERATED], ids=["direct", "mixed", "generated"])
def engine(request: pytest.FixtureRequest) -> Interpreter:
    return Interpreter(request.param)


def functype(params: tuple[Any, ...] = (), results: tuple[Any, ...] = ()) -> Any:
    return close_rectype(RecType((SubType(True, (), FuncType(params, results)),)), 0, [])[0]


def host(function: Any, params: tuple[Any, ...] = (), results: tuple[Any, ...] = ()) -> FuncInst:
    return FuncInst(functype(params, results), host=function, name="host")


def load(engine: Interpreter, text: str, *imports: Any) -> ModuleInst:
    return instantiate(validate_module(parse_module(f"(module {text})"), ALL), imports, engine, "m")


def call(engine: Interpreter, instance: ModuleInst, name: str, *arguments: Any, **options: int) -> Machine:
    index = next(export.index for export in instance.validated.module.exports if export.name == name)
    limits = {"limit": NO_LIMIT, "call_depth": 10_000, "stack_slots": 65_536, **options}
    return engine.call(instance.funcs[index], arguments, **limits)


def finish(machine: Machine, slice_fuel: int = 1000) -> Outcome:
    for _ in range(1_000_000):
        outcome = machine.resume(slice_fuel)
        if outcome is not Outcome.PAUSED:
            return outcome
    raise AssertionError("it does not end")


LOOP = """
(func $add (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
(func (export "sum") (param $n i32) (result i32) (local $s i32)
  (loop $again
    (local.set $s (call $add (local.get $s) (local.get $n)))
    (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
  (local.get $s))
"""


@pytest.mark.parametrize("slice_fuel", [0, 1, 7, 1000, 1 << 40])
def test_a_slice_of_any_size_gives_the_same_result_and_fuel(engine: Interpreter, slice_fuel: int) -> None:
    machine = call(engine, load(engine, LOOP), "sum", 100)
    assert finish(machine, slice_fuel) is Outcome.RETURNED
    assert machine.results == (5050,)
    assert machine.consumed > 1000
    other = call(engine, load(engine, LOOP), "sum", 100)
    assert finish(other, 1 << 40) is Outcome.RETURNED
    assert machine.consumed == other.consumed


def test_out_of_fuel_is_where_the_limit_is_exceeded_whatever_the_slice(engine: Interpreter) -> None:
    seen = set()
    for slice_fuel in (1, 50, 1 << 40):
        machine = call(engine, load(engine, LOOP), "sum", 1000, limit=500)
        assert finish(machine, slice_fuel) is Outcome.TRAPPED
        assert isinstance(machine.trap, OutOfFuel)
        assert [frame.function for frame in machine.trap.frames][-1] == "$1"
        seen.add((machine.consumed, tuple(machine.trap.frames)))
    assert len(seen) == 1


def test_more_fuel_lets_it_go_on(engine: Interpreter) -> None:
    machine = call(engine, load(engine, LOOP), "sum", 100)
    machine.limit = 1 << 20
    assert machine.resume(100) is Outcome.PAUSED
    machine.charge(1000)
    before = machine.consumed
    assert finish(machine) is Outcome.RETURNED
    assert before > 1000
    assert machine.consumed > before


RECURSION = """
(func $down (export "down") (param i32) (result i32)
  (if (result i32) (local.get 0)
    (then (i32.add (i32.const 1) (call $down (i32.sub (local.get 0) (i32.const 1)))))
    (else (i32.const 0))))
"""


def test_recursion_deeper_than_any_python_stack(engine: Interpreter) -> None:
    machine = call(engine, load(engine, RECURSION), "down", 9_000, stack_slots=1 << 20)
    assert finish(machine, 500) is Outcome.RETURNED
    assert machine.results == (9_000,)


@pytest.mark.parametrize(("limits", "depth"), [({"call_depth": 50}, 50), ({"stack_slots": 700}, None)])
def test_call_stack_exhausted_is_exact(engine: Interpreter, limits: dict[str, int], depth: int | None) -> None:
    reached = []
    for hot in (DIRECT, GENERATED):
        own = Interpreter(hot)
        machine = call(own, load(own, RECURSION), "down", 100_000, **limits)
        assert finish(machine, 37) is Outcome.TRAPPED
        assert machine.trap is not None
        assert machine.trap.code is TrapCode.CALL_STACK_EXHAUSTED
        reached.append((len(machine.trap.frames), machine.consumed))
    assert reached[0] == reached[1]
    assert depth is None or reached[0][0] == depth
    machine = call(engine, load(engine, RECURSION), "down", (reached[0][0] - 1), **limits)
    assert finish(machine) is Outcome.RETURNED


def test_a_host_function_is_called_inside_and_its_error_is_not_a_trap(engine: Interpreter) -> None:
    seen: list[Any] = []

    def raising(caller: ModuleInst, value: int) -> int:
        seen.append((caller, value, machine.consumed, machine.frames(), machine.instances()))
        if value == 5:
            raise IndexError("ours")
        return value + 1

    text = """
      (import "" "h" (func $h (param i32) (result i32)))
      (func $inner (param i32) (result i32) (call $h (local.get 0)))
      (func (export "run") (result i32) (local i32)
        (loop (local.set 0 (call $inner (local.get 0))) (br_if 0 (i32.ne (local.get 0) (i32.const 9))))
        (local.get 0))
    """
    instance = load(engine, text, host(raising, (I32,), (I32,)))
    machine = call(engine, instance, "run")
    assert finish(machine, 20) is Outcome.FAILED
    assert isinstance(machine.error, IndexError)
    assert [value for _, value, *_ in seen] == [0, 1, 2, 3, 4, 5]
    assert all(caller is instance and instances == {instance} for caller, _, _, _, instances in seen)
    fuel = [consumed for _, _, consumed, _, _ in seen]
    assert fuel == sorted(set(fuel))
    assert [frame.funcidx for frame in seen[-1][3]] == [1, 2]
    assert [frame.funcidx for frame in machine.frames()] == [1, 2]
    assert all(frame.offset is not None for frame in machine.frames())


def test_a_host_function_may_return_and_pause(engine: Interpreter) -> None:
    def pausing(_caller: ModuleInst, value: int) -> int:
        raise HostReturned(value * 2)

    text = """(import "" "h" (func $h (param i32) (result i32)))
      (func $inner (result i32) (i32.add (i32.const 1) (call $h (i32.const 21))))
      (func (export "run") (result i32) (call $inner))"""
    machine = call(engine, load(engine, text, host(pausing, (I32,), (I32,))), "run")
    assert machine.resume(NO_LIMIT) is Outcome.PAUSED
    assert [frame.funcidx for frame in machine.frames()] == [1, 2]
    assert machine.resume(NO_LIMIT) is Outcome.RETURNED
    assert machine.results == (43,)


EXCEPTIONS = """
  (import "" "h" (func $h (result i32)))
  (import "" "t" (tag $t (param i32)))
  (func $deep (result i32) (call $h))
  (func (export "run") (result i32)
    (block $caught (result i32)
      (return (i32.add (i32.const 1000) (try_table (result i32) (catch $t $caught) (call $deep))))))
"""


@pytest.mark.parametrize("way", ["raised inside", "thrown at a call"])
def test_exceptions_from_the_host_are_caught_by_the_guest(engine: Interpreter, way: str) -> None:
    tag = TagInst(functype((I32,)))
    exception = ExnInst(Heap(), tag, (42,))

    def throwing(_caller: ModuleInst) -> int:
        raise Thrown(exception)

    function = host(throwing if way == "raised inside" else None, (), (I32,))
    machine = call(engine, load(engine, EXCEPTIONS, function, tag), "run")
    outcome = finish(machine)
    if way == "thrown at a call":
        assert outcome is Outcome.HOST_CALL
        machine.throw(exception)
        outcome = finish(machine)
    assert outcome is Outcome.RETURNED
    assert machine.results == (42,)


def test_an_exception_of_another_tag_is_not_caught(engine: Interpreter) -> None:
    tag, other = TagInst(functype((I32,))), TagInst(functype((I32,)))
    exception = ExnInst(Heap(), other, (42,))
    machine = call(engine, load(engine, EXCEPTIONS, host(None, (), (I32,)), tag), "run")
    assert finish(machine) is Outcome.HOST_CALL
    machine.throw(exception)
    assert finish(machine) is Outcome.THROWN
    assert machine.exception is exception


def test_a_host_function_that_cannot_be_called_inside_is_an_outcome(engine: Interpreter) -> None:
    text = """(import "" "h" (func $h (param i32) (result i32)))
      (func $inner (param i32) (result i32) (call $h (local.get 0)))
      (func (export "run") (result i32) (local i32)
        (loop (local.set 0 (call $inner (local.get 0))) (br_if 0 (i32.lt_u (local.get 0) (i32.const 9))))
        (local.get 0))"""
    function = host(None, (I32,), (I32,))
    instance = load(engine, text, function)
    machine = call(engine, instance, "run")
    for value in range(9):
        assert finish(machine, 3) is Outcome.HOST_CALL
        assert (machine.host, machine.arguments, machine.caller) == (function, (value,), instance)
        with pytest.raises(RuntimeError):
            machine.resume(1)
        machine.deliver((value + 1,))
    assert finish(machine) is Outcome.RETURNED
    assert machine.results == (9,)


def test_nested_executions_keep_their_meters_apart(engine: Interpreter) -> None:
    nested: list[int] = []

    def calling(_caller: ModuleInst) -> None:
        before = machine.consumed
        inner = call(engine, instance, "sum", 50)
        assert finish(inner, 10) is Outcome.RETURNED
        assert machine.consumed == before
        machine.charge(7)
        assert machine.consumed == before + 7
        nested.append(inner.consumed)

    text = '(import "" "h" (func $h)) ' + LOOP + '(func (export "run") (call $h) (call $h))'
    instance = load(engine, text, host(calling))
    machine = call(engine, instance, "run")
    assert finish(machine) is Outcome.RETURNED
    assert machine.consumed == 3 + 2 * 7
    assert nested[0] == nested[1] > 0


def test_growth_that_asks_is_an_outcome(engine: Interpreter) -> None:
    text = '(memory (export "m") 1 10) (func (export "run") (param i32) (result i32) (memory.grow (local.get 0)))'
    instance = load(engine, text)
    memory = instance.mems[0]
    memory.asks = True
    for previous, expected in ((1, 1), (-1, 0xFFFF_FFFF)):
        machine = call(engine, instance, "run", 2)
        assert finish(machine) is Outcome.GROW
        assert machine.arguments == (memory, 2, None)
        before = machine.consumed
        machine.deliver((previous,))
        assert finish(machine) is Outcome.RETURNED
        assert machine.results == (expected,)
        assert machine.consumed - before == (2048 if previous >= 0 else 0)


def test_long_copies_are_done_in_steps_that_overlap_rightly(engine: Interpreter) -> None:
    text = """(memory (export "m") 100)
      (func (export "copy") (param i32 i32 i32) (memory.copy (local.get 0) (local.get 1) (local.get 2)))
      (func (export "fill") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (local.get 2)))"""
    instance = load(engine, text)
    view = instance.mems[0].view
    pattern = bytes(range(251)) * 12_000
    view[: len(pattern)] = pattern
    machine = call(engine, instance, "copy", 100, 0, len(pattern))
    steps = 0
    while machine.resume(NO_LIMIT) is Outcome.PAUSED:
        steps += 1
    assert steps >= 2
    assert bytes(view[100 : 100 + len(pattern)]) == pattern
    assert machine.consumed == 5 + len(pattern) // 64
    assert finish(call(engine, instance, "copy", 0, 100, len(pattern))) is Outcome.RETURNED
    assert bytes(view[: len(pattern)]) == pattern
    assert finish(call(engine, instance, "fill", 7, 0xAB, 3 << 20)) is Outcome.RETURNED
    assert bytes(view[7 : 7 + (3 << 20)]) == b"\xab" * (3 << 20)
    limited = call(engine, instance, "fill", 0, 1, 3 << 20, limit=1000)
    assert finish(limited) is Outcome.TRAPPED
    assert view[7] == 0xAB  # nothing is written before the limit is looked at


def test_a_closed_instance_ends_calls_and_calls_from_guests(engine: Interpreter) -> None:
    library = load(engine, LOOP)
    func = library.funcs[1]
    text = (
        '(import "" "f" (func $f (param i32) (result i32))) (func (export "run") (result i32) (call $f (i32.const 9)))'
    )
    user = load(engine, text, func)
    assert finish(call(engine, user, "run")) is Outcome.RETURNED
    error = ExitError(3)
    engine.close(library, error)
    for machine in (call(engine, user, "run"), call(engine, library, "sum", 1)):
        assert finish(machine) is Outcome.FAILED
        assert machine.error is error


def test_tail_calls_use_no_stack_in_any_mixture(engine: Interpreter) -> None:
    text = """
      (type $f (func (param i32 i32) (result i32)))
      (table funcref (elem $even $odd))
      (func $even (export "even") (type $f)
        (if (i32.eqz (local.get 0)) (then (return (i32.const 1))))
        (return_call $odd (i32.sub (local.get 0) (i32.const 1)) (i32.const 0)))
      (func $odd (type $f)
        (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
        (return_call_indirect (type $f) (i32.sub (local.get 0) (i32.const 1)) (i32.const 0) (local.get 1)))
      (func (export "count") (param i32) (result i32)
        (if (i32.eqz (local.get 0)) (then (return (i32.const 7))))
        (return_call 2 (i32.sub (local.get 0) (i32.const 1))))
    """
    instance = load(engine, text)
    for name, arguments, result in (("even", (20_001, 0), 0), ("count", (20_000,), 7)):
        machine = call(engine, instance, name, *arguments, call_depth=2, stack_slots=100)
        assert finish(machine, 99) is Outcome.RETURNED
        assert machine.results == (result,)


def test_a_trap_shows_every_frame_and_keeps_nothing_alive(engine: Interpreter) -> None:
    text = """(memory 1)
      (func $load (param i32) (result i32) (i32.load offset=1 (local.get 0)))
      (func $middle (param i32) (result i32) (i32.add (i32.const 1) (call $load (local.get 0))))
      (func (export "run") (param i32) (result i32) (call $middle (local.get 0)))"""
    instance = load(engine, text)
    traps = []
    for _ in range(6):
        machine = call(engine, instance, "run", 0xFFFF_FFFF)
        assert finish(machine, 2) is Outcome.TRAPPED
        assert machine.trap is not None
        assert machine.trap.code is TrapCode.MEMORY_OUT_OF_BOUNDS
        assert [frame.funcidx for frame in machine.trap.frames] == [0, 1, 2]
        traps.append(machine.trap)
    assert len({trap.frames for trap in traps}) == 1
    gone = weakref.ref(instance)
    engine.close(instance, ExitError(0))
    del machine, instance
    gc.collect()
    assert gone() is None
    assert traps[0].__traceback__ is None or traps[0].__traceback__.tb_next is None


def test_an_execution_can_be_dropped_wherever_it_is(engine: Interpreter) -> None:
    instance = load(engine, LOOP)
    for slices in range(30):
        machine = call(engine, instance, "sum", 100)
        for _ in range(slices):
            assert machine.resume(1) is Outcome.PAUSED
        machine.discard()
        machine.discard()
        assert machine.instances() == set()
    assert engine.machine is None
    assert engine.fuel.cell_contents == 0


def test_an_exception_of_python_in_a_slice_passes_unchanged(engine: Interpreter, monkeypatch) -> None:
    instance = load(engine, LOOP)
    machine = call(engine, instance, "sum", 100)
    assert machine.resume(50) is Outcome.PAUSED
    interrupt = KeyboardInterrupt()

    def interrupted() -> None:
        raise interrupt

    monkeypatch.setattr(machine, "_run", interrupted)
    machine._work = None
    with pytest.raises(KeyboardInterrupt):
        machine.resume(50)
    assert machine.instances() == set()
    assert engine.machine is None


def test_a_loop_becomes_hot_while_it_runs() -> None:
    engine = Interpreter()
    text = """(func (export "run") (param i64) (result i64) (local i64)
      (loop (local.set 1 (i64.add (local.get 1) (local.get 0)))
        (br_if 0 (i64.ne (local.tee 0 (i64.sub (local.get 0) (i64.const 1))) (i64.const 0))))
      (local.get 1))"""
    instance = load(engine, text)
    machine = call(engine, instance, "run", 5000)
    assert finish(machine) is Outcome.RETURNED
    assert machine.results == (5000 * 5001 // 2,)
    body = instance.funcs[0].cell.cell_contents
    assert body.__code__.co_filename == "<wasm function 0>"


def test_a_wrapped_constant_is_the_constant_it_means(engine: Interpreter) -> None:
    text = """(func (export "f") (param i32) (result i32)
      (i32.add (i32.le_s (local.get 0) (i32.wrap_i64 (i64.const -9223372036854775808)))
        (i32.shl (local.get 0) (i32.wrap_i64 (i64.const 0x7f00000002)))))"""
    instance = load(engine, text)
    for value, expected in ((0, 1), (1, 4), (0xFFFFFFFF, 0xFFFFFFFD)):
        machine = call(engine, instance, "f", value)
        assert finish(machine) is Outcome.RETURNED
        assert machine.results == (expected,)
