"""Random modules, valid by construction and deterministic from a seed, and the calls that exercise them.

    program = generate(seed, Options(features=...))

Every function takes one from a budget of calls and every loop has a counter, so each call of an export ends after some
hundred thousand instructions at most. Exports take and return i32 and i64 only (floats and lanes as bits), so that any
embedder can pass any NaN. Memories `mem0`..., and globals `g0`... are exported; what else is state is returned by the
exports `state...`. The code itself is written by `tests.fuzz.statements`.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from random import Random

from aiowasm.binary.encoder import encode
from aiowasm.features import WASM_3, Feature, Features
from aiowasm.syntax.module import Data, Elem, Export
from aiowasm.syntax.types import (
    F32,
    F64,
    FUNCREF,
    I32,
    I64,
    V128,
    AbsHeapType,
    AddressType,
    FuncType,
    GlobalType,
    Limits,
    MemType,
    NumType,
    RefType,
    TableType,
    ValType,
)
from tests.fuzz.emitter import Emitter, ModuleBuilder, Types, constant, value_types
from tests.fuzz.links import export_all, import_from
from tests.fuzz.shapes import Shapes
from tests.fuzz.structures import Structures
from tests.fuzz.values import bits_of

__all__ = ("Call", "Options", "Program", "generate")

_BUDGET = 40


@dataclass(frozen=True)
class Options:
    """What to generate.

    `traps` is how likely each instruction that can trap is left unguarded. `bulk` admits bulk instructions and growth,
    for which aiowasm charges fuel by length and other engines do not.
    """

    features: Features = WASM_3 - {Feature.GC}
    nfunctions: int = 6
    ninstructions: int = 150
    depth: int = 5
    traps: float = 0.03
    bulk: bool = True
    ncalls: int = 3
    shapes: bool = False
    """Whether to generate what is of unusual shape: `tests.fuzz.shapes`."""
    heap: bool = True
    """Whether garbage collection means structures and arrays too, which the native engine lacks."""
    numeric: bool = False
    """Whether nearly all code, with shapes, is loops over floats."""
    linked: bool = False
    """Whether the program is two modules, of which one imports the other's entities and functions of the host."""
    shared: bool = False
    """Whether memories are shared, so that code may wait."""


@dataclass(frozen=True)
class Call:
    """A call of an export: types of the arguments, their bits, types of the results."""

    name: str
    params: tuple[NumType, ...]
    arguments: tuple[int, ...]
    results: tuple[NumType, ...]


@dataclass(frozen=True)
class Program:
    """A module in the binary format and calls to make one after the other in one instance of it."""

    seed: int
    binary: bytes
    calls: tuple[Call, ...]
    library: bytes | None = None
    """What the module imports from, but for functions of the host."""
    starts: bool = False
    """Whether there is a start function."""


def flat(valtype: ValType) -> tuple[NumType, ...]:
    """What stands for a value in an exported function's type."""
    if valtype in (F32, I32) or isinstance(valtype, RefType):
        return (I32,)
    return (I64, I64) if valtype is V128 else (I64,)


def _signature(rng: Random, options: Options) -> FuncType:
    types = value_types(options.features)
    several = Feature.MULTI_VALUE in options.features
    nparams, nresults = rng.randrange(5), rng.choice((0, 1, 1, 1, 2, 3)) if several else rng.randrange(2)
    if options.shapes and rng.random() < 0.15:
        nparams, nresults = rng.randrange(5, 30), rng.randrange(16, 20) if several else 1
    return FuncType(tuple(rng.choice(types) for _ in range(nparams)), tuple(rng.choice(types) for _ in range(nresults)))


def _declare(module: ModuleBuilder, rng: Random, options: Options) -> None:
    """Everything but code, behind what is imported."""
    features = options.features
    for _ in range(options.nfunctions):
        repeated = module.functypes and rng.random() < 0.3
        functype = rng.choice(module.functypes) if repeated else _signature(rng, options)
        module.functypes.append(functype)
        module.typeidx(functype)
    for memidx in range(len(module.mems), 2 if Feature.MULTI_MEMORY in features else 1):
        wide = Feature.MEMORY64 in features and rng.random() < 0.4
        addrtype = AddressType.I64 if wide else AddressType.I32
        limits, page_size_log2 = Limits(1, rng.choice((1, 2, 5))), 16
        if Feature.CUSTOM_PAGE_SIZES in features and not options.shared and rng.random() < 0.3:
            limits, page_size_log2 = Limits(rng.randrange(4200, 9000), rng.randrange(9000, 20_000)), 0
        module.mems.append(MemType(limits, addrtype, options.shared, page_size_log2))
        module.datas.append(
            Data(rng.randbytes(300), (memidx, constant("i64.const" if wide else "i32.const", rng.randrange(3800))))
        )
    module.exports += [Export(f"mem{memidx}", "memory", memidx) for memidx in range(len(module.mems))]
    if Feature.BULK_MEMORY in features:
        module.datas.append(Data(rng.randbytes(16), None))
    _tables(module, rng, options)
    if Feature.EXCEPTIONS in features:
        module.tags += [
            tuple(t for t in rng.choices(value_types(features), k=rng.randrange(3)) if isinstance(t, NumType))
            for _ in range(2)
        ]
    if not module.globals:
        module.add_global(GlobalType(I32, True), "i32.const", 0)  # the budget
    for valtype in value_types(features):
        for mutable in (True, False):
            _global(module, rng, valtype, mutable)


