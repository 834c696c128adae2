"""Instances of host modules: entities made from definitions, one set for each namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiowasm.engine.func import FuncInst
from aiowasm.engine.instantiate import Import
from aiowasm.engine.memory import MemInst
from aiowasm.engine.table import TableInst
from aiowasm.engine.tag import TagInst
from aiowasm.errors import LimitError
from aiowasm.store.definitions import Definition, Definitions, HostFunction, HostGlobal, HostMemory, HostTable
from aiowasm.store.growth import Owned, take
from aiowasm.store.hostcalls import HostBinding
from aiowasm.store.instance import Instance
from aiowasm.store.values import to_engine
from aiowasm.syntax.matching import DefType, close_rectype
from aiowasm.syntax.types import FuncType, RecType, SubType

if TYPE_CHECKING:
    from aiowasm.store.namespace import Namespace

__all__ = ("deftype_of", "host_instance", "own")


def host_instance(source: Definitions, namespace: Namespace[Any]) -> Instance:
    """Make the instance of a host module in *namespace*.

    Raises:
        LimitError: A memory or table is larger than allowed.
        TypeError: The value of a table or global does not fit its type.
    """
    instance = Instance(namespace, source.name, namespace.limits, namespace.account)
    entities: dict[str, Import] = {}
    instance.entities = entities
    instance.export_names = entities
    try:
        for name, definition in source.definitions.items():
            entities[name] = _entity(definition, instance)
    except BaseException:
        instance.free()
        raise
    if source.on_close is not None:
        instance.on_close(source.on_close)
    instance.ready = True
    return instance


def _entity(definition: Definition, instance: Instance) -> Import:
    engine, limits, references = instance.store.engine, instance.limits, instance.store.references
    if isinstance(definition, HostFunction):
        binding = HostBinding(definition, instance)
        return FuncInst(deftype_of(definition.functype), host=binding.host(), name=definition.name, owner=binding)
    entity: Any
    if isinstance(definition, HostMemory):
        entity = engine.memory(definition.type, limits.memory_pages << 16)
    elif isinstance(definition, HostTable):
        value = to_engine(definition.type.reftype, definition.value, references)
        entity = engine.table(definition.type, value, limits.table_elements)
    elif isinstance(definition, HostGlobal):
        entity = engine.global_(definition.type, to_engine(definition.type.valtype, definition.value, references))
    else:
        entity = TagInst(deftype_of(definition.functype))
    own(entity, instance)
    return entity  # type: ignore[no-any-return]


def own(entity: Any, instance: Instance) -> None:
    """Make *entity* the instance's, and count what it takes of the totals.

    Raises:
        LimitError: It is more than there is.
    """
    entity.owner = Owned(instance, instance.account)
    if isinstance(entity, MemInst | TableInst):
        entity.asks = True
        what = (-(-len(entity.view) // 65_536), 0) if isinstance(entity, MemInst) else (0, entity.size)
        limit = instance.account.missing(*what)
        if limit is not None:
            entity.owner = None
            raise LimitError(f"{'memory' if isinstance(entity, MemInst) else 'table'} beyond {limit}", limit=limit)
        take(entity)


def deftype_of(functype: FuncType) -> DefType:
    """Return the closed type of a function of the host."""
    return close_rectype(RecType((SubType(True, (), functype),)), 0, [])[0]
