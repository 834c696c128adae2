"""Which groups entities belong to, and taking the locks of several groups to make them one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from aiowasm.engine.base import Engine
from aiowasm.engine.func import FuncInst
from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.instantiate import Import
from aiowasm.engine.memory import MemInst
from aiowasm.engine.tag import TagInst
from aiowasm.errors import LinkError, ReentrancyError
from aiowasm.store.activation import Activation
from aiowasm.store.group import Group, merge
from aiowasm.store.growth import Owned
from aiowasm.syntax.types import RefType

__all__ = ("acquire", "check_engines", "engine_of", "fitted", "group_of", "link_now", "release")


def group_of(entity: Any) -> Group | None:
    """Return the group that importing *entity* joins, or None: host functions and what cannot change join none."""
    if isinstance(entity, FuncInst):
        owner: Any = entity.instance and entity.instance.owner
        return None if owner is None else owner.group
    if isinstance(entity, MemInst) and entity.shared:  # made for concurrent access
        return None
    if isinstance(entity, GlobalInst) and not entity.globaltype.mutable:
        return None
    owned = getattr(entity, "owner", None)
    return owned.instance.group if isinstance(owned, Owned) else None


def engine_of(entity: Any) -> Engine | None:
    """Return the engine that *entity* is made for; None: tags, constants and functions of the host are for all."""
    if isinstance(entity, FuncInst):
        owner: Any = entity.instance and entity.instance.owner
        return None if owner is None else owner.backend
    if _is_constant(entity):
        return None
    owned = getattr(entity, "owner", None)
    return owned.instance.backend if isinstance(owned, Owned) and not isinstance(entity, TagInst) else None


def _is_constant(entity: Any) -> bool:
    if not isinstance(entity, GlobalInst):
        return False
    return not entity.globaltype.mutable and not isinstance(entity.globaltype.valtype, RefType)


def fitted(entity: Import, engine: Engine) -> Import:
    """Return *entity* for instances of *engine*: constants are copied, in case another engine has made them."""
    if isinstance(entity, GlobalInst) and _is_constant(entity):
        return engine.global_(entity.globaltype, entity.value)
    return entity


def check_engines(groups: Iterable[Group]) -> None:
    """Raise if members of *groups* run on different engines.

    Raises:
        LinkError: They do.
    """
    engines = {member.backend.name for group in groups for member in group.members}
    if len(engines) > 1:
        raise LinkError(f"instances of different engines cannot be linked: {' and '.join(sorted(engines))}")


async def acquire(activation: Activation, wanted: Callable[[], Iterable[Group]], max_waiters: int) -> list[Group]:
    """Take the locks of all groups that *wanted* names; they are asked for again until they have not changed meanwhile.

    Cancellation: none is held.
    """
    try:
        while True:
            for group in sorted(set(wanted()), key=lambda group: group.serial):
                if activation not in group.stack and not group.try_enter(activation):
                    await group.enter(activation, max_waiters)
            # What was waited for may have become part of another group, or no longer be wanted.
            groups = set(wanted())
            if groups == set(activation.groups):
                return list(groups)
            release(activation)
    except BaseException:
        release(activation)
        raise


def release(activation: Activation) -> None:
    """Give back all groups that *activation* holds."""
    for group in activation.groups:
        group.leave(activation)


def link_now(groups: Iterable[Group], activation: Activation | None = None) -> Group:
    """Merge *groups* without waiting; *activation* is what the current task works for.

    Raises:
        ReentrancyError: One of them is busy.
        LinkError: Their members run on different engines.
    """
    distinct = list(dict.fromkeys(groups))
    if len(distinct) > 1:
        check_engines(distinct)
    if len(distinct) > 1 and any(_is_busy(group, activation) for group in distinct):
        raise ReentrancyError("a function of another group of linked instances can only be stored while both are idle")
    return merge(distinct)


def _is_busy(group: Group, activation: Activation | None) -> bool:
    """Whether others than the chain of *activation*, which is in a host function, use *group*."""
    if group.parked:
        return True
    if not group.stack:
        return False
    top = group.stack[-1]
    return activation is None or not top.in_host or not activation.descends_from(top)
