"""`aiowasm run`: programs and functions, and the exit status of every way to end."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aiowasm.cli.main import main
from aiowasm.store.engines import available

WASI = "wasi_snapshot_preview1"
EXIT = f"""(module
  (import "{WASI}" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start") (call $exit (i32.const %d))))
"""
# Writes its arguments, each with its terminating zero, to the standard output.
ARGUMENTS = f"""(module
  (import "{WASI}" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "{WASI}" "args_get" (func $args (param i32 i32) (result i32)))
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $sizes (i32.const 0) (i32.const 4)))
    (drop (call $args (i32.const 1024) (i32.const 4096)))
    (i32.store (i32.const 8) (i32.const 4096))
    (i32.store (i32.const 12) (i32.load (i32.const 4)))
    (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))
"""
# Writes its environment in the same way.
ENVIRONMENT = ARGUMENTS.replace("args_", "environ_")
# Copies the standard input to the standard error.
CAT = f"""(module
  (import "{WASI}" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $again
      (i32.store (i32.const 0) (i32.const 1024))
      (i32.store (i32.const 4) (i32.const 1024))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (i32.store (i32.const 4) (i32.load (i32.const 8)))
      (drop (call $write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 12)))
      (br_if $again (i32.load (i32.const 8))))))
"""
TRAPS = """(module
  (func $inner (param i32) (result i32) (i32.div_s (i32.const 1) (local.get 0)))
  (func $"odd \\1b name" (drop (call $inner (i32.const 0))))
  (func (export "_start") (call $"odd \\1b name"))
  (func $deep (export "deep") (call $deep))
  (func (export "spin") (loop $on (br $on)))
  (tag $problem)
  (func $thrower (export "throws") (throw $problem)))
