"""Modules read from files: binary or text, whichever the file turns out to be."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

from aiowasm.cli.failures import FileError
from aiowasm.errors import AiowasmError, InvalidError
from aiowasm.features import ALL, Features
from aiowasm.limits import MAX_MODULE_NBYTES
from aiowasm.syntax.module import Module

if TYPE_CHECKING:
    from aiowasm.text.positions import Positions
    from aiowasm.validation.module import ValidatedModule

__all__ = ("Source", "is_binary", "read", "read_module")

_MAGIC = b"\0asm"


def read(path: str) -> bytes:
    """Return the bytes of a file (`-`: the standard input), if they are no more than a module may have.

    Raises:
        FileError: With the OSError or InvalidError that is the reason.
    """
    try:
        if path == "-":
            return _bounded(sys.stdin.buffer)
        with Path(path).open("rb") as file:
            return _bounded(file)
    except (OSError, AiowasmError, MemoryError) as error:
        if isinstance(error, OSError):
            error.filename = None  # the path stands before the line already
        raise FileError(path, error) from None
    except ValueError as error:  # a null character
        raise FileError(path, OSError(None, str(error))) from None


def _bounded(file: IO[bytes]) -> bytes:
    head = file.read(len(_MAGIC))
    if b"\0" in head and head != _MAGIC:
        return head  # neither text nor a module; a device could have more of that than memory holds
    try:
        nbytes = os.fstat(file.fileno()).st_size
    except OSError:  # not of the operating system
        nbytes = 0
    data = head + file.read(MAX_MODULE_NBYTES) if nbytes <= MAX_MODULE_NBYTES else b""
    if nbytes > MAX_MODULE_NBYTES or len(data) > MAX_MODULE_NBYTES:
        raise InvalidError(f"module too large: MAX_MODULE_NBYTES is {MAX_MODULE_NBYTES:,}")
    return data


def is_binary(path: str, data: bytes) -> bool:
    """Whether a file is to be read as a binary module: it begins like one, or has its suffix, or is no text."""
    suffix = Path(path).suffix.lower()
    if data.startswith(_MAGIC) or suffix == ".wasm":
        return True
    return suffix not in (".wat", ".wast") and b"\0" in data[:1024]


class Source:
    """A file with a module, whatever its format.

    Args:
        path: The file; `-` is the standard input.

    Raises:
        FileError: With the OSError or InvalidError that is the reason.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.data = read(path)
        self.binary = is_binary(path, self.data)
        self.positions: Positions | None = None

    def parse(self, features: Features = ALL, *, names: bool = False) -> Module:
        """Return the module, decoded or parsed but not validated.

        With *names*, the identifiers of a text become a name section.

        Raises:
            FileError: With the MalformedError or InvalidError that is the reason.
        """
        try:
            if self.binary:
                from aiowasm.binary.decoder import decode  # noqa: PLC0415 - one of two is needed

                return decode(self.data, features)
            from aiowasm.text.parser import parse_module  # noqa: PLC0415
            from aiowasm.text.positions import Positions  # noqa: PLC0415

            self.positions = Positions()
            return parse_module(self.data, features, names=names, positions=self.positions)
        except (AiowasmError, MemoryError) as error:
            raise FileError(self.path, error) from None

    def validate(self, module: Module, features: Features = ALL) -> ValidatedModule:
        """Validate the module.

        Raises:
            FileError: With the MalformedError or InvalidError that is the reason.
        """
        from aiowasm.validation.module import validate_module  # noqa: PLC0415 - not every command validates

        try:
            return validate_module(module, features)
        except (AiowasmError, MemoryError) as error:
            raise self.failure(error) from None

    def failure(self, error: Exception) -> FileError:
        """Return the failure of this file for *error*, with its place in the text if it is one."""
        if self.positions is not None and isinstance(error, InvalidError):
            error = self.positions.located(error)
        return FileError(self.path, error)


def read_module(path: str, *, check: bool, names: bool = False) -> Module:
    """Return the module in a file; *check*: only if it is valid with all features. *names*: as in `Source.parse`.

    Raises:
        FileError: With the OSError, MalformedError or InvalidError that is the reason.
    """
    source = Source(path)
    module = source.parse(names=names)
    if check:
        source.validate(module)
    return module
