"""The walk over a body that becomes machine code: validates and records it as `aiowasm.validation.code` does.

Written in the part of Python that `native.builder.subset` translates: integers and arrays only. It knows the
instructions of ordinary programs, and that a body is valid; for all others, and whatever is wrong, it answers `NO`, and
the validator's own walk decides and says why. That walk is the rule, this one its copy: they are compared over the
suite and over random bodies (tests/native/test_scanning.py). benchmarks/start.py and validate.py are what it is for.

Types are numbers: an entry of a module's list, equal only if the types are the same. Lists of types start somewhere in
`sigtypes`, where the first 256 entries are themselves, so that one type is a list too.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Final

__all__ = ("validate",)

Bytes = MutableSequence[int]
Halves = MutableSequence[int]
Words = MutableSequence[int]
Longs = MutableSequence[int]

NO: Final = -1
YES: Final = 0

# How an opcode is treated.
DECLINED: Final = 0
FIXED: Final = 1
LOCAL_GET: Final = 2
I32_CONST: Final = 3
ACCESS: Final = 4
LOCAL_SET: Final = 5
LOCAL_TEE: Final = 6
CONTROL: Final = 7
I64_CONST: Final = 8
GLOBAL_GET: Final = 9
GLOBAL_SET: Final = 10
DROP: Final = 11
SELECT: Final = 12
FLOAT_CONST: Final = 13
BYTES: Final = 14
LANES: Final = 15
BULK: Final = 16
ATOMIC: Final = 17

# Of `state`: what is given,
START: Final = 0
END: Final = 1
FUNC: Final = 2
MULTI_VALUE: Final = 3
EXN: Final = 4
EXNREF: Final = 5
# what comes back,
NLOCALS: Final = 6
NOPS: Final = 7
NCOSTS: Final = 8
NCHECKS: Final = 9
NFIXES: Final = 10
NAGAIN: Final = 11
NPAIRS: Final = 12
NBLOCKS: Final = 13
NTABLES: Final = 14
NCATCHES: Final = 15
NLABELS: Final = 16
MAX_HEIGHT: Final = 17
# and the last number that was read.
VALUE: Final = 18
STATE: Final = 19

# Of an entry of `ctrl`.
KIND: Final = 0
PARAMS: Final = 1
NPARAMS: Final = 2
RESULTS: Final = 3
NRESULTS: Final = 4
HEIGHT: Final = 5
UNREACHABLE: Final = 6
LIVE: Final = 7
ELSED: Final = 8
CAUGHT_ALL: Final = 9
NUMBER: Final = 10
CTRL: Final = 11

# Of an entry of `blocks`, which has its KIND first too.
TYPE: Final = 1
BEGIN: Final = 2
ELSE: Final = 3
FINISH: Final = 4
TARGETED: Final = 5
HAS_CALL: Final = 6
HAS_LOOP: Final = 7
BASE: Final = 8
DEPTH: Final = 9
BLOCK: Final = 10

# Of an entry of `catches`: number of the block, kind (AT_OPERATOR added where the target is an operator), tag, target.
CATCH: Final = 4
CATCH_TAG: Final = 0
CATCH_ALL: Final = 2
CATCH_DELEGATE: Final = 4
AT_OPERATOR: Final = 16
NO_TAG: Final = 0xFFFF_FFFF

NTYPES: Final = 256
"""Block types from here on are type indices; those below are types, and 0 none."""

FUNCTION: Final = 0
OP_UNREACHABLE: Final = 0x00
OP_NOP: Final = 0x01
OP_BLOCK: Final = 0x02
OP_LOOP: Final = 0x03
OP_IF: Final = 0x04
OP_ELSE: Final = 0x05
OP_TRY: Final = 0x06
OP_CATCH: Final = 0x07
OP_THROW: Final = 0x08
OP_RETHROW: Final = 0x09
OP_THROW_REF: Final = 0x0A
OP_END: Final = 0x0B
OP_BR: Final = 0x0C
OP_BR_IF: Final = 0x0D
OP_BR_TABLE: Final = 0x0E
OP_RETURN: Final = 0x0F
OP_CALL: Final = 0x10
OP_CALL_INDIRECT: Final = 0x11
OP_RETURN_CALL: Final = 0x12
OP_RETURN_CALL_INDIRECT: Final = 0x13
OP_DELEGATE: Final = 0x18
OP_CATCH_ALL: Final = 0x19
OP_SELECT_T: Final = 0x1C
OP_TRY_TABLE: Final = 0x1F
OP_I32_CONST: Final = 0x41
OP_I64_CONST: Final = 0x42
OP_MEMORY_GROW: Final = 0x40

I32: Final = 1
CHECK_EVERY: Final = 4096
MOST_WORK: Final = 1_000_000
"""Operands of long lists that a body may move before the walk that yields takes over."""
MANY: Final = 8
MOST_PARAMS: Final = 1000
"""What is no function type has more."""
MOST_LOCALS: Final = 1000
"""Up to here the types of locals are a tuple."""
MOST_CATCHES: Final = 1000
CATCH_WORK: Final = 500
"""So that a body has fewer catches than the limit on those of one block."""
MEMORY_INDEX: Final = 0x40
"""The flag of an alignment that a memory's index follows."""