def _tables(module: ModuleBuilder, rng: Random, options: Options) -> None:
    """The table where every function stands, and sometimes another one."""
    features = options.features
    nfuncs = len(module.functypes)
    nonnull = RefType(False, AbsHeapType.FUNC)
    module.tables.append(TableType(Limits(nfuncs + 6, nfuncs + 16), FUNCREF))
    module.layouts.append(list(module.functypes))
    module.elems.append(Elem(nonnull, array("I", range(nfuncs)), (module.home, constant("i32.const", 0))))
    if options.shapes and Feature.REFERENCE_TYPES in features:
        wide = Feature.MEMORY64 in features and rng.random() < 0.5
        module.tables.append(TableType(Limits(9, 20), FUNCREF, AddressType.I64 if wide else AddressType.I32))
        chosen = rng.sample(range(nfuncs), 3)
        module.layouts.append([module.functypes[funcidx] for funcidx in chosen])
        offset = constant("i64.const" if wide else "i32.const", 0)
        module.elems.append(Elem(nonnull, array("I", chosen), (len(module.tables) - 1, offset)))
    if module.nimported_tables:
        _replace(module, rng)
    if Feature.BULK_MEMORY in features:
        module.elems.append(Elem(nonnull, array("I", [rng.randrange(nfuncs) for _ in range(4)]), "passive"))


def _replace(module: ModuleBuilder, rng: Random) -> None:
    """Put functions of this module where the library looks for its own."""
    for slot, functype in enumerate(module.layouts[0]):
        fitting = [at for at, mine in enumerate(module.functypes) if mine == functype and at >= module.nimported_funcs]
        if fitting and rng.random() < 0.5:
            nonnull = RefType(False, AbsHeapType.FUNC)
            module.elems.append(Elem(nonnull, array("I", [rng.choice(fitting)]), (0, constant("i32.const", slot))))


def _global(module: ModuleBuilder, rng: Random, valtype: ValType, mutable: bool) -> None:
    globaltype = GlobalType(valtype, mutable)
    if not isinstance(valtype, NumType):
        module.add_global(globaltype, "ref.null", valtype.heaptype)
        return
    bits = bits_of(rng, valtype)
    index = module.add_global(globaltype, f"{valtype}.const", bits.to_bytes(16, "little") if valtype is V128 else bits)
    if valtype in (I32, I64):
        module.exports.append(Export(f"g{index}", "global", index))


def _prologue(code: Emitter) -> None:
    """Take one from the budget, or leave at once with zeros."""
    code.op("global.get", 0)
    code.op("i32.eqz")
    code.op("if", None)
    for valtype in code.functype.results:
        if isinstance(valtype, NumType):
            code.const(valtype, 0)
        else:
            code.op("ref.null", valtype.heaptype)
    code.op("return")
    code.op("end")
    code.op("global.get", 0)
    code.op("i32.const", 1)
    code.op("i32.sub")
    code.op("global.set", 0)


def flatten(code: Emitter, valtypes: Types) -> None:
    """Turn the values on the stack into what stands for them."""
    locals_ = [code.local(valtype) for valtype in valtypes]
    for local in reversed(locals_):
        code.op("local.set", local)
    for local, valtype in zip(locals_, valtypes, strict=True):
        code.op("local.get", local)
        if isinstance(valtype, RefType):
            code.op("ref.is_null")
        elif valtype in (F32, F64):
            code.op("i32.reinterpret_f32" if valtype is F32 else "i64.reinterpret_f64")
        elif valtype is V128:
            code.op("i64x2.extract_lane", 0)
            code.op("local.get", local)
            code.op("i64x2.extract_lane", 1)


def unflatten(code: Emitter, valtypes: Types) -> None:
    """Push the arguments that the locals stand for."""
    local = 0
    for valtype in valtypes:
        if isinstance(valtype, RefType):
            code.op("ref.null", valtype.heaptype)
        else:
            code.op("local.get", local)
        if valtype in (F32, F64):
            code.op("f32.reinterpret_i32" if valtype is F32 else "f64.reinterpret_i64")
        elif valtype is V128:
            code.op("i64x2.splat")
            code.op("local.get", local + 1)
            code.op("i64x2.replace_lane", 1)
        local += len(flat(valtype))


