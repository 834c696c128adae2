"""Rules of instructions whose type depends on the context: name -> function from immediates to a stack type.

A rule returns the operand types, the result types and what to record. Those that depend on the operands or on labels
are the walk's own (`aiowasm.validation.code`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aiowasm import limits
from aiowasm.errors import InvalidError
from aiowasm.features import Feature
from aiowasm.syntax.instructions import Instruction
from aiowasm.syntax.matching import is_defaultable, matches_heaptype, matches_valtype
from aiowasm.syntax.types import (
    ARRAYREF,
    EQREF,
    F32,
    F64,
    I31REF,
    I32,
    I64,
    V128,
    AbsHeapType,
    AddressType,
    FieldType,
    PackedType,
    RefType,
    ValType,
)
from aiowasm.validation.context import Context, unknown

__all__ = ("NAMED_TYPES", "RULES", "fixed_type")

Type = tuple[Sequence[ValType], Sequence[ValType], object]

NAMED_TYPES: dict[str, ValType] = {
    "i32": I32,
    "i64": I64,
    "f32": F32,
    "f64": F64,
    "v128": V128,
    "i31ref": I31REF,
    "eqref": EQREF,
    "arrayref": ARRAYREF,
    "i31nonnull": RefType(False, AbsHeapType.I31),
}
"""The words of the table's column of types, but for `at`."""


def _address(addrtype: AddressType) -> ValType:
    return I64 if addrtype is AddressType.I64 else I32


def _shorter(one: ValType, other: ValType) -> ValType:
    return I64 if one is I64 and other is I64 else I32


def fixed_type(context: Context, row: Instruction, immediates: tuple[Any, ...]) -> Type:
    """The type of an instruction whose table row has one but whose immediates must be checked."""
    at: ValType = I32
    # The suite expects what is accessed to be checked before segments, which come first in the binary format.
    for word, value in zip(row.immediates, immediates, strict=True):
        if word == "mem":
            context.mem(value)
        elif word == "table":
            context.table(value)
    recorded: list[object] = []
    for word, value in zip(row.immediates, immediates, strict=True):
        entry: object = value
        if word.startswith("memarg:"):
            align, memidx, offset = value
            mem = context.mem(memidx)
            if memidx:
                context.need(Feature.MULTI_MEMORY, "a memory index")
            if align > int(word[7:]):
                raise InvalidError("alignment must not be larger than natural")
            if offset > 0xFFFF_FFFF and mem.addrtype is AddressType.I32:
                raise InvalidError("offset out of range")
            at = _address(mem.addrtype)
            entry = (memidx, offset) if memidx else offset
        elif word == "mem":
            at = _address(context.mem(value).addrtype)
            if value:
                context.need(Feature.MULTI_MEMORY, "a memory index")
        elif word == "table":
            at = _address(context.table(value).addrtype)
        elif word == "data":
            context.data(value)
        elif word == "elem":
            context.elem(value)
        elif word == "lane":
            memarg = row.immediates[0]
            shape = row.operation.shape if row.operation else "i8x16"
            nlanes = 16 >> int(memarg[7:]) if memarg.startswith("memarg:") else int(shape.split("x")[1])
            if value >= nlanes:
                raise InvalidError("invalid lane index")
        elif word == "lanes" and max(value) >= 32:
            raise InvalidError("invalid lane index")
        recorded.append(entry)
    if row.name == "table.init" and not matches_valtype(
        context.elem(immediates[0]), context.table(immediates[1]).reftype
    ):
        raise InvalidError("type mismatch: element segment and table")
    before, after = row.type or ((), ())
    return (
        [at if word == "at" else NAMED_TYPES[word] for word in before],
        [at if word == "at" else NAMED_TYPES[word] for word in after],
        None if row.immediates == ("zero",) else recorded[0] if len(recorded) == 1 else tuple(recorded),
    )


def _unpacked(field: FieldType) -> ValType:
    return I32 if isinstance(field.storage, PackedType) else field.storage


def _ref(context: Context, typeidx: int, nullable: bool = True) -> RefType:
    return context.reftype(nullable, context.deftypes[typeidx])


def _global_set(context: Context, _constant: bool, globalidx: int) -> Type:
    if globalidx >= len(context.globals):
        unknown("global", globalidx)
    globaltype = context.globals[globalidx]
    if not globaltype.mutable:
        raise InvalidError("immutable global")
    return (globaltype.valtype,), (), globalidx


def _table_get(context: Context, _constant: bool, tableidx: int) -> Type:
    table = context.table(tableidx)
    return (_address(table.addrtype),), (table.reftype,), tableidx


