"""What commands write: to a file, or to the standard output."""

from __future__ import annotations

import sys
from pathlib import Path

from aiowasm.cli.failures import FileError

__all__ = ("write",)


def write(path: str | None, data: bytes) -> None:
    """Write *data* to a file, or to the standard output if there is none or it is `-`.

    Raises:
        FileError: With the OSError that is the reason.
    """
    if path is None or path == "-":
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        error.filename = None
        raise FileError(path, error) from None
