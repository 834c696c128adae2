"""Small compiled kernels give the results that a native build of the same source gives, on every engine and loop."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from aiowasm import ALL, HostModule, LinkError, Module, Store, Trap, WasmException, f64, i32

pytestmark = pytest.mark.anyio


def names() -> list[str]:
    """The kernels below WASM_KERNELS; one that the fixture skips if it is not set."""
    root = Path(os.environ.get("WASM_KERNELS") or "/nonexistent")
    return sorted(path.parent.name for path in root.glob("*/case.json")) or ["fib"]


def value(entry: dict[str, str]) -> Any:
    """An argument, or a result as bits."""
    kind, text = entry["type"], entry["value"]
    if kind in ("i32", "i64"):
        return int(text)
    letters = ("<I", "<f") if kind == "f32" else ("<Q", "<d")
    return struct.unpack(letters[1], struct.pack(letters[0], int(text, 16)))[0] if text[:2] == "0x" else float(text)


def same(kind: str, actual: Any, expected: Any) -> bool:
    """Equality of bits: minus zero is not zero."""
    if kind in ("i32", "i64"):
        bits = int(kind[1:])
        return bool(actual & ((1 << bits) - 1) == expected & ((1 << bits) - 1))
    return struct.pack("<d", actual) == struct.pack("<d", expected)


def assemblyscript() -> HostModule:
    """What programs of that compiler import."""
    env = HostModule("env")

    @env.function
    def abort(_message: i32, _file: i32, _line: i32, _column: i32) -> None:
        raise RuntimeError("the guest aborted")

    @env.function
    def seed() -> f64:
        return 42.0

    return env


@pytest.mark.parametrize("name", names())
async def test_small_runs(kernels: Path, name: str, engine: str, anyio_backend: object) -> None:
    case = json.loads((kernels / name / "case.json").read_text())
    module = await Module.from_file(kernels / name / "module.wasm", features=ALL)
    calls = [call for run in case["runs"] if run["id"] == "small" for call in run["calls"]]
    assert calls
    async with Store(engine=engine, features=ALL) as store:
        await store.instantiate(assemblyscript())
        if engine == "native" and name == "gc":
            with pytest.raises(LinkError, match="gc"):
                await store.instantiate(module)
            return
        instance = await store.instantiate(module)
        for call in calls:
            arguments = [value(argument) for argument in call["args"]]
            if call["results"] is None:
                with pytest.raises((Trap, WasmException)):
                    await instance.call(call["export"], *arguments)
                continue
            results = await instance.call(call["export"], *arguments)
            returned = () if results is None else results if isinstance(results, tuple) else (results,)
            assert len(returned) == len(call["results"])
            for actual, expected in zip(returned, call["results"], strict=True):
                assert same(expected["type"], actual, value(expected)), call
