"""Large modules: work is done in steps, numbers are kept in arrays, what would take endless memory is refused."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from aiowasm.binary.decoder import decode, decode_steps
from aiowasm.errors import InvalidError
from aiowasm.features import ALL
from aiowasm.syntax.leb128 import write_u
from aiowasm.syntax.matching import close_rectype_steps
from aiowasm.syntax.types import FieldType, RecType, RefType, StructType, SubType
from aiowasm.validation.module import ValidatedModule, validate_module, validate_module_steps

HEADER = b"\0asm\1\0\0\0"


def u(value: int) -> bytes:
    out = bytearray()
    write_u(out, value)
    return bytes(out)


def section(number: int, data: bytes) -> bytes:
    return bytes([number]) + u(len(data)) + data


def function(body: bytes, functype: bytes = b"\x60\0\0", locals_: bytes = b"\0") -> bytes:
    code = locals_ + body + b"\x0b"
    return HEADER + section(1, b"\x01" + functype) + section(3, b"\x01\0") + section(10, b"\x01" + u(len(code)) + code)


def drive(steps: Generator[None, None, Any]) -> tuple[int, Any]:
    count = 0
    while True:
        try:
            next(steps)
            count += 1
        except StopIteration as stop:
            return count, stop.value


def validated(data: bytes) -> ValidatedModule:
    return validate_module(decode(data, ALL), ALL)


@pytest.mark.parametrize(
    ("data", "least"),
    [
        (function(b"\x41\x01\x1a" * 100_000), 40),
        (function(b"\x41\0\x0e" + u(100_000) + b"\0" * 100_001), 20),
        (function(b"\x02\x40" * 200 + b"\x41\0\x0e" + u(50_000) + b"\x80\x01" * 50_001 + b"\x0b" * 200), 10),
        (HEADER + section(6, b"\x01\x7f\0\x41\0" + b"\x41\x01\x6a" * 50_000 + b"\x0b"), 20),
        (HEADER + section(1, b"\x01\x4e" + u(5000) + b"\x5f\x01\x63\x05\0" * 5000), 20),
        (HEADER + section(1, u(500) + (b"\x60" + u(900) + b"\x7f" * 900 + b"\0") * 500), 100),
        (
            HEADER + section(4, b"\x01\x70\0\x01") + section(9, b"\x01\x05\x70" + u(20_000) + b"\xd0\x70\x0b" * 20_000),
            40,
        ),
    ],
    ids=["code", "labels", "wide labels", "constant expression", "group", "types", "elements"],
)
def test_large_things_take_many_steps(data: bytes, least: int) -> None:
    decoding, module = drive(decode_steps(data, ALL))
    validating, _context = drive(validate_module_steps(module, ALL))
    assert decoding + validating >= least


def test_numbers_of_large_functions_read_like_those_of_small_ones() -> None:
    piece = b"\x03\x40\x41\0\x0d\0\x0b\x02\x40\x41\x01\x0d\0\x0b"
    small = validated(function(piece * 100)).record(0)
    large = validated(function(piece * 20_000)).record(0)
    assert isinstance(small.cost, dict)
    assert not isinstance(large.cost, dict)
    assert [large.cost.get(index, 0) for index in range(-1, 500)] == [
        small.cost.get(index, 0) for index in range(-1, 500)
    ]
    assert [index in large.checks for index in range(-1, 500)] == [index in small.checks for index in range(-1, 500)]
    assert list(large.cost) == sorted(large.cost)
    assert -2 not in large.cost
    assert sum(large.cost.values()) == 1 + 4 * 20_000
    assert len(large.checks) >= 20_000


def test_operands_without_end_are_refused() -> None:
    many = b"\x60\0" + u(1000) + b"\x7f" * 1000
    with pytest.raises(InvalidError, match="MAX_OPERANDS"):
        validated(function(b"\x10\0" * 2000 + b"\0", many))


def test_clauses_without_end_are_refused() -> None:
    with pytest.raises(InvalidError, match="MAX_CATCHES"):
        validated(function(b"\x1f\x40" + u(5000) + b"\x02\0" * 5000 + b"\x0b"))


def test_locals_without_default_are_unset_until_set() -> None:
    locals_ = b"\x01\xd0\x86\x03\x64\x00"  # 50,000 of (ref 0)
    with pytest.raises(InvalidError, match="uninitialized local 49999"):
        validated(function(b"\x20\xcf\x86\x03\x1a", locals_=locals_))
    refers = section(9, b"\x01\x03\0\x01\0")
    data = function(b"\xd2\0\x21\x07\x20\x07\x1a\x02\x40\xd2\0\x21\x08\x0b\x20\x08\x1a", locals_=locals_)
    at = data.index(section(3, b"\x01\0")) + 4
    with pytest.raises(InvalidError, match="uninitialized local 8"):
        validated(data[:at] + refers + data[at:])


def test_equal_groups_closed_at_the_same_time_are_one() -> None:
    field = FieldType(RefType(True, 3), True)
    group = RecType(tuple(SubType(True, (), StructType((field,) * (at % 7 + 1))) for at in range(2000)))
    one, other = close_rectype_steps(group, 0, []), close_rectype_steps(group, 0, [])
    for _ in range(3):
        next(one)
        next(other)
    assert drive(one)[1] is drive(other)[1]
