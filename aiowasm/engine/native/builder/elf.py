"""Cuts functions and their relocations out of an ELF object; knows nothing of what they are for."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

__all__ = ("ABSOLUTE_32", "ABSOLUTE_64", "SIGNED_32", "Function", "Relocation", "read_object")

ABSOLUTE_64: Final = 1
RELATIVE: Final = (2, 4)
ABSOLUTE_32: Final = 10
SIGNED_32: Final = 11
_FUNC: Final = 2
_SECTION: Final = 3


class Relocation(NamedTuple):
    """A place in a function that depends on `symbol`."""

    offset: int
    type: int
    symbol: str
    addend: int


class Function(NamedTuple):
    """Machine code with its relocations in order."""

    code: bytes
    relocations: list[Relocation]


class _Section(NamedTuple):
    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entsize: int


def _in_section(
    data: bytes, section: _Section, index: int, addend: int, ends: tuple[int, ...], constants: dict[str, bytes]
) -> tuple[str, int]:
    """Name a constant that is given by its place in a section; returns the name and the addend that is left."""
    size = section.entsize
    for left in ends if size else ends[:1]:
        place = addend - left
        # Without a size these are bytes and halfwords that one instruction spreads over a vector.
        if size and place % size:
            continue
        name = f".LCPI.{index}.{place}"
        constants[name] = data[section.offset + place : section.offset + min(place + (size or 2), section.size)]
        return name, left
    raise RuntimeError("a constant in an odd place")


def read_object(
    data: bytes, ends: tuple[int, ...]
) -> tuple[dict[str, Function], dict[str, tuple[str, int]], dict[str, bytes]]:
    """Return functions, labels (name -> function and offset in it), and constants by symbol.

    Args:
        data: The object file.
        ends: What the addend of a constant's address may be, beside its place.
    """
    (start,) = struct.unpack_from("<Q", data, 0x28)
    (count,) = struct.unpack_from("<H", data, 0x3C)
    sections = [_Section(*struct.unpack_from("<IIQQQQIIQQ", data, start + 64 * i)) for i in range(count)]
    table = next(section for section in sections if section.type == 2)
    names = sections[table.link].offset

    def name(offset: int) -> str:
        return data[names + offset : data.index(b"\0", names + offset)].decode()

    symbols = [struct.unpack_from("<IBBHQQ", data, table.offset + 24 * i) for i in range(table.size // 24)]
    relocations: dict[int, list[tuple[int, int, int]]] = {}
    for section in sections:
        if section.type == 4:
            entries = [struct.unpack_from("<QQq", data, section.offset + 24 * i) for i in range(section.size // 24)]
            relocations.setdefault(section.info, []).extend(entries)
    functions: dict[str, Function] = {}
    spans: list[tuple[int, int, int, str]] = []
    constants: dict[str, bytes] = {}
    for label, info, _other, index, value, size in symbols:
        if index == 0 or index >= count:
            continue
        section = sections[index]
        at = section.offset + value
        if info & 15 == _FUNC and size:
            found = []
            for offset, kind, addend in relocations.get(index, ()):
                if value <= offset < value + size:
                    target = symbols[kind >> 32]
                    referred, left = name(target[0]), addend
                    if target[1] & 15 == _SECTION:
                        referred, left = _in_section(data, sections[target[3]], target[3], addend, ends, constants)
                    found.append(Relocation(offset - value, kind & 0xFFFFFFFF, referred, left))
            functions[name(label)] = Function(data[at : at + size], sorted(found))
            spans.append((index, value, value + size, name(label)))
        elif name(label).startswith(".LCPI"):
            constants[name(label)] = data[at : at + section.entsize] if section.entsize else b""
    labels = {
        name(label): (owner, value - first)
        for label, info, _other, index, value, _size in symbols
        if info & 15 == 0 and label
        for place, first, last, owner in spans
        if place == index and first <= value < last
    }
    return functions, labels, constants
