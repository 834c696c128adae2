"""The walk of machine code over bodies: it accepts only what is valid, and records what the validator records."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from aiowasm import InvalidError, Limits, Module, Store
from aiowasm.binary.decoder import decode
from aiowasm.binary.encoder import encode
from aiowasm.engine.native import Native, scan
from aiowasm.engine.native.builder.subset import FAULT
from aiowasm.engine.native.scanning import names as n
from aiowasm.engine.native.scanning import scanner as scanning
from aiowasm.engine.native.scanning.scanner import Scanner
from aiowasm.engine.native.scanning.walk import validate
from aiowasm.errors import MalformedError
from aiowasm.features import ALL, WASM_1, WASM_2, Features
from aiowasm.syntax.steps import finish
from aiowasm.text.parser import parse_module
from aiowasm.text.script import AssertInvalid, AssertMalformed, parse_script
from aiowasm.validation.module import validate_module, validate_module_steps
from tests.fuzz.law import seeds
from tests.fuzz.scanned import changed, check, program, scanned, seen

pytestmark = pytest.mark.usefixtures("native")


def binary(text: str) -> bytes:
    return encode(parse_module(text, ALL))


def test_random_bodies_are_recorded_alike() -> None:
    accepted = declined = invalid = 0
    for seed in range(60):
        data, rng = program(seed), Random(seed)
        for each in (data, *(changed(data, rng) for _ in range(12))):
            found = check(each)
            accepted, declined, invalid = accepted + found[0], declined + found[1], invalid + found[2]
    assert accepted > 1000
    assert invalid > 100


def test_bodies_of_kernels_are_recorded_alike(kernels: Path) -> None:
    accepted = 0
    for path in sorted(kernels.rglob("*.wasm")):
        accepted += check(path.read_bytes())[0]
    assert accepted > 80


@pytest.mark.parametrize("features", [ALL, WASM_2, WASM_1], ids=["all", "wasm 2", "wasm 1"])
def test_bodies_of_the_suite_are_recorded_alike(testsuite: Path, features: Features) -> None:
    accepted = 0
    for data in seeds():
        try:
            accepted += check(data, features)[0]
        except (InvalidError, MalformedError):
            continue
    assert accepted > 2000


def test_invalid_bodies_of_the_suite_are_declined(testsuite: Path) -> None:
    tried = 0
    for path in sorted(testsuite.rglob("*.wast")):
        try:
            commands = parse_script(path.read_bytes())
        except MalformedError:
            continue
        for command in commands:
            if not isinstance(command, AssertInvalid | AssertMalformed):
                continue
            source = command.module.source
            source = source.encode() if isinstance(source, str) else bytes(source)
            try:
                data = encode(parse_module(source, ALL)) if source.lstrip()[:1] == b"(" else source
                _, _, invalid = check(data)
            except (InvalidError, MalformedError):
                continue  # that is not about its bodies
            tried += invalid
    assert tried > 1500


# In Python, with arrays that behave as the machine's do.


class Array(list[int]):
    """Integers of some bits; what is outside does not exist."""

    def __init__(self, values: Any, nbits: int) -> None:
        super().__init__(values)
        self.nbits = nbits

    def __getitem__(self, index: Any) -> Any:
        if index < 0:
            raise IndexError(index)
        return super().__getitem__(index)

    def __setitem__(self, index: Any, value: Any) -> None:
        if index < 0:
            raise IndexError(index)
        value &= (1 << self.nbits) - 1
        super().__setitem__(index, value - (1 << 64) if value >> 63 else value)


def arrays_of(scanner: Scanner) -> list[Array]:
    """What the machine's walk gets, in Python; of what it fills in, as much as small bodies need."""
    tables = scanner._tables
    codes = tables.opcodes
    given = [
        *(codes.kinds, codes.params, codes.results, codes.details, codes.costs),
        *(tables.sigs, tables.sigtypes, tables.funcs, tables.globals, tables.tables),
        *(tables.mems, tables.tags, tables.valtypes),
    ]
    made = [Array(scanner._state, 64), Array(scanner._funcs.buffer, 8)]
    made += [Array(values, 8 * values.itemsize) for values in given]
    for kind, count in scanning._SCRATCH.values():
        made.append(Array([0] * min(count, 8000), {"B": 8, "H": 16, "I": 32}.get(kind, 64)))
    return made


