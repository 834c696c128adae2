"""Module instances (the standard's chapter 4.2.5): the index spaces of one instantiated module.

Instances hold entities directly; there are no store addresses. Knows nothing of names, namespaces or event loops.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from aiowasm.binary.names import decode_names_steps
from aiowasm.engine.func import FuncInst
from aiowasm.engine.segments import NO_DATAS

if TYPE_CHECKING:
    from aiowasm.engine.global_ import GlobalInst
    from aiowasm.engine.heap import Heap
    from aiowasm.engine.instantiate import Import
    from aiowasm.engine.memory import MemInst
    from aiowasm.engine.segments import ElemInst
    from aiowasm.engine.table import TableInst
    from aiowasm.engine.tag import TagInst
    from aiowasm.syntax.matching import DefType
    from aiowasm.syntax.module import Export
    from aiowasm.validation.module import ValidatedModule

__all__ = ("ModuleInst", "function_name", "name_steps")

_MAX_NAME_LENGTH = 200


class Functions(dict[int, FuncInst]):
    """The function index space of an instance; functions it defines are made when they are first asked for.

    A module of thousands of functions costs an instance those it uses (benchmarks/scale.py).
    """

    __slots__ = ("instance",)

    def __init__(self, instance: ModuleInst) -> None:
        super().__init__()
        self.instance = instance

    def __missing__(self, funcidx: int) -> FuncInst:
        validated = self.instance.validated
        if not validated.nimported_funcs <= funcidx < len(validated.funcs):
            raise IndexError(funcidx)
        made = self[funcidx] = FuncInst(validated.functype(funcidx), self.instance, funcidx)
        return made


class ModuleInst:
    """One instance: imports first in every index space, as in the standard.

    `heap` accounts for what its code allocates. `error` is None, or what calls of a closed instance end with. `owner`
    is the store's; `state` the engine's.
    """

    __slots__ = (
        "__weakref__",
        "datas",
        "deftypes",
        "elems",
        "error",
        "funcs",
        "globals",
        "heap",
        "mems",
        "name",
        "owner",
        "state",
        "tables",
        "tags",
        "validated",
    )

    def __init__(self, validated: ValidatedModule, name: str | None, heap: Heap) -> None:
        self.validated = validated
        self.name = name
        self.heap = heap
        self.error: Exception | None = None
        self.owner: object = None
        self.state: Any = None
        self.deftypes: list[DefType] = validated.deftypes
        self.funcs = Functions(self)
        # Empty tuples take nothing.
        self.tables: Sequence[TableInst] = ()
        self.mems: Sequence[MemInst] = ()
        self.globals: Sequence[GlobalInst] = ()
        self.tags: Sequence[TagInst] = ()
        self.elems: Sequence[ElemInst] = ()
        self.datas = NO_DATAS

    def entity(self, export: Export) -> Import:
        """Return what *export*, one of its module's, stands for."""
        spaces: dict[str, Any] = {
            "func": self.funcs,
            "table": self.tables,
            "memory": self.mems,
            "global": self.globals,
            "tag": self.tags,
        }
        entity: Import = spaces[export.kind][export.index]
        return entity

    def own_funcs(self) -> list[FuncInst]:
        """Return the functions it defines, as far as anybody has asked for them."""
        return [func for func in self.funcs.values() if func.instance is self]


_names: WeakKeyDictionary[ValidatedModule, dict[int, str]] = WeakKeyDictionary()


def name_steps(validated: ValidatedModule) -> Generator[None, None, None]:
    """Make ready what `function_name` needs of a module, in steps; without this, the first trace does at once."""
    sections = [custom.data for custom in validated.module.customs if custom.name == "name"]
    found = (yield from decode_names_steps(sections[0], functions_only=True)).functions if sections else {}
    _names[validated] = found


def function_name(instance: ModuleInst, funcidx: int) -> str:
    """What traces call a function: `$name` of the name section if it has one, else `$index`.

    Names are the guest's: they are cut, and what cannot be printed is escaped.
    """
    names = _names.get(instance.validated)
    if names is None:
        for _ in name_steps(instance.validated):
            pass
        names = _names[instance.validated]
    name = names.get(funcidx)
    if not name:
        return f"${funcidx}"
    if len(name) > _MAX_NAME_LENGTH:
        name = name[:_MAX_NAME_LENGTH] + "..."
    return "$" + (name if name.isprintable() else ascii(name)[1:-1])
