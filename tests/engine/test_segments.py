"""Segments of instances: what is left of them after instantiation, complete or not."""

from __future__ import annotations

import pytest

from aiowasm.binary.decoder import decode
from aiowasm.binary.encoder import encode
from aiowasm.engine.instance import ModuleInst
from aiowasm.engine.instantiate import instantiate
from aiowasm.engine.interpreter.engine import Interpreter
from aiowasm.errors import Trap
from aiowasm.text.parser import parse_module
from aiowasm.validation.module import validate_module

DATAS = '(data (i32.const 0) "one") (data "two") (data (i32.const 0) "three")'


def instance_of(form: str, text: str) -> tuple[ModuleInst, bool]:
    """An instance, and whether its instantiation trapped."""
    module = parse_module(f"(module (memory 1) (table 1 funcref) (func $f) {text})")
    if form == "binary":
        module = decode(encode(module))
    found: list[ModuleInst] = []
    try:
        instantiate(validate_module(module), (), Interpreter(), adopt=found.append)
    except Trap:
        return found[0], True
    return found[0], False


@pytest.mark.parametrize("form", ["text", "binary"])
@pytest.mark.parametrize(
    ("more", "trapped", "left"),
    [
        ("", False, [b"", b"two", b""]),
        ('(data (i32.const 65534) "end") (data (i32.const 0) "five")', True, [b"", b"two", b"", b"end", b"five"]),
        ("(elem (i32.const 1) $f)", True, [b"one", b"two", b"three"]),
    ],
    ids=["complete", "a segment of data does not fit", "a segment of elements does not fit"],
)
def test_active_segments_are_dropped_once_they_are_written(
    form: str, more: str, trapped: bool, left: list[bytes]
) -> None:
    instance, ended = instance_of(form, DATAS + more)
    assert ended is trapped
    assert [instance.datas[number].data for number in range(len(left))] == left


def test_a_dropped_segment_stays_so() -> None:
    instance, _ = instance_of("binary", DATAS)
    instance.datas[1].drop()
    assert instance.datas[1].data == b""
    with pytest.raises(IndexError):
        instance.datas[3]
