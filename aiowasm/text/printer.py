"""Modules as text: `print_module`, whose output parses back to an equal module.

Indices are numbers, code is flat, floats are exact. Names of the name section are not woven into the text: custom
sections are written as annotations, byte for byte. Parsing is in `aiowasm.text.parser`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

from aiowasm.errors import InvalidError, MalformedError
from aiowasm.limits import MAX_LOCALS
from aiowasm.syntax.code import decode_locals, instructions
from aiowasm.syntax.instructions import Instruction
from aiowasm.syntax.module import Code, Custom, Data, Elem, Expr, Module, Table
from aiowasm.syntax.types import (
    AbsHeapType,
    AddressType,
    ArrayType,
    ExternType,
    FieldType,
    FuncExternType,
    FuncType,
    GlobalType,
    HeapType,
    MemType,
    NumType,
    PackedType,
    RefType,
    StorageType,
    StructType,
    SubType,
    TableType,
    TagType,
)

__all__ = (
    "print_externtype",
    "print_f32",
    "print_f64",
    "print_instruction",
    "print_module",
    "print_string",
    "print_type",
)

_ESCAPED = tuple(chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:02x}" for byte in range(256))

_SHORT = {
    RefType(True, AbsHeapType.FUNC): "funcref",
    RefType(True, AbsHeapType.EXTERN): "externref",
    RefType(True, AbsHeapType.ANY): "anyref",
    RefType(True, AbsHeapType.EQ): "eqref",
    RefType(True, AbsHeapType.I31): "i31ref",
    RefType(True, AbsHeapType.STRUCT): "structref",
    RefType(True, AbsHeapType.ARRAY): "arrayref",
    RefType(True, AbsHeapType.EXN): "exnref",
    RefType(True, AbsHeapType.NONE): "nullref",
    RefType(True, AbsHeapType.NOFUNC): "nullfuncref",
    RefType(True, AbsHeapType.NOEXTERN): "nullexternref",
    RefType(True, AbsHeapType.NOEXN): "nullexnref",
}

_SECTIONS = {
    1: "type",
    2: "import",
    3: "func",
    4: "table",
    5: "memory",
    6: "global",
    7: "export",
    8: "start",
    9: "elem",
    10: "code",
    11: "data",
    12: "datacount",
    13: "tag",
}

_MAX_INDENT = 40
"""Deeper code is not indented further: indentation would make the text quadratic in the depth of nesting."""

_MAX_PRINTED_LOCALS = 10_000_000
"""Locals of all functions together: a few bytes of binary declare thousands of them, text has a word for each."""


def print_module(module: Module) -> str:
    """The module in the text format.

    Raises:
        MalformedError: A body that nobody validated yet is not code.
        InvalidError: More locals are declared than any engine accepts; their text could be of any size.
    """
    return "".join(line + "\n" for line in _lines(module))


def _lines(module: Module) -> Iterator[str]:
    yield "(module"
    yield from _types(module)
    counts = {"func": 0, "table": 0, "memory": 0, "global": 0, "tag": 0}
    for entry in module.imports:
        kind, described = _externtype(entry.type)
        yield (
            f"  (import {print_string(entry.module)} {print_string(entry.name)} "
            f"({kind} (;{counts[kind]};) {described}))"
        )
        counts[kind] += 1
    yield from _definitions(module, counts)
    for export in module.exports:
        yield f"  (export {print_string(export.name)} ({export.kind} {export.index}))"
    if module.start is not None:
        yield f"  (start {module.start})"
    for index, elem in enumerate(module.elems):
        yield f"  (elem (;{index};){_elem(elem)})"
    yield from _functions(module, counts["func"])
    for index, data in enumerate(module.datas):
        yield f"  (data (;{index};){_data(data)})"
    for custom in module.customs:
        yield f"  {_custom(custom)}"
    yield ")"


def _definitions(module: Module, counts: dict[str, int]) -> Iterator[str]:
    """Tables, memories, tags and globals."""
    for index, table in enumerate(module.tables, counts["table"]):
        yield f"  (table (;{index};) {_table(table)})"
    for index, mem in enumerate(module.mems, counts["memory"]):
        yield f"  (memory (;{index};) {_memtype(mem)})"
    for index, tag in enumerate(module.tags, counts["tag"]):
        yield f"  (tag (;{index};) (type {tag.typeidx}))"
    for index, entry in enumerate(module.globals, counts["global"]):
        yield f"  (global (;{index};) {_globaltype(entry.type)} {_expr(entry.init)})"


# Types


def _types(module: Module) -> Iterator[str]:
    index = 0
    for group in module.types:
        if len(group.subtypes) == 1:
            yield f"  (type (;{index};) {_subtype(group.subtypes[0])})"
        else:
            yield "  (rec"
            for position, subtype in enumerate(group.subtypes, index):
                yield f"    (type (;{position};) {_subtype(subtype)})"
            yield "  )"
        index += len(group.subtypes)


def print_type(type_: StorageType) -> str:
    """A value or storage type, in its short form where it has one."""
    if isinstance(type_, (NumType, PackedType)):
        return str(type_)
    short = _SHORT.get(type_)
    return short or f"(ref {'null ' if type_.nullable else ''}{_heaptype(type_.heaptype)})"


def _heaptype(heaptype: HeapType) -> str:
    return str(heaptype)


def _list(keyword: str, types: Iterable[StorageType]) -> str:
    words = " ".join(map(print_type, types))
    return f" ({keyword} {words})" if words else ""


def _subtype(subtype: SubType) -> str:
    comptype = subtype.comptype
    if isinstance(comptype, FuncType):
        text = f"(func{_list('param', comptype.params)}{_list('result', comptype.results)})"
    elif isinstance(comptype, StructType):
        text = f"(struct{''.join(f' (field {_fieldtype(field)})' for field in comptype.fields)})"
    else:
        text = _array(comptype)
    if subtype.final and not subtype.supertypes:
        return text
    final = " final" if subtype.final else ""
    return f"(sub{final}{''.join(f' {_heaptype(super_)}' for super_ in subtype.supertypes)} {text})"


def _array(arraytype: ArrayType) -> str:
    return f"(array {_fieldtype(arraytype.field)})"


def _fieldtype(field: FieldType) -> str:
    return f"(mut {print_type(field.storage)})" if field.mutable else print_type(field.storage)


def _globaltype(type_: GlobalType) -> str:
    return f"(mut {print_type(type_.valtype)})" if type_.mutable else print_type(type_.valtype)


def _memtype(type_: MemType) -> str:
    address = "i64 " if type_.addrtype is AddressType.I64 else ""
    shared = " shared" if type_.shared else ""
    pagesize = "" if type_.page_size_log2 == 16 else f" (pagesize {1 << type_.page_size_log2})"
    return f"{address}{type_.limits}{shared}{pagesize}"


def _tabletype(type_: TableType) -> str:
    address = "i64 " if type_.addrtype is AddressType.I64 else ""
    return f"{address}{type_.limits} {print_type(type_.reftype)}"


def print_externtype(type_: ExternType, subtypes: Sequence[SubType]) -> str:
    """What an import or export is, as in `(func (param i32))`; *subtypes* are the module's types, by index."""
    kind, described = _externtype(type_)
    if isinstance(type_, FuncExternType | TagType) and type_.typeidx < len(subtypes):
        comptype = subtypes[type_.typeidx].comptype
        if isinstance(comptype, FuncType):
            described = f"{_list('param', comptype.params)}{_list('result', comptype.results)}".lstrip()
    return f"({kind} {described})" if described else f"({kind})"