"""
FUNCTIONS = """(module
  (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
  (func (export "swap") (param i64 f64) (result f64 i64) (local.get 1) (local.get 0))
  (func (export "third") (result f32) (f32.div (f32.const 1) (f32.const 3)))
  (func (export "vector") (param v128) (result v128) (local.get 0))
  (func (export "null") (result externref) (ref.null extern))
  (func (export "nothing"))
  (memory (export "memory") 1)
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0))))
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch):
    """Writes a module and gives its path; the standard input is empty."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))

    def write(text: str, name: str = "program.wat") -> str:
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize(("code", "status"), [(0, 0), (1, 1), (42, 42), (255, 255), (256, 1), (258, 2), (-1, 255)])
def test_the_exit_status_is_the_guests(program, code: int, status: int) -> None:
    assert main(["run", program(EXIT % code)]) == status


def test_arguments_after_the_file_are_the_guests(program, capsysbinary) -> None:
    path = program(ARGUMENTS)
    assert main(["run", "--engine", "interpreter", path, "-x", "--fuel", "1", "--", "a b"]) == 0
    assert capsysbinary.readouterr().out == b"program.wat\0-x\0--fuel\x001\0--\0a b\0"


def test_standard_streams_are_those_of_the_process(program, monkeypatch, capsysbinary) -> None:
    data = b"some input\n" * 1000
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert main(["run", program(CAT)]) == 0
    assert capsysbinary.readouterr().err == data


def test_a_trap_shows_the_stack(program, capsys) -> None:
    assert main(["run", program(TRAPS)]) == 134
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "aiowasm: trap: integer divide by zero"
    assert [line.split(" @ ")[0] for line in lines[1:]] == ["    at $inner", r"    at $odd \x1b name", "    at $2"]
    assert all(line.partition(" @ ")[2].startswith("0x") for line in lines[1:])
    assert [line.partition(" (")[2] for line in lines[1:]] == ["line 2)", "line 3)", "line 4)"]


def test_a_binary_has_offsets_only(program, tmp_path: Path, capsys) -> None:
    path = str(tmp_path / "traps.wasm")
    assert main(["wasm", program(TRAPS), "-o", path]) == 0
    assert main(["run", path]) == 134
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" @ ")[0] for line in lines[1:]] == ["    at $0", "    at $1", "    at $2"]
    assert "line" not in "".join(lines)
    data = Path(path).read_bytes()
    offsets = [int(line.split(" @ ")[1], 16) for line in lines[1:]]
    assert [data[offset] for offset in offsets] == [0x6D, 0x10, 0x10]  # i32.div_s, call, call


def test_a_deep_stack_is_cut(program, capsys) -> None:
    assert main(["run", "--invoke", "deep", program(TRAPS)]) == 134
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "aiowasm: trap: call stack exhausted"
    assert len(lines) < 50
    assert any("more" in line for line in lines)


def test_an_exception_that_nobody_catches(program, capsys) -> None:
    assert main(["run", "--invoke", "throws", program(TRAPS)]) == 134
    assert capsys.readouterr().err.startswith("aiowasm: uncaught exception\n")


def test_fuel_runs_out(program, capsys) -> None:
    assert main(["run", "--fuel", "1000", "--invoke", "spin", program(TRAPS)]) == 134
    assert capsys.readouterr().err.startswith("aiowasm: trap: out of fuel\n    at $")


@pytest.mark.parametrize("timeout", ["0", "0.05"])
def test_a_timeout(program, timeout: str, capsys) -> None:
    assert main(["run", "--timeout", timeout, "--invoke", "spin", program(TRAPS)]) == 124
    assert "timed out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["add", "2", "-3"], "-1\n"),
        (["add", "0xffffffff", "1"], "0\n"),
        (["swap", "5", "1.5"], "1.5\n5\n"),
        (["swap", "-1", "nan"], "nan\n-1\n"),
        (["third"], "0.33333334\n"),
        (["vector", "000102030405060708090a0b0c0d0e0f"], "000102030405060708090a0b0c0d0e0f\n"),
        (["null"], "null\n"),
        (["nothing"], ""),
        (["grow", "3"], "1\n"),
    ],
)
def test_invoke(program, arguments: list[str], output: str, capsys) -> None:
    name, *values = arguments
    assert main(["run", "--invoke", name, program(FUNCTIONS), *values]) == 0
    assert capsys.readouterr().out == output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "1"], "takes 2 arguments"),
        (["add", "1", "x"], "'x' is not a value of type i32"),
        (["add", "1", "4294967296"], "is not a value of type i32"),
        (["vector", "00"], "is not a value of type v128"),
        (["memory"], "exports no function 'memory'"),
        (["sub"], "exports no function 'sub'"),
    ],
)
def test_wrong_invocations(program, arguments: list[str], words: str, capsys) -> None:
    path = program(FUNCTIONS)
    name, *values = arguments
    assert main(["run", "--invoke", name, path, *values]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"aiowasm: {path}: ")
    assert words in err
    assert err.count("\n") == 1


def test_memory_is_limited(program, capsys) -> None:
    path = program(FUNCTIONS)
    assert main(["run", "--memory-pages", "2", "--invoke", "grow", path, "2"]) == 0
    assert capsys.readouterr().out == "-1\n"
    assert main(["run", "--memory-pages", "0", "--invoke", "grow", path, "2"]) == 1
    assert capsys.readouterr().err.startswith(f"aiowasm: {path}: ")


def test_missing_imports_are_listed_with_their_types(program, capsys) -> None:
    text = f"""(module
      (import "env" "f" (func (param i32 f64) (result i64)))
      (import "{WASI}" "fd_close" (func (param i32) (result i32)))
      (import "env" "m" (memory 1 2))
      (import "{WASI}" "fd_closed" (func))
      (import "e\\nv" "g" (global (mut externref)))
      (func (export "_start")))"""
    path = program(text)
    assert main(["run", path]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"aiowasm: {path}: unlinkable module: unknown import: these are missing:",
        "  env.f (func (param i32 f64) (result i64))",
        "  env.m (memory 1 2)",
        f"  {WASI}.fd_closed (func)",
        r"  e\nv.g (global (mut externref))",
    ]


def test_imports_of_the_wrong_type(program, capsys) -> None:
    path = program(f'(module (import "{WASI}" "fd_close" (func)) (func (export "_start")))')
    assert main(["run", path]) == 1
    err = capsys.readouterr().err
    assert "incompatible import type" in err
    assert err.count("\n") == 1


def test_a_module_that_is_no_command(program, capsys) -> None:
    path = program(FUNCTIONS)
    assert main(["run", path]) == 1
    assert "_start" in capsys.readouterr().err


def test_functions_are_validated_when_they_run_or_all_before(program, tmp_path: Path, capsys) -> None:
    path = str(tmp_path / "lazy.wasm")
    text = '(module (func (export "good")) (func (export "bad") (result i32)))'
    assert main(["wasm", "--no-check", program(text), "-o", path]) == 0
    assert main(["run", "--invoke", "good", path]) == 0
    assert main(["run", "--invoke", "bad", path]) == 1
    assert f"aiowasm: {path}: invalid module: type mismatch" in capsys.readouterr().err
    assert main(["run", "--validate", "--invoke", "good", path]) == 1
    assert main(["run", "--invoke", "bad", program(text.replace('(func (export "bad', '\n  (func (export "bad'))]) == 1
    assert capsys.readouterr().err.endswith("(at line 2, column 36, function 1, end)\n")


def test_features(program, capsys) -> None:
    path = program('(module (memory 0) (memory 0) (func (export "_start")))')
    assert main(["run", path]) == 0
    assert main(["run", "--features=-multi-memory", path]) == 1
    assert "multi-memory" in capsys.readouterr().err


def test_folders_and_variables_reach_the_guest(program, tmp_path: Path, capsysbinary) -> None:
    text = f"""(module
      (import "{WASI}" "fd_prestat_dir_name" (func $name (param i32 i32 i32) (result i32)))
      (import "{WASI}" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
      (import "{WASI}" "environ_get" (func $environ (param i32 i32) (result i32)))
      (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (drop (call $name (i32.const 3) (i32.const 4096) (i32.const 5)))
        (drop (call $sizes (i32.const 0) (i32.const 4)))
        (drop (call $environ (i32.const 1024) (i32.const 4101)))
        (i32.store (i32.const 8) (i32.const 4096))
        (i32.store (i32.const 12) (i32.add (i32.load (i32.const 4)) (i32.const 5)))
        (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))"""
    path = program(text)
    assert main(["run", "--dir", f"{tmp_path}::/data:ro", "--env", "A=b", "--env", "C==", path]) == 0
    assert capsysbinary.readouterr().out == b"/dataA=b\0C==\0"


def test_a_folder_that_is_not_there(program, tmp_path: Path, capsys) -> None:
    missing = tmp_path / "missing"
    assert main(["run", "--dir", str(missing), program(EXIT % 0)]) == 1
    assert capsys.readouterr().err == f"aiowasm: {missing}: No such file or directory\n"


def test_a_system_that_cannot_give_folders(program, monkeypatch, capsys) -> None:
    monkeypatch.setattr("aiowasm.host.wasi.hostdir._HAS_OPENAT", False)
    assert main(["run", "--dir", ".", program(EXIT % 0)]) == 1
    assert capsys.readouterr().err.startswith("aiowasm: --dir .: ")


@pytest.mark.parametrize(
    "options", [["--dir", ".::/x", "--dir", "..::/x"], ["--dir", ".::/x", "--dir", "..::x"], ["--dir", "nul\0l"]]
)
def test_folders_that_no_guest_can_be_given(program, options: list[str], capsys) -> None:
    assert main(["run", *options, program(EXIT % 0)]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "internal error" not in err


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_closed_standard_streams(program) -> None:
    command = '"$0" -m aiowasm run "$1" <&- >&- 2>&-'
    for text, status in ((EXIT % 3, 3), (ARGUMENTS, 0), (CAT, 0), (TRAPS, 134)):
        done = subprocess.run(["sh", "-c", command, sys.executable, program(text)], check=False, timeout=60)
        assert done.returncode == status


@pytest.mark.parametrize("command", ["run", "wast"])
def test_an_engine_that_is_not_there(program, command: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr("aiowasm.cli.engines.unavailable", lambda name: f"no {name} here")
    assert main([command, "--engine", "native", program(EXIT % 0)]) == 1
    assert capsys.readouterr().err == "aiowasm: the native engine is not available: no native here\n"


# Whoever runs the tests in the background has made their children deaf to interrupts.
START = """import signal, sys, aiowasm.cli.main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(aiowasm.cli.main.main())"""


def start(*argv: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", START, *argv], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


BUSY = {
    "computing": "",
    "sleeping": """(i64.store (i32.const 524) (i64.const 0)) (i32.store (i32.const 528) (i32.const 1))
        (i64.store (i32.const 536) (i64.const 1000000000000))
        (drop (call $poll (i32.const 512) (i32.const 600) (i32.const 1) (i32.const 700)))""",
    "reading": """(i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 1024))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))""",
    "writing": """(i32.store (i32.const 4) (i32.const 60000))
        (loop $more (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))) (br $more))""",
}


def busy(what: str) -> str:
    """A program that writes a byte and then does something that takes long."""
    return f"""(module
      (import "{WASI}" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "{WASI}" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 2)
      (func (export "_start")
        (i32.store (i32.const 4) (i32.const 1))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        {BUSY[what]}
        (loop $on (br $on))))"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("engine", available())
