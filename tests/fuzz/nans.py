"""Programs that make NaNs in every way and look at their bits in every way: all of them must be canonical by then.

An operator makes one (the processor's own has its sign set, and payloads pass through it), something that only touches
the sign may follow, and then the bits are seen: through a reinterpretation, memory, a local, a global, a call, a
branch, a lane, an exception, a host function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from random import Random

from aiowasm.binary.encoder import encode
from aiowasm.features import ALL
from aiowasm.syntax.instructions import INSTRUCTIONS, Instruction
from aiowasm.syntax.module import Export, Module
from aiowasm.syntax.types import F32, F64, I32, I64, V128, FuncType, GlobalType, Limits, MemType, NumType, ValType
from tests.fuzz.emitter import Emitter, ModuleBuilder
from tests.fuzz.generator import Call, Program, flat, unflatten
from tests.fuzz.hosts import HOSTS
from tests.fuzz.links import import_host

__all__ = ("nan_programs",)

_TYPES = {str(t): t for t in NumType}
_INPUTS = {
    F32: (0x7FA0_0001, 0xFFC1_2345, 0x7F80_0000, 0xFF80_0000, 0, 0x8000_0000, 0xBF80_0000, 0x7F7F_FFFF),
    F64: (
        *(0x7FF4_0000_0000_0001, 0xFFF8_1234_5678_9ABC, 0x7FF0 << 48, 0xFFF0 << 48, 0, 1 << 63),
        *(0xBFF0 << 48, 0x7FEF_FFFF_FFFF_FFFF),
    ),
}
_CANONICAL_ONLY = ("fadd", "fsub", "fmul", "fdiv", "fmin", "fmax", "fsqrt", "fceil", "ffloor", "ftrunc", "fnearest")
_PASSES = ("fpmin", "fpmax")
_INTEGER = {F32: I32, F64: I64}
_SHAPES = {F32: "f32x4", F64: "f64x2"}


def _makers() -> list[Instruction]:
    """Rows that compute floats from floats."""
    return [
        row
        for row in INSTRUCTIONS
        if row.operation is not None
        and row.type is not None
        and (
            row.operation.operator in (*_CANONICAL_ONLY, *_PASSES, "promote", "demote")
            or row.operation.operator.startswith(("frelaxed", "promote_low", "demote_zero"))
        )
    ]


class _Code(Emitter):
    """One function that makes a value of `valtype` and looks at it."""

    identity: dict[NumType, int]
    globals: dict[NumType, int]
    tags: dict[NumType, int]
    carriers: dict[NumType, int]

    def reinterpret(self, valtype: NumType) -> None:
        """Turn a float into its bits; a vector into one lane."""
        if valtype is V128:
            self.op("i64x2.extract_lane", 1)
        else:
            self.op(f"{_INTEGER[valtype]}.reinterpret_{valtype}")


Look = Callable[[_Code, NumType], None]


def _store(code: _Code, t: NumType) -> None:
    place = code.local(t)
    code.op("local.set", place)
    code.op("i32.const", 8)
    code.op("local.get", place)
    code.op(f"{t}.store", (0, 0, 16))
    code.op("i32.const", 0)
    code.op("i32.load" if t is F32 else "i64.load", (0, 0, 24))


def _store_at_once(code: _Code, t: NumType) -> None:
    # The address is below the value already: it was pushed by `_function`.
    code.op(f"{t}.store", (0, 0, 16))
    code.op("i32.const", 0)
    code.op("i32.load" if t is F32 else "i64.load", (0, 0, 16))


def _local(code: _Code, t: NumType) -> None:
    place = code.local(t)
    code.op("local.tee", place)
    code.op("drop")
    code.op("local.get", place)
    code.reinterpret(t)


def _global(code: _Code, t: NumType) -> None:
    code.op("global.set", code.globals[t])
    code.op("global.get", code.globals[t])
    code.reinterpret(t)


def _call(code: _Code, t: NumType) -> None:
    code.op("call", code.identity[t])
    code.reinterpret(t)


def _tail_call(code: _Code, t: NumType) -> None:
    code.op("return_call", code.carriers[t])


def _branch(code: _Code, t: NumType) -> None:
    place = code.local(t)
    code.op("local.set", place)
    code.op("block", t)
    code.op("i32.const", 1)
    code.op("local.get", place)
    code.op("br", 0)
    code.op("end")
    code.reinterpret(t)


def _block_parameter(code: _Code, t: NumType) -> None:
    code.op("loop", code.blocktype((t,), (t,)))
    code.op("i32.const", 0)
    code.op("br_if", 0)
    code.op("end")
    code.reinterpret(t)


def _select(code: _Code, t: NumType) -> None:
    code.const(t, 0)
    code.op("i32.const", 1)
    code.op("select")
    code.reinterpret(t)


def _throw(code: _Code, t: NumType) -> None:
    place = code.local(t)
    code.op("local.set", place)
    code.op("block", t)
    code.op("try_table", None, ((0, code.tags[t], 0),))
    code.op("local.get", place)
    code.op("throw", code.tags[t])
    code.op("end")
    code.op("unreachable")
    code.op("end")
    code.reinterpret(t)


def _splat(code: _Code, t: NumType) -> None:
    code.op(f"{_SHAPES[t]}.splat")
    code.op("i64x2.extract_lane", 1)


def _replace_lane(code: _Code, t: NumType) -> None:
    place = code.local(t)
    code.op("local.set", place)
    code.const(V128, (1 << 128) - 1)
    code.op("local.get", place)
    code.op(f"{_SHAPES[t]}.replace_lane", 1)
    code.op("i64x2.extract_lane", 1 if t is F64 else 0)


def _sign_of(code: _Code, t: NumType) -> None:
    place = code.local(t)
    code.op("local.set", place)
    code.const(t, 0x3FF0 << 48 if t is F64 else 0x3F80_0000)
    code.op("local.get", place)
    code.op(f"{t}.copysign")
    code.reinterpret(t)


def _host(code: _Code, t: NumType) -> None:
    place = code.local(t)
    code.op("local.set", place)
    code.op("i32.const", 1)
    code.op("i64.const", 2)
    code.op("local.get", place)
    if t is F32:
        code.op("f64.promote_f32")
    code.op("call", list(HOSTS).index("mix"))


def _other_float(code: _Code, t: NumType) -> None:
    other = F64 if t is F32 else F32
    code.op("f64.promote_f32" if t is F32 else "f32.demote_f64")
    code.reinterpret(other)


def _lane_store(code: _Code, _t: NumType) -> None:
    code.op("v128.store64_lane", (0, 0, 16), 1)
    code.op("i32.const", 0)
    code.op("i64.load", (0, 0, 16))


def _bitmask(code: _Code, _t: NumType) -> None:
    code.op("i8x16.bitmask")


def _float_lane(code: _Code, _t: NumType) -> None:
    code.op("f32x4.extract_lane", 3)
    code.op("i32.reinterpret_f32")


def _shuffled(code: _Code, _t: NumType) -> None:
    code.op("v128.not")
    code.op("i64x2.extract_lane", 0)


_BOTH: dict[str, Look] = {
    "reinterpret": lambda code, t: code.reinterpret(t),
    "store": _store,
    "store at once": _store_at_once,
    "local": _local,
    "global": _global,
    "call": _call,
    "tail call": _tail_call,
    "branch": _branch,
    "block parameter": _block_parameter,
    "select": _select,
    "throw": _throw,
}
_SCALAR = _BOTH | {
    "splat": _splat,
    "replace lane": _replace_lane,
    "sign": _sign_of,
    "host": _host,
    "width": _other_float,
}
_VECTOR = _BOTH | {"lane store": _lane_store, "bitmask": _bitmask, "lane": _float_lane, "not": _shuffled}
_RESULTS: dict[tuple[str, NumType], NumType] = {
    **{(name, F32): I64 for name in ("splat", "replace lane", "host", "width")},
    ("width", F64): I32,
    ("bitmask", V128): I32,
    ("lane", V128): I32,
}


def _between(valtype: NumType, shape: str) -> list[tuple[str, ...]]:
    """What only touches the sign."""
    prefix = shape if valtype is V128 else str(valtype)
    return [(), (f"{prefix}.neg",), (f"{prefix}.abs",), (f"{prefix}.neg", f"{prefix}.neg")]


def _declare(module: ModuleBuilder, rng: Random) -> tuple[dict[NumType, int], ...]:
    """Memory, and for each type a function that returns its argument, one that returns its bits, a global, a tag."""
    import_host(module)
    module.mems.append(MemType(Limits(1, 1)))
    identity, carriers, globals_, tags = {}, {}, {}, {}
    for t in (F32, F64, V128):
        bits: ValType = I64 if t is V128 else _INTEGER[t]
        for into, result in ((identity, t), (carriers, bits)):
            code = _Code(module, rng, FuncType((t,), (result,)))
            code.op("local.get", 0)
            if result is not t:
                code.reinterpret(t)
            code.op("end")
            into[t] = len(module.functypes)
            module.functypes.append(code.functype)
            module.codes.append(code.code())
        zero = bytes(16) if t is V128 else 0
        globals_[t] = module.add_global(GlobalType(t, True), f"{t}.const", zero)
        tags[t] = len(module.tags)
        module.tags.append((t,))
    return identity, carriers, globals_, tags


def _program(row: Instruction, seed: int, ncalls: int) -> Program:
    rng = Random(f"{seed} {row.name}")
    module = ModuleBuilder(ALL)
    declared = _declare(module, rng)
    calls: list[Call] = []
    if row.type is None or row.operation is None:
        raise ValueError(row.name)
    params = tuple(_TYPES[word] for word in row.type[0])
    made = _TYPES[row.type[1][0]]
    looks = _VECTOR if made is V128 else _SCALAR
    for between, (name, look) in product(_between(made, row.operation.shape), looks.items()):
        result = _RESULTS.get((name, made), I64 if made is V128 else _INTEGER[made])
        functype = FuncType(tuple(each for t in params for each in flat(t)), (result,))
        code = _Code(module, rng, functype)
        code.identity, code.carriers, code.globals, code.tags = declared
        if name in ("store at once", "lane store"):
            code.op("i32.const", 0)
        unflatten(code, params)
        for each in (row.name, *between):
            code.op(each)
        look(code, made)
        code.op("end")
        export = f"{row.name} {' '.join(between)} {name}"
        module.exports.append(Export(export, "func", len(module.functypes)))
        module.functypes.append(functype)
        module.codes.append(code.code())
        for _ in range(ncalls):
            arguments = tuple(bits for t in params for bits in _input(rng, t, row.operation.shape))
            calls.append(
                Call(export, tuple(t for t in functype.params if isinstance(t, NumType)), arguments, (result,))
            )
    return Program(seed, encode(module.module()), tuple(calls), encode(Module()))


def _input(rng: Random, valtype: NumType, shape: str) -> list[int]:
    if valtype is not V128:
        return [rng.choice(_INPUTS[valtype])]
    lanes = _INPUTS[F32 if shape == "f32x4" else F64]
    width = 32 if shape == "f32x4" else 64
    bits = sum(rng.choice(lanes) << at for at in range(0, 128, width))
    return [bits & (1 << 64) - 1, bits >> 64]


def nan_programs(seed: int, ncalls: int) -> Iterator[Program]:
    """One program for each operator; each function is called *ncalls* times."""
    for row in _makers():
        yield _program(row, seed, ncalls)
