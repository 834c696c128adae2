"""What generating code asks before it starts: which blocks can be resumed inside, and the types of rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiowasm.engine.interpreter.emitter import shape_of
from aiowasm.syntax.instructions import BY_CODE, BY_NAME
from aiowasm.syntax.types import AddressType, ArrayType, FuncType, PackedType, StorageType, StructType

if TYPE_CHECKING:
    from aiowasm.syntax.matching import DefType
    from aiowasm.validation.context import Context
    from aiowasm.validation.record import Block, FunctionRecord

__all__ = ("CALLISH", "Unsupported", "functype_of", "resumable", "signature")


class Unsupported(Exception):  # noqa: N818 - not an error: the direct interpreter runs the function
    """Code is not generated for this function."""


def _codes(names: str) -> frozenset[int]:
    return frozenset(BY_NAME[name].code for name in names.split())


CALLISH = _codes(
    "call call_indirect call_ref memory.grow table.grow memory.atomic.wait32 memory.atomic.wait64 "
    "memory.copy memory.fill memory.init table.copy table.fill table.init"
)
"""Instructions after which a function can be resumed: an execution can leave in the middle of them."""
_OPENERS = _codes("block loop if try_table")
_END = BY_NAME["end"].code
_LEGACY = _codes("try catch catch_all delegate rethrow")
_TAILS = _codes("return_call return_call_indirect return_call_ref")
_MAX_NESTING = 14  # Python nests 20 loops and 100 indentations, of which the tree needs some


def resumable(record: FunctionRecord) -> set[Block]:
    """Return the blocks inside which the function can be entered, or which nest too deep for Python.

    Raises:
        Unsupported: If the function has what code is not generated for.
    """
    found: set[Block] = set()
    inside = [False]
    nesting = [0]
    blocks: list[Block] = []
    checks = set(record.checks)
    for index, code in enumerate(record.ops):
        if code in _OPENERS:
            block: Any = record.immediates[index]
            if block.kind in ("loop", "try_table"):
                inside[-1] = True
            blocks.append(block)
            inside.append(block.kind == "try_table")
            nesting.append(0)
            if block.kind == "loop":
                continue  # its own check point is where its leaf starts
        elif code == _END and blocks:
            block = blocks.pop()
            deep = nesting.pop() + (block.targeted or block.kind in ("loop", "if"))
            if inside.pop() or deep > _MAX_NESTING:
                found.add(block)
                inside[-1] = True
            else:
                nesting[-1] = max(nesting[-1], deep)
        elif code in CALLISH:
            inside[-1] = True
        elif code in _LEGACY:
            raise Unsupported("legacy exceptions")
        if index in checks:
            inside[-1] = True
    return found


def functype_of(_context: Context, deftype: DefType) -> tuple[list[str], list[str]]:
    """The shapes of a function type's parameters and results."""
    comptype = deftype.comptype
    if not isinstance(comptype, FuncType):
        raise Unsupported("not a function type")
    return [shape_of(valtype) for valtype in comptype.params], [shape_of(valtype) for valtype in comptype.results]


def _storage(storage: StorageType) -> str:
    return "i32" if isinstance(storage, PackedType) else shape_of(storage)


def _element(context: Context, typeidx: int) -> str:
    comptype = context.deftypes[typeidx].comptype
    if not isinstance(comptype, ArrayType):
        raise Unsupported("not an array type")
    return _storage(comptype.field.storage)


def _fields(context: Context, typeidx: int) -> list[str]:
    comptype = context.deftypes[typeidx].comptype
    if not isinstance(comptype, StructType):
        raise Unsupported("not a structure type")
    return [_storage(field.storage) for field in comptype.fields]


def _at(addrtype: AddressType) -> str:
    return "i64" if addrtype is AddressType.I64 else "i32"


def signature(context: Context, code: int, immediate: Any) -> tuple[list[str], list[str]]:
    """The shapes of operands and results of an instruction that is neither control nor arithmetic with a template."""
    row = BY_CODE[code]
    if row is None:
        raise Unsupported(f"operator {code:#x}")
    name = row.name
    if row.type is not None:
        at = _address(context, name, immediate) if "at" in row.type[0] + row.type[1] else ""
        params, results = ([at if word == "at" else _word(word) for word in words] for words in row.type)
        return params, results
    if name.startswith("table."):
        return _table(context, name, immediate)
    if name == "memory.copy":
        to, of = (_at(context.mems[memidx].addrtype) for memidx in immediate)
        return [to, of, min(to, of)], []
    made = _heap(context, name, immediate)
    if made is None:
        raise Unsupported(name)
    return made


def _word(word: str) -> str:
    return word if word in ("i32", "i64", "f32", "f64", "v128") else "ref"


def _address(context: Context, name: str, immediate: Any) -> str:
    if name.startswith("table."):
        return _at(context.tables[immediate[1]].addrtype)
    if name in ("memory.fill", "memory.grow"):
        return _at(context.mems[immediate].addrtype)
    if name == "memory.init":
        return _at(context.mems[immediate[1]].addrtype)
    return _at(context.mems[immediate[0] if isinstance(immediate, tuple) else 0].addrtype)


def _table(context: Context, name: str, immediate: Any) -> tuple[list[str], list[str]]:
    if name == "table.copy":
        to, of = (_at(context.tables[tableidx].addrtype) for tableidx in immediate)
        return [to, of, min(to, of)], []
    at = _at(context.tables[immediate].addrtype)
    return {
        "table.fill": ([at, "ref", at], []),
        "table.grow": (["ref", at], [at]),
        "table.set": ([at, "ref"], []),
    }[name]


def _heap(context: Context, name: str, immediate: Any) -> tuple[list[str], list[str]] | None:
    match name:
        case "struct.new":
            return _fields(context, immediate), ["ref"]
        case "struct.new_default":
            return [], ["ref"]
        case "struct.set":
            return ["ref", _fields(context, immediate[0])[immediate[1]]], []
        case "array.new":
            return [_element(context, immediate), "i32"], ["ref"]
        case "array.new_default":
            return ["i32"], ["ref"]
        case "array.new_fixed":
            return [_element(context, immediate[0])] * immediate[1], ["ref"]
        case "array.new_data" | "array.new_elem":
            return ["i32", "i32"], ["ref"]
        case "array.set":
            return ["ref", "i32", _element(context, immediate)], []
        case "array.fill":
            return ["ref", "i32", _element(context, immediate), "i32"], []
        case "array.copy":
            return ["ref", "i32", "ref", "i32", "i32"], []
        case "array.init_data" | "array.init_elem":
            return ["ref", "i32", "i32", "i32"], []
        case "ref.as_non_null" | "ref.cast" | "ref.cast_null":
            return ["ref"], ["ref"]
    return None
