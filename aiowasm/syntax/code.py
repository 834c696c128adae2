"""Code as bytes: instructions, their immediates, locals and the types within them, read and written.

Everything follows the instruction table: one reader and one writer per word of its `immediates` column. Reading
checks form only (the standard's *malformed*); features, indices and types are checked by validation. Modules and their
sections are not here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

from aiowasm.errors import InvalidError, MalformedError
from aiowasm.limits import MAX_BR_TABLE_LABELS, MAX_CATCHES
from aiowasm.syntax.instructions import BY_CODE, INSTRUCTIONS, PREFIXES, Instruction
from aiowasm.syntax.leb128 import Buffer, read_s, read_u, write_s, write_u
from aiowasm.syntax.module import Code, Expr
from aiowasm.syntax.steps import finish
from aiowasm.syntax.types import AbsHeapType, HeapType, NumType, RefType, ValType

__all__ = (
    "constant_number",
    "decode_locals",
    "encode_instruction",
    "encode_locals",
    "instructions",
    "instructions_at",
    "read_heaptype",
    "read_instruction",
    "read_labels_steps",
    "read_reftype",
    "read_valtype",
    "write_heaptype",
    "write_reftype",
    "write_valtype",
)

Reader = Callable[[Buffer, int], tuple[Any, int]]
Writer = Callable[[bytearray, Any], None]

_HEAPTYPES: dict[int, AbsHeapType] = {t.value: t for t in AbsHeapType if t is not AbsHeapType.BOT}
_REFTYPES: dict[int, RefType] = {code: RefType(True, t) for code, t in _HEAPTYPES.items()}
_NUMTYPES: dict[int, NumType] = {t.value: t for t in NumType}
_VALTYPES: dict[int, ValType] = {**_REFTYPES, **_NUMTYPES}


_CONSTANTS: dict[ValType, tuple[int, int]] = {NumType.I32: (0x41, 32), NumType.I64: (0x42, 64)}
_END = 0x0B


def constant_number(expr: Expr, expected: ValType) -> int | None:
    """The number (unsigned) that *expr* is, if it is just an `i32.const` or `i64.const` of the type *expected*."""
    opcode, bits = _CONSTANTS.get(expected, (-1, 0))
    code = expr.code
    if code[0] != opcode:
        return None
    number, pos = read_s(code, 1, bits)
    if pos != len(code) - 1 or code[pos] != _END:
        return None
    return number & ((1 << bits) - 1)


def _byte(buffer: Buffer, pos: int) -> int:
    try:
        return buffer[pos]
    except IndexError:
        raise MalformedError("unexpected end", offset=len(buffer)) from None


def read_heaptype(buffer: Buffer, pos: int) -> tuple[AbsHeapType | int, int]:
    """Read a heap type: an abstract one or a type index."""
    abstract = _HEAPTYPES.get(_byte(buffer, pos))
    if abstract is not None:
        return abstract, pos + 1
    index, after = read_s(buffer, pos, 33)
    if index < 0:
        raise MalformedError("malformed heap type", offset=pos)
    return index, after


def read_reftype(buffer: Buffer, pos: int) -> tuple[RefType, int]:
    """Read a reference type."""
    byte = _byte(buffer, pos)
    short = _REFTYPES.get(byte)
    if short is not None:
        return short, pos + 1
    if byte not in (0x63, 0x64):
        raise MalformedError("malformed reference type", offset=pos)
    heaptype, after = read_heaptype(buffer, pos + 1)
    return RefType(byte == 0x63, heaptype), after


def read_valtype(buffer: Buffer, pos: int) -> tuple[ValType, int]:
    """Read a value type."""
    byte = _byte(buffer, pos)
    short = _VALTYPES.get(byte)
    if short is not None:
        return short, pos + 1
    if byte not in (0x63, 0x64):
        raise MalformedError("malformed value type", offset=pos)
    return read_reftype(buffer, pos)


def write_heaptype(out: bytearray, heaptype: HeapType) -> None:
    """Append a heap type; closed types and the bottom type have no encoding."""
    if isinstance(heaptype, int):
        write_s(out, heaptype)
    elif isinstance(heaptype, AbsHeapType) and heaptype is not AbsHeapType.BOT:
        out.append(heaptype.value)
    else:
        raise ValueError(f"heap type {heaptype} has no encoding")


def write_reftype(out: bytearray, reftype: RefType) -> None:
    """Append a reference type in its shortest form."""
    if not (reftype.nullable and isinstance(reftype.heaptype, AbsHeapType)):
        out.append(0x63 if reftype.nullable else 0x64)
    write_heaptype(out, reftype.heaptype)


def write_valtype(out: bytearray, valtype: ValType) -> None:
    """Append a value type."""
    if isinstance(valtype, NumType):
        out.append(valtype.value)
    else:
        write_reftype(out, valtype)


def _u32(buffer: Buffer, pos: int) -> tuple[int, int]:
    return read_u(buffer, pos, 32)


def _i32(buffer: Buffer, pos: int) -> tuple[int, int]:
    value, pos = read_s(buffer, pos, 32)
    return value & 0xFFFF_FFFF, pos


def _i64(buffer: Buffer, pos: int) -> tuple[int, int]:
    value, pos = read_s(buffer, pos, 64)
    return value & 0xFFFF_FFFF_FFFF_FFFF, pos


def _take(buffer: Buffer, pos: int, size: int) -> bytes:
    taken = bytes(buffer[pos : pos + size])
    if len(taken) != size:
        raise MalformedError("unexpected end", offset=len(buffer))
    return taken


def _f32(buffer: Buffer, pos: int) -> tuple[int, int]:
    return int.from_bytes(_take(buffer, pos, 4), "little"), pos + 4


def _f64(buffer: Buffer, pos: int) -> tuple[int, int]:
    return int.from_bytes(_take(buffer, pos, 8), "little"), pos + 8


def _bytes16(buffer: Buffer, pos: int) -> tuple[bytes, int]:
    return _take(buffer, pos, 16), pos + 16


def _lane(buffer: Buffer, pos: int) -> tuple[int, int]:
    return _byte(buffer, pos), pos + 1


def _zero(buffer: Buffer, pos: int) -> tuple[int, int]:
    if _byte(buffer, pos) != 0:
        raise MalformedError("zero byte expected", offset=pos)
    return 0, pos + 1


def _castop(buffer: Buffer, pos: int) -> tuple[int, int]:
    flags = _byte(buffer, pos)
    if flags > 3:
        raise MalformedError("malformed cast flags", offset=pos)
    return flags, pos + 1


def _block(buffer: Buffer, pos: int) -> tuple[ValType | int | None, int]:
    byte = _byte(buffer, pos)
    if byte == 0x40:
        return None, pos + 1
    if 0x40 < byte < 0x80:  # the one-byte negative numbers
        return read_valtype(buffer, pos)
    index, after = read_s(buffer, pos, 33)
    if index < 0:
        raise MalformedError("malformed block type", offset=pos)
    return index, after


def _count(buffer: Buffer, pos: int) -> tuple[int, int]:
    """Read how many elements follow, each of at least one byte: more than there are bytes is refused at once."""
    count, after = read_u(buffer, pos, 32)
    if count > len(buffer) - after:
        raise MalformedError("unexpected end", offset=pos)
    if count > MAX_BR_TABLE_LABELS:
        raise InvalidError(f"too many items: MAX_BR_TABLE_LABELS is {MAX_BR_TABLE_LABELS:,}", offset=pos)
    return count, after


def _labels(buffer: Buffer, pos: int) -> tuple[tuple[int, ...], int]:
    return finish(read_labels_steps(buffer, pos))


def read_labels_steps(buffer: Buffer, pos: int) -> Generator[None, None, tuple[tuple[int, ...], int]]:
    """Read the labels of a br_table, yielding after some thousands of them."""
    count, pos = _count(buffer, pos)
    count += 1
    labels: list[int] = []
    while len(labels) < count:
        # Nearly all labels are single bytes, which are taken many at a time.
        some = bytes(buffer[pos : pos + min(count - len(labels), 4096)])
        if some and max(some) < 0x80:
            labels += some
            pos += len(some)
        else:
            for _ in range(min(count - len(labels), 4096)):
                label, pos = read_u(buffer, pos, 32)
                labels.append(label)
        if len(labels) < count:
            yield
    return tuple(labels), pos


def _valtypes(buffer: Buffer, pos: int) -> tuple[tuple[ValType, ...], int]:
    at = pos
    count, pos = _count(buffer, pos)
    if count > 1000:  # one is valid
        raise InvalidError("invalid result arity", offset=at)
    valtypes = []
    for _ in range(count):
        valtype, pos = read_valtype(buffer, pos)
        valtypes.append(valtype)
    return tuple(valtypes), pos


def _catches(buffer: Buffer, pos: int) -> tuple[tuple[tuple[int, int | None, int], ...], int]:
    at = pos
    count, pos = _count(buffer, pos)
    if count > MAX_CATCHES:
        raise InvalidError(f"too many items: MAX_CATCHES is {MAX_CATCHES:,}", offset=at)
    catches = []
    for _ in range(count):
        kind = _byte(buffer, pos)
        if kind > 3:
            raise MalformedError("malformed catch clause", offset=pos)
        pos += 1
        tag: int | None = None
        if kind < 2:
            tag, pos = read_u(buffer, pos, 32)
        label, pos = read_u(buffer, pos, 32)
        catches.append((kind, tag, label))
    return tuple(catches), pos


def _memarg(buffer: Buffer, pos: int) -> tuple[tuple[int, int, int], int]:
    align, after = read_u(buffer, pos, 32)
    memidx = 0
    if align >= 0x40:
        if align >= 0x80:
            raise MalformedError("malformed memop flags", offset=pos)
        align -= 0x40
        memidx, after = read_u(buffer, after, 32)
    offset, after = read_u(buffer, after, 64)
    return (align, memidx, offset), after


def _write_signed(bits: int) -> Writer:
    half = 1 << (bits - 1)

    def write(out: bytearray, value: int) -> None:
        write_s(out, value - 2 * half if value >= half else value)

    return write


def _write_fixed(size: int) -> Writer:
    def write(out: bytearray, value: int) -> None:
        out += value.to_bytes(size, "little")

    return write


def _write_bytes(out: bytearray, value: bytes) -> None:
    if len(value) != 16:
        raise ValueError("16 bytes are needed")
    out += value


def _write_block(out: bytearray, value: ValType | int | None) -> None:
    if value is None:
        out.append(0x40)
    elif isinstance(value, int):
        write_s(out, value)
    else:
        write_valtype(out, value)


def _write_labels(out: bytearray, value: tuple[int, ...]) -> None:
    write_u(out, len(value) - 1)
    for label in value:
        write_u(out, label)


def _write_valtypes(out: bytearray, value: tuple[ValType, ...]) -> None:
    write_u(out, len(value))
    for valtype in value:
        write_valtype(out, valtype)


def _write_catches(out: bytearray, value: tuple[tuple[int, int | None, int], ...]) -> None:
    write_u(out, len(value))
    for kind, tag, label in value:
        out.append(kind)
        if tag is not None:
            write_u(out, tag)
        write_u(out, label)


def _write_memarg(out: bytearray, value: tuple[int, int, int]) -> None:
    align, memidx, offset = value
    if not 0 <= align < 0x40:
        raise ValueError("an alignment above 2**63 has no encoding")
    write_u(out, align | 0x40 if memidx else align)
    if memidx:
        write_u(out, memidx)
    write_u(out, offset)


_INDICES = ["func", "type", "table", "mem", "tag", "global", "local", "elem", "data", "field", "label", "u32"]
_READERS: dict[str, Reader] = {
    **dict.fromkeys(_INDICES, _u32),
    "i32": _i32,
    "i64": _i64,
    "f32": _f32,
    "f64": _f64,
    "v128": _bytes16,
    "lanes": _bytes16,
    "lane": _lane,
    "zero": _zero,
    "castop": _castop,
    "block": _block,
    "labels": _labels,
    "valtypes": _valtypes,
    "catches": _catches,
    "heaptype": read_heaptype,
    "memarg": _memarg,
}
_WRITERS: dict[str, Writer] = {
    **dict.fromkeys(_INDICES, write_u),
    "i32": _write_signed(32),
    "i64": _write_signed(64),
    "f32": _write_fixed(4),
    "f64": _write_fixed(8),
    "v128": _write_bytes,
    "lanes": _write_bytes,
    "lane": bytearray.append,
    "zero": bytearray.append,
    "castop": bytearray.append,
    "block": _write_block,
    "labels": _write_labels,
    "valtypes": _write_valtypes,
    "catches": _write_catches,
    "heaptype": write_heaptype,
    "memarg": _write_memarg,
}
# A dense number -> the readers of its immediates.
_ROW_READERS: list[tuple[Reader, ...]] = [()] * len(BY_CODE)
_ROW_WRITERS: list[tuple[Writer, ...]] = [()] * len(BY_CODE)
_made: dict[tuple[str, ...], tuple[tuple[Reader, ...], tuple[Writer, ...]]] = {}
for _row in INSTRUCTIONS:
    if _row.immediates not in _made:
        _words = [word.partition(":")[0] for word in _row.immediates]
        _made[_row.immediates] = tuple(_READERS[word] for word in _words), tuple(_WRITERS[word] for word in _words)
    _ROW_READERS[_row.code], _ROW_WRITERS[_row.code] = _made[_row.immediates]


# Prefix byte -> one past the largest number that its part of `BY_CODE` holds.
_PREFIX_SIZES = {0xFB: 0x100, 0xFC: 0x100, 0xFD: 0x200, 0xFE: 0x100}


def _opcode(buffer: Buffer, pos: int) -> tuple[Instruction, int]:
    byte = _byte(buffer, pos)
    base = PREFIXES.get(byte)
    if base is None:
        row = BY_CODE[byte]
        if row is None:
            raise MalformedError(f"illegal opcode {byte:02x}", offset=pos)
        return row, pos + 1
    number, after = read_u(buffer, pos + 1, 32)
    row = BY_CODE[base + number] if number < _PREFIX_SIZES[byte] else None
    if row is None:
        raise MalformedError(f"illegal opcode {byte:02x} {number:02x}", offset=pos)
    return row, after


def read_instruction(buffer: Buffer, pos: int) -> tuple[Instruction, tuple[Any, ...], int]:
    """Read the instruction at `pos`: its row, its immediates and the offset after it."""
    row, pos = _opcode(buffer, pos)
    readers = _ROW_READERS[row.code]
    if not readers:
        return row, (), pos
    if len(readers) == 1:
        value, pos = readers[0](buffer, pos)
        return row, (value,), pos
    values = []
    for reader in readers:
        value, pos = reader(buffer, pos)
        values.append(value)
    return row, tuple(values), pos


def instructions_at(
    buffer: Buffer, start: int, end: int | None = None
) -> Iterator[tuple[int, Instruction, tuple[Any, ...]]]:
    """Iterate over the instructions in `buffer[start:end]`: offset, row and immediates of each.

    Nesting is not looked at: the last `end` is one like any other.
    """
    stop = len(buffer) if end is None else end
    pos = start
    while pos < stop:
        at = pos
        row, values, pos = read_instruction(buffer, pos)
        if pos > stop:
            raise MalformedError("unexpected end of section or function", offset=at)
        yield at, row, values


def instructions(buffer: Buffer, start: int, end: int | None = None) -> Iterator[tuple[Instruction, tuple[Any, ...]]]:
    """Iterate over the instructions in `buffer[start:end]`: row and immediates of each."""
    for _at, row, values in instructions_at(buffer, start, end):
        yield row, values


def encode_instruction(out: bytearray, row: Instruction, immediates: tuple[Any, ...]) -> None:
    """Append one instruction in its shortest form."""
    if isinstance(row.opcode, int):
        out.append(row.opcode)
    else:
        out.append(row.opcode[0])
        write_u(out, row.opcode[1])
    for writer, value in zip(_ROW_WRITERS[row.code], immediates, strict=True):
        writer(out, value)


def decode_locals(code: Code) -> tuple[list[tuple[int, ValType]], int]:
    """Read the locals of a function as runs of equal types, and the offset of its body."""
    buffer, pos, end = code.buffer, code.start, code.end
    count, pos = read_u(buffer, pos, 32)
    # A run takes two bytes at least.
    if pos > end or count * 2 > end - pos:
        raise MalformedError("unexpected end of section or function", offset=code.start)
    runs: list[tuple[int, ValType]] = []
    total = 0
    for _ in range(count):
        at = pos
        number, pos = read_u(buffer, pos, 32)
        valtype, pos = read_valtype(buffer, pos)
        if pos > end:
            raise MalformedError("unexpected end of section or function", offset=at)
        total += number
        if total > 0xFFFF_FFFF:
            raise MalformedError("too many locals", offset=at)
        runs.append((number, valtype))
    return runs, pos


def encode_locals(out: bytearray, runs: list[tuple[int, ValType]]) -> None:
    """Append the vector of locals."""
    write_u(out, len(runs))
    for number, valtype in runs:
        write_u(out, number)
        write_valtype(out, valtype)
