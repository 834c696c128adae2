"""Guests that wait in a host function, and whose stacks go to others meanwhile."""

from __future__ import annotations

import gc
import random

import anyio
import anyio.lowlevel
import pytest

from aiowasm import HostModule, Module, Store, i32
from aiowasm.engine.base import Outcome
from aiowasm.engine.func import FuncInst
from aiowasm.engine.heap import ExnInst, Heap
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.native import Native, stack
from aiowasm.engine.tag import TagInst
from aiowasm.syntax.types import F64, I32, I64
from tests.native.driver import call, export, finish, functype, load, start

WAIT = functype((I32, I64, F64), (I64, F64))
DEEP = """
(module
  (import "" "wait" (func $wait (param i32 i64 f64) (result i64 f64)))
  (import "" "through" (func $through (param i32 i64) (result i64)))
  (memory 1)
  (func $deep (export "deep") (param $n i32) (param $seed i64) (result i64)
    (local $v v128) (local $a i64) (local $b f64)
    (local.set $v (i64x2.splat (i64.mul (local.get $seed) (i64.const 3))))
    (i64.store (i32.shl (local.get $n) (i32.const 3)) (local.get $seed))
    (if (i32.eqz (local.get $n))
      (then
        (call $wait (i32.const 7) (local.get $seed) (f64.convert_i64_u (local.get $seed)))
        (local.set $b) (local.set $a)
        (return (i64.add (local.get $a) (i64.trunc_f64_u (local.get $b))))))
    (i64.add (i64x2.extract_lane 1 (local.get $v))
      (i64.xor (i64.load (i32.shl (local.get $n) (i32.const 3)))
        (call $through (i32.sub (local.get $n) (i32.const 1)) (i64.add (local.get $seed) (i64.const 1)))))))
"""
THROUGH = """
(module
  (import "" "table" (table 1 funcref))
  (type $deep (func (param i32 i64) (result i64)))
  (func (export "through") (param i32 i64) (result i64)
    (call_indirect (type $deep) (local.get 0) (local.get 1) (i32.const 0))))
"""


def chain(native: Native):
    """A guest that goes back and forth between two instances and then waits."""
    table = load(native, '(module (table (export "table") 1 funcref))')
    through = load(native, THROUGH, (table.tables[0],))
    wait = FuncInst(WAIT)
    deep = load(native, DEEP, (wait, export(through, "through")))
    table.tables[0].set(0, export(deep, "deep"))
    return deep, through


def expected(n: int, seed: int) -> int:
    if n == 0:
        return (seed + 1000) + seed
    return (seed * 3 + (seed ^ expected(n - 1, seed + 1))) % (1 << 64)


@pytest.fixture(params=[1, 5, 1000])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(stack, "_WAITING", request.param)
    count: int = request.param
    return count


def test_many_wait_and_go_on_in_any_order(native: Native, few: int) -> None:
    rng = random.Random(few)
    guests = [chain(native) for _ in range(60)]
    executions = []
    for number, (deep, _) in enumerate(guests):
        sizes = {} if number % 7 else {"call_depth": 900}
        execution = start(native, export(deep, "deep"), number, number * 1000, **sizes)
        assert finish(execution, 50) is Outcome.HOST_CALL
        executions.append((number, execution))
    assert len(native.pool.waiting) == min(few, 60)
    rng.shuffle(executions)
    for number, execution in executions:
        deep, through = guests[number]
        if rng.random() < 0.5:
            assert len(execution.frames()) == 2 * number + 1
            assert execution.instances() == ({deep, through} if number else {deep})
        assert execution.arguments == (7, number * 1001, number * 1001.0)
        execution.deliver((number * 1001 + 1000, number * 1001.0))
        assert finish(execution, 50) is Outcome.RETURNED
        assert execution.results == (expected(number, number * 1000),)
    assert not native.pool.waiting
    assert not native._tickets


ENDLESS = """
(module (import "" "wait" (func $wait))
  (func $down (export "down") (param i32)
    (if (i32.eqz (local.get 0)) (then (call $wait)))
    (call $down (i32.sub (local.get 0) (i32.const 1)))))
"""


@pytest.mark.parametrize("limits", [{"call_depth": 50}, {"call_depth": 1000, "stack_slots": 300}])
def test_limits_go_along(native: Native, few: int, limits: dict[str, int]) -> None:
    seen = []
    for engine in (native, Interpreter()):
        func = export(load(engine, ENDLESS, (FuncInst(functype()),)), "down")
        executions = [start(engine, func, number, **limits) for number in range(9)]
        for execution in executions:
            assert finish(execution) is Outcome.HOST_CALL
        for execution in executions:
            execution.deliver(())
            assert finish(execution) is Outcome.TRAPPED
        seen.append([(execution.trap.code, execution.consumed, execution.trap.frames) for execution in executions])
    assert seen[0] == seen[1]
    assert not native.pool.waiting


def test_what_waits_can_be_dropped(native: Native, few: int) -> None:
    deep, _ = chain(native)
    executions = [start(native, export(deep, "deep"), number, 1) for number in range(20)]
    for execution in executions:
        assert finish(execution) is Outcome.HOST_CALL
    for execution in executions[::2]:
        execution.discard()
        execution.discard()
        assert execution.instances() == set()
    del executions, execution
    gc.collect()
    assert not native.pool.waiting
    assert not native._tickets
    assert call(native, load(native, '(module (func (export "f") (result i32) (i32.const 3)))'), "f") == (3,)


