"""What the host holds of entities: `Func`, `Memory`, `Table`, `Global`, `Tag`, `Reference` for the rest.

Handles are equal if what they stand for is one; they are made on demand and keep it alive.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.heap import I31, ArrayInst, ExnInst, StructInst
from aiowasm.engine.memory import MemInst
from aiowasm.engine.table import TableInst
from aiowasm.engine.tag import TagInst
from aiowasm.errors import ExitError, LimitError
from aiowasm.store.growth import Owned, grow
from aiowasm.store.values import from_engine, to_engine
from aiowasm.syntax.types import FuncType, GlobalType, RefType

if TYPE_CHECKING:
    from aiowasm.store.store import Store

__all__ = ("Global", "Handle", "Memory", "Reference", "Table", "Tag")

E = TypeVar("E")


class Handle(Generic[E]):
    """Something of one store that the host can hold."""

    __slots__ = ("_entity", "_store")

    def __init__(self, entity: E, store: Store[Any]) -> None:
        self._entity = entity
        self._store = store

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and other._entity is self._entity

    def __hash__(self) -> int:
        return hash(id(self._entity))

    def _check(self) -> None:
        """Raise ExitError if the instance that defines it is closed."""
        owned = self._entity.owner  # type: ignore[attr-defined]
        if isinstance(owned, Owned) and owned.users <= 0:
            exit_error: ExitError = owned.instance.exit
            raise ExitError(exit_error.exit_code, exit_error.cause)


class Reference(Handle[Any]):
    """A reference to a structure, an array, a scalar or an exception: the host can keep it and pass it on."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Reference to {self.kind}>"

    @property
    def kind(self) -> str:
        """What it refers to: struct, array, i31 or exn."""
        kinds: dict[type, str] = {StructInst: "struct", ArrayInst: "array", I31: "i31", ExnInst: "exn"}
        return kinds[type(self._entity)]

    @property
    def value(self) -> int | None:
        """The number in an i31, signed; None for anything else."""
        if isinstance(self._entity, I31):
            return (self._entity.value ^ 0x4000_0000) - 0x4000_0000
        return None


_U8, _I8, _U16, _I16, _U32, _I32, _U64, _I64, _F32, _F64 = (Struct("<" + letter) for letter in "BbHhIiQqfd")


class Memory(Handle[MemInst]):
    """A memory. Offsets and sizes are bytes; all numbers are little-endian.

    Access out of bounds is an IndexError, access to the memory of a closed instance an ExitError.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Memory of {self._entity.size} pages>"

    def __len__(self) -> int:
        return len(self._entity.view)

    @property
    def nbytes(self) -> int:
        """The current size in bytes."""
        return len(self._entity.view)

    @property
    def pages(self) -> int:
        """The current size in pages (64 KiB, unless the memory has a custom page size)."""
        return self._entity.size

    def grow(self, delta_pages: int) -> int:
        """Grow and return the previous size in pages.

        Raises:
            LimitError: The memory's type, `Limits.memory_pages` or a total does not allow it.
        """
        self._check()
        if delta_pages < 0:
            raise ValueError(f"a memory does not shrink: {delta_pages}")
        previous = grow(self._entity, delta_pages)
        if previous < 0:
            raise LimitError(f"cannot grow a memory of {self.pages} pages by {delta_pages}", limit="memory_pages")
        return previous

    def _at(self, offset: int, nbytes: int) -> memoryview:
        view = self._entity.view
        if offset < 0 or nbytes < 0 or offset + nbytes > len(view):
            self._check()
            raise IndexError(f"memory access out of bounds: {nbytes} bytes at {offset:#x} of {len(view):#x}")
        return view

    def view(self, offset: int = 0, nbytes: int | None = None) -> memoryview:
        """Return a view that reads and writes through. It stays valid when the memory grows, but keeps its length."""
        if nbytes is None:
            nbytes = len(self) - offset
        view = self._at(offset, nbytes)
        return view[offset : offset + nbytes]

    def read(self, offset: int, nbytes: int) -> bytes:
        """Return a copy of *nbytes* bytes."""
        view = self._at(offset, nbytes)
        return bytes(view[offset : offset + nbytes])

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Store *data*, all of it or nothing."""
        source = memoryview(data).cast("B")
        view = self._at(offset, len(source))
        view[offset : offset + len(source)] = source

    def fill(self, offset: int, nbytes: int, value: int = 0) -> None:
        """Set *nbytes* bytes to *value*."""
        self._at(offset, nbytes)
        self._entity.fill(offset, value, nbytes)

    def read_string(self, offset: int, nbytes: int) -> str:
        """Decode *nbytes* bytes as UTF-8.

        Raises:
            UnicodeDecodeError: They are not UTF-8.
        """
        return self.read(offset, nbytes).decode()

    def write_string(self, offset: int, text: str) -> int:
        """Store *text* as UTF-8 and return its length in bytes."""
        data = text.encode()
        self.write(offset, data)
        return len(data)

    def _get(self, struct: Struct, offset: int) -> Any:
        return struct.unpack_from(self._at(offset, struct.size), offset)[0]

    def _put(self, struct: Struct, offset: int, value: Any) -> None:
        view = self._at(offset, struct.size)
        try:
            struct.pack_into(view, offset, value)
        except OverflowError:  # a double that no single can hold
            raise OverflowError(f"out of range: {value!r}") from None
        except Exception as error:
            if isinstance(value, int | float) and not isinstance(value, bool):
                raise OverflowError(f"out of range: {value!r}") from None
            raise TypeError(f"expected a number, got {type(value).__name__}") from error

    def read_u8(self, offset: int) -> int:
        """Read an unsigned integer of 8 bits."""
        return self._get(_U8, offset)  # type: ignore[no-any-return]

    def read_i8(self, offset: int) -> int:
        """Read a signed integer of 8 bits."""
        return self._get(_I8, offset)  # type: ignore[no-any-return]

    def read_u16(self, offset: int) -> int:
        """Read an unsigned integer of 16 bits."""
        return self._get(_U16, offset)  # type: ignore[no-any-return]

    def read_i16(self, offset: int) -> int:
        """Read a signed integer of 16 bits."""
        return self._get(_I16, offset)  # type: ignore[no-any-return]

    def read_u32(self, offset: int) -> int:
        """Read an unsigned integer of 32 bits."""
        return self._get(_U32, offset)  # type: ignore[no-any-return]

    def read_i32(self, offset: int) -> int:
        """Read a signed integer of 32 bits."""
        return self._get(_I32, offset)  # type: ignore[no-any-return]

    def read_u64(self, offset: int) -> int:
        """Read an unsigned integer of 64 bits."""
        return self._get(_U64, offset)  # type: ignore[no-any-return]

    def read_i64(self, offset: int) -> int:
        """Read a signed integer of 64 bits."""
        return self._get(_I64, offset)  # type: ignore[no-any-return]

    def read_f32(self, offset: int) -> float:
        """Read a float of 32 bits."""
        return self._get(_F32, offset)  # type: ignore[no-any-return]

    def read_f64(self, offset: int) -> float:
        """Read a float of 64 bits."""
        return self._get(_F64, offset)  # type: ignore[no-any-return]

    def write_u8(self, offset: int, value: int) -> None:
        """Write an unsigned integer of 8 bits."""
        self._put(_U8, offset, value)

    def write_i8(self, offset: int, value: int) -> None:
        """Write a signed integer of 8 bits."""
        self._put(_I8, offset, value)

    def write_u16(self, offset: int, value: int) -> None:
        """Write an unsigned integer of 16 bits."""
        self._put(_U16, offset, value)

    def write_i16(self, offset: int, value: int) -> None:
        """Write a signed integer of 16 bits."""
        self._put(_I16, offset, value)

    def write_u32(self, offset: int, value: int) -> None:
        """Write an unsigned integer of 32 bits."""
        self._put(_U32, offset, value)

    def write_i32(self, offset: int, value: int) -> None:
        """Write a signed integer of 32 bits."""
        self._put(_I32, offset, value)

    def write_u64(self, offset: int, value: int) -> None:
        """Write an unsigned integer of 64 bits."""
        self._put(_U64, offset, value)

    def write_i64(self, offset: int, value: int) -> None:
        """Write a signed integer of 64 bits."""
        self._put(_I64, offset, value)

    def write_f32(self, offset: int, value: float) -> None:
        """Write a float of 32 bits."""
        self._put(_F32, offset, value)

    def write_f64(self, offset: int, value: float) -> None:
        """Write a float of 64 bits."""
        self._put(_F64, offset, value)


