"""Instances: what the host sees of an instantiated module, of a guest or of the host, and how one is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import anyio

from aiowasm.engine.base import Engine, Guard
from aiowasm.engine.func import FuncInst
from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.instance import ModuleInst
from aiowasm.engine.instantiate import Import
from aiowasm.engine.memory import MemInst
from aiowasm.engine.table import TableInst
from aiowasm.engine.tag import TagInst
from aiowasm.errors import ExitError
from aiowasm.store.activation import CURRENT, Activation
from aiowasm.store.engines import first_slice
from aiowasm.store.fuel import Tank
from aiowasm.store.func import Func, call, call_now
from aiowasm.store.group import Group
from aiowasm.store.growth import Account, LeasedHeap, Owned
from aiowasm.store.handles import Global, Handle, Memory, Table, Tag
from aiowasm.store.limits import Limits
from aiowasm.store.listeners import Listeners
from aiowasm.store.traces import trim

if TYPE_CHECKING:
    from aiowasm.store.namespace import Namespace
    from aiowasm.store.store import Store

__all__ = ("Exports", "Instance", "View")

_HANDLES: dict[type, Any] = {FuncInst: Func, MemInst: Memory, TableInst: Table, GlobalInst: Global, TagInst: Tag}


class Exports:
    """The exports of an instance: attributes or items; iteration gives names.

    It has no other methods or attributes, so that no export is shadowed (names with two underscores at both ends, which
    are Python's, are items only).
    """

    __slots__ = ("__dict__", "__instance__")

    __instance__: Instance

    def __init__(self, instance: Instance) -> None:
        object.__setattr__(self, "__instance__", instance)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(error.args[0]) from None

    def __getitem__(self, name: str) -> Any:
        handles = self.__dict__
        handle = handles.get(name)
        if handle is None:
            instance = self.__instance__
            entity = instance.exported(name)
            if entity is None:
                raise KeyError(f"{instance!r} exports no {name!r}")
            handle = handles[name] = instance.store.handle(entity)
        return handle

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("exports cannot be set")

    def __iter__(self) -> Iterator[str]:
        return iter(self.__instance__.export_names)

    def __len__(self) -> int:
        return len(self.__instance__.export_names)

    def __contains__(self, name: object) -> bool:
        return name in self.__instance__.export_names

    def __dir__(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        return f"<Exports {', '.join(self)}>"


class View(Mapping[str, Any]):
    """Exports of one kind by name."""

    def __init__(self, exports: Exports, kind: type[Handle[Any]]) -> None:
        self._exports = exports
        self._names = [name for name in exports if isinstance(exports[name], kind)]

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._exports[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Instance:
    """An instantiated module in a store. Made by `Store.instantiate` and `Namespace.instantiate`."""

    __slots__ = (
        "__weakref__",
        "_ended",
        "_exports",
        "_hooks",
        "account",
        "backend",
        "core",
        "entities",
        "exit",
        "export_names",
        "freed",
        "group",
        "guard",
        "heap",
        "interleave",
        "kept",
        "limits",
        "listeners",
        "name",
        "namespace",
        "plain",
        "ready",
        "slice_fuel",
        "stack_pointer",
        "store",
        "tank",
        "tanks",
        "weight",
    )

    def __init__(self, namespace: Namespace[Any], name: str | None, limits: Limits, account: Account) -> None:
        self.namespace = namespace
        self.store: Store[Any] = namespace.store
        self.name = name
        self.limits = limits
        self.account = account
        self.backend: Engine = self.store.engine
        self.kept = 0
        """How many of its entities other open instances have, once it is freed."""
        self.core: ModuleInst | None = None
        self.entities: Mapping[str, Import] | None = None
        """The exports of a host instance."""
        self.export_names: Mapping[str, Any] = {}
        self.exit: ExitError | None = None
        self.ready = False
        self.plain = False
        """Whether it is open and its calls need no more than a free lock and an unspent budget."""
        self.guard: Guard | None = None
        """Of its direct calls, once there are any."""
        self.freed = False
        self.heap: LeasedHeap | None = None
        self.tank = Tank()
        self.tanks = (self.tank, *namespace.tanks)
        self.slice_fuel = first_slice(self.backend)
        self.stack_pointer: GlobalInst | None = None
        """The shadow stack's, if the store restores it."""
        self.weight = 1
        self.interleave = False
        self.listeners: Listeners | None = None
        self.group = Group(self)
        self._exports: Exports | None = None
        self._hooks: tuple[Callable[[], object], ...] = ()
        self._ended: anyio.Event | None = None

    def __repr__(self) -> str:
        return f"<Instance {self.name or 'anonymous'}{'' if self.exit is None else ' (closed)'}>"

    # What it offers

    def exported(self, name: str) -> Import | None:
        """Return the entity exported as *name*, or None."""
        if self.entities is not None:
            return self.entities.get(name)
        export = self.export_names.get(name)
        if export is None or self.core is None:
            return None
        return self.core.entity(export)

    @property
    def exports(self) -> Exports:
        """The exports, as attributes and items."""
        if self._exports is None:
            self._exports = Exports(self)
        return self._exports

    @property
    def memory(self) -> Memory | None:
        """Memory 0, exported or not; of a host module its first memory; None if there is none."""
        if self.core is not None:
            return self.store.handle(self.core.mems[0]) if self.core.mems else None
        memories = (entity for entity in (self.entities or {}).values() if isinstance(entity, MemInst))
        first = next(memories, None)
        return None if first is None else self.store.handle(first)

    @property
    def globals(self) -> Mapping[str, Global]:
        """The exported globals by name."""
        return View(self.exports, Global)

    @property
    def tables(self) -> Mapping[str, Table]:
        """The exported tables by name."""
        return View(self.exports, Table)

    @property
    def engine(self) -> str:
        """The name of the engine that runs it."""
        return self.backend.name

    @property
    def fuel_consumed(self) -> int:
        """Fuel used by calls that began in this instance; exact whenever none of them is running."""
        self.settle()
        return self.tank.used

    def settle(self) -> None:
        """Charge the tanks for what direct calls have used; none of them has a limit then."""
        if self.guard is not None:
            used = self.guard.take()
            for tank in self.tanks:
                tank.used += used

    @property
    def exit_code(self) -> int | None:
        """None while it is open."""
        return None if self.exit is None else self.exit.exit_code

    def add_fuel(self, units: int) -> None:
        """Let it use *units* more, if it was given a limit."""
        self.check()
        self.tank.add(units)

    # Calls

    def _function(self, name: str) -> Func:
        self.check()
        function = self.exports[name]
        if not isinstance(function, Func):
            raise TypeError(f"export {name!r} is no function")
        return function

    async def call(self, name: str, *arguments: Any, fuel: int | None = None, timeout: float | None = None) -> Any:
        """Call an export, like `exports.name(...)`, with at most *fuel* units and *timeout* seconds for this call.

        Raises:
            KeyError: There is no such export.
            OutOfFuel: *fuel* is used up.
            DeadlineError: *timeout* is over.
        """
        try:
            return await call(self._function(name), arguments, CURRENT.get(), fuel, timeout)
        except BaseException as error:
            trim(error)
            del self, arguments
            raise

    def nowait(self, name: str, *arguments: Any) -> Any:
        """Call an export without waiting: see `Func.nowait`."""
        try:
            return call_now(self._function(name), arguments, CURRENT.get())
        except BaseException as error:
            trim(error)
            del self, arguments
            raise

    async def call_from(
        self,
        activation: Activation,
        name: str,
        arguments: tuple[Any, ...],
        fuel: int | None,
        timeout: float | None,
    ) -> Any:
        """Call an export, nested in the host call that *activation* is in."""
        return await call(self._function(name), arguments, activation, fuel, timeout)

    def call_from_now(self, activation: Activation, name: str, arguments: tuple[Any, ...]) -> Any:
        """Call an export synchronously, nested in the host call that *activation* is in."""
        return call_now(self._function(name), arguments, activation)

    def adapt(self, measured_ns: int, target_ns: int) -> None:
        """Change the size of slices so that the next one takes about *target_ns*."""
        ratio = min(max(target_ns / max(measured_ns, 1), 0.5), 2.0)
        self.slice_fuel = min(max(int(self.slice_fuel * ratio), 100), 1 << 40)

    # Closing

    def check(self) -> None:
        """Raise ExitError if it is closed."""
        if self.exit is not None:
            raise ExitError(self.exit.exit_code, self.exit.cause)

    def on_close(self, hook: Callable[[], object]) -> None:
        """Call *hook* when the instance is closed; the latest first.

        A hook may be `async def`: it is then awaited by `aclose` of the instance, its namespace or its store.
        """
        self.check()
        self._hooks = (*self._hooks, hook)

    def shut(self, exit_code: int, cause: str = "") -> None:
        """Close it, on the loop's own thread: at once, synchronously, and only the first time."""
        if self.exit is not None:
            return
        self.exit = error = ExitError(exit_code & 0xFFFF_FFFF, cause)
        self.plain = False
        if self.guard is not None:
            self.settle()
            self.guard.close()
        core = self.core
        if core is not None:
            self.backend.close(core, error)
        self.namespace.forget(self)
        group = self.group
        for activation in (*group.stack, *group.parked, *(waiter.activation for waiter in group.queue)):
            if activation.runs_in(self):
                activation.stop(error)
        hooks, self._hooks = self._hooks, ()
        for hook in reversed(hooks):
            self.namespace.run_hook(hook)
        try:
            if self.listeners is not None:
                self.listeners.close(self, error.exit_code)
        finally:
            group.leaving = (*group.leaving, self)
            group.free()

    def free(self) -> None:
        """Give back what it holds: it is closed and has no frames."""
        self.freed = True
        core = self.core
        if core is not None:
            for entity in (*core.mems, *core.tables, *core.globals, *core.tags):
                _disown(entity, self)
        else:
            for exported in (self.entities or {}).values():
                _disown(exported, self)
        if self.heap is not None:
            self.heap.close()
            self.account.give_instance()
        if not self.kept:
            self.group.remove(self)
        if self._ended is not None:
            self._ended.set()

    def close_soon(self, exit_code: int = 0) -> None:
        """Close the instance: at once on its loop's thread, otherwise as soon as that can. First code wins."""
        self.store.soon(lambda: self.shut(exit_code, "closed"))

    async def aclose(self, exit_code: int = 0) -> None:
        """Close the instance and wait until its activations have left and its hooks are done.

        Inside one of its own host functions it does not wait.
        """
        self.store.bind()
        self.shut(exit_code, "closed")
        await self.namespace.settle([self])

    async def ended(self) -> None:
        """Wait until it is closed and its activations have left."""
        if not self.freed:
            if self._ended is None:
                self._ended = anyio.Event()
            await self._ended.wait()

    def is_current(self) -> bool:
        """Whether the running task works for an activation of this instance's group: it must not wait for itself."""
        activation = CURRENT.get()
        while activation is not None:
            if activation.instance.group is self.group:
                return True
            activation = activation.parent
        return False


def _disown(entity: object, instance: Instance) -> None:
    """One open instance fewer has *entity*."""
    owned = getattr(entity, "owner", None)
    if not isinstance(owned, Owned):
        return
    owned.users -= 1
    owner: Instance = owned.instance
    if owned.users:
        # Whoever imports it still belongs to the group in which its owner was.
        if owner is instance:
            instance.kept += 1
        return
    if isinstance(entity, MemInst):
        owned.account.add(-owned.size, 0)
        entity.close()
    elif isinstance(entity, TableInst):
        owned.account.add(0, -owned.size)
        entity.close()
    owned.size = 0
    if owner is not instance:
        owner.kept -= 1
        if owner.freed and not owner.kept:
            owner.group.remove(owner)