@pytest.mark.parametrize("legacy", [False, True])
def test_exceptions_find_their_handlers(native: Native, few: int, legacy: bool) -> None:
    tag = TagInst(functype((I32,)))
    body = (
        """(try (result i32) (do (i32.add (call $thrower (local.get 0)) (i32.const 1000)))
             (catch $t (drop) (call $wait (i32.const 3)) (rethrow 0)))"""
        if legacy
        else "(block $h (result i32) (try_table (result i32) (catch $t $h) (call $thrower (local.get 0))))"
    )
    text = f"""(module
      (import "" "wait" (func $wait (param i32)))
      (tag $t (import "" "t") (param i32))
      (func $thrower (param i32) (result i32) (call $wait (local.get 0)) (i32.const 5))
      (func $catcher (param i32) (result i32) (local i32) (local.set 1 (i32.const 50)) {body} (i32.add (local.get 1)))
      (func (export "run") (param i32) (result i32)
        (block $h (result i32) (try_table (result i32) (catch $t $h) (call $catcher (local.get 0))))))"""
    executions = []
    for number in range(8):
        execution = start(native, export(load(native, text, (FuncInst(functype((I32,))), tag)), "run"), number)
        assert finish(execution) is Outcome.HOST_CALL
        executions.append(execution)
    for number, execution in reversed(list(enumerate(executions))):
        execution.throw(ExnInst(Heap(), tag, (100 + number,)))
        if legacy:
            assert finish(execution) is Outcome.HOST_CALL
    for number, execution in enumerate(executions):
        if legacy:
            assert execution.arguments == (3,)
            execution.deliver(())
        assert finish(execution) is Outcome.RETURNED
        assert execution.results == ((100 if legacy else 150) + number,)
    assert not native.pool.waiting


def test_nothing_is_left_when_memory_is_refused(native: Native, monkeypatch: pytest.MonkeyPatch) -> None:
    deep, _ = chain(native)
    executions = [start(native, export(deep, "deep"), 3, number) for number in range(3)]
    for execution in executions:
        assert finish(execution) is Outcome.HOST_CALL
    made = stack.GuestStack

    def refuse(slots: int, depth: int):
        raise stack.LimitError("no", limit="stack_slots")

    monkeypatch.setattr(stack, "GuestStack", refuse)
    late = start(native, export(deep, "deep"), 3, 3)  # takes the stack of who has waited longest
    assert finish(late) is Outcome.HOST_CALL
    assert len(native.pool.waiting) == 3
    monkeypatch.setattr(stack, "GuestStack", made)
    for number, execution in enumerate([*executions, late]):
        execution.deliver((number + 1003, number + 3.0))
        assert finish(execution) is Outcome.RETURNED
        assert execution.results == (expected(3, number),)


def test_caught_exceptions_go_along(native: Native, few: int) -> None:
    text = """(module
      (import "" "wait" (func $wait (param i32)))
      (tag $t (param i32))
      (func $catch (param i32) (result exnref) (local exnref)
        (block $h (result i32 exnref)
          (try_table (catch_ref $t $h) (throw $t (local.get 0)))
          (unreachable))
        (local.set 1) (drop) (local.get 1))
      (func (export "run") (param i32) (result i32) (local exnref)
        (local.set 1 (call $catch (local.get 0)))
        (drop (call $catch (i32.const 1)))
        (call $wait (local.get 0))
        (block $h (result i32)
          (try_table (catch $t $h) (throw_ref (local.get 1)))
          (unreachable))))"""
    instance = load(native, text, (FuncInst(functype((I32,))),))
    executions = [start(native, export(instance, "run"), number) for number in range(100, 112)]
    for execution in executions:
        assert finish(execution) is Outcome.HOST_CALL
    for execution in executions[::2] + executions[1::2]:
        execution.deliver(())
        assert finish(execution) is Outcome.RETURNED
        assert execution.results == (100 + executions.index(execution),)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_calls_of_exports_wait_and_go_on(few: int, native: Native, anyio_backend: str) -> None:
    del native  # skips where there is no machine code
    module = await Module.from_text(
        """(module (import "env" "wait" (func $wait (param i32) (result i32)))
          (func $deep (param i32 i32) (result i32)
            (if (result i32) (local.get 0)
              (then (i32.add (call $deep (i32.sub (local.get 0) (i32.const 1)) (local.get 1)) (local.get 0)))
              (else (call $wait (local.get 1)))))
          (func (export "run") (param i32 i32) (result i32)
            (i32.mul (call $deep (local.get 0) (local.get 1)) (call $wait (local.get 1)))))"""
    )
    env = HostModule("env")
    waiting = 0
    free = anyio.Event()

    @env.function
    async def wait(value: i32) -> i32:
        nonlocal waiting
        waiting += 1
        await free.wait()
        await anyio.lowlevel.checkpoint()
        return value

    results: dict[int, int] = {}
    async with Store(engine="native") as store:
        guests = [await store.instantiate(module, imports={"env": env}) for _ in range(50)]

        async def run(number: int) -> None:
            results[number] = await guests[number].exports.run(number, number + 7)

        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(run, number)
            while waiting < 50:
                await anyio.lowlevel.checkpoint()
            free.set()
    assert results == {n: (n * (n + 1) // 2 + n + 7) * (n + 7) for n in range(50)}
