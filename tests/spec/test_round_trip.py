"""decode(encode(m)) == m and parse(print(m)) == m for every module of the suite, whatever a script does with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from aiowasm.binary.decoder import decode
from aiowasm.binary.encoder import encode
from aiowasm.cli.features import features_used
from aiowasm.cli.wast.profiles import profile
from aiowasm.errors import InvalidError, MalformedError
from aiowasm.features import ALL, WASM_1, Features
from aiowasm.syntax.module import Module
from aiowasm.text.parser import parse_module
from aiowasm.text.printer import print_module
from aiowasm.text.script import ModuleText, parse_script
from aiowasm.validation.module import validate_module


def module_texts(commands: Iterable[object]) -> Iterator[ModuleText]:
    """The modules of commands, those of threads included."""
    for command in commands:
        for value in (getattr(command, "module", None), getattr(command, "action", None)):
            if isinstance(value, ModuleText):
                yield value
        yield from module_texts(getattr(command, "commands", ()))


def read(text: ModuleText, features: Features) -> Module:
    if text.kind == "binary":
        assert isinstance(text.source, bytes)
        return decode(text.source, features)
    return parse_module(text.source, features)


def modules(path: Path) -> Iterator[tuple[ModuleText, Module, Features]]:
    """Every module of a script that is well-formed, bodies included; it may be invalid."""
    features = profile(path)
    if isinstance(features, str):
        features = ALL
    for text in module_texts(parse_script(path.read_bytes())):
        try:
            module = read(text, features)
        except (MalformedError, InvalidError):
            continue
        try:
            validate_module(module, features)
        except MalformedError:
            continue
        except InvalidError:
            pass
        yield text, module, features


def same(one: Module, other: Module) -> list[str]:
    """Names of the fields that differ."""
    return [
        field.name
        for field in fields(Module)
        if field.compare and getattr(one, field.name) != getattr(other, field.name)
    ]


def problems(text: ModuleText, module: Module, features: Features) -> Iterator[str]:
    binary = encode(module)
    again = decode(binary, features)
    if again != module or again.data_count != module.data_count:
        yield f"decode(encode(m)) differs in {same(again, module)}"
    if encode(again) != binary:
        yield "encoding twice gives other bytes"
    parsed = parse_module(print_module(module), features)
    if parsed != module:
        yield f"parse(print(m)) differs in {same(parsed, module)}"
    if text.kind != "binary":
        if encode(parsed) != binary:
            yield "text printed and parsed gives other bytes"
    elif binary != text.source and len(binary) >= len(text.source):
        # Only what could be said in fewer bytes is not canonical.
        yield "a canonical binary gives other bytes"


def test_round_trips(testsuite: Path) -> None:
    found = []
    count = 0
    for path in sorted(testsuite.rglob("*.wast")):
        for text, module, features in modules(path):
            count += 1
            found += [f"{path.name}:{text.line}: {problem}" for problem in problems(text, module, features)]
    assert not found, "\n".join(found[:40])
    assert count > 5000


def test_compiled_modules_round_trip(kernels: Path) -> None:
    paths = sorted(kernels.rglob("*.wasm"))
    assert paths
    for path in paths:
        binary = path.read_bytes()
        text = ModuleText(None, "binary", binary, 1)
        assert not list(problems(text, decode(binary), ALL)), path


def test_the_features_that_a_module_uses_admit_it(testsuite: Path) -> None:
    found = []
    count = 0
    for path in sorted(testsuite.rglob("*.wast")):
        for text, module, features in modules(path):
            try:
                validate_module(module, features)
            except InvalidError:
                continue
            used = frozenset(features_used(module))
            count += 1
            try:
                validate_module(decode(encode(module), used), used)
            except (MalformedError, InvalidError) as error:
                found.append(f"{path.name}:{text.line}: {sorted(feature.value for feature in used)}: {error}")
            if not used <= features | WASM_1:
                found.append(f"{path.name}:{text.line}: more than its profile: {used - features}")
    assert not found, "\n".join(found[:40])
    assert count > 2000


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ('(@custom "a") (@custom "b" (after last))', [0, 0]),
        ('(@custom "a") (memory 1)', [5]),
        ('(@custom "a" (after data)) (@custom "b") (memory 1)', [11, 11]),
        ('(@custom "a" (after start)) (memory 1)', [5]),
        ('(@custom "a" (before first)) (@custom "b" (after memory)) (memory 1) (data "")', [0, 5]),
    ],
)
def test_custom_sections_stand_where_a_binary_can_have_them(text: str, places: list[int]) -> None:
    module = parse_module(text)
    assert [custom.place for custom in module.customs] == places
    assert decode(encode(module)) == module
    assert parse_module(print_module(module)) == module
