"""Mutations of binary modules and of text: blind ones on bytes, and ones that keep the frame of sections intact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from aiowasm.syntax.leb128 import write_u

_INTERESTING = (
    0,
    1,
    2,
    0x0B,
    0x3F,
    0x40,
    0x5E,
    0x5F,
    0x60,
    0x63,
    0x64,
    0x69,
    0x70,
    0x7B,
    0x7F,
    0x80,
    0xFB,
    0xFC,
    0xFD,
    0xFF,
)
_NUMBERS = (0, 1, 63, 64, 127, 128, 1000, 50_000, 65_536, 1_000_000, 0x7FFF_FFFF, 0xFFFF_FFFF)
_WORDS = (
    *("(", ")", "(;", ";)", ";;", '"', "(@a", "$x", '$"x"', "0x", "_", "nan:0x1", "inf", "1e999", "\\", "\\u{110000}"),
    *("module", "func", "param", "result", "local", "type", "rec", "sub", "struct", "array", "i32", "i64", "v128"),
    *("block", "loop", "if", "then", "else", "end", "br_table", "call_indirect", "import", "export", "memory", "table"),
    *(
        "elem",
        "data",
        "global",
        "tag",
        "start",
        "offset=",
        "align=3",
        "18446744073709551616",
        "-1",
        "try_table",
        "catch",
    ),
)


def _number(rng: Random) -> bytearray:
    out = bytearray()
    write_u(out, rng.choice(_NUMBERS))
    if rng.random() < 0.2:
        out[-1] |= 0x80  # more bytes than needed, or than are allowed
        out += b"\x80" * rng.randrange(9) + b"\0"
    return out


def _bytes(rng: Random, data: bytearray, others: Sequence[bytes]) -> None:
    """One blind mutation."""
    at = rng.randrange(len(data) + 1)
    size = min(rng.choice((1, 1, 2, 4, 8, 40, 400)), len(data) - at)
    kind = rng.randrange(8)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = rng.choice(_INTERESTING)
    elif kind == 2:
        data[at:at] = rng.randbytes(rng.choice((1, 2, 5, 30)))
    elif kind == 3:
        del data[at : at + size]
    elif kind == 4:
        data[at:at] = data[at : at + size] * rng.choice((1, 1, 2, 50))
    elif kind == 5:
        other = rng.choice(others)
        start = rng.randrange(len(other) + 1)
        data[at : at + rng.choice((0, size))] = other[start : start + rng.choice((1, 3, 10, 100))]
    elif kind == 6:
        data[at : at + 1] = _number(rng)
    else:
        del data[at:]


def _sections(data: bytes) -> list[tuple[int, bytes]]:
    """The sections of a module that is well-formed so far."""
    found = []
    pos = 8
    while pos < len(data):
        section, pos = data[pos], pos + 1
        size = shift = 0
        while pos < len(data):
            size |= (data[pos] & 0x7F) << shift
            shift += 7
            pos += 1
            if data[pos - 1] < 0x80:
                break
        found.append((section, data[pos : pos + size]))
        pos += size
    return found


def _framed(sections: Sequence[tuple[int, bytes]]) -> bytes:
    out = bytearray(b"\0asm\1\0\0\0")
    for section, content in sections:
        out.append(section)
        write_u(out, len(content))
        out += content
    return bytes(out)


def _within_section(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Mutate what is in one section, or the list of sections; sizes stay right."""
    sections = _sections(data)
    if not sections:
        return data
    at = rng.randrange(len(sections))
    kind = rng.randrange(8)
    if kind == 0:
        del sections[at]
    elif kind == 1:
        sections.insert(rng.randrange(len(sections) + 1), sections[at])
    elif kind == 2:
        theirs = [one for one in _sections(rng.choice(others)) if one[0] == sections[at][0]]
        if theirs:
            sections[at] = theirs[0]
    else:
        content = bytearray(sections[at][1])
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            _bytes(rng, content, others)
        sections[at] = (sections[at][0], bytes(content))
    return _framed(sections)


def _within_function(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Mutate one function's code; its size and those around it stay right."""
    sections = _sections(data)
    at = next((at for at, (section, _) in enumerate(sections) if section == 10), None)
    if at is None:
        return data
    codes, pos, content = [], 1, sections[at][1]
    while pos < len(content) and len(codes) < 64:
        size, shift = 0, 0
        while pos < len(content):
            size |= (content[pos] & 0x7F) << shift
            shift += 7
            pos += 1
            if content[pos - 1] < 0x80:
                break
        codes.append(bytearray(content[pos : pos + size]))
        pos += size
    if not codes or content[0] != len(codes):
        return data
    for _ in range(rng.choice((1, 1, 2))):
        _bytes(rng, rng.choice(codes), others)
    out = bytearray([len(codes)])
    for code in codes:
        write_u(out, len(code))
        out += code
    sections[at] = (10, bytes(out))
    return _framed(sections)


def mutate(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """A mutation of one of *seeds*, now and then bytes out of nothing."""
    if rng.random() < 0.02:
        return b"\0asm\1\0\0\0"[: rng.randrange(9)] + rng.randbytes(rng.randrange(300))
    data = rng.choice(seeds)
    ways: list[Callable[[Random, bytes, Sequence[bytes]], bytes]] = [
        _blindly,
        _within_section,
        _within_function,
        _within_function,
    ]
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        data = rng.choice(ways)(rng, data, seeds)
        if len(data) > 200_000:
            break
    return data


def _blindly(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    _bytes(rng, changed, others)
    return bytes(changed)


def mutate_text(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """A mutation of one of *seeds*, which are modules in the text format."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            data[at:at] = (rng.choice(("", " ")) + rng.choice(_WORDS) + rng.choice(("", " "))).encode()
        elif kind == 1:
            words = bytes(data).split(b" ")
            del words[rng.randrange(len(words))]
            data = bytearray(b" ".join(words))
        elif kind == 2:
            words = bytes(data).split(b" ")
            words[rng.randrange(len(words))] = rng.choice(words)
            data = bytearray(b" ".join(words))
        elif kind == 3:
            data[at:at] = rng.choice((b"(", b")", b"(block ", b"(;")) * rng.choice((1, 2, 1000, 20_000))
        else:
            _bytes(rng, data, seeds)
    return bytes(data[:200_000])