@pytest.mark.parametrize("what", BUSY)
def test_interrupting_a_guest(program, what: str, engine: str) -> None:
    with start("run", "--engine", engine, program(busy(what)), stdin=subprocess.PIPE) as process:
        assert process.stdout.read(1) == b"\0"  # the guest runs
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130  # nothing is read of what it writes, and nothing is written to it
        assert process.stderr.read() == b""


@pytest.mark.skipif(os.name != "posix", reason="needs terminals")
def test_interrupting_a_guest_that_reads_from_a_terminal(program) -> None:
    ours, theirs = os.openpty()
    with open(ours, "wb", buffering=0) as keyboard, start("run", program(busy("reading")), stdin=theirs) as process:
        os.close(theirs)
        assert process.stdout.read(1) == b"\0"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr.read() == b""
        assert not keyboard.closed


@pytest.mark.parametrize("engine", available())
def test_piping(program, engine: str) -> None:
    data = bytes(range(256)) * 4000
    done = subprocess.run(
        [sys.executable, "-m", "aiowasm", "run", "--engine", engine, program(CAT)],
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", data)


ACCEPT = f"""(module
  (import "{WASI}" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
  (import "{WASI}" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (if (call $accept (i32.const 4) (i32.const 0) (i32.const 100)) (then (call $exit (i32.const 70))))
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 100))
    (if (call $read (i32.load (i32.const 100)) (i32.const 0) (i32.const 1) (i32.const 8))
      (then (call $exit (i32.const 71))))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (if (call $write (i32.load (i32.const 100)) (i32.const 0) (i32.const 1) (i32.const 12))
      (then (call $exit (i32.const 72))))))
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_listening(program, tmp_path: Path, host: str) -> None:
    """The descriptors of folders come first; port 0 is any that is free, which is then said."""
    if host == "[::1]":
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this system has no IPv6")
    with start("run", "--dir", str(tmp_path), "--listen", f"{host}:0", program(ACCEPT)) as process:
        said, _, port = process.stderr.readline().decode().strip().rpartition(":")
        assert said == f"aiowasm: listening at {host}"
        with socket.create_connection((host.strip("[]"), int(port)), timeout=30) as client:
            client.sendall(b"echo")
            client.shutdown(socket.SHUT_WR)
            assert client.makefile("rb").read() == b"echo"
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize("address", ["80", "host", "::1:80", "localhost:", "localhost:65536", ":80", "localhost:-1"])
def test_what_is_no_address(program, address: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "--listen", address, program(EXIT % 0)])
    assert caught.value.code == 2
    assert f"{address!r} is not of the form HOST:PORT" in capsys.readouterr().err


def test_addresses_that_cannot_be_listened_at(program, capsys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for address in (f"127.0.0.1:{taken.getsockname()[1]}", "..:80", "nul\0l:80", "256.0.0.1.invalid:80"):
            assert main(["run", "--listen", address, program(EXIT % 0)]) == 1
            err = capsys.readouterr().err
            assert err.count("\n") == 1
            assert "internal error" not in err
            assert "NUL" in err or err.startswith("aiowasm: ")


def test_the_environment_is_passed_on_when_asked_for(program, monkeypatch, capsysbinary) -> None:
    monkeypatch.setattr(os, "environ", {"HOME": "/root", "A": "1"})
    assert main(["run", program(ENVIRONMENT)]) == 0
    assert capsysbinary.readouterr().out == b""
    assert main(["run", "--env-inherit", "--env", "A=2", "--env", "B=3", program(ENVIRONMENT)]) == 0
    assert capsysbinary.readouterr().out == b"HOME=/root\0A=2\0B=3\0"


REACTOR = f"""(module
  (import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "{WASI}" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "said\\n")
  (global $ready (mut i32) (i32.const 0))
  (func (export "_initialize") (global.set $ready (i32.add (global.get $ready) (i32.const 41))))
  (func (export "answer") (param i32) (result i32)
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 5))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.add (global.get $ready) (local.get 0)))
  (func (export "leave") (param i32) (call $exit (local.get 0))))
