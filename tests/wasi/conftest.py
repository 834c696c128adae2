"""What the tests of WASI share: event loops, the upstream suite, guests made from text and from C."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from aiowasm import Instance, Module, Store
from aiowasm.host.wasi import Directory, File, FileSystem, HostDir, MemFS, Overlay, Stat, Symlink, Wasi
from aiowasm.host.wasi.abi import DIRENT, FILESTAT, FUNCTIONS, Errno, FileType
from aiowasm.host.wasi.descriptors import ALL_RIGHTS, FILE_RIGHTS
from aiowasm.host.wasi.errno import WasiError
from aiowasm.store.engines import available

SUITE_HELP = (
    "WASI_TESTSUITE is not set; get the upstream suite with "
    "`git clone --branch prod/testsuite-base https://github.com/WebAssembly/wasi-testsuite` "
    "and set WASI_TESTSUITE to that folder"
)
ZIG_HELP = "ziglang is not installed; get it with `pip install ziglang`"

Compile = Callable[..., bytes]


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return request.param


@pytest.fixture(params=available())
def engine(request: pytest.FixtureRequest) -> str:
    """The name of an engine."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def wasi_testsuite() -> Path:
    """The folder of the upstream conformance suite of WASI."""
    value = os.environ.get("WASI_TESTSUITE")
    if not value:
        pytest.skip(SUITE_HELP)
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"WASI_TESTSUITE is {value!r}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """A function from C source to a WASI program."""
    try:
        import ziglang  # noqa: F401, PLC0415 - it is an executable in a package
    except ImportError:
        if os.environ.get("CI"):
            pytest.fail(ZIG_HELP)
        pytest.skip(ZIG_HELP)
    folder = tmp_path_factory.mktemp("zig")
    # The first program takes a minute or more, as the C library is compiled with it: whoever sets a cache keeps that.
    caches = {
        "ZIG_GLOBAL_CACHE_DIR": os.environ.get("ZIG_GLOBAL_CACHE_DIR", str(folder / "global")),
        "ZIG_LOCAL_CACHE_DIR": str(folder / "local"),
    }
    compiled: dict[tuple[str, tuple[str, ...]], bytes] = {}

    def compile_source(source: str, *flags: str) -> bytes:
        key = (source, flags)
        if key not in compiled:
            program = folder / f"program{len(compiled)}"
            program.with_suffix(".c").write_text(source, encoding="utf-8")
            command = [sys.executable, "-m", "ziglang", "cc", "--target=wasm32-wasi", "-Os", *flags]
            result = subprocess.run(
                [*command, "-o", f"{program}.wasm", f"{program}.c"],
                env={**os.environ, **caches},
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            if result.returncode:
                pytest.fail(f"the C compiler failed:\n{result.stderr}")
            compiled[key] = Path(f"{program}.wasm").read_bytes()
        return compiled[key]

    return compile_source


def _proxy() -> str:
    """The text of a module that exports every call of WASI as a function that passes its arguments on."""
    types = {"i": "i32", "l": "i64", "s": "i64"}
    imports, functions = [], []
    for name, signature in FUNCTIONS.items():
        params = "".join(f" (param {types[letter]})" for letter in signature.parameters)
        result = " (result i32)" if signature.returns else ""
        imports.append(f'(import "wasi_snapshot_preview1" "{name}" (func ${name}{params}{result}))')
        arguments = " ".join(f"(local.get {index})" for index in range(len(signature.parameters)))
        functions.append(f'(func (export "{name}"){params}{result} (call ${name} {arguments}))')
    return f'(module {" ".join(imports)} (memory (export "memory") 4) {" ".join(functions)})'


PATHS = 0x400
"""Where the guest below keeps paths; results are below, buffers above."""
BUFFER = 0x1_0000
END = 0x4_0000


SEEN: dict[tuple[str, Errno], set[str]] = {}
"""What calls of the guests below have answered, and on which kinds of file systems: see `test_table_of_errnos`."""


class Guest:
    """A guest that makes single calls, with its memory laid out for them: results at 0, buffers at BUFFER."""

    def __init__(self, instance: Instance, kind: str = "") -> None:
        self.instance = instance
        self.kind = kind
        self.memory = instance.memory
        assert self.memory is not None

    async def call(self, name: str, *arguments: int | str | bytes) -> Errno:
        """Make a call; a path becomes two arguments, its address and length."""
        flat: list[int] = []
        at = PATHS
        for argument in arguments:
            if isinstance(argument, int):
                flat.append(argument)
                continue
            data = argument.encode() if isinstance(argument, str) else argument
            self.memory.write(at, data)
            flat += [at, len(data)]
            at += len(data)
        errno = Errno(await self.instance.call(name, *flat))
        SEEN.setdefault((name, errno), set()).add(self.kind)
        return errno

    def u32(self, offset: int = 0) -> int:
        return self.memory.read_u32(offset)

    def u64(self, offset: int = 0) -> int:
        return self.memory.read_u64(offset)

    def iovecs(self, *pieces: int | bytes, at: int = 0x200) -> tuple[int, int]:
        """Lay out buffers of given sizes or contents and their iovecs; return the iovecs' address and number."""
        where = BUFFER
        for index, piece in enumerate(pieces):
            nbytes = piece if isinstance(piece, int) else len(piece)
            if isinstance(piece, bytes):
                self.memory.write(where, piece)
            self.memory.write_u32(at + 8 * index, where)
            self.memory.write_u32(at + 8 * index + 4, nbytes)
            where += nbytes
        return at, len(pieces)

    def data(self, nbytes: int) -> bytes:
        return self.memory.read(BUFFER, nbytes)

    async def open(
        self,
        path: str | bytes,
        oflags: int = 0,
        *,
        rights: int = FILE_RIGHTS,
        inheriting: int = ALL_RIGHTS,
        fdflags: int = 0,
        follow: bool = True,
        at: int = 3,
    ) -> int:
        """Open a path and return the descriptor; an errno that is not SUCCESS is raised as WasiError."""
        errno = await self.call("path_open", at, int(follow), path, oflags, rights, inheriting, fdflags, 0)
        if errno is not Errno.SUCCESS:
            raise WasiError(errno)
        return self.u32()

    async def opens(self, path: str | bytes, oflags: int = 0, **options: int) -> Errno:
        """Open a path and return only the errno."""
        try:
            await self.open(path, oflags, **options)
        except WasiError as error:
            return error.errno
        return Errno.SUCCESS

    async def read(self, fd: int, nbytes: int = 1000) -> bytes:
        assert await self.call("fd_read", fd, *self.iovecs(nbytes), 0) is Errno.SUCCESS
        return self.data(self.u32())

    async def write(self, fd: int, data: bytes) -> int:
        assert await self.call("fd_write", fd, *self.iovecs(data), 0) is Errno.SUCCESS
        return self.u32()

    async def stat(self, path: str, *, follow: bool = False, at: int = 3) -> Stat:
        assert await self.call("path_filestat_get", at, int(follow), path, BUFFER) is Errno.SUCCESS
        stat = Stat(*FILESTAT.unpack(self.memory.read(BUFFER, FILESTAT.size)))
        return stat._replace(filetype=FileType(stat.filetype))

    async def list(self, fd: int = 3, nbytes: int = 4096) -> list[str]:
        names, cookie = [], 0
        while True:
            assert await self.call("fd_readdir", fd, BUFFER, nbytes, cookie, 0) is Errno.SUCCESS
            used, known = self.u32(), len(names)
            data = self.data(used)
            while len(data) >= DIRENT.size:
                following, _, length, _ = DIRENT.unpack_from(data)
                name, data = data[DIRENT.size : DIRENT.size + length], data[DIRENT.size + length :]
                if len(name) < length:
                    break
                names.append(name.decode())
                cookie = following
            if used < nbytes:
                return names
            if len(names) == known:
                raise IndexError("no entry fits into the buffer")