def _externtype(type_: ExternType) -> tuple[str, str]:
    if isinstance(type_, FuncExternType):
        return "func", f"(type {type_.typeidx})"
    if isinstance(type_, TableType):
        return "table", _tabletype(type_)
    if isinstance(type_, MemType):
        return "memory", _memtype(type_)
    if isinstance(type_, GlobalType):
        return "global", _globaltype(type_)
    return "tag", f"(type {type_.typeidx})"


# Fields of a module


def _table(table: Table) -> str:
    return _tabletype(table.type) + ("" if table.init is None else f" {_expr(table.init)}")


def _elem(elem: Elem) -> str:
    if elem.mode == "declarative":
        mode = " declare"
    elif isinstance(elem.mode, str):
        mode = ""
    else:
        mode = f" (table {elem.mode[0]}) (offset {_expr(elem.mode[1])})"
    if isinstance(elem.init, array):
        return f"{mode} func{''.join(f' {index}' for index in elem.init)}"
    return f"{mode} {print_type(elem.type)}{''.join(f' (item {_expr(expr)})' for expr in elem.init)}"


def _data(data: Data) -> str:
    mode = "" if data.mode is None else f" (memory {data.mode[0]}) (offset {_expr(data.mode[1])})"
    return f"{mode} {print_string(data.init)}"


