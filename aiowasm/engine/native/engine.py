"""The native engine: what an `Engine` of `engine.base` needs, on machine code. `why_not()` says whether it can run."""

from __future__ import annotations

import ctypes
import struct
from array import array
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from aiowasm.engine.func import FuncInst
from aiowasm.engine.native.code import CodeSpace, generation, use_flush
from aiowasm.engine.native.crossing import Crossing, NativeBerth, NativeGuard, direct
from aiowasm.engine.native.entities import FunctionTable, NativeGlobal, NativeMemory, NativeTable, keeper
from aiowasm.engine.native.execution import NativeExecution
from aiowasm.engine.native.instance import NativeFunction, NativeInstance, known
from aiowasm.engine.native.layout import Activation, Descriptor
from aiowasm.engine.native.module import code_steps
from aiowasm.engine.native.platform import load_stencils
from aiowasm.engine.native.stack import GuestStack, StackPool
from aiowasm.engine.native.values import is_function_type
from aiowasm.engine.segments import Funcrefs
from aiowasm.errors import LimitError, LinkError
from aiowasm.syntax.guard import Guard
from aiowasm.syntax.steps import Steps, finish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextvars import ContextVar

    from aiowasm.engine.heap import Reference
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.engine.native.stencils import Stencils
    from aiowasm.syntax.types import GlobalType, MemType, TableType
    from aiowasm.validation.module import ValidatedModule

__all__ = ("Native",)

_RETURNS_MAX: Final = 100_000
_CANONICAL_NAN64: Final = 0x7FF8_0000_0000_0000
_CANONICAL_NAN32: Final = 0x7FC0_0000


class _Runtime:
    """The routines as machine code, once per process and blob."""

    def __init__(self, stencils: Stencils) -> None:
        self.stencils = stencils
        space = CodeSpace()
        self.space = space
        if "rt_flush" in stencils:
            # The system itself flushes pages that are executed for the first time.
            use_flush(space.put(stencils.raw("rt_flush")))
        names = ["rt_resume", "rt_switch", "rt_entry", "rt_land", "rt_cross"]
        names += [f"rt_{name}" for name in Activation.ROUTINE_NAMES if f"rt_{name}" not in names]
        names += [f"rt_trap{number}" for number in range(len(Activation.TRAPS))]
        self.routines = {name: space.put(stencils.raw(name)) for name in names}
        self.crossed = self.routines["rt_cross"] + stencils.labels["rt_crossed"]
        self.entered = self.routines["rt_entry"] + stencils.labels["rt_entered"]
        # Constants are addressed through a register and must be aligned.
        size = len(stencils.pool) + 16
        self._pool = ctypes.create_string_buffer(size)
        self.pool = (ctypes.addressof(self._pool) + 15) & ~15
        ctypes.memmove(self.pool, stencils.pool, len(stencils.pool))
        self.crossing = Crossing(stencils, space.put, self.routines["rt_resume"], self.routines["rt_entry"])
        self.releasing = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(self.routines["rt_resume"])
        block = bytearray(Activation.NBYTES)
        struct.pack_into("<Q", block, Activation.POOL, self.pool)
        struct.pack_into("<Q", block, Activation.CROSSED, self.crossed)
        control = stencils.encoding.control
        struct.pack_into("<QII", block, Activation.NAN64, _CANONICAL_NAN64, _CANONICAL_NAN32, control)
        for name in Activation.ROUTINE_NAMES:
            struct.pack_into("<Q", block, Activation.routine(name), self.routines[f"rt_{name}"])
        for number, code in enumerate(Activation.TRAPS):
            struct.pack_into("<Q", block, Activation.trap(code), self.routines[f"rt_trap{number}"])
        self.block = bytes(block)


_runtimes: dict[int, _Runtime] = {}
_making: Final = Guard()
_serials = count(1)


