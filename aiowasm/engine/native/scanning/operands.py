"""Numbers, operands and lists of types, for the walk: what it does over and over.

In the part of Python that `native.builder.subset` translates, as all of the walk.
"""

from __future__ import annotations

from aiowasm.engine.native.scanning import names as n
from aiowasm.engine.native.scanning.names import Bytes, Longs, Words

__all__ = ("number", "pop", "pop_list", "push", "push_list", "read_bytes", "read_locals", "same_list")


def number(buf: Bytes, p: int, state: Longs, nbits: int, signed: int) -> int:
    """Read a number of *nbits* bits at *p* into `state[n.VALUE]`; return the offset after it, or NO."""
    value = 0
    shift = 0
    byte = 128
    while byte >= 128:
        byte = buf[p]
        p += 1
        if shift + 7 >= nbits:
            left = nbits - shift
            if byte >= 128:
                return n.NO
            if signed:
                # The bits from the sign bit upwards must all be equal.
                rest = byte >> (left - 1)
                if rest != 0 and rest != 127 >> (left - 1):
                    return n.NO
            elif byte >> left != 0:
                return n.NO
        value |= (byte & 127) << shift
        shift += 7
    if signed and byte & 64 and shift < 64:
        value |= -1 << shift
    state[n.VALUE] = value
    return p


def read_bytes(state: Longs, buf: Bytes, p: int, count: int, bound: int) -> int:
    """Read *count* bytes below *bound*, the last into `state[VALUE]`; return the offset after them, or NO."""
    while count > 0:
        count -= 1
        byte = buf[p]
        p += 1
        if byte >= bound:
            return n.NO
        state[n.VALUE] = byte
    return p


def pop(stack: Bytes, sp: int, height: int, unreachable: int, types: int) -> int:
    """Pop operands of packed *types*, the last in the lowest byte; return the new height, or NO."""
    while types != 0:
        if sp > height:
            sp -= 1
            if stack[sp] != types & 255:
                return n.NO
        elif not unreachable:
            return n.NO
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
                return n.NO
        else:
            if not unreachable:
                return n.NO
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


def same_list(sigtypes: Bytes, first: int, other: int, count: int) -> int:
    """Whether *count* types from *first* on are those from *other* on."""
    while count > 0:
        count -= 1
        if sigtypes[first + count] != sigtypes[other + count]:
            return 0
    return 1


def read_locals(
    state: Longs, buf: Bytes, p: int, end: int, sigs: Words, sigtypes: Bytes, valtypes: Bytes, locals_: Bytes
) -> int:
    """Fill in the types of parameters and locals; return the offset of the body, or NO."""
    sig = 3 * state[n.FUNC]
    nlocals = sigs[sig + 1]
    push_list(locals_, 0, sigtypes, sigs[sig], nlocals)
    p = number(buf, p, state, 32, 0)
    if p < 0:
        return n.NO
    nruns = state[n.VALUE]
    while nruns > 0:
        p = number(buf, p, state, 32, 0)
        if p < 0 or p >= end:
            return n.NO
        count = state[n.VALUE]
        valtype = valtypes[buf[p]]
        p += 1
        if valtype == 0:
            return n.NO
        while count > 0:
            locals_[nlocals] = valtype
            nlocals += 1
            count -= 1
        nruns -= 1
    state[n.NLOCALS] = nlocals
    return p