def _custom(custom: Custom) -> str:
    place = "before first" if custom.place == 0 else f"after {_SECTIONS[custom.place]}"
    return f"(@custom {print_string(custom.name)} ({place}) {print_string(custom.data)})"


def print_string(value: str | bytes) -> str:
    """A string or name between quotes; everything that is not printable ASCII is escaped."""
    data = value.encode() if isinstance(value, str) else value
    return f'"{"".join(map(_ESCAPED.__getitem__, data))}"'


# Code


def _functions(module: Module, first: int) -> Iterator[str]:
    budget = _MAX_PRINTED_LOCALS
    for index, (typeidx, code) in enumerate(zip(module.funcs.typeidxs, module.funcs, strict=True), first):
        yield f"  (func (;{index};) (type {typeidx})"
        runs, body = decode_locals(code)
        nlocals = sum(count for count, _ in runs)
        budget -= nlocals
        if nlocals > MAX_LOCALS or budget < 0:
            raise InvalidError("too many locals", offset=code.start, funcidx=index)
        for count, valtype in runs:
            if count:
                yield f"    (local{f' {print_type(valtype)}' * count})"
        yield from _body(code, body)
        yield "  )"


def _body(code: Code, start: int) -> Iterator[str]:
    # Code may be printed before anyone validated it: a text that leaves its function would parse as something else.
    depth = 0
    for row, immediates in instructions(code.buffer, start, code.end):
        if depth < 0:
            raise MalformedError("END opcode expected: code behind the end of the function", offset=code.start)
        name = row.name
        if name in _CLOSING:
            depth -= 1
            if depth < 0:
                if name != "end":
                    raise MalformedError(f"END opcode expected: {name} closes no block", offset=code.start)
                continue  # the `end` of the function itself has no text
        outer = 1 if name in _DIVIDING else 0
        yield "  " * min(depth - outer + 2, _MAX_INDENT) + print_instruction(row, immediates)
        if name in _OPENING:
            depth += 1
    if depth >= 0:
        raise MalformedError("END opcode expected", offset=code.start)


_OPENING = frozenset({"block", "loop", "if", "try", "try_table"})
_CLOSING = frozenset({"end", "delegate"})
_DIVIDING = frozenset({"else", "catch", "catch_all"})


def _expr(expr: Expr) -> str:
    words = [print_instruction(row, immediates) for row, immediates in instructions(expr.code, 0)]
    return " ".join(words[:-1])


# The text format has these the other way round than the binary format.
_SWAPPED = frozenset({"call_indirect", "return_call_indirect", "memory.init", "table.init"})
_CATCHES = ("catch", "catch_ref", "catch_all", "catch_all_ref")


def print_instruction(row: Instruction, immediates: tuple[object, ...]) -> str:
    """One instruction in flat form, its immediates as `aiowasm.syntax.code.instructions` yields them."""
    name = row.name
    if not immediates:
        return row.mnemonic
    if name in {"br_on_cast", "br_on_cast_fail"}:
        flags, label, first, second = immediates
        if not isinstance(flags, int):
            raise TypeError("the flags of a cast are a number")
        return f"{name} {label} {_cast(bool(flags & 1), first)} {_cast(bool(flags & 2), second)}"
    if name.startswith(("ref.test", "ref.cast")):
        return f"{row.mnemonic} {_cast(name.endswith('_null'), immediates[0])}"
    words = [_immediate(word, value) for word, value in zip(row.immediates, immediates, strict=True)]
    if row.immediates[-1] == "table" and name in {"call_indirect", "return_call_indirect"}:
        words[0] = f"(type {words[0]})"
    if name in _SWAPPED:
        words.reverse()
    return " ".join([row.mnemonic, *(word for word in words if word)])


