"""Namespaces: names, what they mean, and the transaction that adds one.

A name is claimed before anything runs and published after everything has; whatever fails or is cancelled in between
gives it back. Names and maps change only between awaits; no lock is held while they are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from inspect import isawaitable, iscoroutinefunction
from time import perf_counter_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from anyio import CancelScope

from aiowasm.binary.names import decode_names
from aiowasm.engine.func import FuncInst
from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.instance import ModuleInst
from aiowasm.engine.instantiate import Bounds, Import, instantiate_steps
from aiowasm.errors import EXIT_CANCELLED, DeadlineError, ExitError, LinkError
from aiowasm.store.activation import CURRENT, Activation, State, alive
from aiowasm.store.definitions import Command, Definitions
from aiowasm.store.drive import account, begin, drive, enter_gate, leave
from aiowasm.store.engines import first_slice
from aiowasm.store.fuel import Tank
from aiowasm.store.group import Group, merge
from aiowasm.store.growth import Account, LeasedHeap, Owned
from aiowasm.store.handles import Handle
from aiowasm.store.hostcalls import HostBinding, heard
from aiowasm.store.hostinstance import host_instance, own
from aiowasm.store.instance import Instance
from aiowasm.store.interrupts import interruptible
from aiowasm.store.limits import Limits
from aiowasm.store.linkage import acquire, fitted, group_of
from aiowasm.store.linking import resolve
from aiowasm.store.listeners import Hearing, Listener, Listeners
from aiowasm.store.module import Module
from aiowasm.store.statistics import Statistics, statistics_of
from aiowasm.store.traces import trim
from aiowasm.syntax.types import FuncType
from aiowasm.validation.module import ValidatedModule

if TYPE_CHECKING:
    from aiowasm.store.store import Store

__all__ = ("Importable", "Namespace")

D = TypeVar("D")
R = TypeVar("R")
Importable = Definitions | Instance | Mapping[str, Any]
"""What imports can be resolved from: a host module, an instance of the store, or names and handles."""
_Source = Callable[[str], Import | None]


class Namespace(Generic[D]):
    """Named instances of a store: imports are resolved inside it alone. Made by `Store.namespace`."""

    def __init__(self, store: Store[Any], name: str, limits: Limits, data: D, outer: Account | None) -> None:
        self.store = store
        self.name = name
        self.data = data
        self.limits = limits
        self.account = Account(limits, outer)
        self.tank = Tank(limits.fuel)
        self.tanks: tuple[Tank, ...] = (self.tank, *((store.tank,) if outer is not None else ()))
        self.exit: ExitError | None = None
        self._names: dict[str, Instance] = {}
        self._instances: dict[Instance, None] = {}
        self._hosts: dict[Definitions, Instance] = {}
        self._pending: list[Callable[[], Any]] = []
        self._errors: list[BaseException] = []

    def __repr__(self) -> str:
        return f"<Namespace {self.name!r}: {', '.join(self._names)}>"

    async def __aenter__(self) -> Namespace[D]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.store.leave(self.aclose, error)

    def __getitem__(self, name: str) -> Instance:
        instance = self._names.get(name)
        if instance is None or not instance.ready:
            raise KeyError(name)
        return instance

    def __contains__(self, name: object) -> bool:
        instance = self._names.get(name)  # type: ignore[call-overload]
        return instance is not None and instance.ready

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The open instances, in the order of their creation."""
        return tuple(self._instances)

    @property
    def exit_code(self) -> int | None:
        """None while it is open."""
        return None if self.exit is None else self.exit.exit_code

    def check(self) -> None:
        """Raise ExitError if it is closed."""
        if self.exit is not None:
            raise ExitError(self.exit.exit_code, self.exit.cause)

    def add_fuel(self, units: int) -> None:
        """Let its instances use *units* more, if it was given a limit."""
        self.check()
        self.tank.add(units)

    def statistics(self) -> Statistics:
        """Return what is in use now."""
        return statistics_of(self.account, self.tank, self._instances)

    # Instantiation

    async def instantiate(
        self,
        source: Module | Definitions | bytes,
        *,
        name: str | None = None,
        imports: Mapping[str, Importable] | None = None,
        limits: Limits | None = None,
        weight: int = 1,
        interleave: bool = False,
        listeners: Sequence[Listener] = (),
    ) -> Instance:
        """Instantiate a module, a host module, or the bytes of a binary module.

        Args:
            source: What to instantiate. A host module has one instance in a namespace, under its own name.
            name: The name that others import it by; None: none.
            imports: Where to import from, by module name; before the namespace.
            limits: Further limits, for this instance.
            weight: How many turns at the gate it gets where others get one.
            interleave: Let other calls in while one awaits a host function. The guest must keep a stack for each.
            listeners: Who hears of its calls, on top of the store's listeners.

        Cancellation: the name is free again and the instance closed; what the standard says persists does (elements
        and bytes that were written to imported tables and memories).

        Raises:
            LinkError: The name is taken, or imports are missing or do not match; all of them are named.
            InvalidError: It needs a feature that the store does not have.
            LimitError: It is more than a limit allows.
            Trap: "out of bounds table access" or "out of bounds memory access" of an active segment.
            ExitError: The store or namespace is closed.
        """
        self.check()
        self.store.bind()
        if isinstance(source, Definitions):
            return self._instantiate_host(source, source.name if name is None else name)
        if weight < 1:
            raise ValueError(f"weight must be at least 1, got {weight}")
        inner = self.limits if limits is None else limits.within(self.limits)
        transaction = _Transaction(self, name, inner, weight, interleave, (*self.store.listeners, *listeners))
        if limits is not None:
            transaction.instance.tank.limit = limits.fuel
        seconds = inner.timeout if alive(CURRENT.get()) is None else None
        try:
            if seconds is None:
                return await transaction.run(source, imports or {})
            if seconds <= 0:
                raise DeadlineError
            with CancelScope(deadline=anyio.current_time() + seconds):
                return await transaction.run(source, imports or {})
            raise DeadlineError
        except BaseException as error:
            trim(error)
            del transaction, imports
            raise

    async def run_command(
        self,
        module: Module | bytes,
        command: Command[R],
        *,
        imports: Mapping[str, Importable] | None = None,
        limits: Limits | None = None,
    ) -> R:
        """Run *module* as a program with what *command*, a `Wasi`, gives it: call its `_start`, then close it.

        Args:
            module: A module that exports `_start`.
            command: Its arguments, streams, file systems and so on.
            imports: Where to import from, by module name; before the command and the namespace.
            limits: Further limits, for this instance.

        Returns:
            What came of it: exit code, captured output, fuel and memory used.

        Cancellation: the guest ends wherever it is, in its own code or waiting in a call.

        Raises:
            LinkError: It is no command, or imports something else.
            Trap: It trapped. `result`, an attribute of the error, is what had come of it; of a DeadlineError too.
        """
        return await command.run_command(self, module, imports=imports, limits=limits)

    def _instantiate_host(self, source: Definitions, name: str) -> Instance:
        self.claim(name)
        instance = self.host(source)
        self._names[name] = instance
        return instance

    def host(self, source: Definitions) -> Instance:
        """Return the one instance of a host module here."""
        instance = self._hosts.get(source)
        if instance is None or instance.exit is not None:
            instance = self._hosts[source] = host_instance(source, self)
            self._instances[instance] = None
        return instance

    def claim(self, name: str) -> None:
        """Raise if *name* is taken."""
        if not isinstance(name, str):
            raise TypeError(f"a name must be a str, got {type(name).__name__}")
        if name in self._names:
            raise LinkError(f"module[{name}] has already been instantiated", module=name)

    def reserve(self, instance: Instance) -> None:
        """Claim the name of *instance*, which is not ready yet."""
        if instance.name is not None:
            self.claim(instance.name)
            self._names[instance.name] = instance
        self._instances[instance] = None

    def forget(self, instance: Instance) -> None:
        """Free the names of an instance that is closed."""
        self._instances.pop(instance, None)
        if instance.name is not None and self._names.get(instance.name) is instance:
            del self._names[instance.name]
        if instance.entities is not None:
            self._hosts = {source: host for source, host in self._hosts.items() if host is not instance}
            self._names = {name: other for name, other in self._names.items() if other is not instance}

    @interruptible
    async def sources(self, validated: ValidatedModule, imports: Mapping[str, Importable]) -> dict[str, _Source]:
        """Return where each imported module's entities come from.

        Raises:
            LinkError: Modules are missing: all of them are named, in order.
        """
        found: dict[str, _Source] = {}
        missing: list[str] = []
        for entry in validated.module.imports:
            if entry.module in found or entry.module in missing:
                continue
            given: Any = imports.get(entry.module)
            if given is None and entry.module not in self._names and self.store.resolver is not None:
                given = self.store.resolver(entry.module)
                if isawaitable(given):
                    given = await given
            if given is not None:
                found[entry.module] = self._source(entry.module, given)
            elif entry.module in self._names:
                found[entry.module] = self._names[entry.module].exported
            else:
                missing.append(entry.module)
        if missing:
            words = "; ".join(f"module[{module}] not instantiated" for module in missing)
            raise LinkError(f"unknown import: {words}", module=missing[0])
        self._check_ready(validated, imports)
        return found

    def _check_ready(self, validated: ValidatedModule, imports: Mapping[str, Importable]) -> None:
        for module in dict.fromkeys(entry.module for entry in validated.module.imports):
            given: Any = imports.get(module, self._names.get(module))
            if not isinstance(given, Instance):
                continue
            given.check()
            if not given.ready:
                raise LinkError(f"unknown import: module[{module}] is still being instantiated", module=module)

    def _source(self, module: str, given: Any) -> _Source:
        if isinstance(given, Definitions):
            return self.host(given).exported
        if isinstance(given, Instance):
            if given.store is not self.store:
                raise LinkError(f"module[{module}] belongs to another store", module=module)
            return given.exported
        if isinstance(given, Mapping):
            return lambda name: self._entity(module, name, given.get(name))
        raise TypeError(f"module[{module}] must be a HostModule, an Instance or a mapping, not {type(given).__name__}")

    def _entity(self, module: str, name: str, handle: object) -> Import | None:
        if handle is None:
            return None
        if not isinstance(handle, Handle):
            raise TypeError(f"{module}.{name} must be a handle of the store, not {type(handle).__name__}")
        if handle._store is not self.store:
            raise LinkError(f"incompatible import type: {module}.{name} belongs to another store", module=module)
        return handle._entity  # type: ignore[no-any-return]

    # Closing

    def run_hook(self, hook: Callable[[], object]) -> None:
        """Run what was asked for when an instance closes; errors wait for `aclose`."""
        if iscoroutinefunction(hook):
            self._pending.append(hook)
            return
        try:
            hook()
        except BaseException as error:  # nothing may keep an instance from being closed
            self._errors.append(error)

    def shut(self, exit_code: int, cause: str = "closed") -> None:
        """Close it on the loop's own thread: at once, its instances in reverse order of creation."""
        if self.exit is not None:
            return
        self.exit = ExitError(exit_code & 0xFFFF_FFFF, cause)
        for instance in reversed(self._instances.copy()):
            instance.shut(exit_code, cause)
        self.store.forget(self)

    def close_soon(self, exit_code: int = 0) -> None:
        """Close it: at once on its loop's thread, otherwise as soon as that can. First code wins."""
        self.store.soon(lambda: self.shut(exit_code))

    async def aclose(self, exit_code: int = 0) -> None:
        """Close it and wait until all activations have left.

        Raises:
            ExceptionGroup: What hooks raised, in order.
        """
        self.store.bind()
        instances = list(reversed(self._instances))
        self.shut(exit_code)
        await self.settle(instances)

    async def settle(self, instances: Iterable[Instance]) -> None:
        """Wait until the activations of closed *instances* have left and hooks are done, for a time of grace."""
        with CancelScope(shield=True), anyio.move_on_after(self.store.close_grace_seconds):
            for instance in instances:
                if not instance.is_current():
                    await instance.ended()
            while self._pending:
                hook = self._pending.pop(0)
                try:
                    await _awaited(hook)
                except Exception as error:
                    self._errors.append(error)
        errors, self._errors = self._errors, []
        if errors:
            raise BaseExceptionGroup("errors while closing", errors)


