"""Every arithmetic instruction has a function, and it agrees with wasmtime on the edges of its operands."""

from __future__ import annotations

import itertools
import random
import struct

import pytest

from aiowasm.engine.operators import EVALUATE
from aiowasm.engine.storage import (
    CMPXCHGS,
    LOAD_LANES,
    LOADS,
    RMWS,
    STORE_LANES,
    STORES,
    WIDTHS,
    loader,
    storer,
)
from aiowasm.errors import Trap
from aiowasm.syntax.instructions import BY_CODE, BY_NAME, INSTRUCTIONS

ACCESSES = ("load", "store", "const", "atomic")
ROWS = [row for row in INSTRUCTIONS if row.operation and not row.operation.family.startswith(ACCESSES)]
DOTS = ("i16x8.relaxed_dot", "i32x4.relaxed_dot")
RESULT = 256

I32 = [0, 1, 2, 5, 31, 32, 0x7F, 0x80, 0x7FFF, 0x8000, 0x7FFF_FFFF, 0x8000_0000, 0x8000_0001, 0xFFFF_FFFE, 0xFFFF_FFFF]
I64 = [*I32, 0x20_0000_2000_0001, 0x7FFF_FF40_0000_0001, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1]
F32 = [
    *(0, 1, 0x7F_FFFF, 0x80_0000, 0x3F00_0000, 0x3F80_0000, 0x3F80_0001, 0x3FC0_0000, 0x4020_0000, 0x4B00_0000),
    *(0x4B80_0001, 0x4F00_0000, 0x4EFF_FFFF, 0x4F80_0000, 0x5F00_0000, 0x7F7F_FFFF, 0x7F80_0000, 0x7F80_0001),
    *(0x7FC0_0000, 0x7FC1_2345, 0x7FA0_0000),
]
F64 = [
    struct.unpack("<Q", struct.pack("<d", x))[0]
    for x in (0.0, 5e-324, 0.5, 1.0, 1.5, 2.5, 2.0**31, 2.0**32 - 0.5, 2.0**52 + 1, 2.0**63, 3.4028235677973366e38)
]
F64 += [0x7FEF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000, 0x7FF8_0000_0000_0000, 0x7FF0_0000_0000_0001]
BITS = {
    "i32": I32,
    "i64": I64,
    "f32": [*F32, *(b | 1 << 31 for b in F32)],
    "f64": [*F64, *(b | 1 << 63 for b in F64)],
}


def as_bytes(valtype, rng):
    """Operands of a type as bytes; vectors are made of the edges of every type of lane."""
    if valtype != "v128":
        size = "<I" if valtype.endswith("32") else "<Q"
        return [struct.pack(size, bits) for bits in BITS[valtype]]
    singles = [struct.pack("<4I", *rng.choices(BITS["f32"], k=4)) for _ in range(12)]
    doubles = [struct.pack("<2Q", *rng.choices(BITS["f64"], k=2)) for _ in range(8)]
    narrow = [bytes(rng.choices([0, 1, 2, 15, 16, 0x7F, 0x80, 0x81, 0xFF], k=16)) for _ in range(6)]
    shorts = [struct.pack("<8H", *rng.choices([0, 1, 0x7F, 0x80, 0x7FFF, 0x8000, 0xFFFF], k=8)) for _ in range(6)]
    return [bytes(16), b"\xff" * 16, b"\x80" * 16, rng.randbytes(16), *singles, *doubles, *narrow, *shorts]


def samples(row):
    rng = random.Random(row.name)
    choices = [as_bytes(valtype, rng) for valtype in row.type[0]]
    if row.name.startswith(DOTS):
        # Where 16 bits do not hold a dot product, the standard saturates and wasmtime wraps.
        choices[1] = [operand.replace(b"\x80", b"\x81") for operand in choices[1]]
    every = list(itertools.product(*choices))
    return every if len(every) <= 300 else rng.sample(every, 300)


def lanes_of(row):
    if row.immediates == ("lanes",):
        return [0, 31, 1, 30, 2, 29, 3, 28, 16, 15, 8, 8, 24, 7, 6, 5]
    return [1] if row.immediates == ("lane",) else []


def test_every_arithmetic_instruction_has_a_function():
    assert set(EVALUATE) == {row.code for row in ROWS}


def test_every_access_has_a_function():
    tables = {**LOADS, **STORES, **LOAD_LANES, **STORE_LANES, **RMWS, **CMPXCHGS}
    rows = [r for r in INSTRUCTIONS if r.operation and r.operation.family.startswith(("load", "store", "atomic"))]
    waiting = {row.code for row in rows if row.operation.family in ("atomic_wait", "atomic_notify")}
    assert set(tables) | waiting == {row.code for row in rows} == set(WIDTHS)
    for row in rows:
        assert WIDTHS[row.code] == 1 << int(row.immediates[0].removeprefix("memarg:"))


@pytest.mark.parametrize("name", [BY_CODE[code].name for code in RMWS])
def test_read_modify_write_touches_its_bytes_only(name):
    row = BY_NAME[name]
    nbytes, operator = WIDTHS[row.code], row.operation.source
    old, operand = 0x8182_8384_8586_8788 & (1 << 8 * nbytes) - 1, 0xF7F6_F5F4_F3F2_F1F0
    results = {
        "iadd": old + operand,
        "isub": old - operand,
        "iand": old & operand,
        "ior": old | operand,
        "ixor": old ^ operand,
        "xchg": operand,
    }
    buffer = bytearray(b"\xaa" * 4 + old.to_bytes(nbytes, "little") + b"\xaa" * 4)
    given = operand & (0xFFFF_FFFF if name.startswith("i32") else (1 << 64) - 1)
    assert RMWS[row.code](memoryview(buffer), 4, given) == old
    expected = (results[operator] & (1 << 8 * nbytes) - 1).to_bytes(nbytes, "little")
    assert buffer == b"\xaa" * 4 + expected + b"\xaa" * 4