def _table_set(context: Context, _constant: bool, tableidx: int) -> Type:
    table = context.table(tableidx)
    return (_address(table.addrtype), table.reftype), (), tableidx


def _table_grow(context: Context, _constant: bool, tableidx: int) -> Type:
    table = context.table(tableidx)
    at = _address(table.addrtype)
    return (table.reftype, at), (at,), tableidx


def _table_fill(context: Context, _constant: bool, tableidx: int) -> Type:
    table = context.table(tableidx)
    at = _address(table.addrtype)
    return (at, table.reftype, at), (), tableidx


def _table_copy(context: Context, _constant: bool, to: int, source: int) -> Type:
    table1, table2 = context.table(to), context.table(source)
    if not matches_valtype(table2.reftype, table1.reftype):
        raise InvalidError("type mismatch: tables of table.copy")
    at1, at2 = _address(table1.addrtype), _address(table2.addrtype)
    return (at1, at2, _shorter(at1, at2)), (), (to, source)


def _memory_copy(context: Context, _constant: bool, to: int, source: int) -> Type:
    at1, at2 = _address(context.mem(to).addrtype), _address(context.mem(source).addrtype)
    if to or source:
        context.need(Feature.MULTI_MEMORY, "a memory index")
    return (at1, at2, _shorter(at1, at2)), (), (to, source)


def _ref_null(context: Context, _constant: bool, heaptype: Any) -> Type:
    made = context.reftype(True, context.close_heaptype(heaptype))
    return (), (made,), made


def _ref_func(context: Context, constant: bool, funcidx: int) -> Type:
    if funcidx >= len(context.funcs):
        unknown("function", funcidx)
    if constant:
        context.refs.add(funcidx)
    elif funcidx not in context.refs:
        raise InvalidError("undeclared function reference")
    if Feature.FUNCTION_REFERENCES in context.features:
        return (), (context.reftype(False, context.funcs[funcidx]),), funcidx
    return (), (context.reftype(True, AbsHeapType.FUNC),), funcidx


def _struct_new(context: Context, _constant: bool, typeidx: int) -> Type:
    struct = context.struct(typeidx)
    operands = context.operands.get(typeidx)
    if operands is None:
        operands = context.operands[typeidx] = tuple([_unpacked(field) for field in struct.fields])
    return operands, (_ref(context, typeidx, False),), typeidx


def _struct_new_default(context: Context, _constant: bool, typeidx: int) -> Type:
    if typeidx not in context.defaultable:
        if not all(is_defaultable(field.storage) for field in context.struct(typeidx).fields):
            raise InvalidError("type mismatch: a field has no default value")
        context.defaultable.add(typeidx)
    return (), (_ref(context, typeidx, False),), typeidx


def _field(context: Context, typeidx: int, fieldidx: int) -> FieldType:
    fields = context.struct(typeidx).fields
    if fieldidx >= len(fields):
        unknown("field", fieldidx)
    return fields[fieldidx]


def _check_packed(field: FieldType, packed: bool) -> None:
    if isinstance(field.storage, PackedType) is not packed:
        raise InvalidError(f"type mismatch: field is {'un' if packed else ''}packed")


def _struct_get(packed: bool) -> Callable[..., Type]:
    def rule(context: Context, _constant: bool, typeidx: int, fieldidx: int) -> Type:
        field = _field(context, typeidx, fieldidx)
        _check_packed(field, packed)
        return (_ref(context, typeidx),), (_unpacked(field),), (typeidx, fieldidx)

    return rule


def _struct_set(context: Context, _constant: bool, typeidx: int, fieldidx: int) -> Type:
    field = _field(context, typeidx, fieldidx)
    if not field.mutable:
        raise InvalidError("immutable field")
    return (_ref(context, typeidx), _unpacked(field)), (), (typeidx, fieldidx)


def _array_new(context: Context, _constant: bool, typeidx: int) -> Type:
    return (_unpacked(context.array(typeidx).field), I32), (_ref(context, typeidx, False),), typeidx


def _array_new_default(context: Context, _constant: bool, typeidx: int) -> Type:
    if not is_defaultable(context.array(typeidx).field.storage):
        raise InvalidError("type mismatch: the element has no default value")
    return (I32,), (_ref(context, typeidx, False),), typeidx


def _array_new_fixed(context: Context, _constant: bool, typeidx: int, count: int) -> Type:
    field = context.array(typeidx).field
    if count > limits.MAX_ARRAY_NEW_FIXED:
        raise InvalidError("too many operands of array.new_fixed")
    return [_unpacked(field)] * count, (_ref(context, typeidx, False),), (typeidx, count)


def _check_numeric(field: FieldType) -> None:
    if isinstance(field.storage, RefType):
        raise InvalidError("array type is not numeric or vector")


