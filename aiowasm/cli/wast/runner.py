"""Runs the commands of a script on an engine: without a store, so that any `Engine` can be put to the test.

A script and its threads are agents: generators that take turns, since what a guest does can pause at a check point and
wait for a notification. Linking is that of the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from math import inf
from typing import Any, TypeVar

from aiowasm.binary.decoder import decode
from aiowasm.cli.wast.spectest import MAX_MEMORY_NBYTES, spectest
from aiowasm.cli.wast.values import argument, fits
from aiowasm.engine.base import NO_LIMIT, Engine, Outcome
from aiowasm.engine.func import FuncInst
from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.heap import Heap
from aiowasm.engine.instance import ModuleInst
from aiowasm.engine.instantiate import Bounds, Import, instantiate
from aiowasm.errors import AiowasmError, InvalidError, LinkError, MalformedError, Trap
from aiowasm.features import Features
from aiowasm.store.linking import resolve
from aiowasm.text import script
from aiowasm.text.parser import parse_module
from aiowasm.validation.module import ValidatedModule, validate_module

__all__ = ("Report", "run_commands", "run_script")

_SLICE_FUEL = 1_000_000
_CALL_DEPTH = 10_000
_STACK_SLOTS = 65_536

_T = TypeVar("_T")
Turn = Generator[float, None, _T]
"""Work of an agent. It yields when it lets the others run: 0, or the time until which it waits for them."""


class MismatchError(AiowasmError):
    """A command did not do what the script says."""


class UncaughtError(AiowasmError):
    """A guest threw an exception that no frame caught."""


class MissingFeatureError(AiowasmError):
    """The engine lacks a feature of a module."""


@dataclass(slots=True)
class Report:
    """What became of a script's commands; `failures` and `skips` are (line, what happened).

    `fuel` is what each call of a guest consumed, in order.
    """

    passed: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    skips: list[tuple[int, str]] = field(default_factory=list)
    fuel: list[int] = field(default_factory=list)


class _Agent:
    """A script, or a thread of one: what it has defined, instantiated and registered."""

    def __init__(
        self, features: Features, engine: Engine, report: Report, turns: list[Turn[None]], slice_fuel: int
    ) -> None:
        self.turns = turns
        self.slice_fuel = slice_fuel
        self.features = features
        self.engine = engine
        self.report = report
        self.heap = Heap()
        self.registered: dict[str, dict[str, Import]] = {"spectest": spectest(engine)}
        self.instances: dict[str | None, ModuleInst | None] = {}
        self.lacking: dict[str | None, str] = {}
        """Why there is no instance of a name; of a name that is registered, with a dot before it."""
        self.definitions: dict[str | None, ValidatedModule] = {}
        self.threads: dict[str | None, _Agent] = {}
        self.done = False

    def run(self, commands: tuple[script.Command, ...] | list[script.Command]) -> Turn[None]:
        """Run commands one after another and report what became of them."""
        report = self.report
        for command in commands:
            try:
                yield from _COMMANDS[type(command)](self, command)
            except MissingFeatureError as error:
                report.skips.append((command.line, str(error)))
            except (AiowasmError, MemoryError) as error:
                name = "" if isinstance(error, MismatchError) else f"{type(error).__name__}: "
                report.failures.append((command.line, f"{type(command).__name__}: {name}{error}"))
            except Exception as error:  # a defect of ours must not hide what follows it
                report.failures.append((command.line, f"{type(command).__name__}: {error!r}"))
            else:
                report.passed += 1
        self.done = True

    # Modules.

    def validated(self, text: script.ModuleText) -> ValidatedModule:
        source = text.source
        if text.kind == "binary":
            binary = source.encode() if isinstance(source, str) else source
            return validate_module(decode(binary, self.features), self.features)
        return validate_module(parse_module(source, self.features), self.features)

    def instantiate(self, validated: ValidatedModule) -> Turn[ModuleInst]:
        lacking = self.engine.missing(validated)
        if lacking is not None:
            raise MissingFeatureError(f"the {self.engine.name} engine lacks {lacking}")
        for declaration in validated.module.imports:
            if f".{declaration.module}" in self.lacking:
                raise MissingFeatureError(self.lacking[f".{declaration.module}"])
        imports = resolve(validated, lambda module, name: self.registered.get(module, {}).get(name))
        bounds = Bounds(self.heap, MAX_MEMORY_NBYTES)
        instance = instantiate(validated, imports, self.engine, bounds=bounds)
        if validated.module.start is not None:
            yield from self.call(instance.funcs[validated.module.start], ())
        return instance

    def define(self, name: str | None, module: script.ModuleText) -> Turn[None]:
        # What a failing module leaves behind is nothing: the commands after it must not meet the one before.
        self.instances[None] = self.instances[name] = None
        yield from self.install(name, self.validated(module))

    def install(self, name: str | None, validated: ValidatedModule) -> Turn[None]:
        try:
            instance = yield from self.instantiate(validated)
        except MissingFeatureError as error:  # what needs the instance is skipped too
            self.lacking[None] = self.lacking[name] = str(error)
            raise
        self.lacking.pop(None, None)
        self.lacking.pop(name, None)
        self.instances[None] = self.instances[name] = instance

    def module(self, command: script.ModuleCommand) -> Turn[None]:
        return self.define(command.module.name, command.module)

    def definition(self, command: script.ModuleDefinition) -> Turn[None]:
        yield from ()
        self.definitions[None] = self.definitions[command.module.name] = self.validated(command.module)

    def instance(self, command: script.ModuleInstance) -> Turn[None]:
        self.instances[None] = self.instances[command.name] = None
        if command.definition not in self.definitions:
            raise MismatchError(f"there is no definition {command.definition or ''}")
        yield from self.install(command.name, self.definitions[command.definition])

    def exports(self, name: str | None) -> dict[str, Import]:
        instance = self.instances.get(name)
        if instance is None:
            if name in self.lacking:
                raise MissingFeatureError(self.lacking[name])
            raise MismatchError(f"there is no instance {name or ''}")
        return {export.name: instance.entity(export) for export in instance.validated.module.exports}

    def register(self, command: script.Register) -> Turn[None]:
        yield from ()
        key = f".{command.name}"
        self.lacking.pop(key, None)
        try:
            self.registered[command.name] = self.exports(command.module)
        except MissingFeatureError as error:
            self.lacking[key] = str(error)
            raise

    def call(self, func: FuncInst, arguments: tuple[Any, ...]) -> Turn[tuple[Any, ...]]:
        execution = self.engine.call(func, arguments, limit=NO_LIMIT, call_depth=_CALL_DEPTH, stack_slots=_STACK_SLOTS)
        while True:
            outcome = execution.resume(self.slice_fuel)
            if outcome is Outcome.PAUSED:
                yield 0
                continue
            if outcome is not Outcome.WAIT:
                self.report.fuel.append(execution.consumed)
            if outcome is Outcome.RETURNED:
                return execution.results
            if outcome is Outcome.WAIT:
                waiter, timeout_ns = execution.arguments
                until = inf if timeout_ns < 0 else time.monotonic() + timeout_ns / 1e9
                while not waiter.woken and time.monotonic() < until:
                    yield until
                execution.deliver((0,) if waiter.woken else (2,))
            elif outcome is Outcome.THROWN:
                raise UncaughtError("uncaught exception")
            elif outcome is Outcome.TRAPPED and execution.trap is not None:
                raise execution.trap
            else:
                raise execution.error or MismatchError(f"unexpected outcome: {outcome.value}")

    def act(self, action: script.Action) -> Turn[tuple[Any, ...]]:
        entity = self.exports(action.module).get(action.name)
        if isinstance(action, script.Get):
            if not isinstance(entity, GlobalInst):
                raise MismatchError(f"there is no global {action.name!r}")
            return (entity.value,)
        if not isinstance(entity, FuncInst):
            raise MismatchError(f"there is no function {action.name!r}")
        return (yield from self.call(entity, tuple(argument(value) for value in action.arguments)))

    def action(self, command: script.ActionCommand) -> Turn[None]:
        yield from self.act(command.action)

    # Assertions.

    def assert_return(self, command: script.AssertReturn) -> Turn[None]:
        results = yield from self.act(command.action)
        if len(results) != len(command.results) or not all(map(fits, results, command.results)):
            raise MismatchError(f"got {results!r}, expected {command.results!r}")

    def assert_trap(self, command: script.AssertTrap) -> Turn[None]:
        subject = command.action
        if isinstance(subject, script.ModuleText):
            work: Turn[Any] = self.instantiate(self.validated(subject))
        else:
            work = self.act(subject)
        yield from _expect(Trap, command.message, work)

    def assert_exhaustion(self, command: script.AssertExhaustion) -> Turn[None]:
        return _expect(Trap, command.message, self.act(command.action))

    def assert_exception(self, command: script.AssertException) -> Turn[None]:
        return _expect(UncaughtError, "", self.act(command.action))

    def assert_malformed(self, command: script.AssertMalformed) -> Turn[None]:
        return _expect(MalformedError, command.message, self.validating(command.module))

    def assert_invalid(self, command: script.AssertInvalid) -> Turn[None]:
        return _expect(InvalidError, command.message, self.validating(command.module))

    def validating(self, module: script.ModuleText) -> Turn[None]:
        yield from ()
        self.validated(module)

    def assert_unlinkable(self, command: script.AssertUnlinkable) -> Turn[None]:
        return _expect(LinkError, command.message, self.instantiate(self.validated(command.module)))

    # Threads.

    def thread(self, command: script.Thread) -> Turn[None]:
        yield from ()
        agent = _Agent(self.features, self.engine, self.report, self.turns, self.slice_fuel)
        for name in command.shared:
            if self.instances.get(name) is None:
                raise MismatchError(f"there is no instance {name}")
            agent.instances[name] = self.instances[name]
        self.threads[command.name] = agent
        self.turns.append(agent.run(command.commands))

    def wait(self, command: script.Wait) -> Turn[None]:
        agent = self.threads.get(command.thread)
        if agent is None:
            raise MismatchError(f"there is no thread {command.thread or ''}")
        while not agent.done:
            yield inf


def _expect(error: type[AiowasmError], message: str, work: Turn[Any]) -> Turn[None]:
    try:
        yield from work
    except error as raised:
        reason = getattr(raised, "reason", None) or str(raised)
        if not reason.startswith(message):
            raise MismatchError(f"expected {message!r}, got {reason!r}") from None
        return
    raise MismatchError(f"expected {message!r}, but nothing failed")


_COMMANDS: dict[type[script.Command], Callable[[_Agent, Any], Turn[None]]] = {
    script.ModuleCommand: _Agent.module,
    script.ModuleDefinition: _Agent.definition,
    script.ModuleInstance: _Agent.instance,
    script.Register: _Agent.register,
    script.ActionCommand: _Agent.action,
    script.AssertReturn: _Agent.assert_return,
    script.AssertTrap: _Agent.assert_trap,
    script.AssertExhaustion: _Agent.assert_exhaustion,
    script.AssertException: _Agent.assert_exception,
    script.AssertMalformed: _Agent.assert_malformed,
    script.AssertInvalid: _Agent.assert_invalid,
    script.AssertUnlinkable: _Agent.assert_unlinkable,
    script.Thread: _Agent.thread,
    script.Wait: _Agent.wait,
}


def run_commands(
    commands: list[script.Command], features: Features, engine: Engine, slice_fuel: int = _SLICE_FUEL
) -> Report:
    """Run the commands of a script and return what became of them; guests pause each *slice_fuel* units."""
    report = Report()
    turns: list[Turn[None]] = []
    turns.append(_Agent(features, engine, report, turns, slice_fuel).run(commands))
    idle = 0
    while turns:
        until = inf
        for agent in turns.copy():
            try:
                until = min(until, next(agent))
            except StopIteration:
                turns.remove(agent)
                until = 0
        # An agent that is woken by one after it in the same round runs in the next one only.
        idle = idle + 1 if until else 0
        if idle > 1 and until == inf:
            _give_up(turns)
        elif idle > 1:
            time.sleep(max(until - time.monotonic(), 0))
    return report


def _give_up(turns: list[Turn[None]]) -> None:
    """All agents wait for one another: fail what the first of them waits with."""
    try:
        turns[0].throw(MismatchError("deadlock: nobody is left to notify"))
    except StopIteration:
        del turns[0]


def run_script(source: bytes, features: Features, engine: Engine, slice_fuel: int = _SLICE_FUEL) -> Report:
    """Run a script; see `run_commands`.

    Raises:
        MalformedError: It is not a script.
    """
    return run_commands(script.parse_script(source), features, engine, slice_fuel)
