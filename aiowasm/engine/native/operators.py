"""How the compiler treats operators that are not hot: control, calls, references, and what leaves for a rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aiowasm.engine.native import treatment as c
from aiowasm.engine.native.compiler import OTHERS, Compiler, Label, letter, vector_constant
from aiowasm.engine.native.encoding.operands import signed
from aiowasm.engine.native.layout import Caught
from aiowasm.engine.native.loops import begin_loop
from aiowasm.engine.native.stencils import C32, C64, CF, KEPT, F, R, V, slot
from aiowasm.engine.native.values import is_function_type, slots_of
from aiowasm.engine.operators import EVALUATE
from aiowasm.engine.storage import WIDTHS
from aiowasm.errors import InvalidError
from aiowasm.syntax.instructions import BY_CODE, BY_NAME
from aiowasm.syntax.types import AbsHeapType, AddressType, FuncType, NumType, RefType
from aiowasm.validation.record import Block

__all__ = ()

_Handler = Callable[[Compiler, int, Any, int], None]
_VECTOR: Final = NumType.V128


def _handles(kind: int) -> Callable[[_Handler], _Handler]:
    def register(handler: _Handler) -> _Handler:
        OTHERS[kind] = handler
        return handler

    return register


# Blocks and branches


@_handles(c.BLOCK)
def _block(self: Compiler, _op: int, block: Block, _index: int) -> None:
    if self.stack and block.targeted:
        self.flush(0)
    self.open(block)


@_handles(c.TRY_TABLE)
def _try_table(self: Compiler, _op: int, block: Block, _index: int) -> None:
    self.flush(0)
    self.open(block)


@_handles(c.LOOP)
def _loop(self: Compiler, _op: int, block: Block, index: int) -> None:
    self.flush(0)
    label = self.open(block)
    label.head = begin_loop(self, block, self.record.cost[index])
    self.land(block, label.head, self.nlocals + label.base)


@_handles(c.ELSE)
def _else(self: Compiler, _op: int, _immediate: Any, _index: int) -> None:
    self.otherwise()


@_handles(c.CATCH)
def _catch(self: Compiler, op: int, tagidx: int | None, index: int) -> None:
    """The next arm of a legacy try."""
    label = self.labels[-1]
    if not self.dead:
        self.flush(label.base)
        self.jump(label)
        label.live = True
    self.dead = False
    self.land(index, len(self.out), self.nlocals + label.base)
    del self.stack[label.base :]
    if tagidx is not None:
        comptype = self.validated.tags[tagidx].comptype
        self.push_slots(slots_of(comptype.params if isinstance(comptype, FuncType) else ()))


@_handles(c.IF)
def _if(self: Compiler, _op: int, block: Block, _index: int) -> None:
    entry = self.stack.pop()
    if self.stack:
        self.flush(0)
    label = self.open(block)
    label.otherwise = self.open_branch(*_condition(self, entry, ".f"))


def _condition(self: Compiler, entry: int, sense: str) -> tuple[bytes, tuple[int, ...]]:
    """A branch on a popped i32."""
    if entry >= C32:
        self.spill(R)
    found: tuple[bytes, tuple[int, ...]] = self.stencils.truth[entry, sense]
    return found


@_handles(c.BR_IF)
def _br_if(self: Compiler, _op: int, block: Block, _index: int) -> None:
    entry, label = self.stack.pop(), self.labels[block.depth]
    if label.arity:
        _branch_if(self, entry, label, "br")
    else:
        self.branch_to(label, _condition(self, entry, ".t"))


def _branch_if(self: Compiler, entry: int, label: Label, name: str) -> None:
    """Branch to *label* if the popped *entry* is not zero (`br`: an i32; `br64`: a reference)."""
    if label.arity:
        # The values go to where the label wants them on the taken path only, unless they are there already.
        base = len(self.stack) - label.arity
        if self.nlocals + base == self.destination(label):
            self.flush(base)
        else:
            if entry not in (R,) and name == "br64":
                self.to_r(entry)
                entry = R
            skip = self.open_branch(*_test(self, entry, name, ".f"))
            # Moves may settle operands, on the taken path only.
            saved = self.stack.copy()
            self.move(label)
            self.stack[:] = saved
            self.jump(label)
            self.fix(skip, len(self.out))
            return
    self.branch_to(label, _test(self, entry, name, ".t"))


def _test(self: Compiler, entry: int, name: str, sense: str) -> tuple[bytes, tuple[int, ...]]:
    if name == "br":
        return _condition(self, entry, sense)
    before = b""
    if entry != R:
        self.spill(R)
        before = self.stencils.integer(entry)
    code, targets = self.stencils.patch("br64R" + sense, False, {})
    return before + code, tuple(target + len(before) for target in targets)


@_handles(c.BR)
def _br(self: Compiler, _op: int, block: Block, _index: int) -> None:
    label = self.labels[block.depth]
    if label.arity:
        self.move(label)
    self.branch_to(label, self.stencils.encoding.jump)
    self.dead = True


@_handles(c.RETURN)
def _return(self: Compiler, _op: int, _immediate: Any, _index: int) -> None:
    self.move(self.labels[0])
    self.out += self.stencils.fragment["ret", "HA", self.slots]
    self.dead = True


@_handles(c.UNREACHABLE)
def _unreachable(self: Compiler, _op: int, _immediate: Any, _index: int) -> None:
    self.out += self.stencils.raw("unreachable")
    self.dead = True


@_handles(c.BR_TABLE)
def _br_table(self: Compiler, _op: int, blocks: tuple[Block, ...], _index: int) -> None:
    entry = self.stack.pop()
    self.to_r(entry)
    labels = [self.labels[block.depth] for block in blocks]
    arity = labels[-1].arity
    if arity:
        self.flush(len(self.stack) - arity)
    self.out += self.stencils.fragment["br_table", "WA", len(labels) - 1]
    table = len(self.out)
    self.out += bytes(4 * len(labels))
    base = len(self.stack) - arity
    trampolines: dict[int, int] = {}
    for number, label in enumerate(labels):
        at = table + 4 * number
        if arity and self.nlocals + base != self.destination(label):
            place = trampolines.get(id(label))
            if place is None:
                place = trampolines[id(label)] = len(self.out)
                self.move_down(base, self.destination(label), arity)
                self.jump(label)
            self.table_entry(at, table, place)
        elif label.head >= 0:
            self.table_entry(at, table, label.head)
        else:
            label.entries.append((at, table))
    self.dead = True


# Calls


def _functype(self: Compiler, op: int, immediate: Any) -> FuncType:
    validated = self.validated
    if BY_CODE[op].name.endswith("call"):  # type: ignore[union-attr]
        comptype = validated.funcs[immediate].comptype
    else:
        comptype = validated.deftypes[immediate[0] if isinstance(immediate, tuple) else immediate].comptype
    if not isinstance(comptype, FuncType):
        raise InvalidError("type mismatch")
    return comptype


def _index_to_r(self: Compiler, tableidx: int) -> int:
    """Bring the popped index into a table into R, all 64 bits of it; returns where it stood."""
    entry = self.stack.pop()
    if self.validated.tables[tableidx].addrtype is AddressType.I32 and entry >= C32:
        self.spill(R)
        self.out += self.stencils.integer(entry)
    else:
        self.to_r(entry)
        if self.validated.tables[tableidx].addrtype is AddressType.I32:
            self.out += self.stencils.raw("zextR")
    return len(self.stack)


def _arguments(self: Compiler, functype: FuncType) -> int:
    """Make the arguments canonical and everything else safe; returns the displacement of the callee's frame."""
    base = len(self.stack) - slots_of(functype.params)
    self.flush(base)
    return 8 * (self.nlocals + base)


