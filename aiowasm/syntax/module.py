"""The structure of a module (the standard's chapter 2.5), as data.

Code is kept as the bytes of the binary format, not as objects: a body of millions of instructions costs what its bytes
cost, decoding and validating share one walk, and lazily validated functions are never touched. `Code` and `Expr`
compare as instructions, so that two encodings of the same code are equal (non-minimal LEB128 numbers do not matter).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from aiowasm.syntax.leb128 import read_u
from aiowasm.syntax.types import ExternType, GlobalType, MemType, RecType, RefType, TableType, TagType

__all__ = (
    "Code",
    "Custom",
    "Data",
    "Datas",
    "Elem",
    "Export",
    "Expr",
    "Funcs",
    "Global",
    "Import",
    "Module",
    "Table",
)


@dataclass(frozen=True, slots=True)
class Expr:
    """A constant expression: its instructions in the binary format, `end` included.

    `offset` is where it stood in the module's binary, for errors; it does not take part in comparison.
    """

    code: bytes
    offset: int = field(default=0, compare=False)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Expr):
            return NotImplemented
        if self.code == other.code:
            return True
        from aiowasm.syntax.code import instructions  # noqa: PLC0415 - code.py reads what is defined here

        return list(instructions(self.code, 0)) == list(instructions(other.code, 0))

    def __hash__(self) -> int:
        # Equal expressions may be encoded differently, so the bytes cannot be hashed.
        return 0


@dataclass(frozen=True, slots=True, eq=False)
class Code:
    """One entry of the code section: `buffer[start:end]` is the vector of locals and the body, `end` included.

    `start` is also the offset in the module's binary, for errors and traces.
    """

    buffer: bytes
    start: int
    end: int

    @property
    def nbytes(self) -> int:
        """The size of locals and body in bytes."""
        return self.end - self.start

    def __bytes__(self) -> bytes:
        return self.buffer[self.start : self.end]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Code):
            return NotImplemented
        if bytes(self) == bytes(other):
            return True
        from aiowasm.syntax.code import decode_locals, instructions  # noqa: PLC0415 - as above

        locals_self, body_self = decode_locals(self)
        locals_other, body_other = decode_locals(other)
        return [run for run in locals_self if run[0]] == [run for run in locals_other if run[0]] and list(
            instructions(self.buffer, body_self, self.end)
        ) == list(instructions(other.buffer, body_other, other.end))

    def __hash__(self) -> int:
        return 0


class Funcs(Sequence[Code]):
    """The functions a module defines: types and code, in arrays so that 100,000 of them cost no objects.

    Indexing gives the `Code`; `typeidxs[i]` is the type of the i-th defined function. `starts` and `ends` are offsets
    in `buffer`.
    """

    __slots__ = ("buffer", "ends", "starts", "typeidxs")

    def __init__(
        self,
        typeidxs: array[int] | None = None,
        buffer: bytes = b"",
        starts: array[int] | None = None,
        ends: array[int] | None = None,
    ) -> None:
        self.typeidxs = array("I") if typeidxs is None else typeidxs
        self.buffer = buffer
        self.starts = array("Q") if starts is None else starts
        self.ends = array("Q") if ends is None else ends

    def __len__(self) -> int:
        return len(self.typeidxs)

    def __getitem__(self, index: int) -> Code:  # type: ignore[override]
        return Code(self.buffer, self.starts[index], self.ends[index])

    def __iter__(self) -> Iterator[Code]:
        for start, end in zip(self.starts, self.ends, strict=True):
            yield Code(self.buffer, start, end)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Funcs):
            return NotImplemented
        return (
            self.typeidxs == other.typeidxs
            and len(self.starts) == len(other.starts)
            and all(mine == theirs for mine, theirs in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Import:
    """An import: two names and what is expected."""

    module: str
    name: str
    type: ExternType


@dataclass(frozen=True, slots=True)
class Export:
    """An export: `kind` is func, table, memory, global or tag; `index` counts imports first."""

    name: str
    kind: str
    index: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table; `init` is the value of its elements, None: null."""

    type: TableType
    init: Expr | None = None


@dataclass(frozen=True, slots=True)
class Global:
    """A global and its initial value."""

    type: GlobalType
    init: Expr


