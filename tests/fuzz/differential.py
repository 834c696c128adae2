"""Runs programs of the generator on several engines and compares everything that can be seen.

Per call: results, trap codes, frames of traps, fuel; afterwards memories and globals. An `Adapter` is a way to run a
program:

    compare(program, [Ours("interpreter", Interpreter), Wasmtime()])

    python -m tests.fuzz.differential --seconds 60 --first-seed 1000        # all engines that there are

Wasmtime's fuel is compared where it is exact: for calls that return, in programs without bulk instructions (whose price
depends on lengths with us), call_ref and exceptions.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from random import Random
from typing import Any, Protocol

from aiowasm.binary.decoder import decode
from aiowasm.engine.base import NO_LIMIT, Engine, HostReturned, Outcome
from aiowasm.engine.func import FuncInst
from aiowasm.engine.global_ import GlobalInst
from aiowasm.engine.heap import Heap
from aiowasm.engine.instance import ModuleInst
from aiowasm.engine.instantiate import Bounds, instantiate
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.memory import MemInst
from aiowasm.engine.native import Native, why_not
from aiowasm.errors import FrameInfo, TrapCode
from aiowasm.features import ALL, WASM_1, WASM_2, WASM_3, Feature
from aiowasm.syntax.floats import bits_from_f64, f64_from_bits
from aiowasm.syntax.matching import close_rectype
from aiowasm.syntax.types import F64, I32, I64, RecType, SubType
from aiowasm.validation.module import validate_module
from tests.fuzz.generator import Call, Options, Program, generate
from tests.fuzz.hosts import HOSTS
from tests.fuzz.links import HOST, LIBRARY

__all__ = ("Adapter", "DifferenceError", "Ours", "Run", "Seen", "Wasmtime", "compare")

_MAX_MEMORY_NBYTES = 8 << 16


class DifferenceError(Exception):
    """Two engines do not agree."""


@dataclass(frozen=True)
class Seen:
    """What came of one call. `fuel` is None where an engine cannot say, `frames` where it did not trap."""

    outcome: str
    """returned, thrown, or the standard's phrase of a trap."""
    results: tuple[int, ...] = ()
    fuel: int | None = None
    frames: tuple[FrameInfo, ...] | None = None


@dataclass(frozen=True)
class HostCall:
    """A call of a host function: its arguments as bits; with ours, the fuel used and the guest's frames then."""

    name: str
    arguments: list[int]
    fuel: int | None = None
    frames: tuple[FrameInfo, ...] = ()


@dataclass
class Run:
    """What came of a program: a `Seen` per call, then memories and globals by the name of their export.

    A start function is the first call; if it fails, it is the only one. `log` is what host functions were given.
    """

    calls: list[Seen] = field(default_factory=list)
    memories: dict[str, bytes] = field(default_factory=dict)
    globals: dict[str, int] = field(default_factory=dict)
    log: list[HostCall] = field(default_factory=list)

    def look(self, prefix: str, exports: dict[str, Any]) -> None:
        """Look at entities of ours."""
        for name, entity in exports.items():
            if isinstance(entity, MemInst):
                self.memories[prefix + name] = bytes(entity.view)
            elif isinstance(entity, GlobalInst) and entity.globaltype.valtype in (I32, I64):
                self.globals[prefix + name] = entity.value


class Adapter(Protocol):
    """An engine that can run programs."""

    name: str
    exact_fuel: bool
    """Whether fuel is exact for calls that trap or throw and for bulk instructions too."""

    def run(self, program: Program) -> Run:
        """Run all calls of *program* in a new instance."""