def _results(self: Compiler, functype: FuncType) -> None:
    del self.stack[len(self.stack) - slots_of(functype.params) :]
    self.push_slots(slots_of(functype.results))


@_handles(c.CALL)
def _call(self: Compiler, op: int, funcidx: int, _index: int) -> None:
    arity = self.layout.arities.get(funcidx)
    if arity is None:
        functype = _functype(self, op, funcidx)
        arity = self.layout.arities[funcidx] = slots_of(functype.params), slots_of(functype.results)
    params, results = arity
    stack = self.stack
    base = len(stack) - params
    if stack:
        self.flush(base)
    frame, imported = 8 * (self.nlocals + base), self.validated.nimported_funcs
    if funcidx < imported:
        self.out += self.stencils.fragment["call_import", "HA", frame, "HB", self.layout.imports + 8 * funcidx]
    else:
        self.out += self.stencils.call[frame, 8 * (funcidx - imported)]
    del stack[base:]
    if results == 1:
        stack.append(self.nlocals + base)
    elif results:
        self.push_slots(results)


def _table_holes(self: Compiler, immediate: tuple[int, int], at: int) -> tuple[Any, ...]:
    typeidx, tableidx = immediate
    return (
        *("HB", self.layout.tables + 8 * tableidx, "HC", self.layout.types + 8 * typeidx),
        *("KD", slot(self.nlocals + at), "WA", self.site("*type", at, typeidx)),
    )


