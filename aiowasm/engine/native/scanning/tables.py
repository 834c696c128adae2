"""What the walk must know of instructions and of a module, as arrays of integers."""

from __future__ import annotations

from array import array
from collections.abc import Generator
from functools import cache
from typing import Final

from aiowasm.engine.native.scanning import names as n
from aiowasm.errors import InvalidError, MalformedError
from aiowasm.features import Feature, Features
from aiowasm.syntax.code import read_valtype
from aiowasm.syntax.instructions import BY_NAME, INSTRUCTIONS, Instruction
from aiowasm.syntax.matching import matches_heaptype
from aiowasm.syntax.types import F32, F64, I32, I64, V128, AbsHeapType, AddressType, FuncType, ValType
from aiowasm.validation.code import COST
from aiowasm.validation.context import Context

__all__ = ("ModuleTables", "Opcodes", "opcodes")

NUMBERS: Final = (I32, I64, F32, F64, V128)
"""The types that every module has: from 1 on in its list."""
_WORDS: Final = {"i32": 1, "i64": 2, "f32": 3, "f64": 4, "v128": 5}
_NO_FUNCTYPE: Final = 0xFFFF_FFFF
_EVERY: Final = 4000

_KINDS: Final = {
    "local.get": n.LOCAL_GET,
    "local.set": n.LOCAL_SET,
    "local.tee": n.LOCAL_TEE,
    "i32.const": n.I32_CONST,
    "i64.const": n.I64_CONST,
    "f32.const": n.FLOAT_CONST,
    "f64.const": n.FLOAT_CONST,
    "global.get": n.GLOBAL_GET,
    "global.set": n.GLOBAL_SET,
    "drop": n.DROP,
    "select": n.SELECT,
    "select_t": n.SELECT,
    "v128.const": n.LANES,
    "i8x16.shuffle": n.LANES,
    "memory.size": n.BYTES,
    "memory.grow": n.BULK,
    "memory.copy": n.BULK,
    "memory.fill": n.BULK,
} | dict.fromkeys(
    (
        *("unreachable", "nop", "block", "loop", "if", "else", "end", "br", "br_if", "br_table", "return"),
        *("call", "call_indirect", "return_call", "return_call_indirect"),
        *("try", "catch", "catch_all", "delegate", "try_table", "throw", "throw_ref", "rethrow"),
    ),
    n.CONTROL,
)
# With the numbers of bytes that follow, and the power of two from which on a length is large.
_DETAILS: Final = {
    "f32.const": 4,
    "f64.const": 8,
    "select": len(NUMBERS),
    "v128.const": 8,
    "i8x16.shuffle": 5,
    "memory.size": 1,
    "memory.grow": 1,
    "memory.copy": 2 | 13 << 2,
    "memory.fill": 1 | 13 << 2,
}
_STACKTYPES: Final = {"memory.copy": (("at", "at", "at"), ())}
_MEMORY_WORDS: Final = ("mem", "memarg")


class Opcodes:
    """How the walk treats opcodes: what each is, what it pops and pushes, what else is to be known, its fuel."""

    def __init__(self, features: Features, address: int) -> None:
        self.kinds = array("B", bytes(len(COST)))
        self.params = array("q", bytes(8 * len(COST)))
        self.results = array("q", bytes(8 * len(COST)))
        self.details = array("B", bytes(len(COST)))
        self.costs = array("B", COST)
        for row in INSTRUCTIONS:
            if row.feature is None or row.feature in features:
                self._enter(row, address)

    def _enter(self, row: Instruction, address: int) -> None:
        needs_memory = any(word.startswith(_MEMORY_WORDS) for word in row.immediates)
        if needs_memory and not address:
            return
        code = row.code
        before, after = _STACKTYPES.get(row.name, row.type or ((), ()))
        if not {*before, *after} <= {*_WORDS, "at"}:
            return
        kind, detail = _kind(row)
        words = _WORDS | {"at": address}
        self.kinds[code], self.details[code] = kind, detail
        self.params[code] = _packed([words[word] for word in reversed(before)])
        self.results[code] = _packed([words[word] for word in after])


