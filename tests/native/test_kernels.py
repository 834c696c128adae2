"""Compiled programs mean the same on the native engine, the interpreter and wasmtime, call by call.

The long runs, which the interpreter would need minutes for, are compared when AIOWASM_LONG is set: with wasmtime.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from aiowasm.binary.decoder import decode
from aiowasm.engine.base import Engine, Outcome
from aiowasm.engine.func import FuncInst
from aiowasm.engine.heap import Heap
from aiowasm.engine.instantiate import Bounds, Import, instantiate
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.engine.native import Native
from aiowasm.features import ALL
from aiowasm.syntax.types import F64, I32
from aiowasm.validation.module import validate_module
from tests.fuzz.differential import Wasmtime
from tests.native.driver import finish, functype, start
from tests.native.recording import Recording

WITHOUT_GC = sorted(
    path.parent.name
    for path in Path(os.environ.get("WASM_KERNELS") or "/nonexistent").glob("*/case.json")
    if path.parent.name != "gc"
) or ["fib"]
IMPORTS: dict[str, Import] = {
    "abort": FuncInst(functype((I32,) * 4), host=lambda _caller, *_arguments: None),
    "seed": FuncInst(functype((), (F64,)), host=lambda _caller: 42.0),
}


def argument(entry: dict[str, str]) -> int | float:
    kind, text = entry["type"], entry["value"]
    if kind in ("i32", "i64"):
        return int(text) & ((1 << int(kind[1:])) - 1)
    if text[:2] != "0x":
        return float(text)
    letters = ("<I", "<f") if kind == "f32" else ("<Q", "<d")
    return float(struct.unpack(letters[1], struct.pack(letters[0], int(text, 16)))[0])


def calls(kernels: Path, name: str, run: str) -> list[tuple[str, list[int | float]]]:
    case = json.loads((kernels / name / "case.json").read_text())
    found = [call for each in case["runs"] if each["id"] == run for call in each["calls"]]
    return [(call["export"], [argument(entry) for entry in call["args"]]) for call in found]


def ours(engine: Engine, binary: bytes, made: list[tuple[str, list[int | float]]], slice_fuel: int) -> Recording:
    validated = validate_module(decode(binary, ALL), ALL)
    recording = Recording(engine)
    imports = tuple(IMPORTS[each.name] for each in validated.module.imports)
    instance = instantiate(validated, imports, recording, bounds=Bounds(Heap()))
    if validated.module.start is not None:
        finish(start(recording, instance.funcs[validated.module.start]))
        recording.records.clear()
    exports = {each.name: each.index for each in validated.module.exports if each.kind == "func"}
    for export, arguments in made:
        finish(start(recording, instance.funcs[exports[export]], *arguments, call_depth=10_000), slice_fuel)
    return recording


def wasmtime_sees(binary: bytes, made: list[tuple[str, list[int | float]]]) -> list[tuple[Any, ...] | None]:
    """The results of calls in plain form; None for those that trap or throw."""
    wasmtime = pytest.importorskip("wasmtime")
    engine = Wasmtime().engine
    store = wasmtime.Store(engine)
    module = wasmtime.Module(engine, binary)
    i32, f64 = wasmtime.ValType.i32(), wasmtime.ValType.f64()
    hosts = {
        "abort": (wasmtime.FuncType([i32] * 4, []), lambda *_arguments: None),
        "seed": (wasmtime.FuncType([], [f64]), lambda: 42.0),
    }
    imports = [wasmtime.Func(store, *hosts[each.name]) for each in module.imports]
    store.set_fuel(1 << 62)
    exports = wasmtime.Instance(store, module, imports).exports(store)
    seen: list[tuple[Any, ...] | None] = []
    for export, arguments in made:
        function = exports[export]
        functype = function.type(store)
        signed = [_signed(*each) for each in zip(arguments, map(str, functype.params), strict=True)]
        try:
            results = function(store, *signed)
        except (wasmtime.Trap, wasmtime.WasmtimeError):
            seen.append(None)
            continue
        listed = [] if results is None else results if isinstance(results, list) else [results]
        seen.append(tuple(_plain(*each) for each in zip(listed, map(str, functype.results), strict=True)))
    return seen


def _signed(value: int | float, kind: str) -> int | float:
    if isinstance(value, float):
        return value
    bits = int(kind[1:])
    return value - (1 << bits) if value >> bits - 1 else value


def _plain(value: int | float, kind: str) -> int | bytes:
    return value & ((1 << int(kind[1:])) - 1) if isinstance(value, int) else struct.pack("<d", value)


def _results(recording: Recording) -> list[tuple[Any, ...] | None]:
    return [each.results if each.outcome is Outcome.RETURNED else None for each in recording.records]


@pytest.mark.parametrize("name", WITHOUT_GC)
def test_small_runs(kernels: Path, native: Native, name: str) -> None:
    binary = (kernels / name / "module.wasm").read_bytes()
    made = calls(kernels, name, "small")
    expected = ours(Interpreter(), binary, made, 1_000_000)
    assert len(expected.records) == len(made)
    for slice_fuel in (1_000_000_000, 10_000, 77):
        seen = ours(native, binary, made, slice_fuel)
        assert seen.records == expected.records
        assert seen.end() == expected.end()
    assert _results(expected) == wasmtime_sees(binary, made)


@pytest.mark.skipif(not os.environ.get("AIOWASM_LONG"), reason="AIOWASM_LONG is not set")
@pytest.mark.parametrize("name", WITHOUT_GC)
def test_long_runs(kernels: Path, native: Native, name: str) -> None:
    binary = (kernels / name / "module.wasm").read_bytes()
    made = calls(kernels, name, "bench")
    seen = ours(native, binary, made, 1_000_000_000)
    assert _results(seen) == wasmtime_sees(binary, made)
    assert ours(native, binary, made, 12_345).records == seen.records
