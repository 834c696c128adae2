from __future__ import annotations

import math
import struct
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiowasm.errors import InvalidError, MalformedError
from aiowasm.syntax.code import encode_instruction
from aiowasm.syntax.instructions import BY_NAME
from aiowasm.syntax.module import Custom, Data, Elem, Expr, Funcs, Global, Import, Module, Table
from aiowasm.syntax.types import (
    EXTERNREF,
    FUNCREF,
    I8,
    I32,
    I64,
    AbsHeapType,
    AddressType,
    ArrayType,
    FieldType,
    FuncExternType,
    FuncType,
    GlobalType,
    Limits,
    MemType,
    RecType,
    RefType,
    StructType,
    SubType,
    TableType,
)
from aiowasm.text.parser import parse_module
from aiowasm.text.printer import print_f32, print_f64, print_instruction, print_module, print_string


def expr(*code: tuple) -> Expr:
    out = bytearray()
    for name, *immediates in (*code, ("end",)):
        encode_instruction(out, BY_NAME[name], tuple(immediates))
    return Expr(bytes(out))


def funcs(typeidx: int, locals_: bytes, *code: tuple) -> Funcs:
    buffer = locals_ + expr(*code).code
    return Funcs(array("I", [typeidx]), buffer, array("Q", [0]), array("Q", [len(buffer)]))


FUNC = RecType((SubType(True, (), FuncType((), ())),))


def test_empty_module() -> None:
    assert print_module(Module()) == "(module\n)\n"


@given(st.integers(0, 2**32 - 1))
def test_f32_is_exact(bits: int) -> None:
    text = print_f32(bits)
    value = struct.unpack("<f", bits.to_bytes(4, "little"))[0]
    if math.isnan(value):
        payload = bits & 0x7FFFFF
        assert text.lstrip("-") == ("nan" if payload == 0x400000 else f"nan:{payload:#x}")
    else:
        assert struct.pack("<f", float.fromhex(text)) == bits.to_bytes(4, "little")


@given(st.integers(0, 2**64 - 1))
def test_f64_is_exact(bits: int) -> None:
    text = print_f64(bits)
    value = struct.unpack("<d", bits.to_bytes(8, "little"))[0]
    if math.isnan(value):
        payload = bits & 0xFFFFFFFFFFFFF
        assert text.lstrip("-") == ("nan" if payload == 1 << 51 else f"nan:{payload:#x}")
    else:
        assert struct.pack("<d", float.fromhex(text)) == bits.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("bits", "text"),
    [
        (0, "0x0p+0"),
        (1 << 31, "-0x0p+0"),
        (1, "0x0.000002p-126"),
        (0x3F800000, "0x1p+0"),
        (0x7F7FFFFF, "0x1.fffffep+127"),
        (0x7F800000, "inf"),
        (0xFF800000, "-inf"),
        (0x7FC00000, "nan"),
        (0xFF800001, "-nan:0x1"),
    ],
)
def test_f32_forms(bits: int, text: str) -> None:
    assert print_f32(bits) == text


def test_strings_are_escaped() -> None:
    assert print_string('a"\\\n') == '"a\\22\\5c\\0a"'
    assert print_string("λ") == '"\\ce\\bb"'
    assert print_string(b"\xff") == '"\\ff"'


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (("call_indirect", 3, 2), "call_indirect 2 (type 3)"),
        (("memory.init", 5, 1), "memory.init 1 5"),
        (("table.init", 5, 1), "table.init 1 5"),
        (("memory.copy", 1, 2), "memory.copy 1 2"),
        (("i32.load", (2, 0, 0)), "i32.load"),
        (("i32.load", (0, 1, 8)), "i32.load 1 offset=8 align=1"),
        (("v128.load8_lane", (0, 0, 3), 7), "v128.load8_lane offset=3 7"),
        (("ref.test_null", AbsHeapType.ANY), "ref.test (ref null any)"),
        (("ref.cast", 4), "ref.cast (ref 4)"),
        (("br_on_cast", 1, 2, AbsHeapType.ANY, 3), "br_on_cast 2 (ref null any) (ref 3)"),
        (("br_on_cast_fail", 2, 2, AbsHeapType.ANY, 3), "br_on_cast_fail 2 (ref any) (ref null 3)"),
        (("br_table", (1, 2, 0)), "br_table 1 2 0"),
        (("select_t", (I32,)), "select (result i32)"),
        (("try_table", None, ((0, 1, 2), (3, None, 0))), "try_table (catch 1 2) (catch_all_ref 0)"),
        (("block", I32), "block (result i32)"),
        (("block", 7), "block (type 7)"),
        (("i32.const", 0xFFFFFFFF), "i32.const -1"),
        (("i64.const", 1 << 63), "i64.const -9223372036854775808"),
        (("atomic.fence", 0), "atomic.fence"),
        (("v128.const", bytes(15) + b"\1"), "v128.const i32x4 0x00000000 0x00000000 0x00000000 0x01000000"),
    ],
)
def test_instructions(code: tuple, text: str) -> None:
    name, *immediates = code
    assert print_instruction(BY_NAME[name], tuple(immediates)) == text


