"""`aiowasm wat`: a module as text."""

from __future__ import annotations

import argparse

from aiowasm.cli.failures import FileError
from aiowasm.cli.files import read_module
from aiowasm.cli.output import write
from aiowasm.errors import AiowasmError
from aiowasm.text.printer import print_module

__all__ = ("execute",)


def execute(options: argparse.Namespace) -> int:
    """Print a module."""
    module = read_module(options.file, check=not options.no_check)
    try:
        text = print_module(module)
    except (AiowasmError, MemoryError) as error:
        raise FileError(options.file, error) from None
    write(options.output, text.encode())
    return 0