class Ours:
    """An engine of aiowasm, driven without a store.

    Args:
        name: For messages.
        engine: Makes an engine.
        slice_fuel: What every slice is given, None: anything; no choice of it may change anything.
        hosts: How host functions answer: inside ("call"), with a pause ("pause"), or as an outcome ("leave").
        limit: The fuel limit of each call.
        call_depth: How many frames a call may have.
        stack_slots: How many slots their values may take.
    """

    exact_fuel = True

    def __init__(
        self,
        name: str,
        engine: Callable[[], Engine],
        slice_fuel: int | None = 1_000_000,
        limit: int = NO_LIMIT,
        call_depth: int = 1000,
        stack_slots: int = 65_536,
        hosts: str = "call",
    ) -> None:
        self.name = name
        self.engine = engine
        self.slice_fuel = slice_fuel
        self.limit = limit
        self.call_depth = call_depth
        self.stack_slots = stack_slots
        self.hosts = hosts
        self._execution: Any = None
        self._run = Run()

    def run(self, program: Program) -> Run:
        """Run all calls of *program* in a new instance."""
        engine = self.engine()
        run = self._run = Run()
        spaces: dict[str, dict[str, Any]] = {HOST: {name: self._host(name) for name in HOSTS}}
        heap = Heap()
        if program.library is not None:
            spaces[LIBRARY] = _exports(self._instance(program.library, engine, spaces, heap))
        instance = self._instance(program.binary, engine, spaces, heap)
        exports = _exports(instance)
        if (start := instance.validated.module.start) is not None:
            run.calls.append(self._call(engine, instance.funcs[start], Call("start", (), (), ())))
        if all(seen.outcome == "returned" for seen in run.calls):
            run.calls += [self._call(engine, exports[call.name], call) for call in program.calls]
        for owner, space in spaces.items():
            run.look(f"{owner}.", space)
        run.look("", exports)
        return run

    def _instance(self, binary: bytes, engine: Engine, spaces: dict[str, dict[str, Any]], heap: Heap) -> ModuleInst:
        validated = validate_module(decode(binary, ALL), ALL)
        imports = [spaces[each.module][each.name] for each in validated.module.imports]
        return instantiate(validated, imports, engine, bounds=Bounds(heap, memory_nbytes=_MAX_MEMORY_NBYTES))

    def _host(self, name: str) -> FuncInst:
        host = HOSTS[name]

        def function(_caller: object, *arguments: Any) -> Any:
            results = self._answer(name, arguments)
            returned = None if not results else results[0] if len(results) == 1 else results
            if self.hosts == "pause":
                raise HostReturned(returned)
            return returned

        deftype = close_rectype(RecType((SubType(True, (), host.functype),)), 0, [])[0]
        return FuncInst(deftype, host=None if self.hosts == "leave" else function, name=name)

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        host, execution = HOSTS[name], self._execution
        bits = [bits_from_f64(value) if isinstance(value, float) else value for value in arguments]
        self._run.log.append(HostCall(name, bits, execution.consumed, execution.frames()))
        results = host.compute(*bits)
        return tuple(
            f64_from_bits(value) if t is F64 else value for value, t in zip(results, host.results, strict=True)
        )

    def _call(self, engine: Engine, func: Any, call: Call) -> Seen:
        bounds = {"limit": self.limit, "call_depth": self.call_depth, "stack_slots": self.stack_slots}
        execution = self._execution = engine.call(func, call.arguments, **bounds)
        sizes = Random(call.name)
        while True:
            outcome = execution.resume(self.slice_fuel or 1 << sizes.randrange(12))
            if outcome is Outcome.WAIT:
                execution.deliver((2,))  # nobody will notify
            elif outcome is Outcome.HOST_CALL and execution.host is not None:
                execution.deliver(self._answer(execution.host.name, execution.arguments))
            elif outcome is not Outcome.PAUSED:
                break
        fuel = execution.consumed
        if outcome is Outcome.RETURNED:
            return Seen("returned", tuple(execution.results), fuel)
        if outcome is Outcome.THROWN:
            return Seen("thrown", (), fuel)
        if outcome is Outcome.TRAPPED and execution.trap is not None:
            return Seen(execution.trap.code.value, (), fuel, execution.trap.frames)
        raise DifferenceError(f"{self.name}: {call.name} ended with {outcome}: {execution.error!r}")