Spawn = Callable[..., Awaitable[Guest]]


@pytest.fixture
async def spawn(anyio_backend: object, engine: str) -> AsyncIterator[Spawn]:
    """A function from a `Wasi` to a guest that makes single calls under it."""
    module = await Module.from_text(_proxy())
    async with Store(engine=engine) as store:

        async def make(wasi: Wasi, **options: object) -> Guest:
            return Guest(await store.instantiate(module, imports=wasi.imports(module), **options))

        yield make


TREE = {"file": b"0123456789", "empty": b"", "dir": {"inner": b"inner", "deep": {"x": b"x"}}, "link": Symlink("file")}
"""What the file systems of `tree` hold."""


def build(contents: Mapping[str, object], folder: Path) -> Path:
    """Write the contents of a MemFS to a folder."""
    folder.mkdir(exist_ok=True)
    for name, value in contents.items():
        if isinstance(value, Mapping):
            build(value, folder / name)
        elif isinstance(value, Symlink):
            (folder / name).symlink_to(value.target)
        else:
            (folder / name).write_bytes(value)  # type: ignore[arg-type]
    return folder


class Waiting(FileSystem):
    """A file system whose every operation suspends: what lives far away."""

    waits = True

    def __init__(self, inner: FileSystem) -> None:
        self.inner = inner

    def open_root(self) -> Directory:
        return _slow(self.inner.open_root())


@pytest.fixture
def waiting() -> type[Waiting]:
    """What makes every operation of a file system suspend."""
    return Waiting


def _slow(target: Any) -> Any:
    """A stand-in for a directory or file that suspends before every operation."""
    base = Directory if isinstance(target, Directory) else File

    class Slow(base):  # type: ignore[misc,valid-type]
        waits = True
        key = getattr(target, "key", None)

        def close(self) -> None:
            target.close()

    def passing(name: str) -> Any:
        async def method(self: Any, *arguments: Any, **options: Any) -> Any:
            await anyio.sleep(0)
            arguments = tuple(getattr(argument, "target", argument) for argument in arguments)
            result = await getattr(target, name)(*arguments, **options)
            return _slow(result) if isinstance(result, Directory | File) else result

        return method

    for name, member in vars(base).items():
        if inspect.iscoroutinefunction(member):
            setattr(Slow, name, passing(name))
    Slow.__abstractmethods__ = frozenset()
    slow = Slow()
    slow.target = target
    return slow


@pytest.fixture(params=["HostDir", "MemFS", "offloaded", "waiting", "overlay"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> FileSystem:
    """A file system that holds TREE, of each kind."""
    if request.param in ("MemFS", "waiting"):
        memory = MemFS(TREE)
        return memory if request.param == "MemFS" else Waiting(memory)
    folder = build(TREE, tmp_path / "tree")
    if request.param == "overlay":
        return Overlay(MemFS(), HostDir(folder, read_only=True))
    return HostDir(folder, offload="always" if request.param == "offloaded" else "large")


@pytest.fixture
async def guest(spawn: Spawn, tree: FileSystem) -> Guest:
    """A guest with TREE as `/` (descriptor 3), 5 bytes to read on stdin, and args and env."""
    made = await spawn(Wasi(["program", "argument"], {"NAME": "value"}, stdin=b"stdin", fs={"/": tree}))
    made.kind = type(tree).__name__
    return made