@pytest.mark.parametrize("name", [BY_CODE[code].name for code in CMPXCHGS])
def test_compare_exchange_compares_as_many_bits_as_it_loads(name):
    row = BY_NAME[name]
    nbytes = WIDTHS[row.code]
    old = 0x8182_8384_8586_8788 & (1 << 8 * nbytes) - 1
    buffer = bytearray(old.to_bytes(nbytes, "little") + b"\xaa")
    exchange = CMPXCHGS[row.code]
    assert exchange(memoryview(buffer), 0, old ^ 1, 0) == old
    assert buffer == old.to_bytes(nbytes, "little") + b"\xaa"
    above = 1 << 31 if name.startswith("i32") else 1 << 63
    assert exchange(memoryview(buffer), 0, old | above, 5) == old
    assert buffer == (5).to_bytes(nbytes, "little") + b"\xaa"


def function_text(row):
    before, after = row.type
    operands = " ".join(f"({t}.load (i32.const {16 * i}))" for i, t in enumerate(before))
    lanes = " ".join(map(str, lanes_of(row)))
    sets = " ".join(f"local.set {i}" for i in reversed(range(len(after))))
    stores = " ".join(f"({t}.store (i32.const {RESULT + 16 * i}) (local.get {i}))" for i, t in enumerate(after))
    return f'(func (export "{row.name}") (local {" ".join(after)}) {operands} {row.mnemonic} {lanes} {sets} {stores})'


@pytest.fixture(scope="module")
def oracle():
    wasmtime = pytest.importorskip("wasmtime")
    config = wasmtime.Config()
    config.cranelift_nan_canonicalization = True
    for feature in ("wasm_relaxed_simd", "wasm_relaxed_simd_deterministic", "wasm_wide_arithmetic"):
        if not hasattr(wasmtime.Config, feature):
            pytest.skip(f"this wasmtime has no {feature}")
        setattr(config, feature, True)
    store = wasmtime.Store(wasmtime.Engine(config))
    text = f'(module (memory (export "memory") 1) {" ".join(map(function_text, ROWS))})'
    instance = wasmtime.Instance(store, wasmtime.Module(store.engine, text), [])
    exports = instance.exports(store)
    memory = exports["memory"]

    def evaluate(name, operands):
        for i, operand in enumerate(operands):
            memory.write(store, operand, 16 * i)
        memory.write(store, bytes(32), RESULT)
        try:
            exports[name](store)
        except wasmtime.Trap as trap:
            return trap.message
        return bytes(memory.read(store, RESULT, RESULT + 32))

    return evaluate


def ours(row, operands):
    before, after = row.type
    values = [loader(t, t)(operand, 0) for t, operand in zip(before, operands, strict=True)]
    lanes = lanes_of(row)
    immediates = [lanes] if len(lanes) > 1 else lanes
    try:
        results = EVALUATE[row.code](*immediates, *values)
    except Trap as trap:
        return trap.code.value
    buffer = bytearray(32)
    for i, t in enumerate(after):
        storer(t, t)(buffer, 16 * i, results[i] if len(after) > 1 else results)
    return bytes(buffer)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_agrees_with_wasmtime(row, oracle):
    for operands in samples(row):
        got, wanted = ours(row, operands), oracle(row.name, operands)
        if isinstance(wanted, str):
            assert isinstance(got, str), operands
            assert got in wanted, operands
        else:
            assert got == wanted, operands


def test_vector_loads():
    memory = bytearray(range(0x7C, 0x9C))
    code = {name: row.code for name, row in BY_NAME.items()}
    assert LOADS[code["v128.load8x8_s"]](memory, 0) == struct.pack("<8h", 124, 125, 126, 127, -128, -127, -126, -125)
    assert LOADS[code["v128.load8x8_u"]](memory, 0) == struct.pack("<8H", *range(124, 132))
    assert LOADS[code["v128.load32x2_u"]](memory, 4) == struct.pack("<2Q", 0x83828180, 0x87868584)
    assert LOADS[code["v128.load16_splat"]](memory, 1) == b"\x7d\x7e" * 8
    assert LOADS[code["v128.load32_zero"]](memory, 1) == b"\x7d\x7e\x7f\x80" + bytes(12)
    assert LOAD_LANES[code["v128.load64_lane"]](memory, 0, 1, bytes(16)) == bytes(8) + bytes(memory[:8])
    STORE_LANES[code["v128.store16_lane"]](memory, 3, 2, bytes(range(16)))
    assert memory[2:6] == b"\x7e\x04\x05\x81"


def test_narrow_accesses_extend_and_wrap():
    memory = bytearray(b"\xff\xff\xff\xff\x00\x00\xa0\x7f")
    assert loader("i64", "i16_s")(memory, 0) == 2**64 - 1
    assert loader("i64", "i16_u")(memory, 0) == 0xFFFF
    storer("i64", "i8")(memory, 1, 0x1234)
    assert memory[:3] == b"\xff\x34\xff"
    storer("f32", "f32")(memory, 0, loader("f32", "f32")(memory, 4))
    assert memory[:4] == b"\x00\x00\xa0\x7f"