def _cast(nullable: bool, heaptype: object) -> str:
    return f"(ref {'null ' if nullable else ''}{heaptype})"


def _immediate(word: str, value: object) -> str:
    kind, _, natural = word.partition(":")
    printer = _PRINTERS.get(kind)
    if printer is not None:
        return printer(value)
    if kind == "memarg":
        return _memarg(int(natural), value)
    return str(value)


def _memarg(natural: int, value: object) -> str:
    if not isinstance(value, tuple):
        raise TypeError("a memory argument is a tuple")
    align, memidx, offset = value
    words = [str(memidx)] if memidx else []
    if offset:
        words.append(f"offset={offset}")
    if align != natural:
        words.append(f"align={1 << align}")
    return " ".join(words)


def _signed(nbits: int) -> Callable[..., str]:
    def printer(value: int) -> str:
        return str(value - (1 << nbits) if value >> (nbits - 1) else value)

    return printer


def _float(nbits: int, exponent_nbits: int) -> Callable[..., str]:
    mantissa_nbits = nbits - 1 - exponent_nbits
    bias = (1 << (exponent_nbits - 1)) - 1
    ndigits = (mantissa_nbits + 3) // 4
    # Hexadecimal digits are whole: a significand of 23 bits needs one more bit.
    shift = ndigits * 4 - mantissa_nbits

    def printer(value: int) -> str:
        sign = "-" if value >> (nbits - 1) else ""
        exponent = value >> mantissa_nbits & ((1 << exponent_nbits) - 1)
        mantissa = value & ((1 << mantissa_nbits) - 1)
        if exponent == (1 << exponent_nbits) - 1:
            if not mantissa:
                return f"{sign}inf"
            canonical = mantissa == 1 << (mantissa_nbits - 1)
            return f"{sign}nan" if canonical else f"{sign}nan:{mantissa:#x}"
        if not exponent and not mantissa:
            return f"{sign}0x0p+0"
        digits = f"{mantissa << shift:0{ndigits}x}".rstrip("0")
        point = f".{digits}" if digits else ""
        if not exponent:
            return f"{sign}0x0{point}p{1 - bias:+d}"
        return f"{sign}0x1{point}p{exponent - bias:+d}"

    return printer


print_f32 = _float(32, 8)
"""The bits of an f32 as an exact literal."""
print_f64 = _float(64, 11)
"""The bits of an f64 as an exact literal."""


def _v128(value: bytes) -> str:
    lanes = (int.from_bytes(value[place : place + 4], "little") for place in range(0, 16, 4))
    return "i32x4 " + " ".join(f"{lane:#010x}" for lane in lanes)


def _block(value: NumType | RefType | int | None) -> str:
    if value is None:
        return ""
    return f"(type {value})" if isinstance(value, int) else f"(result {print_type(value)})"


def _catches(value: tuple[tuple[int, int | None, int], ...]) -> str:
    return " ".join(
        f"({_CATCHES[kind]} {label})" if tag is None else f"({_CATCHES[kind]} {tag} {label})"
        for kind, tag, label in value
    )


def _valtypes(value: tuple[StorageType, ...]) -> str:
    return f"(result {' '.join(map(print_type, value))})" if value else "(result)"


def _numbers(value: Iterable[int]) -> str:
    return " ".join(map(str, value))


def _nothing(value: object) -> str:
    return ""


_PRINTERS: dict[str, Callable[..., str]] = {
    "i32": _signed(32),
    "i64": _signed(64),
    "f32": print_f32,
    "f64": print_f64,
    "v128": _v128,
    "lanes": _numbers,
    "labels": _numbers,
    "block": _block,
    "catches": _catches,
    "valtypes": _valtypes,
    "heaptype": _heaptype,
    "zero": _nothing,
}
