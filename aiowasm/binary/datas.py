"""Data segments as compilers write them, tens of thousands in a row: read many at a time, at a third of the cost.

Whatever is unusual about one, errors included, is left to the decoder.
"""

from __future__ import annotations

from array import array

from aiowasm.syntax.leb128 import read_s, read_u
from aiowasm.syntax.module import Datas

__all__ = ("read_plain",)

_I32_CONST, _END = 0x41, 0x0B
_HEADER_NBYTES = 13
"""At most: flags, `i32.const` and its number, `end`, the size."""


def read_plain(buffer: bytes, pos: int, end: int, count: int, places: array[int], datas: Datas) -> int:
    """Read up to *count* plain segments at *pos* into *datas*, and where they begin into *places*.

    Returns where the first one begins that was not read: for whatever reason, another one has to look at it.

    Raises:
        MalformedError: A number is malformed.
    """
    add_place, add_memidx, add_address = places.append, datas.memidxs.append, datas.addresses.append
    add_expr_start, add_expr_end = datas.expr_starts.append, datas.expr_ends.append
    add_start, add_end = datas.starts.append, datas.ends.append
    last = end - _HEADER_NBYTES
    for _ in range(count):
        if pos > last or buffer[pos] or buffer[pos + 1] != _I32_CONST:
            break
        address, after = read_s(buffer, pos + 2, 32)
        if buffer[after] != _END:
            break
        size, start = read_u(buffer, after + 1, 32)
        if size > end - start:
            break
        add_place(pos)
        add_memidx(0)
        add_expr_start(pos + 1)
        add_expr_end(after + 1)
        add_address(address & 0xFFFF_FFFF)
        add_start(start)
        pos = start + size
        add_end(pos)
    return pos
