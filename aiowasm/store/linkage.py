"""Which groups entities belong to, and taking the locks of several groups to make them one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from aiowasm.engine.func import FuncInst
from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.memory import MemInst
from aiowasm.errors import ReentrancyError
from aiowasm.store.activation import Activation
from aiowasm.store.group import Group, merge
from aiowasm.store.growth import Owned

__all__ = ("acquire", "group_of", "link_now", "release")


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
    """
    distinct = list(dict.fromkeys(groups))
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
