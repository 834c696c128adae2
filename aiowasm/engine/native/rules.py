"""What generated code leaves to Python: growth, bulk operations, references, and operators without stencils.

A rule is called with the execution and reads its operands from the guest's frame, where their slots are canonical; it
leaves its results in the same place. Bulk rules check bounds, then charge, then write, as the interpreter's do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiowasm.engine.base import Outcome
from aiowasm.engine.heap import I31, ExnInst, ref_eq, ref_matches
from aiowasm.engine.memory import MemInst
from aiowasm.engine.storage import CMPXCHGS, LOAD_LANES, LOADS, RMWS, STORE_LANES, STORES, WIDTHS
from aiowasm.errors import Trap, TrapCode
from aiowasm.syntax.instructions import BY_CODE

if TYPE_CHECKING:
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.engine.native.execution import NativeExecution
    from aiowasm.engine.table import TableInst

__all__ = ("RULES", "Call", "Site")

_BYTES_PER_UNIT: Final = 64
_ELEMENT_NBYTES: Final = 8
_PAGE_COST: Final = 1024
_CHUNK_NBYTES: Final = 1 << 20
"""After so many bytes a bulk operation may pause."""


class Site(NamedTuple):
    """A place in a module's code that leaves for `rule`; its operands start `slot` bytes from the frame pointer."""

    rule: Callable[[Call], Outcome | None]
    immediate: Any
    slot: int
    row: Any


class Call:
    """One visit of a site: reads operands, writes results, knows the instance."""

    __slots__ = ("address", "execution", "instance", "site")

    def __init__(self, execution: NativeExecution, instance: ModuleInst, site: Site, frame: int) -> None:
        self.execution = execution
        self.instance = instance
        self.site = site
        self.address = frame + site.slot

    def operands(self) -> list[Any]:
        """The operands in engine form."""
        return self.execution.read(self.address, self.site.row[-2])

    def results(self, *values: Any) -> None:
        """Put the results where they belong."""
        self.execution.write(self.address, self.site.row[-1], values)


RULES: dict[str, Callable[[Call], Outcome | None]] = {}


def _rule(name: str) -> Callable[[Callable[[Call], Outcome | None]], Callable[[Call], Outcome | None]]:
    def register(function: Callable[[Call], Outcome | None]) -> Callable[[Call], Outcome | None]:
        RULES[name] = function
        return function

    return register


def _within(start: int, count: int, size: int, code: TrapCode) -> None:
    if start + count > size:
        raise Trap(code)


# Operators without stencils


@_rule("*evaluate")
def _evaluate(call: Call) -> None:
    function, _, results = call.site.row
    lanes = call.site.immediate
    values = call.operands()
    value = function(*values) if lanes is None else function(lanes, *values)
    if len(results) == 1:
        call.results(value)
    else:
        call.results(*value)


def _effective(call: Call, values: list[Any], memarg: Any) -> tuple[MemInst, int]:
    """The memory of an access, and the effective address, which is aligned where that matters and within bounds."""
    code = call.site.row[0]
    memidx, offset = memarg if isinstance(memarg, tuple) else (0, memarg)
    memory = call.instance.mems[memidx]
    address = values[0] + offset
    nbytes = WIDTHS[code]
    row = BY_CODE[code]
    if row is not None and ".atomic" in row.name and address & (nbytes - 1):
        raise Trap(TrapCode.UNALIGNED_ATOMIC)
    _within(address, nbytes, len(memory.view), TrapCode.MEMORY_OUT_OF_BOUNDS)
    return memory, address


@_rule("*access")
def _access(call: Call) -> None:
    code = call.site.row[0]
    memarg, lane = call.site.immediate, 0
    if code in LOAD_LANES or code in STORE_LANES:
        memarg, lane = memarg
    values = call.operands()
    memory, address = _effective(call, values, memarg)
    view = memory.view
    if code in LOADS:
        call.results(LOADS[code](view, address))
    elif code in STORES:
        STORES[code](view, address, values[1])
    elif code in LOAD_LANES:
        call.results(LOAD_LANES[code](view, address, lane, values[1]))
    elif code in STORE_LANES:
        STORE_LANES[code](view, address, lane, values[1])
    else:
        call.results((RMWS.get(code) or CMPXCHGS[code])(view, address, *values[1:]))


@_rule("memory.atomic.notify")
def _notify(call: Call) -> None:
    values = call.operands()
    memory, address = _effective(call, values, call.site.immediate)
    call.results(memory.notify(address, values[1]))


_NOT_EQUAL: Final = 1
"""What memory.atomic.wait gives where the memory does not hold the expected value."""


@_rule("*wait")
def _wait(call: Call) -> Outcome | None:
    values = call.operands()
    memory, address = _effective(call, values, call.site.immediate)
    _, expected, timeout = values
    if not memory.shared:
        raise Trap(TrapCode.EXPECTED_SHARED_MEMORY)
    if int.from_bytes(memory.view[address : address + WIDTHS[call.site.row[0]]], "little") != expected:
        call.results(_NOT_EQUAL)
        return None
    return call.execution.wait(memory.wait(address), -1 if timeout >> 63 else timeout, call)


