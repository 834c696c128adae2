"""The lock of what all threads of a process share: closed types, pages of code, where bodies are scanned."""

from __future__ import annotations

import os
import threading
from types import TracebackType

__all__ = ("Guard",)


class Guard:
    """A lock that its holder may take again (Python's collector runs anywhere), and that a forked child has anew.

    It is held for microseconds, and never while a guest runs or anything is awaited.
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            # Whoever held it is not there in the child.
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._lock.release()
