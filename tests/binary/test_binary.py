"""Laws of the binary format: decoding inverts encoding, and bytes that are no module give typed errors only."""

from __future__ import annotations

import random
import time
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiowasm.binary.decoder import decode, decode_steps
from aiowasm.binary.encoder import encode
from aiowasm.binary.names import decode_names
from aiowasm.errors import InvalidError, MalformedError
from aiowasm.features import ALL, DEFAULT, WASM_1, WASM_2
from aiowasm.syntax.code import decode_locals, encode_instruction, instructions
from aiowasm.syntax.instructions import INSTRUCTIONS
from aiowasm.syntax.leb128 import read_s, read_u, write_s, write_u
from aiowasm.syntax.module import Custom, Expr, Module
from aiowasm.syntax.types import FUNCREF, I32, AbsHeapType, AddressType, RefType

HEADER = b"\0asm\1\0\0\0"

TEXTS = {
    "empty": "(module)",
    "everything": """(module
        (type $f (func (param i32 i64) (result f32)))
        (import "m" "f" (func (type $f)))
        (import "m" "t" (table 1 2 funcref))
        (import "m" "m" (memory 1))
        (import "m" "g" (global (mut v128)))
        (func $a (type $f) (local i32 i32 f64) (f32.const nan:0x200000))
        (func $b (export "b") (block (loop (br_table 0 1 (i32.const -5)))))
        (table 3 externref)
        (memory 1 2)
        (global (mut i64) (i64.const -9223372036854775808))
        (global v128 (v128.const i32x4 1 2 3 4))
        (start $b)
        (elem (table 0) (i32.const 0) func $a $b)
        (elem funcref (ref.func $a) (ref.null func))
        (elem declare func $b)
        (elem (table 1) (i32.const 0) externref (ref.null extern))
        (data (i32.const 7) "hello")
        (data "passive")
        (data (memory 1) (i32.const 0) "second")
        (func (memory.init 1 (i32.const 0) (i32.const 0) (i32.const 0))))""",
    "gc": """(module
        (rec (type $s (sub (struct (field (mut i8)) (field (ref null $a))))) (type $a (array (mut (ref null $s)))))
        (type $t (sub final $s (struct (field (mut i8)) (field (ref null $a)) (field f32))))
        (global (ref null $a) (array.new_default $a (i32.const 4))))""",
    "tags": '(module (import "m" "t" (tag)) (tag $e (param i32)))',
    "memory64": "(module (memory i64 1 5000000000) (table i64 1 funcref))",
    "shared": "(module (memory 1 2 shared))",
    "table-init": "(module (func $f) (table 3 (ref func) (ref.func $f)))",
    "multi-memory": '(module (memory 1) (memory 2) (data (memory 1) (i32.const 0) "x"))',
}


def binaries() -> dict[str, bytes]:
    wasmtime = pytest.importorskip("wasmtime")
    return {name: bytes(wasmtime.wat2wasm(text)) for name, text in TEXTS.items()}


def section(number: int, *content: int) -> bytes:
    return bytes((number, len(content), *content))


@pytest.mark.parametrize("name", TEXTS)
def test_encoding_inverts_decoding(name: str) -> None:
    data = binaries()[name]
    module = decode(data, ALL)
    again = encode(module)
    assert decode(again, ALL) == module
    assert encode(decode(again, ALL)) == again


def test_kernels(kernels: Path) -> None:
    paths = sorted(kernels.rglob("*.wasm"))
    assert paths
    for path in paths:
        module = decode(path.read_bytes())
        assert decode(encode(module)) == module
        for code in module.funcs:
            _runs, body = decode_locals(code)
            assert list(instructions(code.buffer, body, code.end))[-1][0].name == "end"


@pytest.mark.parametrize("name", TEXTS)
def test_every_prefix_is_malformed_or_a_module(name: str) -> None:
    data = binaries()[name]
    for size in range(len(data)):
        error = None
        try:
            decode(data[:size], ALL)
        except MalformedError as caught:
            error = caught
        # Between two sections a prefix is a module.
        if error is not None:
            assert error.offset is not None
            assert error.offset <= size


