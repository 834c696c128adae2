"""The walk over a body that becomes machine code: validates and records it as `aiowasm.validation.code` does.

Written in the part of Python that `native.builder.subset` translates: integers and arrays only. It knows the
instructions of ordinary programs, and that a body is valid; for all others, and whatever is wrong, it answers `NO`, and
the validator's own walk decides and says why. That walk is the rule, this one its copy: they are compared over the
suite and over random bodies (tests/native/test_scanning.py). benchmarks/start.py and validate.py are what it is for.

Types are numbers: an entry of a module's list, equal only if the types are the same. Lists of types start somewhere in
`sigtypes`, where the first 256 entries are themselves, so that one type is a list too.
"""

from __future__ import annotations

from aiowasm.engine.native.scanning import names as n
from aiowasm.engine.native.scanning.control import (
    enter_catch,
    label_arity,
    label_types,
    read_blocktype,
    read_catches,
    read_targets,
    target,
)
from aiowasm.engine.native.scanning.names import Bytes, Halves, Longs, Words
from aiowasm.engine.native.scanning.operands import (
    number,
    pop,
    pop_list,
    push,
    push_list,
    read_bytes,
    read_locals,
    same_list,
)

__all__ = ("validate",)


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
    nones: Words,
    fix_at: Words,
    fix_what: Words,
    again: Words,
    pairs: Words,
    blocks: Longs,
    labels: Words,
    tabled: Words,
    catches: Words,
) -> int:
    """Validate and record the body that `state` names; return YES, or NO if it is for the validator's own walk.

    What instructions are (*kinds* to *costs*) and what the module has (*sigs* to *valtypes*) comes from `tables`; the
    walk works in *stack* to *ctrl* and writes what it records from *ops* on, as `scanner` reads it. Names of fields are
    in `names`. `live` code can be reached and is recorded; `unreachable` is the standard's: any operands may be popped.
    """
    end = state[n.END]
    p = read_locals(state, buf, state[n.START], end, sigs, sigtypes, valtypes, locals_)
    if p < 0:
        return n.NO
    nlocals = state[n.NLOCALS]
    sig = 3 * state[n.FUNC]
    own_results = sigs[sig] + sigs[sig + 1]
    own_nresults = sigs[sig + 2]
    nops = 0
    ncosts = 0
    nchecks = 0
    nnones = 0
    nfixes = 0
    nagain = 0
    npairs = 0
    state[n.NLABELS] = 0
    ntables = 0
    state[n.NCATCHES] = 0
    state[n.WORK] = 0
    sp = 0
    height = 0
    max_height = 0
    unreachable = 0
    live = 1
    segment = -1
    total = 1
    before = 0
    check = n.CHECK_EVERY
    depth = 0
    c = 0
    ctrl[n.KIND] = n.FUNCTION
    ctrl[n.RESULTS] = own_results
    ctrl[n.NRESULTS] = own_nresults
    ctrl[n.HEIGHT] = 0
    ctrl[n.LIVE] = 0
    ctrl[n.ELSED] = 0
    ctrl[n.NUMBER] = 0
    b = 0
    blocks[n.KIND] = n.FUNCTION
    blocks[n.TYPE] = 0
    blocks[n.BEGIN] = -1
    blocks[n.ELSE] = -1
    blocks[n.TARGETED] = 0
    blocks[n.HAS_CALL] = 0
    blocks[n.HAS_LOOP] = 0
    blocks[n.BASE] = 0
    blocks[n.DEPTH] = 0
    nblocks = 1
    while p < end:
        pos = p
        op = buf[p]
        p += 1
        if op >= 0xFB:
            prefix = op
            p = number(buf, p, state, 32, 0)
            op = state[n.VALUE]
            if p < 0 or op >= 0x200 or prefix == 0xFF or (op >= 0x100 and prefix != 0xFD):
                return n.NO
            op += (prefix - 0xFA) << 8
            if prefix == 0xFE:
                op += 0x100
        kind = kinds[op]
        imm = 0
        fix = -1
        new = 0
        dead = 0
        recorded = live
        none = 0
        if kind == n.FIXED:
            none = 1
            if params[op]:
                sp = pop(stack, sp, height, unreachable, params[op])
                if sp < 0:
                    return n.NO
            sp = push(stack, sp, results[op])
        elif kind in (n.LOCAL_GET, n.LOCAL_SET, n.LOCAL_TEE):
            p = number(buf, p, state, 32, 0)
            imm = state[n.VALUE]
            if p < 0 or imm >= nlocals:
                return n.NO
            if kind != n.LOCAL_GET:
                sp = pop(stack, sp, height, unreachable, locals_[imm])
                if sp < 0:
                    return n.NO
            if kind != n.LOCAL_SET:
                stack[sp] = locals_[imm]
                sp += 1
        elif kind == n.I32_CONST:
            p = number(buf, p, state, 32, 1)
            if p < 0:
                return n.NO
            imm = state[n.VALUE] & 0xFFFF_FFFF
            stack[sp] = n.I32
            sp += 1
        elif kind in (n.ACCESS, n.ATOMIC):
            align = buf[p]
            p += 1
            memidx = 0
            if align >= n.MEMORY_INDEX:
                # Memories marked with 0 are for others: the feature is off, or their addresses are not the first's.
                align -= n.MEMORY_INDEX
                p = number(buf, p, state, 32, 0)
                memidx = state[n.VALUE]
                if p < 0 or not mems[memidx]:
                    return n.NO
            p = number(buf, p, state, 64, 0)
            imm = state[n.VALUE]
            # A longer number is for others, as are offsets beyond 32 bits.
            if p < 0 or align > details[op] or (kind == n.ATOMIC and align != details[op]) or imm >> 32 != 0:
                return n.NO
            if memidx > 0:
                imm = memidx | imm << 32
                if live:
                    pairs[npairs] = nops
                    npairs += 1
            sp = pop(stack, sp, height, unreachable, params[op])
            if sp < 0:
                return n.NO
            sp = push(stack, sp, results[op])
        elif kind == n.CONTROL:
            none = 1
            if op in (n.OP_END, n.OP_DELEGATE):
                first = ctrl[c + n.RESULTS]
                count = ctrl[c + n.NRESULTS]
                sp = pop_list(stack, sp, height, unreachable, sigtypes, first, count)
                if sp != height:
                    return n.NO
                if count > n.MANY:
                    state[n.WORK] += count
                if op == n.OP_DELEGATE:
                    if ctrl[c + n.KIND] != n.OP_TRY or ctrl[c + n.ELSED]:
                        return n.NO
                elif ctrl[c + n.KIND] == n.OP_IF and not ctrl[c + n.ELSED]:
                    if ctrl[c + n.NPARAMS] != count or not same_list(sigtypes, ctrl[c + n.PARAMS], first, count):
                        return n.NO
                    if b >= 0:
                        ctrl[c + n.LIVE] = 1
                if b >= 0:
                    blocks[b + n.FINISH] = nops
                    if ctrl[c + n.LIVE] or (blocks[b + n.TARGETED] and ctrl[c + n.KIND] != n.OP_LOOP):
                        live = 1
                if depth == 0:
                    if op == n.OP_DELEGATE:
                        return n.NO
                    ops[nops] = op
                    imms[nops] = 0
                    nones[nnones] = nops
                    nnones += 1
                    offsets[nops] = pos
                    nops += 1
                    depth = -1
                    break
                recorded = 0
                closed = b
                closed_kind = ctrl[c + n.KIND]
                closed_elsed = ctrl[c + n.ELSED]
                closed_number = ctrl[c + n.NUMBER]
                depth -= 1
                c -= n.CTRL
                height = ctrl[c + n.HEIGHT]
                unreachable = ctrl[c + n.UNREACHABLE]
                b = n.BLOCK * ctrl[c + n.NUMBER]
                sp = push_list(stack, sp, sigtypes, first, count)
                if op == n.OP_DELEGATE:
                    p = number(buf, p, state, 32, 0)
                    if p < 0 or state[n.VALUE] > depth:
                        return n.NO
                    if closed >= 0:
                        t = ctrl[n.CTRL * (depth - state[n.VALUE]) + n.NUMBER]
                        fix = n.NTYPES + t
                        enter_catch(state, catches, closed_number, n.CATCH_DELEGATE, n.NO_TAG, t)
                if closed >= 0:
                    recorded = 1
                    if blocks[closed + n.HAS_CALL]:
                        blocks[b + n.HAS_CALL] = 1
                    if blocks[closed + n.HAS_LOOP] or closed_kind == n.OP_LOOP:
                        blocks[b + n.HAS_LOOP] = 1
                    if (
                        closed_kind == n.OP_IF
                        or closed_elsed
                        or (blocks[closed + n.TARGETED] and closed_kind != n.OP_LOOP)
                    ):
                        new = 1
            elif op in (n.OP_BLOCK, n.OP_LOOP, n.OP_IF, n.OP_TRY, n.OP_TRY_TABLE):
                p = read_blocktype(state, buf, p, sigs, valtypes)
                if p < 0:
                    return n.NO
                first = state[n.BLOCK_PARAMS]
                nparams = state[n.BLOCK_NPARAMS]
                nresults = state[n.BLOCK_NRESULTS]
                if op == n.OP_IF:
                    sp = pop(stack, sp, height, unreachable, n.I32)
                    if sp < 0:
                        return n.NO
                if op == n.OP_TRY_TABLE:
                    block = n.NO
                    if live:
                        block = nblocks
                    p = read_catches(state, buf, p, depth, block, sigs, sigtypes, tags, ctrl, blocks, catches)
                    if p < 0:
                        return n.NO
                if nparams > 0:
                    sp = pop_list(stack, sp, height, unreachable, sigtypes, first, nparams)
                    if sp < 0:
                        return n.NO
                if nparams + nresults > n.MANY:
                    state[n.WORK] += nparams + nresults
                ctrl[c + n.UNREACHABLE] = unreachable
                depth += 1
                c += n.CTRL
                height = sp
                unreachable = 0
                b = n.NO
                ctrl[c + n.NUMBER] = n.NO
                if live:
                    ctrl[c + n.NUMBER] = nblocks
                    fix = n.NTYPES + nblocks
                    b = n.BLOCK * nblocks
                    nblocks += 1
                    blocks[b + n.KIND] = op
                    blocks[b + n.TYPE] = state[n.BLOCK_TYPE]
                    blocks[b + n.BEGIN] = nops
                    blocks[b + n.ELSE] = -1
                    blocks[b + n.TARGETED] = 0
                    blocks[b + n.HAS_CALL] = 0
                    if op == n.OP_TRY_TABLE:
                        blocks[b + n.HAS_CALL] = 1
                    blocks[b + n.HAS_LOOP] = 0
                    blocks[b + n.BASE] = height
                    blocks[b + n.DEPTH] = depth
                ctrl[c + n.KIND] = op
                ctrl[c + n.PARAMS] = first
                ctrl[c + n.NPARAMS] = nparams
                ctrl[c + n.RESULTS] = first + nparams
                ctrl[c + n.NRESULTS] = nresults
                ctrl[c + n.HEIGHT] = height
                ctrl[c + n.LIVE] = 0
                ctrl[c + n.ELSED] = 0
                ctrl[c + n.CAUGHT_ALL] = 0
                sp = push_list(stack, sp, sigtypes, first, nparams)
                if op == n.OP_LOOP:
                    new = 2
                elif op == n.OP_IF:
                    new = 1
            elif op in (n.OP_ELSE, n.OP_CATCH, n.OP_CATCH_ALL):
                if op == n.OP_ELSE:
                    if ctrl[c + n.KIND] != n.OP_IF or ctrl[c + n.ELSED]:
                        return n.NO
                elif ctrl[c + n.KIND] != n.OP_TRY or ctrl[c + n.CAUGHT_ALL]:
                    return n.NO
                else:
                    state[n.WORK] += n.CATCH_WORK
                sp = pop_list(stack, sp, height, unreachable, sigtypes, ctrl[c + n.RESULTS], ctrl[c + n.NRESULTS])
                if sp != height:
                    return n.NO
                state[n.WORK] += ctrl[c + n.NRESULTS]
                if live:
                    ctrl[c + n.LIVE] = 1
                ctrl[c + n.ELSED] = 1
                live = 0
                if b >= 0:
                    live = 1
                recorded = live
                unreachable = 0
                new = 1
                first = ctrl[c + n.PARAMS]
                count = ctrl[c + n.NPARAMS]
                tag = n.NO_TAG
                if op == n.OP_CATCH:
                    p = number(buf, p, state, 32, 0)
                    if p < 0:
                        return n.NO
                    none = 0
                    imm = state[n.VALUE]
                    tag = imm
                    first = sigs[3 * tags[imm]]
                    count = sigs[3 * tags[imm] + 1]
                elif op == n.OP_CATCH_ALL:
                    ctrl[c + n.CAUGHT_ALL] = 1
                    count = 0
                if b >= 0:
                    if op != n.OP_CATCH:
                        blocks[b + n.ELSE] = nops
                    if op != n.OP_ELSE:
                        clause = n.AT_OPERATOR + n.CATCH_TAG
                        if op == n.OP_CATCH_ALL:
                            clause = n.AT_OPERATOR + n.CATCH_ALL
                        enter_catch(state, catches, ctrl[c + n.NUMBER], clause, tag, nops)
                        blocks[b + n.HAS_CALL] = 1
                sp = push_list(stack, sp, sigtypes, first, count)
                state[n.WORK] += count
            elif op in (n.OP_BR, n.OP_BR_IF):
                p = number(buf, p, state, 32, 0)
                if p < 0 or state[n.VALUE] > depth:
                    return n.NO
                t = n.CTRL * (depth - state[n.VALUE])
                if op == n.OP_BR_IF:
                    sp = pop(stack, sp, height, unreachable, n.I32)
                    if sp < 0:
                        return n.NO
                    new = 1
                else:
                    dead = 1
                first = label_types(ctrl, t)
                count = label_arity(ctrl, t)
                if count > 0:
                    sp = pop_list(stack, sp, height, unreachable, sigtypes, first, count)
                    if sp < 0:
                        return n.NO
                    sp = push_list(stack, sp, sigtypes, first, count)
                    if count > n.MANY:
                        state[n.WORK] += count
                if live:
                    fix = target(ctrl, blocks, t)
            elif op in (n.OP_CALL, n.OP_CALL_INDIRECT, n.OP_RETURN_CALL, n.OP_RETURN_CALL_INDIRECT):
                p = number(buf, p, state, 32, 0)
                if p < 0:
                    return n.NO
                none = 0
                imm = state[n.VALUE]
                if op in (n.OP_CALL, n.OP_RETURN_CALL):
                    sig = 3 * funcs[imm]
                else:
                    sig = 3 * imm
                    p = number(buf, p, state, 32, 0)
                    if p < 0:
                        return n.NO
                    if tables[state[n.VALUE]] == 0:
                        return n.NO
                    sp = pop(stack, sp, height, unreachable, tables[state[n.VALUE]])
                    if sp < 0:
                        return n.NO
                    imm |= state[n.VALUE] << 32
                    if live:
                        pairs[npairs] = nops
                        npairs += 1
                first = sigs[sig]
                count = sigs[sig + 1]
                nresults = sigs[sig + 2]
                if count > n.MOST_PARAMS:
                    return n.NO
                sp = pop_list(stack, sp, height, unreachable, sigtypes, first, count)
                if sp < 0:
                    return n.NO
                if count + nresults > n.MANY:
                    state[n.WORK] += count + nresults
                if op in (n.OP_CALL, n.OP_CALL_INDIRECT):
                    sp = push_list(stack, sp, sigtypes, first + count, nresults)
                    new = 1
                else:
                    dead = 1
                    if nresults != own_nresults or not same_list(sigtypes, first + count, own_results, nresults):
                        return n.NO
                if b >= 0:
                    blocks[b + n.HAS_CALL] = 1
            elif op == n.OP_RETURN:
                dead = 1
                sp = pop_list(stack, sp, height, unreachable, sigtypes, own_results, own_nresults)
                if sp < 0:
                    return n.NO
                if own_nresults > n.MANY:
                    state[n.WORK] += own_nresults
            elif op == n.OP_UNREACHABLE:
                dead = 1
            elif op == n.OP_THROW:
                dead = 1
                p = number(buf, p, state, 32, 0)
                if p < 0:
                    return n.NO
                none = 0
                imm = state[n.VALUE]
                count = sigs[3 * tags[imm] + 1]
                sp = pop_list(stack, sp, height, unreachable, sigtypes, sigs[3 * tags[imm]], count)
                if sp < 0:
                    return n.NO
                state[n.WORK] += count
            elif op == n.OP_THROW_REF:
                dead = 1
                if sp > height:
                    sp -= 1
                    if stack[sp] == 0 or (stack[sp] != state[n.EXN] and stack[sp] != state[n.EXNREF]):
                        return n.NO
                elif not unreachable:
                    return n.NO
            elif op == n.OP_RETHROW:
                dead = 1
                p = number(buf, p, state, 32, 0)
                if p < 0 or state[n.VALUE] > depth:
                    return n.NO
                t = n.CTRL * (depth - state[n.VALUE])
                if ctrl[t + n.KIND] != n.OP_TRY or not ctrl[t + n.ELSED]:
                    return n.NO
                if live:
                    fix = n.NTYPES + ctrl[t + n.NUMBER]
            elif op == n.OP_BR_TABLE:
                dead = 1
                sp = pop(stack, sp, height, unreachable, n.I32)
                if sp < 0:
                    return n.NO
                first = state[n.NLABELS]
                p = read_targets(
                    state, buf, p, depth, live, stack, sp, height, unreachable, sigtypes, ctrl, blocks, labels
                )
                if p < 0:
                    return n.NO
                if live:
                    tabled[3 * ntables] = nops
                    tabled[3 * ntables + 1] = first
                    tabled[3 * ntables + 2] = state[n.NLABELS] - first
                    ntables += 1
            elif op != n.OP_NOP:
                return n.NO
        elif kind == n.I64_CONST:
            p = number(buf, p, state, 64, 1)
            if p < 0:
                return n.NO
            imm = state[n.VALUE]
            sp = push(stack, sp, results[op])
        elif kind in (n.GLOBAL_GET, n.GLOBAL_SET):
            p = number(buf, p, state, 32, 0)
            if p < 0:
                return n.NO
            imm = state[n.VALUE]
            valtype = globals_[imm]
            if valtype & 255 == 0:
                return n.NO
            if kind == n.GLOBAL_GET:
                stack[sp] = valtype & 255
                sp += 1
            else:
                if valtype >> 8 == 0:
                    return n.NO
                sp = pop(stack, sp, height, unreachable, valtype & 255)
                if sp < 0:
                    return n.NO
        elif kind == n.DROP:
            if sp > height:
                sp -= 1
                fix = stack[sp]
            elif not unreachable:
                return n.NO
        elif kind == n.SELECT:
            valtype = 0
            if op == n.OP_SELECT_T:
                valtype = valtypes[buf[p + 1]]
                if buf[p] != 1 or valtype == 0:
                    return n.NO
                p += 2
            sp = pop(stack, sp, height, unreachable, n.I32)
            if sp < 0:
                return n.NO
            if valtype == 0:
                # References need a type; that of operands that are not there is for others.
                if sp - 2 < height:
                    return n.NO
                valtype = stack[sp - 1]
                if valtype > details[op]:
                    return n.NO
            sp = pop(stack, sp, height, unreachable, valtype << 8 | valtype)
            if sp < 0:
                return n.NO
            stack[sp] = valtype
            sp += 1
            fix = valtype
        elif kind == n.FLOAT_CONST:
            imm = buf[p] | buf[p + 1] << 8 | buf[p + 2] << 16 | buf[p + 3] << 24
            p += 4
            if details[op] == 8:
                imm |= buf[p] << 32 | buf[p + 1] << 40 | buf[p + 2] << 48 | buf[p + 3] << 56
                p += 4
            sp = push(stack, sp, results[op])
        elif kind in (n.BYTES, n.BULK):
            # As many bytes, each below the second number; a flag or a long number among them is for others.
            count = details[op] & 31
            bound = 1 << (details[op] >> 5)
            if kind == n.BULK:
                bound = 1
                count = details[op] & 3
            p = read_bytes(state, buf, p, count, bound)
            if p < 0:
                return n.NO
            imm = state[n.VALUE]
            sp = pop(stack, sp, height, unreachable, params[op])
            if sp < 0:
                return n.NO
            sp = push(stack, sp, results[op])
            if kind == n.BULK and live:
                imm = 0
                if op != n.OP_MEMORY_GROW:
                    again[nagain] = nops
                    nagain += 1
                shift = details[op] >> 2
                large = 1
                if nops > 0 and ops[nops - 1] in (n.OP_I32_CONST, n.OP_I64_CONST) and imms[nops - 1] >> shift == 0:
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
                    check = total + n.CHECK_EVERY
        elif kind == n.LANES:
            # v128.const and i8x16.shuffle: 16 bytes each below a power of two.
            p = read_bytes(state, buf, p, 16, 1 << details[op])
            if p < 0:
                return n.NO
            sp = pop(stack, sp, height, unreachable, params[op])
            if sp < 0:
                return n.NO
            sp = push(stack, sp, results[op])
            if live:
                again[nagain] = nops
                nagain += 1
        else:
            return n.NO
        if recorded:
            total += costs[op]
            ops[nops] = op
            imms[nops] = imm
            offsets[nops] = pos
            if none:
                nones[nnones] = nops
                nnones += 1
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
                    check = total + n.CHECK_EVERY
        if dead:
            sp = height
            unreachable = 1
        if state[n.WORK] > n.MOST_WORK:
            return n.NO
    if depth >= 0 or p != end:
        return n.NO
    cost_at[ncosts] = segment
    cost_units[ncosts] = total - before
    state[n.NOPS] = nops
    state[n.NCOSTS] = ncosts + 1
    state[n.NCHECKS] = nchecks
    state[n.NNONES] = nnones
    state[n.NFIXES] = nfixes
    state[n.NAGAIN] = nagain
    state[n.NPAIRS] = npairs
    state[n.NBLOCKS] = nblocks
    state[n.NTABLES] = ntables
    state[n.MAX_HEIGHT] = max_height
    return n.YES