@dataclass(frozen=True, slots=True)
class Elem:
    """An element segment.

    `init` is an array of function indices where every element is `ref.func x` and `type` is `(ref func)`, else a
    tuple of constant expressions. `mode` is "passive", "declarative" or (tableidx, offset expression).
    """

    type: RefType
    init: array[int] | tuple[Expr, ...]
    mode: str | tuple[int, Expr]

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """A data segment: `buffer[start:end]`; `mode` is None for a passive one, else (memidx, offset expression)."""

    buffer: bytes
    mode: tuple[int, Expr] | None
    start: int = 0
    end: int | None = None

    @property
    def init(self) -> bytes:
        """The bytes of the segment."""
        return self.buffer[self.start : self.end]

    @property
    def view(self) -> memoryview:
        """The bytes of the segment, where they are."""
        return memoryview(self.buffer)[self.start : self.end]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Data):
            return NotImplemented
        return self.mode == other.mode and self.view == other.view

    def __hash__(self) -> int:
        return hash(self.init)


class Datas(Sequence[Data]):
    """Data segments of a binary module: compilers make tens of thousands, which cost no objects.

    So many would have Python's collector hold the loop up for 50 ms (benchmarks/fairness.py --starting). Indexing gives
    the `Data`.

    Nearly all are *plain*: active ones of memory 0 whose offset is just an `i32.const`. `addresses` has that number,
    unsigned; -1: the segment itself must be looked at, its index is in `others`. `memidxs` has -1 for passive ones. All
    else are offsets in `buffer`: of offset expressions, and of the bytes.
    """

    __slots__ = ("addresses", "buffer", "ends", "expr_ends", "expr_starts", "memidxs", "others", "starts")

    def __init__(self, buffer: bytes = b"") -> None:
        self.buffer = buffer
        self.memidxs = array("q")
        self.expr_starts = array("I")
        self.expr_ends = array("I")
        self.addresses = array("q")
        self.starts = array("I")
        self.ends = array("I")
        self.others = array("I")

    def append(self, memidx: int, expr: tuple[int, int], start: int, end: int) -> None:
        """Add a segment that is not plain, or may not be: *expr* is where its offset expression starts and ends."""
        self.others.append(len(self))
        self.memidxs.append(memidx)
        self.expr_starts.append(expr[0])
        self.expr_ends.append(expr[1])
        self.addresses.append(-1)
        self.starts.append(start)
        self.ends.append(end)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Data:  # type: ignore[override]
        memidx, start = self.memidxs[index], self.expr_starts[index]
        mode = None if memidx < 0 else (memidx, Expr(self.buffer[start : self.expr_ends[index]], start))
        return Data(self.buffer, mode, self.starts[index], self.ends[index])

    def __iter__(self) -> Iterator[Data]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Datas | tuple):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True, eq=False)
class Custom:
    """A custom section: bytes of `buffer`. `place` is the id of the section it follows (0: before the first).

    A program of 26 MB had 10 MB of debugging information, which took 5 ms to copy (benchmarks/fairness.py --starting).
    """

    name: str
    buffer: bytes
    place: int = 0
    start: int = 0
    end: int | None = None

    @property
    def data(self) -> bytes:
        """The content behind the name."""
        return self.buffer[self.start : self.end]

    @property
    def nbytes(self) -> int:
        """The size of `data`."""
        return (len(self.buffer) if self.end is None else self.end) - self.start

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Custom):
            return NotImplemented
        return (self.name, self.place, self.data) == (other.name, other.place, other.data)

    def __hash__(self) -> int:
        return hash((self.name, self.place, self.nbytes))


@dataclass(frozen=True, slots=True)
class Module:
    """A module. Index spaces count imports first, as in the standard.

    `data_count` is the data count section's number, None where there is none; it repeats what `datas` says, for those
    who read a binary in one pass, and takes no part in comparison: the text format has no such thing. `customs` are all
    custom sections, the name section included. `places` are the offsets of the items of each section by its id, for
    errors; of the function section it is only where the first one is. A module that was not binary has none.
    """

    types: tuple[RecType, ...] = ()
    imports: tuple[Import, ...] = ()
    funcs: Funcs = field(default_factory=Funcs)
    tables: tuple[Table, ...] = ()
    mems: tuple[MemType, ...] = ()
    tags: tuple[TagType, ...] = ()
    globals: tuple[Global, ...] = ()
    exports: tuple[Export, ...] = ()
    start: int | None = None
    elems: tuple[Elem, ...] = ()
    data_count: int | None = field(default=None, compare=False)
    datas: Sequence[Data] = ()
    customs: tuple[Custom, ...] = ()
    places: dict[int, array[int]] = field(default_factory=dict, compare=False, repr=False)

    __hash__ = None  # type: ignore[assignment]

    def offset(self, section: int, index: int) -> int | None:
        """Where item *index* of a section stands in the module's binary, None if unknown."""
        places = self.places.get(section)
        if not places:
            return None
        if section != 3:
            return places[index] if index < len(places) else None
        pos = places[0]
        for _ in range(index):
            pos = read_u(self.funcs.buffer, pos, 32)[1]
        return pos