def _exports(instance: ModuleInst) -> dict[str, Any]:
    """The entities that an instance exports, by name."""
    spaces: dict[str, Any] = {
        "func": instance.funcs,
        "table": instance.tables,
        "memory": instance.mems,
        "global": instance.globals,
        "tag": instance.tags,
    }
    return {each.name: spaces[each.kind][each.index] for each in instance.validated.module.exports}


_WASMTIME_TRAPS = {
    "wasm `unreachable` instruction executed": TrapCode.UNREACHABLE,
    "integer divide by zero": TrapCode.INTEGER_DIVIDE_BY_ZERO,
    "integer overflow": TrapCode.INTEGER_OVERFLOW,
    "invalid conversion to integer": TrapCode.INVALID_CONVERSION,
    "out of bounds memory access": TrapCode.MEMORY_OUT_OF_BOUNDS,
    "undefined element: out of bounds table access": TrapCode.TABLE_OUT_OF_BOUNDS,
    "uninitialized element": TrapCode.UNINITIALIZED_ELEMENT,
    "indirect call type mismatch": TrapCode.INDIRECT_CALL_TYPE_MISMATCH,
    "null reference": TrapCode.NULL_REFERENCE,
    "out of bounds array access": TrapCode.ARRAY_OUT_OF_BOUNDS,
    "cast failure": TrapCode.CAST_FAILURE,
    "unaligned atomic": TrapCode.UNALIGNED_ATOMIC,
    "call stack exhausted": TrapCode.CALL_STACK_EXHAUSTED,
}
# Wasmtime has one code where the standard's suite has several phrases.
_COARSE = {
    TrapCode.UNDEFINED_ELEMENT.value: TrapCode.TABLE_OUT_OF_BOUNDS.value,
    TrapCode.NULL_FUNCTION_REFERENCE.value: TrapCode.NULL_REFERENCE.value,
    TrapCode.NULL_EXCEPTION_REFERENCE.value: TrapCode.NULL_REFERENCE.value,
    TrapCode.NULL_STRUCTURE_REFERENCE.value: TrapCode.NULL_REFERENCE.value,
    TrapCode.NULL_ARRAY_REFERENCE.value: TrapCode.NULL_REFERENCE.value,
    TrapCode.NULL_I31_REFERENCE.value: TrapCode.NULL_REFERENCE.value,
}
# Of an address that is neither aligned nor in bounds: wasmtime looks at the bounds first where it adds an offset.
_EITHER = (TrapCode.UNALIGNED_ATOMIC.value, TrapCode.MEMORY_OUT_OF_BOUNDS.value)


