"""`aiowasm run`: a module as a program under WASI, or one exported function of it."""

from __future__ import annotations

import argparse
import sys
from functools import cached_property
from typing import Any

import anyio

from aiowasm.binary.decoder import decode
from aiowasm.binary.encoder import encode
from aiowasm.cli import failures
from aiowasm.cli.describe import import_types
from aiowasm.cli.engines import require
from aiowasm.cli.failures import FileError, MissingImportsError, printable
from aiowasm.cli.files import Source
from aiowasm.cli.grants import granted, limits
from aiowasm.cli.numbers import parse_values, print_value
from aiowasm.errors import AiowasmError, ExitError, FrameInfo, InvalidError, LinkError, Trap, WasmException
from aiowasm.features import ALL, DEFAULT, Features
from aiowasm.host.module import HostModule
from aiowasm.host.stubs import stub_imports
from aiowasm.host.wasi import Wasi
from aiowasm.host.wasi.abi import FUNCTIONS, SNAPSHOTS
from aiowasm.store.module import Module
from aiowasm.store.store import Store
from aiowasm.syntax import module as syntax
from aiowasm.syntax.types import FuncExternType, FuncType

__all__ = ("execute",)

_FIRST_FRAMES = 30
_LAST_FRAMES = 10


def execute(options: argparse.Namespace) -> int:
    """Run a module; return the guest's exit status, or that of its failure."""
    require(options.engine)
    features = DEFAULT if options.features is None else options.features
    program = Program(options.file, features)
    sys.stdout.flush()
    try:
        return anyio.run(_run, options, program, features)
    except Trap as trap:
        return _stopped(f"trap: {trap.code.value}{trap.detail and ' '}{trap.detail}", program, trap.frames)
    except WasmException as error:
        return _stopped("uncaught exception", program, (), *getattr(error, "__notes__", ()))


class Program:
    """What is run: the binary, and where its code stands in the text if it was one."""

    def __init__(self, path: str, features: Features) -> None:
        self.source = Source(path)
        self.binary = self.source.data
        self.module: syntax.Module | None = None
        if not self.source.binary:
            # Traces then have the names of the text, and offsets in the binary it stands for.
            self.module = self.source.parse(features, names=True)
            self.binary = encode(self.module)

    @cached_property
    def _funcs(self) -> syntax.Funcs:
        return decode(self.binary, ALL).funcs

    def _in_text(self, funcidx: int, offset: int) -> int | None:
        """The offset in the code of the text for one in the binary: functions are the same, byte for byte."""
        if self.module is None:
            return None
        index = funcidx - sum(isinstance(entry.type, FuncExternType) for entry in self.module.imports)
        if not 0 <= index < len(self.module.funcs):
            return None
        return offset - self._funcs[index].start + self.module.funcs[index].start

    def failure(self, error: AiowasmError) -> FileError:
        """Return the failure for an error of running it."""
        if isinstance(error, InvalidError) and error.offset is not None and error.funcidx is not None:
            offset = self._in_text(error.funcidx, error.offset)
            if offset is not None:
                error.offset = offset
        return self.source.failure(error)

    def line(self, frame: FrameInfo) -> str:
        """The line of a frame, in parentheses, or nothing."""
        offset = None if frame.offset is None else self._in_text(frame.funcidx, frame.offset)
        if offset is None or self.source.positions is None:
            return ""
        place = self.source.positions.place(offset)
        return f" (line {place[0]})" if place else ""


async def _run(options: argparse.Namespace, program: Program, features: Features) -> int:
    stubs: dict[str, HostModule] = {}
    with anyio.move_on_after(options.timeout), granted(options) as wasi:
        try:
            module = await Module.from_bytes(
                program.binary, features=features, validation="eager" if options.validate else "lazy"
            )
            if options.stub_imports:
                stubs = stub_imports(module)
            async with Store[None](engine=options.engine, features=features, limits=limits(options)) as store:
                if options.invoke is not None:
                    return await _invoke(store, module, wasi, stubs, options.invoke, options.args)
                return _status((await store.run_command(module, wasi, imports=stubs)).exit_code)
        except ExitError as error:
            return _status(error.exit_code)
        except LinkError as error:
            raise FileError(options.file, _missing(program.binary, features, stubs) or error) from None
        except (Trap, WasmException):
            raise
        except AiowasmError as error:
            raise program.failure(error) from None
    print(f"aiowasm: {printable(options.file)}: timed out after {options.timeout:g} s", file=sys.stderr)
    return failures.DEADLINE


def _status(exit_code: int) -> int:
    """The exit status for a guest's: a process has eight bits for it, and failure must not become success."""
    return exit_code % 256 or (failures.FAILED if exit_code else 0)


async def _invoke(
    store: Store[Any], module: Module, wasi: Wasi, stubs: dict[str, HostModule], name: str, arguments: list[str]
) -> int:
    exported = {export.name: export.type for export in module.exports if export.kind == "func"}
    functype = exported.get(name)
    if not isinstance(functype, FuncType):
        raise LinkError(f"unknown export: the module exports no function {name!r}")
    values = parse_values(functype.params, arguments)
    instance = await store.instantiate(module, imports={**wasi.imports(module), **stubs})
    result = await instance.call(name, *values)
    results = (result,) if len(functype.results) == 1 else result or ()
    for valtype, value in zip(functype.results, results, strict=True):
        print(print_value(valtype, value))
    return 0


def _missing(data: bytes, features: Features, stubs: dict[str, HostModule]) -> LinkError | None:
    """All imports that nobody here provides, each with its type."""
    there = {name: host.definitions for name, host in stubs.items()} | dict.fromkeys(SNAPSHOTS, FUNCTIONS)
    missing = [
        (module, name, type_)
        for module, name, type_ in import_types(decode(data, features))
        if name not in there.get(module, ())
    ]
    return MissingImportsError(missing) if missing else None


def _stopped(what: str, program: Program, frames: tuple[FrameInfo, ...], *notes: str) -> int:
    """Say why a guest was stopped, and where: its stack, the innermost frame first."""
    print(f"aiowasm: {printable(what)}", file=sys.stderr)
    left_out = len(frames) - _FIRST_FRAMES - _LAST_FRAMES
    shown = frames if left_out <= 0 else frames[:_FIRST_FRAMES]
    for frame in shown:
        print(f"    at {printable(str(frame))}{program.line(frame)}", file=sys.stderr)
    if left_out > 0:
        print(f"    ... {left_out:,} more", file=sys.stderr)
        for frame in frames[-_LAST_FRAMES:]:
            print(f"    at {printable(str(frame))}{program.line(frame)}", file=sys.stderr)
    for note in notes:
        for line in note.splitlines():
            print(printable(line), file=sys.stderr)
    return failures.TRAPPED
