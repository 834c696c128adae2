"""Validation of a whole module (the standard's chapter 3.6): everything around the bodies, and the driver over them.

`validate_module` is for the impatient; the `_steps` generators yield now and then so that no caller is held up.
Code itself is walked in `aiowasm.validation.code`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Sequence
from typing import NoReturn, TypeVar

from aiowasm import limits
from aiowasm.errors import InvalidError
from aiowasm.features import DEFAULT, Feature, Features
from aiowasm.syntax.code import constant_number
from aiowasm.syntax.matching import (
    DefType,
    close_rectype_steps,
    is_defaultable,
    map_comptype,
    matches_comptype,
    matches_valtype,
)
from aiowasm.syntax.module import Datas, Expr, Module
from aiowasm.syntax.steps import finish
from aiowasm.syntax.types import (
    I32,
    I64,
    AddressType,
    FuncExternType,
    FuncType,
    GlobalType,
    HeapType,
    MemType,
    RecType,
    RefType,
    StructType,
    SubType,
    TableType,
    TagType,
    ValType,
)
from aiowasm.validation.code import validate_expr_steps, validate_function_steps
from aiowasm.validation.context import Context, unknown
from aiowasm.validation.record import FunctionRecord

__all__ = (
    "Scan",
    "ValidatedModule",
    "validate_function_steps",
    "validate_module",
    "validate_module_steps",
    "validate_shell_steps",
)

_T = TypeVar("_T")
_EVERY = 500
_SCANNED_NBYTES = 1 << 18
"""So much code is scanned at once, which takes two milliseconds; a function is as dear as some hundreds of bytes."""
_FUNCTION_NBYTES = 256
_RELEASED = 200_000

Scan = Callable[["ValidatedModule"], Generator[None, None, Callable[[int], bool]]]
"""Makes, in steps, what knows of most bodies (by index) that they are valid faster than walking them."""


class ValidatedModule(Context):
    """A module that has been validated, and its closed index spaces.

    `lazy` is True while the bodies have not been validated: `record` then does it, function by function.
    """

    lazy = True
    engine_code: object = None
    """What an engine made of this module and all its instances share."""
    scanner: object = None
    """What tells valid bodies fast, where an engine has such a thing."""

    def record(self, index: int) -> FunctionRecord:
        """Walk the body of the defined function *index* now and return its record."""
        return finish(validate_function_steps(self, index))


def validate_module(module: Module, features: Features = DEFAULT) -> ValidatedModule:
    """Validate *module*, bodies included."""
    return finish(validate_module_steps(module, features))


def validate_module_steps(
    module: Module, features: Features = DEFAULT, scan: Scan | None = None
) -> Generator[None, None, ValidatedModule]:
    """Like `validate_module`, yielding now and then.

    Args:
        module: The module.
        features: The proposals it may use.
        scan: What knows faster of most bodies that they are valid; the others are walked.
    """
    context = yield from validate_shell_steps(module, features)
    accepts = None if scan is None else (yield from scan(context))
    scanned = 0
    for index in range(len(module.funcs)):
        if accepts is not None and accepts(index):
            scanned += module.funcs.ends[index] - module.funcs.starts[index] + _FUNCTION_NBYTES
            if scanned > _SCANNED_NBYTES:
                scanned = 0
                yield
            continue
        record = yield from validate_function_steps(context, index)
        # Giving back a huge record takes as long as several steps.
        while len(record.immediates) > _RELEASED:
            del record.immediates[-_RELEASED:]
            yield
    context.lazy = False
    return context


def validate_shell_steps(module: Module, features: Features = DEFAULT) -> Generator[None, None, ValidatedModule]:
    """Validate everything but the bodies of functions, yielding now and then."""
    context = ValidatedModule(module, features)
    try:
        yield from _shell(context)
    except InvalidError as error:
        if error.offset is not None:
            raise
        offset = module.offset(*context.place)
        raise InvalidError(error.reason, offset=offset, feature=error.feature) from None
    return context


def _shell(context: ValidatedModule) -> Generator[None, None, None]:
    module = context.module
    for number, rectype in enumerate(module.types):
        context.place = (1, number)
        yield from _types(context, rectype)
    yield from _imports(context)
    context.nimported_funcs = len(context.funcs)
    context.nimported_globals = len(context.globals)
    known: set[int] = set()
    for number, typeidx in enumerate(module.funcs.typeidxs):
        if typeidx not in known:
            context.place = (3, number)
            context.func_comptype(typeidx)
            known.add(typeidx)
        context.funcs.append(context.deftypes[typeidx])
        if number % 2000 == 0:
            yield
    yield from _definitions(context)
    yield from _inits(context)
    yield from _elems(context)
    yield from _datas(context)
    yield from _exports(context)
    if module.start is not None:
        context.place = (8, 0)
        if module.start >= len(context.funcs):
            unknown("function", module.start)
        comptype = context.funcs[module.start].comptype
        if comptype != FuncType((), ()):
            raise InvalidError("start function has a type that is not [] -> []")
    if module.data_count is not None and module.data_count != len(module.datas):
        raise InvalidError("data count and data section have inconsistent lengths")


def _definitions(context: Context) -> Generator[None, None, None]:
    """Types of tables, memories, tags and element segments."""
    module = context.module
    for number, table in enumerate(module.tables):
        context.place = (4, number)
        context.tables.append(_tabletype(context, table.type))
        if len(context.tables) > 1:
            context.need(Feature.REFERENCE_TYPES, "multiple tables")
        if number % _EVERY == 0:
            yield
    for number, mem in enumerate(module.mems):
        context.place = (5, number)
        context.mems.append(_memtype(context, mem))
        if len(context.mems) > 1:
            context.need(Feature.MULTI_MEMORY, "multiple memories")
    for number, tag in enumerate(module.tags):
        context.place = (13, number)
        context.tags.append(_tagtype(context, tag))
        if number % _EVERY == 0:
            yield
    for number, elem in enumerate(module.elems):
        context.place = (9, number)
        context.elems.append(_elemtype(context, elem.type))
        if number % _EVERY == 0:
            yield


def _types(context: Context, rectype: RecType) -> Generator[None, None, None]:
    first = len(context.deftypes)
    bound = first + len(rectype.subtypes)
    if len(rectype.subtypes) != 1:
        context.need(Feature.GC, "a recursion group")

    def check(heaptype: HeapType) -> HeapType:
        if isinstance(heaptype, int):
            if heaptype >= bound:
                unknown("type", heaptype)
            context.need(Feature.FUNCTION_REFERENCES, "a typed reference")
            return heaptype
        return context.close_heaptype(heaptype)

    for offset, subtype in enumerate(rectype.subtypes):
        context.work += 1 + _check_subtype(context, subtype, check)
        for above in subtype.supertypes:
            if not isinstance(above, int) or above >= first + offset:
                raise InvalidError(f"unknown type {above}")
        if context.work > _EVERY:
            context.work = 0
            yield
    context.deftypes.extend((yield from close_rectype_steps(rectype, first, context.deftypes)))
    for deftype in context.deftypes[first:]:
        if len(deftype.supertypes) > limits.MAX_SUBTYPING_DEPTH + 1:
            raise InvalidError("sub type: the hierarchy is too deep")
        if len(deftype.supertypes) > 1:
            parent = deftype.supertypes[-2]
            if parent.final or not matches_comptype(deftype.comptype, parent.comptype):
                raise InvalidError("sub type does not match its super type")
            context.work += 1
            if context.work > _EVERY:
                context.work = 0
                yield


def _check_subtype(context: Context, subtype: SubType, check: Callable[[HeapType], HeapType]) -> int:
    """Check one type; return how many parts it has."""
    comptype = subtype.comptype
    parts = 1
    if not isinstance(comptype, FuncType):
        context.need(Feature.GC, "a structure or array type")
        context.aggregates = True
    else:
        parts = len(comptype.params) + len(comptype.results)
        if len(comptype.params) > limits.MAX_PARAMS or len(comptype.results) > limits.MAX_RESULTS:
            raise InvalidError("too many parameters or results")
        if len(comptype.results) > 1:
            context.need(Feature.MULTI_VALUE, "a function type with several results")
        for valtype in comptype.params + comptype.results:
            if isinstance(valtype, RefType):
                context.need(Feature.REFERENCE_TYPES, "a reference type")
            else:
                context.close_valtype(valtype)
    if isinstance(comptype, StructType):
        parts = len(comptype.fields)
        if len(comptype.fields) > limits.MAX_STRUCT_FIELDS:
            raise InvalidError("too many fields")
    map_comptype(comptype, check)
    if not subtype.final or subtype.supertypes:
        context.need(Feature.GC, "a sub type")
    if len(subtype.supertypes) > 1:
        raise InvalidError("sub type: more than one supertype")
    return parts


def _imports(context: Context) -> Generator[None, None, None]:
    for number, entry in enumerate(context.module.imports):
        context.place = (2, number)
        if number % _EVERY == 0:
            yield
        expected = entry.type
        if isinstance(expected, FuncExternType):
            context.func_comptype(expected.typeidx)
            context.funcs.append(context.deftypes[expected.typeidx])
        elif isinstance(expected, TableType):
            context.tables.append(_tabletype(context, expected))
            if len(context.tables) > 1:
                context.need(Feature.REFERENCE_TYPES, "multiple tables")
        elif isinstance(expected, MemType):
            context.mems.append(_memtype(context, expected))
            if len(context.mems) > 1:
                context.need(Feature.MULTI_MEMORY, "multiple memories")
        elif isinstance(expected, GlobalType):
            if expected.mutable:
                context.need(Feature.MUTABLE_GLOBALS, "import of a mutable global")
            context.globals.append(GlobalType(context.close_valtype(expected.valtype), expected.mutable))
        else:
            context.tags.append(_tagtype(context, expected))


def _tabletype(context: Context, tabletype: TableType) -> TableType:
    size = tabletype.limits
    bound = 1 << 32
    if tabletype.addrtype is AddressType.I64:
        context.need(Feature.MEMORY64, "a 64-bit table")
        bound = 1 << 64
    if size.minimum >= bound or (size.maximum is not None and size.maximum >= bound):
        raise InvalidError("table size")
    if size.maximum is not None and size.minimum > size.maximum:
        raise InvalidError("size minimum must not be greater than maximum")
    reftype = tabletype.reftype
    closed = reftype if str(reftype.heaptype) == "func" and reftype.nullable else context.close_reftype(reftype)
    return TableType(size, context.reftype(closed.nullable, closed.heaptype), tabletype.addrtype)


def _memtype(context: Context, memtype: MemType) -> MemType:
    size = memtype.limits
    if memtype.page_size_log2 != 16:
        context.need(Feature.CUSTOM_PAGE_SIZES, "a custom page size")
        if memtype.page_size_log2 != 0:
            raise InvalidError("invalid custom page size")
    bits = 32
    if memtype.addrtype is AddressType.I64:
        context.need(Feature.MEMORY64, "a 64-bit memory")
        bits = 64
    bound = 1 << (bits - memtype.page_size_log2)
    if memtype.page_size_log2 == 0:
        bound -= 1
    if size.minimum > bound or (size.maximum is not None and size.maximum > bound):
        raise InvalidError(f"memory size must be at most {bound} pages" + (" (4GiB)" if bound == 65536 else ""))
    if size.maximum is not None and size.minimum > size.maximum:
        raise InvalidError("size minimum must not be greater than maximum")
    if memtype.shared:
        context.need(Feature.THREADS, "a shared memory")
        if size.maximum is None:
            raise InvalidError("shared memory must have maximum")
    return memtype


def _tagtype(context: Context, tag: TagType) -> DefType:
    if Feature.EXCEPTIONS not in context.features:
        context.need(Feature.LEGACY_EXCEPTIONS, "a tag")
    if context.func_comptype(tag.typeidx).results:
        raise InvalidError("non-empty tag result type")
    return context.deftypes[tag.typeidx]


def _check_expr(context: Context, expr: Expr, expected: ValType, nglobals: int) -> Generator[None, None, None]:
    """Validate a constant expression. Programs have thousands of data segments, whose offsets are plain numbers."""
    if constant_number(expr, expected) is None:
        yield from validate_expr_steps(context, expr, expected, nglobals)


def _inits(context: Context) -> Generator[None, None, None]:
    imported = context.nimported_globals
    all_before = Feature.GC in context.features
    for number, entry in enumerate(context.module.globals):
        context.place = (6, number)
        valtype = context.close_valtype(entry.type.valtype)
        yield from _check_expr(context, entry.init, valtype, len(context.globals) if all_before else imported)
        context.globals.append(GlobalType(valtype, entry.type.mutable))
        if number % _EVERY == 0:
            yield
    ntables = len(context.tables) - len(context.module.tables)
    for number, table in enumerate(context.module.tables):
        context.place = (4, number)
        if number % _EVERY == 0:
            yield
        reftype = context.tables[ntables + number].reftype
        if table.init is not None:
            context.need(Feature.FUNCTION_REFERENCES, "the initial value of a table")
            # Tables come before the module's own globals, which are therefore not in scope.
            yield from _check_expr(context, table.init, reftype, imported)
        elif not is_defaultable(reftype):
            raise InvalidError("type mismatch: a table without initial value of a type without default")


def _scope(context: Context) -> int:
    """How many globals the offsets of segments may refer to."""
    return len(context.globals) if Feature.GC in context.features else context.nimported_globals


def _elems(context: Context) -> Generator[None, None, None]:
    nglobals = _scope(context)
    done = 0
    for number, (elem, reftype) in enumerate(zip(context.module.elems, context.elems, strict=True)):
        context.place = (9, number)
        if isinstance(elem.init, array):
            for start in range(0, len(elem.init), 20_000):
                some = elem.init[start : start + 20_000]
                if max(some) >= len(context.funcs):
                    unknown("function", next(at for at in some if at >= len(context.funcs)))
                context.refs.update(some)
                yield
        else:
            for expr in elem.init:
                yield from _check_expr(context, expr, reftype, nglobals)
                done += 1
                if done % _EVERY == 0:
                    yield
        if isinstance(elem.mode, str):
            context.need(Feature.BULK_MEMORY, "a segment that is not active")
        else:
            tableidx, offset = elem.mode
            table = context.table(tableidx)
            if not matches_valtype(reftype, table.reftype):
                raise InvalidError("type mismatch: element segment and table")
            yield from _check_expr(context, offset, _at(table.addrtype), nglobals)
        if number % _EVERY == 0:
            yield


def _datas(context: Context) -> Generator[None, None, None]:
    datas = context.module.datas
    nglobals = _scope(context)
    numbers: Sequence[int] = range(len(datas))
    if isinstance(datas, Datas) and context.mems and context.mems[0].addrtype is AddressType.I32:
        numbers = datas.others  # that is all plain segments need
    for done, number in enumerate(numbers):
        context.place = (11, number)
        mode = datas[number].mode
        if mode is None:
            context.need(Feature.BULK_MEMORY, "a passive segment")
        else:
            memidx, offset = mode
            yield from _check_expr(context, offset, _at(context.mem(memidx).addrtype), nglobals)
        if done % _EVERY == 0:
            yield


def _at(addrtype: AddressType) -> ValType:
    return I64 if addrtype is AddressType.I64 else I32


def _exports(context: Context) -> Generator[None, None, None]:
    names: set[str] = set()
    spaces: dict[str, tuple[str, Callable[[], int]]] = {
        "func": ("function", lambda: len(context.funcs)),
        "table": ("table", lambda: len(context.tables)),
        "memory": ("memory", lambda: len(context.mems)),
        "global": ("global", lambda: len(context.globals)),
        "tag": ("tag", lambda: len(context.tags)),
    }
    for number, export in enumerate(context.module.exports):
        context.place = (7, number)
        if number % _EVERY == 0:
            yield
        if export.name in names:
            _duplicate(export.name)
        names.add(export.name)
        what, size = spaces[export.kind]
        if export.index >= size():
            unknown(what, export.index)
        if export.kind == "func":
            context.refs.add(export.index)
        elif export.kind == "global" and context.globals[export.index].mutable:
            context.need(Feature.MUTABLE_GLOBALS, "export of a mutable global")


def _duplicate(name: str) -> NoReturn:
    raise InvalidError(f"duplicate export name {name!r}")


def _elemtype(context: Context, reftype: RefType) -> RefType:
    # Segments of function indices are older than the types they are now said to have.
    if str(reftype.heaptype) != "func":
        context.close_reftype(reftype)
    return context.reftype(reftype.nullable, context.close_heaptype(reftype.heaptype))
