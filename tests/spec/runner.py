"""Runs a script of the suite on the direct interpreter, without a store: linking, instantiation, a synchronous driver.

`run_script` raises `Failure` at nothing: it returns the list of failed commands, each with its line and what happened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiowasm.binary.decoder import decode
from aiowasm.engine.base import NO_LIMIT, Outcome
from aiowasm.engine.func import FuncInst
from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.heap import I31, ArrayInst, ExnInst, Heap, StructInst
from aiowasm.engine.instance import ModuleInst
from aiowasm.engine.instantiate import Bounds, Import, instantiate
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.interpreter.machine import Machine
from aiowasm.engine.memory import MemInst
from aiowasm.engine.table import TableInst
from aiowasm.errors import InvalidError, LinkError, MalformedError, Trap, WasmException
from aiowasm.features import Features
from aiowasm.store.linking import resolve
from aiowasm.syntax.floats import bits_from_f32, bits_from_f64, f32_from_bits, f64_from_bits
from aiowasm.syntax.matching import close_rectype
from aiowasm.syntax.types import (
    F32,
    F64,
    FUNCREF,
    I32,
    I64,
    AddressType,
    FuncType,
    GlobalType,
    Limits,
    MemType,
    RecType,
    SubType,
    TableType,
)
from aiowasm.text import script
from aiowasm.text.parser import parse_module
from aiowasm.validation.module import ValidatedModule, validate_module

ENGINE = Interpreter()


class MismatchError(Exception):
    """A command did not do what the script says."""


@dataclass(frozen=True)
class HostReference:
    """The host's value number `value`."""

    value: int


def functype(params: tuple[Any, ...], results: tuple[Any, ...] = ()) -> Any:
    """A closed function type."""
    return close_rectype(RecType((SubType(True, (), FuncType(params, results)),)), 0, [])[0]


def spectest() -> dict[str, Import]:
    """The exports of the suite's host module."""
    nothing: Callable[..., None] = lambda *_: None  # noqa: E731
    exports: dict[str, Import] = {
        name: FuncInst(functype(params), host=nothing)
        for name, params in {
            "print": (),
            "print_i32": (I32,),
            "print_i64": (I64,),
            "print_f32": (F32,),
            "print_f64": (F64,),
            "print_i32_f32": (I32, F32),
            "print_f64_f64": (F64, F64),
        }.items()
    }
    exports |= {
        "global_i32": GlobalInst(GlobalType(I32, False), 666),
        "global_i64": GlobalInst(GlobalType(I64, False), 666),
        "global_f32": GlobalInst(GlobalType(F32, False), f32_from_bits(0x44268000 + 0x199A - 0x199A + 0x0666)),
        "global_f64": GlobalInst(GlobalType(F64, False), 666.6),
        "table": TableInst(TableType(Limits(10, 20), FUNCREF)),
        "table64": TableInst(TableType(Limits(10, 20), FUNCREF, AddressType.I64)),
        "memory": MemInst(MemType(Limits(1, 2))),
        "shared_memory": MemInst(MemType(Limits(1, 2), shared=True)),
    }
    exports["global_f32"] = GlobalInst(GlobalType(F32, False), f32_from_bits(0x4426A666))
    return exports


def call(func: FuncInst, arguments: tuple[Any, ...], slice_fuel: int = 100_000) -> tuple[Any, ...]:
    """The synchronous driver: host functions of the suite return nothing and never wait."""
    machine = Machine(func, arguments, limit=NO_LIMIT)
    while True:
        outcome = machine.resume(slice_fuel)
        if outcome is Outcome.RETURNED:
            return machine.results
        if outcome is Outcome.HOST_CALL:
            machine.deliver(())
        elif outcome is Outcome.THROWN:
            raise WasmException(machine.exception)
        elif outcome is Outcome.TRAPPED and machine.trap is not None:
            raise machine.trap


def exports_of(instance: ModuleInst) -> dict[str, Import]:
    """The exports of an instance, as entities."""
    spaces: dict[str, list[Any]] = {
        "func": instance.funcs,
        "table": instance.tables,
        "memory": instance.mems,
        "global": instance.globals,
        "tag": instance.tags,
    }
    return {export.name: spaces[export.kind][export.index] for export in instance.validated.module.exports}


