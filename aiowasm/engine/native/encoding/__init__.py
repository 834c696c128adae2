"""What differs between processors when code is put together at run time; the builder's counterpart is `builder`."""

from __future__ import annotations

from typing import Final

from aiowasm.engine.native.encoding.base import Encoding, Hole, Kept
from aiowasm.engine.native.encoding.x86_64 import X86

__all__ = ("ENCODINGS", "Encoding", "Hole", "Kept")

ENCODINGS: Final[dict[str, type[Encoding]]] = {X86.machine: X86}
"""By the name of the machine, as `platform.machine` says it."""
