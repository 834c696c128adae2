"""`aiowasm run`: a module as a program under WASI, or one exported function of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio

from aiowasm.binary.decoder import decode
from aiowasm.binary.encoder import encode
from aiowasm.cli import failures
from aiowasm.cli.arguments import Directory
from aiowasm.cli.describe import import_types
from aiowasm.cli.engines import require
from aiowasm.cli.failures import FileError, MissingImportsError, printable
from aiowasm.cli.files import is_binary, parse, read
from aiowasm.cli.numbers import parse_values, print_value
from aiowasm.errors import AiowasmError, ExitError, FrameInfo, LinkError, Trap, WasmException
from aiowasm.features import DEFAULT, Features
from aiowasm.host.wasi import HostDir, Wasi
from aiowasm.host.wasi.abi import FUNCTIONS
from aiowasm.host.wasi.module import SNAPSHOT_0, SNAPSHOT_1
from aiowasm.store.limits import Limits
from aiowasm.store.module import Module
from aiowasm.store.store import Store
from aiowasm.syntax.types import FuncType

__all__ = ("execute",)

_FIRST_FRAMES = 30
_LAST_FRAMES = 10


def execute(options: argparse.Namespace) -> int:
    """Run a module; return the guest's exit status, or that of its failure."""
    require(options.engine)
    data = read(options.file)
    features = DEFAULT if options.features is None else options.features
    if not is_binary(options.file, data):
        # Traces then have the names of the text, and offsets in the binary it stands for.
        data = encode(parse(options.file, data, features, names=True))
    sys.stdout.flush()
    try:
        return anyio.run(_run, options, data, features)
    except Trap as trap:
        return _stopped(f"trap: {trap.code.value}{trap.detail and ' '}{trap.detail}", trap.frames)
    except WasmException as error:
        return _stopped("uncaught exception", (), *getattr(error, "__notes__", ()))


async def _run(options: argparse.Namespace, data: bytes, features: Features) -> int:
    wasi = Wasi(
        [Path(options.file).name, *([] if options.invoke else options.args)],
        dict(options.env),
        stdin=None if sys.stdin is None else sys.stdin.buffer,
        stdout=sys.stdout.buffer,
        stderr=sys.stderr.buffer,
        fs=_directories(options.dir),
    )
    with anyio.move_on_after(options.timeout):
        try:
            module = await Module.from_bytes(
                data, features=features, validation="eager" if options.validate else "lazy"
            )
            async with Store[None](engine=options.engine, features=features, limits=_limits(options)) as store:
                if options.invoke is not None:
                    return await _invoke(store, module, wasi, options.invoke, options.args)
                return _status((await store.run_command(module, wasi)).exit_code)
        except ExitError as error:
            return _status(error.exit_code)
        except LinkError as error:
            raise FileError(options.file, _missing(data, features) or error) from None
        except (Trap, WasmException):
            raise
        except AiowasmError as error:
            raise FileError(options.file, error) from None
    print(f"aiowasm: {printable(options.file)}: timed out after {options.timeout:g} s", file=sys.stderr)
    return failures.DEADLINE


def _limits(options: argparse.Namespace) -> Limits:
    standard = Limits()
    pages = standard.memory_pages if options.memory_pages is None else options.memory_pages
    return Limits(memory_pages=pages, total_memory_pages=max(pages, standard.total_memory_pages), fuel=options.fuel)


def _directories(directories: list[Directory]) -> Mapping[str, HostDir]:
    mounted = {}
    for directory in directories:
        try:
            mounted[directory.guest] = HostDir(directory.host, read_only=directory.read_only)
        except OSError as error:
            error.filename = None
            raise FileError(directory.host, error) from None
    return mounted


def _status(exit_code: int) -> int:
    """The exit status for a guest's: a process has eight bits for it, and failure must not become success."""
    return exit_code % 256 or (failures.FAILED if exit_code else 0)


async def _invoke(store: Store[Any], module: Module, wasi: Wasi, name: str, arguments: list[str]) -> int:
    exported = {export.name: export.type for export in module.exports if export.kind == "func"}
    functype = exported.get(name)
    if not isinstance(functype, FuncType):
        raise LinkError(f"unknown export: the module exports no function {name!r}")
    values = parse_values(functype.params, arguments)
    imported = {entry.module for entry in module.imports}
    imports = {where: host for where, host in wasi.imports().items() if where in imported}
    instance = await store.instantiate(module, imports=imports)
    result = await instance.call(name, *values)
    results = (result,) if len(functype.results) == 1 else result or ()
    for valtype, value in zip(functype.results, results, strict=True):
        print(print_value(valtype, value))
    return 0


def _missing(data: bytes, features: Features) -> LinkError | None:
    """All imports that nobody here provides, each with its type."""
    missing = [
        (module, name, type_)
        for module, name, type_ in import_types(decode(data, features))
        if module not in (SNAPSHOT_0, SNAPSHOT_1) or name not in FUNCTIONS
    ]
    return MissingImportsError(missing) if missing else None


def _stopped(what: str, frames: tuple[FrameInfo, ...], *notes: str) -> int:
    """Say why a guest was stopped, and where: its stack, the innermost frame first."""
    print(f"aiowasm: {printable(what)}", file=sys.stderr)
    left_out = len(frames) - _FIRST_FRAMES - _LAST_FRAMES
    shown = frames if left_out <= 0 else frames[:_FIRST_FRAMES]
    for frame in shown:
        print(f"    at {printable(str(frame))}", file=sys.stderr)
    if left_out > 0:
        print(f"    ... {left_out:,} more", file=sys.stderr)
        for frame in frames[-_LAST_FRAMES:]:
            print(f"    at {printable(str(frame))}", file=sys.stderr)
    for note in notes:
        for line in note.splitlines():
            print(printable(line), file=sys.stderr)
    return failures.TRAPPED
