from __future__ import annotations

from pathlib import Path

import pytest

from aiowasm.errors import MalformedError
from aiowasm.text.script import (
    ActionCommand,
    AssertException,
    AssertExhaustion,
    AssertInvalid,
    AssertMalformed,
    AssertReturn,
    AssertTrap,
    AssertUnlinkable,
    Const,
    Either,
    Get,
    Invoke,
    ModuleCommand,
    ModuleDefinition,
    ModuleInstance,
    ModuleText,
    NanPattern,
    RefHost,
    RefNull,
    RefPattern,
    Register,
    Thread,
    VectorPattern,
    Wait,
    parse_script,
)


def test_modules() -> None:
    commands = parse_script(
        """(module $M (func))
        (module binary "\\00asm" "\\01")
        (module $Q quote "(fu" "nc)")
        (module definition $D (; x ;) (memory 1))
        (module definition binary "a")
        (module instance $I $D)
        (module instance)"""
    )
    assert commands == [
        ModuleCommand(1, ModuleText("$M", "text", "(module $M (func))", 1)),
        ModuleCommand(2, ModuleText(None, "binary", b"\0asm\1", 2)),
        ModuleCommand(3, ModuleText("$Q", "quote", b"(func)", 3)),
        ModuleDefinition(4, ModuleText("$D", "text", "(module $D (; x ;) (memory 1))", 4)),
        ModuleDefinition(5, ModuleText(None, "binary", b"a", 5)),
        ModuleInstance(6, "$I", "$D"),
        ModuleInstance(7, None, None),
    ]


def test_mere_fields_are_one_module() -> None:
    text = '(func) (memory 0) (func (export "f"))'
    assert parse_script(text) == [ModuleCommand(1, ModuleText(None, "text", text, 1))]


def test_annotation_behind_definition_is_kept() -> None:
    (command,) = parse_script('(module definition (@name "M") (func))')
    assert isinstance(command, ModuleDefinition)
    assert command.module.source == '(module (@name "M") (func))'


def test_commands() -> None:
    module = ModuleText(None, "quote", b"x", 1)
    commands = parse_script(
        '(register "a" $M)(register "a")(invoke "f")(get $M "g")(assert_return (get "g"))'
        '(assert_trap (invoke "f") "unreachable")(assert_trap (module quote "x") "t")'
        '(assert_exhaustion (invoke "f") "call stack exhausted")(assert_exception (invoke "f"))'
        '(assert_malformed (module quote "x") "m")(assert_invalid (module quote "x") "i")'
        '(assert_unlinkable (module quote "x") "u")(assert_malformed_custom (module quote "x") "c")'
        '(assert_invalid_custom (module quote "x") "c")'
        '(thread $T (shared (module $S)) (invoke "f"))(wait $T)'
    )
    invoke = Invoke(None, "f", ())
    assert commands == [
        Register(1, "a", "$M"),
        Register(1, "a", None),
        ActionCommand(1, invoke),
        ActionCommand(1, Get("$M", "g")),
        AssertReturn(1, Get(None, "g"), ()),
        AssertTrap(1, invoke, "unreachable"),
        AssertTrap(1, module, "t"),
        AssertExhaustion(1, invoke, "call stack exhausted"),
        AssertException(1, invoke),
        AssertMalformed(1, module, "m"),
        AssertInvalid(1, module, "i"),
        AssertUnlinkable(1, module, "u"),
        AssertMalformed(1, module, "c", custom=True),
        AssertInvalid(1, module, "c", custom=True),
        Thread(1, "$T", ("$S",), (ActionCommand(1, invoke),)),
        Wait(1, "$T"),
    ]


def test_arguments() -> None:
    (command,) = parse_script(
        '(invoke "f" (i32.const -1) (i64.const 0x10) (f32.const 1.5) (f64.const nan:0x1)'
        " (v128.const i16x8 1 2 3 4 5 6 7 -1) (ref.null func) (ref.extern 3) (ref.host 4))"
    )
    assert isinstance(command, ActionCommand)
    assert isinstance(command.action, Invoke)
    assert command.action.arguments == (
        Const("i32", 0xFFFFFFFF),
        Const("i64", 16),
        Const("f32", 0x3FC00000),
        Const("f64", 0x7FF0000000000001),
        Const("v128", bytes.fromhex("010002000300040005000600 0700ffff")),
        RefNull("func"),
        RefHost("extern", 3),
        RefHost("host", 4),
    )


def test_results() -> None:
    (command,) = parse_script(
        '(assert_return (invoke "f") (f32.const nan:canonical) (f64.const nan:arithmetic)'
        " (v128.const f32x4 nan:canonical 0 1 nan:arithmetic) (v128.const f64x2 0 -0) (ref.null) (ref.struct)"
        " (ref.extern) (either (i32.const 1) (i32.const 2)))"
    )
    assert isinstance(command, AssertReturn)
    canonical, arithmetic = NanPattern("f32", "canonical"), NanPattern("f32", "arithmetic")
    assert command.results == (
        canonical,
        NanPattern("f64", "arithmetic"),
        VectorPattern("f32x4", (canonical, Const("f32", 0), Const("f32", 0x3F800000), arithmetic)),
        Const("v128", bytes(15) + b"\x80"),
        RefNull(None),
        RefPattern("struct"),
        RefPattern("extern"),
        Either((Const("i32", 1), Const("i32", 2))),
    )


@pytest.mark.parametrize(
    "text",
    [
        "(assert_return)",
        '(invoke "f" (ref.any))',
        '(invoke "f" (f32.const nan:canonical))',
        '(invoke "f" (i32.const))',
        '(invoke "f" (i32.const 0x1_0000_0000))',
        '(invoke "f" (v128.const i8x16 1))',
        '(invoke "f" (v128.const i31 1))',
        '(assert_return (invoke "f") (either (either (i32.const 1))))',
        "(thread $T (thread $U))",
        '(assert_malformed "x")',
        "(module (func)",
        "(module $M))",
        "(module) drop",
        "(module) (frobnicate)",
        '(register "\\ff")',
        "(module binary 1)",
    ],
)
def test_malformed_scripts(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_script(text)


def test_suite_parses(testsuite: Path) -> None:
    failures = []
    for path in sorted(testsuite.rglob("*.wast")):
        try:
            commands = parse_script(path.read_bytes())
        except MalformedError as error:
            failures.append(f"{path.name}: {error}")
            continue
        assert commands, path.name
    assert not failures, "\n".join(failures)