class Wasmtime:
    """Wasmtime from PyPI, with canonical NaNs and the deterministic relaxed instructions, counting fuel."""

    name = "wasmtime"
    exact_fuel = False

    def __init__(self) -> None:
        import wasmtime  # noqa: PLC0415 - a rival that need not be installed

        self._wasmtime = wasmtime
        config = wasmtime.Config()
        for name in (
            "consume_fuel",
            "cranelift_nan_canonicalization",
            "wasm_relaxed_simd",
            "wasm_relaxed_simd_deterministic",
            "wasm_multi_memory",
            "wasm_memory64",
            "wasm_threads",
            "wasm_tail_call",
            "wasm_function_references",
            "wasm_gc",
            "wasm_exceptions",
            "wasm_wide_arithmetic",
            "wasm_custom_page_sizes",
        ):
            _set(config, name)
        config.cranelift_opt_level = "none"
        self.engine = wasmtime.Engine(config)

    def run(self, program: Program) -> Run:
        """Run all calls of *program* in a new instance."""
        store = self._wasmtime.Store(self.engine)
        store.set_limits(memory_size=_MAX_MEMORY_NBYTES)
        store.set_fuel(1 << 40)
        run = self._run = Run()
        # Not even the types of entities may be asked for: the package ends the process if there is a v128 in them.
        linker = self._wasmtime.Linker(self.engine)
        instances = {}
        if program.library is not None:
            for name in HOSTS:
                linker.define(store, HOST, name, self._host(store, name))
            instances[f"{LIBRARY}."] = linker.instantiate(store, self._wasmtime.Module(self.engine, program.library))
            linker.define_instance(store, LIBRARY, instances[f"{LIBRARY}."])
        module = self._wasmtime.Module(self.engine, program.binary)
        try:
            instance = instances[""] = linker.instantiate(store, module)
        except (self._wasmtime.Trap, self._wasmtime.WasmtimeError) as error:
            # What the start function left is not seen: there is no instance to look at.
            run.calls.append(self._failed(store, error))
            return run
        exports = instance.exports(store)
        run.calls += [Seen("returned")] * program.starts
        run.calls += [self._call(store, exports[call.name], call) for call in program.calls]
        for prefix, each in instances.items():
            self._look(store, prefix, each.exports(store))
        return run

    def _host(self, store: Any, name: str) -> Any:
        host, kinds = HOSTS[name], self._wasmtime.ValType
        of = {I32: kinds.i32(), I64: kinds.i64(), F64: kinds.f64()}

        def function(*arguments: Any) -> Any:
            bits = [
                bits_from_f64(value) if isinstance(value, float) else value & ((1 << (32 if t is I32 else 64)) - 1)
                for value, t in zip(arguments, host.params, strict=True)
            ]
            self._run.log.append(HostCall(name, bits))
            results = [
                f64_from_bits(value) if t is F64 else _signed(value, t.name)
                for value, t in zip(host.compute(*bits), host.results, strict=True)
            ]
            return None if not results else results[0] if len(results) == 1 else results

        functype = self._wasmtime.FuncType([of[t] for t in host.params], [of[t] for t in host.results])
        return self._wasmtime.Func(store, functype, function)

    def _look(self, store: Any, prefix: str, exports: Any) -> None:
        run = self._run
        for name, entity in exports.items():
            if isinstance(entity, self._wasmtime.Memory):
                run.memories[prefix + name] = bytes(entity.read(store))
            elif isinstance(entity, self._wasmtime.Global) and name[0] == "g":
                kind = str(entity.type(store).content)
                run.globals[prefix + name] = entity.value(store) & ((1 << int(kind[1:])) - 1)

    def _failed(self, store: Any, error: Exception) -> Seen:
        phrase = _phrase(error)
        frames = getattr(error, "frames", ()) if phrase != "thrown" else ()
        places = tuple(FrameInfo(None, "", frame.func_index, frame.module_offset) for frame in frames)
        return Seen(phrase, (), (1 << 40) - store.get_fuel(), places)

    def _call(self, store: Any, func: Any, call: Call) -> Seen:
        arguments = [_signed(bits, t.name) for bits, t in zip(call.arguments, call.params, strict=True)]
        store.set_fuel(1 << 40)
        try:
            results = func(store, *arguments)
        except (self._wasmtime.Trap, self._wasmtime.WasmtimeError) as error:
            return self._failed(store, error)
        fuel = (1 << 40) - store.get_fuel()
        listed = [] if results is None else results if isinstance(results, list) else [results]
        masks = [(1 << (32 if t.name == "I32" else 64)) - 1 for t in call.results]
        return Seen("returned", tuple(value & mask for value, mask in zip(listed, masks, strict=True)), fuel)


def _set(config: Any, name: str) -> None:
    """Switch an option on, also one that the package has no property for."""
    if isinstance(getattr(type(config), name, None), property):
        setattr(config, name, True)
        return
    from wasmtime import _bindings  # noqa: PLC0415

    getattr(_bindings, f"wasmtime_config_{name}_set")(config.ptr(), True)


