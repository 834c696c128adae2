"""Execution rules of the instructions that are not plain arithmetic, by name (the standard's chapter 4.6).

Each works on the frame's operand stack: `rule(engine, frame, immediate)`. Rules of calls return the function to call,
rules of throws the exception, rules of `br_on_*` whether to branch. Bulk rules check bounds, then charge, then write
(fuel: the base cost is static, the rest is charged here).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from aiowasm.engine.heap import I31, ArrayInst, ExnInst, StructInst, ref_eq, ref_matches, struct_nbytes
from aiowasm.engine.interpreter.bulk import (
    CHUNK_ELEMENTS,
    CHUNK_NBYTES,
    copy_chunks,
    fill_chunks,
    fill_table_chunks,
    init_chunks,
)
from aiowasm.engine.interpreter.signals import Ask, Bulk
from aiowasm.errors import Trap, TrapCode
from aiowasm.syntax.matching import DefType
from aiowasm.syntax.types import ArrayType, FieldType, NumType, PackedType, StorageType, StructType

if TYPE_CHECKING:
    from aiowasm.engine.interpreter.engine import Interpreter
    from aiowasm.engine.interpreter.frames import Frame
    from aiowasm.engine.memory import Waiter

__all__ = ("RULES", "pack")

RULES: dict[str, Callable[..., Any]] = {}

_BYTES_PER_UNIT = 64
_ELEMENT_NBYTES = 8
_PAGE_COST = 1024
_NOT_EQUAL = 1
"""What memory.atomic.wait gives where the memory does not hold the expected value."""


def _rule(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        RULES[name] = function
        return function

    return register


def _pop(stack: list[Any], count: int) -> list[Any]:
    if not count:
        return []
    values = stack[-count:]
    del stack[-count:]
    return values


@_rule("*")
def _apply(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    """Arithmetic with immediates, or with other than one or two operands and one result."""
    function, lanes, arity, results = immediate
    operands = _pop(frame.stack, arity)
    value = function(*operands) if lanes is None else function(lanes, *operands)
    if results == 1:
        frame.stack.append(value)
    else:
        frame.stack.extend(value)


@_rule("*lane")
def _lane(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    """Loads and stores of one lane."""
    load, store, lane, offset, memidx, nbytes, _misaligned = immediate
    address, vector = _pop(frame.stack, 2)
    view = frame.instance.mems[memidx].view
    _within(address + offset, nbytes, len(view), TrapCode.MEMORY_OUT_OF_BOUNDS)
    if load is None:
        store(view, address + offset, lane, vector)
    else:
        frame.stack.append(load(view, address + offset, lane, vector))


# Atomics: one agent runs at a time, so any rule is atomic


@_rule("atomic.fence")
def _fence(_engine: Interpreter, _frame: Frame, _immediate: Any) -> None:
    """Nothing is reordered."""


def _aligned(address: int, view: memoryview, nbytes: int) -> None:
    if address & nbytes - 1:
        raise Trap(TrapCode.UNALIGNED_ATOMIC)
    _within(address, nbytes, len(view), TrapCode.MEMORY_OUT_OF_BOUNDS)


@_rule("*rmw")
def _rmw(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    """Atomic read-modify-write and compare-exchange."""
    function, one, offset, memidx, nbytes, _misaligned = immediate
    operands = _pop(frame.stack, 1 if one else 2)
    address = frame.stack.pop() + offset
    view = frame.instance.mems[memidx].view
    _aligned(address, view, nbytes)
    frame.stack.append(function(view, address, *operands))


@_rule("memory.atomic.notify")
def _notify(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    offset, memidx, nbytes, _misaligned = immediate
    memory = frame.instance.mems[memidx]
    count = frame.stack.pop()
    address = frame.stack.pop() + offset
    _aligned(address, memory.view, nbytes)
    frame.stack.append(memory.notify(address, count))


@_rule("*wait")
def _wait(_engine: Interpreter, frame: Frame, immediate: Any) -> tuple[Waiter, int] | None:
    """memory.atomic.wait32 and wait64: what to wait for, or None if the result is there already."""
    offset, memidx, nbytes, _misaligned = immediate
    memory = frame.instance.mems[memidx]
    expected, timeout = _pop(frame.stack, 2)
    address = frame.stack.pop() + offset
    view = memory.view
    _aligned(address, view, nbytes)
    if not memory.shared:
        raise Trap(TrapCode.EXPECTED_SHARED_MEMORY)
    if int.from_bytes(view[address : address + nbytes], "little") != expected:
        frame.stack.append(_NOT_EQUAL)
        return None
    return memory.wait(address), -1 if timeout >> 63 else timeout


# Control


@_rule("unreachable")
def _unreachable(_engine: Interpreter, _frame: Frame, _immediate: Any) -> None:
    raise Trap(TrapCode.UNREACHABLE)


@_rule("call")
@_rule("return_call")
def _call(_engine: Interpreter, frame: Frame, immediate: Any) -> Any:
    return frame.instance.funcs[immediate]


@_rule("call_indirect")
@_rule("return_call_indirect")
def _call_indirect(_engine: Interpreter, frame: Frame, immediate: Any) -> Any:
    typeidx, tableidx = immediate
    elements = frame.instance.tables[tableidx].elements
    index = frame.stack.pop()
    if index >= len(elements):
        raise Trap(TrapCode.UNDEFINED_ELEMENT)
    function = elements[index]
    if function is None:
        raise Trap(TrapCode.UNINITIALIZED_ELEMENT, str(index))
    if not function.deftype.is_subtype_of(frame.instance.deftypes[typeidx]):
        raise Trap(TrapCode.INDIRECT_CALL_TYPE_MISMATCH)
    return function


@_rule("call_ref")
@_rule("return_call_ref")
def _call_ref(_engine: Interpreter, frame: Frame, _immediate: Any) -> Any:
    function = frame.stack.pop()
    if function is None:
        raise Trap(TrapCode.NULL_FUNCTION_REFERENCE)
    return function


@_rule("throw")
def _throw(engine: Interpreter, frame: Frame, immediate: Any) -> ExnInst:
    tag = frame.instance.tags[immediate]
    return ExnInst(frame.instance.heap, tag, tuple(_pop(frame.stack, len(tag.deftype.comptype.params))))


@_rule("throw_ref")
def _throw_ref(_engine: Interpreter, frame: Frame, _immediate: Any) -> ExnInst:
    exception = frame.stack.pop()
    if exception is None:
        raise Trap(TrapCode.NULL_EXCEPTION_REFERENCE)
    return exception  # type: ignore[no-any-return]


@_rule("rethrow")
def _rethrow(_engine: Interpreter, frame: Frame, immediate: Any) -> ExnInst:
    return frame.caught[immediate.start]


@_rule("br_on_null")
def _br_on_null(_engine: Interpreter, frame: Frame, _immediate: Any) -> bool:
    if frame.stack[-1] is None:
        frame.stack.pop()
        return True
    return False


@_rule("br_on_non_null")
def _br_on_non_null(_engine: Interpreter, frame: Frame, _immediate: Any) -> bool:
    if frame.stack[-1] is None:
        frame.stack.pop()
        return False
    return True


@_rule("br_on_cast")
def _br_on_cast(_engine: Interpreter, frame: Frame, immediate: Any) -> bool:
    return ref_matches(frame.stack[-1], immediate[-1])


@_rule("br_on_cast_fail")
def _br_on_cast_fail(_engine: Interpreter, frame: Frame, immediate: Any) -> bool:
    return not ref_matches(frame.stack[-1], immediate[-1])


# Variables, tables, memories


@_rule("table.get")
def _table_get(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    frame.stack[-1] = frame.instance.tables[immediate].get(frame.stack[-1])


@_rule("table.set")
def _table_set(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    index, value = _pop(frame.stack, 2)
    frame.instance.tables[immediate].set(index, value)


@_rule("table.size")
def _table_size(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    frame.stack.append(len(frame.instance.tables[immediate].elements))


def _afford(engine: Interpreter, units: int) -> None:
    """Trap before a growth that the fuel does not pay for; one that is refused for another reason costs nothing."""
    machine = engine.machine
    if machine is not None and machine.consumed + units > machine.limit:
        engine.charge(units)


@_rule("table.grow")
def _table_grow(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    value, delta = _pop(frame.stack, 2)
    table = frame.instance.tables[immediate]
    units = delta * _ELEMENT_NBYTES // _BYTES_PER_UNIT
    if len(table.elements) + delta <= table.max_elements:
        _afford(engine, units)
    if table.asks:
        raise Ask(table, delta, value, units)
    previous = table.grow(delta, value)
    if previous >= 0:
        engine.charge(units)
    frame.stack.append(previous & ((1 << table.addrtype.value) - 1))


@_rule("memory.size")
def _memory_size(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    frame.stack.append(frame.instance.mems[immediate].size)


@_rule("memory.grow")
def _memory_grow(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    memory = frame.instance.mems[immediate]
    delta_pages = frame.stack.pop()
    units = delta_pages * _PAGE_COST
    if memory.size + delta_pages <= memory.max_pages:
        _afford(engine, units)
    if memory.asks:
        raise Ask(memory, delta_pages, None, units)
    previous = memory.grow(delta_pages)
    if previous >= 0:
        engine.charge(units)
    frame.stack.append(previous & ((1 << memory.addrtype.value) - 1))


@_rule("memory.fill")
def _memory_fill(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    start, value, nbytes = _pop(frame.stack, 3)
    memory = frame.instance.mems[immediate]
    _within(start, nbytes, len(memory.view), TrapCode.MEMORY_OUT_OF_BOUNDS)
    if engine.charge(nbytes // _BYTES_PER_UNIT) or nbytes > CHUNK_NBYTES:
        raise Bulk(fill_chunks(memory, start, value & 0xFF, nbytes))
    memory.fill(start, value & 0xFF, nbytes)


@_rule("memory.copy")
def _memory_copy(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    target, source, nbytes = _pop(frame.stack, 3)
    to, of = (frame.instance.mems[index] for index in immediate)
    _within(target, nbytes, len(to.view), TrapCode.MEMORY_OUT_OF_BOUNDS)
    _within(source, nbytes, len(of.view), TrapCode.MEMORY_OUT_OF_BOUNDS)
    if engine.charge(nbytes // _BYTES_PER_UNIT) or nbytes > CHUNK_NBYTES:
        raise Bulk(copy_chunks(to, target, of, source, nbytes, CHUNK_NBYTES))
    to.copy(target, of, source, nbytes)


@_rule("memory.init")
def _memory_init(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    target, source, nbytes = _pop(frame.stack, 3)
    data = frame.instance.datas[immediate[0]].data
    memory = frame.instance.mems[immediate[1]]
    _within(target, nbytes, len(memory.view), TrapCode.MEMORY_OUT_OF_BOUNDS)
    _within(source, nbytes, len(data), TrapCode.MEMORY_OUT_OF_BOUNDS)
    if engine.charge(nbytes // _BYTES_PER_UNIT) or nbytes > CHUNK_NBYTES:
        raise Bulk(init_chunks(memory, target, data, source, nbytes, CHUNK_NBYTES))
    memory.init(target, data, source, nbytes)


@_rule("data.drop")
def _data_drop(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    frame.instance.datas[immediate].drop()


@_rule("elem.drop")
def _elem_drop(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    frame.instance.elems[immediate].drop()


@_rule("table.fill")
def _table_fill(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    start, value, count = _pop(frame.stack, 3)
    table = frame.instance.tables[immediate]
    _within(start, count, len(table.elements), TrapCode.TABLE_OUT_OF_BOUNDS)
    if engine.charge(count * _ELEMENT_NBYTES // _BYTES_PER_UNIT) or count > CHUNK_ELEMENTS:
        raise Bulk(fill_table_chunks(table, start, value, count))
    table.fill(start, value, count)


@_rule("table.copy")
def _table_copy(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    target, source, count = _pop(frame.stack, 3)
    to, of = (frame.instance.tables[index] for index in immediate)
    _within(target, count, len(to.elements), TrapCode.TABLE_OUT_OF_BOUNDS)
    _within(source, count, len(of.elements), TrapCode.TABLE_OUT_OF_BOUNDS)
    if engine.charge(count * _ELEMENT_NBYTES // _BYTES_PER_UNIT) or count > CHUNK_ELEMENTS:
        raise Bulk(copy_chunks(to, target, of, source, count, CHUNK_ELEMENTS))
    to.copy(target, of, source, count)


@_rule("table.init")
def _table_init(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    target, source, count = _pop(frame.stack, 3)
    elements = frame.instance.elems[immediate[0]].elements
    table = frame.instance.tables[immediate[1]]
    _within(target, count, len(table.elements), TrapCode.TABLE_OUT_OF_BOUNDS)
    _within(source, count, len(elements), TrapCode.TABLE_OUT_OF_BOUNDS)
    if engine.charge(count * _ELEMENT_NBYTES // _BYTES_PER_UNIT) or count > CHUNK_ELEMENTS:
        raise Bulk(init_chunks(table, target, elements, source, count, CHUNK_ELEMENTS))
    table.init(target, elements, source, count)


def _within(start: int, count: int, size: int, code: TrapCode) -> None:
    if start + count > size:
        raise Trap(code)


# References


@_rule("ref.null")
def _ref_null(_engine: Interpreter, frame: Frame, _immediate: Any) -> None:
    frame.stack.append(None)


@_rule("ref.is_null")
def _ref_is_null(_engine: Interpreter, frame: Frame, _immediate: Any) -> None:
    frame.stack[-1] = 1 if frame.stack[-1] is None else 0


@_rule("ref.func")
def _ref_func(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    frame.stack.append(frame.instance.funcs[immediate])


@_rule("ref.eq")
def _ref_eq(_engine: Interpreter, frame: Frame, _immediate: Any) -> None:
    right = frame.stack.pop()
    frame.stack[-1] = 1 if ref_eq(frame.stack[-1], right) else 0


@_rule("ref.as_non_null")
def _ref_as_non_null(_engine: Interpreter, frame: Frame, _immediate: Any) -> None:
    if frame.stack[-1] is None:
        raise Trap(TrapCode.NULL_REFERENCE)


@_rule("ref.test")
@_rule("ref.test_null")
def _ref_test(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    frame.stack[-1] = 1 if ref_matches(frame.stack[-1], immediate) else 0


@_rule("ref.cast")
@_rule("ref.cast_null")
def _ref_cast(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    if not ref_matches(frame.stack[-1], immediate):
        raise Trap(TrapCode.CAST_FAILURE)


@_rule("any.convert_extern")
@_rule("extern.convert_any")
def _convert(_engine: Interpreter, _frame: Frame, _immediate: Any) -> None:
    """Both hierarchies hold the same Python objects, so there is nothing to convert."""


@_rule("ref.i31")
def _ref_i31(_engine: Interpreter, frame: Frame, _immediate: Any) -> None:
    frame.stack[-1] = I31(frame.stack[-1] & 0x7FFF_FFFF)


@_rule("i31.get_s")
def _i31_get_s(_engine: Interpreter, frame: Frame, _immediate: Any) -> None:
    value = _i31(frame.stack[-1])
    frame.stack[-1] = value | 0x8000_0000 if value & 0x4000_0000 else value


@_rule("i31.get_u")
def _i31_get_u(_engine: Interpreter, frame: Frame, _immediate: Any) -> None:
    frame.stack[-1] = _i31(frame.stack[-1])


def _i31(reference: I31 | None) -> int:
    if reference is None:
        raise Trap(TrapCode.NULL_I31_REFERENCE)
    return reference.value


# Structures and arrays


def _default(storage: StorageType) -> Any:
    if storage in (NumType.F32, NumType.F64):
        return 0.0
    if storage is NumType.V128:
        return bytes(16)
    return 0 if isinstance(storage, NumType | PackedType) else None


def pack(field: FieldType, value: Any) -> Any:
    """Wrap *value* for a field of a packed type. Spec: `$packfield`."""
    if field.storage is PackedType.I8:
        return value & 0xFF
    return value & 0xFFFF if field.storage is PackedType.I16 else value


def _signed(field: FieldType, value: int) -> int:
    sign = 0x80 if field.storage is PackedType.I8 else 0x8000
    return ((value ^ sign) - sign) & 0xFFFF_FFFF


def _fields(frame: Frame, typeidx: int) -> tuple[DefType, tuple[FieldType, ...]]:
    deftype = frame.instance.deftypes[typeidx]
    if not isinstance(deftype.comptype, StructType):
        raise RuntimeError("validation admitted a structure rule on another type")
    return deftype, deftype.comptype.fields


def _element(frame: Frame, typeidx: int) -> tuple[DefType, FieldType]:
    deftype = frame.instance.deftypes[typeidx]
    if not isinstance(deftype.comptype, ArrayType):
        raise RuntimeError("validation admitted an array rule on another type")
    return deftype, deftype.comptype.field


@_rule("struct.new")
def _struct_new(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    deftype, fields = _fields(frame, immediate)
    values = _pop(frame.stack, len(fields))
    packed = [pack(field, value) for field, value in zip(fields, values, strict=True)]
    frame.stack.append(StructInst(frame.instance.heap, deftype, packed, struct_nbytes(deftype)))


@_rule("struct.new_default")
def _struct_new_default(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    deftype, fields = _fields(frame, immediate)
    if len(fields) > 64:
        engine.tire(len(fields) // 8)
    values = [_default(field.storage) for field in fields]
    frame.stack.append(StructInst(frame.instance.heap, deftype, values, struct_nbytes(deftype)))


def _struct(reference: StructInst | None) -> StructInst:
    if reference is None:
        raise Trap(TrapCode.NULL_STRUCTURE_REFERENCE)
    return reference


@_rule("struct.get")
@_rule("struct.get_u")
def _struct_get(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    frame.stack[-1] = _struct(frame.stack[-1]).fields[immediate[1]]


@_rule("struct.get_s")
def _struct_get_s(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    field = _fields(frame, immediate[0])[1][immediate[1]]
    frame.stack[-1] = _signed(field, _struct(frame.stack[-1]).fields[immediate[1]])


@_rule("struct.set")
def _struct_set(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    reference, value = _pop(frame.stack, 2)
    field = _fields(frame, immediate[0])[1][immediate[1]]
    _struct(reference).fields[immediate[1]] = pack(field, value)


def _array(reference: ArrayInst | None) -> ArrayInst:
    if reference is None:
        raise Trap(TrapCode.NULL_ARRAY_REFERENCE)
    return reference


def _charge_elements(engine: Interpreter, count: int) -> None:
    engine.charge(count * _ELEMENT_NBYTES // _BYTES_PER_UNIT)


@_rule("array.new")
def _array_new(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    value, count = _pop(frame.stack, 2)
    deftype, field = _element(frame, immediate)
    _charge_elements(engine, count)
    frame.stack.append(ArrayInst.filled(frame.instance.heap, deftype, pack(field, value), count))


@_rule("array.new_default")
def _array_new_default(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    deftype, field = _element(frame, immediate)
    count = frame.stack.pop()
    _charge_elements(engine, count)
    frame.stack.append(ArrayInst.filled(frame.instance.heap, deftype, _default(field.storage), count))


@_rule("array.new_fixed")
def _array_new_fixed(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    deftype, field = _element(frame, immediate[0])
    values = [pack(field, value) for value in _pop(frame.stack, immediate[1])]
    frame.stack.append(ArrayInst(frame.instance.heap, deftype, values))


@_rule("array.new_data")
def _array_new_data(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    source, count = _pop(frame.stack, 2)
    deftype, _ = _element(frame, immediate[0])
    data = frame.instance.datas[immediate[1]].data
    array = ArrayInst.from_data(frame.instance.heap, deftype, data, source, count)
    _charge_elements(engine, count)
    frame.stack.append(array)


@_rule("array.new_elem")
def _array_new_elem(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    source, count = _pop(frame.stack, 2)
    deftype, _ = _element(frame, immediate[0])
    references = frame.instance.elems[immediate[1]].elements
    array = ArrayInst.from_elem(frame.instance.heap, deftype, references, source, count)
    _charge_elements(engine, count)
    frame.stack.append(array)


def _at(array: ArrayInst, index: int) -> None:
    if index >= len(array.elements):
        raise Trap(TrapCode.ARRAY_OUT_OF_BOUNDS)


@_rule("array.get")
@_rule("array.get_u")
def _array_get(_engine: Interpreter, frame: Frame, _immediate: Any) -> None:
    index = frame.stack.pop()
    array = _array(frame.stack[-1])
    _at(array, index)
    frame.stack[-1] = array.elements[index]


@_rule("array.get_s")
def _array_get_s(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    index = frame.stack.pop()
    array = _array(frame.stack[-1])
    _at(array, index)
    frame.stack[-1] = _signed(_element(frame, immediate)[1], array.elements[index])


@_rule("array.set")
def _array_set(_engine: Interpreter, frame: Frame, immediate: Any) -> None:
    reference, index, value = _pop(frame.stack, 3)
    array = _array(reference)
    _at(array, index)
    array.elements[index] = pack(_element(frame, immediate)[1], value)


@_rule("array.len")
def _array_len(_engine: Interpreter, frame: Frame, _immediate: Any) -> None:
    frame.stack[-1] = len(_array(frame.stack[-1]).elements)


@_rule("array.fill")
def _array_fill(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    reference, start, value, count = _pop(frame.stack, 4)
    array = _array(reference)
    _within(start, count, len(array.elements), TrapCode.ARRAY_OUT_OF_BOUNDS)
    _charge_elements(engine, count)
    array.fill(start, pack(_element(frame, immediate)[1], value), count)


@_rule("array.copy")
def _array_copy(engine: Interpreter, frame: Frame, _immediate: Any) -> None:
    reference, target, source_reference, source, count = _pop(frame.stack, 5)
    to, of = _array(reference), _array(source_reference)
    _within(target, count, len(to.elements), TrapCode.ARRAY_OUT_OF_BOUNDS)
    _within(source, count, len(of.elements), TrapCode.ARRAY_OUT_OF_BOUNDS)
    _charge_elements(engine, count)
    to.copy(target, of, source, count)


@_rule("array.init_data")
def _array_init_data(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    reference, target, source, count = _pop(frame.stack, 4)
    array = _array(reference)
    _within(target, count, len(array.elements), TrapCode.ARRAY_OUT_OF_BOUNDS)
    _charge_elements(engine, count)
    array.init_data(target, frame.instance.datas[immediate[1]].data, source, count)


@_rule("array.init_elem")
def _array_init_elem(engine: Interpreter, frame: Frame, immediate: Any) -> None:
    reference, target, source, count = _pop(frame.stack, 4)
    array = _array(reference)
    _within(target, count, len(array.elements), TrapCode.ARRAY_OUT_OF_BOUNDS)
    _charge_elements(engine, count)
    array.init_elem(target, frame.instance.elems[immediate[1]].elements, source, count)