def test_mutations_give_typed_errors_only() -> None:
    rng = random.Random(20)
    sources = list(binaries().values())
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        data = bytearray(rng.choice(sources))
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data))
            action = rng.randrange(3)
            if action == 0:
                data[at] = rng.randrange(256)
            elif action == 1:
                del data[at : at + rng.randint(1, 3)]
            else:
                data[at:at] = rng.randbytes(rng.randint(1, 3))
            if not data:
                data += b"\0"
        for features in (ALL, WASM_1):
            try:
                module = decode(bytes(data), features)
            except (MalformedError, InvalidError):
                continue
            assert decode(encode(module), features) == module


MALFORMED = {
    "unexpected end": [b"", b"\0as", b"\0asm\1\0"],
    "magic header not detected": [b"asm\0\1\0\0\0"],
    "unknown binary version": [b"\0asm\2\0\0\0"],
    "malformed section id": [HEADER + b"\x0e\0"],
    "length out of bounds": [HEADER + b"\x01\x05\0", HEADER + section(1, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F)],
    "section size mismatch": [HEADER + section(1, 0, 0), HEADER + section(8, 0, 0)],
    "unexpected content after last section": [
        HEADER + section(3, 0) + section(1, 0),
        HEADER + section(1, 0) + section(1, 0),
        HEADER + section(6, 0) + section(13, 0),
    ],
    "malformed UTF-8 encoding": [HEADER + section(0, 1, 0xFF), HEADER + section(0, 3, 0xED, 0xA0, 0x80)],
    "malformed import kind": [HEADER + section(2, 1, 0, 0, 5)],
    "malformed limits flags": [HEADER + section(4, 1, 0x70, 8), HEADER + section(5, 1, 8), HEADER + section(5, 1, 16)],
    "malformed mutability": [HEADER + section(1, 1, 0x5E, 0x78, 2), HEADER + section(6, 1, 0x7F, 2)],
    "malformed reference type": [HEADER + section(4, 1, 0x7F, 0, 0)],
    "function and code section have inconsistent lengths": [HEADER + section(1, 1, 0x60, 0, 0) + section(3, 1, 0)],
    "data count and data section have inconsistent lengths": [HEADER + section(12, 1)],
    "illegal opcode ff": [HEADER + section(6, 1, 0x7F, 0, 0xFF, 0x0B)],
    "integer representation too long": [HEADER + b"\1\x80\x80\x80\x80\x80\0"],
    "integer too large": [HEADER + b"\1\x80\x80\x80\x80\x10"],
    "END opcode expected": [HEADER + section(6, 1, 0x7F, 0, 0x05, 0x0B)],
}


@pytest.mark.parametrize(("reason", "data"), [(reason, data) for reason, cases in MALFORMED.items() for data in cases])
def test_malformed(reason: str, data: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        decode(data)
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("data", "feature"),
    [
        (section(5, 1, 3, 1, 1), "threads"),
        (section(5, 1, 4, 1), "memory64"),
        (section(13, 0), "exceptions"),
        (section(1, 1, 0x5F, 0), "gc"),
        (section(1, 1, 0x4E, 0), "gc"),
        (section(4, 1, 0x40, 0, 0x70, 0, 0, 0xD0, 0x70, 0x0B), "function-references"),
    ],
)
def test_missing_features_are_named(data: bytes, feature: str) -> None:
    decode(HEADER + data)
    with pytest.raises(InvalidError) as caught:
        decode(HEADER + data, WASM_2)
    assert caught.value.feature == feature


def test_custom_page_sizes() -> None:
    module = decode(HEADER + section(5, 1, 8, 1, 0), ALL)
    assert module.mems[0].page_size_log2 == 0
    assert decode(encode(module), ALL) == module
    with pytest.raises(MalformedError, match="invalid custom page size"):
        decode(HEADER + section(5, 1, 8, 1, 65), ALL)


def test_element_segments_are_canonical() -> None:
    func = RefType(False, AbsHeapType.FUNC)
    for content in ((1, 1, 0, 2, 3, 4), (1, 5, 0x64, 0x70, 2, 0xD2, 3, 0x0B, 0xD2, 4, 0x0B)):
        elem = decode(HEADER + section(9, *content)).elems[0]
        assert elem.type == func
        assert elem.init == array("I", [3, 4])
        assert elem.mode == "passive"
    elem = decode(HEADER + section(9, 1, 4, 0x41, 0, 0x0B, 1, 0xD2, 3, 0x0B)).elems[0]
    assert elem.type == FUNCREF
    assert elem.init == (Expr(b"\xd2\x03\x0b"),)