def test_machine_code_does_what_the_walk_says() -> None:
    compared = 0
    for seed in range(8):
        data, rng = program(seed), Random(seed)
        for each in (data, *(changed(data, rng) for _ in range(5))):
            validated, scanner = scanned(each, ALL)
            for index in range(len(validated.module.funcs)):
                accepted = scanner.accepts(index)
                arrays = arrays_of(scanner)
                try:
                    result = validate(*arrays)
                except IndexError:
                    result = FAULT
                assert (result == n.YES) == accepted
                if not accepted:
                    continue
                assert list(scanner._state)[: n.VALUE] == list(arrays[0])[: n.VALUE]
                for name, values in zip(scanning._SCRATCH, arrays[-len(scanning._SCRATCH) :], strict=True):
                    if name in scanning._COUNTS:
                        field, size = scanning._COUNTS[name]
                        count = arrays[0][field] * size
                        mask = (1 << values.nbits) - 1
                        written = list(scanner._scratch.views[name][:count])
                        assert [value & mask for value in list(values)[:count]] == [value & mask for value in written]
                compared += 1
    assert compared > 50


# What must not be accepted, though each is nearly right


@pytest.mark.parametrize(
    "text",
    [
        "(func local.get 0 drop)",
        "(func (result i32))",
        "(func i32.const 1)",
        "(func (result i32) i64.const 1)",
        "(func i32.const 0 i32.load drop)",
        "(memory 1) (func i64.const 0 i32.load drop)",
        "(global $g i32 (i32.const 0)) (func i32.const 1 global.set $g)",
        "(func (param externref externref) local.get 0 local.get 1 i32.const 1 select drop)",
        "(func (result i32) i32.const 1 if (result i32) i32.const 1 end)",
        "(func i32.const 0 br_if 1)",
        "(func (result i32) block (result i32) br 0 end)",
        "(func block (result i32) i32.const 0 i32.const 0 br_table 0 1 end drop)",
        "(func i32.const 0 call_indirect)",
        "(table 1 externref) (func i32.const 0 call_indirect)",
        "(type $s (struct)) (table 1 funcref) (func i32.const 0 call_indirect (type $s))",
        "(memory 1) (func i32.const 0 i32.atomic.load8_u align=1 drop i32.const 0 i64.atomic.load align=4 drop)",
    ],
)
def test_wrong_bodies_are_declined(text: str) -> None:
    try:
        data = encode(parse_module(f"(module {text})", ALL))
    except MalformedError:
        pytest.fail("the text is malformed")
    validated, scanner = scanned(data, ALL)
    last = len(validated.module.funcs) - 1
    assert not scanner.accepts(last)
    with pytest.raises((InvalidError, MalformedError)):
        validated.record(last)


def test_more_types_than_there_are_numbers() -> None:
    # Types without a number must not be taken for one another, nor for no operand at all.
    types = "".join(f"(type $t{number} (func (param {'i32 ' * number})))" for number in range(300))
    uses = "".join(f"(global $g{number} (mut (ref null $t{number})) (ref.null $t{number}))" for number in range(300))
    text = f"(module {types} {uses} (func global.get $g298 global.set $g299) (func global.set $g299))"
    validated, scanner = scanned(binary(text), ALL)
    assert not scanner.accepts(0)
    assert not scanner.accepts(1)
    with pytest.raises(InvalidError):
        validated.record(1)


def test_prefixes_do_not_run_into_one_another() -> None:
    # fc d0 02 is no instruction, though its number would lead to one of fd's.
    body = bytes.fromhex("00 fd0c 00000000000000000000000000000000 fd0c 00000000000000000000000000000000 fcd002 1a 0b")
    data = bytes.fromhex("0061736d01000000 0104 01600000 0302 0100") + bytes([10, len(body) + 2, 1, len(body)]) + body
    with pytest.raises(MalformedError, match="illegal opcode"):
        validate_module(decode(data, ALL), ALL)
    _, scanner = scanned(data, ALL)
    assert not scanner.accepts(0)