@_handles(c.INDIRECT)
def _call_indirect(self: Compiler, op: int, immediate: tuple[int, int], _index: int) -> None:
    functype = _functype(self, op, immediate)
    at = _index_to_r(self, immediate[1])
    frame = _arguments(self, functype)
    self.out += self.stencils.fragment["call_table", "HA", frame, *_table_holes(self, immediate, at)]
    _results(self, functype)


@_handles(c.CALL_REF)
def _call_ref(self: Compiler, op: int, typeidx: int, _index: int) -> None:
    functype = _functype(self, op, typeidx)
    self.to_r(self.stack.pop())
    frame = _arguments(self, functype)
    self.out += self.stencils.fragment["call_reg", "HA", frame]
    _results(self, functype)


def _tail(self: Compiler, functype: FuncType, name: str, *values: int | str) -> None:
    """Move the arguments down to where ours were, and go."""
    count = slots_of(functype.params)
    self.move_down(len(self.stack) - count, 0, count)
    self.out += self.stencils.fragment[name, "HA", self.slots, *values]
    self.dead = True


@_handles(c.TAIL)
def _return_call(self: Compiler, op: int, funcidx: int, _index: int) -> None:
    functype = _functype(self, op, funcidx)
    _arguments(self, functype)
    imported = self.validated.nimported_funcs
    if funcidx < imported:
        self.out += self.stencils.fragment["descriptor_import", "HB", self.layout.imports + 8 * funcidx]
        _tail(self, functype, "tail_through")
    else:
        _tail(self, functype, "tail", "HB", 8 * (funcidx - imported))


@_handles(c.TAIL_INDIRECT)
def _return_call_indirect(self: Compiler, op: int, immediate: tuple[int, int], _index: int) -> None:
    functype = _functype(self, op, immediate)
    at = _index_to_r(self, immediate[1])
    _arguments(self, functype)
    self.out += self.stencils.fragment["descriptor_table", *_table_holes(self, immediate, at)]
    _tail(self, functype, "tail_through")


@_handles(c.TAIL_REF)
def _return_call_ref(self: Compiler, op: int, typeidx: int, _index: int) -> None:
    functype = _functype(self, op, typeidx)
    self.to_r(self.stack.pop())
    _arguments(self, functype)
    self.out += self.stencils.raw("descriptor_check")
    _tail(self, functype, "tail_through")


# Parametric and variable instructions


@_handles(c.DROP)
def _drop(self: Compiler, _op: int, valtype: Any, _index: int) -> None:
    self.stack.pop()
    if valtype is _VECTOR:
        self.stack.pop()


@_handles(c.SELECT)
def _select(self: Compiler, _op: int, valtype: Any, _index: int) -> None:
    stack, nlocals = self.stack, self.nlocals
    condition = stack.pop()
    places = []
    width = 2 if valtype is _VECTOR else 1
    for depth in (2, 1):
        at = len(stack) - depth * width
        entry = stack[at]
        if entry < 0 or entry >= C32 or (width == 2 and stack[at + 1] != entry + 1):
            for place in range(at, at + width):
                if place == at or entry != V:
                    self.out += self.stencils.store[stack[place], nlocals + place]
            entry = nlocals + at
        places.append(entry)
    del stack[len(stack) - 2 * width :]
    if condition != R:
        self.spill(R)
        self.out += self.stencils.integer(condition)
    if width == 2:
        self.spill(F)
        self.out += self.stencils.fragment["selectV", "HA", slot(places[0]), "HB", slot(places[1])]
        self.push_vector()
        return
    self.out += self.stencils.patch("selectR", True, {"HA": slot(places[0]), "HB": slot(places[1])})[0]
    stack.append(R)
    if valtype in (NumType.F32, NumType.F64):
        stack.pop()
        self.spill(F)
        self.out += self.stencils.raw("R2F")
        stack.append(F)