def test_every_part_comes_back() -> None:
    module = Module(
        types=(
            FUNC,
            RecType(()),
            RecType(
                (
                    SubType(False, (), StructType((FieldType(I8, True), FieldType(RefType(True, 2), False)))),
                    SubType(True, (1,), StructType((FieldType(I8, True), FieldType(RefType(False, 2), False)))),
                )
            ),
            RecType((SubType(True, (), ArrayType(FieldType(I64, True))),)),
            RecType((SubType(True, (), FuncType((I32, I64), (EXTERNREF,))),)),
        ),
        imports=(Import('m"', "\0", FuncExternType(0)), Import("", "g", GlobalType(I32, True))),
        funcs=funcs(
            4,
            b"\2\3\x7f\1\x6f",
            ("block", None),
            ("loop", I32),
            ("i32.const", 5),
            ("if", 0),
            ("else",),
            ("end",),
            ("br", 1),
            ("end",),
            ("drop",),
            ("end",),
            ("f32.const", 0x7FA00001),
            ("drop",),
            ("local.get", 5),
        ),
        tables=(
            Table(TableType(Limits(1, 2), FUNCREF)),
            Table(TableType(Limits(1), RefType(False, AbsHeapType.FUNC), AddressType.I64), expr(("ref.func", 0))),
        ),
        mems=(MemType(Limits(0, 1 << 48), AddressType.I64), MemType(Limits(0, 9), shared=True, page_size_log2=0)),
        globals=(Global(GlobalType(I32, False), expr(("i32.const", 1), ("i32.const", 2), ("i32.add",))),),
        start=0,
        elems=(
            Elem(RefType(False, AbsHeapType.FUNC), array("I", [0, 1]), "declarative"),
            Elem(RefType(False, AbsHeapType.FUNC), array("I", [0]), (1, expr(("i64.const", 0)))),
            Elem(EXTERNREF, (expr(("ref.null", AbsHeapType.EXTERN)),), "passive"),
        ),
        datas=(Data(bytes(range(256)), None), Data(b"", (1, expr(("i32.const", 7))))),
        customs=(Custom("a", b"\0x", 0), Custom("b", b"", 11)),
    )
    parsed = parse_module(print_module(module))
    for name in Module.__dataclass_fields__:
        if name != "data_count":
            assert getattr(parsed, name) == getattr(module, name), name


def test_too_many_locals_are_refused() -> None:
    module = Module(types=(FUNC,), funcs=funcs(0, b"\1\xff\xff\xff\xff\x0f\x7f"))
    with pytest.raises(InvalidError, match="too many locals"):
        print_module(module)


@pytest.mark.parametrize("body", ["", "01", "0b01", "0b0b", "02400b", "18000b"])
def test_unbalanced_code_is_refused(body: str) -> None:
    buffer = b"\0" + bytes.fromhex(body)
    module = Module(types=(FUNC,), funcs=Funcs(array("I", [0]), buffer, array("Q", [0]), array("Q", [len(buffer)])))
    with pytest.raises(MalformedError, match=r"END opcode expected|unexpected end"):
        print_module(module)


def test_deep_nesting_prints_in_linear_size() -> None:
    depth = 50_000
    code = expr(*[("block", None)] * depth, *[("end",)] * depth).code
    buffer = b"\0" + code
    module = Module(types=(FUNC,), funcs=Funcs(array("I", [0]), buffer, array("Q", [0]), array("Q", [len(buffer)])))
    assert len(print_module(module)) < depth * 200
