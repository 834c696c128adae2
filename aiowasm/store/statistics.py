"""What is in use: the answer of `Store.statistics` and `Namespace.statistics`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiowasm.store.activation import State
from aiowasm.store.fuel import Tank
from aiowasm.store.growth import Account

if TYPE_CHECKING:
    from aiowasm.store.group import Group
    from aiowasm.store.instance import Instance

__all__ = ("Statistics", "statistics_of")


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a store or a namespace has in use.

    `activations` counts calls by state: "running", "yielded", "in host", "limiter". `waiters` queue for a group.
    """

    instances: int
    memory_pages: int
    table_elements: int
    heap_bytes: int
    fuel_consumed: int
    fuel_limit: int | None
    activations: dict[str, int]
    waiters: int
    refused_growths: int


def statistics_of(account: Account, tank: Tank, instances: Iterable[Instance]) -> Statistics:
    """Return the statistics of what *account* and *tank* are kept for, and of the open *instances*."""
    instances = tuple(instances)
    for instance in instances:
        instance.settle()
    groups: set[Group] = {instance.group for instance in instances}
    states = Counter({state.value: 0 for state in State if state not in (State.QUEUED, State.DONE)})
    for group in groups:
        for activation in (*group.stack, *group.parked):
            states[activation.state.value] += 1
    return Statistics(
        instances=account.instances,
        memory_pages=account.pages,
        table_elements=account.elements,
        heap_bytes=sum(instance.heap.used for instance in instances if instance.heap is not None),
        fuel_consumed=tank.used,
        fuel_limit=tank.limit,
        activations=dict(states),
        waiters=sum(len(group.queue) for group in groups),
        refused_growths=account.refused,
    )
