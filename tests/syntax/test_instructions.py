"""The instruction table against itself, and row by row against the standard's own index of instructions."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from aiowasm.features import WASM_1, WASM_2, WASM_3, Feature, Features
from aiowasm.syntax.instructions import BY_CODE, BY_MNEMONIC, BY_NAME, INSTRUCTIONS, Instruction

if TYPE_CHECKING:
    from pathlib import Path

# Rows that the index does not have: proposals after, or beside, version 3.
BEYOND = {Feature.THREADS, Feature.LEGACY_EXCEPTIONS, Feature.WIDE_ARITHMETIC}

# What the index writes at length where the table has a name.
ABBREVIATIONS = {"(ref null array)": "arrayref", "(ref i31)": "i31nonnull"}

# Fixed types in which the index names types that only the immediate or the context knows.
VARIABLES = re.compile(r"\b(t|t'|t_\w+|x|y|ht|at_\w+)(?![\w'])|\^|\*")


def opcode(entry: dict[str, Any]) -> int | tuple[int, int]:
    first, *rest = entry["opcode"]
    return (first, rest[0]) if rest else first


def stack_type(written: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`[at I32] -> []` as the table has it: (("at", "i32"), ())."""
    normal = written.lower()
    for long, short in ABBREVIATIONS.items():
        normal = normal.replace(long, short)
    match = re.fullmatch(r"\[(.*)\] -> \[(.*)\]", normal)
    if match is None:
        raise ValueError(written)
    return tuple(match[1].split()), tuple(match[2].split())


@pytest.fixture(scope="module")
def index(spec_index: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((spec_index / "instructions.json").read_text(encoding="utf-8"))
    assert len(entries) == 499
    return entries


@pytest.fixture(scope="module")
def by_opcode() -> dict[int | tuple[int, int], Instruction]:
    return {row.opcode: row for row in INSTRUCTIONS}


def test_opcodes_are_those_of_the_standard(index: list[dict[str, Any]]) -> None:
    expected = [opcode(entry) for entry in index]
    assert len(set(expected)) == len(expected)
    assert {row.opcode for row in INSTRUCTIONS if row.feature not in BEYOND} == set(expected)


def test_features_belong_to_the_version_of_the_standard(
    index: list[dict[str, Any]], by_opcode: dict[int | tuple[int, int], Instruction]
) -> None:
    admitted: dict[float, Features | set[None]] = {1.0: {None}, 2.0: WASM_2 - WASM_1, 3.0: WASM_3 - WASM_2}
    wrong = []
    for entry in index:
        row = by_opcode[opcode(entry)]
        if row.feature not in admitted[entry["version"]]:
            wrong.append((row.name, row.feature, entry["version"]))
    assert not wrong


def test_stack_types_are_those_of_the_standard(
    index: list[dict[str, Any]], by_opcode: dict[int | tuple[int, int], Instruction]
) -> None:
    wrong = []
    compared = 0
    for entry in index:
        row = by_opcode[opcode(entry)]
        if row.type is not None:
            compared += 1
            if row.type != stack_type(entry["type"]):
                wrong.append((row.name, row.type, entry["type"]))
    assert not wrong
    assert compared > 400


def test_a_type_without_variables_is_in_the_table(
    index: list[dict[str, Any]], by_opcode: dict[int | tuple[int, int], Instruction]
) -> None:
    """A row may leave its type to validation only where the standard's type has variables."""
    conversions = {"any.convert_extern", "extern.convert_any"}  # the nullability of the result follows the operand's
    left_out = {
        by_opcode[opcode(entry)].name
        for entry in index
        if by_opcode[opcode(entry)].type is None and entry["type"] and not VARIABLES.search(entry["type"].lower())
    }
    assert left_out == conversions


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(INSTRUCTIONS)


def test_opcodes_are_unique() -> None:
    assert len({row.opcode for row in INSTRUCTIONS}) == len(INSTRUCTIONS)
    assert len({row.code for row in INSTRUCTIONS}) == len(INSTRUCTIONS)


def test_rows_are_in_the_order_of_their_opcodes() -> None:
    codes = [row.code for row in INSTRUCTIONS]
    assert codes == sorted(codes)


def test_by_code_has_every_row_and_no_other() -> None:
    assert [row for row in BY_CODE if row is not None] == list(INSTRUCTIONS)
    assert all(row is None or row.code == code for code, row in enumerate(BY_CODE))


def test_three_mnemonics_are_overloaded() -> None:
    overloaded = {mnemonic: [row.name for row in rows] for mnemonic, rows in BY_MNEMONIC.items() if len(rows) > 1}
    assert overloaded == {
        "select": ["select", "select_t"],
        "ref.test": ["ref.test", "ref.test_null"],
        "ref.cast": ["ref.cast", "ref.cast_null"],
    }
    assert sum(len(rows) for rows in BY_MNEMONIC.values()) == len(INSTRUCTIONS)


def test_operations_are_written_with_a_family_and_a_shape() -> None:
    assert all(row.operation.family and row.operation.shape for row in INSTRUCTIONS if row.operation is not None)
