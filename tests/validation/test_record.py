"""What the walk records: blocks, immediates, segments of fuel and check points; and that it rejects what it must."""

from __future__ import annotations

import pytest

from aiowasm.binary.decoder import decode
from aiowasm.errors import InvalidError, MalformedError
from aiowasm.features import ALL, DEFAULT, WASM_1, Feature, Features
from aiowasm.syntax.instructions import BY_NAME, INSTRUCTIONS
from aiowasm.syntax.types import F32, I32, I64
from aiowasm.validation.code import HANDLED
from aiowasm.validation.module import ValidatedModule, validate_module, validate_shell_steps
from aiowasm.validation.record import Block, FunctionRecord, LocalTypes
from aiowasm.validation.rules import RULES

wasmtime = pytest.importorskip("wasmtime")


def validated(text: str, features: Features = DEFAULT) -> ValidatedModule:
    return validate_module(decode(bytes(wasmtime.wat2wasm(text)), ALL), features)


def record(body: str, head: str = "") -> FunctionRecord:
    return validated(f"(module {head} (func {body}))").record(0)


def names(made: FunctionRecord) -> list[str]:
    by_code = {row.code: row.name for row in INSTRUCTIONS}
    return [by_code[op] for op in made.ops]


def test_every_row_has_a_type_or_a_rule() -> None:
    assert set(RULES) == {row.name for row in INSTRUCTIONS if row.type is None} - HANDLED


def test_segments_of_fib() -> None:
    made = record(
        """(param i32) (result i32)
        local.get 0 i32.const 2 i32.lt_u
        if (result i32) local.get 0
        else
          local.get 0 i32.const 1 i32.sub call 0
          local.get 0 i32.const 2 i32.sub call 0
          i32.add
        end"""
    )
    # 0-2 compare, 3 if, 4 local.get, 5 else, 6-9 first call, 10-13 second call, 14 add, 15 end, 16 end
    # In this order: the compiler goes from segment to segment.
    assert list(made.cost.items()) == [(-1, 5), (3, 1), (5, 4), (9, 4), (13, 1), (15, 0)]
    assert made.checks == {-1}
    assert made.max_height == 3
    assert len(made.ops) == len(made.immediates) == len(made.offsets) == 17


def test_blocks_and_dead_code() -> None:
    made = record("(result i32) block (result i32) i32.const -1 br 0 i32.const 2 drop end loop br 0 end")
    block, loop = made.blocks[1:]
    assert names(made) == ["block", "i32.const", "br", "end", "loop", "br", "end", "end"]
    assert made.immediates[1] == 0xFFFF_FFFF
    assert made.immediates[2] is block
    assert block.targeted
    assert (block.start, block.end, block.height, block.results) == (0, 3, 0, (I32,))
    assert (loop.start, loop.end, loop.height, loop.kind) == (4, 6, 1, "loop")
    assert made.blocks[0].has_loop
    assert 4 in made.checks


def test_long_straight_code_is_split() -> None:
    made = record("i32.const 0 drop " * 10_000)
    assert len(made.checks) == 3
    assert sum(made.cost.values()) == 10_001
    assert made.cost[-1] == 4096


def test_bulk_of_variable_length_is_a_check_point() -> None:
    head = "(memory 1)"
    assert record("(param i32) i32.const 0 i32.const 0 local.get 0 memory.fill", head).checks == {-1, 2}
    assert record("i32.const 0 i32.const 0 i32.const 64 memory.fill", head).checks == {-1}
    assert record("i32.const 0 i32.const 0 i32.const 8192 memory.fill", head).checks == {-1, 2}


def test_immediates() -> None:
    made = record("(result i32) i32.const 0 f32.load offset=8 drop i32.const 1", "(memory 1)")
    assert made.immediates == [0, 8, F32, 1, None]
    table = record("(param i32) block local.get 0 br_table 0 1 0 end")
    labels = table.immediates[2]
    assert isinstance(labels, tuple)
    assert [label.kind for label in labels if isinstance(label, Block)] == ["block", "func", "block"]


def test_locals_in_runs() -> None:
    runs = LocalTypes([(2, I32), (0, F32), (40_000, I64)])
    assert len(runs) == 40_002
    assert [runs[0], runs[1], runs[2], runs[40_001]] == [I32, I32, I64, I64]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("i32.add drop", "type mismatch"),
        ("local.get 7 drop", "unknown local"),
        ("br 3", "unknown label"),
        ("call 9", "unknown function"),
        ("i32.const 0 i32.load drop", "unknown memory"),
        ("(local (ref func)) local.get 0 drop", "uninitialized local"),
        ("ref.func 0 drop", "undeclared function reference"),
    ],
)
def test_invalid(body: str, reason: str) -> None:
    with pytest.raises(InvalidError, match=reason) as caught:
        record(body)
    assert caught.value.funcidx == 0
    assert caught.value.offset is not None


@pytest.mark.parametrize(
    ("body", "feature"),
    [
        ("i32.const 0 i32.extend8_s drop", Feature.SIGN_EXTENSION),
        ("return_call 0", Feature.TAIL_CALLS),
        ("v128.const i64x2 0 0 drop", Feature.SIMD),
    ],
)
def test_features_are_named(body: str, feature: Feature) -> None:
    with pytest.raises(InvalidError, match=feature.value) as caught:
        validated(f"(module (func {body}))", WASM_1)
    assert caught.value.feature == feature.value


@pytest.mark.parametrize(
    "body", [b"\x00", b"\x00\x41", b"\x00\x41\x80\x80\x80\x80\x80\x00\x1a\x0b", b"\x00\xff\x0b", b"\x00\x0b\x0b"]
)
def test_malformed_bodies(body: bytes) -> None:
    code = bytes([1, len(body)]) + body
    data = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a" + bytes([len(code)]) + code
    with pytest.raises(MalformedError):
        validate_module(decode(data))


def test_steps_yield_and_leave_bodies_alone() -> None:
    data = bytes(wasmtime.wat2wasm("(module (func i32.add))"))
    steps = validate_shell_steps(decode(data))
    count = 0
    while True:
        try:
            next(steps)
            count += 1
        except StopIteration as stop:
            context = stop.value
            break
    assert count
    assert context.lazy
    with pytest.raises(InvalidError):
        context.record(0)


def test_fuel_of_free_instructions() -> None:
    assert record("nop block end i32.const 1 drop").cost == {-1: 2}
    assert BY_NAME["nop"].code in record("nop").ops
