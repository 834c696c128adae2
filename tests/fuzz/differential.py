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
from random import Random
from typing import Any, Protocol

from aiowasm.binary.decoder import decode
from aiowasm.engine.base import NO_LIMIT, Engine, Outcome
from aiowasm.engine.heap import Heap
from aiowasm.engine.instantiate import Bounds, instantiate
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.native import Native, why_not
from aiowasm.errors import FrameInfo, TrapCode
from aiowasm.features import ALL, WASM_1, WASM_2, WASM_3, Feature
from aiowasm.validation.module import validate_module
from tests.fuzz.generator import Call, Options, Program, generate

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


@dataclass
class Run:
    """What came of a program: a `Seen` per call, then memories and globals by the name of their export."""

    calls: list[Seen] = field(default_factory=list)
    memories: dict[str, bytes] = field(default_factory=dict)
    globals: dict[str, int] = field(default_factory=dict)


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
    ) -> None:
        self.name = name
        self.engine = engine
        self.slice_fuel = slice_fuel
        self.limit = limit
        self.call_depth = call_depth
        self.stack_slots = stack_slots

    def run(self, program: Program) -> Run:
        """Run all calls of *program* in a new instance."""
        engine = self.engine()
        validated = validate_module(decode(program.binary, ALL), ALL)
        bounds = Bounds(Heap(), memory_nbytes=_MAX_MEMORY_NBYTES)
        instance = instantiate(validated, (), engine, bounds=bounds)
        exports = {export.name: export for export in validated.module.exports}
        run = Run()
        for call in program.calls:
            func = instance.funcs[exports[call.name].index]
            run.calls.append(self._call(engine, func, call))
        for name, export in exports.items():
            if export.kind == "memory":
                run.memories[name] = bytes(instance.mems[export.index].view)
            elif export.kind == "global":
                value = instance.globals[export.index].value
                run.globals[name] = value if isinstance(value, int) else -1
        return run

    def _call(self, engine: Engine, func: Any, call: Call) -> Seen:
        bounds = {"limit": self.limit, "call_depth": self.call_depth, "stack_slots": self.stack_slots}
        execution = engine.call(func, call.arguments, **bounds)
        sizes = Random(call.name)
        while True:
            outcome = execution.resume(self.slice_fuel or 1 << sizes.randrange(12))
            if outcome is Outcome.WAIT:
                execution.deliver((2,))  # nobody will notify
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
        module = self._wasmtime.Module(self.engine, program.binary)
        exports = self._wasmtime.Instance(store, module, []).exports(store)
        run = Run()
        for call in program.calls:
            run.calls.append(self._call(store, exports[call.name], call))
        for export in module.exports:
            entity = exports[export.name]
            if isinstance(entity, self._wasmtime.Memory):
                run.memories[export.name] = bytes(entity.read(store))
            elif isinstance(entity, self._wasmtime.Global):
                bits = 32 if str(entity.type(store).content) == "i32" else 64
                run.globals[export.name] = entity.value(store) & ((1 << bits) - 1)
        return run

    def _call(self, store: Any, func: Any, call: Call) -> Seen:
        arguments = [_signed(bits, t.name) for bits, t in zip(call.arguments, call.params, strict=True)]
        store.set_fuel(1 << 40)
        try:
            results = func(store, *arguments)
        except (self._wasmtime.Trap, self._wasmtime.WasmtimeError) as error:
            phrase = _phrase(error)
            frames = getattr(error, "frames", ()) if phrase != "thrown" else ()
            places = tuple(FrameInfo(None, "", frame.func_index, frame.module_offset) for frame in frames)
            return Seen(phrase, (), (1 << 40) - store.get_fuel(), places)
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
    for number, (call, a, b) in enumerate(zip(program.calls, first.calls, second.calls, strict=True)):
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


def _places(seen: Seen, coarse: bool) -> list[Any]:
    """Where a trap is.

    Wasmtime knows no names and at most twenty frames; a load that it makes part of what uses it traps there.
    """
    frames = seen.frames or ()
    if not coarse:
        return list(frames)
    places: list[Any] = [(frame.funcidx, frame.offset) for frame in frames[:20]]
    return [frames[0].funcidx, *places[1:]] if seen.outcome == TrapCode.MEMORY_OUT_OF_BOUNDS.value else places


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
)
"""What a seed generates is chosen by its remainder, so that one range of seeds covers everything."""


def comparable_fuel(options: Options) -> bool:
    """Whether wasmtime's fuel is ours.

    Version 50 forgets what a function called by call_ref has used, and what one that leaves by an exception has used.
    """
    return not options.bulk and not options.features & _UNFAIR


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
    made: list[Adapter] = [Ours("interpreter", Interpreter), Ours("interpreter in slices", Interpreter, None)]
    if why_not() is None:
        native = Native()
        made += [Ours("native", lambda: native), Ours("native in slices", lambda: native, None)]
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