class Runner:
    """The state of one script."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self.heap = Heap()
        self.registered: dict[str, dict[str, Import]] = {"spectest": spectest()}
        self.instances: dict[str | None, ModuleInst] = {}
        self.definitions: dict[str | None, ValidatedModule] = {}

    def validated(self, text: script.ModuleText) -> ValidatedModule:
        source = text.source
        module = decode(source, self.features) if text.kind == "binary" else parse_module(source, self.features)  # type: ignore[arg-type]
        return validate_module(module, self.features)

    def instantiate(self, validated: ValidatedModule) -> ModuleInst:
        imports = resolve(validated, lambda module, name: self.registered.get(module, {}).get(name))
        instance = instantiate(validated, imports, ENGINE, bounds=Bounds(self.heap))
        if validated.module.start is not None:
            call(instance.funcs[validated.module.start], ())
        return instance

    def run(self, command: script.Command) -> None:
        getattr(self, "do_" + type(command).__name__)(command)

    def do_ModuleCommand(self, command: script.ModuleCommand) -> None:  # noqa: N802
        validated = self.validated(command.module)
        instance = self.instantiate(validated)
        self.instances[None] = self.instances[command.module.name] = instance

    def do_ModuleDefinition(self, command: script.ModuleDefinition) -> None:  # noqa: N802
        validated = self.validated(command.module)
        self.definitions[None] = self.definitions[command.module.name] = validated

    def do_ModuleInstance(self, command: script.ModuleInstance) -> None:  # noqa: N802
        instance = self.instantiate(self.definitions[command.definition])
        self.instances[None] = self.instances[command.name] = instance

    def do_Register(self, command: script.Register) -> None:  # noqa: N802
        self.registered[command.name] = exports_of(self.instances[command.module])

    def act(self, action: script.Action) -> tuple[Any, ...]:
        entity = exports_of(self.instances[action.module])[action.name]
        if isinstance(action, script.Get):
            return (entity.value,)  # type: ignore[union-attr]
        return call(entity, tuple(argument(value) for value in action.arguments))  # type: ignore[arg-type]

    def do_ActionCommand(self, command: script.ActionCommand) -> None:  # noqa: N802
        self.act(command.action)

    def do_AssertReturn(self, command: script.AssertReturn) -> None:  # noqa: N802
        results = self.act(command.action)
        if len(results) != len(command.results) or not all(map(fits, results, command.results)):
            raise MismatchError(f"got {results!r}, not {command.results!r}")

    def expect(self, error: type[Exception], message: str, action: Callable[[], Any]) -> None:
        try:
            action()
        except error as raised:
            reason = getattr(raised, "reason", None) or str(raised)
            if not reason.startswith(message):
                raise MismatchError(f"{message!r}, not {reason!r}") from raised
            return
        raise MismatchError(f"no {error.__name__}: {message}")

    def do_AssertTrap(self, command: script.AssertTrap) -> None:  # noqa: N802
        subject = command.action
        if isinstance(subject, script.ModuleText):
            validated = self.validated(subject)
            self.expect(Trap, command.message, lambda: self.instantiate(validated))
        else:
            self.expect(Trap, command.message, lambda: self.act(subject))

    def do_AssertExhaustion(self, command: script.AssertExhaustion) -> None:  # noqa: N802
        self.expect(Trap, command.message, lambda: self.act(command.action))

    def do_AssertException(self, command: script.AssertException) -> None:  # noqa: N802
        self.expect(WasmException, "", lambda: self.act(command.action))

    def do_AssertMalformed(self, command: script.AssertMalformed) -> None:  # noqa: N802
        self.expect(MalformedError, command.message, lambda: self.validated(command.module))

    def do_AssertInvalid(self, command: script.AssertInvalid) -> None:  # noqa: N802
        self.expect(InvalidError, command.message, lambda: self.validated(command.module))

    def do_AssertUnlinkable(self, command: script.AssertUnlinkable) -> None:  # noqa: N802
        validated = self.validated(command.module)
        self.expect(LinkError, command.message, lambda: self.instantiate(validated))


def argument(value: script.Argument) -> Any:
    """An argument in engine form."""
    if isinstance(value, script.RefNull):
        return None
    if isinstance(value, script.RefHost):
        return HostReference(value.value)
    if value.kind == "f32":
        return f32_from_bits(value.value)  # type: ignore[arg-type]
    return f64_from_bits(value.value) if value.kind == "f64" else value.value  # type: ignore[arg-type]


_CLASSES: dict[str, tuple[type, ...]] = {
    "any": (I31, StructInst, ArrayInst, HostReference),
    "eq": (I31, StructInst, ArrayInst),
    "i31": (I31,),
    "struct": (StructInst,),
    "array": (ArrayInst,),
    "func": (FuncInst,),
    "exn": (ExnInst,),
    "host": (HostReference,),
    "extern": (object,),
}


def fits(actual: Any, expected: script.Result) -> bool:
    """Whether a result in engine form fits a pattern."""
    if isinstance(expected, script.Either):
        return any(fits(actual, alternative) for alternative in expected.alternatives)
    if isinstance(expected, script.RefNull):
        return actual is None
    if isinstance(expected, script.RefHost):
        return actual == HostReference(expected.value)
    if isinstance(expected, script.RefPattern):
        return isinstance(actual, _CLASSES[expected.heaptype])
    if isinstance(expected, script.VectorPattern):
        return _fits_vector(actual, expected)
    bits = actual
    if expected.kind in ("f32", "f64"):
        bits = bits_from_f32(actual) if expected.kind == "f32" else bits_from_f64(actual)
    return _fits_bits(bits, expected)


def _fits_bits(bits: Any, expected: script.Const | script.NanPattern) -> bool:
    if isinstance(expected, script.Const):
        return bool(bits == expected.value)
    quiet, sign = (0x7FC00000, 31) if expected.kind == "f32" else (0x7FF8000000000000, 63)
    bits &= (1 << sign) - 1
    return bool(bits == quiet if expected.nan == "canonical" else bits & quiet == quiet)


def _fits_vector(actual: bytes, expected: script.VectorPattern) -> bool:
    nbytes = 16 // len(expected.lanes)
    return all(
        _fits_bits(int.from_bytes(actual[at * nbytes : (at + 1) * nbytes], "little"), lane)
        for at, lane in enumerate(expected.lanes)
    )


def run_script(source: bytes, features: Features) -> tuple[int, list[str]]:
    """Run a script; return how many commands passed and a line for each that did not."""
    runner = Runner(features)
    passed, failures = 0, []
    for command in script.parse_script(source):
        try:
            runner.run(command)
        except Exception as error:
            failures.append(f"line {command.line}: {type(command).__name__}: {type(error).__name__}: {error}"[:300])
        else:
            passed += 1
    return passed, failures
