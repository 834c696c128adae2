"""Engines chosen on the command line."""

from __future__ import annotations

from aiowasm.errors import AiowasmError
from aiowasm.store.engines import unavailable

__all__ = ("EngineError", "require")


class EngineError(AiowasmError):
    """An engine does not run here."""


def require(name: str) -> None:
    """Check that an engine runs here, if one was chosen.

    Raises:
        EngineError: It does not; the message says why.
    """
    why = None if name == "auto" else unavailable(name)
    if why is not None:
        raise EngineError(f"the {name} engine is not available: {why}")