def test_addresses_of_64_bits() -> None:
    memory = decode(HEADER + section(5, 1, 5, 1, 0x80, 0x80, 0x80, 0x80, 0x20)).mems[0]
    assert memory.addrtype is AddressType.I64
    assert memory.limits.maximum == 1 << 33


def test_custom_sections_keep_their_places() -> None:
    customs = (Custom("a", b"1"), Custom("b", b"2", 3), Custom("c", b"", 3), Custom("d", b"x", 11))
    module = Module(customs=customs)
    assert decode(encode(module)) == module
    assert len(encode(Module())) == 8


def test_equal_types_are_one_object() -> None:
    types = decode(HEADER + section(1, 2, *(0x60, 1, 0x7F, 0) * 2)).types
    assert types[0] is types[1]


def test_a_hundred_thousand_functions_take_short_steps() -> None:
    count = 100_000
    number = bytearray()
    write_u(number, count)
    data = bytearray(HEADER + section(1, 1, 0x60, 0, 0))
    for identifier, content in ((3, bytes(count)), (10, b"\x02\x00\x0b" * count)):
        data.append(identifier)
        write_u(data, len(content) + len(number))
        data += number + content
    steps = decode_steps(bytes(data), DEFAULT)
    longest = 0.0
    while True:
        before = time.perf_counter()
        try:
            next(steps)
        except StopIteration as stop:
            module = stop.value
            break
        finally:
            longest = max(longest, time.perf_counter() - before)
    assert len(module.funcs) == count
    assert bytes(module.funcs[count - 1]) == b"\x00\x0b"
    assert longest < 0.1


@pytest.mark.parametrize("identifier", [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 13])
def test_counts_cost_nothing_without_bytes(identifier: int) -> None:
    with pytest.raises(MalformedError):
        decode(HEADER + section(identifier, 0xFF, 0xFF, 0xFF, 0x7F, *(0,) * 40))


def test_deep_constant_expressions_are_refused() -> None:
    body = b"\x7f\0" + b"\x02\x40" * 200_000
    out = bytearray(HEADER + b"\x06")
    write_u(out, len(body) + 1)
    with pytest.raises(InvalidError, match="MAX_NESTING"):
        decode(bytes(out) + b"\1" + body)


@given(st.integers(0, 2**64 - 1))
def test_unsigned_numbers(value: int) -> None:
    out = bytearray()
    write_u(out, value)
    assert read_u(out, 0, 64) == (value, len(out))


@given(st.integers(-(2**63), 2**63 - 1))
def test_signed_numbers(value: int) -> None:
    out = bytearray()
    write_s(out, value)
    assert read_s(out, 0, 64) == (value, len(out))


SAMPLES: dict[str, object] = {
    "i32": 0xFFFFFFFE,
    "i64": 1 << 63,
    "f32": 0x7FC00001,
    "f64": 0x7FF8000000000001,
    "v128": bytes(range(16)),
    "lanes": bytes(range(16)),
    "block": RefType(True, 300),
    "labels": (1, 300, 2),
    "catches": ((0, 1, 2), (1, 300, 0), (2, None, 3), (3, None, 4)),
    "valtypes": (I32, RefType(False, 5)),
    "heaptype": AbsHeapType.ANY,
    "castop": 3,
    "memarg": (2, 300, 1 << 40),
    "zero": 0,
    "lane": 7,
}


def test_every_instruction_is_read_as_written() -> None:
    out = bytearray()
    written = []
    for row in INSTRUCTIONS:
        immediates = tuple(SAMPLES.get(word.partition(":")[0], 300) for word in row.immediates)
        encode_instruction(out, row, immediates)
        written.append((row, immediates))
    assert list(instructions(bytes(out), 0)) == written


def test_names() -> None:
    data = b"\0\2\1m" + b"\1\7\2\0\1f\5\1g" + b"\2\6\1\0\1\3\1x" + b"\7\4\1\0\1y" + b"\x63\1\0"
    names = decode_names(data)
    assert names.module == "m"
    assert names.functions == {0: "f", 5: "g"}
    assert names.locals == {0: {3: "x"}}
    assert names.others == {"global": {0: "y"}}


@given(st.binary(max_size=60))
def test_names_never_raise(data: bytes) -> None:
    decode_names(data)
