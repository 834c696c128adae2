"""The walk over one body: decodes, validates (the standard's chapter 3.4) and records, in one pass.

Hot: benchmarks/validate.py measures it; the bound is one second per MB of code. Therefore one function that reads bytes
itself, dispatches on a small number per opcode and keeps everything in local variables. Instructions that are rare go
through `read_instruction` and the rules of `aiowasm.validation.rules`. Modules are not here: see
`aiowasm.validation.module`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from aiowasm import limits
from aiowasm.errors import InvalidError, MalformedError
from aiowasm.features import Feature, Features
from aiowasm.syntax.code import decode_locals, read_instruction, read_labels_steps
from aiowasm.syntax.instructions import BY_CODE, BY_NAME, INSTRUCTIONS, Instruction
from aiowasm.syntax.leb128 import read_s, read_u
from aiowasm.syntax.matching import is_defaultable, matches_heaptype, matches_valtype
from aiowasm.syntax.module import Expr
from aiowasm.syntax.steps import finish
from aiowasm.syntax.types import BOT, I32, I64, AbsHeapType, AddressType, Bot, FuncType, RefType, ValType
from aiowasm.validation.context import Context, disabled, unknown
from aiowasm.validation.record import Block, FunctionRecord, LocalTypes, make_old
from aiowasm.validation.rules import NAMED_TYPES, RULES, fixed_type

__all__ = ("COST", "validate_expr", "validate_expr_steps", "validate_function_steps")

Operand = ValType | Bot

# How the walk treats an opcode. Ordered as the walk asks.
_FIXED, _LOCAL_GET, _I32_CONST, _MEMORY, _LOCAL_SET, _LOCAL_TEE, _I64_CONST, _GLOBAL_GET = range(8)
_RULE, _ONE, _SELECT, _DISABLED, _NOT_CONSTANT, _CONTROL = range(8, 14)

_ONES = frozenset({"drop", "ref.is_null", "ref.as_non_null", "any.convert_extern", "extern.convert_any"})
_CONTROLS = frozenset(
    [
        "unreachable",
        "block",
        "loop",
        "if",
        "else",
        "try",
        "catch",
        "throw",
        "rethrow",
        "throw_ref",
        "end",
        "br",
        "br_if",
        "br_table",
        "return",
        "call",
        "call_indirect",
        "return_call",
        "return_call_indirect",
        "call_ref",
        "return_call_ref",
        "delegate",
        "catch_all",
        "try_table",
        "br_on_null",
        "br_on_non_null",
        "br_on_cast",
        "br_on_cast_fail",
    ]
)
HANDLED = _ONES | _CONTROLS | {"select", "select_t", "local.get", "local.set", "local.tee", "global.get"}
"""Rows without a fixed type that the walk itself handles; the others have a rule."""

_FREE = frozenset(
    ["nop", "drop", "block", "loop", "else", "end", "return", "unreachable", "catch", "catch_all", "delegate"],
)
COST = [1] * 0x600
"""Units of fuel by opcode."""
_PARAMS: list[list[ValType]] = [[]] * 0x600
_RESULTS: list[list[ValType]] = [[]] * 0x600
_PARAMS64: list[list[ValType]] = [[]] * 0x600
_NATURAL = [0] * 0x600
_KINDS = [_RULE] * 0x600
_ATOMIC = frozenset(row.code for row in INSTRUCTIONS if row.code >= 0x500)
_PREFIX = {0xFB: (0x100, 0x100), 0xFC: (0x200, 0x100), 0xFD: (0x300, 0x200), 0xFE: (0x500, 0x100)}
"""Prefix byte -> code of its first instruction, and how many there may be: the next prefix follows."""
_CONST_CODES = (0x41, 0x42)
_STEP_NBYTES = 1500
_MANY = 8
_MAX_MATCHED = 100_000
_BR_TABLE = BY_NAME["br_table"]

# Bulk instructions: 64ths of a unit of fuel per element of their length, which is their last operand.
_BULK = {
    BY_NAME[name].code: per
    for names, per in (
        ("memory.copy memory.fill memory.init", 1),
        (
            (
                "table.copy table.fill table.init table.grow array.new array.new_default array.new_data array.new_elem "
                "array.new_fixed array.fill array.copy array.init_data array.init_elem"
            ),
            8,
        ),
        ("memory.grow", 65536),
    )
    for name in names.split()
}
_ARRAY_NEW_FIXED = BY_NAME["array.new_fixed"].code


def _prepare() -> None:
    special = {
        "local.get": _LOCAL_GET,
        "local.set": _LOCAL_SET,
        "local.tee": _LOCAL_TEE,
        "i32.const": _I32_CONST,
        "i64.const": _I64_CONST,
        "global.get": _GLOBAL_GET,
        "select": _SELECT,
        "select_t": _SELECT,
    }
    made: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[list[ValType], list[ValType], list[ValType]]] = {}
    for row in INSTRUCTIONS:
        code = row.code
        if row.name in _FREE:
            COST[code] = 0
        if row.name in special:
            _KINDS[code] = special[row.name]
        elif row.name in _ONES:
            _KINDS[code] = _ONE
        elif row.name in _CONTROLS:
            _KINDS[code] = _CONTROL
        elif row.type is not None and not row.immediates:
            _KINDS[code] = _FIXED
        elif row.type is not None and len(row.immediates) == 1 and row.immediates[0].startswith("memarg"):
            _KINDS[code] = _MEMORY
            _NATURAL[code] = int(row.immediates[0][7:])
        if row.type is not None and _KINDS[code] in (_FIXED, _MEMORY):
            # Rows of equal types share them.
            if row.type not in made:
                params, results = row.type
                made[row.type] = (
                    [I32 if word == "at" else NAMED_TYPES[word] for word in params],
                    [I64 if word == "at" else NAMED_TYPES[word] for word in params],
                    [NAMED_TYPES[word] for word in results],
                )
            _PARAMS[code], _PARAMS64[code], _RESULTS[code] = made[row.type]


_prepare()
_tables: dict[tuple[Features, bool], list[int]] = {}


def _kinds(features: Features, constant: bool) -> list[int]:
    """How the walk treats every opcode with *features*; what does not exist is `_RULE`: the decoder rejects it."""
    table = _tables.get((features, constant))
    if table is None:
        table = _KINDS.copy()
        for row in INSTRUCTIONS:
            if row.feature is not None and row.feature not in features:
                table[row.code] = _DISABLED
            elif constant and not (
                row.constant is True or (isinstance(row.constant, Feature) and row.constant in features)
            ):
                table[row.code] = _NOT_CONSTANT
        _tables[features, constant] = table
    return table


def _mismatch(expected: object, actual: object) -> InvalidError:
    return InvalidError(f"type mismatch: expected {expected}, found {actual}")


def _requires(params: Sequence[ValType], found: Sequence[Operand]) -> InvalidError:
    required, has = (" ".join(map(str, types[-20:])) for types in (params, found))
    return InvalidError(f"type mismatch: instruction requires [{required}] but stack has [{has}]")


def _pop(
    stack: list[Any],
    height: int,
    unreachable: bool,
    params: Sequence[ValType],
    matched: set[tuple[int, int]] | None = None,
) -> None:
    """Pop operands of the types *params*, by matching; *matched* remembers for long lists what has been compared."""
    count = len(params)
    found = stack[max(height, len(stack) - count) :]
    if count > _MANY and matched is not None and len(found) == count and _all_match(found, params, matched):
        del stack[-count:]
        return
    for expected in reversed(params):
        if len(stack) <= height:
            if unreachable:
                return
            raise _requires(params, found)
        actual = stack.pop()
        if actual is not expected and not matches_valtype(actual, expected):
            raise _requires(params, found)


def _all_match(subs: Sequence[Operand], sups: Sequence[ValType], matched: set[tuple[int, int]]) -> bool:
    """Whether types match others one by one; at once where they are the same or have been compared before."""
    if len(subs) != len(sups):
        return False
    if len(subs) <= _MANY:
        return all(map(matches_valtype, subs, sups))
    pairs = zip(map(id, subs), map(id, sups), strict=True)
    if tuple(subs) == tuple(sups) or matched.issuperset(pairs):
        return True
    if not all(map(matches_valtype, subs, sups)):
        return False
    if len(matched) > _MAX_MATCHED:
        matched.clear()
    matched.update(zip(map(id, subs), map(id, sups), strict=True))
    return True


def _pop_one(stack: list[Any], height: int, unreachable: bool) -> Operand:
    if len(stack) > height:
        popped: Operand = stack.pop()
        return popped
    if unreachable:
        return BOT
    raise InvalidError("type mismatch: expected a value, found an empty stack")


def _pop_ref(stack: list[Any], height: int, unreachable: bool) -> RefType:
    popped = _pop_one(stack, height, unreachable)
    if isinstance(popped, Bot):
        return RefType(False, AbsHeapType.BOT)
    if not isinstance(popped, RefType):
        raise _mismatch("a reference", popped)
    return popped


def _check_results(
    stack: list[Any], height: int, unreachable: bool, results: Sequence[ValType], matched: set[tuple[int, int]]
) -> None:
    """Check that the operands of a block that ends are exactly its results, and pop them."""
    _pop(stack, height, unreachable, results, matched)
    if len(stack) != height:
        required, has = (" ".join(map(str, types[-20:])) for types in (results, [*stack[height:], *results]))
        raise InvalidError(f"type mismatch: block requires [{required}] but stack has [{has}]")


def _blocktype(context: Context, word: ValType | int | None) -> tuple[tuple[ValType, ...], tuple[ValType, ...]]:
    if word is None:
        return (), ()
    if isinstance(word, int):
        functype = context.func_comptype(word)
        if functype.params or len(functype.results) > 1:
            context.need(Feature.MULTI_VALUE, "a block type with parameters or several results")
        return functype.params, functype.results
    return (), (context.close_valtype(word),)


def _label(ctrl: list[Block], depth: int) -> Block:
    if depth >= len(ctrl):
        unknown("label", depth)
    return ctrl[-1 - depth]


def _one(context: Context, code: int, stack: list[Any], height: int, unreachable: bool) -> object:
    """Instructions whose type is that of their one operand. Returns what to record."""
    if code == 0x1A:
        return _pop_one(stack, height, unreachable)
    if code == 0xD1:
        _pop_ref(stack, height, unreachable)
        stack.append(I32)
    elif code == 0xD4:
        stack.append(context.reftype(False, _pop_ref(stack, height, unreachable).heaptype))
    else:
        source, target = AbsHeapType.EXTERN, AbsHeapType.ANY
        if BY_CODE[code] is BY_NAME["extern.convert_any"]:
            source, target = target, source
        ref = _pop_ref(stack, height, unreachable)
        if not matches_heaptype(ref.heaptype, source):
            raise _mismatch(source, ref)
        stack.append(context.reftype(ref.nullable, target))
    return None


def _select(context: Context, immediates: tuple[Any, ...], stack: list[Any], height: int, unreachable: bool) -> Operand:
    """`select`, typed and untyped. Returns the type, which is recorded."""
    _pop(stack, height, unreachable, (I32,))
    if immediates:
        if len(immediates[0]) != 1:
            raise InvalidError("invalid result arity")
        valtype = context.close_valtype(immediates[0][0])
        _pop(stack, height, unreachable, (valtype, valtype))
        stack.append(valtype)
        return valtype
    second = _pop_one(stack, height, unreachable)
    first = _pop_one(stack, height, unreachable)
    if isinstance(first, RefType) or isinstance(second, RefType):
        raise InvalidError("type mismatch: select without a type on references")
    if first is not second and first is not BOT and second is not BOT:
        raise _mismatch(first, second)
    result = second if first is BOT else first
    stack.append(result)
    return result


def _check_catches(
    context: Context, catches: tuple[tuple[int, int | None, int], ...], ctrl: list[Block]
) -> tuple[tuple[int, int | None, Block | int], ...]:
    made: list[tuple[int, int | None, Block | int]] = []
    for kind, tagidx, depth in catches:
        carried: tuple[ValType, ...] = () if tagidx is None else context.tag(tagidx).params
        if kind in (1, 3):
            carried = (*carried, context.reftype(False, AbsHeapType.EXN))
        target = _label(ctrl, depth)
        labels = target.labels
        if not _all_match(carried, labels, context.matched):
            raise InvalidError("type mismatch: what a catch carries and its label")
        made.append((kind, tagidx, target))
    return tuple(made)


def _callee(context: Context, row: Instruction, immediates: tuple[Any, ...]) -> tuple[FuncType, tuple[ValType, ...]]:
    """The type called, and the operand types above the arguments."""
    if row.code in (0x10, 0x12):
        if immediates[0] >= len(context.funcs):
            unknown("function", immediates[0])
        comptype = context.funcs[immediates[0]].comptype
        if not isinstance(comptype, FuncType):
            raise InvalidError("type mismatch")
        return comptype, ()
    functype = context.func_comptype(immediates[0])
    if row.code in (0x14, 0x15):
        return functype, (context.reftype(True, context.deftypes[immediates[0]]),)
    table = context.table(immediates[1])
    if immediates[1]:
        context.need(Feature.REFERENCE_TYPES, "a table other than the first")
    if not matches_heaptype(table.reftype.heaptype, AbsHeapType.FUNC):
        raise InvalidError("type mismatch: call_indirect through a table that is not of functions")
    return functype, (I64 if table.addrtype is AddressType.I64 else I32,)


def _is_bulk(record: FunctionRecord, code: int, immediates: object) -> bool:
    """Whether an instruction of variable length may cost more than 128 units."""
    per = _BULK[code]
    if code == _ARRAY_NEW_FIXED and isinstance(immediates, tuple):
        return bool(1 + immediates[1] * per // 64 > 128)
    if record.ops and record.ops[-1] in _CONST_CODES:
        length = record.immediates[-1]
        return not isinstance(length, int) or 1 + length * per // 64 > 128
    return True


def validate_function_steps(context: Context, index: int) -> Generator[None, None, FunctionRecord]:
    """Validate the body of the defined function *index*; yields now and then, returns its record."""
    funcidx = context.nimported_funcs + index
    functype = context.funcs[funcidx].comptype
    if not isinstance(functype, FuncType):
        raise InvalidError("unknown type", funcidx=funcidx)
    code = context.module.funcs[index]
    declared, body = decode_locals(code)
    if len(functype.params) + sum(count for count, _ in declared) > limits.MAX_LOCALS:
        raise InvalidError("too many locals", offset=code.start, funcidx=funcidx)
    try:
        runs = [(count, context.close_valtype(valtype)) for count, valtype in declared]
    except InvalidError as error:
        raise _placed(error, code.start, funcidx, None) from None
    total = len(functype.params) + sum(count for count, _ in runs)
    locals_: tuple[ValType, ...] | LocalTypes
    if total <= 1000:
        locals_ = functype.params + tuple(valtype for count, valtype in runs for _ in range(count))
    else:
        locals_ = LocalTypes([*((1, valtype) for valtype in functype.params), *runs])
    unset = not all(is_defaultable(valtype) for count, valtype in runs if count)
    record = FunctionRecord(locals_, len(functype.params), functype.results, code.nbytes)
    make_old(code.nbytes)
    yield from _walk(context, record, code.buffer, body, code.end, unset, funcidx, None)
    return record


def validate_expr(context: Context, expr: Expr, expected: ValType, nglobals: int) -> FunctionRecord:
    """Validate the constant expression *expr* of type *expected*; it may get the first *nglobals* globals."""
    return finish(validate_expr_steps(context, expr, expected, nglobals))


def validate_expr_steps(
    context: Context, expr: Expr, expected: ValType, nglobals: int
) -> Generator[None, None, FunctionRecord]:
    """Like `validate_expr`; yields after some thousands of bytes of a long expression."""
    nbytes = len(expr.code)
    record = FunctionRecord((), 0, (expected,), nbytes)
    walk = _walk(context, record, expr.code, 0, nbytes, False, None, (nglobals, expr.offset))
    if nbytes > _STEP_NBYTES:
        yield from walk
    else:
        for _ in walk:
            pass
    return record


def _placed(error: InvalidError, offset: int, funcidx: int | None, instruction: str | None) -> InvalidError:
    if error.offset is not None:
        return error
    return InvalidError(error.reason, offset=offset, funcidx=funcidx, instruction=instruction, feature=error.feature)


def _missing_end(buf: bytes, end: int, depth: int, base: int) -> Generator[None, None, MalformedError]:
    """Why a body of which *depth* blocks are open cannot end at *end*, in the standard's words.

    In the grammar a body ends where its blocks do, and its size is compared afterwards: what follows decides.
    """
    pos = end
    number = 0
    while depth and pos < len(buf):
        try:
            row, _immediates, pos = read_instruction(buf, pos)
        except MalformedError as error:
            return error if base == 0 else MalformedError(error.reason, offset=end + base)
        if row.name in ("block", "loop", "if", "try", "try_table"):
            depth += 1
        elif row.name in ("end", "delegate"):
            depth -= 1
        elif row.name in ("else", "catch", "catch_all"):
            return MalformedError("END opcode expected", offset=end + base)
        number += 1
        if not number & 0xFF:
            yield
    reason = "unexpected end of section or function" if depth else "section size mismatch"
    return MalformedError(f"{reason}: END opcode expected", offset=end + base)


def _walk(
    context: Context,
    record: FunctionRecord,
    buf: bytes,
    p: int,
    end: int,
    unset: bool,
    funcidx: int | None,
    constant: tuple[int, int] | None,
) -> Generator[None, None, None]:
    kinds = _kinds(context.features, constant is not None)
    locals_ = record.locals
    nlocals = len(locals_)
    nparams = record.nparams
    matched = context.matched
    inited: set[int] = set()
    ops, immediates, offsets = record.ops, record.immediates, record.offsets
    cost, checks, blocks = record.cost, record.checks, record.blocks
    globals_ = context.globals
    nglobals = len(globals_) if constant is None else constant[0]
    base = 0 if constant is None else constant[1]
    params32 = _PARAMS64 if context.mems and context.mems[0].addrtype is AddressType.I64 else _PARAMS
    nmems = len(context.mems)
    stack: list[Any] = []
    block = Block("func", (), record.results, 0, 0)
    ctrl = [block]
    blocks.append(block)
    height = 0
    max_height = 0
    unreachable = False
    live = True
    segment = -1
    total = 1  # fuel of the function so far in the order of bytes; one for its entry
    before = 0  # what of it belongs to earlier segments
    check = 4096
    inits: list[int] = []
    pos = p
    op = 0
    row: Instruction
    read: tuple[Any, ...]
    imm: Any = None
    try:
        while p < end and ctrl:
            stop = min(end, p + _STEP_NBYTES)
            while p < stop:
                pos = p
                op = buf[p]
                p += 1
                if op >= 0xFB and op in _PREFIX:
                    first, count = _PREFIX[op]
                    number, p = read_u(buf, p, 32)
                    if number >= count:
                        raise MalformedError("illegal opcode", offset=pos + base)
                    op = first + number
                kind = kinds[op]
                if kind == 0:  # fixed type, no immediates
                    imm = None
                    params = _PARAMS[op]
                    count = len(params)
                    if count == 0:
                        stack += _RESULTS[op]
                    elif len(stack) - count >= height and stack[-count:] == params:
                        stack[-count:] = _RESULTS[op]
                    else:
                        _pop(stack, height, unreachable, params)
                        stack += _RESULTS[op]
                elif kind == 1:  # local.get
                    imm = buf[p]
                    p += 1
                    if imm > 127:
                        imm, p = read_u(buf, p - 1, 32)
                    if imm >= nlocals:
                        unknown("local", imm)
                    if unset and imm >= nparams and imm not in inited and not is_defaultable(locals_[imm]):
                        raise InvalidError(f"uninitialized local {imm}")
                    stack.append(locals_[imm])
                elif kind == 2:  # i32.const
                    imm = buf[p]
                    p += 1
                    if imm > 63:
                        if imm > 127:
                            imm, p = read_s(buf, p - 1, 32)
                            imm &= 0xFFFF_FFFF
                        else:
                            imm += 0xFFFF_FF80
                    stack.append(I32)
                elif kind == 3:  # loads, stores and atomics
                    align = buf[p]
                    p += 1
                    if align > 127:
                        align, p = read_u(buf, p - 1, 32)
                    params = params32[op]
                    memidx = 0
                    if align >= 0x40:
                        if align >= 0x80:
                            raise MalformedError("malformed memop flags", offset=pos + base)
                        align -= 0x40
                        memidx, p = read_u(buf, p, 32)
                        context.need(Feature.MULTI_MEMORY, "a memory index")
                        params = _PARAMS64[op] if context.mem(memidx).addrtype is AddressType.I64 else _PARAMS[op]
                    offset = buf[p]
                    p += 1
                    if offset > 127:
                        offset, p = read_u(buf, p - 1, 64)
                    if memidx >= nmems:
                        unknown("memory", memidx)
                    if align != _NATURAL[op]:
                        if align > _NATURAL[op]:
                            raise InvalidError("alignment must not be larger than natural")
                        if op in _ATOMIC:
                            raise InvalidError("atomic alignment must be natural")
                    if offset > 0xFFFF_FFFF and context.mems[memidx].addrtype is AddressType.I32:
                        raise InvalidError("offset out of range")
                    count = len(params)
                    if len(stack) - count >= height and stack[-count:] == params:
                        stack[-count:] = _RESULTS[op]
                    else:
                        _pop(stack, height, unreachable, params)
                        stack += _RESULTS[op]
                    imm = (memidx, offset) if memidx else offset
                elif kind <= 5:  # local.set, local.tee
                    imm = buf[p]
                    p += 1
                    if imm > 127:
                        imm, p = read_u(buf, p - 1, 32)
                    if imm >= nlocals:
                        unknown("local", imm)
                    valtype = locals_[imm]
                    if len(stack) > height and stack[-1] is valtype:
                        if kind == 4:
                            stack.pop()
                    else:
                        _pop(stack, height, unreachable, (valtype,))
                        if kind == 5:
                            stack.append(valtype)
                    if unset and imm not in inited:
                        inited.add(imm)
                        inits.append(imm)
                elif kind == 6:  # i64.const
                    imm, p = read_s(buf, p, 64)
                    imm &= 0xFFFF_FFFF_FFFF_FFFF
                    stack.append(I64)
                elif kind == 7:  # global.get
                    imm, p = read_u(buf, p, 32)
                    if imm >= nglobals:
                        unknown("global", imm)
                    if constant is not None and globals_[imm].mutable:
                        raise InvalidError("constant expression required")
                    stack.append(globals_[imm].valtype)
                elif kind == _CONTROL:
                    if op == 0x0E:
                        labels_, p = yield from read_labels_steps(buf, p)
                        row, read = _BR_TABLE, (labels_,)
                    else:
                        row, read, p = read_instruction(buf, pos)
                    new = weight = 0
                    record_this = live
                    imm = None
                    dead = False
                    name = row.name
                    if name in ("block", "loop", "if", "try", "try_table"):
                        params_, results = _blocktype(context, read[0])
                        if name == "if":
                            _pop(stack, height, unreachable, (I32,))
                        if len(ctrl) > limits.MAX_NESTING:
                            raise InvalidError("nesting too deep")
                        made = Block(name, params_, results, 0, len(ctrl))
                        if name == "try_table":
                            made.catches = _check_catches(context, read[1], ctrl)
                            if live:
                                for _kind, _tag, target in made.catches:
                                    if isinstance(target, Block):
                                        target.targeted = True
                                made.has_call = True
                        _pop(stack, height, unreachable, params_, matched)
                        weight = len(params_) + len(results)
                        block.unreachable = unreachable
                        block = made
                        block.height = height = len(stack)
                        block.recorded = live
                        block.inits = len(inits)
                        block.start = len(ops) if live else -1
                        stack += params_
                        ctrl.append(block)
                        unreachable = False
                        imm = block
                        if live:
                            blocks.append(block)
                            if name in ("try", "try_table"):
                                record.tries.append(block)
                            new = 2 if name == "loop" else 1 if name == "if" else 0
                    elif name in ("end", "delegate"):
                        _check_results(stack, height, unreachable, block.results, matched)
                        if name == "delegate":
                            if block.kind != "try" or block.in_catch or block.else_ != -1:
                                raise InvalidError("type mismatch: delegate outside a try")
                        elif block.kind == "if" and block.else_ == -1 and not block.in_catch:
                            if not _all_match(block.params, block.results, matched):
                                raise InvalidError("type mismatch: if without else changes the stack")
                            block.live = block.recorded
                        ctrl.pop()
                        record_this = block.recorded
                        closed = block
                        block.end = len(ops) if record_this else -1
                        if record_this:
                            live = live or block.live or (block.targeted and block.kind != "loop")
                        while len(inits) > closed.inits:
                            inited.discard(inits.pop())
                        if name == "delegate":
                            target = _label(ctrl, read[0])
                            imm = target
                            closed.catches = ((4, None, target),)
                        if not ctrl:
                            if name == "delegate":
                                raise InvalidError("type mismatch")
                            ops.append(op)
                            immediates.append(None)
                            offsets.append(pos + base)
                            break
                        block = ctrl[-1]
                        height = block.height
                        unreachable = block.unreachable
                        stack += closed.results
                        if record_this:
                            block.has_call = block.has_call or closed.has_call
                            block.has_loop = block.has_loop or closed.has_loop or closed.kind == "loop"
                            if closed.kind == "if" or (closed.targeted and closed.kind != "loop") or closed.in_catch:
                                new = 1
                    elif name in ("else", "catch", "catch_all"):
                        if name == "else":
                            if block.kind != "if" or block.in_catch:
                                raise MalformedError("END opcode expected", offset=pos + base)
                        elif block.kind != "try" or block.else_ != -1:
                            raise MalformedError("END opcode expected", offset=pos + base)
                        _check_results(stack, height, unreachable, block.results, matched)
                        block.live = block.live or live
                        block.in_catch = True
                        live = record_this = block.recorded
                        unreachable = False
                        while len(inits) > block.inits:
                            inited.discard(inits.pop())
                        new = 1
                        if name == "else":
                            block.else_ = len(ops) if live else -2
                            stack += block.params
                        else:
                            if len(block.catches) >= limits.MAX_CATCHES:
                                raise InvalidError(f"too many items: MAX_CATCHES is {limits.MAX_CATCHES:,}")
                            if name == "catch":
                                imm = read[0]
                                stack += context.tag(imm).params
                                block.catches = (*block.catches, (0, imm, len(ops)))
                            else:
                                block.else_ = len(ops) if live else -2
                                block.catches = (*block.catches, (2, None, len(ops)))
                            block.has_call = True
                    elif name in ("br", "br_if"):
                        imm = _label(ctrl, read[0])
                        if name == "br_if":
                            _pop(stack, height, unreachable, (I32,))
                            new = 1
                        else:
                            dead = True
                        carried = imm.labels
                        weight = len(carried)
                        _pop(stack, height, unreachable, carried, matched)
                        stack += carried
                        if live:
                            imm.targeted = True
                    elif name == "br_table":
                        _pop(stack, height, unreachable, (I32,))
                        depths = read[0]
                        targets: dict[int, Block] = {}
                        listed: list[Block] = []
                        for first in range(0, len(depths), 20_000):
                            some = depths[first : first + 20_000]
                            for depth in dict.fromkeys(some):
                                if depth not in targets:
                                    targets[depth] = _label(ctrl, depth)
                            listed += map(targets.__getitem__, some)
                            if first:
                                yield
                        imm = tuple(listed)
                        arity = len(imm[-1].labels)
                        operands = stack[max(height, len(stack) - arity) :]
                        seen: set[int] = set()
                        for target in targets.values():
                            target_labels = target.labels
                            if id(target_labels) not in seen:
                                seen.add(id(target_labels))
                                weight += len(target_labels)
                                if len(target_labels) != arity:
                                    raise InvalidError("type mismatch: labels of br_table carry different numbers")
                                # Matching must not narrow what later labels see, so each label pops a copy.
                                _pop(operands.copy(), 0, unreachable, target_labels, matched)
                            if live:
                                target.targeted = True
                        dead = True
                    elif name in ("return", "throw", "throw_ref", "rethrow", "unreachable"):
                        dead = True
                        if name == "return":
                            _pop(stack, height, unreachable, record.results, matched)
                            weight = len(record.results)
                        elif name == "throw":
                            imm = read[0]
                            _pop(stack, height, unreachable, context.tag(imm).params, matched)
                            weight = len(context.tag(imm).params)
                        elif name == "throw_ref":
                            _pop(stack, height, unreachable, (context.reftype(True, AbsHeapType.EXN),))
                        elif name == "rethrow":
                            imm = _label(ctrl, read[0])
                            if imm.kind != "try" or not imm.in_catch:
                                raise InvalidError("invalid rethrow label")
                    elif name in ("br_on_null", "br_on_non_null"):
                        imm = _label(ctrl, read[0])
                        ref = _pop_ref(stack, height, unreachable)
                        labels = imm.labels
                        nonnull = context.reftype(False, ref.heaptype)
                        if name == "br_on_non_null":
                            if not labels or not matches_valtype(nonnull, labels[-1]):
                                raise InvalidError("type mismatch: br_on_non_null and its label")
                            labels = labels[:-1]
                        _pop(stack, height, unreachable, labels)
                        stack += labels
                        if name == "br_on_null":
                            stack.append(nonnull)
                        new = 1
                        if live:
                            imm.targeted = True
                    elif name in ("br_on_cast", "br_on_cast_fail"):
                        flags, depth, heap1, heap2 = read
                        target = _label(ctrl, depth)
                        rt1 = context.reftype(bool(flags & 1), context.close_heaptype(heap1))
                        rt2 = context.reftype(bool(flags & 2), context.close_heaptype(heap2))
                        if not matches_valtype(rt2, rt1):
                            raise InvalidError("type mismatch: the target of a cast does not match its source")
                        rest = context.reftype(rt1.nullable and not rt2.nullable, rt1.heaptype)
                        taken, falls = (rt2, rest) if name == "br_on_cast" else (rest, rt2)
                        if not target.labels or not matches_valtype(taken, target.labels[-1]):
                            raise InvalidError("type mismatch: a cast and its label")
                        _pop(stack, height, unreachable, (*target.labels[:-1], rt1))
                        stack += target.labels[:-1]
                        stack.append(falls)
                        imm = (target, rt1, rt2)
                        new = 1
                        if live:
                            target.targeted = True
                    else:  # calls
                        functype, above = _callee(context, row, read)
                        imm = read[0] if len(read) == 1 else read
                        _pop(stack, height, unreachable, above)
                        _pop(stack, height, unreachable, functype.params, matched)
                        weight = len(functype.params) + len(functype.results)
                        if name.startswith("return"):
                            if not _all_match(functype.results, record.results, matched):
                                raise InvalidError("type mismatch: results of a tail call")
                            dead = True
                        else:
                            stack += functype.results
                            new = 1
                        block.has_call = True
                    if record_this:
                        total += COST[op]
                        ops.append(op)
                        immediates.append(imm)
                        offsets.append(pos + base)
                        max_height = max(max_height, len(stack))
                        if dead:
                            live = False
                        elif new or total >= check:
                            segment_end = len(ops) - 1
                            cost[segment] = total - before
                            segment, before = segment_end, total
                            if new == 2 or total >= check:
                                checks.add(segment)
                                check = total + 4096
                    if dead:
                        del stack[height:]
                        unreachable = True
                    if weight > _MANY:
                        stop -= weight >> 2
                        if len(stack) > limits.MAX_OPERANDS:
                            raise InvalidError(f"too many operands: MAX_OPERANDS is {limits.MAX_OPERANDS:,}")
                    continue
                elif kind == _RULE:
                    row, read, p = read_instruction(buf, pos)
                    rule = RULES.get(row.name)
                    params_r, results_r, imm = (
                        fixed_type(context, row, read) if rule is None else rule(context, constant is not None, *read)
                    )
                    _pop(stack, height, unreachable, params_r, matched)
                    stack += results_r
                    stop -= len(params_r) >> 2
                elif kind == _ONE:
                    if op > 0xFF:
                        p = read_instruction(buf, pos)[2]
                    imm = _one(context, op, stack, height, unreachable)
                elif kind == _SELECT:
                    row, read, p = read_instruction(buf, pos)
                    imm = _select(context, read, stack, height, unreachable)
                elif kind == _DISABLED:
                    row, read, p = read_instruction(buf, pos)
                    if row.feature is not None:
                        disabled(row.feature, row.name)
                else:
                    read_instruction(buf, pos)
                    raise InvalidError("constant expression required")
                if live:
                    if op in _BULK and _is_bulk(record, op, imm):
                        i = len(ops) - 1
                        if i != segment:
                            cost[segment] = total - before
                            segment, before = i, total
                        checks.add(i)
                        check = total + 4096
                    ops.append(op)
                    immediates.append(imm)
                    offsets.append(pos + base)
                    max_height = max(max_height, len(stack))
                    total += COST[op]
                    if total >= check:
                        cost[segment] = total - before
                        segment, before = len(ops) - 1, total
                        checks.add(segment)
                        check = total + 4096
            yield
    except MalformedError as error:
        raise error if error.offset is not None else MalformedError(error.reason, offset=pos + base) from None
    except InvalidError as error:
        instruction = BY_CODE[op]
        raise _placed(error, pos + base, funcidx, instruction.name if instruction else None) from None
    except IndexError:
        raise MalformedError("unexpected end", offset=pos + base) from None
    if p > end:
        raise MalformedError("unexpected end", offset=end + base)
    if ctrl:
        raise (yield from _missing_end(buf, end, len(ctrl), base))
    if p != end:
        raise MalformedError("END opcode expected: code after the end", offset=p + base)
    cost[segment] = total - before
    record.max_height = max_height
