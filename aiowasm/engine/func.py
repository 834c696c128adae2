"""Function instances (the standard's chapter 4.2.6), of modules and of the host. How they run is up to engines."""

from __future__ import annotations

from collections.abc import Callable
from types import CellType
from typing import TYPE_CHECKING, Any

from aiowasm.syntax.matching import DefType

if TYPE_CHECKING:
    from aiowasm.engine.instance import ModuleInst

__all__ = ("FuncInst",)


class FuncInst:
    """A function of closed type `deftype`.

    `instance` and `funcidx` say where it is defined (None for a host function). `cell` is empty until an engine puts
    there what it runs: code is made when a function is first called, and callers close over the cell.

    `host` of a host function that never waits is `host(caller, *arguments)`, called inside `Execution.resume`:
    `caller` is the calling `ModuleInst` (None if the host calls it), the return is None, one value, or a tuple of
    several, all in engine form. A host function without `host` is an outcome of `resume`. `name` and `owner` are the
    store's, `state` is the engine's.
    """

    __slots__ = ("__weakref__", "cell", "deftype", "funcidx", "host", "instance", "name", "owner", "state")

    def __init__(
        self,
        deftype: DefType,
        instance: ModuleInst | None = None,
        funcidx: int | None = None,
        host: Callable[..., Any] | None = None,
        name: str = "",
        owner: object = None,
    ) -> None:
        self.deftype = deftype
        self.instance = instance
        self.funcidx = funcidx
        self.host = host
        self.name = name
        self.owner = owner
        self.state: Any = None
        self.cell = CellType()