def _export(module: ModuleBuilder, rng: Random, name: str, functype: FuncType, code: Emitter) -> FuncType:
    module.functypes.append(functype)
    module.exports.append(Export(name, "func", len(module.functypes) - 1))
    code.op("end")
    module.codes.append(code.code())
    return functype


def _wrapper(module: ModuleBuilder, rng: Random, funcidx: int) -> FuncType:
    """The exported function that sets the budget and calls function *funcidx*."""
    inner = module.functypes[funcidx]
    # Without multi-value only the last result is seen.
    seen = inner.results if Feature.MULTI_VALUE in module.features else tuple(t for t in inner.results if t is not V128)
    functype = FuncType(
        tuple(each for t in inner.params for each in flat(t)), tuple(each for t in seen for each in flat(t))
    )
    code = Emitter(module, rng, functype)
    code.op("i32.const", _BUDGET)
    code.op("global.set", 0)
    unflatten(code, inner.params)
    code.op("call", funcidx)
    if seen == inner.results:
        flatten(code, inner.results)
    else:
        code.op("drop")
    return _export(module, rng, f"f{funcidx}", functype, code)


def _state(module: ModuleBuilder, rng: Random) -> list[tuple[str, FuncType]]:
    """Exports that return what embedders cannot read alike: globals of other types, tables."""
    made = []
    for index, globaltype in enumerate(module.globals):
        if globaltype.valtype in (I32, I64) or (
            globaltype.valtype is V128 and Feature.MULTI_VALUE not in module.features
        ):
            continue
        functype = FuncType((), flat(globaltype.valtype))
        code = Emitter(module, rng, functype)
        code.op("global.get", index)
        flatten(code, (globaltype.valtype,))
        made.append((f"state{index}", _export(module, rng, f"state{index}", functype, code)))
    if Feature.REFERENCE_TYPES in module.features:
        functype = FuncType((), (I32,))
        code = Emitter(module, rng, functype)
        code.op("i32.const", 0)
        for slot in range(module.tables[module.home].limits.minimum):
            code.op("i32.const", 1)
            code.op("i32.shl")
            code.op("i32.const", slot)
            code.op("table.get", module.home)
            code.op("ref.is_null")
            code.op("i32.or")
        made.append(("state_table", _export(module, rng, "state_table", functype, code)))
    return made


def generate(seed: int, options: Options | None = None) -> Program:
    """Return the program of *seed*; the same for ever, as long as the generator does not change."""
    chosen = options or Options()
    rng = Random(seed)
    module = ModuleBuilder(chosen.features)
    library = None
    if chosen.linked:
        library = ModuleBuilder(chosen.features)
        _declare(library, rng, chosen)
        _functions(library, rng, chosen)
        export_all(library)
        import_from(library, chosen.nfunctions, module, rng)
    _declare(module, rng, chosen)
    _functions(module, rng, chosen)
    nfuncs = len(module.functypes)
    if chosen.linked and rng.random() < 0.3:
        _start(module, rng, chosen)
    calls = []
    for funcidx in range(nfuncs):
        functype = _wrapper(module, rng, funcidx)
        calls += [_call(rng, f"f{funcidx}", functype) for _ in range(chosen.ncalls)]
    rng.shuffle(calls)
    calls += [_call(rng, name, functype) for name, functype in _state(module, rng)]
    imported = encode(library.module()) if library else None
    return Program(seed, encode(module.module()), tuple(calls), imported, module.start is not None)


def _functions(module: ModuleBuilder, rng: Random, options: Options) -> None:
    """Code of all functions that are declared."""
    nfuncs = len(module.functypes)
    for functype in module.functypes[module.nimported_funcs :]:
        code = _emitter(module, rng, functype, options)
        code.callable = list(range(nfuncs))
        _prologue(code)
        code.body(options.depth)
        module.codes.append(code.code())


def _emitter(module: ModuleBuilder, rng: Random, functype: FuncType, options: Options) -> Structures:
    kind = Shapes if options.shapes else Structures
    code = kind(module, rng, functype, options.ninstructions, options.traps, options.bulk)
    code.heap = options.heap
    if options.numeric and isinstance(code, Shapes):
        code.numeric_weight = 100
    return code


def _start(module: ModuleBuilder, rng: Random, options: Options) -> None:
    """A start function, which nobody else calls."""
    code = _emitter(module, rng, FuncType((), ()), options)
    code.callable = list(range(len(module.functypes)))
    code.op("i32.const", _BUDGET)
    code.op("global.set", 0)
    code.body(options.depth)
    module.start = len(module.functypes)
    module.functypes.append(code.functype)
    module.codes.append(code.code())


def _call(rng: Random, name: str, functype: FuncType) -> Call:
    params = tuple(t for t in functype.params if isinstance(t, NumType))
    results = tuple(t for t in functype.results if isinstance(t, NumType))
    return Call(name, params, tuple(bits_of(rng, t) for t in params), results)
