"""`aiowasm version`: versions, engines available here and why one is not."""

from __future__ import annotations

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version

from aiowasm.cli.arguments import ENGINES
from aiowasm.store.engines import unavailable

__all__ = ("execute",)

_LIBRARIES = ("anyio", "trio", "llvmlite")


def execute(options: argparse.Namespace) -> int:
    """Print a line for each."""
    print(f"aiowasm {_version('aiowasm') or '(not installed)'}")
    print(f"{platform.python_implementation()} {platform.python_version()} on {platform.system()} {platform.machine()}")
    for library in _LIBRARIES:
        found = _version(library)
        print(f"{library} {found}" if found else f"{library}: not installed")
    for engine in ENGINES[1:]:
        why = unavailable(engine)
        print(f"engine {engine}: {'available' if why is None else f'not available: {why}'}")
    return 0


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
