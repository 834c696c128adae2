"""Calls from guests to the host: `def` functions inside the engine, `async def` ones between two of its slices."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from aiowasm.engine.base import HostReturned, HostWaits, Thrown
from aiowasm.engine.func import FuncInst
from aiowasm.errors import EXIT_CANCELLED, WasmException
from aiowasm.store.activation import CURRENT, Activation
from aiowasm.store.caller import Caller
from aiowasm.store.definitions import HostFunction
from aiowasm.store.delays import DELAY_NS, delayed
from aiowasm.store.interrupts import interruptible
from aiowasm.store.linkage import group_of, link_now
from aiowasm.syntax.types import RefType

if TYPE_CHECKING:
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.store.instance import Instance
    from aiowasm.store.listeners import Listeners

__all__ = ("HostBinding", "caller_of", "heard")


class HostBinding:
    """A host function of one host instance: its definition with converters for this store."""

    __slots__ = ("definition", "gives_references", "instance", "to_engine", "to_host")

    def __init__(self, definition: HostFunction, instance: Instance) -> None:
        self.definition = definition
        self.instance = instance
        self.to_host, to_engine = definition.converters(instance.store.references)
        self.gives_references = any(isinstance(valtype, RefType) for valtype in definition.functype.results)
        self.to_engine = _linking(to_engine) if self.gives_references and not definition.is_async else to_engine

    def host(self) -> Callable[..., Any] | None:
        """Return what engines call for a `def` function; None for an `async def` one."""
        if not self.definition.is_async:
            return _synchronous(self)
        if self.definition.attempt is None or not getattr(self.instance.backend, "defers_host_calls", False):
            return None
        return _attempting(self, self.definition.attempt)

    def arguments(self, activation: Activation, core: ModuleInst | None, values: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what the function is called with."""
        arguments = self.to_host(values)
        return (caller_of(activation, core, self.instance), *arguments) if self.definition.takes_caller else arguments


def caller_of(activation: Activation, core: ModuleInst | None, host: Instance) -> Caller[Any]:
    """Return the caller that *activation* shows to host functions; the same object while the instance is the same."""
    instance: Any = host if core is None else core.owner
    caller = activation.caller
    if caller is None or caller.instance is not instance:
        caller = activation.caller = Caller(activation, instance)
    return caller


def _synchronous(
    binding: HostBinding,
    definition: HostFunction | None = None,
    to_engine: Callable[[Any], tuple[object, ...]] | None = None,
) -> Callable[..., Any]:
    """The wrapper around a `def` function. It runs inside `resume`, for each call of a guest: it is kept short."""
    definition = binding.definition if definition is None else definition
    to_engine = binding.to_engine if to_engine is None else to_engine
    function, fuel, takes_caller = definition.function, definition.fuel, definition.takes_caller
    to_host, instance = binding.to_host, binding.instance
    single = len(definition.functype.results) == 1
    current = CURRENT.get

    @interruptible
    def host(core: ModuleInst | None, *values: Any) -> Any:
        activation: Activation = current()  # type: ignore[assignment]
        activation.in_host = True
        try:
            if fuel:
                activation.execution.charge(fuel)  # type: ignore[union-attr]
            if takes_caller:
                results = to_engine(function(caller_of(activation, core, instance), *to_host(values)))
            else:
                results = to_engine(function(*to_host(values)))
        except BaseException as error:
            _raised(activation, core, error)
            raise
        finally:
            activation.in_host = False
        late_ns = perf_counter_ns() - activation.slice_end
        if activation.stopping or late_ns > 0:
            if late_ns > DELAY_NS:
                delayed(f"the host function {instance.name}.{definition.name}", late_ns)
            raise HostReturned(results[0] if single else results)
        return results[0] if single else results

    return host


def _attempting(binding: HostBinding, attempt: Callable[..., Any]) -> Callable[..., Any]:
    """The wrapper around a function that may turn out to have to wait."""
    definition = replace(binding.definition, function=attempt)
    to_engine = binding.to_engine

    def convert(results: Any) -> tuple[object, ...]:
        if isinstance(results, Awaitable):
            activation: Activation = CURRENT.get()  # type: ignore[assignment]
            activation.deferred = results
            raise HostWaits
        return to_engine(results)

    return _synchronous(binding, definition, convert)


def _linking(to_engine: Callable[[object], tuple[object, ...]]) -> Callable[[object], tuple[object, ...]]:
    """Functions that a host function returns become part of the group of the guest that gets them."""

    def convert(result: object) -> tuple[object, ...]:
        values = to_engine(result)
        activation = CURRENT.get()
        if activation is not None:
            link_now([activation.instance.group, *filter(None, map(group_of, values))], activation)
        return values

    return convert


def heard(func: FuncInst, listeners: Listeners) -> FuncInst:
    """Return *func* for an instance with listeners: they hear of each call. Others keep theirs, which tells nobody."""
    host = func.host
    if host is None:
        return func

    def telling(core: ModuleInst | None, *values: Any) -> Any:
        listeners.host_call(func)
        return host(core, *values)

    return FuncInst(func.deftype, host=telling, name=func.name, owner=func.owner)


def _raised(activation: Activation, core: ModuleInst | None, error: BaseException) -> None:
    """Treat what a `def` function raised: for the guest, for the caller, or fatal for the instances involved."""
    if isinstance(error, WasmException):
        raise Thrown(activation.store.exception_of(error, core)) from error
    if not isinstance(error, Exception):
        for instance in activation.live_instances():
            instance.shut(EXIT_CANCELLED, f"a host function raised {type(error).__name__}")