class Native:
    """The `Engine` of `engine.base` on machine code.

    Raises:
        RuntimeError: If this process cannot run it; `why_not` says why.
    """

    name = "native"

    def __init__(self) -> None:
        stencils = load_stencils()
        with _making:
            runtime = _runtimes.get(id(stencils))
            if runtime is None:
                runtime = _runtimes[id(stencils)] = _Runtime(stencils)
        self._runtime = runtime
        self.stencils = stencils
        self.routines = runtime.routines
        self.crossed = runtime.crossed
        self.entry = runtime.routines["rt_entry"]
        self.entered = runtime.entered
        self.crossing = runtime.crossing
        self.step = runtime.crossing.step
        self.resume_releasing = runtime.releasing
        self.pool = StackPool()
        self._berths: dict[tuple[int, int], NativeBerth] = {}
        self._serial = next(_serials)
        self._hosts: WeakValueDictionary[int, FuncInst] = WeakValueDictionary()
        """Functions of the host by their descriptors."""
        self.instances: WeakValueDictionary[int, NativeInstance] = WeakValueDictionary()
        self._tickets: dict[int, None] = {}
        self._ticket = 0
        self._buried: dict[object, int] = {}
        """What is kept, with the last ticket whose execution may need it."""
        self.entry_offset = stencils.labels["enter_entry"]
        self._returns: dict[int, Any] = {}
        self._generation = generation[0]

    # The protocol

    def missing(self, validated: ValidatedModule) -> str | None:
        """Return the name of a feature of *validated* that this engine lacks, or None."""
        return "gc" if validated.aggregates else None

    def memory(self, memtype: MemType, max_nbytes: int) -> NativeMemory:
        """Return a new memory."""
        return NativeMemory(memtype, max_nbytes)

    def table(self, tabletype: TableType, init: Reference, max_elements: int) -> NativeTable:
        """Return a new table."""
        kind = FunctionTable if is_function_type(tabletype.reftype) else NativeTable
        return kind(tabletype, init, max_elements, self)

    def global_(self, globaltype: GlobalType, value: Any) -> NativeGlobal:
        """Return a new global."""
        return NativeGlobal(globaltype, value, self)

    def prepare_steps(self, validated: ValidatedModule) -> Steps[None]:
        """Make ready the stubs of the functions of a module."""
        yield from code_steps(validated, self.stencils)

    def bind_steps(self, instance: ModuleInst) -> Steps[None]:
        """Make the functions of *instance* callable; no code is compiled yet."""
        yield from self.native(instance).fill_steps(instance, self)

    def call(
        self, func: FuncInst, arguments: tuple[Any, ...], *, limit: int, call_depth: int, stack_slots: int
    ) -> NativeExecution:
        """Return an execution of *func*, not started."""
        return NativeExecution(self, func, arguments, limit, call_depth, stack_slots)

    def guard(self, thread: array[int], variable: ContextVar[Any]) -> NativeGuard:
        """Return a guard for the direct calls of an instance."""
        return NativeGuard(thread, variable)

    def direct(
        self, func: FuncInst, guard: NativeGuard, *, units: int, call_depth: int, stack_slots: int
    ) -> Callable[..., Any] | None:
        """Return a built-in function for calls of *func* by the host, or None."""
        return direct(self, func, guard, units=units, call_depth=call_depth, stack_slots=stack_slots)

    def close(self, instance: ModuleInst, error: Exception) -> None:
        """Make every later call of the functions of *instance* end with *error*."""
        instance.error = error
        self.native(instance).shut()

    # For executions and entities

    def native(self, instance: ModuleInst) -> NativeInstance:
        """Return what generated code sees of *instance*."""
        state = instance.state
        if isinstance(state, NativeInstance):
            return state
        if state is not None:
            raise LinkError("an instance of another engine")
        state = NativeInstance(instance, finish(code_steps(instance.validated, self.stencils)))
        instance.state = state
        self.instances[state.address] = state
        return state

    def function(self, func: FuncInst) -> NativeFunction:
        """Return what this engine keeps of *func*, which lives as long as *func* does."""
        found = known(func)
        if found is None:
            address = None if func.instance is None else self.descriptor(func)
            found = func.state = NativeFunction(func, address)
        if func.instance is None and found.serial != self._serial:
            found.serial = self._serial
            self._hosts[found.address] = func
        return found

    def descriptor(self, func: FuncInst) -> int:
        """Return the address of the descriptor of *func*."""
        if func.instance is None or func.funcidx is None:
            return self.function(func).address
        return self.native(func.instance).descriptor(func.funcidx)

    def references(self, references: Sequence[Reference]) -> tuple[list[object], array[int]]:
        """Return what keeps *references* to functions alive, and the addresses of their descriptors (null: zero)."""
        if isinstance(references, Funcrefs):
            instance, funcidxs = references.instance, references.funcidxs
            imported = instance.validated.nimported_funcs
            keepers = [keeper(instance.funcs[each]) if each < imported else instance for each in funcidxs]
            return keepers, self.native(instance).descriptors(funcidxs)
        found = [self.descriptor(each) if isinstance(each, FuncInst) else 0 for each in references]
        return list(map(keeper, references)), array("Q", found)

    def function_at(self, address: int) -> FuncInst:
        """Return the function whose descriptor is at *address*."""
        owner = ctypes.c_uint64.from_address(address + Descriptor.INSTANCE).value
        return self.instances[owner].function_at(address) if owner else self._hosts[address]

    def prepare(self, stack: GuestStack) -> None:
        """Make the activation block of *stack* ready for a new execution."""
        if not stack.prepared:
            ctypes.memmove(stack.activation, self._runtime.block, Activation.NBYTES)
            stack.longs[Activation.STACK // 8] = stack.reserve
            stack.prepared = True

    def berth(self, slots: int, depth: int) -> NativeBerth:
        """Return the berth for the given limits, with a stack unless one has been taken away."""
        berth = self._berths.get((slots, depth))
        if berth is None:
            berth = self._berths[slots, depth] = NativeBerth(slots)
            with suppress(LimitError):  # else the next stack that is given back will lie there
                self.give(self.pool.take(slots, depth))
        return berth

    def give(self, stack: GuestStack) -> None:
        """Take back a stack that an execution needs no longer."""
        berth = self._berths.get((stack.slots, stack.depth))
        if berth is None or berth.stack is not None:
            self.pool.give(stack)
            return
        self.prepare(stack)
        berth.lay(stack)

    def returns(self) -> dict[int, Any]:
        """What executions remember of return addresses, as long as the code is there."""
        if self._generation != generation[0] or len(self._returns) > _RETURNS_MAX:
            self._generation = generation[0]
            self._returns.clear()
        return self._returns

    def enter(self) -> int:
        """An execution begins; what running guests might hold is kept until it has ended."""
        self._ticket += 1
        self._tickets[self._ticket] = None
        return self._ticket

    def leave(self, ticket: int) -> None:
        """The execution with this ticket is over."""
        self._tickets.pop(ticket, None)
        if self._buried:
            oldest = next(iter(self._tickets), self._ticket + 1)
            self._buried = {each: last for each, last in self._buried.items() if last >= oldest}

    def bury(self, keepers: Iterable[object]) -> None:
        """Keep what has kept functions that leave a table or a global while guests run that may have them in a slot."""
        if self._tickets:
            self._buried.update(dict.fromkeys(keepers, self._ticket))
