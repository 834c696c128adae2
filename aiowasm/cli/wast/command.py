"""`aiowasm wast`: scripts run one after another, a line for each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from aiowasm.cli import failures
from aiowasm.cli.engines import require
from aiowasm.cli.failures import FileError, printable
from aiowasm.cli.files import read
from aiowasm.cli.wast.profiles import profile
from aiowasm.cli.wast.runner import Report, run_commands
from aiowasm.errors import MalformedError
from aiowasm.features import Features
from aiowasm.store.engines import available, make_engine
from aiowasm.text.script import Command, parse_script

__all__ = ("execute", "run_file", "scripts")

_MAX_LINES = 20


def execute(options: argparse.Namespace) -> int:
    """Run all scripts; return 1 if a command failed or there is none."""
    require(options.engine)
    passed = failed = skipped = 0
    for path in scripts(options.paths):
        report = run_file(path, options.engine, options.features)
        passed += report.passed
        failed += len(report.failures)
        skipped += len(report.skips)
        _print(path, report)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return failures.FAILED if failed or not passed + skipped else 0


def scripts(paths: Iterable[str]) -> Iterator[Path]:
    """The scripts that files and folders stand for, folders searched recursively and in order."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from sorted(path.rglob("*.wast"))
        else:
            yield path


def run_file(path: Path, engine: str, features: Features | None) -> Report:
    """Run one script on a new engine, under the profile of its folder unless there are *features*."""
    try:
        commands = parse_script(read(str(path)))
    except (FileError, MalformedError) as error:
        return Report(failures=[(0, failures.describe(getattr(error, "error", error)))])
    assumed = profile(path) if features is None else features
    if isinstance(assumed, str):
        return Report(skips=[(command.line, f"{assumed} is not supported") for command in _each(commands)])
    if engine != "auto":
        return run_commands(commands, assumed, make_engine(engine))
    report = Report()
    for name in available():
        report = run_commands(commands, assumed, make_engine(name))
        # Instances that share entities must be of one engine, so a script is run again as a whole.
        if not report.skips:
            break
    return report


def _each(commands: Iterable[Command]) -> Iterator[Command]:
    """Commands, those of threads included."""
    for command in commands:
        yield command
        yield from _each(getattr(command, "commands", ()))


def _print(path: Path, report: Report) -> None:
    word = "FAIL" if report.failures else "skip" if report.skips and not report.passed else "ok  "
    counts = [f"{report.passed} passed"]
    if report.failures:
        counts.append(f"{len(report.failures)} failed")
    if report.skips:
        counts.append(f"{len(report.skips)} skipped")
    reasons = dict.fromkeys(reason for _line, reason in report.skips)
    why = f" ({'; '.join(map(printable, reasons))})" if reasons else ""
    print(f"{word} {printable(str(path))}: {', '.join(counts)}{why}")
    for line, what in report.failures[:_MAX_LINES]:
        print(f"     line {line}: {printable(what)}" if line else f"     {printable(what)}")
    if len(report.failures) > _MAX_LINES:
        print(f"     and {len(report.failures) - _MAX_LINES} more")
    sys.stdout.flush()