def number(buf: Bytes, p: int, state: Longs, nbits: int, signed: int) -> int:
    """Read a number of *nbits* bits at *p* into `state[VALUE]`; return the offset after it, or NO."""
    value = 0
    shift = 0
    byte = 128
    while byte >= 128:
        byte = buf[p]
        p += 1
        if shift + 7 >= nbits:
            left = nbits - shift
            if byte >= 128:
                return NO
            if signed:
                # The bits from the sign bit upwards must all be equal.
                rest = byte >> (left - 1)
                if rest != 0 and rest != 127 >> (left - 1):
                    return NO
            elif byte >> left != 0:
                return NO
        value |= (byte & 127) << shift
        shift += 7
    if signed and byte & 64 and shift < 64:
        value |= -1 << shift
    state[VALUE] = value
    return p


def pop(stack: Bytes, sp: int, height: int, unreachable: int, types: int) -> int:
    """Pop operands of packed *types*, the last in the lowest byte; return the new height, or NO."""
    while types != 0:
        if sp > height:
            sp -= 1
            if stack[sp] != types & 255:
                return NO
        elif not unreachable:
            return NO
        types >>= 8
    return sp


def push(stack: Bytes, sp: int, types: int) -> int:
    """Push operands of packed *types*, the first in the lowest byte; return the new height."""
    while types != 0:
        stack[sp] = types & 255
        sp += 1
        types >>= 8
    return sp


def pop_list(stack: Bytes, sp: int, height: int, unreachable: int, sigtypes: Bytes, first: int, count: int) -> int:
    """Pop operands of a list of types; return the new height, or NO."""
    while count > 0:
        count -= 1
        if sp > height:
            sp -= 1
            if stack[sp] != sigtypes[first + count]:
                return NO
        else:
            if not unreachable:
                return NO
            count = 0
    return sp


def push_list(stack: Bytes, sp: int, sigtypes: Bytes, first: int, count: int) -> int:
    """Push operands of a list of types; return the new height."""
    at = 0
    while at < count:
        stack[sp] = sigtypes[first + at]
        sp += 1
        at += 1
    return sp


def read_locals(
    state: Longs, buf: Bytes, p: int, end: int, sigs: Words, sigtypes: Bytes, valtypes: Bytes, locals_: Bytes
) -> int:
    """Fill in the types of parameters and locals; return the offset of the body, or NO."""
    sig = 3 * state[FUNC]
    nlocals = sigs[sig + 1]
    push_list(locals_, 0, sigtypes, sigs[sig], nlocals)
    p = number(buf, p, state, 32, 0)
    if p < 0:
        return NO
    nruns = state[VALUE]
    while nruns > 0:
        p = number(buf, p, state, 32, 0)
        if p < 0 or p >= end:
            return NO
        count = state[VALUE]
        valtype = valtypes[buf[p]]
        p += 1
        if valtype == 0:
            return NO
        while count > 0:
            locals_[nlocals] = valtype
            nlocals += 1
            count -= 1
        nruns -= 1
    state[NLOCALS] = nlocals
    return p


