"""What differs between processors when code is put together at run time; the builder's counterpart is `builder`."""

from __future__ import annotations

from typing import Final

from aiowasm.engine.native.encoding.aarch64 import AArch64
from aiowasm.engine.native.encoding.base import Encoding, Hole, Kept, ReachError
from aiowasm.engine.native.encoding.x86_64 import X86

__all__ = ("ENCODINGS", "Encoding", "Hole", "Kept", "ReachError")

ENCODINGS: Final[dict[str, type[Encoding]]] = {kind.machine: kind for kind in (X86, AArch64)}
"""By the name of the machine, as `platform.machine` says it."""
