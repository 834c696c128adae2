"""What is particular to each file system, and mounting them."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from errno import EACCES
from pathlib import Path

import anyio
import pytest

from aiowasm.host.wasi import HostDir, MemFS, Overlay, ResourceFS, Symlink, Wasi, ZipFS
from aiowasm.host.wasi.abi import Errno, OFlags
from aiowasm.host.wasi.descriptors import DIRECTORY_RIGHTS

pytestmark = pytest.mark.anyio

E = Errno


async def directory(guest, path: str, at: int = 3) -> int:
    return await guest.open(path, OFlags.DIRECTORY, rights=DIRECTORY_RIGHTS, at=at)


class TestMemFS:
    def test_from_and_to_a_dict(self) -> None:
        contents = {"a": b"1", "dir": {"b": b"2", "empty": {}}, "link": Symlink("a")}
        fs = MemFS(contents)
        assert fs.snapshot() == contents
        assert MemFS(fs.snapshot()).snapshot() == contents
        assert MemFS({"x/y/z": "text", "x/w": bytearray(b"3")}).snapshot() == {"x": {"y": {"z": b"text"}, "w": b"3"}}
        assert fs.read("dir/b") == fs.read("/dir/b") == b"2"
        for path in ("none", "dir", "dir/none", "a/b", "link"):
            with pytest.raises(FileNotFoundError):
                fs.read(path)

    @pytest.mark.parametrize(
        "contents", [{"..": b""}, {"a/../b": b""}, {"": b""}, {"a\0": b""}, {"a": b"", "a/b": b""}, {"x" * 256: b""}]
    )
    def test_names_that_no_path_has(self, contents: dict[str, bytes]) -> None:
        with pytest.raises(ValueError, match="'"):
            MemFS(contents)
        with pytest.raises(TypeError):
            MemFS({"a": 3})

    @pytest.mark.parametrize("target", ["", "a\0b", "\ud800"])
    def test_targets_that_no_link_has(self, target: str) -> None:
        with pytest.raises(ValueError, match="cannot lead to"):
            MemFS({"a": Symlink(target)})
        with pytest.raises(ValueError, match="no path of names"):
            MemFS({"\ud800": b""})

    async def test_names_and_targets_count(self, spawn) -> None:
        """A guest cannot fill the memory of its host with names of one file, or with links."""
        fs = MemFS({"file": b"x"}, max_nbytes=1000, max_nodes=4)
        guest = await spawn(Wasi(fs={"/": fs}))
        assert await guest.call("path_symlink", "t" * 999, 3, "a") is E.SUCCESS
        assert await guest.call("path_symlink", "t", 3, "b") is E.NOSPC
        assert (fs.nbytes, fs.nodes) == (1000, 3)
        assert await guest.call("path_unlink_file", 3, "a") is E.SUCCESS
        assert (fs.nbytes, fs.nodes) == (1, 2)
        assert await guest.call("path_link", 3, 0, "file", 3, "one") is E.SUCCESS
        assert await guest.call("path_link", 3, 0, "file", 3, "two") is E.SUCCESS
        assert await guest.call("path_link", 3, 0, "file", 3, "three") is E.NOSPC
        assert await guest.call("path_rename", 3, "one", 3, "other") is E.SUCCESS
        for name in ("other", "file", "two"):
            assert await guest.call("path_unlink_file", 3, name) is E.SUCCESS
        assert (fs.nbytes, fs.nodes) == (0, 1)

    async def test_directories_nested_deeper_than_calls_of_python(self, spawn) -> None:
        fs = MemFS()
        guest = await spawn(Wasi(fs={"/": fs}))
        at = 3
        for _ in range(2000):
            assert await guest.call("path_create_directory", at, "d") is E.SUCCESS
            inner = await directory(guest, "d", at)
            if at != 3:
                assert await guest.call("fd_close", at) is E.SUCCESS
            at = inner
        await guest.open("deepest", OFlags.CREAT, at=at)
        again, depth = MemFS(fs.snapshot()).snapshot(), 0
        while "d" in again:
            again, depth = again["d"], depth + 1
        assert (again, depth) == ({"deepest": b""}, 2000)

    def test_too_much(self) -> None:
        with pytest.raises(ValueError, match="NOSPC"):
            MemFS({"a": b"12345"}, max_nbytes=4)
        with pytest.raises(ValueError, match="NOSPC"):
            MemFS({"a": {"b": {}}}, max_nodes=2)

    async def test_shared_by_guests(self, spawn) -> None:
        fs = MemFS()
        first, second = await spawn(Wasi(fs={"/": fs})), await spawn(Wasi(fs={"/": fs}))
        fd = await first.open("shared", OFlags.CREAT)
        assert await first.write(fd, b"hello") == 5
        assert await second.read(await second.open("shared")) == b"hello"
        assert fs.snapshot() == {"shared": b"hello"}


def archive() -> io.BytesIO:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("file", b"0123456789")
        writer.writestr("dir/inner", b"inner")
        writer.writestr("made/", b"")
        writer.writestr("../outside", b"x")
        writer.writestr("/absolute", b"x")
        writer.writestr("big", bytes(1_000_000))
        writer.writestr("file/below", b"x")
    return file


async def test_zip(spawn) -> None:
    fs = ZipFS(archive())
    guest = await spawn(Wasi(fs={"/": fs}))
    assert sorted(await guest.list()) == [".", "..", "big", "dir", "file", "made"]
    fd = await guest.open("file", rights=2 | 4)
    assert await guest.read(fd, 4) == b"0123"
    assert await guest.read(fd) == b"456789"
    assert await guest.read(await guest.open("dir/inner", rights=2)) == b"inner"
    assert (await guest.stat("big")).size == 1_000_000
    assert (await guest.stat("file")).mtim > 10**17
    for path, oflags, rights, errno in (
        ("none", 0, 2, E.NOENT),
        ("outside", 0, 2, E.NOENT),
        ("dir", 0, 66, E.ISDIR),
        ("file", 0, 66, E.ROFS),
        ("file", OFlags.TRUNC, 2, E.ROFS),
        ("new", OFlags.CREAT, 2, E.ROFS),
        ("file", OFlags.CREAT, 2, E.SUCCESS),
        ("file", OFlags.CREAT | OFlags.EXCL, 2, E.EXIST),
        ("file", OFlags.DIRECTORY, 2, E.NOTDIR),
        ("file/x", 0, 2, E.NOTDIR),
    ):
        assert await guest.opens(path, oflags, rights=rights) is errno, path
    assert await guest.call("path_create_directory", 3, "new") is E.ROFS
    assert await guest.call("path_create_directory", 3, "dir") is E.EXIST
    for name, path, errno in (
        ("path_unlink_file", "file", E.ROFS),
        ("path_unlink_file", "none", E.NOENT),
        ("path_unlink_file", "dir", E.ISDIR),
        ("path_remove_directory", "dir", E.ROFS),
        ("path_remove_directory", "file", E.NOTDIR),
        ("path_remove_directory", "none", E.NOENT),
    ):
        assert await guest.call(name, 3, path) is errno, (name, path)
    assert await guest.call("path_readlink", 3, "file", 0x800, 10, 0) is E.INVAL
    fs.close()


async def test_a_damaged_zip(spawn) -> None:
    data = bytearray(archive().getvalue())
    data[45] ^= 0xFF
    guest = await spawn(Wasi(fs={"/": ZipFS(io.BytesIO(data))}))
    assert await guest.opens("file", rights=2) is E.IO
    with pytest.raises(zipfile.BadZipFile):
        ZipFS(io.BytesIO(b"no archive"))


async def test_resources(spawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "resource_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "data").write_bytes(b"data")
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as writer:
        writer.writestr("packed_package/__init__.py", "")
        writer.writestr("packed_package/sub/data", b"packed")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path / "packed.zip"))
    for package, path, contents in (("resource_package", "data", b"data"), ("packed_package", "sub/data", b"packed")):
        guest = await spawn(Wasi(fs={"/": ResourceFS(package)}))
        assert await guest.read(await guest.open(path, rights=2)) == contents
        assert await guest.opens(path, rights=66) is E.ROFS
    with pytest.raises(ModuleNotFoundError):
        ResourceFS("no_such_package")
    sys.modules.pop("resource_package", None)


class TestOverlay:
    async def test_what_is_below_stays_as_it_is(self, spawn) -> None:
        below = MemFS({"file": b"below", "dir": {"a": b"1", "b": b"2"}, "link": Symlink("file")})
        before, upper = below.snapshot(), MemFS()
        guest = await spawn(Wasi(fs={"/": Overlay(upper, below)}))
        fd = await guest.open("file", rights=2 | 64)
        assert await guest.write(fd, b"ABOVE") == 5
        assert await guest.call("path_unlink_file", 3, "dir/a") is E.SUCCESS
        await guest.open("dir/new", OFlags.CREAT)
        assert await guest.call("path_rename", 3, "dir/b", 3, "moved") is E.SUCCESS
        assert await guest.call("path_unlink_file", 3, "link") is E.SUCCESS
        assert await guest.list(await directory(guest, "dir")) == [".", "..", "new"]
        assert sorted(await guest.list()) == [".", "..", "dir", "file", "moved"]
        assert below.snapshot() == before
        assert upper.snapshot() == {"file": b"ABOVE", "dir": {"new": b""}, "moved": b"2"}

    async def test_what_was_removed_does_not_come_back(self, spawn) -> None:
        guest = await spawn(Wasi(fs={"/": Overlay(MemFS(), MemFS({"dir": {"a": b"1"}, "file": b"x"}))}))
        assert await guest.call("path_remove_directory", 3, "dir") is E.NOTEMPTY
        assert await guest.call("path_unlink_file", 3, "dir/a") is E.SUCCESS
        assert await guest.call("path_remove_directory", 3, "dir") is E.SUCCESS
        assert await guest.opens("dir") is E.NOENT
        assert await guest.call("path_create_directory", 3, "dir") is E.SUCCESS
        assert await guest.list(await directory(guest, "dir")) == [".", ".."]
        assert await guest.call("path_unlink_file", 3, "file") is E.SUCCESS
        assert await guest.read(await guest.open("file", OFlags.CREAT)) == b""

    async def test_layers(self, spawn) -> None:
        upper = MemFS({"both": b"upper", "dir": {"u": b""}})
        fs = Overlay(
            upper, MemFS({"both": b"1", "dir": {"x": b"1"}, "hides": b"f"}), MemFS({"hides": {"y": b""}, "z": b""})
        )
        guest = await spawn(Wasi(fs={"/": fs}))
        assert await guest.read(await guest.open("both", rights=2)) == b"upper"
        assert sorted(await guest.list(await directory(guest, "dir"))) == [".", "..", "u", "x"]
        assert await guest.opens("hides/y", rights=2) is E.NOTDIR
        assert await guest.opens("z", rights=2) is E.SUCCESS
        assert await guest.call("path_rename", 3, "dir", 3, "moved") is E.XDEV  # part of it lies below

    async def test_a_read_only_top(self, spawn) -> None:
        guest = await spawn(Wasi(fs={"/": Overlay(MemFS(read_only=True), MemFS({"a": b"1", "dir": {}}))}))
        assert await guest.opens("a", rights=66) is E.ROFS
        assert await guest.opens("new", OFlags.CREAT) is E.ROFS
        assert await guest.call("path_rename", 3, "a", 3, "b") is E.ROFS
        assert await guest.call("path_rename", 3, "a", 3, "a") is E.ROFS
        assert await guest.call("path_create_directory", 3, "new") is E.ROFS
        assert await guest.call("path_unlink_file", 3, "a") is E.ROFS
        assert await guest.call("path_remove_directory", 3, "dir") is E.ROFS
        assert sorted(await guest.list()) == [".", "..", "a", "dir"]

    async def test_a_directory_that_was_removed_does_not_come_back(self, spawn) -> None:
        """Not even through somebody who had it open, before it was copied up."""
        upper = MemFS()
        guest = await spawn(Wasi(fs={"/": Overlay(upper, MemFS({"dir": {"a": b"1"}}))}))
        early = await directory(guest, "dir")
        await guest.open("dir/new", OFlags.CREAT)
        for name in ("new", "a"):
            assert await guest.call("path_unlink_file", 3, f"dir/{name}") is E.SUCCESS
        assert await guest.call("path_remove_directory", 3, "dir") is E.SUCCESS
        assert await guest.list(early) == [".", ".."]
        assert await guest.opens("new", OFlags.CREAT, at=early) is E.NOENT
        assert await guest.call("path_create_directory", early, "new") is E.NOENT
        assert upper.snapshot() == {}
        assert await guest.call("path_create_directory", 3, "dir") is E.SUCCESS
        await guest.open("dir/other", OFlags.CREAT)
        assert await guest.list(early) == [".", ".."]

    async def test_a_directory_that_was_moved_is_where_it_is(self, spawn) -> None:
        upper = MemFS()
        guest = await spawn(Wasi(fs={"/": Overlay(upper, MemFS({"x": b""}))}))
        assert await guest.call("path_create_directory", 3, "dir") is E.SUCCESS
        assert await guest.call("path_create_directory", 3, "dir/in") is E.SUCCESS
        inner = await directory(guest, "dir/in")
        assert await guest.call("path_rename", 3, "dir", 3, "moved") is E.SUCCESS
        await guest.open("made", OFlags.CREAT, at=inner)
        assert upper.snapshot() == {"moved": {"in": {"made": b""}}}
        assert await guest.call("path_rename", 3, "moved", 3, "moved/in/x") is E.INVAL
        assert await guest.call("path_remove_directory", 3, "moved/in") is E.NOTEMPTY

    async def test_nobody_sees_half_a_copy(self, spawn, waiting) -> None:
        data = bytes(range(256)) * 2000
        fs = Overlay(MemFS(), waiting(MemFS({"file": data})))
        guests = [await spawn(Wasi(fs={"/": fs})) for _ in range(4)]
        found = []

        async def use(guest, rights: int) -> None:
            fd = await guest.open("file", rights=rights)
            assert await guest.call("fd_filestat_get", fd, 0x800) is E.SUCCESS
            found.append(guest.u64(0x820))

        async with anyio.create_task_group() as group:
            for index, guest in enumerate(guests):
                group.start_soon(use, guest, (2 | 64 | 1 << 21, 2 | 1 << 21)[index % 2])
        assert found == [len(data)] * 4

    async def test_what_cannot_be_opened_leaves_nothing_open(self, spawn, waiting, tmp_path: Path) -> None:
        (tmp_path / "dir").mkdir()

        class Refusing(waiting):
            def open_root(self):
                root = super().open_root()

                async def refuse(name: str) -> None:
                    raise PermissionError(EACCES, "refused")

                root.open_directory = refuse
                return root

        below = HostDir(tmp_path)
        guest = await spawn(Wasi(fs={"/": Overlay(MemFS(), below, Refusing(MemFS({"dir": {}})))}))
        assert await guest.opens("dir", rights=2) is E.ACCES
        before = os.open(tmp_path, os.O_RDONLY)
        os.close(before)
        for _ in range(5):
            assert await guest.opens("dir", rights=2) is E.ACCES
        after = os.open(tmp_path, os.O_RDONLY)
        os.close(after)
        assert after == before


class TestMounts:
    async def test_the_longest_path_counts(self, spawn) -> None:
        fs = {
            "/": MemFS({"lib": {"hidden": b""}, "file": b"root"}),
            "/lib": MemFS({"a": b"lib"}),
            "/x/y": MemFS({"b": b"y"}),
        }
        guest = await spawn(Wasi(fs=fs))
        assert await guest.read(await guest.open("lib/a", rights=2)) == b"lib"
        assert await guest.opens("lib/hidden", rights=2) is E.NOENT
        assert await guest.read(await guest.open("lib/../file", rights=2)) == b"root"
        assert await guest.read(await guest.open("lib/../lib/a", rights=2)) == b"lib"
        assert (await guest.stat("lib")).dev == (await guest.stat("a", at=4)).dev != (await guest.stat("file")).dev
        assert sorted(await guest.list()) == [".", "..", "file", "lib"]
        assert await guest.list(await directory(guest, "lib")) == [".", "..", "a"]
        assert await guest.opens("../file", at=4) is E.NOTCAPABLE  # a mount is its guest's root

    async def test_nothing_moves_across(self, spawn) -> None:
        guest = await spawn(Wasi(fs={"/": MemFS({"lib": {}, "file": b""}), "/lib": MemFS({"a": b""})}))
        assert await guest.call("path_rename", 3, "file", 3, "lib/file") is E.XDEV
        assert await guest.call("path_rename", 3, "lib/a", 3, "a") is E.XDEV
        assert await guest.call("path_link", 3, 0, "file", 3, "lib/file") is E.XDEV
        assert await guest.call("path_rename", 3, "lib", 3, "other") is E.BUSY
        assert await guest.call("path_remove_directory", 3, "lib") is E.BUSY
        assert await guest.call("path_create_directory", 3, "lib") is E.EXIST
        assert await guest.opens("lib", OFlags.CREAT) is E.ISDIR
        assert await guest.call("path_unlink_file", 3, "lib") is E.ISDIR

    async def test_one_file_system_at_two_paths(self, spawn) -> None:
        fs = MemFS({"file": b"x"})
        guest = await spawn(Wasi(fs={"/a": fs, "/b": fs}))
        assert await guest.call("path_rename", 3, "file", 4, "moved") is E.SUCCESS
        assert fs.snapshot() == {"moved": b"x"}

    @pytest.mark.parametrize("path", ["", "..", "/a/../b", "/a\0"])
    def test_where_nothing_can_be_mounted(self, path: str) -> None:
        with pytest.raises(ValueError, match="no guest path"):
            Wasi(fs={path: MemFS()})

    def test_what_cannot_be_mounted(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError):
            Wasi(fs={"/": str(tmp_path)})
        with pytest.raises(ValueError, match="same path"):
            Wasi(fs={"/a": MemFS(), "/a/": MemFS()})


class TestHostDir:
    def test_what_is_no_directory(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        for path, error in (("none", FileNotFoundError), ("file", NotADirectoryError)):
            with pytest.raises(error):
                HostDir(tmp_path / path)
        with pytest.raises(ValueError, match="offload"):
            HostDir(tmp_path, offload="sometimes")

    async def test_large_reads_and_writes_are_offloaded(self, spawn, tmp_path: Path) -> None:
        data = bytes(range(256)) * 4096
        (tmp_path / "file").write_bytes(data)
        guest = await spawn(Wasi(fs={"/": HostDir(tmp_path)}))
        guest.memory.grow(40)
        fd = await guest.open("file")
        assert await guest.read(fd, len(data)) == data
        guest.memory.write(0x1_0000, b"x" * len(data))
        assert await guest.call("fd_pwrite", fd, *guest.iovecs(len(data)), 5, 0) is E.SUCCESS
        assert guest.u32() == len(data)
        assert (tmp_path / "file").read_bytes() == data[:5] + b"x" * len(data)
        assert await guest.call("fd_sync", fd) is E.SUCCESS

    async def test_names_that_are_not_unicode_are_not_there(self, spawn, tmp_path: Path) -> None:
        try:
            (tmp_path / "odd\udcff").write_bytes(b"")
        except (OSError, UnicodeError):
            pytest.skip("this file system has no such names")
        guest = await spawn(Wasi(fs={"/": HostDir(tmp_path)}))
        assert await guest.list() == [".", ".."]

    async def test_times_that_a_guest_cannot_be_told(self, spawn, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        guest = await spawn(Wasi(fs={"/": HostDir(tmp_path)}))
        for seconds, mtim in ((-10, 0), (1 << 35, (1 << 64) - 1)):
            os.utime(tmp_path / "file", (seconds, seconds))
            told = int(os.stat(tmp_path / "file").st_mtime)
            assert (await guest.stat("file")).mtim == (mtim if told == seconds else told * 10**9)

    async def test_closing_it_leaves_guests_theirs(self, spawn, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"x")
        fs = HostDir(tmp_path)
        guest = await spawn(Wasi(fs={"/": fs}))
        fs.close()
        assert await guest.read(await guest.open("file")) == b"x"
        with pytest.raises(ValueError, match="closed"):
            fs.open_root()


def test_a_system_without_openat_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing there keeps guests inside a directory: better no HostDir than one that does not hold."""
    monkeypatch.setattr("aiowasm.host.wasi.hostdir._HAS_OPENAT", False)
    with pytest.raises(NotImplementedError, match="has no openat"):
        HostDir(tmp_path)


@pytest.mark.parametrize("where", ["HostDir", "MemFS"])
async def test_walks_keep_few_directories_open(spawn, tmp_path: Path, where: str) -> None:
    """A guest that nests directories without end gets no more of the process's descriptors than this."""
    guest = await spawn(Wasi(fs={"/": HostDir(tmp_path) if where == "HostDir" else MemFS()}))
    at = 3
    for _ in range(3):
        for depth in range(1, 101):
            assert await guest.call("path_create_directory", at, "a/" * depth) is Errno.SUCCESS
        at = await guest.open("a/" * 100, OFlags.DIRECTORY, rights=DIRECTORY_RIGHTS, at=at)
    assert await guest.call("path_filestat_get", 3, 1, "a/" * 256, 0x800) is Errno.SUCCESS
    assert await guest.call("path_filestat_get", 3, 1, "a/../" * 290 + "a", 0x800) is Errno.SUCCESS
    assert await guest.call("path_filestat_get", 3, 1, "a/" * 300, 0x800) is Errno.NAMETOOLONG
