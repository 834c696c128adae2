"""The handle of a function: what `await instance.exports.f(...)` calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import get_ident
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from aiowasm.engine.base import NO_LIMIT, Execution, Outcome, Unfinished
from aiowasm.engine.func import FuncInst
from aiowasm.engine.instance import function_name
from aiowasm.store.activation import CURRENT, Activation, State, alive
from aiowasm.store.drive import go_on, leave, run, run_now, settle, within_timeout
from aiowasm.store.fuel import Tank
from aiowasm.store.handles import Handle
from aiowasm.store.hostcalls import HostBinding
from aiowasm.store.listeners import Hearing, Listeners
from aiowasm.store.traces import trim
from aiowasm.store.values import References, arguments_to_engine, results_to_host
from aiowasm.syntax.matching import DefType
from aiowasm.syntax.types import FuncType, RefType

if TYPE_CHECKING:
    from aiowasm.store.gate import Gate
    from aiowasm.store.instance import Instance
    from aiowasm.store.store import Store


__all__ = ("Func", "Signature", "call", "call_now")


# Looking members up takes Python 3.11 as long as a call (benchmarks/crossing.py).
_RUNNING, _DONE = State.RUNNING, State.DONE
_RETURNED = Outcome.RETURNED
_DIRECT_UNITS: Final = 20_000
"""Fuel for calls without an activation: about 20 us, in which nobody else runs."""

current = CURRENT.get
set_current = CURRENT.set


class Signature:
    """A function type with its converters for one store."""

    __slots__ = ("functype", "has_references", "to_engine", "to_host")

    def __init__(self, deftype: DefType, references: References) -> None:
        functype = deftype.comptype
        if not isinstance(functype, FuncType):
            raise TypeError("a function without a function type")
        self.functype = functype
        self.to_engine: Callable[[Sequence[object]], tuple[object, ...]] = arguments_to_engine(
            functype.params, references
        )
        self.to_host: Callable[[Sequence[object]], object] = results_to_host(functype.results, references)
        self.has_references = any(isinstance(valtype, RefType) for valtype in functype.params)


class Func(Handle[FuncInst]):
    """A function of a guest or of the host, callable: `await f(1, 2)`.

    Arguments are checked: TypeError for a wrong number or type, OverflowError for an integer out of range.
    """

    __slots__ = ("_direct", "_instance", "_signature")

    def __init__(self, entity: FuncInst, store: Store[Any]) -> None:
        self._entity = entity
        self._store = store
        core = entity.instance
        if core is not None:
            self._instance: Instance = core.owner  # type: ignore[assignment]
        elif isinstance(entity.owner, HostBinding):
            self._instance = entity.owner.instance
        else:
            raise TypeError("a function without an owner")
        self._signature = store.signature(entity.deftype)
        self._direct: Any = None
        """How the engine calls it without an activation: False if it cannot, None before that is known."""

    def __repr__(self) -> str:
        functype = self._signature.functype
        params, results = (" ".join(map(str, types)) for types in (functype.params, functype.results))
        return f"<Func [{params}] -> [{results}]>"

    @property
    def name(self) -> str:
        """What traces call it: a host function's own name, else that of the name section, or its index."""
        core, funcidx = self._entity.instance, self._entity.funcidx
        return self._entity.name if core is None or funcidx is None else function_name(core, funcidx)

    @property
    def type(self) -> FuncType:
        """The function type."""
        return self._signature.functype

    async def __call__(self, *arguments: Any) -> Any:
        """Call the function and return its results: None, one value, or a tuple.

        Cancellation: a call that was cancelled while its guest ran or waited closes the instances with a live frame in
        it (`EXIT_CANCELLED`, `EXIT_DEADLINE`); before that nothing has happened.

        Raises:
            Trap: The guest trapped.
            ExitError: The instance is or was closed.
            WasmException: The guest threw an exception that it did not catch.
        """
        try:
            # The usual calls are written out: this is most of what they cost (benchmarks/crossing.py, calls.py).
            gate: Any = self._store.gate
            direct = self._direct
            execution: Any = None
            if direct and (now := perf_counter_ns()) < gate.deadline:
                result = direct(*arguments)
                if type(result) is not Unfinished:
                    return result
                execution = result.execution
            instance = self._instance
            group = instance.group
            signature = self._signature
            if execution is None:
                parent = current()
                if (
                    not instance.plain
                    or parent is not None
                    or group.stack
                    or group.queue
                    or gate is None
                    or get_ident() != gate.thread
                    or (now := perf_counter_ns()) >= gate.deadline
                ):
                    return await call(self, arguments, parent, None, None)
                values = signature.to_engine(arguments)
                if signature.has_references:
                    return await call(self, arguments, parent, None, None)
                limits = instance.limits
                execution = instance.backend.call(
                    self._entity, values, limit=NO_LIMIT, call_depth=limits.call_depth, stack_slots=limits.stack_slots
                )
            activation = Activation(self._store, instance, None)
            activation.gate = gate
            activation.execution = execution
            group.stack.append(activation)
            set_current(activation)
            activation.state = _RUNNING
            activation.slice_start = now
            activation.slice_end = gate.deadline
            try:
                outcome = execution.resume((self._store.fixed_slice or instance.slice_fuel) - execution.consumed)
            except BaseException as error:
                settle(activation, error)
                set_current(None)
                leave(activation)
                raise
            if outcome is _RETURNED:
                activation.state = _DONE
                used = execution.consumed
                for tank in instance.tanks:
                    tank.used += used
                set_current(None)
                group = instance.group  # it may have been merged
                group.stack.pop()
                if group.queue or group.leaving:
                    group.left()
                if direct is None:
                    self._arm(gate)
                return signature.to_host(execution.results)
            return signature.to_host(await go_on(activation, outcome))
        except BaseException as error:
            trim(error)
            instance = group = gate = signature = activation = execution = parent = limits = None  # type: ignore[assignment]
            arguments = values = ()
            direct = result = None
            del self
            raise

    def nowait(self, *arguments: Any) -> Any:
        """Call the function without ever yielding to the event loop, for at most `Limits.sync_fuel`.

        Raises:
            WouldBlock: The guest has to wait, or needs more fuel; its frames are discarded, its instances stay open.
        """
        try:
            direct = self._direct
            execution = None
            if direct:
                result = direct(*arguments)
                if type(result) is not Unfinished:
                    return result
                execution = result.execution
            result = call_now(self, arguments, current(), execution)
            if direct is None and self._store.gate is not None:
                self._arm(self._store.gate)
            return result
        except BaseException as error:
            trim(error)
            direct = execution = result = None
            del self, arguments
            raise

    def _arm(self, gate: Gate) -> None:
        """After a call that did not have to wait: let the next ones go a shorter way, if the engine has one."""
        instance, store = self._instance, self._store
        engine: Any = instance.backend
        if not instance.ready:
            return
        self._direct = False
        if not instance.plain or not hasattr(engine, "direct"):
            return
        if instance.guard is None:
            instance.guard = engine.guard(gate.identity, CURRENT)
            instance.guard.open(instance.group.stack, instance.group.queue)
        limits = instance.limits
        direct = engine.direct(
            self._entity,
            instance.guard,
            units=min(_DIRECT_UNITS, store.fixed_slice or NO_LIMIT, max(limits.sync_fuel, 1)),
            call_depth=limits.call_depth,
            stack_slots=limits.stack_slots,
        )
        if direct is not None:
            self._direct = direct


