"""Which NaN a result is can be seen in its bits; machine code makes it canonical only where somebody could look."""

from __future__ import annotations

import struct
from itertools import product
from random import Random

import pytest

from aiowasm.engine.base import Engine
from aiowasm.engine.interpreter.engine import Interpreter
from tests.native.driver import call, load
from tests.native.test_stencils import levels, watched

__all__ = ("levels",)

UNARY = ["ceil", "floor", "trunc", "nearest", "sqrt", "abs", "neg"]
BINARY = ["add", "sub", "mul", "div", "min", "max"]
COMPARE = ["eq", "ne", "lt", "gt", "le", "ge"]
BITS = {
    32: [0x7FC00000, 0xFFC00000, 0x7FA00001, 0xFF812345, 0x7F800000, 0xFF800000, 0, 0x80000000, 0x3FC00000],
    64: [
        *(0x7FF8000000000000, 0xFFF8000000000000, 0x7FF4000000000001, 0xFFF1234567890ABC, 0x7FF0000000000000),
        *(0xFFF0000000000000, 0, 0x8000000000000000, 0x3FF8000000000000),
    ],
}


def firsts(shape: str) -> list[str]:
    """What computes a float or vector of x and y."""
    made = [f"({shape}.{name} (local.get $x))" for name in UNARY]
    return made + [f"({shape}.{name} (local.get $x) (local.get $y))" for name in BINARY]


def seconds(shape: str, first: str) -> list[str]:
    """What takes *first*: alone, with an operand behind it or before it, through a local, twice."""
    made = [f"({shape}.{name} {first})" for name in UNARY]
    for name in [*BINARY, *COMPARE, *(["copysign"] if len(shape) == 3 else ["pmin", "pmax"])]:
        made += [f"({shape}.{name} {first} (local.get $z))", f"({shape}.{name} (local.get $z) {first})"]
        made.append(f"({shape}.{name} {first} {first})")
        made.append(f"({shape}.{name} (local.tee $t {first}) (local.get $t))")
    return [first, *made]


def scalar_module(bits: int) -> tuple[str, int]:
    """Functions of the bits of x, y, z to the bits of a result, each as it is and in a loop."""
    shape, other = f"f{bits}", f"f{96 - bits}"
    bodies = [second for first in firsts(shape) for second in seconds(shape, first)]
    convert = "promote_f32" if bits == 32 else "demote_f64"
    change = [f"({other}.{convert} {first})" for first in firsts(shape)]
    stored = [f"({shape}.store (i32.const 0) {first})" for first in firsts(shape)]
    text = ""
    for number, body in enumerate(bodies + change + stored):
        result = shape
        if body in change:
            result = other
        if body.split(".", 1)[1].partition(" ")[0] in COMPARE:
            value = f"({shape}.convert_i32_s {body})"
        elif body in stored:
            value = f"{body} ({shape}.load (i32.const 0))"
        else:
            value = body
        wide = "(i64.extend_i32_u (i32.reinterpret_f32))" if result == "f32" else "(i64.reinterpret_f64)"
        head = f"(param i{bits} i{bits} i{bits}) (result i64) (local $x {shape}) (local $y {shape})"
        head += f"(local $z {shape}) (local $t {shape})"
        for at, name in enumerate("xyz"):
            head += f"(local.set ${name} ({shape}.reinterpret_i{bits} (local.get {at})))"
        text += f'(func (export "{number}") {head} {value} {wide})\n'
        kept = "".join(f"(local.set ${name} (local.get ${name}))" for name in "xyz")
        text += f'(func (export "{number} loop") {head} (loop (result {result}) {kept} {value}) {wide})\n'
    return f"(module (memory 1) {text})", len(bodies + change + stored)


def vector_module(shape: str) -> tuple[str, int]:
    """The same for lanes: z is x and y changed about."""
    bodies = [second for first in firsts(shape) for second in seconds(shape, first)]
    other = "f64x2" if shape == "f32x4" else "f32x4"
    bodies += [f"({other}.add {first} (local.get $z))" for first in firsts(shape)]
    text = ""
    for number, body in enumerate(bodies):
        head = "(param i64 i64) (result i64 i64) (local $x v128) (local $y v128) (local $z v128) (local $t v128)"
        head += "(local.set $x (i64x2.replace_lane 1 (i64x2.splat (local.get 0)) (local.get 1)))"
        head += "(local.set $y (i64x2.splat (local.get 1))) (local.set $z (i64x2.splat (local.get 0)))"
        end = "(local.set $t) (i64x2.extract_lane 0 (local.get $t)) (i64x2.extract_lane 1 (local.get $t))"
        kept = "".join(f"(local.set ${name} (local.get ${name}))" for name in "xyz")
        text += f'(func (export "{number}") {head} {body} {end})\n'
        text += f'(func (export "{number} loop") {head} (loop (result v128) {kept} {body}) {end})\n'
    return f"(module {text})", len(bodies)


@pytest.mark.parametrize("bits", [32, 64])
def test_every_pair_of_operators(levels: list[str], bits: int) -> None:
    text, count = scalar_module(bits)
    random = Random(bits)
    engines: list[Engine] = [Interpreter(), *(watched(level)[0] for level in levels)]
    instances = [load(engine, text) for engine in engines]
    triples = list(product(BITS[bits], repeat=3))
    for number in range(count):
        for arguments in random.sample(triples, 5):
            want = call(engines[0], instances[0], str(number), *arguments)
            for name, each in product((f"{number}", f"{number} loop"), (1, -1)):
                assert call(engines[each], instances[each], name, *arguments) == want, (name, arguments, each)


@pytest.mark.parametrize("shape", ["f32x4", "f64x2"])
def test_every_pair_of_operators_on_lanes(levels: list[str], shape: str) -> None:
    text, count = vector_module(shape)
    random = Random(shape)
    engines: list[Engine] = [Interpreter(), *(watched(level)[0] for level in levels)]
    instances = [load(engine, text) for engine in engines]
    for number in range(count):
        for _ in range(4):
            if shape == "f64x2":
                arguments = random.sample(BITS[64], 2)
            else:
                lanes = struct.pack("<4I", *(random.choice(BITS[32]) for _ in range(4)))
                arguments = list(struct.unpack("<2Q", lanes))
            want = call(engines[0], instances[0], str(number), *arguments)
            for name, each in product((f"{number}", f"{number} loop"), (1, -1)):
                assert call(engines[each], instances[each], name, *arguments) == want, (name, arguments, each)
