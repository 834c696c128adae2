"""The fuzz law for some seconds, and the inputs that once broke it."""

from __future__ import annotations

import time

import pytest

from aiowasm.binary.decoder import decode
from aiowasm.errors import InvalidError, MalformedError
from aiowasm.features import ALL
from aiowasm.text.parser import parse_module
from aiowasm.validation.module import validate_module
from tests.fuzz.law import BrokenLawError, check_binary, check_text, run, seeds, text_seeds

HEADER = b"\0asm\1\0\0\0"


def test_mutations() -> None:
    binaries, texts = seeds(30), text_seeds(5)
    end = time.monotonic() + 6
    seed = 0
    while time.monotonic() < end:
        outcome, _data, broken = run(seed, binaries, texts)
        if broken:
            raise BrokenLawError(f"seed {seed}: {outcome}: {broken}")
        seed += 1


def test_types_that_refer_to_themselves_can_be_named() -> None:
    # (type $f (func (result (ref null $f)))) and a body that returns the wrong thing.
    types = b"\x01\x06\x01\x60\x00\x01\x63\x00"
    code = b"\x03\x02\x01\x00\x0a\x06\x01\x04\x00\x41\x00\x0b"
    assert check_binary(HEADER + types + code) == "invalid"


def test_types_that_double_can_be_named() -> None:
    types = b"\x60\0\0" + b"".join(bytes([0x60, 2, 0x63, at, 0x63, at, 0]) for at in range(60))
    section = bytes([61]) + types
    sized = b"\x01" + bytes([len(section) & 0x7F | 0x80, len(section) >> 7]) + section
    body = b"\x00\xd0\x3c\x45\x0b"
    code = b"\x03\x02\x01\x00\x0a" + bytes([len(body) + 2, 1, len(body)]) + body
    assert check_binary(HEADER + sized + code) == "invalid"


def test_bytes_that_are_no_utf8_have_a_place_in_text() -> None:
    with pytest.raises(MalformedError, match=r"malformed UTF-8 encoding \(at line 2, column 3\)"):
        parse_module(b"(module\n  \xff)")
    assert check_text(b"\xff") == "text malformed".partition(" ")[2]


@pytest.mark.parametrize(
    ("sections", "offset"),
    [
        (b"\x01\x04\x01\x60\x00\x00\x03\x03\x02\x00\x05\x0a\x07\x02\x02\x00\x0b\x02\x00\x0b", 18),  # a type
        (b"\x05\x06\x02\x00\x01\x01\x02\x01", 13),  # a memory whose minimum is above its maximum
        (b"\x01\x04\x01\x60\x00\x00\x07\x05\x01\x01a\x00\x09", 17),  # an export
        (b"\x01\x04\x01\x60\x00\x00\x08\x01\x03", 16),  # the start function
    ],
)
def test_errors_around_code_have_offsets(sections: bytes, offset: int) -> None:
    with pytest.raises(InvalidError) as caught:
        validate_module(decode(HEADER + sections, ALL), ALL)
    assert caught.value.offset == offset