@_handles(c.GLOBAL_GET)
def _global_get(self: Compiler, op: int, globalidx: int, _index: int) -> None:
    valtype = self.validated.globals[globalidx].valtype
    if isinstance(valtype, RefType) and not is_function_type(valtype):
        _leave(self, "global.get", (), (valtype,), globalidx)
        return
    register, name = (R, "") if isinstance(valtype, RefType) else _GLOBAL[valtype]
    self.spill(register)
    self.out += self.stencils.fragment["gget" + name, "HA", self.layout.globals + 8 * globalidx]
    if register == V:
        self.push_vector()
    else:
        self.stack.append(register)


_GLOBAL: Final[dict[Any, tuple[int, str]]] = {
    NumType.I32: (R, ""),
    NumType.I64: (R, ""),
    NumType.F32: (F, "F"),
    NumType.F64: (F, "F"),
    NumType.V128: (V, "V"),
}


@_handles(c.GLOBAL_SET)
def _global_set(self: Compiler, _op: int, globalidx: int, _index: int) -> None:
    valtype = self.validated.globals[globalidx].valtype
    if isinstance(valtype, RefType):
        _leave(self, "global.set", (valtype,), (), globalidx)
        return
    place = self.layout.globals + 8 * globalidx
    if valtype is _VECTOR:
        entry = self.pop_vector()
        if entry != V:
            self.spill(F)
            self.out += self.stencils.fragment["ldV", "HA", slot(entry)]
        self.out += self.stencils.fragment["gsetV", "HA", place]
        return
    entry = self.stack.pop()
    if entry == F:
        self.out += self.stencils.fragment["gsetF", "HA", place]
        return
    if entry >= CF:
        entry = C64 + (entry - CF)
    self.to_r(entry)
    self.out += self.stencils.fragment["gset", "HA", place]


@_handles(c.CONSTV)
def _v128_const(self: Compiler, _op: int, value: bytes, _index: int) -> None:
    self.stack.extend(vector_constant(value))


@_handles(c.VECTOR)
def _vector(self: Compiler, op: int, immediate: Any, index: int) -> None:
    row = BY_CODE[op]
    if row is None or row.type is None:
        raise InvalidError("illegal opcode")
    params, results = row.type
    name = f"{op:x}.{immediate}" if row.immediates else f"{op:x}"
    if self.kept and (found := _in_registers(self, name, params)) is not None:
        _compute(self, name, found, results[0], op, self.absorbs(index))
        return
    entries: list[int] = []
    for word in reversed(params):
        if word == "v128":
            entries.insert(0, self.pop_vector())
        else:
            entry = self.stack.pop()
            entries.insert(0, self.float_operand(entry, len(self.stack)) if entry >= CF else entry)
    if entries.count(V) > 0 and len(entries) == 3:
        # Of three vectors the last alone may be in the register.
        for number in range(2):
            if entries[number] == V:
                place = self.nlocals + len(self.stack) + 2 * number
                self.out += self.stencils.store[V, place]
                entries[number] = place
    _compute(self, name, tuple(entries), results[0], op, self.absorbs(index))


def _in_registers(self: Compiler, name: str, params: tuple[str, ...]) -> tuple[int, ...] | None:
    """Pop the operands if the loop keeps some in registers where the stencil takes them; else pop nothing."""
    stack, kept = self.stack, self.kept
    entries: list[int] = []
    at = len(stack)
    if len(params) > 2:
        return None
    for word in reversed(params):
        at -= 2 if word == "v128" else 1
        entry = stack[at]
        if word != "v128" or entry == V:
            entry = kept.get(entry, entry)
        elif entry >= CF:
            entry = kept.get((entry, stack[at + 1]), entry)
        elif stack[at + 1] == entry + 1:
            entry = kept.get(entry, entry)
        else:
            return None
        if entry >= CF:
            return None
        entries.insert(0, entry)
    if min(entries) > KEPT + 64 or not self.stencils.takes_kept[name, ("",), *map(letter, entries)]:
        return None
    del stack[at:]
    return tuple(entries)