class Table(Handle[TableInst]):
    """A table: indexing gets and sets elements in host form; out of bounds is an IndexError."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Table of {self._entity.size} {self._entity.reftype}>"

    def __len__(self) -> int:
        return self._entity.size

    @property
    def reftype(self) -> RefType:
        """The type of the elements."""
        return self._entity.reftype

    def _index(self, index: int) -> int:
        self._check()
        if not 0 <= index < self._entity.size:
            raise IndexError(f"table index out of bounds: {index} of {self._entity.size}")
        return index

    def __getitem__(self, index: int) -> Any:
        return from_engine(self._entity.reftype, self._entity.get(self._index(index)), self._store.references)

    def __setitem__(self, index: int, value: Any) -> None:
        """Set an element.

        Raises:
            ReentrancyError: *value* is a function of another group of linked instances, and either group is busy.
        """
        index = self._index(index)
        reference = to_engine(self._entity.reftype, value, self._store.references)
        self._store.link(self._entity, reference)
        self._entity.set(index, reference)

    def grow(self, delta: int, value: Any = None) -> int:
        """Add *delta* elements and return the previous size.

        Raises:
            LimitError: The table's type, `Limits.table_elements` or a total does not allow it.
        """
        self._check()
        if delta < 0:
            raise ValueError(f"a table does not shrink: {delta}")
        reference = to_engine(self._entity.reftype, value, self._store.references)
        self._store.link(self._entity, reference)
        previous = grow(self._entity, delta, reference)
        if previous < 0:
            raise LimitError(f"cannot grow a table of {len(self)} elements by {delta}", limit="table_elements")
        return previous


class Global(Handle[GlobalInst]):
    """A global; `value` can be set if it is mutable."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Global {self._entity.globaltype} = {self._entity.value!r}>"

    @property
    def type(self) -> GlobalType:
        """The type of the value, and whether it is mutable."""
        return self._entity.globaltype

    @property
    def value(self) -> Any:
        """The current value in host form."""
        self._check()
        return from_engine(self._entity.globaltype.valtype, self._entity.value, self._store.references)

    @value.setter
    def value(self, value: Any) -> None:
        self._check()
        globaltype = self._entity.globaltype
        if not globaltype.mutable:
            raise TypeError("the global is immutable")
        converted = to_engine(globaltype.valtype, value, self._store.references)
        if isinstance(globaltype.valtype, RefType):
            self._store.link(self._entity, converted)
        self._entity.value = converted


class Tag(Handle[TagInst]):
    """The tag of an exception."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<Tag {self.type.params}>"

    @property
    def type(self) -> FuncType:
        """The function type whose parameters are what an exception carries."""
        comptype = self._entity.deftype.comptype
        if not isinstance(comptype, FuncType):
            raise TypeError("a tag without a function type")
        return comptype
