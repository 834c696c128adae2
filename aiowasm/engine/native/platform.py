"""Whether this process can run machine code of ours, and the stencils for its processor. Never raises on import."""

from __future__ import annotations

import mmap
import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from aiowasm.syntax.guard import Guard

if TYPE_CHECKING:
    from aiowasm.engine.native.stencils import Stencils

__all__ = ("load_stencils", "why_not")

_loading = Guard()
_V2 = frozenset(("ssse3", "sse4_1", "sse4_2", "popcnt", "cx16"))
_V3 = _V2 | {"avx", "avx2", "bmi1", "bmi2", "fma", "movbe", "f16c", "xsave"}


def _flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def _level(machine: str) -> str | None:
    if machine == "aarch64":
        return machine
    flags = _flags()
    if flags >= _V3 and "abm" in flags | {"lzcnt"} & flags:
        return "x86-64-v3"
    return "x86-64-v2" if flags >= _V2 else None


def _blob() -> Path | str:
    """The file with the stencils, or why there is none."""
    if sys.implementation.name != "cpython":
        return f"the native engine needs CPython, not {sys.implementation.name}"
    if sys.platform != "linux":
        return f"the native engine does not run on {sys.platform} yet"
    machine = platform.machine()
    if machine not in ("x86_64", "aarch64") or sys.maxsize < 1 << 32:
        return f"the native engine does not run on {machine} yet"
    level = _level(machine)
    if level is None:
        return "the processor is older than x86-64-v2"
    path = Path(__file__).with_name(f"{level}.stencils")
    if not path.is_file():
        return "this installation was built without machine code (llvmlite was missing)"
    return path


def _probe() -> str | None:
    """Why executable memory cannot be had."""
    if not hasattr(os, "memfd_create"):
        return "memfd_create is missing"
    try:
        descriptor = os.memfd_create("aiowasm", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, mmap.PAGESIZE)
            mmap.mmap(descriptor, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
        finally:
            os.close(descriptor)
    except OSError as error:
        return f"executable memory is refused: {error}"
    return None


@cache
def why_not() -> str | None:
    """Return None if the native engine can run here, else why not."""
    blob = _blob()
    return blob if isinstance(blob, str) else _probe()


def load_stencils() -> Stencils:
    """Return the stencils for this processor: always the same.

    Raises:
        RuntimeError: If there are none; the message is that of `why_not`.
    """
    with _loading:
        return _load()


@cache
def _load() -> Stencils:
    from aiowasm.engine.native.stencils import Stencils  # noqa: PLC0415 - costs time that `why_not` must not

    blob = _blob()
    if isinstance(blob, str):
        raise RuntimeError(blob)
    return Stencils(blob)