def _compute(
    self: Compiler, name: str, entries: tuple[int, ...], result: str, op: int = 0, absorbed: bool = False
) -> None:
    """A stencil on popped operands; pushes the result."""
    if result in ("i32", "i64") or all(entry >= C32 for entry in entries):
        self.spill(R)
    if result in ("f32", "f64", "v128"):
        self.spill(F)
    made, nans = (self.stencils.unchecked if absorbed else self.stencils.vector)[name, *entries]
    if nans:
        self.nans.append((len(self.out) + nans[0], op))
    self.out += made
    if result == "v128":
        self.push_vector()
    else:
        self.stack.append(R if result in ("i32", "i64") else F)


def _vector_in_slots(self: Compiler) -> int:
    """Pop a v128; its first slot."""
    entry = self.pop_vector()
    if entry == V:
        entry = self.nlocals + len(self.stack)
        self.out += self.stencils.store[V, entry]
    return entry


@_handles(c.SHUFFLE)
def _shuffle(self: Compiler, _op: int, lanes: tuple[int, ...], _index: int) -> None:
    second = _vector_in_slots(self)
    first = _vector_in_slots(self)
    self.spill(F)
    # pshufb gives zero where the top bit of an index is set.
    left = int.from_bytes(bytes(lane if lane < 16 else 0x80 for lane in lanes), "little")
    right = int.from_bytes(bytes(lane - 16 if lane >= 16 else 0x80 for lane in lanes), "little")
    halves = [signed(value >> shift & (1 << 64) - 1, 64) for value in (left, right) for shift in (0, 64)]
    masks = [part for pair in zip(("HQ", "HQ2", "HQ3", "HQ4"), halves, strict=True) for part in pair]
    self.out += self.stencils.fragment["shuffle", "HA", slot(first), "HB", slot(second), *masks]
    self.push_vector()


_LANE_ACCESS: Final = {
    1: ("i32.load8_u", "i32.store8", "i8x16.replace_lane", "i8x16.extract_lane_u"),
    2: ("i32.load16_u", "i32.store16", "i16x8.replace_lane", "i16x8.extract_lane_u"),
    4: ("i32.load", "i32.store", "i32x4.replace_lane", "i32x4.extract_lane"),
    8: ("i64.load", "i64.store", "i64x2.replace_lane", "i64x2.extract_lane"),
}
"""Loads and stores of a lane are those of a number, and a move between it and the lane."""


@_handles(c.LOAD_LANE)
def _load_lane(self: Compiler, op: int, immediate: Any, index: int) -> None:
    memarg, lane = immediate
    load, _, replace, _ = _LANE_ACCESS[WIDTHS[op]]
    vector = self.pop_vector()
    self.load(BY_NAME[load].code, memarg, index)
    value = self.stack.pop()
    _compute(self, f"{BY_NAME[replace].code:x}.{lane}", (vector, value), "v128")


@_handles(c.STORE_LANE)
def _store_lane(self: Compiler, op: int, immediate: Any, index: int) -> None:
    memarg, lane = immediate
    _, store, _, extract = _LANE_ACCESS[WIDTHS[op]]
    vector = self.pop_vector()
    self.spill(R)  # the address too
    result = "i64" if WIDTHS[op] == 8 else "i32"
    _compute(self, f"{BY_NAME[extract].code:x}.{lane}", (vector,), result)
    self.store(BY_NAME[store].code, memarg, index)


# References, sizes


@_handles(c.REF_NULL)
def _ref_null(self: Compiler, _op: int, _immediate: Any, _index: int) -> None:
    self.stack.append(C64)


@_handles(c.REF_IS_NULL)
def _ref_is_null(self: Compiler, _op: int, _immediate: Any, _index: int) -> None:
    self.to_r(self.stack.pop())
    self.out += self.stencils.raw("isnullR")
    self.stack.append(R)


@_handles(c.NON_NULL)
def _ref_as_non_null(self: Compiler, _op: int, _immediate: Any, _index: int) -> None:
    self.to_r(self.stack.pop())
    self.out += self.stencils.raw("nonnullR")
    self.stack.append(R)


@_handles(c.BR_ON_NON_NULL)
def _br_on_non_null(self: Compiler, _op: int, block: Block, _index: int) -> None:
    # The reference is carried along, so it is looked at in its slot.
    self.flush(0)
    label = self.labels[block.depth]
    place = self.nlocals + len(self.stack) - 1
    _branch_if(self, place, label, "br64")
    self.stack.pop()


