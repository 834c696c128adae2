"""Data segments that are read many at a time are those that the decoder reads one by one, errors included."""

from __future__ import annotations

import random

import pytest

from aiowasm.binary import decoder
from aiowasm.binary.decoder import decode
from aiowasm.errors import InvalidError, MalformedError
from aiowasm.features import ALL, WASM_1, Features
from aiowasm.syntax.leb128 import write_s, write_u
from aiowasm.syntax.module import Data, Datas, Expr, Module
from aiowasm.validation.module import ValidatedModule, validate_module

HEADER = b"\0asm\1\0\0\0"
MEMORIES = b"\x05\x05\x02\x00\x01\x00\x01"


def number(rng: random.Random, value: int) -> bytes:
    """A signed number, often longer than it need be."""
    out = bytearray()
    write_s(out, value)
    if rng.random() < 0.2 and len(out) < 5:
        out[-1] |= 0x80
        out.append(0x7F if value < 0 else 0)
    return bytes(out)


def segment(rng: random.Random) -> bytes:
    address = b"\x41" + number(rng, rng.choice([0, 63, 64, 1 << 20, 2**31 - 1, -1, -(2**31)])) + b"\x0b"
    start = rng.choice([b"\0" + address] * 9 + [b"\1", b"\2\0" + address, b"\2\1" + address, b"\0\x41\0\x41\0\x6a\x0b"])
    out = bytearray(start)
    init = rng.randbytes(rng.choice([0, 1, 5, 200]))
    write_u(out, len(init))
    return bytes(out) + init


def module(segments: list[bytes], memories: bytes = MEMORIES) -> bytes:
    content = bytearray()
    write_u(content, len(segments))
    content += b"".join(segments)
    out = bytearray(HEADER + memories + b"\x0b")
    write_u(out, len(content))
    return bytes(out + content)


def outcome(data: bytes, features: Features) -> Module | tuple[type, str]:
    try:
        return decode(data, features)
    except (MalformedError, InvalidError) as error:
        return type(error), str(error)


def test_it_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(7)
    monkeypatch.setattr(decoder, "_PLAIN_PER_STEP", 5)
    read_plain = decoder.read_plain
    quickly = 0
    for _ in range(400):
        data = bytearray(module([segment(rng) for _ in range(rng.randrange(20))]))
        for _ in range(rng.choice([0, 0, 1, 2])):
            data[rng.randrange(16, len(data))] = rng.choice([0, 1, 0x0B, 0x41, 0x7F, 0x80, 0xFF])
        features = rng.choice([ALL, WASM_1])
        monkeypatch.setattr(decoder, "read_plain", read_plain)
        quick = outcome(bytes(data), features)
        monkeypatch.setattr(decoder, "read_plain", lambda _buffer, pos, *_rest: pos)
        slow = outcome(bytes(data), features)
        assert quick == slow
        if isinstance(quick, Module) and isinstance(slow, Module):
            assert quick.places == slow.places
            assert [data.mode and data.mode[1].offset for data in quick.datas] == [
                data.mode and data.mode[1].offset for data in slow.datas
            ]
            assert isinstance(quick.datas, Datas)
            quickly += len(quick.datas) - len(quick.datas.others)
    assert quickly > 500


def test_the_parts_of_a_segment() -> None:
    datas = decode(
        module([b"\0\x41\x80\x01\x0b\x02ab", b"\1\0", b"\2\1\x41\x7f\x0b\x01c"] + [b"\0\x41\0\x0b\0"] * 3)
    ).datas
    assert isinstance(datas, Datas)
    assert datas[0] == Data(b"ab", (0, Expr(b"\x41\x80\x01\x0b")))
    assert datas[1] == Data(b"", None)
    assert datas[2] == Data(b"c", (1, Expr(b"\x41\x7f\x0b")))
    assert [data.init for data in datas] == [b"ab", b"", b"c", b"", b"", b""]
    assert datas.addresses[0] == 128
    assert 0 not in datas.others
    assert {1, 2} <= set(datas.others)


@pytest.mark.parametrize(
    ("memories", "words"),
    [(b"", "unknown memory 0"), (b"\x05\x03\x01\x04\x01", "type mismatch")],
    ids=["no memory", "64 bits"],
)
def test_plain_segments_need_a_memory_of_32_bits(memories: bytes, words: str) -> None:
    def validated(segments: list[bytes]) -> ValidatedModule:
        return validate_module(decode(module(segments, memories), ALL), ALL)

    plain = b"\0\x41\0\x0b\x01x"
    assert validated([b"\1\x01x"] * 3)
    with pytest.raises(InvalidError, match=words) as caught:
        validated([b"\1\x01x"] * 3 + [plain] * 5)
    assert caught.value.offset is not None
    assert caught.value.offset >= len(HEADER + memories) + 3 + 9
    assert caught.value.offset < len(HEADER + memories) + 3 + 9 + len(plain)
