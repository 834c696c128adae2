"""The native engine: copy-and-patch machine code on switchable guest stacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiowasm.engine.native.platform import why_not

if TYPE_CHECKING:
    from aiowasm.engine.native.engine import Native

__all__ = ("Native", "why_not")


def __getattr__(name: str) -> Any:
    # Importing the engine costs time that asking `why_not` must not.
    if name == "Native":
        from aiowasm.engine.native.engine import Native  # noqa: PLC0415

        return Native
    raise AttributeError(name)