def _array_new_data(context: Context, _constant: bool, typeidx: int, dataidx: int) -> Type:
    _check_numeric(context.array(typeidx).field)
    context.data(dataidx)
    return (I32, I32), (_ref(context, typeidx, False),), (typeidx, dataidx)


def _check_elem(context: Context, field: FieldType, elemidx: int) -> None:
    elem = context.elem(elemidx)
    if isinstance(field.storage, PackedType) or not matches_valtype(elem, field.storage):
        raise InvalidError("type mismatch: element segment and array")


def _array_new_elem(context: Context, _constant: bool, typeidx: int, elemidx: int) -> Type:
    _check_elem(context, context.array(typeidx).field, elemidx)
    return (I32, I32), (_ref(context, typeidx, False),), (typeidx, elemidx)


def _array_get(packed: bool) -> Callable[..., Type]:
    def rule(context: Context, _constant: bool, typeidx: int) -> Type:
        field = context.array(typeidx).field
        _check_packed(field, packed)
        return (_ref(context, typeidx), I32), (_unpacked(field),), typeidx

    return rule


def _mutable(context: Context, typeidx: int) -> FieldType:
    field = context.array(typeidx).field
    if not field.mutable:
        raise InvalidError("immutable array")
    return field


def _array_set(context: Context, _constant: bool, typeidx: int) -> Type:
    return (_ref_of(context, typeidx), I32, _unpacked(_mutable(context, typeidx))), (), typeidx


def _ref_of(context: Context, typeidx: int) -> RefType:
    return context.reftype(True, context.deftype(typeidx))


def _array_fill(context: Context, _constant: bool, typeidx: int) -> Type:
    return (_ref_of(context, typeidx), I32, _unpacked(_mutable(context, typeidx)), I32), (), typeidx


def _array_copy(context: Context, _constant: bool, to: int, source: int) -> Type:
    field1, field2 = _mutable(context, to), context.array(source).field
    if isinstance(field1.storage, PackedType) or isinstance(field2.storage, PackedType):
        matches = field1.storage is field2.storage
    else:
        matches = matches_valtype(field2.storage, field1.storage)
    if not matches:
        raise InvalidError("array types do not match")
    return (_ref(context, to), I32, _ref(context, source), I32, I32), (), (to, source)


def _array_init_data(context: Context, _constant: bool, typeidx: int, dataidx: int) -> Type:
    _check_numeric(_mutable(context, typeidx))
    context.data(dataidx)
    return (_ref(context, typeidx), I32, I32, I32), (), (typeidx, dataidx)


def _array_init_elem(context: Context, _constant: bool, typeidx: int, elemidx: int) -> Type:
    _check_elem(context, _mutable(context, typeidx), elemidx)
    return (_ref(context, typeidx), I32, I32, I32), (), (typeidx, elemidx)


_TOPS = (AbsHeapType.ANY, AbsHeapType.FUNC, AbsHeapType.EXTERN, AbsHeapType.EXN)


def _cast(nullable: bool, test: bool) -> Callable[..., Type]:
    def rule(context: Context, _constant: bool, heaptype: Any) -> Type:
        target = context.reftype(nullable, context.close_heaptype(heaptype))
        top = next(top for top in _TOPS if matches_heaptype(target.heaptype, top))
        return (context.reftype(True, top),), (I32 if test else target,), target

    return rule


RULES: dict[str, Callable[..., Type]] = {
    "global.set": _global_set,
    "table.get": _table_get,
    "table.set": _table_set,
    "table.grow": _table_grow,
    "table.fill": _table_fill,
    "table.copy": _table_copy,
    "memory.copy": _memory_copy,
    "ref.null": _ref_null,
    "ref.func": _ref_func,
    "struct.new": _struct_new,
    "struct.new_default": _struct_new_default,
    "struct.get": _struct_get(False),
    "struct.get_s": _struct_get(True),
    "struct.get_u": _struct_get(True),
    "struct.set": _struct_set,
    "array.new": _array_new,
    "array.new_default": _array_new_default,
    "array.new_fixed": _array_new_fixed,
    "array.new_data": _array_new_data,
    "array.new_elem": _array_new_elem,
    "array.get": _array_get(False),
    "array.get_s": _array_get(True),
    "array.get_u": _array_get(True),
    "array.set": _array_set,
    "array.fill": _array_fill,
    "array.copy": _array_copy,
    "array.init_data": _array_init_data,
    "array.init_elem": _array_init_elem,
    "ref.test": _cast(False, True),
    "ref.test_null": _cast(True, True),
    "ref.cast": _cast(False, False),
    "ref.cast_null": _cast(True, False),
}
