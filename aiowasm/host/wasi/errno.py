"""Failures of WASI calls: the exception that carries an errno, and what the system's own errors mean to a guest."""

from __future__ import annotations

import errno as system
from typing import Final

from aiowasm.host.wasi.abi import Errno

__all__ = ("WasiError", "errno_of")


class WasiError(Exception):
    """A call fails with `errno`. File systems raise it; it never leaves the WASI layer.

    It is raised in the middle of ordinary work (a file that does not exist), so that it carries nothing else.
    """

    def __init__(self, errno: Errno) -> None:
        super().__init__(errno)
        self.errno = errno


_OTHER_NAMES: Final = {
    "E2BIG": Errno.TOOBIG,
    "EWOULDBLOCK": Errno.AGAIN,
    "EDEADLOCK": Errno.DEADLK,
    "EOPNOTSUPP": Errno.NOTSUP,
    "ENOTSUP": Errno.NOTSUP,
    "ECANCELED": Errno.CANCELED,
}


def _by_number() -> dict[int, Errno]:
    numbers: dict[int, Errno] = {}
    for member in Errno:
        number = getattr(system, "E" + member.name, None)
        if isinstance(number, int):
            numbers[number] = member
    for name, member in _OTHER_NAMES.items():
        number = getattr(system, name, None)
        if isinstance(number, int):
            numbers[number] = member
    return numbers


_BY_NUMBER: Final = _by_number()


def errno_of(error: BaseException) -> Errno:
    """Return what *error*, raised by the system, means to a guest; `IO` for what has no name in WASI."""
    if isinstance(error, WasiError):
        return error.errno
    if isinstance(error, OSError) and error.errno is not None:
        return _BY_NUMBER.get(error.errno, Errno.IO)
    if isinstance(error, OverflowError):
        return Errno.OVERFLOW
    if isinstance(error, MemoryError):
        return Errno.NOMEM
    if isinstance(error, UnicodeError):  # a name that the host's file names cannot spell
        return Errno.ILSEQ
    return Errno.IO
