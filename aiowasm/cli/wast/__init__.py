"""Running `.wast` scripts, the format of the standard's test suite."""

from __future__ import annotations

import argparse

__all__ = ("execute",)


def execute(options: argparse.Namespace) -> int:
    """Run the command `aiowasm wast`."""
    from aiowasm.cli.wast import command  # noqa: PLC0415 - the runner is of use without the command

    return command.execute(options)
