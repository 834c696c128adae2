"""Every module of the test suite: valid ones validate, those asserted invalid do not, with the suite's phrase."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiowasm.binary.decoder import decode
from aiowasm.errors import InvalidError, MalformedError
from aiowasm.features import ALL, Feature
from aiowasm.text.script import AssertInvalid, ModuleCommand, ModuleText, parse_script
from aiowasm.validation.module import validate_module

wasmtime = pytest.importorskip("wasmtime")


def binary(module: ModuleText) -> bytes | None:
    """The module's binary, or None where the assembler at hand does not know the syntax."""
    if module.kind == "binary":
        return bytes(module.source) if not isinstance(module.source, str) else module.source.encode()
    source = module.source if isinstance(module.source, str) else module.source.decode()
    try:
        return bytes(wasmtime.wat2wasm(source))
    except wasmtime.WasmtimeError:
        return None


def run(path: Path) -> tuple[list[str], int]:
    """Run a script's modules through validation; give what went wrong and how many were tried."""
    problems: list[str] = []
    count = 0
    features = ALL
    if "proposals" not in str(path):
        features = ALL - {Feature.CUSTOM_PAGE_SIZES}
    if "threads" in path.parts:
        # The proposal's scripts are older than these two.
        features -= {Feature.MULTI_MEMORY}
        if path.name == "imports.wast":
            features -= {Feature.REFERENCE_TYPES}
    for command in parse_script(path.read_bytes()):
        if not isinstance(command, ModuleCommand | AssertInvalid) or getattr(command, "custom", False):
            continue
        data = binary(command.module)
        if data is None:
            continue
        count += 1
        try:
            validate_module(decode(data, features), features)
        except (InvalidError, MalformedError) as error:
            if isinstance(command, ModuleCommand):
                problems.append(f"{path.name}:{command.module.line}: valid, but: {error}")
            elif not str(error).startswith(command.message):
                problems.append(f"{path.name}:{command.module.line}: {command.message!r} expected: {error}")
        else:
            if isinstance(command, AssertInvalid):
                problems.append(f"{path.name}:{command.module.line}: {command.message!r} expected, but it is valid")
    return problems, count


def test_modules_of_the_suite(testsuite: Path) -> None:
    problems: list[str] = []
    count = 0
    for path in sorted(testsuite.rglob("*.wast")):
        if "custom-descriptors" in path.parts or path.name.startswith("annotations"):
            continue
        found, tried = run(path)
        problems += found
        count += tried
    assert not problems, "\n".join(problems[:40])
    assert count > 3000