"""


@pytest.mark.parametrize("engine", available())
def test_reactors(program, engine: str, capfd) -> None:
    path = program(REACTOR)
    assert main(["run", "--engine", engine, "--invoke", "answer", path, "1"]) == 0
    assert capfd.readouterr().out == "said\n42\n"
    assert main(["run", "--engine", engine, "--invoke", "leave", path, "7"]) == 7
    assert main(["run", "--engine", engine, path]) == 1
    assert "it is no command" in capfd.readouterr().err


STUBBED = f"""(module
  (import "env" "used" (func $used (param i32 f64) (result i64)))
  (import "env" "other" (func))
  (import "{WASI}" "fd_close" (func (param i32) (result i32)))
  (func (export "_start"))
  (func $caller (export "calls") (drop (call $used (i32.const 1) (f64.const 2)))))
"""


@pytest.mark.parametrize("engine", available())
def test_stubs(program, engine: str, capsys) -> None:
    path = program(STUBBED)
    options = ["run", "--engine", engine, "--stub-imports"]
    assert main(["run", "--engine", engine, path]) == 1
    assert "env.other (func)" in capsys.readouterr().err
    assert main([*options, path]) == 0
    assert main([*options, "--invoke", "calls", path]) == 134
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "aiowasm: trap: unreachable (unknown import: env.used)"
    assert lines[1].startswith("    at $caller @ ")
    path = program(f'''(module (import "env" "f" (func)) (import "env" "m" (memory 1))
      (import "{WASI}" "fd_closed" (func)) (func (export "_start")))''')
    assert main([*options, path]) == 1
    assert capsys.readouterr().err.splitlines()[1:] == ["  env.m (memory 1)", f"  {WASI}.fd_closed (func)"]


def test_who_reads_the_output_may_leave(program) -> None:
    path = program("(module " + "(func nop nop nop nop)" * 5000 + ")")
    with start("wat", path) as process:
        process.stdout.read(10)
        process.stdout.close()
        err = process.stderr.read()
        process.wait(30)
    assert b"Traceback" not in err
    assert b"Exception" not in err
