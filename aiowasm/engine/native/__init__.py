"""The native engine: copy-and-patch machine code on switchable guest stacks."""

from __future__ import annotations

from aiowasm.engine.native.platform import available

__all__ = ("available",)
