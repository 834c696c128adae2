"""What a host module defines, as data, and the base class by which a store knows one.

`aiowasm.host.module` builds these from annotations; `aiowasm.store.hostinstance` makes entities of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from aiowasm.store.values import NO_REFERENCES, References, arguments_to_host, results_to_engine
from aiowasm.syntax.types import FuncType, GlobalType, MemType, TableType

if TYPE_CHECKING:
    from aiowasm.store.limits import Limits
    from aiowasm.store.module import Module
    from aiowasm.store.namespace import Importable, Namespace

__all__ = (
    "Command",
    "Converters",
    "Definition",
    "Definitions",
    "HostFunction",
    "HostGlobal",
    "HostMemory",
    "HostTable",
    "HostTag",
)

R = TypeVar("R")


class Converters(NamedTuple):
    """A guest's arguments to host form, and what the function returned to engine form."""

    arguments: Callable[[Sequence[object]], tuple[object, ...]]
    results: Callable[[object], tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class HostFunction:
    """A host function: its type, and how it wants to be called. `fuel` is charged for each call.

    `attempt` of an asynchronous one is a `def` function that is called first, inside the engine where that can be: it
    returns the results, or something to await for them. It saves leaving the engine where nothing has to wait.
    """

    name: str
    functype: FuncType
    function: Callable[..., object]
    is_async: bool
    takes_caller: bool
    fuel: int
    unsigned: tuple[bool, ...]
    attempt: Callable[..., object] | None = None

    def converters(self, references: References = NO_REFERENCES) -> Converters:
        """Return the converters for a store whose handles are *references*. Keep them: making them is what costs."""
        return Converters(
            arguments_to_host(self.functype.params, references, self.unsigned),
            results_to_engine(self.functype.results, references),
        )


@dataclass(frozen=True, slots=True)
class HostMemory:
    """A memory to be made."""

    name: str
    type: MemType


@dataclass(frozen=True, slots=True)
class HostTable:
    """A table to be made; `value` fills it, in host form."""

    name: str
    type: TableType
    value: object = None


@dataclass(frozen=True, slots=True)
class HostGlobal:
    """A global to be made, with its first value in host form."""

    name: str
    type: GlobalType
    value: object


@dataclass(frozen=True, slots=True)
class HostTag:
    """A tag to be made; the parameters of `functype` are what its exceptions carry."""

    name: str
    functype: FuncType


Definition = HostFunction | HostMemory | HostTable | HostGlobal | HostTag


class Command(ABC, Generic[R]):
    """What runs a module as a program in a store: `aiowasm.host.wasi.Wasi`."""

    @abstractmethod
    async def run_command(
        self,
        namespace: Namespace[Any],
        module: Module | bytes,
        *,
        imports: Mapping[str, Importable] | None = None,
        limits: Limits | None = None,
    ) -> R:
        """Instantiate *module* in *namespace*, run it to its end, close it, and return what came of it."""


class Definitions:
    """A named collection of host definitions; any number of stores may instantiate it."""

    name: str
    on_close: Callable[[], object] | None = None
    """Called when an instance of the host module is closed."""
    _definitions: dict[str, Definition]

    @property
    def definitions(self) -> Mapping[str, Definition]:
        """What the module exports by name, in the order of definition."""
        return MappingProxyType(self._definitions)
