"""`aiowasm wasm`: a module in the binary format."""

from __future__ import annotations

import argparse
import sys

from aiowasm.binary.encoder import encode
from aiowasm.cli.failures import FileError
from aiowasm.cli.files import read_module
from aiowasm.cli.output import write
from aiowasm.errors import AiowasmError

__all__ = ("execute",)


def execute(options: argparse.Namespace) -> int:
    """Encode a module."""
    module = read_module(options.file, check=not options.no_check, names=options.names)
    try:
        binary = encode(module)
    except (AiowasmError, MemoryError) as error:
        raise FileError(options.file, error) from None
    if options.output is None and sys.stdout.isatty():
        raise FileError(options.file, OSError(None, "a binary module is nothing for a terminal: use -o FILE"))
    write(options.output, binary)
    return 0
