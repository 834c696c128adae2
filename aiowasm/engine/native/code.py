"""Executable memory: one region mapped twice, writable here and executable there, never both at once.

Code is only ever added: nothing that runs is patched. `find` maps an address back to the code it belongs to, by a
number: an object for each compiled function would be one more for Python's collector to visit. Stores of several
threads may share a module, so adding and finding take turns.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from array import array
from bisect import bisect_right, insort
from typing import Any, Final
from weakref import WeakValueDictionary

from aiowasm.syntax.guard import Guard

__all__ = ("Arena", "CodeSpace", "address_of", "find", "generation", "publish", "use_flush")

_ALIGN: Final = 16
_flush: Final[list[Any]] = []
_GRANULE: Final = 1 << 16
_guard: Final = Guard()


def address_of(buffer: Any) -> int:
    """Address of a writable buffer's first byte (0 if it is empty); the buffer is not kept alive."""
    if not len(buffer):
        return 0
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def use_flush(address: int) -> None:
    """Call the routine at *address*, void flush(start, end), for all code added from now on.

    Processors need it whose caches of instructions do not see what is written.
    """
    _flush[:] = [ctypes.PYFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(address)]


def publish(address: int) -> None:
    """Let machine code in other threads see what was written before, as soon as it sees what is written from now on.

    Args:
        address: Of something that was written.
    """
    if _flush:
        _flush[0](address, address + 1)


class _View(ctypes.Structure):
    """The C API's Py_buffer, as much of it as is needed and room for the rest."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("rest", ctypes.c_char * 96),
    )


def _address_of_readonly(mapping: mmap.mmap) -> int:
    view = _View()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(mapping), ctypes.byref(view), 0)
    address: int = view.buf
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
    return address


class Arena:
    """One region of *nbytes*: `put` adds code of *owner* and returns its address."""

    def __init__(self, nbytes: int, owner: Any = None) -> None:
        descriptor = os.memfd_create("aiowasm", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, nbytes)
            self._writable = mmap.mmap(descriptor, nbytes, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            self._executable = mmap.mmap(descriptor, nbytes, prot=mmap.PROT_READ | mmap.PROT_EXEC)
        finally:
            os.close(descriptor)
        self.base = _address_of_readonly(self._executable)
        self.nbytes = nbytes
        self.owner = owner
        self._used = 0
        self.starts = array("Q")
        self.numbers = array("q")
        with _guard:
            _arenas[self.base] = self
            insort(_bases, self.base)

    def __del__(self) -> None:
        base = getattr(self, "base", None)
        if base is not None and not sys.is_finalizing():
            with _guard:
                at = bisect_right(_bases, base) - 1
                if at >= 0 and _bases[at] == base:
                    del _bases[at]
                generation[0] += 1

    def close(self) -> None:
        """Add no more code: another process does."""
        self._used = self.nbytes

    def fits(self, nbytes: int) -> bool:
        """Whether *nbytes* more can be added."""
        return self._used + nbytes <= self.nbytes

    def put(self, code: bytes, number: int = -1) -> int:
        """Add *code*; `find` returns *number* for addresses in it. Nobody else may be doing it."""
        at = self._used
        self._writable[at : at + len(code)] = code
        if _flush:
            _flush[0](self.base + at, self.base + at + len(code))
        self._used = at + len(code) + _ALIGN - 1 & -_ALIGN
        self.starts.append(self.base + at)
        self.numbers.append(number)
        return self.base + at


_arenas: WeakValueDictionary[int, Arena] = WeakValueDictionary()
_bases: list[int] = []
generation = [0]
"""Counts arenas that are gone: what is remembered by address must be forgotten then."""


def _forked() -> None:
    """In the child of a fork: its pages of code are its parent's and siblings' too, so it leaves them as they are."""
    for arena in list(_arenas.values()):
        arena.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def find(address: int) -> tuple[int, Any, int] | None:
    """Return (start, owner, number) of the code at *address*, or None."""
    with _guard:
        at = bisect_right(_bases, address) - 1
        arena = _arenas.get(_bases[at]) if at >= 0 else None
        if arena is None or address >= arena.base + arena.nbytes:
            return None
        index = bisect_right(arena.starts, address) - 1
        return (arena.starts[index], arena.owner, arena.numbers[index]) if index >= 0 else None


class CodeSpace:
    """Arenas of one owner, made as needed."""

    def __init__(self, expected_nbytes: int = 0, owner: Any = None) -> None:
        self._arenas: list[Arena] = []
        self._expected = expected_nbytes
        self._owner = owner

    def put(self, code: bytes, number: int = -1) -> int:
        """Add *code* and return its address; *number* is for `find`."""
        with _guard:
            if not self._arenas or not self._arenas[-1].fits(len(code)):
                nbytes = max(len(code), self._expected if not self._arenas else 4 * _GRANULE, _GRANULE)
                self._arenas.append(Arena(-(-nbytes // _GRANULE) * _GRANULE, self._owner))
            return self._arenas[-1].put(code, number)