@_handles(c.BR_ON_NULL)
def _br_on_null(self: Compiler, _op: int, block: Block, _index: int) -> None:
    self.flush(0)
    label = self.labels[block.depth]
    place = self.stack.pop()
    self.to_r(place)
    skip = self.open_branch(*self.stencils.patch("br64R.t", False, {}))
    self.move(label)
    self.jump(label)
    self.fix(skip, len(self.out))
    self.stack.append(place)


@_handles(c.MEMORY_SIZE)
def _memory_size(self: Compiler, _op: int, memidx: int, _index: int) -> None:
    self.spill(R)
    log2 = self.validated.mems[memidx].page_size_log2
    if memidx:
        self.out += self.stencils.fragment["size", "HA", self.layout.mems + 8 * memidx, "WA", log2]
    else:
        self.out += self.stencils.fragment["size0", "WA", log2]
    self.stack.append(R)


@_handles(c.TABLE_SIZE)
def _table_size(self: Compiler, _op: int, tableidx: int, _index: int) -> None:
    self.spill(R)
    self.out += self.stencils.fragment["table_size", "HA", self.layout.tables + 8 * tableidx]
    self.stack.append(R)


# What leaves for Python


def _leave(
    self: Compiler, name: str, params: tuple[Any, ...], results: tuple[Any, ...], immediate: Any, row: Any = None
) -> None:
    base = len(self.stack) - slots_of(params)
    self.flush(base)
    self.leave(name, base, immediate, row)
    del self.stack[base:]
    self.push_slots(slots_of(results))


@_handles(c.RULE)
def _rule(self: Compiler, op: int, immediate: Any, _index: int) -> None:
    row = BY_CODE[op]
    if row is None:
        raise InvalidError("illegal opcode")
    params, results = ((), ()) if row.name in c.LEAVING else _types(self, row, immediate)
    if row.name.startswith(("ref.test", "ref.cast")):
        name = "*test" if row.name.startswith("ref.test") else "*cast"
        reftype = _top(immediate)
        _leave(self, name, (reftype,), (NumType.I32,) if name == "*test" else (reftype,), immediate, (
            (reftype,), (NumType.I32,),
        ))  # fmt: skip
    elif row.name.startswith("memory.atomic."):
        name = row.name if row.name == "memory.atomic.notify" else "*wait"
        _leave(self, name, params, results, immediate, (op, params, results))
    elif row.name in _FAST_BULK and immediate in (0, (0, 0)) and params == (NumType.I32,) * 3:
        base = len(self.stack) - 3
        self.flush(base)
        site = self.site(row.name, base, immediate, (params, results))
        self.out += self.stencils.fragment[_FAST_BULK[row.name], "HA", slot(self.nlocals + base), "WA", site]
        del self.stack[base:]
    elif op in EVALUATE:
        lanes = immediate if row.immediates else None
        _leave(self, "*evaluate", params, results, lanes, (EVALUATE[op], params, results))
    elif op in WIDTHS:
        _leave(self, "*access", params, results, immediate, (op, params, results))
    else:
        _leave(self, row.name, params, results, immediate, (params, results))


_FAST_BULK: Final = {"memory.copy": "bulk_copy", "memory.fill": "bulk_fill"}
"""What the runtime does itself on memory 0 with 32-bit addresses, where nothing is out of the ordinary."""


def _top(reftype: RefType) -> RefType:
    """A type of the hierarchy of *reftype*: what decides how its references look in slots."""
    return RefType(True, AbsHeapType.FUNC if is_function_type(reftype) else AbsHeapType.ANY)


@_handles(c.BR_ON_CAST)
def _br_on_cast(self: Compiler, op: int, immediate: tuple[Block, RefType, RefType], _index: int) -> None:
    block, _, reftype = immediate
    self.flush(0)
    label = self.labels[block.depth]
    at = len(self.stack) - 1
    # The rule looks at a copy one slot higher, and leaves what it found there.
    self.out += self.stencils.store[self.nlocals + at, self.nlocals + at + 1]
    self.leave("*test", at + 1, reftype, ((_top(reftype),), (NumType.I32,)))
    row = BY_CODE[op]
    sense = row is not None and row.name == "br_on_cast"
    skip = self.open_branch(
        *self.stencils.patch("brS.f" if sense else "brS.t", True, {"HA": slot(self.nlocals + at + 1)})
    )
    self.move(label)
    self.jump(label)
    self.fix(skip, len(self.out))