def _signed(bits: int, kind: str) -> int:
    width = 32 if kind == "I32" else 64
    return bits - (1 << width) if bits >> (width - 1) else bits


def _phrase(error: Exception) -> str:
    text = str(error)
    for words, code in _WASMTIME_TRAPS.items():
        if words in text:
            return code.value
    if "thrown" in text or "exception" in text:
        return "thrown"
    return text


def _differences(program: Program, one: Adapter, first: Run, other: Adapter, second: Run, fuel: bool) -> list[str]:
    coarse = not (one.exact_fuel and other.exact_fuel)
    found = []
    calls = (Call("start", (), (), ()),) * program.starts + program.calls
    for number, (call, a, b) in enumerate(zip(calls, first.calls, second.calls, strict=False)):
        mine, theirs = a.outcome, b.outcome
        if coarse:
            mine, theirs = _COARSE.get(mine, mine), _COARSE.get(theirs, theirs)
            if (mine, theirs) == _EITHER:
                mine = theirs
        where = f"call {number} {call.name}{call.arguments}"
        if (mine, a.results) != (theirs, b.results):
            found.append(f"{where}: {one.name} {a.outcome} {a.results}, {other.name} {b.outcome} {b.results}")
        elif fuel and None not in (a.fuel, b.fuel) and a.fuel != b.fuel and (not coarse or mine == "returned"):
            found.append(f"{where}: fuel {a.fuel} on {one.name}, {b.fuel} on {other.name}")
        elif _places(a, coarse) != _places(b, coarse):
            found.append(f"{where}: frames {a.frames} on {one.name}, {b.frames} on {other.name}")
    if len(first.calls) != len(second.calls):
        found.append(f"{len(first.calls)} calls on {one.name}, {len(second.calls)} on {other.name}")
    for mine, theirs in zip_longest(first.log, second.log):
        if mine != theirs and not (coarse and mine and theirs and _given(mine) == _given(theirs)):
            found.append(f"host: {mine} on {one.name}, {theirs} on {other.name}")
            break
    if coarse and not second.memories and not second.globals:
        return found  # the start function failed: there is no instance to look at
    for name, data in first.memories.items():
        if data != second.memories[name]:
            at = next((i for i, (x, y) in enumerate(zip(data, second.memories[name], strict=False)) if x != y), -1)
            found.append(f"memory {name} ({len(data)}, {len(second.memories[name])} bytes) differs at {at:#x}")
    found += [
        f"global {name}: {value:#x} on {one.name}, {second.globals[name]:#x} on {other.name}"
        for name, value in first.globals.items()
        if value != second.globals[name]
    ]
    return found


def _given(call: HostCall) -> tuple[str, list[int]]:
    return call.name, call.arguments


def _places(seen: Seen, coarse: bool) -> list[Any]:
    """Where a trap is.

    Wasmtime knows no names and at most twenty frames; a load that it makes part of what uses it traps there.
    """
    frames = seen.frames or ()
    if not coarse:
        return list(frames)
    places: list[Any] = [(frame.funcidx, frame.offset) for frame in frames[:20]]
    return [frames[0].funcidx, *places[1:]] if seen.outcome in _EITHER else places


def compare(program: Program, adapters: Sequence[Adapter], fuel: bool = True) -> list[Run]:
    """Run *program* on all *adapters*; return what each saw.

    Args:
        program: What to run.
        adapters: The first one is what the others are compared with.
        fuel: Whether to compare fuel with engines that are not ours; between ours it always is.

    Raises:
        DifferenceError: With every difference, in order.
    """
    runs = [adapter.run(program) for adapter in adapters]
    found = []
    for adapter, run in zip(adapters[1:], runs[1:], strict=True):
        exact = adapters[0].exact_fuel and adapter.exact_fuel
        found += _differences(program, adapters[0], runs[0], adapter, run, fuel or exact)
    if found:
        raise DifferenceError(f"seed {program.seed}:\n" + "\n".join(found))
    return runs


