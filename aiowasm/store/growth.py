"""What memories, tables and heaps take of the totals of a store and its namespaces, and how they grow.

Every growth by a guest comes here (`asks`), so that totals hold; a refused growth is what the standard says: -1.
"""

from __future__ import annotations

import gc
from typing import Any

from aiowasm.engine.heap import Heap
from aiowasm.engine.memory import MemInst
from aiowasm.engine.table import TableInst
from aiowasm.errors import LimitError, Trap, TrapCode
from aiowasm.store.limits import Limits

__all__ = ("Account", "LeasedHeap", "Owned", "grow", "may_grow", "take")

_PAGE_NBYTES = 65_536
_LEASE_NBYTES = 1 << 20


class Account:
    """What a store or a namespace has in use, of its totals; `outer` is the store's for a namespace's."""

    __slots__ = ("elements", "heap_nbytes", "heaps", "instances", "limits", "outer", "pages", "refused")

    def __init__(self, limits: Limits, outer: Account | None = None) -> None:
        self.limits = limits
        self.outer = outer
        self.pages = 0
        self.elements = 0
        self.instances = 0
        self.heap_nbytes = 0
        self.heaps: set[LeasedHeap] = set()
        self.refused = 0

    def missing(self, pages: int, elements: int) -> str | None:
        """Return the name of the limit that so much more would break, or None."""
        if self.pages + pages > self.limits.total_memory_pages:
            return "total_memory_pages"
        if self.elements + elements > self.limits.total_table_elements:
            return "total_table_elements"
        return self.outer.missing(pages, elements) if self.outer is not None else None

    def add(self, pages: int, elements: int) -> None:
        """Count so much more, or less."""
        account: Account | None = self
        while account is not None:
            account.pages += pages
            account.elements += elements
            account = account.outer

    def refuse(self) -> None:
        """Count a growth that was refused."""
        account: Account | None = self
        while account is not None:
            account.refused += 1
            account = account.outer

    def take_instance(self) -> None:
        """Count one more instance.

        Raises:
            LimitError: There are too many.
        """
        account: Account | None = self
        while account is not None:
            if account.instances >= account.limits.instances:
                raise LimitError(f"more than {account.limits.instances} instances", limit="instances")
            account = account.outer
        self.give_instance(1)

    def give_instance(self, change: int = -1) -> None:
        """Count one fewer."""
        account: Account | None = self
        while account is not None:
            account.instances += change
            account = account.outer

    def lease(self, nbytes: int) -> bool:
        """Take *nbytes* for a heap from the totals, if they are there."""
        account: Account | None = self
        while account is not None:
            if account.heap_nbytes + nbytes > account.limits.total_heap_bytes:
                return False
            account = account.outer
        self.give_back(-nbytes)
        return True

    def give_back(self, nbytes: int) -> None:
        """Give back what a heap had leased."""
        account: Account | None = self
        while account is not None:
            account.heap_nbytes -= nbytes
            account = account.outer

    def remember(self, heap: LeasedHeap) -> None:
        """Remember who has leased something."""
        account: Account | None = self
        while account is not None:
            account.heaps.add(heap)
            account = account.outer

    def forget(self, heap: LeasedHeap) -> None:
        """Forget who has given everything back."""
        account: Account | None = self
        while account is not None:
            account.heaps.discard(heap)
            account = account.outer


class LeasedHeap(Heap):
    """The heap of one instance: it leases what it uses, bit by bit, from the totals of its owners."""

    __slots__ = ("_account", "_ceiling")

    def __init__(self, account: Account, ceiling: int) -> None:
        super().__init__(0)
        self._account = account
        self._ceiling = ceiling

    def make_room(self, nbytes: int) -> int:
        """Return what will be used once *nbytes* are charged.

        Raises:
            Trap: "heap exhausted".
        """
        if self.used + nbytes <= self.limit or self._extend(nbytes):
            return self.used + nbytes
        before = self.used
        gc.collect()
        self._account_unused()
        # A guest that lives at its limit must not buy a collection of the whole process with each allocation.
        enough = before - self.used >= min(self._ceiling, max(self.limit, 1)) >> 4
        if enough and (self.used + nbytes <= self.limit or self._extend(nbytes)):
            return self.used + nbytes
        self._account.refuse()
        raise Trap(TrapCode.HEAP_EXHAUSTED)

    def _extend(self, nbytes: int) -> bool:
        needed = self.used + nbytes - self.limit
        if self.used + nbytes > self._ceiling:
            return False
        for more in (min(max(needed, _LEASE_NBYTES), self._ceiling - self.limit), needed):
            if self._account.lease(more):
                self.limit += more
                self._account.remember(self)
                return True
        return False

    def _account_unused(self) -> None:
        """Take back what other heaps of this account have leased and no longer use."""
        outermost = self._account
        while outermost.outer is not None:
            outermost = outermost.outer
        for heap in outermost.heaps:
            heap.shrink()

    def shrink(self) -> None:
        """Give back what is leased and not used."""
        unused = self.limit - self.used
        if unused > 0:
            self.limit = self.used
            self._account.give_back(unused)

    def close(self) -> None:
        """Give back everything: no code of the instance will run again. Objects that live on refund to nobody."""
        self._account.give_back(self.limit)
        self.limit = 0
        self._account.forget(self)


class Owned:
    """The store's side of a memory, table, global or tag: whose it is, and what it takes of the totals."""

    __slots__ = ("account", "instance", "size", "users")

    def __init__(self, instance: Any, account: Account) -> None:
        self.instance = instance
        self.account = account
        self.size = 0
        self.users = 1
        """Open instances that have it; nobody can reach it afterwards but through handles of the host."""


def _units(entity: MemInst | TableInst) -> int:
    return -(-len(entity.view) // _PAGE_NBYTES) if isinstance(entity, MemInst) else entity.size


def take(entity: MemInst | TableInst) -> None:
    """Count what *entity* has become."""
    owned = entity.owner
    if isinstance(owned, Owned):
        size = _units(entity)
        change = size - owned.size
        owned.size = size
        owned.account.add(*((change, 0) if isinstance(entity, MemInst) else (0, change)))


def may_grow(entity: MemInst | TableInst, delta: int) -> bool:
    """Whether *entity* could grow by *delta*, as far as its type, its own limit and the totals say."""
    if isinstance(entity, MemInst):
        nbytes = delta << entity.page_size_log2
        if entity.size + delta > entity.max_pages:
            return False
        pages, elements = -(-(len(entity.view) + nbytes) // _PAGE_NBYTES) - _units(entity), 0
    else:
        if entity.size + delta > entity.max_elements:
            return False
        pages, elements = 0, delta
    owned = entity.owner
    return not isinstance(owned, Owned) or owned.account.missing(pages, elements) is None


def grow(entity: MemInst | TableInst, delta: int, init: Any = None) -> int:
    """Grow *entity* within the totals; return its previous size, or -1."""
    previous = -1
    if may_grow(entity, delta):
        previous = entity.grow(delta) if isinstance(entity, MemInst) else entity.grow(delta, init)
    owned = entity.owner
    if isinstance(owned, Owned):
        if previous < 0:
            owned.account.refuse()
        else:
            take(entity)
            listeners = owned.instance.listeners
            if listeners and delta:
                listeners.grew(entity, previous, previous + delta)
    return previous
