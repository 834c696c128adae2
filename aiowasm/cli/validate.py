"""`aiowasm validate`: whether modules are valid, or the place and the standard's words."""

from __future__ import annotations

import argparse
import sys

from aiowasm.cli import failures
from aiowasm.cli.failures import FileError
from aiowasm.cli.files import Source
from aiowasm.features import DEFAULT

__all__ = ("execute",)


def execute(options: argparse.Namespace) -> int:
    """Validate every file; return 1 if one of them is not a valid module."""
    status = 0
    for path in options.files:
        try:
            features = DEFAULT if options.features is None else options.features
            source = Source(path)
            source.validate(source.parse(features), features)
        except FileError as error:
            sys.stdout.flush()
            print(f"aiowasm: {failures.describe(error)}", file=sys.stderr)
            status = failures.FAILED
        else:
            print(f"{failures.printable(path)}: ok")
    return status