_UNFAIR = {Feature.FUNCTION_REFERENCES, Feature.EXCEPTIONS}
_FAIR = WASM_3 - _UNFAIR - {Feature.GC}
_MOST = ALL - {Feature.GC, Feature.LEGACY_EXCEPTIONS}
PROFILES: tuple[Options, ...] = (
    Options(features=_FAIR, bulk=False),
    Options(),
    Options(features=_MOST),
    Options(features=_MOST - _UNFAIR, bulk=False, traps=0.0),
    Options(features=WASM_2),
    Options(features=WASM_3, traps=0.01),
    Options(features=WASM_1, bulk=False),
    Options(ninstructions=40, depth=3, traps=0.15),
    Options(features=_MOST, shapes=True),
    Options(features=WASM_2, shapes=True, traps=0.01),
    Options(features=ALL, shapes=True, heap=False, shared=True),
    Options(features=WASM_3, shapes=True, heap=False, ninstructions=80),
    Options(linked=True),
    Options(features=WASM_3, shapes=True, heap=False, ninstructions=60, linked=True, traps=0.01),
    Options(features=WASM_2, linked=True, ninstructions=80),
    Options(features=ALL, shapes=True, heap=False, shared=True, linked=True, ninstructions=80),
)
"""What a seed generates is chosen by its remainder, so that one range of seeds covers everything."""


def comparable_fuel(options: Options) -> bool:
    """Whether wasmtime's fuel is ours.

    Version 50 forgets what a function called by call_ref has used, and what one that leaves by an exception has used.
    """
    return not options.bulk and not options.linked and not options.features & _UNFAIR


def program_of(seed: int, change: Callable[[Options], Options] = lambda options: options) -> tuple[Program, Options]:
    """The program of a seed, of the profile that is its turn, which *change* may change."""
    options = change(PROFILES[seed % len(PROFILES)])
    return generate(seed, options), options


def without_heap(options: Options) -> Options:
    """For `program_of`: leave out the structures and arrays that the native engine lacks."""
    return replace(options, heap=False)


def wasmtime_runs(options: Options) -> bool:
    """Whether wasmtime runs such programs: not those with legacy exceptions, and shared memories cannot be read."""
    return Feature.LEGACY_EXCEPTIONS not in options.features and not options.shared


def adapters_for(options: Options, engines: Sequence[Adapter]) -> list[Adapter]:
    """Those of *engines* that can run programs of such options."""
    return [each for each in engines if not isinstance(each, Wasmtime) or wasmtime_runs(options)]


def engines() -> list[Adapter]:
    """All there are here: both engines of ours, in one slice and in many, and wasmtime."""
    made: list[Adapter] = [
        Ours("interpreter", Interpreter),
        Ours("interpreter in slices", Interpreter, None, hosts="pause"),
    ]
    if why_not() is None:
        native = Native()
        made += [Ours("native", lambda: native), Ours("native in slices", lambda: native, None, hosts="leave")]
    return [*made, Wasmtime()]


def main() -> None:
    """Compare for some time; print every difference and end with status 1 if there was one."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1 << 60)
    arguments = parser.parse_args()
    adapters = engines()
    end = time.monotonic() + arguments.seconds
    seed, failed = arguments.first_seed, 0
    outcomes: dict[str, int] = {}
    while time.monotonic() < end and seed < arguments.first_seed + arguments.count:
        program, options = program_of(seed, without_heap)
        try:
            runs = compare(program, adapters_for(options, adapters), fuel=comparable_fuel(options))
            for seen in runs[0].calls:
                outcomes[seen.outcome] = outcomes.get(seen.outcome, 0) + 1
        except Exception as error:
            failed += 1
            print(f"{error if isinstance(error, DifferenceError) else f'seed {seed}: {error!r}'}", flush=True)
        seed += 1
    print(f"{seed - arguments.first_seed} programs, {failed} with differences; outcomes {outcomes}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
