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
from contextlib import suppress
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.native import Native, why_not
from aiowasm.errors import TrapCode
from aiowasm.features import ALL, WASM_1, WASM_2, WASM_3, Feature
from tests.fuzz.generator import Call, Options, Program, generate

__all__ = ("Adapter", "DifferenceError", "Direct", "Ours", "Run", "Seen", "Wasmtime", "compare")

from tests.fuzz.ours import Direct, Ours
from tests.fuzz.rival import Wasmtime
from tests.fuzz.seen import Adapter, DifferenceError, HostCall, Run, Seen

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
    Options(features=WASM_2 | {Feature.RELAXED_SIMD}, shapes=True, numeric=True, bulk=False, traps=0.003, ncalls=5),
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
        made.append(Direct("native, direct calls", lambda: native, None))
    with suppress(ImportError):  # there are machines it has no wheel for
        made.append(Wasmtime())
    return made


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