async def call(
    func: Func, arguments: tuple[Any, ...], parent: Activation | None, fuel: int | None, timeout: float | None
) -> Any:
    """Call *func* from the host function of *parent*, or from outside a guest."""
    signature = func._signature
    store = func._store
    values = signature.to_engine(arguments)
    instance = func._instance
    activation = Activation(store, instance, alive(parent) if parent is not None else None)
    if signature.has_references:
        await store.link_arguments(instance, values, activation)
    if fuel is not None:
        activation.tanks = (*activation.tanks, Tank(_checked(fuel)))
    if timeout is None and activation.depth == 0:
        timeout = instance.limits.timeout
    if instance.listeners is not None:
        return await _heard(func, instance.listeners, arguments, activation, values, timeout)
    if timeout is None:
        return signature.to_host(await run(activation, func._entity, values))
    return signature.to_host(await within_timeout(timeout, activation, func._entity, values))


async def _heard(
    func: Func,
    listeners: Listeners,
    arguments: tuple[Any, ...],
    activation: Activation,
    values: tuple[Any, ...],
    timeout: float | None,
) -> Any:
    """A call that listeners hear of."""
    with Hearing(listeners, func._entity, arguments) as heard:
        if timeout is None:
            results = await run(activation, func._entity, values)
        else:
            results = await within_timeout(timeout, activation, func._entity, values)
        heard.results = func._signature.to_host(results)
    return heard.results


def call_now(
    func: Func, arguments: tuple[Any, ...], parent: Activation | None, execution: Execution | None = None
) -> Any:
    """Call *func* synchronously; *execution* goes on if the call has begun."""
    signature = func._signature
    values = signature.to_engine(arguments) if execution is None else ()
    parent = alive(parent)
    instance = func._instance
    activation = Activation(func._store, instance, parent)
    sync_fuel = instance.limits.sync_fuel
    if parent is not None and parent.in_host:
        activation.sync_depth = parent.sync_depth + 1
        if parent.sync_fuel is not None and parent.execution is not None:  # a cap can only shrink
            sync_fuel = min(sync_fuel, max(parent.sync_fuel - parent.execution.consumed, 0))
    if signature.has_references:
        func._store.link_arguments_now(instance, values)
    activation.sync_fuel = sync_fuel
    if instance.listeners is None:
        return signature.to_host(run_now(activation, func._entity, values, sync_fuel, execution))
    with Hearing(instance.listeners, func._entity, arguments) as heard:
        heard.results = signature.to_host(run_now(activation, func._entity, values, sync_fuel))
    return heard.results


def _checked(fuel: object) -> int:
    if isinstance(fuel, bool) or not isinstance(fuel, int):
        raise TypeError(f"fuel must be an int, got {type(fuel).__name__}")
    if fuel < 0:
        raise ValueError(f"fuel must not be negative, got {fuel}")
    return fuel
