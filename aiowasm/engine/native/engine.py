"""The native engine: what an `Engine` of `engine.base` needs, on machine code. `why_not()` says whether it can run."""

from __future__ import annotations

import ctypes
import struct
from array import array
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary, ref

from aiowasm.engine.func import FuncInst
from aiowasm.engine.native.code import CodeSpace, generation, use_flush
from aiowasm.engine.native.crossing import Crossing, NativeBerth, NativeGuard, direct
from aiowasm.engine.native.entities import NativeGlobal, NativeMemory, NativeTable
from aiowasm.engine.native.execution import NativeExecution
from aiowasm.engine.native.layout import Activation, Descriptor, Instance
from aiowasm.engine.native.module import ModuleCode, code_of
from aiowasm.engine.native.platform import load_stencils
from aiowasm.engine.native.stack import GuestStack, StackPool
from aiowasm.engine.native.values import codec, slots_of
from aiowasm.errors import LimitError, LinkError
from aiowasm.syntax.types import ArrayType, FuncType, StructType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextvars import ContextVar

    from aiowasm.engine.heap import Reference
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.engine.native.stencils import Stencils
    from aiowasm.syntax.types import GlobalType, MemType, TableType
    from aiowasm.validation.module import ValidatedModule

__all__ = ("Native", "NativeInstance")

_EMPTY_MEMORY = (ctypes.c_uint64 * 2)()
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
_serials = count(1)