# Memories


@_rule("memory.grow")
def _memory_grow(call: Call) -> Outcome | None:
    memory = call.instance.mems[call.site.immediate]
    (delta_pages,) = call.operands()
    if memory.size + delta_pages <= memory.max_pages:
        _afford(call, _growth_cost(memory, delta_pages))
    if memory.asks:
        return call.execution.ask(Outcome.GROW, (memory, delta_pages, None), call)
    finish_growth(call, (memory.grow(delta_pages),))
    return None


def _growth_cost(entity: MemInst | TableInst, delta: int) -> int:
    return delta * _PAGE_COST if isinstance(entity, MemInst) else delta * _ELEMENT_NBYTES // _BYTES_PER_UNIT


def _afford(call: Call, units: int) -> None:
    """Trap before a growth that the fuel does not pay for; one that is refused for another reason costs nothing."""
    execution = call.execution
    if execution.consumed + units > execution.limit:
        execution.charge_bulk(units)


def finish_growth(call: Call, answer: tuple[Any, ...]) -> None:
    """Charge a growth that went well, and tell the guest the previous size."""
    (previous,) = answer
    entity, delta = call.execution.growing or (call.instance.mems[call.site.immediate], call.operands()[-1])
    if previous >= 0:
        call.execution.charge(_growth_cost(entity, delta))
    call.results(previous & ((1 << entity.addrtype.value) - 1))


