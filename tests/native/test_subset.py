"""The part of Python that becomes machine code: the rest of Python is refused, and every access is checked."""

from __future__ import annotations

import ast
import sys
import types
from pathlib import Path

import pytest

from aiowasm.engine.native.builder import subset
from aiowasm.engine.native.scanning import control, operands, walk

HEAD = "from collections.abc import MutableSequence\nBytes = Longs = MutableSequence[int]\nSEVEN = 7\n"


def ir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, parameters: str = "a: Longs, b: Bytes") -> str:
    """The IR of a function `f` of that body."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    source = f"from __future__ import annotations\n{HEAD}\ndef f({parameters}) -> int:\n{lines}\n"
    path = tmp_path / "written.py"
    path.write_text(source, encoding="utf-8")
    module = types.ModuleType("written")
    module.__file__ = str(path)
    exec(compile(source, str(path), "exec"), module.__dict__)
    monkeypatch.setitem(sys.modules, "written", module)
    return subset.functions_ir(module.f)


@pytest.mark.parametrize(
    "body",
    [
        "for x in a:\n    pass\nreturn 0",
        "return a[0] // 2",
        "return a[0] if b[0] else 1",
        "x = a\nreturn 0",
        "return len(a)",
        "return a[0] < b[0]",
        "a[0], b[0] = 1, 2\nreturn 0",
        "return a.pop()",
        "return unknown",
        "return 1.5",
        "return a[0:1]",
        "while a[0]:\n    a[0] = 0\nelse:\n    return 1\nreturn 0",
        "assert a[0]\nreturn 0",
        "if 1 < a[0] < 2:\n    return 1\nreturn 0",
        "return",
    ],
)
def test_the_rest_of_python_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    with pytest.raises(SyntaxError):
        ir(tmp_path, monkeypatch, body)


def test_arguments_are_arrays_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SyntaxError, match="other things than arrays"):
        ir(tmp_path, monkeypatch, "return n", "a: Longs, n: int")


def test_constants_are_those_of_the_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ret i64 7" in ir(tmp_path, monkeypatch, "return SEVEN")


def test_every_access_is_checked() -> None:
    text = subset.functions_ir(walk.validate)
    functions = text.split("define ")[1:]
    accesses = checks = 0
    for function in functions:
        if ".entry" in function.partition("\n")[0]:
            continue
        accesses += sum(line.count("getelementptr") for line in function.splitlines())
        checks += function.count("icmp ult i64")
        lines = function.splitlines()
        for number, line in enumerate(lines):
            if "getelementptr" not in line:
                continue
            name, index = line.split("ptr %a.")[1].split(", i64 ")
            assert lines[number - 3].endswith(f"icmp ult i64 {index}, %n.{name}")
            assert f"br i1 {lines[number - 3].split()[0]}, label %" in lines[number - 2]
            assert "label %outside" in lines[number - 2]
    trees = [ast.parse(Path(module.__file__).read_text(encoding="utf-8")) for module in (walk, control, operands)]
    assert accesses == checks
    assert accesses >= sum(isinstance(node, ast.Subscript) for tree in trees for node in ast.walk(tree))


def test_loads_and_stores_go_through_what_was_checked() -> None:
    # No other pointers are read or written than elements, locals, and the flag.
    for line in subset.functions_ir(walk.validate).splitlines():
        if line.startswith("store") or "= load" in line:
            pointer = line.split("ptr ")[1].split(",")[0]
            assert pointer.startswith(("%v", "%l.", "%fault", "%p")), line