class NativeInstance:
    """What generated code sees of a module instance: a block of pointers at `address`."""

    __slots__ = ("__weakref__", "_block", "_shut", "address", "code", "instance")

    def __init__(self, instance: ModuleInst, code: ModuleCode) -> None:
        self.instance = ref(instance)
        self.code = code
        self._block = array("Q", bytes(code.layout.nbytes))
        self.address = self._block.buffer_info()[0]
        self._block[Instance.HANDLERS // 8] = code.handlers.address
        self._shut = False

    def fill(self, instance: ModuleInst, engine: Native) -> None:
        """Point to the entities of *instance*, which is complete but for its segments."""
        layout, block = self.code.layout, self._block
        block[Instance.MEMORY // 8] = ctypes.addressof(_EMPTY_MEMORY)
        for area, entities, kind in (
            (layout.mems, instance.mems, NativeMemory),
            (layout.tables, instance.tables, NativeTable),
            (layout.globals, instance.globals, NativeGlobal),
        ):
            for number, entity in enumerate(entities):
                if not isinstance(entity, kind):
                    raise LinkError("an import belongs to another engine")
                block[area // 8 + number] = entity.address
        if instance.mems:
            block[Instance.MEMORY // 8] = block[layout.mems // 8]
        for number, deftype in enumerate(instance.deftypes):
            block[layout.types // 8 + number] = id(deftype)
        for number, tag in enumerate(instance.tags):
            block[layout.tags // 8 + number] = id(tag)
        imported = instance.validated.nimported_funcs
        for number in range(imported):
            block[layout.imports // 8 + number] = engine.descriptor(instance.funcs[number])
        block[Instance.FUNCS // 8] = self.code.entries.buffer_info()[0]

    def publish(self, index: int) -> int:
        """Let references of this instance lead to the code of a defined function that is compiled now.

        Returns its address.
        """
        entry = self.code.entries[index]
        instance = self.instance()
        func = None if instance is None else instance.funcs.get(self.code.validated.nimported_funcs + index)
        known = None if func is None else _known(func)
        if known is not None:
            known.block[Descriptor.CODE // 8] = entry
        return entry

    def describe(self, func: FuncInst, index: int) -> array[int]:
        """A descriptor of the defined function *index*."""
        entry = self.code.stub(index) if self._shut else self.code.entries[index]
        return array("Q", (entry, id(func.deftype), self.address, 0))

    def shut(self, instance: ModuleInst) -> None:
        """Let every later call of a function come back to Python, which looks at the instance's error."""
        self._shut = True
        self._block[Instance.FUNCS // 8] = self.code.stubs.buffer_info()[0]
        for func in instance.own_funcs():
            known = _known(func)
            if known is not None:
                known.block[Descriptor.CODE // 8] = self.code.stub(
                    (func.funcidx or 0) - self.code.validated.nimported_funcs
                )


class NativeFunction:
    """What the cell of a function has for this engine: its descriptor, and how its values get into slots."""

    __slots__ = ("address", "block", "functype", "params", "results", "serial", "slots")

    def __init__(self, func: FuncInst, block: array[int]) -> None:
        comptype = func.deftype.comptype
        if not isinstance(comptype, FuncType):
            raise LinkError("a function without a function type")
        self.block = block
        """The descriptor."""
        self.address = block.buffer_info()[0]
        self.functype = comptype
        self.params = codec(comptype.params)
        self.results = codec(comptype.results)
        self.slots = slots_of(comptype.params)
        self.serial = 0
        """Of the engine that knows the address; functions of the host may be used by several."""


def _known(func: FuncInst) -> NativeFunction | None:
    # `cell` is the interpreter's: a function of the host may be used by both engines.
    known = func.state
    return known if isinstance(known, NativeFunction) else None


class Native:
    """The `Engine` of `engine.base` on machine code.

    Raises:
        RuntimeError: If this process cannot run it; `why_not` says why.
    """

    name = "native"

    def __init__(self) -> None:
        stencils = load_stencils()
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
        self.functions: WeakValueDictionary[int, FuncInst] = WeakValueDictionary()
        self.instances: WeakValueDictionary[int, NativeInstance] = WeakValueDictionary()
        self._tickets: dict[int, None] = {}
        self._ticket = 0
        self._buried: list[tuple[int, Any]] = []
        self.entry_offset = stencils.labels["enter_entry"]
        self._returns: dict[int, Any] = {}
        self._generation = generation[0]

    # The protocol

    def missing(self, validated: ValidatedModule) -> str | None:
        """Return the name of a feature of *validated* that this engine lacks, or None."""
        if any(isinstance(deftype.comptype, StructType | ArrayType) for deftype in validated.deftypes):
            return "gc"
        return None

    def memory(self, memtype: MemType, max_nbytes: int) -> NativeMemory:
        """Return a new memory."""
        return NativeMemory(memtype, max_nbytes)

    def table(self, tabletype: TableType, init: Reference, max_elements: int) -> NativeTable:
        """Return a new table."""
        return NativeTable(tabletype, init, max_elements, self)

    def global_(self, globaltype: GlobalType, value: Any) -> NativeGlobal:
        """Return a new global."""
        return NativeGlobal(globaltype, value, self)

    def bind(self, instance: ModuleInst) -> None:
        """Make the functions of *instance* callable; no code is compiled yet."""
        self.native(instance).fill(instance, self)

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
        self.native(instance).shut(instance)

    # For executions and entities

    def native(self, instance: ModuleInst) -> NativeInstance:
        """Return what generated code sees of *instance*."""
        state = instance.state
        if isinstance(state, NativeInstance):
            return state
        if state is not None:
            raise LinkError("an instance of another engine")
        state = NativeInstance(instance, code_of(instance.validated, self.stencils))
        instance.state = state
        self.instances[state.address] = state
        return state

    def function(self, func: FuncInst) -> NativeFunction:
        """Return what this engine keeps of *func*, which lives as long as *func* does."""
        known = _known(func)
        if known is None:
            if func.instance is None or func.funcidx is None:
                block = array("Q", (0, id(func.deftype), 0, 0))
            else:
                index = func.funcidx - func.instance.validated.nimported_funcs
                block = self.native(func.instance).describe(func, index)
            known = func.state = NativeFunction(func, block)
        if known.serial != self._serial:
            known.serial = self._serial
            self.functions[known.address] = func
        return known

    def descriptor(self, func: FuncInst) -> int:
        """Return the address of the descriptor of *func*."""
        return self.function(func).address

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
            self._buried = [entry for entry in self._buried if entry[0] >= oldest]

    def bury(self, references: Iterable[Any]) -> None:
        """Keep functions that leave a table or a global while guests run that may have them in a slot."""
        if self._tickets:
            self._buried.append((self._ticket, {each for each in references if isinstance(each, FuncInst)}))
