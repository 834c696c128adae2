"""Host modules: functions, memories, tables, globals and tags an application offers, as definitions.

A `HostModule` belongs to no store; each namespace makes its own instance of it. Reading annotations is
`aiowasm.host.signature`; calling is the store's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar, overload

from aiowasm.errors import InvalidError, LinkError
from aiowasm.host.signature import signature_of, value_of
from aiowasm.limits import MAX_NAME_NBYTES
from aiowasm.store.definitions import (
    Converters,
    Definition,
    Definitions,
    HostFunction,
    HostGlobal,
    HostMemory,
    HostTable,
    HostTag,
)
from aiowasm.store.values import engine_converter
from aiowasm.syntax.types import (
    AddressType,
    FuncType,
    GlobalType,
    Limits,
    MemType,
    NumType,
    RefType,
    TableType,
    ValType,
)

__all__ = (
    "Converters",
    "Definition",
    "HostFunction",
    "HostGlobal",
    "HostMemory",
    "HostModule",
    "HostTable",
    "HostTag",
)

F = TypeVar("F", bound=Callable[..., object])


class HostModule(Definitions):
    """A named collection of host definitions; any number of stores may instantiate it."""

    def __init__(self, name: str) -> None:
        _check_name(name)
        self.name = name
        self._definitions: dict[str, Definition] = {}

    def __repr__(self) -> str:
        return f"<HostModule {self.name!r}: {', '.join(self._definitions) or 'empty'}>"

    @overload
    def function(self, function: F, /, *, name: str | None = None, fuel: int = 0) -> F: ...

    @overload
    def function(self, /, *, name: str | None = None, fuel: int = 0) -> Callable[[F], F]: ...

    def function(self, function: F | None = None, /, *, name: str | None = None, fuel: int = 0) -> F | Callable[[F], F]:
        """Define a host function from its annotations and return it unchanged; a decorator, bare or with options.

        Args:
            function: `def` or `async def`, also a method or a partial.
            name: The name guests import; by default the function's own.
            fuel: Charged for each call, on top of the call itself.

        Raises:
            TypeError: The annotations do not make a WebAssembly function.
            LinkError: The name is taken.
        """
        if isinstance(fuel, bool) or not isinstance(fuel, int):
            raise TypeError(f"fuel must be an int, got {type(fuel).__name__}")
        if not 0 <= fuel < 1 << 63:
            raise ValueError(f"fuel must be between 0 and 2**63 - 1, got {fuel}")

        def define(function: F) -> F:
            signature = signature_of(function)
            own = getattr(function, "__name__", None) if name is None else name
            if own is None:
                raise TypeError(f"{function!r} has no name of its own: give name=")
            self.define(
                HostFunction(
                    own,
                    signature.functype,
                    function,
                    signature.is_async,
                    signature.takes_caller,
                    fuel,
                    signature.unsigned,
                )
            )
            return function

        return define if function is None else define(function)

    def memory(self, name: str, type: MemType | int, maximum: int | None = None) -> None:  # noqa: A002
        """Define a memory from its type, or from its minimum and maximum size in pages of 64 KiB."""
        memtype = MemType(Limits(type, maximum)) if isinstance(type, int) else type
        if memtype.page_size_log2 not in (0, 16):
            raise InvalidError("invalid custom page size")
        bits = memtype.addrtype.value - memtype.page_size_log2
        # The standard's bound: all that addresses reach; for byte-sized pages one less than that.
        bound = (1 << bits) - (memtype.page_size_log2 == 0)
        _check_limits(memtype.limits, bound, f"memory size must be at most {bound} pages")
        if memtype.shared and memtype.limits.maximum is None:
            raise InvalidError("shared memory must have maximum")
        self.define(HostMemory(name, memtype))

    def table(
        self,
        name: str,
        type: object,  # noqa: A002
        minimum: int = 0,
        maximum: int | None = None,
        *,
        value: object = None,
    ) -> None:
        """Define a table from its type, or from the type of its elements (`funcref`) and sizes; *value* fills it."""
        if not isinstance(type, TableType):
            reftype = _valtype(type)
            if not isinstance(reftype, RefType):
                raise TypeError(f"a table holds references, not {reftype}")
            type = TableType(Limits(minimum, maximum), reftype, AddressType.I32)  # noqa: A001
        bound = (1 << type.addrtype.value) - 1
        _check_limits(type.limits, bound, "table size must be at most 2^32-1" if bound < 1 << 32 else "table size")
        self.define(HostTable(name, type, value))

    def global_(self, name: str, type: object, value: object, *, mutable: bool = False) -> None:  # noqa: A002
        """Define a global from its type, or from its value type (`i32`) and *mutable*, with its first value."""
        globaltype = type if isinstance(type, GlobalType) else GlobalType(_valtype(type), mutable)
        if isinstance(globaltype.valtype, NumType):
            # References are checked where there is a store to check them against.
            engine_converter(globaltype.valtype, where=f"global {name!r}: ")(value)
        self.define(HostGlobal(name, globaltype, value))

    def tag(self, name: str, params: Iterable[object] = ()) -> None:
        """Define a tag whose exceptions carry values of the types *params* (`[i32, externref]`)."""
        self.define(HostTag(name, FuncType(tuple(_valtype(param) for param in params), ())))

    def define(self, definition: Definition) -> None:
        """Define something whose type is known, rather than read from annotations.

        Raises:
            LinkError: The name is taken.
        """
        _check_name(definition.name)
        if definition.name in self._definitions:
            raise LinkError(
                f"duplicate export name: module[{self.name}] already defines {definition.name!r}",
                module=self.name,
                name=definition.name,
            )
        self._definitions[definition.name] = definition


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a name must be a str, got {type(name).__name__}")
    try:
        nbytes = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"a name must be Unicode text without lone surrogates: {name!r}") from None
    if nbytes > MAX_NAME_NBYTES:
        raise ValueError(f"a name may have {MAX_NAME_NBYTES} bytes, not {nbytes}")


def _check_limits(limits: Limits, bound: int, phrase: str) -> None:
    if limits.minimum < 0:
        raise InvalidError("size minimum must not be negative")
    if limits.minimum > bound or (limits.maximum is not None and limits.maximum > bound):
        raise InvalidError(phrase)
    if limits.maximum is not None and limits.minimum > limits.maximum:
        raise InvalidError("size minimum must not be greater than maximum")


def _valtype(type: object) -> ValType:  # noqa: A002
    """Return the value type *type* is or, as an annotation, stands for."""
    if isinstance(type, NumType | RefType):
        return type
    value = value_of(type)
    if value is None:
        raise TypeError(f"{type!r} is no value type")
    return value.valtype
