"""The native engine: copy-and-patch machine code on switchable guest stacks; and machine code that validates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiowasm.engine.native.platform import why_not

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from aiowasm.engine.native.engine import Native
    from aiowasm.validation.module import ValidatedModule

__all__ = ("Native", "scan", "why_not")


def scan(validated: ValidatedModule) -> Generator[None, None, Callable[[int], bool]]:
    """Return, made in steps, what tells of most bodies of *validated* that they are valid.

    Raises:
        RuntimeError: There is no machine code for this process; `why_not` says why.
    """
    from aiowasm.engine.native.platform import load_stencils  # noqa: PLC0415 - as below
    from aiowasm.engine.native.scanning.scanner import scanner_steps  # noqa: PLC0415

    return (yield from scanner_steps(validated, load_stencils())).accepts


def __getattr__(name: str) -> Any:
    # Importing the engine costs time that asking `why_not` must not.
    if name == "Native":
        from aiowasm.engine.native.engine import Native  # noqa: PLC0415

        return Native
    raise AttributeError(name)