def validate(
    state: Longs,
    buf: Bytes,
    kinds: Bytes,
    params: Longs,
    results: Longs,
    details: Bytes,
    costs: Bytes,
    sigs: Words,
    sigtypes: Bytes,
    funcs: Words,
    globals_: Halves,
    tables: Bytes,
    mems: Bytes,
    tags: Words,
    valtypes: Bytes,
    stack: Bytes,
    locals_: Bytes,
    ctrl: Longs,
    ops: Halves,
    imms: Longs,
    offsets: Words,
    cost_at: Longs,
    cost_units: Longs,
    checks: Longs,
    fix_at: Words,
    fix_what: Words,
    again: Words,
    pairs: Words,
    blocks: Longs,
    labels: Words,
    tabled: Words,
    catches: Words,
) -> int:
    """Validate and record the body that `state` names; return YES, or NO if it is for the validator's own walk."""
    end = state[END]
    p = read_locals(state, buf, state[START], end, sigs, sigtypes, valtypes, locals_)
    if p < 0:
        return NO
    nlocals = state[NLOCALS]
    sig = 3 * state[FUNC]
    own_results = sigs[sig] + sigs[sig + 1]
    own_nresults = sigs[sig + 2]
    nops = 0
    ncosts = 0
    nchecks = 0
    nfixes = 0
    nagain = 0
    npairs = 0
    nlabels = 0
    ntables = 0
    ncatches = 0
    sp = 0
    height = 0
    max_height = 0
    unreachable = 0
    live = 1
    segment = -1
    total = 1
    before = 0
    check = CHECK_EVERY
    work = 0
    depth = 0
    c = 0
    ctrl[KIND] = FUNCTION
    ctrl[RESULTS] = own_results
    ctrl[NRESULTS] = own_nresults
    ctrl[HEIGHT] = 0
    ctrl[LIVE] = 0
    ctrl[ELSED] = 0
    ctrl[NUMBER] = 0
    b = 0
    blocks[KIND] = FUNCTION
    blocks[TYPE] = 0
    blocks[BEGIN] = -1
    blocks[ELSE] = -1
    blocks[TARGETED] = 0
    blocks[HAS_CALL] = 0
    blocks[HAS_LOOP] = 0
    blocks[BASE] = 0
    blocks[DEPTH] = 0
    nblocks = 1
    while p < end:
        pos = p
        op = buf[p]
        p += 1
        if op >= 0xFB:
            prefix = op
            p = number(buf, p, state, 32, 0)
            op = state[VALUE]
            if p < 0 or op >= 0x200 or prefix == 0xFF or (op >= 0x100 and prefix != 0xFD):
                return NO
            op += (prefix - 0xFA) << 8
            if prefix == 0xFE:
                op += 0x100
        kind = kinds[op]
        imm = 0
        fix = -1
        new = 0
        dead = 0
        recorded = live
        if kind == FIXED:
            if params[op]:
                sp = pop(stack, sp, height, unreachable, params[op])
                if sp < 0:
                    return NO
            sp = push(stack, sp, results[op])
        elif kind == LOCAL_GET:
            imm = buf[p]
            p += 1
            if imm >= 128:
                p = number(buf, p - 1, state, 32, 0)
                imm = state[VALUE]
            if p < 0 or imm >= nlocals:
                return NO
            stack[sp] = locals_[imm]
            sp += 1
        elif kind == I32_CONST:
            p = number(buf, p, state, 32, 1)
            if p < 0:
                return NO
            imm = state[VALUE] & 0xFFFF_FFFF
            stack[sp] = I32
            sp += 1
        elif kind in (ACCESS, ATOMIC):
            align = buf[p]
            p += 1
            memidx = 0
            if align >= MEMORY_INDEX:
                # Memories marked with 0 are for others: the feature is off, or their addresses are not the first's.
                align -= MEMORY_INDEX
                p = number(buf, p, state, 32, 0)
                memidx = state[VALUE]
                if p < 0 or not mems[memidx]:
                    return NO
            imm = buf[p]
            p += 1
            if imm >= 128:
                p = number(buf, p - 1, state, 64, 0)
                imm = state[VALUE]
            # A longer number is for others, as are offsets beyond 32 bits.
            if p < 0 or align > details[op] or (kind == ATOMIC and align != details[op]) or imm >> 32 != 0:
                return NO
            if memidx > 0:
                imm = memidx | imm << 32
                if live:
                    pairs[npairs] = nops
                    npairs += 1
            sp = pop(stack, sp, height, unreachable, params[op])
            if sp < 0:
                return NO
            sp = push(stack, sp, results[op])
        elif kind in (LOCAL_SET, LOCAL_TEE):
            imm = buf[p]
            p += 1
            if imm >= 128:
                p = number(buf, p - 1, state, 32, 0)
                imm = state[VALUE]
            if p < 0 or imm >= nlocals:
                return NO
            sp = pop(stack, sp, height, unreachable, locals_[imm])
            if sp < 0:
                return NO
            if kind == LOCAL_TEE:
                stack[sp] = locals_[imm]
                sp += 1
        elif kind == CONTROL:
            if op in (OP_END, OP_DELEGATE):
                first = ctrl[c + RESULTS]
                count = ctrl[c + NRESULTS]
                sp = pop_list(stack, sp, height, unreachable, sigtypes, first, count)
                if sp != height:
                    return NO
                if count > MANY:
                    work += count
                if op == OP_DELEGATE:
                    if ctrl[c + KIND] != OP_TRY or ctrl[c + ELSED]:
                        return NO
                elif ctrl[c + KIND] == OP_IF and not ctrl[c + ELSED]:
                    if ctrl[c + NPARAMS] != count:
                        return NO
                    at = 0
                    while at < count:
                        if sigtypes[ctrl[c + PARAMS] + at] != sigtypes[first + at]:
                            return NO
                        at += 1
                    if b >= 0:
                        ctrl[c + LIVE] = 1
                if b >= 0:
                    blocks[b + FINISH] = nops
                    if ctrl[c + LIVE] or (blocks[b + TARGETED] and ctrl[c + KIND] != OP_LOOP):
                        live = 1
                if depth == 0:
                    if op == OP_DELEGATE:
                        return NO
                    ops[nops] = op
                    imms[nops] = 0
                    offsets[nops] = pos
                    nops += 1
                    depth = -1
                    break
                recorded = 0
                closed = b
                closed_kind = ctrl[c + KIND]
                closed_elsed = ctrl[c + ELSED]
                closed_number = ctrl[c + NUMBER]
                depth -= 1
                c -= CTRL
                height = ctrl[c + HEIGHT]
                unreachable = ctrl[c + UNREACHABLE]
                b = BLOCK * ctrl[c + NUMBER]
                sp = push_list(stack, sp, sigtypes, first, count)
                if op == OP_DELEGATE:
                    p = number(buf, p, state, 32, 0)
                    if p < 0 or state[VALUE] > depth:
                        return NO
                    if closed >= 0:
                        t = ctrl[CTRL * (depth - state[VALUE]) + NUMBER]
                        fix = NTYPES + t
                        catches[ncatches] = closed_number
                        catches[ncatches + 1] = CATCH_DELEGATE
                        catches[ncatches + 2] = NO_TAG
                        catches[ncatches + 3] = t
                        ncatches += CATCH
                if closed >= 0:
                    recorded = 1
                    if blocks[closed + HAS_CALL]:
                        blocks[b + HAS_CALL] = 1
                    if blocks[closed + HAS_LOOP] or closed_kind == OP_LOOP:
                        blocks[b + HAS_LOOP] = 1
                    if closed_kind == OP_IF or closed_elsed or (blocks[closed + TARGETED] and closed_kind != OP_LOOP):
                        new = 1
            elif op in (OP_BLOCK, OP_LOOP, OP_IF, OP_TRY, OP_TRY_TABLE):
                blocktype = buf[p]
                p += 1
                first = 0
                nparams = 0
                nresults = 0
                if blocktype == 0x40:
                    blocktype = 0
                elif blocktype & 0xC0 == 0x40:
                    blocktype = valtypes[blocktype]
                    if blocktype == 0:
                        return NO
                    first = blocktype
                    nresults = 1
                else:
                    p = number(buf, p - 1, state, 33, 1)
                    blocktype = state[VALUE]
                    if p < 0 or blocktype < 0:
                        return NO
                    first = sigs[3 * blocktype]
                    nparams = sigs[3 * blocktype + 1]
                    nresults = sigs[3 * blocktype + 2]
                    if nparams > MOST_PARAMS:
                        return NO
                    if not state[MULTI_VALUE] and (nparams > 0 or nresults > 1):
                        return NO
                    blocktype += NTYPES
                if op == OP_IF:
                    sp = pop(stack, sp, height, unreachable, I32)
                    if sp < 0:
                        return NO
                if op == OP_TRY_TABLE:
                    p = number(buf, p, state, 32, 0)
                    left = state[VALUE]
                    if p < 0 or left > MOST_CATCHES:
                        return NO
                    while left > 0:
                        left -= 1
                        clause = buf[p]
                        p += 1
                        tag = NO_TAG
                        count = 0
                        at = 0
                        if clause < 2:
                            p = number(buf, p, state, 32, 0)
                            if p < 0:
                                return NO
                            tag = state[VALUE]
                            at = sigs[3 * tags[tag]]
                            count = sigs[3 * tags[tag] + 1]
                        p = number(buf, p, state, 32, 0)
                        if p < 0 or p > end or clause > 3 or state[VALUE] > depth:
                            return NO
                        t = CTRL * (depth - state[VALUE])
                        label = ctrl[t + RESULTS]
                        arity = ctrl[t + NRESULTS]
                        if ctrl[t + KIND] == OP_LOOP:
                            label = ctrl[t + PARAMS]
                            arity = ctrl[t + NPARAMS]
                        work += arity
                        if arity != count + (clause & 1):
                            return NO
                        if clause & 1:
                            arity = sigtypes[label + count]
                            if arity == 0 or (arity != state[EXN] and arity != state[EXNREF]):
                                return NO
                        while count > 0:
                            count -= 1
                            if sigtypes[label + count] != sigtypes[at + count]:
                                return NO
                        if live:
                            t = ctrl[t + NUMBER]
                            blocks[BLOCK * t + TARGETED] = 1
                            catches[ncatches] = nblocks
                            catches[ncatches + 1] = clause
                            catches[ncatches + 2] = tag
                            catches[ncatches + 3] = t
                            ncatches += CATCH
                if nparams > 0:
                    sp = pop_list(stack, sp, height, unreachable, sigtypes, first, nparams)
                    if sp < 0:
                        return NO
                if nparams + nresults > MANY:
                    work += nparams + nresults
                ctrl[c + UNREACHABLE] = unreachable
                depth += 1
                c += CTRL
                height = sp
                unreachable = 0
                b = NO
                ctrl[c + NUMBER] = NO
                if live:
                    ctrl[c + NUMBER] = nblocks
                    fix = NTYPES + nblocks
                    b = BLOCK * nblocks
                    nblocks += 1
                    blocks[b + KIND] = op
                    blocks[b + TYPE] = blocktype
                    blocks[b + BEGIN] = nops
                    blocks[b + ELSE] = -1
                    blocks[b + TARGETED] = 0
                    blocks[b + HAS_CALL] = 0
                    if op == OP_TRY_TABLE:
                        blocks[b + HAS_CALL] = 1
                    blocks[b + HAS_LOOP] = 0
                    blocks[b + BASE] = height
                    blocks[b + DEPTH] = depth
                ctrl[c + KIND] = op
                ctrl[c + PARAMS] = first
                ctrl[c + NPARAMS] = nparams
                ctrl[c + RESULTS] = first + nparams
                ctrl[c + NRESULTS] = nresults
                ctrl[c + HEIGHT] = height
                ctrl[c + LIVE] = 0
                ctrl[c + ELSED] = 0
                ctrl[c + CAUGHT_ALL] = 0
                sp = push_list(stack, sp, sigtypes, first, nparams)
                if op == OP_LOOP:
                    new = 2
                elif op == OP_IF:
                    new = 1
            elif op in (OP_ELSE, OP_CATCH, OP_CATCH_ALL):
                if op == OP_ELSE:
                    if ctrl[c + KIND] != OP_IF or ctrl[c + ELSED]:
                        return NO
                elif ctrl[c + KIND] != OP_TRY or ctrl[c + CAUGHT_ALL]:
                    return NO
                else:
                    work += CATCH_WORK
                sp = pop_list(stack, sp, height, unreachable, sigtypes, ctrl[c + RESULTS], ctrl[c + NRESULTS])
                if sp != height:
                    return NO
                work += ctrl[c + NRESULTS]
                if live:
                    ctrl[c + LIVE] = 1
                ctrl[c + ELSED] = 1
                live = 0
                if b >= 0:
                    live = 1
                recorded = live
                unreachable = 0
                new = 1
                first = ctrl[c + PARAMS]
                count = ctrl[c + NPARAMS]
                tag = NO_TAG
                if op == OP_CATCH:
                    p = number(buf, p, state, 32, 0)
                    if p < 0:
                        return NO
                    imm = state[VALUE]
                    tag = imm
                    first = sigs[3 * tags[imm]]
                    count = sigs[3 * tags[imm] + 1]
                elif op == OP_CATCH_ALL:
                    ctrl[c + CAUGHT_ALL] = 1
                    count = 0
                if b >= 0:
                    if op != OP_CATCH:
                        blocks[b + ELSE] = nops
                    if op != OP_ELSE:
                        catches[ncatches] = ctrl[c + NUMBER]
                        catches[ncatches + 1] = AT_OPERATOR + CATCH_TAG
                        if op == OP_CATCH_ALL:
                            catches[ncatches + 1] = AT_OPERATOR + CATCH_ALL
                        catches[ncatches + 2] = tag
                        catches[ncatches + 3] = nops
                        ncatches += CATCH
                        blocks[b + HAS_CALL] = 1
                sp = push_list(stack, sp, sigtypes, first, count)
                work += count
            elif op in (OP_BR, OP_BR_IF):
                p = number(buf, p, state, 32, 0)
                if p < 0 or state[VALUE] > depth:
                    return NO
                t = CTRL * (depth - state[VALUE])
                if op == OP_BR_IF:
                    sp = pop(stack, sp, height, unreachable, I32)
                    if sp < 0:
                        return NO
                    new = 1
                else:
                    dead = 1
                first = ctrl[t + RESULTS]
                count = ctrl[t + NRESULTS]
                if ctrl[t + KIND] == OP_LOOP:
                    first = ctrl[t + PARAMS]
                    count = ctrl[t + NPARAMS]
                if count > 0:
                    sp = pop_list(stack, sp, height, unreachable, sigtypes, first, count)
                    if sp < 0:
                        return NO
                    sp = push_list(stack, sp, sigtypes, first, count)
                    if count > MANY:
                        work += count
                if live:
                    t = ctrl[t + NUMBER]
                    blocks[BLOCK * t + TARGETED] = 1
                    fix = NTYPES + t
            elif op in (OP_CALL, OP_CALL_INDIRECT, OP_RETURN_CALL, OP_RETURN_CALL_INDIRECT):
                p = number(buf, p, state, 32, 0)
                if p < 0:
                    return NO
                imm = state[VALUE]
                if op in (OP_CALL, OP_RETURN_CALL):
                    sig = 3 * funcs[imm]
                else:
                    sig = 3 * imm
                    p = number(buf, p, state, 32, 0)
                    if p < 0:
                        return NO
                    if tables[state[VALUE]] == 0:
                        return NO
                    sp = pop(stack, sp, height, unreachable, tables[state[VALUE]])
                    if sp < 0:
                        return NO
                    imm |= state[VALUE] << 32
                    if live:
                        pairs[npairs] = nops
                        npairs += 1
                first = sigs[sig]
                count = sigs[sig + 1]
                nresults = sigs[sig + 2]
                if count > MOST_PARAMS:
                    return NO
                sp = pop_list(stack, sp, height, unreachable, sigtypes, first, count)
                if sp < 0:
                    return NO
                if count + nresults > MANY:
                    work += count + nresults
                if op in (OP_CALL, OP_CALL_INDIRECT):
                    sp = push_list(stack, sp, sigtypes, first + count, nresults)
                    new = 1
                else:
                    dead = 1
                    if nresults != own_nresults:
                        return NO
                    while nresults > 0:
                        nresults -= 1
                        if sigtypes[first + count + nresults] != sigtypes[own_results + nresults]:
                            return NO
                if b >= 0:
                    blocks[b + HAS_CALL] = 1
            elif op == OP_RETURN:
                dead = 1
                sp = pop_list(stack, sp, height, unreachable, sigtypes, own_results, own_nresults)
                if sp < 0:
                    return NO
                if own_nresults > MANY:
                    work += own_nresults
            elif op == OP_UNREACHABLE:
                dead = 1
            elif op == OP_THROW:
                dead = 1
                p = number(buf, p, state, 32, 0)
                if p < 0:
                    return NO
                imm = state[VALUE]
                count = sigs[3 * tags[imm] + 1]
                sp = pop_list(stack, sp, height, unreachable, sigtypes, sigs[3 * tags[imm]], count)
                if sp < 0:
                    return NO
                work += count
            elif op == OP_THROW_REF:
                dead = 1
                if sp > height:
                    sp -= 1
                    if stack[sp] == 0 or (stack[sp] != state[EXN] and stack[sp] != state[EXNREF]):
                        return NO
                elif not unreachable:
                    return NO
            elif op == OP_RETHROW:
                dead = 1
                p = number(buf, p, state, 32, 0)
                if p < 0 or state[VALUE] > depth:
                    return NO
                t = CTRL * (depth - state[VALUE])
                if ctrl[t + KIND] != OP_TRY or not ctrl[t + ELSED]:
                    return NO
                if live:
                    fix = NTYPES + ctrl[t + NUMBER]
            elif op == OP_BR_TABLE:
                dead = 1
                sp = pop(stack, sp, height, unreachable, I32)
                if sp < 0:
                    return NO
                p = number(buf, p, state, 32, 0)
                if p < 0:
                    return NO
                left = state[VALUE] + 1
                if live:
                    tabled[3 * ntables] = nops
                    tabled[3 * ntables + 1] = nlabels
                    tabled[3 * ntables + 2] = left
                    ntables += 1
                arity = -1
                while left > 0:
                    if p >= end:
                        return NO
                    p = number(buf, p, state, 32, 0)
                    if p < 0 or state[VALUE] > depth:
                        return NO
                    t = CTRL * (depth - state[VALUE])
                    first = ctrl[t + RESULTS]
                    count = ctrl[t + NRESULTS]
                    if ctrl[t + KIND] == OP_LOOP:
                        first = ctrl[t + PARAMS]
                        count = ctrl[t + NPARAMS]
                    if arity < 0:
                        arity = count
                    if count != arity:
                        return NO
                    if count > 0:
                        if pop_list(stack, sp, height, unreachable, sigtypes, first, count) < 0:
                            return NO
                        work += count
                    if live:
                        t = ctrl[t + NUMBER]
                        blocks[BLOCK * t + TARGETED] = 1
                        labels[nlabels] = NTYPES + t
                        nlabels += 1
                    left -= 1
            elif op != OP_NOP:
                return NO
        elif kind == I64_CONST:
            p = number(buf, p, state, 64, 1)
            if p < 0:
                return NO
            imm = state[VALUE]
            sp = push(stack, sp, results[op])
        elif kind in (GLOBAL_GET, GLOBAL_SET):
            p = number(buf, p, state, 32, 0)
            if p < 0:
                return NO
            imm = state[VALUE]
            valtype = globals_[imm]
            if valtype & 255 == 0:
                return NO
            if kind == GLOBAL_GET:
                stack[sp] = valtype & 255
                sp += 1
            else:
                if valtype >> 8 == 0:
                    return NO
                sp = pop(stack, sp, height, unreachable, valtype & 255)
                if sp < 0:
                    return NO
        elif kind == DROP:
            if sp > height:
                sp -= 1
                fix = stack[sp]
            elif not unreachable:
                return NO
        elif kind == SELECT:
            valtype = 0
            if op == OP_SELECT_T:
                valtype = valtypes[buf[p + 1]]
                if buf[p] != 1 or valtype == 0:
                    return NO
                p += 2
            sp = pop(stack, sp, height, unreachable, I32)
            if sp < 0:
                return NO
            if valtype == 0:
                # References need a type; that of operands that are not there is for others.
                if sp - 2 < height:
                    return NO
                valtype = stack[sp - 1]
                if valtype > details[op]:
                    return NO
            sp = pop(stack, sp, height, unreachable, valtype << 8 | valtype)
            if sp < 0:
                return NO
            stack[sp] = valtype
            sp += 1
            fix = valtype
        elif kind == FLOAT_CONST:
            imm = buf[p] | buf[p + 1] << 8 | buf[p + 2] << 16 | buf[p + 3] << 24
            p += 4
            if details[op] == 8:
                imm |= buf[p] << 32 | buf[p + 1] << 40 | buf[p + 2] << 48 | buf[p + 3] << 56
                p += 4
            sp = push(stack, sp, results[op])
        elif kind in (BYTES, BULK):
            # As many bytes, each below the second number; a flag or a long number among them is for others.
            count = details[op] & 31
            bound = 1 << (details[op] >> 5)
            if kind == BULK:
                bound = 1
                count = details[op] & 3
            while count > 0:
                imm = buf[p]
                if imm >= bound:
                    return NO
                p += 1
                count -= 1
            sp = pop(stack, sp, height, unreachable, params[op])
            if sp < 0:
                return NO
            sp = push(stack, sp, results[op])
            if kind == BULK and live:
                imm = 0
                if op != OP_MEMORY_GROW:
                    again[nagain] = nops
                    nagain += 1
                shift = details[op] >> 2
                large = 1
                if nops > 0 and ops[nops - 1] in (OP_I32_CONST, OP_I64_CONST) and imms[nops - 1] >> shift == 0:
                    large = 0
                if large:
                    if nops - 1 != segment:
                        cost_at[ncosts] = segment
                        cost_units[ncosts] = total - before
                        ncosts += 1
                        segment = nops - 1
                        before = total
                    checks[nchecks] = nops - 1
                    nchecks += 1
                    check = total + CHECK_EVERY
        elif kind == LANES:
            # v128.const and i8x16.shuffle: 16 bytes each below a power of two.
            bound = 1 << details[op]
            count = 16
            while count > 0:
                if buf[p] >= bound:
                    return NO
                p += 1
                count -= 1
            sp = pop(stack, sp, height, unreachable, params[op])
            if sp < 0:
                return NO
            sp = push(stack, sp, results[op])
            if live:
                again[nagain] = nops
                nagain += 1
        else:
            return NO
        if recorded:
            total += costs[op]
            ops[nops] = op
            imms[nops] = imm
            offsets[nops] = pos
            if fix >= 0:
                fix_at[nfixes] = nops
                fix_what[nfixes] = fix
                nfixes += 1
            nops += 1
            max_height = max(max_height, sp)
            if dead:
                live = 0
            elif new or total >= check:
                cost_at[ncosts] = segment
                cost_units[ncosts] = total - before
                ncosts += 1
                segment = nops - 1
                before = total
                if new == 2 or total >= check:
                    checks[nchecks] = segment
                    nchecks += 1
                    check = total + CHECK_EVERY
        if dead:
            sp = height
            unreachable = 1
        if work > MOST_WORK:
            return NO
    if depth >= 0 or p != end:
        return NO
    cost_at[ncosts] = segment
    cost_units[ncosts] = total - before
    state[NOPS] = nops
    state[NCOSTS] = ncosts + 1
    state[NCHECKS] = nchecks
    state[NFIXES] = nfixes
    state[NAGAIN] = nagain
    state[NPAIRS] = npairs
    state[NBLOCKS] = nblocks
    state[NTABLES] = ntables
    state[NCATCHES] = ncatches
    state[NLABELS] = nlabels
    state[MAX_HEIGHT] = max_height
    return YES
