"""Texts are parsed in steps: a large one holds nobody up, and comes out as it does at once."""

from __future__ import annotations

import pytest

from aiowasm.errors import MalformedError
from aiowasm.text.parser import parse_module, parse_module_steps

TEXTS = {
    "one flat function": "(module (func " + "i32.const 1 drop " * 5000 + "))",
    "one folded function": "(module (func " + "(drop (i32.add (i32.const 1) (i32.const 2)))" * 3000 + "))",
    "many functions": "(module " + "(func $f (param i32))".replace("$f", "") * 2000 + ")",
    "comments": "(module " + "(;;)" * 20_000 + ")",
    "strings": '(module (memory 1) (data (i32.const 0) "\\00\\01a\\u{e9}\\n" ' + '"abc" ' * 3000 + "))",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_steps_are_many_and_change_nothing(text: str) -> None:
    steps, count = parse_module_steps(text), 0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            module = stop.value
            break
        count += 1
    assert count > 5
    assert module == parse_module(text)


def test_errors_come_out_of_steps_too() -> None:
    text = "(module (func " + "i32.const 1 drop " * 5000 + "i32.konst))"
    with pytest.raises(MalformedError, match="unknown operator"):
        list(parse_module_steps(text))


def test_escapes_in_runs_and_alone() -> None:
    module = parse_module(r'(module (memory 1) (data (i32.const 0) "\41\42c\u{43}\44\t\45\\\46\""))')
    assert module.datas[0].init == b'ABcCD\tE\\F"'