def _kind(row: Instruction) -> tuple[int, int]:
    if row.name in _KINDS:
        return _KINDS[row.name], _DETAILS.get(row.name, 0)
    if row.type is None or len(row.immediates) > 1:
        return n.DECLINED, 0
    if not row.immediates:
        return n.FIXED, 0
    (word,) = row.immediates
    if word.startswith("memarg:"):
        return n.ATOMIC if row.code >= BY_NAME["memory.atomic.notify"].code else n.ACCESS, int(word[7:])
    if word == "lane" and row.operation is not None:
        nlanes = int(row.operation.shape.split("x")[1])
        return n.BYTES, 1 | (nlanes.bit_length() - 1) << 5
    return n.DECLINED, 0


def _packed(types: list[int]) -> int:
    return sum(valtype << 8 * at for at, valtype in enumerate(types))


@cache
def opcodes(features: Features, address: int) -> Opcodes:
    """How opcodes are treated with *features* where memory 0 has addresses of the type *address* (0: there is none)."""
    return Opcodes(features, address)


class ModuleTables:
    """Index spaces of a module. `types` are what numbers of types stand for; 0 stands for what has no number."""

    def __init__(self, context: Context) -> None:
        self._numbers: dict[ValType, int] = {}
        self.types: list[ValType] = [I32]
        for number in NUMBERS:
            self._number(number)
        self.sigs = array("I")
        self.sigtypes = array("B", range(n.NTYPES))
        self.funcs = array("I")
        self.globals = array("H")
        self.tables = array("B")
        self.mems = array("B")
        self.tags = array("I")
        self.exn = self.exnref = 0
        self.valtypes = array("B", bytes(256))
        for byte in range(0x40, 0x80):
            try:
                valtype, _ = read_valtype(bytes([byte]), 0)
                self.valtypes[byte] = self._number(context.close_valtype(valtype))
            except (InvalidError, MalformedError):
                continue
        if Feature.EXCEPTIONS in context.features:
            self.exn, self.exnref = (self._number(context.reftype(null, AbsHeapType.EXN)) for null in (False, True))
        address = _address(context.mems[0].addrtype) if context.mems else 0
        several = Feature.MULTI_MEMORY in context.features
        self.mems.extend([several and _address(mem.addrtype) == address for mem in context.mems])
        self.opcodes = opcodes(context.features, address)

    def fill(self, context: Context) -> Generator[None, None, None]:
        """Enter the index spaces, in steps."""
        indices: dict[int, int] = {}
        parts = 0
        for index, deftype in enumerate(context.deftypes):
            indices.setdefault(id(deftype), index)
            parts += self._signature(deftype.comptype)
            if parts > _EVERY:
                parts = 0
                yield
        for first in range(0, len(context.funcs), _EVERY):
            self.funcs.extend([indices[id(deftype)] for deftype in context.funcs[first : first + _EVERY]])
            yield
        for first in range(0, len(context.tags), _EVERY):
            self.tags.extend([indices[id(deftype)] for deftype in context.tags[first : first + _EVERY]])
            yield
        for first in range(0, len(context.globals), _EVERY):
            some = context.globals[first : first + _EVERY]
            self.globals.extend([self._number(entry.valtype) | entry.mutable << 8 for entry in some])
            yield
        others = Feature.REFERENCE_TYPES in context.features
        for index, table in enumerate(context.tables):
            called = (others or not index) and matches_heaptype(table.reftype.heaptype, AbsHeapType.FUNC)
            self.tables.append(_address(table.addrtype) if called else 0)
            if index % _EVERY == _EVERY - 1:
                yield

    def _number(self, valtype: ValType) -> int:
        """The number of a type; 0 where there are too many."""
        number = self._numbers.get(valtype)
        if number is None:
            number = len(self.types) if len(self.types) < n.NTYPES else 0
            self._numbers[valtype] = number
            if number:
                self.types.append(valtype)
        return number

    def _signature(self, comptype: object) -> int:
        """Enter a type; return how much work that was."""
        numbers = [0]
        if isinstance(comptype, FuncType):
            numbers = [self._number(valtype) for valtype in comptype.params + comptype.results]
        if isinstance(comptype, FuncType) and 0 not in numbers:
            self.sigs.extend((len(self.sigtypes), len(comptype.params), len(comptype.results)))
            self.sigtypes.extend(numbers)
        else:
            self.sigs.extend((0, _NO_FUNCTYPE, 0))
        return 1 + len(numbers)


def _address(addrtype: AddressType) -> int:
    return _WORDS["i64" if addrtype is AddressType.I64 else "i32"]