@_rule("memory.fill")
def _memory_fill(call: Call) -> Outcome | None:
    start, value, nbytes = call.operands()
    memory = call.instance.mems[call.site.immediate]
    _within(start, nbytes, len(memory.view), TrapCode.MEMORY_OUT_OF_BOUNDS)
    later = call.execution.charge_bulk(nbytes // _BYTES_PER_UNIT)
    if later or nbytes > _CHUNK_NBYTES:
        return call.execution.work(_fill_steps(memory, start, value & 0xFF, nbytes), later=later)
    memory.fill(start, value & 0xFF, nbytes)
    return None


def _fill_steps(memory: MemInst, start: int, value: int, nbytes: int) -> Generator[None, None, None]:
    for at in range(0, nbytes, _CHUNK_NBYTES):
        memory.fill(start + at, value, min(_CHUNK_NBYTES, nbytes - at))
        yield


@_rule("memory.copy")
def _memory_copy(call: Call) -> Outcome | None:
    target, source, nbytes = call.operands()
    to, of = (call.instance.mems[index] for index in call.site.immediate)
    _within(target, nbytes, len(to.view), TrapCode.MEMORY_OUT_OF_BOUNDS)
    _within(source, nbytes, len(of.view), TrapCode.MEMORY_OUT_OF_BOUNDS)
    later = call.execution.charge_bulk(nbytes // _BYTES_PER_UNIT)
    if later or nbytes > _CHUNK_NBYTES:
        return call.execution.work(_copy_steps(to, target, of, source, nbytes), later=later)
    to.copy(target, of, source, nbytes)
    return None


def _copy_steps(to: MemInst, target: int, of: MemInst, source: int, nbytes: int) -> Generator[None, None, None]:
    # Where the target lies above the source, its beginning must be read before it is overwritten: from the end on.
    places = range(0, nbytes, _CHUNK_NBYTES)
    for at in reversed(places) if target > source else places:
        to.copy(target + at, of, source + at, min(_CHUNK_NBYTES, nbytes - at))
        yield


@_rule("memory.init")
def _memory_init(call: Call) -> Outcome | None:
    target, source, nbytes = call.operands()
    data = call.instance.datas[call.site.immediate[0]].data
    memory = call.instance.mems[call.site.immediate[1]]
    _within(target, nbytes, len(memory.view), TrapCode.MEMORY_OUT_OF_BOUNDS)
    _within(source, nbytes, len(data), TrapCode.MEMORY_OUT_OF_BOUNDS)
    return _charged(call, nbytes // _BYTES_PER_UNIT, partial(memory.init, target, data, source, nbytes))


def _charged(call: Call, units: int, do: Callable[[], None]) -> Outcome | None:
    """Do what costs *units*: now, or in the next slice if they use this one up."""
    if call.execution.charge_bulk(units):
        return call.execution.work(_once(do), later=True)
    do()
    return None


def _once(do: Callable[[], None]) -> Generator[None, None, None]:
    do()
    yield


@_rule("data.drop")
def _data_drop(call: Call) -> None:
    call.instance.datas[call.site.immediate].drop()


# Tables


@_rule("table.get")
def _table_get(call: Call) -> None:
    (index,) = call.operands()
    call.results(call.instance.tables[call.site.immediate].get(index))


@_rule("table.set")
def _table_set(call: Call) -> None:
    index, value = call.operands()
    call.instance.tables[call.site.immediate].set(index, value)


@_rule("table.grow")
def _table_grow(call: Call) -> Outcome | None:
    value, delta = call.operands()
    table = call.instance.tables[call.site.immediate]
    if table.size + delta <= table.max_elements:
        _afford(call, _growth_cost(table, delta))
    call.execution.growing = (table, delta)
    if table.asks:
        return call.execution.ask(Outcome.GROW, (table, delta, value), call)
    finish_growth(call, (table.grow(delta, value),))
    call.execution.growing = None
    return None


@_rule("table.fill")
def _table_fill(call: Call) -> Outcome | None:
    start, value, count = call.operands()
    table = call.instance.tables[call.site.immediate]
    _within(start, count, table.size, TrapCode.TABLE_OUT_OF_BOUNDS)
    units = count * _ELEMENT_NBYTES // _BYTES_PER_UNIT
    return _charged(call, units, partial(table.fill, start, value, count))


@_rule("table.copy")
def _table_copy(call: Call) -> Outcome | None:
    target, source, count = call.operands()
    to, of = (call.instance.tables[index] for index in call.site.immediate)
    _within(target, count, to.size, TrapCode.TABLE_OUT_OF_BOUNDS)
    _within(source, count, of.size, TrapCode.TABLE_OUT_OF_BOUNDS)
    units = count * _ELEMENT_NBYTES // _BYTES_PER_UNIT
    return _charged(call, units, partial(to.copy, target, of, source, count))


@_rule("table.init")
def _table_init(call: Call) -> Outcome | None:
    target, source, count = call.operands()
    elements = call.instance.elems[call.site.immediate[0]].elements
    table = call.instance.tables[call.site.immediate[1]]
    _within(target, count, table.size, TrapCode.TABLE_OUT_OF_BOUNDS)
    _within(source, count, len(elements), TrapCode.TABLE_OUT_OF_BOUNDS)
    return _charged(
        call, count * _ELEMENT_NBYTES // _BYTES_PER_UNIT, partial(table.init, target, elements, source, count)
    )


@_rule("elem.drop")
def _elem_drop(call: Call) -> None:
    call.instance.elems[call.site.immediate].drop()


# References


@_rule("ref.func")
def _ref_func(call: Call) -> None:
    call.results(call.instance.funcs[call.site.immediate])


@_rule("global.get")
def _global_get(call: Call) -> None:
    instance_global = call.instance.globals[call.site.immediate]
    call.execution.write(call.address, (instance_global.globaltype.valtype,), (instance_global.value,))


@_rule("global.set")
def _global_set(call: Call) -> None:
    instance_global = call.instance.globals[call.site.immediate]
    (value,) = call.execution.read(call.address, (instance_global.globaltype.valtype,))
    instance_global.value = value


@_rule("ref.eq")
def _ref_eq(call: Call) -> None:
    left, right = call.operands()
    call.results(1 if ref_eq(left, right) else 0)


@_rule("ref.i31")
def _ref_i31(call: Call) -> None:
    call.results(I31(call.operands()[0] & 0x7FFF_FFFF))


@_rule("i31.get_s")
def _i31_get_s(call: Call) -> None:
    value = _i31(call)
    call.results(value | 0x8000_0000 if value & 0x4000_0000 else value)


@_rule("i31.get_u")
def _i31_get_u(call: Call) -> None:
    call.results(_i31(call))


def _i31(call: Call) -> int:
    (reference,) = call.operands()
    if reference is None:
        raise Trap(TrapCode.NULL_I31_REFERENCE)
    value: int = reference.value
    return value


@_rule("*test")
def _ref_test(call: Call) -> None:
    """ref.test and br_on_cast: the immediate is the type asked for."""
    call.results(1 if ref_matches(call.operands()[0], call.site.immediate) else 0)


@_rule("*cast")
def _ref_cast(call: Call) -> None:
    (reference,) = call.operands()
    if not ref_matches(reference, call.site.immediate):
        raise Trap(TrapCode.CAST_FAILURE)


@_rule("*type")
def _check_type(call: Call) -> None:
    """A call through a table whose function has another type than the one asked for: a subtype may do."""
    function = call.execution.function_at(call.address)
    if function is None or not function.deftype.is_subtype_of(call.instance.deftypes[call.site.immediate]):
        raise Trap(TrapCode.INDIRECT_CALL_TYPE_MISMATCH)


# Exceptions


@_rule("rethrow")
def _rethrow(call: Call) -> Outcome | None:
    return call.execution.rethrow(call.site.immediate)


@_rule("throw")
def _throw(call: Call) -> Outcome | None:
    tag = call.instance.tags[call.site.immediate]
    exception = ExnInst(call.instance.heap, tag, tuple(call.operands()))
    call.execution.let_throw(call.instance)
    return call.execution.unwind(exception)


@_rule("throw_ref")
def _throw_ref(call: Call) -> Outcome | None:
    exception = call.execution.handle_at(call.address)
    if exception is None:
        raise Trap(TrapCode.NULL_EXCEPTION_REFERENCE)
    return call.execution.unwind(exception)
