"""Types of the standard's chapter 2.3, as frozen data.

A heap type is an `AbsHeapType`, a type index of the module (an int), or, once closed by validation, a `DefType`
(`aiowasm.syntax.matching`). Rendering follows the text format. Nothing here checks anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from aiowasm.syntax.matching import DefType


class NumType(Enum):
    """Number and vector types; the value is the binary encoding."""

    I32 = 0x7F
    I64 = 0x7E
    F32 = 0x7D
    F64 = 0x7C
    V128 = 0x7B

    __hash__ = object.__hash__

    def __str__(self) -> str:
        return self.name.lower()


class PackedType(Enum):
    """Storage types of fields that are narrower than a value."""

    I8 = 0x78
    I16 = 0x77

    __hash__ = object.__hash__

    def __str__(self) -> str:
        return self.name.lower()


class AbsHeapType(Enum):
    """Abstract heap types; the value is the binary encoding."""

    NOEXN = 0x74
    NOFUNC = 0x73
    NOEXTERN = 0x72
    NONE = 0x71
    FUNC = 0x70
    EXTERN = 0x6F
    ANY = 0x6E
    EQ = 0x6D
    I31 = 0x6C
    STRUCT = 0x6B
    ARRAY = 0x6A
    EXN = 0x69
    BOT = 0x00
    """Below every heap type; never written, only met in unreachable code."""

    __hash__ = object.__hash__

    def __str__(self) -> str:
        return self.name.lower()


HeapType = Union[AbsHeapType, int, "DefType"]


@dataclass(frozen=True, slots=True)
class RefType:
    """A reference type `(ref null? heaptype)`."""

    nullable: bool
    heaptype: HeapType

    def __str__(self) -> str:
        return f"(ref {'null ' if self.nullable else ''}{self.heaptype})"


class Bot(Enum):
    """The bottom type of values: matches every value type, met in unreachable code only."""

    BOT = 0

    def __str__(self) -> str:
        return "bot"


BOT = Bot.BOT
ValType = NumType | RefType
StorageType = NumType | RefType | PackedType

I32, I64, F32, F64, V128 = NumType.I32, NumType.I64, NumType.F32, NumType.F64, NumType.V128
I8, I16 = PackedType.I8, PackedType.I16

FUNCREF = RefType(True, AbsHeapType.FUNC)
EXTERNREF = RefType(True, AbsHeapType.EXTERN)
ANYREF = RefType(True, AbsHeapType.ANY)
EQREF = RefType(True, AbsHeapType.EQ)
I31REF = RefType(True, AbsHeapType.I31)
STRUCTREF = RefType(True, AbsHeapType.STRUCT)
ARRAYREF = RefType(True, AbsHeapType.ARRAY)
EXNREF = RefType(True, AbsHeapType.EXN)
NULLREF = RefType(True, AbsHeapType.NONE)
NULLFUNCREF = RefType(True, AbsHeapType.NOFUNC)
NULLEXTERNREF = RefType(True, AbsHeapType.NOEXTERN)
NULLEXNREF = RefType(True, AbsHeapType.NOEXN)


@dataclass(frozen=True, slots=True)
class FieldType:
    """A field of a structure or the element of an array."""

    storage: StorageType
    mutable: bool

    def __str__(self) -> str:
        return f"(mut {self.storage})" if self.mutable else str(self.storage)


@dataclass(frozen=True, slots=True)
class FuncType:
    """Parameters and results of a function, block or tag."""

    params: tuple[ValType, ...]
    results: tuple[ValType, ...]

    def __str__(self) -> str:
        return f"[{' '.join(map(str, self.params))}] -> [{' '.join(map(str, self.results))}]"


@dataclass(frozen=True, slots=True)
class StructType:
    """A structure: its fields in order."""

    fields: tuple[FieldType, ...]

    def __str__(self) -> str:
        return f"(struct {' '.join(f'(field {field})' for field in self.fields)})"


@dataclass(frozen=True, slots=True)
class ArrayType:
    """An array of one field type."""

    field: FieldType

    def __str__(self) -> str:
        return f"(array {self.field})"


CompType = FuncType | StructType | ArrayType


@dataclass(frozen=True, slots=True)
class SubType:
    """A composite type with its declared supertypes (at most one is valid) and whether it is final."""

    final: bool
    supertypes: tuple[HeapType, ...]
    comptype: CompType


@dataclass(frozen=True, slots=True)
class RecType:
    """A recursion group: types that may refer to one another. Each takes one index of the type index space."""

    subtypes: tuple[SubType, ...]


class AddressType(Enum):
    """The type of addresses of a memory or indices of a table."""

    I32 = 32
    I64 = 64

    __hash__ = object.__hash__

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes between `minimum` and `maximum` (None: unbounded), in pages or elements."""

    minimum: int
    maximum: int | None = None

    def __str__(self) -> str:
        return f"{self.minimum}" if self.maximum is None else f"{self.minimum} {self.maximum}"


@dataclass(frozen=True, slots=True)
class MemType:
    """A memory: `limits` in pages of `1 << page_size_log2` bytes (65,536, or 1 with custom page sizes)."""

    limits: Limits
    addrtype: AddressType = AddressType.I32
    shared: bool = False
    page_size_log2: int = 16


@dataclass(frozen=True, slots=True)
class TableType:
    """A table: `limits` in elements of the reference type."""

    limits: Limits
    reftype: RefType
    addrtype: AddressType = AddressType.I32


@dataclass(frozen=True, slots=True)
class GlobalType:
    """A global: its value type and whether it can be set."""

    valtype: ValType
    mutable: bool

    def __str__(self) -> str:
        return f"(mut {self.valtype})" if self.mutable else str(self.valtype)


@dataclass(frozen=True, slots=True)
class FuncExternType:
    """An imported function, by the index of its type."""

    typeidx: int


@dataclass(frozen=True, slots=True)
class TagType:
    """A tag, by the index of a function type whose parameters are what an exception carries."""

    typeidx: int


ExternType = FuncExternType | TableType | MemType | GlobalType | TagType
