"""Small programs, one per row of the instruction table: its operator on every kind of operand, with edge values.

An operand is a local, a constant, or what was just computed; what code is made of differs between them. Comparisons are
tried as values and in front of branches, accesses in memories of both address types with offsets of every size. Floats
are tried in a loop too.

    for program in operand_programs(seed=0, ncalls=8): ...

Floats and vectors pass through the exports as bits, as in all programs of `tests.fuzz`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from random import Random

from aiowasm.binary.encoder import encode
from aiowasm.features import ALL, Feature
from aiowasm.syntax.instructions import INSTRUCTIONS, Instruction
from aiowasm.syntax.module import Data, Export
from aiowasm.syntax.types import F32, F64, I32, I64, V128, AddressType, FuncType, Limits, MemType, NumType
from tests.fuzz.emitter import Emitter, ModuleBuilder, constant
from tests.fuzz.generator import Call, Program, flat, flatten, unflatten
from tests.fuzz.values import EDGES, bits_of

__all__ = ("operand_programs",)

_TYPES = {str(t): t for t in NumType}
_LANES = {"i8x16": 16, "i16x8": 8, "i32x4": 4, "i64x2": 2, "f32x4": 4, "f64x2": 2}
_PAGE = 0x1_0000
_SIZES = (_PAGE, 5003)
"""Of both memories, in bytes."""
_OFFSETS = (0, 1, 8, 100, 127, 128, 4096, _PAGE - 16, _PAGE - 1, _PAGE, (1 << 31) - 80, 1 << 31, (1 << 32) - 1)
_WIDE_OFFSETS = (*_OFFSETS, 1 << 32, 1 << 33, (1 << 63) - 1, 1 << 63, (1 << 64) - _PAGE, (1 << 64) - 1)
_COMPUTED = {I32: ("i32.const", 0, "i32.add"), I64: ("i64.const", 0, "i64.add")}
_TWICE = {F32: "f32.neg", F64: "f64.neg", V128: "v128.not"}
_FLOATS = {F32, F64, V128}
_NENDS = {"value": 1, "br_if": 2, "eqz br_if": 2, "if": 2, "eqz if": 2}


class _Operators(Emitter):
    """One function: operands of given kinds, then the operator."""

    def operand(self, valtype: NumType, kind: str, local: int, bits: int) -> None:
        """Push an operand: a Local, a Constant (K: one of 32 bits), or what was just Computed (R)."""
        if kind in "CK":
            self.const(valtype, bits)
            return
        self.op("local.get", local)
        if kind == "R":
            if valtype in _COMPUTED:
                const, zero, add = _COMPUTED[valtype]
                self.op(const, zero)
                self.op(add)
            else:
                self.op(_TWICE[valtype])
                self.op(_TWICE[valtype])

    def keeping_loop(self, result: NumType, locals_: list[int]) -> None:
        """Begin a loop that sets locals and computes with floats: where engines keep values in registers."""
        self.op("loop", result)
        for local in locals_:
            self.op("local.get", local)
            self.op("local.set", local)
        self.op("f64.const", 0)
        self.op("f64.neg")
        self.op("drop")

    def ending(self, how: str) -> None:
        """What becomes of a condition."""
        if how.startswith("eqz"):
            self.op("i32.eqz")
        if how.endswith("br_if"):
            self.op("br_if", 0)
            self.op("i32.const", 1)
            self.op("return")
            self.op("end")
            self.op("i32.const", 2)
        elif how.endswith("if"):
            self.op("if", I32)
            self.op("i32.const", 1)
            self.op("else")
            self.op("i32.const", 2)
            self.op("end")


class _Row:
    """All functions of one row in one module."""

    def __init__(self, row: Instruction, rng: Random, ncalls: int, wide: bool) -> None:
        self.row = row
        self.rng = rng
        self.ncalls = ncalls
        self.module = ModuleBuilder(ALL)
        self.calls: list[Call] = []
        self.accesses = bool(row.immediates) and row.immediates[0].startswith("memarg")
        if row.type is None:
            raise ValueError(row.name)
        self.params, self.results = row.type
        if self.accesses:
            for memidx in range(2):
                self._memory(memidx, wide)

    def _memory(self, memidx: int, wide: bool) -> None:
        module, rng = self.module, self.rng
        # The second memory ends in the middle of a page of the processor: what lies behind it is no guard.
        addrtype, nbytes = AddressType.I64 if wide else AddressType.I32, _SIZES[memidx]
        if memidx:
            module.mems.append(MemType(Limits(nbytes, nbytes), addrtype, page_size_log2=0))
        else:
            module.mems.append(MemType(Limits(1, 1), addrtype))
        module.exports.append(Export(f"mem{memidx}", "memory", memidx))
        for start in (0, nbytes - 256):
            at = constant("i64.const" if wide else "i32.const", start)
            module.datas.append(Data(rng.randbytes(256), (memidx, at)))

    def program(self, seed: int) -> Program:
        """Write all functions and the calls of them."""
        for memidx in range(2 if self.accesses else 1):
            types = tuple(self._type(word, memidx) for word in self.params)
            for kinds in product(*(("LRCK" if t is I64 else "LRC") for t in types)):
                for immediates in self._immediates(memidx):
                    for how in self._hows():
                        self._function(types, kinds, immediates, how)
                        if not self.accesses and not _FLOATS.isdisjoint(types):
                            self._function(types, kinds, immediates, f"loop {how}")
        return Program(seed, encode(self.module.module()), tuple(self.calls))

    def _type(self, word: str, memidx: int) -> NumType:
        if word == "at":
            return I64 if self.module.mems[memidx].addrtype is AddressType.I64 else I32
        return _TYPES[word]

    def _hows(self) -> tuple[str, ...]:
        operation = self.row.operation
        compares = operation is not None and operation.family in ("relop", "testop")
        return tuple(_NENDS) if compares else ("value",)

    def _immediates(self, memidx: int) -> list[tuple[object, ...]]:
        row, rng = self.row, self.rng
        if row.immediates == ("lane",):
            return [(lane,) for lane in range(_LANES[row.name.partition(".")[0]])]
        if row.immediates == ("lanes",):
            return [(bytes(rng.randrange(32) for _ in range(16)),) for _ in range(8)]
        if not self.accesses:
            return [()]
        log2 = int(row.immediates[0].partition(":")[2])
        offsets = _WIDE_OFFSETS if self.module.mems[memidx].addrtype is AddressType.I64 else _OFFSETS
        chosen = {0, *rng.sample(offsets, 1 + self.ncalls // 10)}
        lane = (rng.randrange(16 >> log2),) if "lane" in row.immediates else ()
        return [((log2, memidx, offset), *lane) for offset in sorted(chosen)]

    def _function(
        self, types: tuple[NumType, ...], kinds: tuple[str, ...], immediates: tuple[object, ...], how: str
    ) -> None:
        results = tuple(_TYPES[word] for word in self.results)
        given = tuple(t for t, kind in zip(types, kinds, strict=True) if kind in "LR")
        params = tuple(each for t in given for each in flat(t))
        functype = FuncType(params, tuple(each for t in results for each in flat(t)))
        code = _Operators(self.module, self.rng, functype)
        unflatten(code, given)
        typed = [code.local(t) for t in given]
        for local in reversed(typed):
            code.op("local.set", local)
        looped = how.startswith("loop")
        how = how.removeprefix("loop ")
        if looped:
            code.keeping_loop(results[0], typed)
        if how.endswith("br_if"):
            code.op("block", None)
        left = iter(typed)
        edges = self._edges(types, immediates)
        for valtype, kind, values in zip(types, kinds, edges, strict=True):
            constants = [each for each in values if kind != "K" or each < 1 << 31]
            code.operand(valtype, kind, next(left) if kind in "LR" else -1, self.rng.choice(constants))
        code.op(self.row.name, *immediates)
        code.ending(how)
        if looped:
            code.op("end")
        flatten(code, results)
        code.op("end")
        name = f"{self.row.name} {''.join(kinds)} {how}{' loop' * looped} {len(self.module.codes)}"
        self.module.functypes.append(functype)
        self.module.exports.append(Export(name, "func", len(self.module.codes)))
        self.module.codes.append(code.code())
        self._call(name, functype, given, [v for v, kind in zip(edges, kinds, strict=True) if kind in "LR"])

    def _edges(self, types: tuple[NumType, ...], immediates: tuple[object, ...]) -> list[list[int]]:
        edges = [list(EDGES[t]) or [bits_of(self.rng, t) for _ in range(4 * self.ncalls)] for t in types]
        if self.accesses and isinstance(immediates[0], tuple):
            width = 64 if types[0] is I64 else 32
            _, memidx, offset = immediates[0]
            # Where the access begins, ends and wraps around.
            ends = [each - offset for each in (0, _SIZES[memidx], _PAGE, 1 << 32, 1 << 63, 1 << 64)]
            near = [end + delta for end in ends for delta in (-17, -16, -9, -8, -5, -4, -3, -2, -1, 0, 1)]
            edges[0] = [each & ((1 << width) - 1) for each in (*near, 0, 8, 16, 64, 128, 192)]
        return edges

    def _call(self, name: str, functype: FuncType, given: tuple[NumType, ...], edges: list[list[int]]) -> None:
        tuples = list(product(*edges)) if len(edges) < 3 else []
        chosen = self.rng.sample(tuples, min(self.ncalls, len(tuples)))
        if not tuples:
            chosen = [tuple(map(self.rng.choice, edges)) for _ in range(self.ncalls)]
        params = tuple(t for t in functype.params if isinstance(t, NumType))
        results = tuple(t for t in functype.results if isinstance(t, NumType))
        for values in chosen:
            arguments: list[int] = []
            for valtype, bits in zip(given, values, strict=True):
                arguments += [bits & ((1 << 64) - 1), bits >> 64] if valtype is V128 else [bits]
            self.calls.append(Call(name, params, tuple(arguments), results))


def rows() -> list[Instruction]:
    """The rows whose meaning does not depend on anything but operands and memory."""
    return [
        row
        for row in INSTRUCTIONS
        if row.operation is not None
        and row.type is not None
        and row.feature is not Feature.GC
        and row.operation.family not in ("const", "atomic_wait")
    ]


def operand_programs(seed: int, ncalls: int) -> Iterator[tuple[Instruction, Program]]:
    """Every row with its programs; each function is called with *ncalls* combinations of edge values at most.

    More of them also mean more offsets of accesses.
    """
    for row in rows():
        for wide in (False, True) if row.immediates[:1] and row.immediates[0].startswith("memarg") else (False,):
            yield row, _Row(row, Random(f"{seed} {row.name} {wide}"), ncalls, wide).program(seed)