def test_long_lists_of_operands_are_for_the_walk_that_yields() -> None:
    # Each call of two bytes moves a thousand operands.
    text = f"(module (func $f (param {'i32 ' * 1000}) (result {'i32 ' * 1000}) {'local.get 0 ' * 1000} {{}}))"
    few, many = (scanned(binary(text.format("call $f " * count)), ALL) for count in (10, 2000))
    assert few[1].accepts(0)
    assert not many[1].accepts(0)
    mine = finish(few[1].record_steps(few[0], 0))
    assert mine is not None
    assert seen(mine) == seen(few[0].record(0))


def test_large_bodies_are_for_the_walk_that_yields() -> None:
    small, large = (scanned(binary(f"(module (func {'nop ' * count}))"), ALL) for count in (100_000, 140_000))
    assert small[1].accepts(0)
    assert not large[1].accepts(0)


def test_deep_nesting_and_many_operands_are_declined() -> None:
    blocks = binary(f"(module (func {'block ' * 5000} {'end ' * 5000}))")
    operands = binary(f"(module (func {'i32.const 1 ' * 65_000} {'drop ' * 65_000}))")
    for data in (blocks, operands):
        validated, scanner = scanned(data, ALL)
        mine = finish(scanner.record_steps(validated, 0))
        assert mine is None or seen(mine) == seen(validated.record(0))
    assert not scanned(blocks, ALL)[1].accepts(0)


def test_bodies_end_where_they_say() -> None:
    # The second function's bytes follow: none of them may become part of the first.
    data = binary("(module (func (result i32) i32.const 1) (func (result i32) i32.const 2))")
    funcs = decode(data, ALL).funcs
    for end in range(funcs.starts[0], funcs.ends[1] + 1):
        _, scanner = scanned(data, ALL)
        scanner._funcs.ends[0] = end
        assert scanner.accepts(0) == (end == funcs.ends[0])


# In use


def test_eager_validation_says_what_the_walk_says() -> None:
    text = "(module (func $f nop) (func $g (result i32) i64.const 1) (func $h nop))"
    data = binary(text)
    module = decode(data, ALL)
    with pytest.raises(InvalidError) as mine:
        finish(validate_module_steps(module, ALL, scan))
    with pytest.raises(InvalidError) as other:
        finish(validate_module_steps(module, ALL))
    assert str(mine.value) == str(other.value)
    assert (mine.value.offset, mine.value.funcidx) == (other.value.offset, other.value.funcidx)


def test_eager_validation_yields() -> None:
    functions = f"(func {'i32.const 1 drop ' * 1000})" * 300
    module = decode(binary(f"(module {functions})"), ALL)
    assert sum(1 for _ in validate_module_steps(module, ALL, scan)) > 3


@pytest.mark.anyio
async def test_modules_are_validated_so() -> None:
    # Large enough for machine code to be asked; the wrong function is found all the same.
    functions = f"(func {'i32.const 1 drop ' * 1000})" * 10
    good = binary(f'(module {functions} (func (export "f") (result i32) i32.const 7))')
    module = await Module.from_bytes(good)
    assert isinstance(module._validated.scanner, Scanner)
    async with Store(limits=Limits()) as store:
        instance = await store.instantiate(module)
        assert await instance.exports["f"]() == 7
    with pytest.raises(InvalidError, match="type mismatch"):
        await Module.from_bytes(binary(f"(module {functions} (func (result i32) i64.const 7))"))


def test_engines_run_what_was_scanned(native: Native) -> None:
    assert native.name == "native"
    validated, scanner = scanned(binary("(module (func (param i32) (result i32) local.get 0))"), ALL)
    assert validated.scanner is scanner
    record = finish(scanner.record_steps(validated, 0))
    assert record is not None
    assert record.locals == validated.record(0).locals
