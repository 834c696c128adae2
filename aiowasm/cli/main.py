"""The command `aiowasm`: its arguments, and what its exit status is where a command fails.

Each command is a module that is imported when it is asked for, so that `aiowasm --help` costs nothing else.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from aiowasm.cli import arguments, failures

__all__ = ("main",)

_DESCRIPTION = "An async-native WebAssembly runtime."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="aiowasm", description=_DESCRIPTION, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary, add in _COMMANDS:
        command = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        add(command)
        command.set_defaults(command=name)
    return parser


def _run(parser: argparse.ArgumentParser) -> None:
    arguments.add_engine(parser)
    arguments.add_features(parser)
    parser.add_argument(
        "--invoke", metavar="NAME", help="call this exported function with ARGS as numbers instead of running a command"
    )
    parser.add_argument(
        "--env", metavar="K=V", action="append", default=[], type=arguments.variable, help="an environment variable"
    )
    parser.add_argument("--env-inherit", action="store_true", help="pass the environment on; --env comes on top of it")
    parser.add_argument(
        "--dir",
        metavar="HOST[::GUEST][:ro]",
        action="append",
        default=[],
        type=arguments.directory,
        help="let the guest use a folder, under another name if one is given; :ro: reading only",
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        action="append",
        default=[],
        type=arguments.address,
        help="let the guest accept connections; the descriptors of listeners follow those of folders, the first is 3",
    )
    parser.add_argument(
        "--stub-imports",
        action="store_true",
        help="let functions that nobody provides trap when they are called, rather than refuse the module",
    )
    parser.add_argument("--fuel", metavar="N", type=arguments.natural, help="trap after this many instructions")
    parser.add_argument("--timeout", metavar="S", type=arguments.seconds, help="stop after this many seconds")
    parser.add_argument(
        "--memory-pages", metavar="N", type=arguments.natural, help="let no memory exceed this many pages of 64 KiB"
    )
    parser.add_argument(
        "--validate", action="store_true", help="validate all functions first, not each before it first runs"
    )
    parser.add_argument("file", metavar="FILE", help="a module, binary or text")
    parser.add_argument("args", metavar="ARGS", nargs=argparse.REMAINDER, help="arguments of the guest")


def _validate(parser: argparse.ArgumentParser) -> None:
    arguments.add_features(parser)
    parser.add_argument("files", metavar="FILE", nargs="+", help="a module, binary or text")


def _inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("file", metavar="FILE", help="a module, binary or text")


def _convert(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a module, binary or text")
    parser.add_argument("-o", "--output", metavar="FILE", help="write here instead of to the standard output")
    parser.add_argument("--no-check", action="store_true", help="convert a module that is not valid, too")


def _wasm(parser: argparse.ArgumentParser) -> None:
    _convert(parser)
    parser.add_argument("--names", action="store_true", help="keep the identifiers of a text, in a name section")


def _wast(parser: argparse.ArgumentParser) -> None:
    arguments.add_engine(parser)
    arguments.add_features(parser, "what the upstream folder of each script assumes")
    parser.add_argument("paths", metavar="FILE|FOLDER", nargs="+", help="a script, or a folder of them, recursively")


def _version(_parser: argparse.ArgumentParser) -> None:
    """It takes nothing."""


_COMMANDS: tuple[tuple[str, str, Callable[[argparse.ArgumentParser], None]], ...] = (
    ("run", "Run a WASI command, or a function of a module.", _run),
    ("validate", "Say whether modules are valid, or where and why not.", _validate),
    ("inspect", "Show what a module imports, exports and needs.", _inspect),
    ("wat", "Convert a module to text.", _convert),
    ("wasm", "Convert a module to binary.", _wasm),
    ("wast", "Run test scripts.", _wast),
    ("version", "Show versions and which engines run here.", _version),
)


def _prepare_streams() -> None:
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Whoever started us closed it: the next file we open must not be taken for it.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a guest's names must not be what we fail at


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (by default the process's) and return the exit status."""
    _prepare_streams()
    options = _parser().parse_args(argv)
    try:
        # By name, so that one command does not import what another needs.
        status: int = import_module(f"aiowasm.cli.{options.command}").execute(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return failures.INTERRUPTED
    except BrokenPipeError:
        # Who read our output has left. Python would complain when it flushes at exit: let it flush elsewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failures.BROKEN_PIPE
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        print(f"aiowasm: {failures.describe(error)}", file=sys.stderr)
        return failures.FAILED
    return status
