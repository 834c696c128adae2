"""Host functions that programs of several modules import: what they compute depends on their arguments alone.

Values are bits here, so that every engine passes every NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from aiowasm.syntax.types import F64, I32, I64, FuncType, NumType

__all__ = ("HOSTS", "Host")

_MASK32 = (1 << 32) - 1
_MASK64 = (1 << 64) - 1


class Host(NamedTuple):
    """A function of the host on bits."""

    params: tuple[NumType, ...]
    results: tuple[NumType, ...]
    compute: Callable[..., tuple[int, ...]]

    @property
    def functype(self) -> FuncType:
        """Its type."""
        return FuncType(self.params, self.results)


def _mix(a: int, b: int, c: int) -> tuple[int, ...]:
    return ((31 * a + 17 * b ^ c) & _MASK64,)


HOSTS: dict[str, Host] = {
    "mix": Host((I32, I64, F64), (I64,), _mix),
    "pair": Host((I64,), (F64, I32), lambda bits: (bits ^ 0x3FF0 << 48, bits >> 7 & _MASK32)),
    "note": Host((I32,), (), lambda _bits: ()),
    "many": Host((I32,) * 9, (I32,), lambda *bits: (sum(n * each for n, each in enumerate(bits)) & _MASK32,)),
}