@interruptible
async def _awaited(hook: Callable[[], Any]) -> None:
    await hook()


class _Transaction:
    """One instantiation: all of it or nothing."""

    def __init__(
        self,
        namespace: Namespace[Any],
        name: str | None,
        limits: Limits,
        weight: int,
        interleave: bool,
        listeners: Sequence[Listener],
    ) -> None:
        self.namespace = namespace
        self.store: Store[Any] = namespace.store
        instance = self.instance = Instance(namespace, name, limits, namespace.account)
        instance.weight = weight
        instance.interleave = interleave
        if listeners:
            instance.listeners = Listeners(instance, listeners)

    async def run(self, source: Module | bytes, imports: Mapping[str, Importable]) -> Instance:
        namespace, instance = self.namespace, self.instance
        module = source if isinstance(source, Module) else await Module.from_bytes(source, features=self.store.features)
        validated = await module.validated_for(self.store.features)
        if instance.name is not None:
            namespace.claim(instance.name)  # before a resolver runs
        await namespace.sources(validated, imports)
        namespace.check()
        namespace.reserve(instance)
        try:
            namespace.account.take_instance()
            instance.heap = LeasedHeap(namespace.account, instance.limits.heap_bytes)
            instance.export_names = module.exported
            await self._activate(validated, imports)
            instance.check()
            namespace.check()
            instance.plain = self._is_plain()
        except BaseException as error:
            code = error.exit_code if isinstance(error, ExitError) else EXIT_CANCELLED
            instance.shut(code, "instantiation failed")
            raise
        instance.ready = True
        return instance

    def _is_plain(self) -> bool:
        """Whether calls need nothing but a lock that is free and a budget that is not used up."""
        instance, store = self.instance, self.store
        return (
            instance.limits.timeout is None
            and all(tank.limit is None for tank in instance.tanks)
            and not store.strict_checkpoints
            and not store.restore_stack_pointer
            and instance.listeners is None
        )

    async def _activate(self, validated: ValidatedModule, imports: Mapping[str, Importable]) -> None:
        instance, store = self.instance, self.store
        activation = Activation(store, instance, alive(CURRENT.get()))
        activation.gate = store.bind()
        sources = await self.namespace.sources(validated, imports)
        entities: list[Import] = []

        def groups() -> list[Group]:
            instance.check()
            self.namespace.check()
            entities[:] = resolve(validated, lambda module, name: sources[module](name))
            linked = [group for group in map(group_of, entities) if group is not None]
            return [instance.group, *linked]

        held = await acquire(activation, groups, instance.limits.waiters)
        merge(held)
        try:
            await enter_gate(activation)
            instance.check()
            await self._allocate(activation, validated, entities)
            await self._start(activation, validated)
        finally:
            leave(activation)

    async def _allocate(self, activation: Activation, validated: ValidatedModule, entities: list[Import]) -> None:
        instance, store = self.instance, self.store
        engine = instance.backend = store.engine_for(validated, entities)
        instance.slice_fuel = first_slice(engine)
        if engine is not store.engine:
            entities = [fitted(entity, engine) for entity in entities]
        limits = instance.limits
        if instance.listeners is not None:
            listeners = instance.listeners
            entities = [
                heard(entity, listeners)
                if isinstance(entity, FuncInst) and isinstance(entity.owner, HostBinding)
                else entity
                for entity in entities
            ]
        if instance.heap is None:
            raise RuntimeError("an instance without a heap")
        bounds = Bounds(instance.heap, limits.memory_pages << 16, limits.table_elements)
        steps = instantiate_steps(validated, entities, instance.backend, instance.name, bounds, self._adopt)
        core = await self._finish(activation, steps)
        if store.restore_stack_pointer:
            instance.stack_pointer = _stack_pointer(core)

    async def _finish(self, activation: Activation, steps: Generator[None, None, ModuleInst]) -> ModuleInst:
        """Run *steps* within the loop's budget for guests."""
        gate, budget_ns = activation.gate, self.store.tick_budget_ns
        try:
            while True:
                try:
                    next(steps)
                except StopIteration as stop:
                    core: ModuleInst = stop.value
                    return core
                if perf_counter_ns() >= gate.deadline:
                    await gate.enter(activation, budget_ns)
                    self.instance.check()
        finally:
            steps.close()

    def _adopt(self, core: Any) -> None:
        """Called with the entities allocated and nothing initialised: what is counted must fit before it is used."""
        instance = self.instance
        core.owner = instance
        instance.core = core
        for entity in (*core.mems, *core.tables, *core.globals, *core.tags):
            owned = entity.owner
            if isinstance(owned, Owned):
                owned.users += 1
        for entity in (*core.mems, *core.tables, *core.globals, *core.tags):
            if entity.owner is None:
                own(entity, instance)

    async def _start(self, activation: Activation, validated: ValidatedModule) -> None:
        core = self.instance.core
        if core is None:
            raise RuntimeError("an instance without a core")
        functions = []
        if validated.module.start is not None:
            functions.append((core.funcs[validated.module.start], "start function"))
        initialize = self.instance.exported("_initialize")
        if isinstance(initialize, FuncInst) and initialize.deftype.comptype == FuncType((), ()):
            functions.append((initialize, "_initialize"))
        if not functions:
            return
        previous = CURRENT.get()
        CURRENT.set(activation)
        try:
            for func, what in functions:
                activation.state = State.QUEUED
                activation.accounted = activation.resumed_at = 0
                begin(activation, func, ())
                with Hearing(self.instance.listeners, func, ()):
                    try:
                        await drive(activation)
                    except Exception as error:
                        error.add_note(f"in the {what} of {self.instance!r}")
                        raise
                account(activation)
        finally:
            if CURRENT.get() is activation:
                CURRENT.set(previous)


def _stack_pointer(core: ModuleInst) -> GlobalInst | None:
    """Return the global that is called `__stack_pointer` by an export or by the name section, or None."""
    module = core.validated.module
    for export in module.exports:
        if export.kind == "global" and export.name == "__stack_pointer":
            return core.globals[export.index]
    for custom in module.customs:
        if custom.name == "name":
            for index, name in decode_names(custom.data).others.get("global", {}).items():
                if name == "__stack_pointer" and index < len(core.globals):
                    return core.globals[index]
    return None
