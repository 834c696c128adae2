"""What follows the opcodes of blocks and branches, for the walk: block types, clauses of catches, labels.

In the part of Python that `native.builder.subset` translates, as all of the walk.
"""

from __future__ import annotations

from aiowasm.engine.native.scanning import names as n
from aiowasm.engine.native.scanning.names import Bytes, Longs, Words
from aiowasm.engine.native.scanning.operands import number, pop_list, same_list

__all__ = ("enter_catch", "label_arity", "label_types", "read_blocktype", "read_catches", "read_targets", "target")


def label_types(ctrl: Longs, c: int) -> int:
    """Where the types start that a branch to the label at *c* carries."""
    if ctrl[c + n.KIND] == n.OP_LOOP:
        return ctrl[c + n.PARAMS]
    return ctrl[c + n.RESULTS]


def label_arity(ctrl: Longs, c: int) -> int:
    """How many they are."""
    if ctrl[c + n.KIND] == n.OP_LOOP:
        return ctrl[c + n.NPARAMS]
    return ctrl[c + n.NRESULTS]


def target(ctrl: Longs, blocks: Longs, c: int) -> int:
    """Note that live code branches to the label at *c*; return what stands for its block in immediates."""
    block = ctrl[c + n.NUMBER]
    blocks[n.BLOCK * block + n.TARGETED] = 1
    return n.NTYPES + block


def enter_catch(state: Longs, catches: Words, block: int, kind: int, tag: int, place: int) -> int:
    """Note a clause of a block; returns nothing of interest."""
    at = state[n.NCATCHES]
    catches[at] = block
    catches[at + 1] = kind
    catches[at + 2] = tag
    catches[at + 3] = place
    state[n.NCATCHES] = at + n.CATCH
    return 0


def read_blocktype(state: Longs, buf: Bytes, p: int, sigs: Words, valtypes: Bytes) -> int:
    """Read a block type into `state`; return the offset after it, or NO."""
    blocktype = buf[p]
    p += 1
    state[n.BLOCK_TYPE] = 0
    state[n.BLOCK_PARAMS] = 0
    state[n.BLOCK_NPARAMS] = 0
    state[n.BLOCK_NRESULTS] = 0
    if blocktype == 0x40:
        return p
    if blocktype & 0xC0 == 0x40:
        blocktype = valtypes[blocktype]
        if blocktype == 0:
            return n.NO
        # A type is a list of itself.
        state[n.BLOCK_TYPE] = blocktype
        state[n.BLOCK_PARAMS] = blocktype
        state[n.BLOCK_NRESULTS] = 1
        return p
    p = number(buf, p - 1, state, 33, 1)
    blocktype = state[n.VALUE]
    if p < 0 or blocktype < 0:
        return n.NO
    nparams = sigs[3 * blocktype + 1]
    nresults = sigs[3 * blocktype + 2]
    if nparams > n.MOST_PARAMS or (not state[n.MULTI_VALUE] and (nparams > 0 or nresults > 1)):
        return n.NO
    state[n.BLOCK_TYPE] = n.NTYPES + blocktype
    state[n.BLOCK_PARAMS] = sigs[3 * blocktype]
    state[n.BLOCK_NPARAMS] = nparams
    state[n.BLOCK_NRESULTS] = nresults
    return p


def read_catches(
    state: Longs,
    buf: Bytes,
    p: int,
    depth: int,
    block: int,
    sigs: Words,
    sigtypes: Bytes,
    tags: Words,
    ctrl: Longs,
    blocks: Longs,
    catches: Words,
) -> int:
    """Read the clauses of a try_table at *depth*, whose number is *block* (NO: it is dead).

    Returns the offset after them, or NO.
    """
    p = number(buf, p, state, 32, 0)
    left = state[n.VALUE]
    if p < 0 or left > n.MOST_CATCHES:
        return n.NO
    while left > 0:
        left -= 1
        kind = buf[p]
        p += 1
        tag = n.NO_TAG
        carried = 0
        count = 0
        if kind < 2:
            p = number(buf, p, state, 32, 0)
            if p < 0:
                return n.NO
            tag = state[n.VALUE]
            carried = sigs[3 * tags[tag]]
            count = sigs[3 * tags[tag] + 1]
        p = number(buf, p, state, 32, 0)
        if p < 0 or p > state[n.END] or kind > 3 or state[n.VALUE] > depth:
            return n.NO
        c = n.CTRL * (depth - state[n.VALUE])
        first = label_types(ctrl, c)
        arity = label_arity(ctrl, c)
        state[n.WORK] += arity
        if arity != count + (kind & 1) or not same_list(sigtypes, first, carried, count):
            return n.NO
        if kind & 1:
            # A reference that is not null, for a label of either type.
            last = sigtypes[first + count]
            if last == 0 or (last != state[n.EXN] and last != state[n.EXNREF]):
                return n.NO
        if block >= 0:
            enter_catch(state, catches, block, kind, tag, target(ctrl, blocks, c) - n.NTYPES)
    return p


def read_targets(
    state: Longs,
    buf: Bytes,
    p: int,
    depth: int,
    live: int,
    stack: Bytes,
    sp: int,
    height: int,
    unreachable: int,
    sigtypes: Bytes,
    ctrl: Longs,
    blocks: Longs,
    labels: Words,
) -> int:
    """Read the labels of a br_table, *live* or not, and note them; return the offset after them, or NO."""
    p = number(buf, p, state, 32, 0)
    if p < 0:
        return n.NO
    left = state[n.VALUE] + 1
    nlabels = state[n.NLABELS]
    arity = -1
    while left > 0:
        left -= 1
        if p >= state[n.END]:
            return n.NO
        p = number(buf, p, state, 32, 0)
        if p < 0 or state[n.VALUE] > depth:
            return n.NO
        c = n.CTRL * (depth - state[n.VALUE])
        count = label_arity(ctrl, c)
        if arity < 0:
            arity = count
        if count != arity:
            return n.NO
        if count > 0:
            state[n.WORK] += count
            if pop_list(stack, sp, height, unreachable, sigtypes, label_types(ctrl, c), count) < 0:
                return n.NO
        if live:
            labels[nlabels] = target(ctrl, blocks, c)
            nlabels += 1
    state[n.NLABELS] = nlabels
    return p
