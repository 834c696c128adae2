"""Where trio may raise KeyboardInterrupt: in code of the application, never between two lines of the store's own.

trio raises it wherever the main thread happens to be, unless a frame is marked; then the main task gets it at its next
checkpoint. All of the store's functions are marked, and with them what they call, slices too: they end soon. Where they
call the application's code the mark is taken back. asyncio needs none of this: its main task is cancelled.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final, TypeVar

__all__ = ("interruptible", "protect")

F = TypeVar("F", bound=Callable[..., Any])


class _Marked:
    """What trio looks at of a function: closures are made anew for each binding, and must not be kept."""

    def __init__(self, code: CodeType) -> None:
        self.__code__ = code


_interruptible: Final[dict[CodeType, _Marked]] = {}
_protected = False


def interruptible(function: F) -> F:
    """Mark a function that calls the application's code: an interrupt in there, or in what it does itself, is safe."""
    code = function.__code__
    if code not in _interruptible:
        marked = _interruptible[code] = _Marked(code)
        if _protected:
            _permit(marked)
    return function


def protect() -> None:
    """Mark the functions of the store; called when a loop of trio first sees one."""
    global _protected  # noqa: PLW0603 - marks are the process's
    if _protected:
        return
    enable = _trio().enable_ki_protection
    package = __name__.rpartition(".")[0]
    for name, module in list(sys.modules.items()):
        if name.startswith(package):
            for function in _functions(module):
                enable(function)
    for marked in _interruptible.values():
        _permit(marked)
    _protected = True  # at last: an interrupt may come here too


def _permit(marked: _Marked) -> None:
    _trio().disable_ki_protection(marked)


def _trio() -> Any:
    """Return `trio.lowlevel`: anyio has no interface to this, and the loop that runs has imported it."""
    return sys.modules["trio"].lowlevel


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """Yield the functions and methods that *module* defines; those made inside of functions are called by them."""
    for value in vars(module).values():
        members = vars(value).values() if isinstance(value, type) else (value,)
        for member in members:
            if isinstance(member, property):
                found = (member.fget, member.fset)
            else:
                found = (getattr(member, "__func__", member), None)
            for function in found:
                if isinstance(function, FunctionType) and function.__module__ == module.__name__:
                    yield function
