"""Stores: namespaces of instances on one event loop, with an engine, limits and policies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from threading import get_ident
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar, overload

from aiowasm.engine.base import Engine
from aiowasm.engine.func import FuncInst
from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.heap import I31, ArrayInst, ExnInst, StructInst, ref_matches
from aiowasm.engine.instance import ModuleInst
from aiowasm.engine.instantiate import Import
from aiowasm.engine.memory import MemInst
from aiowasm.engine.table import TableInst
from aiowasm.engine.tag import TagInst
from aiowasm.errors import ExitError, LinkError, WasmException
from aiowasm.features import DEFAULT, Features
from aiowasm.store.activation import CURRENT, Activation
from aiowasm.store.definitions import Command, Definitions
from aiowasm.store.engines import make_engine
from aiowasm.store.func import Func, Signature
from aiowasm.store.gate import Gate, current_gate
from aiowasm.store.group import merge
from aiowasm.store.growth import Owned
from aiowasm.store.handles import Global, Handle, Memory, Reference, Table, Tag
from aiowasm.store.instance import Instance
from aiowasm.store.limits import Limits
from aiowasm.store.linkage import acquire, check_engines, engine_of, group_of, link_now, release
from aiowasm.store.listeners import Listener
from aiowasm.store.module import Module
from aiowasm.store.namespace import Importable, Namespace
from aiowasm.store.statistics import Statistics, statistics_of
from aiowasm.store.values import References, arguments_to_engine, arguments_to_host
from aiowasm.syntax.matching import DefType
from aiowasm.syntax.types import AbsHeapType, FuncType, RefType
from aiowasm.validation.module import ValidatedModule

__all__ = ("Store",)

D = TypeVar("D")
R = TypeVar("R")
OnCancel = Literal["close", "unwind"]
Limiter = Callable[[Instance, Any, int], Awaitable[bool]]
_OPAQUE = (StructInst, ArrayInst, I31, ExnInst)


class Store(Generic[D]):
    """A store of instances; it belongs to the event loop on which it is first used.

    Args:
        engine: "auto", "native" or "interpreter".
        features: The proposals that modules may use here.
        limits: What all instances together, and each of them, may consume.
        data: What host functions find in `Caller.data`.
        listeners: Observers of all instances.
        tick_budget_seconds: How long guests may run in one iteration of the event loop, all together.
        fixed_slice: Fuel of each slice, for reproducible interleaving; None: adapted to the budget.
        strict_checkpoints: Make every call a full checkpoint.
        on_cancel: "close": cancellation closes the instances with a live frame; "unwind": they stay open.
        close_on_trap: Close an instance whose call trapped.
        restore_stack_pointer: Put `__stack_pointer` back when a host function has raised.
        close_grace_seconds: How long `aclose` waits for activations and hooks.
        on_out_of_fuel: Awaited with the instance where a call would trap; returns fuel to add to the empty tanks.
        growth_limiter: Awaited with the instance, the memory or table and the growth; returns whether it is granted.
        resolver: Called with the name of a module that is not there; returns what to import from, or None.
        deadlock_timeout_seconds: For debugging: how long a call may queue for a group before it is a ReentrancyError.
    """

    def __init__(
        self,
        *,
        engine: str = "auto",
        features: Features = DEFAULT,
        limits: Limits | None = None,
        data: D = None,  # type: ignore[assignment]
        listeners: Sequence[Listener] = (),
        tick_budget_seconds: float = 0.0005,
        fixed_slice: int | None = None,
        strict_checkpoints: bool = False,
        on_cancel: OnCancel = "close",
        close_on_trap: bool = False,
        restore_stack_pointer: bool = False,
        close_grace_seconds: float = 1.0,
        on_out_of_fuel: Callable[[Instance], Awaitable[int]] | None = None,
        growth_limiter: Limiter | None = None,
        resolver: Callable[[str], Any] | None = None,
        deadlock_timeout_seconds: float | None = None,
    ) -> None:
        if fixed_slice is not None and fixed_slice < 1:
            raise ValueError(f"fixed_slice must be at least 1, got {fixed_slice}")
        if on_cancel not in ("close", "unwind"):
            raise ValueError(f"on_cancel must be close or unwind, not {on_cancel!r}")
        if not tick_budget_seconds > 0:
            raise ValueError(f"tick_budget_seconds must be positive, got {tick_budget_seconds}")
        self.engine: Engine = make_engine(engine)
        self._auto = engine == "auto"
        self._fallback: Engine | None = None
        self._fallback_reason = ""
        self.features = features
        self.limits = Limits() if limits is None else limits
        self.listeners = tuple(listeners)
        self.tick_budget_ns = max(int(tick_budget_seconds * 1e9), 1)
        self.fixed_slice = fixed_slice
        self.strict_checkpoints = strict_checkpoints
        self.on_cancel = on_cancel
        self.close_on_trap = close_on_trap
        self.restore_stack_pointer = restore_stack_pointer
        self.close_grace_seconds = close_grace_seconds
        self.on_out_of_fuel = on_out_of_fuel
        self.growth_limiter = growth_limiter
        self.resolver = resolver
        self.deadlock_timeout_seconds = deadlock_timeout_seconds
        self.references = References(self._accepts, _unwrap, self._wrap)
        self._signatures: dict[DefType, Signature] = {}
        self.gate: Gate | None = None
        self.exit: ExitError | None = None
        self._namespaces: dict[str, Namespace[Any]] = {}
        self._default: Namespace[D] = Namespace(self, "", self.limits, data, None)
        self.account = self._default.account
        self.tank = self._default.tank

    def __repr__(self) -> str:
        return f"<Store on {self.engine.name}: {self.account.instances} instances>"

    async def __aenter__(self) -> Store[D]:
        self.bind()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.leave(self.aclose, error)

    async def leave(self, aclose: Callable[[], Awaitable[None]], error: BaseException | None) -> None:
        """Close at the end of a `with` block; the exception of the block wins over errors of closing."""
        try:
            await aclose()
        except Exception:
            if error is None:
                raise

    # Instances and namespaces

    @property
    def data(self) -> D:
        """What host functions find in `Caller.data`."""
        return self._default.data

    @property
    def namespace_default(self) -> Namespace[D]:
        """The namespace of instances that are made by `Store.instantiate`."""
        return self._default

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
        """Instantiate a module, a host module, or the bytes of a binary module: see `Namespace.instantiate`."""
        return await self._default.instantiate(
            source,
            name=name,
            imports=imports,
            limits=limits,
            weight=weight,
            interleave=interleave,
            listeners=listeners,
        )

    async def run_command(
        self,
        module: Module | bytes,
        command: Command[R],
        *,
        imports: Mapping[str, Importable] | None = None,
        limits: Limits | None = None,
    ) -> R:
        """Run *module* as a program: see `Namespace.run_command`."""
        return await self._default.run_command(module, command, imports=imports, limits=limits)

    def namespace(self, name: str, *, limits: Limits | None = None, data: Any = None) -> Namespace[Any]:
        """Make a namespace of its own names; an async context manager that closes it.

        Raises:
            LinkError: The name is taken.
            ExitError: The store is closed.
        """
        self.check()
        if name in self._namespaces:
            raise LinkError(f"namespace[{name}] already exists")
        inner = Limits() if limits is None else limits
        own = self.data if data is None else data
        namespace = Namespace[Any](self, name, inner.within(self.limits), own, self.account)
        self._namespaces[name] = namespace
        return namespace

    def forget(self, namespace: Namespace[Any]) -> None:
        """Free the name of a namespace that is closed."""
        if self._namespaces.get(namespace.name) is namespace:
            del self._namespaces[namespace.name]

    def __getitem__(self, name: str) -> Instance:
        return self._default[name]

    def __contains__(self, name: object) -> bool:
        return name in self._default

    @property
    def instances(self) -> tuple[Instance, ...]:
        """All open instances, those of namespaces last."""
        return tuple(instance for namespace in self._all() for instance in namespace.instances)

    def _all(self) -> list[Namespace[Any]]:
        return [self._default, *self._namespaces.values()]

    def statistics(self) -> Statistics:
        """Return what is in use now."""
        return statistics_of(self.account, self.tank, self.instances)

    def add_fuel(self, units: int) -> None:
        """Let its instances use *units* more, if it was given a limit; from any task, at any time."""
        self.check()
        self.tank.add(units)

    # The loop it belongs to

    def bind(self) -> Gate:
        """Return the gate of the loop that the store belongs to: the one it is first used on.

        Raises:
            RuntimeError: It is used on another thread.
        """
        gate = self.gate
        if gate is None:
            gate = self.gate = current_gate()
        elif gate.thread != get_ident():
            gate.check()
        return gate

    def bind_now(self) -> Gate:
        """Return the gate for a synchronous call, which may be made without any loop."""
        gate = self.gate
        if gate is None:
            return Gate(None)
        if gate.thread != get_ident():
            gate.check()
        return gate

    def soon(self, callback: Callable[[], None]) -> None:
        """Call *callback* on the store's own thread: at once if this is it."""
        gate = self.gate
        if gate is None or gate.thread == get_ident():
            callback()
            return
        try:
            gate.soon(callback)
        except RuntimeError:  # the loop is closed: nothing runs there any more
            callback()

    # Closing

    @property
    def exit_code(self) -> int | None:
        """None while it is open."""
        return None if self.exit is None else self.exit.exit_code

    def check(self) -> None:
        """Raise ExitError if it is closed."""
        if self.exit is not None:
            raise ExitError(self.exit.exit_code, self.exit.cause)

    def shut(self, exit_code: int, cause: str = "closed") -> None:
        """Close it on the loop's own thread: at once, in reverse order of creation."""
        if self.exit is not None:
            return
        self.exit = ExitError(exit_code & 0xFFFF_FFFF, cause)
        for namespace in reversed(self._all()):
            namespace.shut(exit_code, cause)

    def close_soon(self, exit_code: int = 0) -> None:
        """Close it: at once on its loop's thread, otherwise as soon as that can. First code wins."""
        self.soon(lambda: self.shut(exit_code))

    async def aclose(self, exit_code: int = 0) -> None:
        """Close everything in reverse order of creation, and wait until all activations have left.

        Raises:
            ExceptionGroup: What hooks raised, in order.
        """
        self.bind()
        closing = [(namespace, list(reversed(namespace.instances))) for namespace in reversed(self._all())]
        self.shut(exit_code)
        errors: list[BaseException] = []
        for namespace, instances in closing:
            try:
                await namespace.settle(instances)
            except BaseExceptionGroup as group:
                errors.extend(group.exceptions)
        if errors:
            raise BaseExceptionGroup("errors while closing", errors)

    # References, and what engines and host functions need

    def signature(self, deftype: DefType) -> Signature:
        """Return the converters of a function type."""
        signature = self._signatures.get(deftype)
        if signature is None:
            signature = self._signatures[deftype] = Signature(deftype, self.references)
        return signature

    @overload
    def handle(self, entity: FuncInst) -> Func: ...
    @overload
    def handle(self, entity: MemInst) -> Memory: ...
    @overload
    def handle(self, entity: Import) -> Func | Memory | Table | Global | Tag: ...

    def handle(self, entity: Import) -> Func | Memory | Table | Global | Tag:
        """Return a handle of *entity*."""
        if isinstance(entity, FuncInst):
            return Func(entity, self)
        if isinstance(entity, MemInst):
            return Memory(entity, self)
        if isinstance(entity, TableInst):
            return Table(entity, self)
        return Global(entity, self) if isinstance(entity, GlobalInst) else Tag(entity, self)

    def _wrap(self, reference: object) -> object:
        if isinstance(reference, FuncInst):
            return Func(reference, self)
        return Reference(reference, self) if isinstance(reference, _OPAQUE) else reference

    def _accepts(self, value: object, reftype: RefType) -> bool:
        if not isinstance(value, Handle):
            return reftype.heaptype is AbsHeapType.ANY
        return value._store is self and ref_matches(value._entity, reftype)

    def exception_of(self, error: WasmException, core: ModuleInst | None) -> ExnInst:
        """Return the exception that a host function throws into a guest."""
        tag = error.tag
        if not isinstance(tag, Tag) or tag._store is not self:
            raise TypeError("the tag of a WasmException must be a Tag of this store") from error
        entity: TagInst = tag._entity
        if core is None:
            raise error
        values = arguments_to_engine(tag.type.params, self.references)(error.values)
        owner: Any = core.owner
        link_now([owner.group, *filter(None, map(group_of, values))], CURRENT.get())
        return ExnInst(core.heap, entity, values)

    def wasm_exception(self, exception: ExnInst) -> WasmException:
        """Return the error for an exception that no guest caught."""
        tag = Tag(exception.tag, self)
        comptype = exception.tag.deftype.comptype
        params = comptype.params if isinstance(comptype, FuncType) else ()
        return WasmException(tag, arguments_to_host(params, self.references)(exception.values))

    def engine_for(self, validated: ValidatedModule, entities: Iterable[Import]) -> Engine:
        """Return the engine for a module that imports *entities*: all that share state run on one.

        Raises:
            LinkError: There is none: the message names the feature that the store's engine lacks.
        """
        engine = self.engine
        linked = {engine_of(entity) for entity in entities} - {None}
        lacks = engine.missing(validated)
        if lacks is None and linked <= {engine}:
            return engine
        if not self._auto or engine in linked:
            raise LinkError(f"the {engine.name} engine does not have the feature {lacks or self._fallback_reason}")
        if self._fallback is None:
            self._fallback = make_engine("interpreter")
        if lacks is not None:
            self._fallback_reason = lacks
        return self._fallback

    def restore_stack_pointers(self, activation: Activation) -> None:
        """Put the shadow stack pointers back to where they were when *activation* began."""
        for global_, value in activation.stack_pointers:
            global_.value = value

    # Linking by references

    def _linked(self, instance: Instance, values: tuple[Any, ...]) -> list[Any]:
        groups = [group_of(value) for value in values if isinstance(value, FuncInst)]
        return [instance.group, *(group for group in groups if group is not None)]

    def link(self, entity: Any, reference: Any) -> None:
        """Merge the groups of what is stored and of where it is stored.

        Raises:
            ReentrancyError: One of them is busy.
        """
        owned = entity.owner
        if isinstance(reference, FuncInst) and isinstance(owned, Owned):
            link_now(self._linked(owned.instance, (reference,)), CURRENT.get())

    def link_arguments_now(self, instance: Instance, values: tuple[Any, ...]) -> None:
        """Merge the groups of functions that are passed to *instance* with its own, without waiting."""
        link_now(self._linked(instance, values), CURRENT.get())

    async def link_arguments(self, instance: Instance, values: tuple[Any, ...], activation: Activation) -> None:
        """Merge the groups of functions that are passed to *instance* with its own, waiting until they are free."""
        linked = set(self._linked(instance, values))
        if len(linked) < 2:
            return
        check_engines(linked)
        activation.gate = self.bind()
        await acquire(activation, lambda: self._linked(instance, values), instance.limits.waiters)
        try:
            merge(list(dict.fromkeys(self._linked(instance, values))))
        finally:
            release(activation)


def _unwrap(value: object) -> object:
    return value._entity if isinstance(value, Handle) else value
