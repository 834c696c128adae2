"""Bulk instructions in chunks: what is long enough to be noticed by others is done a piece at a time.

Bounds are checked and fuel is charged before the first chunk. Chunks go in the direction that overlap needs.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final

from aiowasm.engine.heap import Reference
from aiowasm.engine.memory import MemInst
from aiowasm.engine.table import TableInst

__all__ = ("CHUNK_ELEMENTS", "CHUNK_NBYTES", "copy_chunks", "fill_chunks", "fill_table_chunks", "init_chunks")

CHUNK_NBYTES: Final = 1 << 20
CHUNK_ELEMENTS: Final = 1 << 17

Chunks = Generator[None, None, None]


def fill_chunks(memory: MemInst, start: int, value: int, nbytes: int) -> Chunks:
    """`memory.fill`."""
    for done in range(0, nbytes, CHUNK_NBYTES):
        memory.fill(start + done, value, min(CHUNK_NBYTES, nbytes - done))
        yield


def fill_table_chunks(table: TableInst, start: int, value: Reference, count: int) -> Chunks:
    """`table.fill`."""
    for done in range(0, count, CHUNK_ELEMENTS):
        table.fill(start + done, value, min(CHUNK_ELEMENTS, count - done))
        yield


def copy_chunks(to: Any, target: int, of: Any, source: int, count: int, chunk: int) -> Chunks:
    """`memory.copy` and `table.copy`: backwards where a later chunk would read what an earlier one wrote."""
    starts = range(0, count, chunk)
    for done in reversed(starts) if to is of and target > source else starts:
        to.copy(target + done, of, source + done, min(chunk, count - done))
        yield


def init_chunks(to: Any, target: int, segment: Any, source: int, count: int, chunk: int) -> Chunks:
    """`memory.init` and `table.init`; *segment* is what it held when the instruction began."""
    for done in range(0, count, chunk):
        to.init(target + done, segment, source + done, min(chunk, count - done))
        yield
