"""Where exceptions go from the calls of a module's code, in a form that `rt_unwind` reads.

Python fills this in: the first throw that passes a return address goes by Python (`execution.py`), which tells us what
it found out. What is not here, `rt_unwind` leaves to Python again. Executions of other threads may be reading at any
time: records never change, and one store makes a record known.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from typing import Any, Final

from aiowasm.engine.native.code import publish
from aiowasm.engine.native.layout import Handler
from aiowasm.syntax.guard import Guard

__all__ = ("Clause", "Handlers")

_NBYTES_MAX: Final = 1 << 20
"""What the records of one module take at most: nesting makes many clauses of little code."""
_CLAUSES_MAX: Final = 32
_HEAD: Final = struct.Struct("<QQq").pack_into
_CLAUSE: Final = struct.Struct("<IIQiI").pack_into
_guard: Final = Guard()
_EMPTY: Final = (ctypes.c_uint64 * Handler.BUCKETS)()

Clause = tuple[int, int, int, int, int]
"""Kind, place of the tag in the instance, address to go on at, displacement of the payload's slots, their number."""


class Handlers:
    """The records of one module, in buckets by the lower bits of return addresses.

    `address` is where the address of the table is: that changes once, when there is a first record.
    """

    __slots__ = ("_cell", "_known", "_nbytes", "_table", "address")

    def __init__(self) -> None:
        self._cell = (ctypes.c_uint64 * 1)(ctypes.addressof(_EMPTY))
        self._known: dict[int, Any] = {}
        self._nbytes = 0
        self._table: Any = None
        self.address = ctypes.addressof(self._cell)

    def add(self, address: int, delta: int, slots: int, clauses: Iterable[Clause]) -> None:
        """Make known where exceptions go from the call that returns to *address*, unless that takes too much.

        Args:
            address: The return address.
            delta: What the code there takes off the frame pointer.
            slots: Of the function's frame.
            clauses: Those around the call, innermost first.
        """
        with _guard:
            if address not in self._known:
                self._add(address, delta, slots, clauses)

    def _add(self, address: int, delta: int, slots: int, clauses: Iterable[Clause]) -> None:
        listed = [*clauses, (Handler.END, slots, 0, 0, 0)]
        nbytes = Handler.CLAUSES + Handler.CLAUSE_NBYTES * len(listed)
        if len(listed) > _CLAUSES_MAX or self._nbytes + nbytes > _NBYTES_MAX:
            return
        if self._table is None:
            self._table = (ctypes.c_uint64 * Handler.BUCKETS)()
            publish(ctypes.addressof(self._table))
            self._cell[0] = ctypes.addressof(self._table)
        bucket = address & Handler.BUCKETS - 1
        record = (ctypes.c_uint64 * (nbytes // 8))()
        _HEAD(record, 0, address, self._table[bucket], delta)
        for number, clause in enumerate(listed):
            _CLAUSE(record, Handler.CLAUSES + Handler.CLAUSE_NBYTES * number, *clause)
        self._nbytes += nbytes
        self._known[address] = record
        publish(ctypes.addressof(record))
        self._table[bucket] = ctypes.addressof(record)
