"""The runner itself: it finds failures, counts, and lets threads of a script take turns."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiowasm.cli.wast.profiles import profile
from aiowasm.cli.wast.runner import Report, run_script
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.features import DEFAULT, WASM_1, Feature


def run(text: str, features=DEFAULT) -> Report:
    return run_script(text.encode(), features, Interpreter())


WRONG = {
    "result": (
        '(module (func (export "f") (result i32) (i32.const 1))) (assert_return (invoke "f") (i32.const 2))',
        "got",
    ),
    "arity": ('(module (func (export "f"))) (assert_return (invoke "f") (i32.const 2))', "got ()"),
    "kind": (
        '(module (func (export "f") (result i64) (i64.const 2))) (assert_return (invoke "f") (f64.const 0))',
        "got",
    ),
    "sign of zero": (
        '(module (func (export "f") (result f32) (f32.const 0))) (assert_return (invoke "f") (f32.const -0))',
        "got",
    ),
    "nan": (
        (
            '(module (func (export "f") (result f32) (f32.const nan:0x200001))) '
            '(assert_return (invoke "f") (f32.const nan:arithmetic))'
        ),
        "got",
    ),
    "no trap": ('(module (func (export "f"))) (assert_trap (invoke "f") "unreachable")', "nothing failed"),
    "other trap": ('(module (func (export "f") unreachable)) (assert_trap (invoke "f") "integer")', "'unreachable"),
    "trap": ('(module (func (export "f") unreachable)) (invoke "f")', "unreachable"),
    "valid": ('(assert_invalid (module) "type mismatch")', "nothing failed"),
    "well-formed": ('(assert_malformed (module binary "\\00asm\\01\\00\\00\\00") "unexpected end")', "nothing failed"),
    "malformed": ('(module quote "(func")', "MalformedError"),
    "invalid": ("(module (func (result i32)))", "InvalidError"),
    "linkable": ('(assert_unlinkable (module) "unknown import")', "nothing failed"),
    "unlinkable": ('(module (import "no" "thing" (func)))', "unknown import"),
    "no exception": ('(module (func (export "f"))) (assert_exception (invoke "f"))', "nothing failed"),
    "no instance": ('(invoke "f")', "no instance"),
    "no export": ('(module) (invoke "f")', "no function"),
    "no global": ('(module) (get "g")', "no global"),
    "no definition": ("(module instance $a $b)", "no definition"),
    "no thread": ("(wait $t)", "no thread"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_goes_wrong_is_a_failure(name: str) -> None:
    text, expected = WRONG[name]
    report = run(text)
    assert len(report.failures) == 1
    assert report.failures[0][0] == 1
    assert expected in report.failures[0][1]


def test_the_instance_before_a_failing_module_is_not_met() -> None:
    report = run('(module (func (export "f")))\n(module (func (result i32)))\n(invoke "f")')
    assert [line for line, _ in report.failures] == [2, 3]
    assert report.passed == 1


def test_features_decide() -> None:
    text = '(assert_invalid (module (memory 0) (memory 0)) "multiple memories")'
    assert run(text, DEFAULT - {Feature.MULTI_MEMORY}).passed == 1
    assert run(text).failures


THREADS = """
(module $Mem (memory (export "shared") 1 1 shared))
(thread $T1 (shared (module $Mem))
  (register "mem" $Mem)
  (module
    (memory (import "mem" "shared") 1 1 shared)
    (func (export "wait") (result i32) (memory.atomic.wait32 (i32.const 8) (i32.const 0) (i64.const -1))))
  (assert_return (invoke "wait") (i32.const 0)))
(thread $T2 (shared (module $Mem))
  (register "mem" $Mem)
  (module
    (memory (import "mem" "shared") 1 1 shared)
    (func (export "notify") (result i32)
      (loop $again (result i32)
        (br_if $again (i32.eqz (memory.atomic.notify (i32.const 8) (i32.const 1))))
        (memory.atomic.notify (i32.const 8) (i32.const 1)))))
  (assert_return (invoke "notify") (i32.const 0)))
(wait $T1)
(wait $T2)
"""


def test_threads_wait_and_notify() -> None:
    report = run(THREADS)
    assert not report.failures
    assert report.passed == 11


WAITING = """
(module
  (memory 1 1 shared)
  (func (export "wait32") (param i32 i64) (result i32)
    (memory.atomic.wait32 (i32.const 8) (local.get 0) (local.get 1)))
  (func (export "wait64") (param i64 i64) (result i32)
    (memory.atomic.wait64 (i32.const 8) (local.get 0) (local.get 1)))
  (func (export "notify") (param i32) (result i32) (memory.atomic.notify (local.get 0) (i32.const -1))))
"""


def test_waits_time_out_and_leave_nothing() -> None:
    text = WAITING + (
        '(assert_return (invoke "wait32" (i32.const 0) (i64.const 0)) (i32.const 2))'
        '(assert_return (invoke "wait32" (i32.const 0) (i64.const 1000)) (i32.const 2))'
        '(assert_return (invoke "wait64" (i64.const 0) (i64.const 1000)) (i32.const 2))'
        '(assert_return (invoke "wait64" (i64.const 1) (i64.const -1)) (i32.const 1))'
        '(assert_return (invoke "notify" (i32.const 8)) (i32.const 0))'
        '(assert_trap (invoke "notify" (i32.const 9)) "unaligned atomic")'
        '(assert_trap (invoke "notify" (i32.const 65536)) "out of bounds memory access")'
    )
    report = run(text)
    assert not report.failures
    assert report.passed == 8


def test_a_wait_that_nobody_can_end_fails() -> None:
    report = run(WAITING + '(invoke "wait32" (i32.const 0) (i64.const -1))' + '(invoke "notify" (i32.const 8))')
    assert len(report.failures) == 1
    assert "deadlock" in report.failures[0][1]


def test_waiting_needs_a_shared_memory() -> None:
    text = WAITING.replace("1 1 shared", "1 1")
    report = run(text + '(assert_trap (invoke "wait32" (i32.const 0) (i64.const 0)) "expected shared memory")')
    assert not report.failures


def test_profiles_follow_the_upstream_folders() -> None:
    assert profile(Path("address.wast")) == DEFAULT
    assert profile(Path("spec/proposals/custom-descriptors/exact.wast")) == "custom-descriptors"
    threads = profile(Path("spec/proposals/threads/atomic.wast"))
    assert isinstance(threads, frozenset)
    assert Feature.THREADS in threads > WASM_1
    assert not threads & {Feature.MULTI_MEMORY, Feature.REFERENCE_TYPES}
    assert Feature.CUSTOM_PAGE_SIZES in profile(Path("/a/proposals/custom-page-sizes/binary.wast"))
    assert Feature.WIDE_ARITHMETIC in profile(Path("proposals/wide-arithmetic/x.wast"))