_WORDS: Final = {
    "arrayref": RefType(True, AbsHeapType.ARRAY),
    "eqref": RefType(True, AbsHeapType.EQ),
    "i31ref": RefType(True, AbsHeapType.I31),
    "i31nonnull": RefType(False, AbsHeapType.I31),
    "i32": NumType.I32,
    "i64": NumType.I64,
    "f32": NumType.F32,
    "f64": NumType.F64,
    "v128": NumType.V128,
}
_I64: Final = NumType.I64


def _at(addrtype: AddressType) -> NumType:
    return NumType.I64 if addrtype is AddressType.I64 else NumType.I32


def _types(self: Compiler, row: Any, immediate: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Operand and result types of an instruction that leaves; references count as one slot whatever their type."""
    validated = self.validated
    mems, tables = validated.mems, validated.tables
    match row.name:
        case "memory.copy":
            to, of = (_at(mems[memidx].addrtype) for memidx in immediate)
            return (to, of, _I64 if to is of is _I64 else NumType.I32), ()
        case "memory.fill":
            at = _at(mems[immediate].addrtype)
            return (at, NumType.I32, at), ()
        case "memory.init":
            return (_at(mems[immediate[1]].addrtype), NumType.I32, NumType.I32), ()
        case "table.copy":
            to, of = (_at(tables[tableidx].addrtype) for tableidx in immediate)
            return (to, of, _I64 if to is of is _I64 else NumType.I32), ()
        case "table.init":
            return (_at(tables[immediate[1]].addrtype), NumType.I32, NumType.I32), ()
        case "table.fill":
            at = _at(tables[immediate].addrtype)
            return (at, tables[immediate].reftype, at), ()
        case "table.grow":
            at = _at(tables[immediate].addrtype)
            return (tables[immediate].reftype, at), (at,)
        case "table.get":
            return (_at(tables[immediate].addrtype),), (tables[immediate].reftype,)
        case "table.set":
            return (_at(tables[immediate].addrtype), tables[immediate].reftype), ()
        case "ref.func":
            return (), (RefType(False, validated.funcs[immediate]),)
        case "data.drop" | "elem.drop":
            return (), ()
    if row.type is not None:
        memidx = 0
        if row.operation is not None and row.immediates[:1] and row.immediates[0].startswith("memarg"):
            place = immediate[0] if len(row.immediates) > 1 else immediate
            memidx = place[0] if isinstance(place, tuple) else 0
        elif row.immediates[:1] == ("mem",):
            memidx = immediate
        words: dict[str, Any] = dict(_WORDS)
        if "at" in (*row.type[0], *row.type[1]):
            words["at"] = _at(validated.mems[memidx].addrtype)
        return tuple(words[word] for word in row.type[0]), tuple(words[word] for word in row.type[1])
    raise InvalidError(f"{row.name} is not supported")


@_handles(c.THROW)
def _throw(self: Compiler, op: int, immediate: Any, _index: int) -> None:
    if BY_CODE[op].name == "throw":  # type: ignore[union-attr]
        comptype = self.validated.tags[immediate].comptype
        params = comptype.params if isinstance(comptype, FuncType) else ()
        row = (params, ())
        if slots_of(params) > Caught.PAYLOAD_SLOTS or any(isinstance(each, RefType) for each in params):
            _leave(self, "throw", params, (), immediate, row)
        else:
            base = len(self.stack) - slots_of(params)
            self.flush(base)
            place, tag = slot(self.nlocals + base), self.layout.tags + 8 * immediate
            site = self.site("throw", base, immediate, row)
            self.out += self.stencils.fragment["throw", "HA", place, "HB", tag, "WA", site]
    elif BY_CODE[op].name == "rethrow":  # type: ignore[union-attr]
        _leave(self, "rethrow", (), (), immediate.start, ((), ()))
    else:
        base = len(self.stack) - 1
        self.flush(base)
        site = self.site("throw_ref", base, None, ((_I64,), ()))
        self.out += self.stencils.fragment["throw_ref", "HA", slot(self.nlocals + base), "WA", site]
    self.dead = True


@_handles(c.UNSUPPORTED)
def _unsupported(_self: Compiler, op: int, _immediate: Any, _index: int) -> None:
    row = BY_CODE[op]
    raise InvalidError(f"{row.name if row else op} is not supported by the native engine")
