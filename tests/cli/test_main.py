"""The command line: what each command prints, its exit status, and that bad input never gives more than a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from aiowasm.binary.decoder import decode
from aiowasm.binary.names import decode_names
from aiowasm.cli.arguments import directory, features, natural, seconds, variable
from aiowasm.cli.main import main
from aiowasm.features import ALL, DEFAULT, WASM_2, Feature
from aiowasm.text.parser import parse_module

HEADER = b"\0asm\1\0\0\0"
TEXT = """(module $adder
  (import "env" "log" (func $log (param i32)))
  (memory (export "memory") 1 16)
  (global (export "g") (mut i64) (i64.const 7))
  (func (export "add") (param i32 i32) (result i32)
    (i32.add (local.get 0) (local.get 1)))
  (func $start)
  (start $start))
"""


@pytest.fixture
def wat(tmp_path: Path) -> str:
    path = tmp_path / "adder.wat"
    path.write_text(TEXT)
    return str(path)


@pytest.fixture
def wasm(tmp_path: Path, wat: str) -> str:
    path = str(tmp_path / "adder.wasm")
    assert main(["wasm", wat, "-o", path]) == 0
    return path


def test_validate(wat: str, wasm: str, capsys) -> None:
    assert main(["validate", wat, wasm]) == 0
    assert capsys.readouterr().out == f"{wat}: ok\n{wasm}: ok\n"


def test_validate_goes_on_after_a_bad_file(tmp_path: Path, wat: str, capsys) -> None:
    bad = tmp_path / "bad.wat"
    bad.write_text("(module (func (result i32) i64.const 1))")
    assert main(["validate", str(bad), wat]) == 1
    out, err = capsys.readouterr()
    assert out == f"{wat}: ok\n"
    assert err.startswith(f"aiowasm: {bad}: invalid module: type mismatch")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (
            "(func (result i32)\n  (i32.add\n    (i32.const 1)\n    (i64.const 2)))",
            "at line 3, column 3, function 1, i32.add",
        ),
        ("(func i32.const 1\n  i64.const 2\n  i32.add drop)", "at line 4, column 3, function 1, i32.add"),
        ("(func (block\n  (if (i32.const 1)\n    (then (br 7)))))", "at line 4, column 11, function 1, br"),
        ("(func (block\n  i32.const 1))", "at line 3, column 14, function 1, end"),
        ("(func (if (i64.const 1)\n  (then nop)))", "at line 2, column 7, function 1, if"),
        ("(func (result i32)\n)", "at line 3, column 1, function 1, end"),
        ("(global i32 (i64.const 1))", "end"),
    ],
)
def test_an_error_in_a_text_has_its_line(tmp_path: Path, body: str, place: str, capsys) -> None:
    path = tmp_path / "bad.wat"
    path.write_text(f"(module (func nop)\n{body})")
    for command in ("validate", "wasm", "inspect"):
        assert main([command, str(path)]) == 1
        assert capsys.readouterr().err.endswith(f"({place})\n")


def test_validate_names_the_feature_that_is_missing(tmp_path: Path, capsys) -> None:
    path = tmp_path / "m.wat"
    path.write_text("(module (memory 0) (memory 0))")
    assert main(["validate", "--features", "default,-multi-memory", str(path)]) == 1
    assert "--features multi-memory would admit it" in capsys.readouterr().err
    assert main(["validate", str(path)]) == 0


def test_wat_and_wasm_are_inverse(tmp_path: Path, wat: str, wasm: str, capsysbinary) -> None:
    assert main(["wat", wasm]) == 0
    text = capsysbinary.readouterr().out
    assert parse_module(text) == parse_module(TEXT) == decode(Path(wasm).read_bytes())
    again = tmp_path / "again.wat"
    again.write_bytes(text)
    assert main(["wasm", str(again)]) == 0
    assert capsysbinary.readouterr().out == Path(wasm).read_bytes()
    assert main(["wat", wasm, "-o", str(again)]) == 0
    assert capsysbinary.readouterr().out == b""
    assert again.read_bytes() == text


def test_only_valid_modules_are_converted_unless_asked(tmp_path: Path, capsysbinary) -> None:
    path = tmp_path / "bad.wat"
    path.write_text("(module (func (result i32)))")
    assert main(["wasm", str(path)]) == 1
    assert capsysbinary.readouterr().out == b""
    assert main(["wasm", "--no-check", str(path)]) == 0
    assert capsysbinary.readouterr().out.startswith(HEADER)


def test_inspect(wat: str, wasm: str, capsys) -> None:
    assert main(["inspect", "--json", wasm]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["format"] == "binary"
    assert described["imports"] == [{"module": "env", "name": "log", "type": "(func (param i32))"}]
    assert described["exports"][0] == {"name": "memory", "type": "(memory 1 16)"}
    assert {"name": "add", "type": "(func (param i32 i32) (result i32))"} in described["exports"]
    assert described["memories"] == ["(memory 1 16)"]
    assert described["globals"] == ["(global (mut i64))"]
    assert described["features"] == ["mutable-globals"]
    assert described["name"] is None
    assert described["start"] == 2
    data = Path(wasm).read_bytes()
    assert described["nbytes"] == len(data)
    assert [section["name"] for section in described["sections"]][:2] == ["type", "import"]
    assert described["sections"][-1]["offset"] + described["sections"][-1]["nbytes"] == len(data)
    assert main(["inspect", wat]) == 0
    out = capsys.readouterr().out
    assert f"{wat}: text module adder" in out
    assert "  env.log (func (param i32))\n" in out


def test_identifiers_are_kept_on_demand(tmp_path: Path, wat: str, wasm: str, capsysbinary) -> None:
    path = str(tmp_path / "named.wasm")
    assert main(["wasm", "--names", wat, "-o", path]) == 0
    assert main(["inspect", "--json", path]) == 0
    assert json.loads(capsysbinary.readouterr().out)["name"] == "adder"
    named, plain = (decode(Path(file).read_bytes()) for file in (path, wasm))
    assert named == replace(plain, customs=named.customs)
    names = decode_names(named.customs[0].data)
    assert (names.module, names.functions) == ("adder", {0: "log", 2: "start"})


def test_inspect_escapes_names(tmp_path: Path, capsys) -> None:
    path = tmp_path / "m.wat"
    path.write_text(r'(module (func (export "\1b[31m\n")))')
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"\x1b[31m\n (func)" in out


SCRIPT = '(module (func (export "f") (result i32) (i32.const 1)))\n(assert_return (invoke "f") (i32.const %d))\n'


def test_wast(tmp_path: Path, capsys) -> None:
    (tmp_path / "deep" / "proposals" / "custom-descriptors").mkdir(parents=True)
    (tmp_path / "deep" / "good.wast").write_text(SCRIPT % 1)
    (tmp_path / "deep" / "proposals" / "custom-descriptors" / "x.wast").write_text(SCRIPT % 2)
    assert main(["wast", "--engine", "interpreter", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 passed, 0 failed, 2 skipped"
    assert len(lines) == 3
    assert "custom-descriptors" in lines[1]
    (tmp_path / "bad.wast").write_text(SCRIPT % 2)
    (tmp_path / "worse.wast").write_text("(modul)")
    assert main(["wast", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "3 passed, 2 failed, 2 skipped"
    assert any("line 2" in line and "got (1,)" in line for line in lines)


def test_wast_without_scripts_fails(tmp_path: Path, capsys) -> None:
    assert main(["wast", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "0 passed, 0 failed, 0 skipped\n"
    assert main(["wast", str(tmp_path / "missing.wast")]) == 1
    assert "No such file" in capsys.readouterr().out


def test_wast_under_other_features(tmp_path: Path, capsys) -> None:
    path = tmp_path / "m.wast"
    path.write_text('(assert_invalid (module (memory 0) (memory 0)) "multiple memories")')
    assert main(["wast", "--features", "wasm2", str(path)]) == 0
    assert main(["wast", str(path)]) == 1


def test_version(capsys) -> None:
    assert main(["version"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("aiowasm ")
    assert "engine interpreter: available" in out
    assert "engine native: " in out


BAD = {
    "truncated.wasm": HEADER[:6],
    "cut.wasm": HEADER + b"\1\5\1\x60",
    "invalid.wasm": HEADER + bytes.fromhex("010401600000 03020100 0a050103004100"),
    "text.wasm": b"(module)",
    "noise.bin": bytes(range(256)),
    "invalid.wat": b"(module (func (result i32)))",
    "malformed.wat": b"(module (func (result i32)",
    "latin.wat": "(module (func $\u00e9))".encode("latin-1"),
    "count.wasm": HEADER + b"\1\5\xff\xff\xff\xff\x0f",
    "nested.wat": b"(module (func " + b"(block " * 200_000,
    "name.wat": rb'(module (import "\1b[31m" "\0a" (func)) (func (call 7)))',
    "locals.wasm": HEADER + bytes.fromhex("01040160000003020100 0a0a0108 01 ffffffff0f 7f 0b"),
}


@pytest.mark.parametrize("command", ["run", "validate", "inspect", "wat", "wasm"])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_gives_one_line(tmp_path: Path, command: str, name: str, capsys) -> None:
    path = tmp_path / name
    path.write_bytes(BAD[name])
    options = ["--validate"] if command == "run" else []
    assert main([command, *options, str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"aiowasm: {path}: ")
    assert "internal error" not in err
    assert "malformed module: " in err or "invalid module: " in err
    assert err.rstrip("\n").isprintable()


@pytest.mark.parametrize("command", ["run", "validate", "inspect", "wat", "wasm"])
def test_what_cannot_be_read_gives_one_line(tmp_path: Path, command: str, capsys) -> None:
    locked = tmp_path / "locked.wasm"
    locked.write_bytes(HEADER)
    locked.chmod(0)
    paths = [str(tmp_path), str(tmp_path / "missing.wasm"), "nul\0l.wasm", str(tmp_path / "missing" / "x.wasm")]
    if os.geteuid():
        paths.append(str(locked))
    for path in paths:
        assert main([command, path]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith("aiowasm: ")
        assert "internal error" not in err


def test_oversized_input_is_refused_before_it_is_read(tmp_path: Path, capsys) -> None:
    path = tmp_path / "huge.wasm"
    with path.open("wb") as file:
        file.write(HEADER)
        file.truncate(2 << 30)
    assert main(["validate", str(path)]) == 1
    assert "MAX_MODULE_NBYTES" in capsys.readouterr().err


def test_output_that_cannot_be_written(tmp_path: Path, wat: str, capsys) -> None:
    assert main(["wat", wat, "-o", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"aiowasm: {tmp_path}: Is a directory\n"


@pytest.mark.parametrize(
    "argv", [[], ["nothing"], ["wat"], ["wast", "--features", "nonsense", "x"], ["run", "--fuel", "-1"]]
)
def test_wrong_usage(argv: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as raised:
        main(argv)
    assert raised.value.code == 2
    assert "usage: aiowasm" in capsys.readouterr().err


def test_features_are_sets_and_names() -> None:
    assert features("default") == DEFAULT
    assert features("wasm2,threads") == WASM_2 | {Feature.THREADS}
    assert features("all,-gc") == ALL - {Feature.GC}
    assert features("-gc") == DEFAULT - {Feature.GC}
    assert features("wide-arithmetic") == DEFAULT | {Feature.WIDE_ARITHMETIC}


def test_kinds_of_arguments() -> None:
    assert directory("a") == ("a", "a", False)
    assert directory("a::/b") == ("a", "/b", False)
    assert directory("/x:y::/b:ro") == ("/x:y", "/b", True)
    assert variable("A=b=c") == ("A", "b=c")
    assert natural("0x10") == 16
    assert seconds("0.5") == 0.5
    for kind, text in ((directory, "::b"), (directory, ""), (variable, "A"), (variable, "=b"), (natural, "-1")):
        with pytest.raises(Exception, match="is not"):
            kind(text)
    for text in ("nan", "inf", "-1", "soon"):
        with pytest.raises(Exception, match="is not"):
            seconds(text)


def run(*argv: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "aiowasm", *argv], capture_output=True, timeout=60, check=False, **options
    )


def test_as_a_process(wat: str, tmp_path: Path) -> None:
    done = run("validate", wat, str(tmp_path), env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1
    assert done.stdout.decode() == f"{wat}: ok\n"
    assert done.stderr.decode() == f"aiowasm: {tmp_path}: Is a directory\n"


def test_importing_the_package_imports_no_commands() -> None:
    code = (
        "import aiowasm, sys; print([m for m in sys.modules if m.startswith(('aiowasm.cli', 'argparse', 'asyncio'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert done.stdout.strip() == b"[]"
