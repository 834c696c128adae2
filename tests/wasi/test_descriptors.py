"""Calls on descriptors: what each does, and every errno it gives, on every kind of file system alike."""

from __future__ import annotations

import pytest

from aiowasm.host.wasi import MemFS, Wasi, calls_readdir
from aiowasm.host.wasi.abi import FDSTAT, FUNCTIONS, Errno, FdFlags, FileType, OFlags, Rights, Whence
from aiowasm.host.wasi.descriptors import ALL_RIGHTS, DIRECTORY_RIGHTS, FILE_RIGHTS
from aiowasm.host.wasi.system import MAX_CALL_NBYTES, MAX_IOVECS

pytestmark = pytest.mark.anyio

E = Errno
FAR = 0x10_0000
ON_ONE = [name for name, (parameters, _) in FUNCTIONS.items() if name.startswith("fd_")]


@pytest.mark.parametrize("name", ON_ONE)
async def test_no_such_descriptor(guest, name: str) -> None:
    parameters = FUNCTIONS[name].parameters
    for fd in (4, 99, 0xFFFF_FFFF):
        assert await guest.call(name, fd, *[0] * (len(parameters) - 1)) is E.BADF


# What is done, with which rights, and what a directory and stdin say to it.
NEEDS = {
    "fd_read": ((0x200, 1, 0), Rights.FD_READ, E.ISDIR, E.SUCCESS),
    "fd_pread": ((0x200, 1, 0, 0), Rights.FD_READ | Rights.FD_SEEK, E.ISDIR, E.SPIPE),
    "fd_write": ((0x200, 1, 0), Rights.FD_WRITE, E.ISDIR, E.NOTCAPABLE),
    "fd_pwrite": ((0x200, 1, 0, 0), Rights.FD_WRITE | Rights.FD_SEEK, E.ISDIR, E.SPIPE),
    "fd_seek": ((1, 0, 0), Rights.FD_SEEK, E.ISDIR, E.SPIPE),
    "fd_tell": ((0,), Rights.FD_TELL, E.ISDIR, E.SPIPE),
    "fd_allocate": ((0, 1), Rights.FD_ALLOCATE, E.ISDIR, E.SPIPE),
    "fd_advise": ((0, 1, 0), Rights.FD_ADVISE, E.SUCCESS, E.SPIPE),
    "fd_filestat_set_size": ((5,), Rights.FD_FILESTAT_SET_SIZE, E.ISDIR, E.SPIPE),
    "fd_filestat_set_times": ((0, 0, 0), Rights.FD_FILESTAT_SET_TIMES, E.SUCCESS, E.NOTCAPABLE),
    "fd_filestat_get": ((0x800,), Rights.FD_FILESTAT_GET, E.SUCCESS, E.SUCCESS),
    "fd_fdstat_set_flags": ((0,), Rights.FD_FDSTAT_SET_FLAGS, E.SUCCESS, E.SUCCESS),
    "fd_sync": ((), Rights.FD_SYNC, E.SUCCESS, E.INVAL),
    "fd_datasync": ((), Rights.FD_DATASYNC, E.SUCCESS, E.INVAL),
    "fd_readdir": ((0x800, 100, 0, 0), None, E.SUCCESS, E.NOTDIR),
    "fd_prestat_get": ((0x800,), None, E.BADF, E.BADF),
    "fd_prestat_dir_name": ((0x800, 10), None, E.BADF, E.BADF),
}


@pytest.mark.parametrize("name", NEEDS)
async def test_rights_and_kinds(guest, name: str) -> None:
    arguments, right, on_directory, on_stdin = NEEDS[name]
    guest.iovecs(b"data")
    directory = await guest.open("dir", OFlags.DIRECTORY, rights=DIRECTORY_RIGHTS)
    assert await guest.call(name, directory, *arguments) is on_directory
    assert await guest.call(name, 0, *arguments) is on_stdin
    if right is not None:
        file = await guest.open("file")
        assert await guest.call(name, file, *arguments) is E.SUCCESS
        weak = await guest.open("file", rights=FILE_RIGHTS & ~right)
        assert await guest.call(name, weak, *arguments) is E.NOTCAPABLE
    if name == "fd_readdir":
        weak = await guest.open("dir", rights=DIRECTORY_RIGHTS & ~Rights.FD_READDIR)
        assert await guest.call(name, weak, *arguments) is E.NOTCAPABLE
        assert await guest.call(name, await guest.open("file"), *arguments) is E.NOTDIR


POINTERS = {
    "fd_read": [(FAR, 1, 0), (0x200, 1, FAR), (0x3_FFFC, 1, 0)],
    "fd_pread": [(FAR, 1, 0, 0), (0x200, 1, 0, FAR)],
    "fd_write": [(FAR, 1, 0), (0x200, 1, FAR), (0x3_FFF8, 2, 0)],
    "fd_pwrite": [(FAR, 1, 0, 0), (0x200, 1, 0, FAR)],
    "fd_seek": [(0, 0, FAR), (0, 2, 0x3_FFF9)],
    "fd_tell": [(FAR,)],
    "fd_fdstat_get": [(FAR,), (0x3_FFF0,)],
    "fd_filestat_get": [(FAR,), (0x3_FFD0,)],
}


@pytest.mark.parametrize("name", POINTERS)
async def test_pointers_out_of_memory(guest, name: str) -> None:
    fd = await guest.open("file")
    guest.iovecs(10)
    for arguments in POINTERS[name]:
        assert await guest.call(name, fd, *arguments) is E.FAULT, arguments
    assert await guest.call("fd_tell", fd, 0) is E.SUCCESS
    assert guest.u64() == 0  # nothing was read or written before it failed


async def test_buffers_out_of_memory(guest) -> None:
    fd = await guest.open("file")
    for where, nbytes in ((FAR, 1), (0x3_FFFF, 2), (0xFFFF_FFFF, 0xFFFF_FFFF), (0, 0xFFFF_FFFF)):
        for index in (0, 1):
            guest.iovecs(4, 4)
            guest.memory.write_u32(0x200 + 8 * index, where)
            guest.memory.write_u32(0x204 + 8 * index, nbytes)
            for name in ("fd_read", "fd_write"):
                assert await guest.call(name, fd, 0x200, index + 1, 0) is E.FAULT, (where, nbytes, index)
    for name in ("fd_read", "fd_write"):
        assert await guest.call(name, fd, 0x200, MAX_IOVECS + 1, 0) is E.INVAL
        assert await guest.call(name, fd, 0x200, 0xFFFF_FFFF, 0) is E.INVAL


async def test_reading_and_writing(guest) -> None:
    fd = await guest.open("file")
    assert await guest.call("fd_read", fd, *guest.iovecs(3, 0, 4), 0) is E.SUCCESS
    assert (guest.u32(), guest.data(7)) == (7, b"0123456")
    assert await guest.read(fd) == b"789"
    assert await guest.read(fd) == b""
    assert await guest.call("fd_read", fd, 0, 0, 0) is E.SUCCESS
    assert guest.u32() == 0
    assert await guest.call("fd_seek", fd, -4 & (1 << 64) - 1, Whence.END, 0) is E.SUCCESS
    assert guest.u64() == 6
    assert await guest.call("fd_write", fd, *guest.iovecs(b"ab", b"", b"cdef"), 0) is E.SUCCESS
    assert guest.u32() == 6
    assert await guest.call("fd_pread", fd, *guest.iovecs(100), 4, 0) is E.SUCCESS
    assert guest.data(guest.u32()) == b"45abcdef"
    assert await guest.call("fd_pwrite", fd, *guest.iovecs(b"XY"), 1, 0) is E.SUCCESS
    assert await guest.call("fd_tell", fd, 0) is E.SUCCESS
    assert guest.u64() == 12
    other = await guest.open("file")
    assert await guest.read(other) == b"0XY345abcdef"
    # Beyond the end are zeros.
    assert await guest.call("fd_pwrite", fd, *guest.iovecs(b"z"), 15, 0) is E.SUCCESS
    assert await guest.read(other) == b"\0\0\0z"
    for name in ("fd_pread", "fd_pwrite"):
        assert await guest.call(name, fd, *guest.iovecs(b"x"), 1 << 63, 0) is E.INVAL


async def test_seeking(guest) -> None:
    fd = await guest.open("file")

    async def seek(offset: int, whence: int) -> Errno | int:
        errno = await guest.call("fd_seek", fd, offset & (1 << 64) - 1, whence, 0)
        return guest.u64() if errno is E.SUCCESS else errno

    assert await seek(3, Whence.SET) == 3
    assert await seek(4, Whence.CUR) == 7
    assert await seek(-2, Whence.CUR) == 5
    assert await seek(0, Whence.END) == 10
    assert await seek(1000, Whence.END) == 1010
    assert await guest.read(fd) == b""
    assert await seek(-1, Whence.SET) is E.INVAL
    assert await seek(-1011, Whence.CUR) is E.INVAL
    assert await seek(-11, Whence.END) is E.INVAL
    assert await seek((1 << 63) - 1, Whence.SET) == (1 << 63) - 1
    assert await seek(1, Whence.CUR) is E.OVERFLOW
    assert await seek(0, 3) is E.INVAL
    weak = await guest.open("file", rights=int(Rights.FD_TELL))
    assert await guest.call("fd_seek", weak, 0, Whence.CUR, 0) is E.SUCCESS
    assert await guest.call("fd_seek", weak, 1, Whence.CUR, 0) is E.NOTCAPABLE


FAR_OFF = (1 << 63) - 1


async def test_no_file_reaches_beyond_offsets(guest) -> None:
    fd = await guest.open("file")
    for offset in (FAR_OFF - 2, FAR_OFF):
        assert await guest.call("fd_pread", fd, *guest.iovecs(1, 4), offset, 0) is E.SUCCESS
        assert guest.u32() == 0
        assert await guest.call("fd_pwrite", fd, *guest.iovecs(b"data"), offset, 0) is E.FBIG
        assert await guest.call("fd_seek", fd, offset, Whence.SET, 0) is E.SUCCESS
        assert await guest.read(fd) == b""
        assert await guest.call("fd_write", fd, *guest.iovecs(b"data"), 0) is E.FBIG
        assert await guest.call("fd_pwrite", fd, 0, 0, offset, 0) is E.SUCCESS
    assert await guest.call("fd_tell", fd, 0) is E.SUCCESS
    assert guest.u64() == FAR_OFF
    assert await guest.call("fd_fdstat_set_flags", fd, FdFlags.APPEND) is E.SUCCESS
    assert await guest.write(fd, b"+") == 1  # the end is somewhere else
    assert (await guest.stat("file")).size == 11


async def test_appending(guest) -> None:
    fd = await guest.open("file", fdflags=FdFlags.APPEND)
    assert await guest.write(fd, b"ab") == 2
    assert await guest.call("fd_tell", fd, 0) is E.SUCCESS
    assert guest.u64() == 12
    assert await guest.call("fd_seek", fd, 0, Whence.SET, 0) is E.SUCCESS
    assert await guest.write(fd, b"cd") == 2
    assert await guest.call("fd_fdstat_set_flags", fd, 0) is E.SUCCESS
    assert await guest.call("fd_seek", fd, 0, Whence.SET, 0) is E.SUCCESS
    assert await guest.write(fd, b"XY") == 2
    assert await guest.read(await guest.open("file")) == b"XY23456789abcd"
    assert await guest.call("fd_fdstat_set_flags", fd, 32) is E.INVAL


async def test_sizes(guest) -> None:
    fd = await guest.open("file")
    assert await guest.call("fd_filestat_set_size", fd, 3) is E.SUCCESS
    assert await guest.read(fd) == b"012"
    assert await guest.call("fd_filestat_set_size", fd, 5) is E.SUCCESS
    assert await guest.read(fd) == b"\0\0"
    assert await guest.call("fd_filestat_set_size", fd, 1 << 63) is E.INVAL
    assert await guest.call("fd_allocate", fd, 0, 4) is E.SUCCESS
    assert (await guest.stat("file")).size == 5
    assert await guest.call("fd_allocate", fd, 4, 4) is E.SUCCESS
    assert (await guest.stat("file")).size == 8
    assert await guest.call("fd_allocate", fd, 0, 0) is E.INVAL
    assert await guest.call("fd_allocate", fd, 1 << 62, 1 << 62) is E.FBIG
    assert await guest.call("fd_advise", fd, 0, 0, 5) is E.SUCCESS
    assert await guest.call("fd_advise", fd, 0, 0, 6) is E.INVAL
    assert await guest.call("fd_advise", fd, 1 << 63, 1, 0) is E.INVAL


async def test_times(guest) -> None:
    fd = await guest.open("file")
    assert await guest.call("fd_filestat_set_times", fd, 1_000, 2_000, 5) is E.SUCCESS
    stat = await guest.stat("file")
    assert (stat.atim, stat.mtim) == (1_000, 2_000)
    assert await guest.call("fd_filestat_set_times", fd, 0, 0, 8) is E.SUCCESS
    assert (await guest.stat("file")).mtim > 10**18
    for flags in (3, 12, 16):
        assert await guest.call("fd_filestat_set_times", fd, 0, 0, flags) is E.INVAL
    assert await guest.call("fd_filestat_set_times", fd, 1 << 63, (1 << 64) - 1, 5) is E.SUCCESS
    assert (await guest.stat("file")).mtim > 10**18  # or what the host's file system can keep
    directory = await guest.open("dir", rights=DIRECTORY_RIGHTS)
    assert await guest.call("fd_filestat_set_times", directory, 1_000, 2_000, 5) is E.SUCCESS
    assert (await guest.stat("dir")).mtim == 2_000


async def test_fdstat_and_rights(guest) -> None:
    async def fdstat(fd: int) -> tuple[int, ...]:
        assert await guest.call("fd_fdstat_get", fd, 0x800) is E.SUCCESS
        return FDSTAT.unpack(guest.memory.read(0x800, FDSTAT.size))

    assert await fdstat(3) == (FileType.DIRECTORY, 0, DIRECTORY_RIGHTS, ALL_RIGHTS)
    fd = await guest.open("file", fdflags=FdFlags.NONBLOCK)
    assert await fdstat(fd) == (FileType.REGULAR_FILE, FdFlags.NONBLOCK, FILE_RIGHTS, 0)
    assert (await fdstat(0))[0] == FileType.UNKNOWN
    less = FILE_RIGHTS & ~Rights.FD_WRITE
    assert await guest.call("fd_fdstat_set_rights", fd, less, 0) is E.SUCCESS
    assert (await fdstat(fd))[2] == less
    assert await guest.call("fd_write", fd, *guest.iovecs(b"x"), 0) is E.NOTCAPABLE
    assert await guest.call("fd_fdstat_set_rights", fd, FILE_RIGHTS, 0) is E.NOTCAPABLE
    assert await guest.call("fd_fdstat_set_rights", fd, less, 1) is E.NOTCAPABLE
    assert (await fdstat(fd))[2] == less


async def test_closing_and_renumbering(guest) -> None:
    first, second = await guest.open("file"), await guest.open("dir/inner")
    assert second == first + 1
    assert await guest.call("fd_renumber", first, 99) is E.BADF
    assert await guest.call("fd_renumber", 99, first) is E.BADF
    assert await guest.call("fd_renumber", first, first) is E.SUCCESS
    assert await guest.call("fd_renumber", second, first) is E.SUCCESS
    assert await guest.read(first) == b"inner"
    assert await guest.call("fd_close", second) is E.BADF
    assert await guest.open("file") == second  # the lowest that is free
    assert await guest.call("fd_close", first) is E.SUCCESS
    assert await guest.call("fd_close", first) is E.BADF
    assert await guest.call("fd_renumber", second, 3) is E.SUCCESS
    assert await guest.call("fd_prestat_get", 3, 0x800) is E.BADF
    assert await guest.call("fd_close", 0) is E.SUCCESS
    assert await guest.call("fd_read", 0, 0, 0, 0) is E.BADF


async def test_preopened_directories(guest) -> None:
    assert await guest.call("fd_prestat_get", 3, 0x800) is E.SUCCESS
    assert guest.memory.read(0x800, 8) == b"\0\0\0\0\1\0\0\0"
    assert await guest.call("fd_prestat_dir_name", 3, 0x900, 1) is E.SUCCESS
    assert guest.memory.read(0x900, 1) == b"/"
    assert await guest.call("fd_prestat_dir_name", 3, 0x900, 10) is E.SUCCESS
    assert await guest.call("fd_prestat_dir_name", 3, 0x900, 0) is E.NAMETOOLONG
    assert await guest.call("fd_prestat_dir_name", 3, FAR, 1) is E.FAULT
    assert await guest.call("fd_prestat_get", 3, FAR) is E.FAULT


async def test_listing(guest) -> None:
    assert sorted(await guest.list(3)) == [".", "..", "dir", "empty", "file", "link"]
    for nbytes in (24, 31, 40, 64, 100):  # entries that do not fit come with the next call
        try:
            assert sorted(await guest.list(3, nbytes)) == [".", "..", "dir", "empty", "file", "link"]
        except IndexError:
            assert nbytes < 32
    fd = await guest.open("dir", rights=DIRECTORY_RIGHTS)
    assert sorted(await guest.list(fd)) == [".", "..", "deep", "inner"]
    # A listing that has begun goes on as it began, whatever happens; the next one is new.
    await guest.open("dir/more", OFlags.CREAT)
    assert await guest.call("fd_readdir", fd, 0x1000, 1000, 2, 0) is E.SUCCESS
    assert b"more" not in guest.memory.read(0x1000, guest.u32())
    assert "more" in await guest.list(fd)
    assert await guest.call("fd_readdir", fd, 0x1000, 1000, 1 << 63, 0) is E.SUCCESS
    assert guest.u32() == 0
    assert await guest.call("fd_readdir", fd, FAR, 1000, 0, 0) is E.FAULT
    assert await guest.call("fd_readdir", fd, 0x1000, 1000, 0, FAR) is E.FAULT
    assert await guest.call("fd_readdir", fd, 0x1000, 0xFFFF_FFFF, 0, 0) is E.FAULT


async def test_listings_are_bounded(guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of them together: one that was dropped is taken anew, and goes on where it was."""
    monkeypatch.setattr(calls_readdir, "MAX_LISTED", 7)
    other = await guest.open("dir", rights=DIRECTORY_RIGHTS)
    assert await guest.call("fd_readdir", 3, 0x1000, 60, 0, 0) is E.SUCCESS
    assert sorted(await guest.list(other)) == [".", "..", "deep", "inner"]
    await guest.open("more", OFlags.CREAT)
    assert await guest.call("fd_readdir", 3, 0x1000, 1000, 2, 0) is E.SUCCESS
    assert b"more" in guest.memory.read(0x1000, guest.u32())


async def test_too_many_open_files(spawn) -> None:
    guest = await spawn(Wasi(fs={"/": MemFS({"file": b""})}, max_open_files=6))
    assert [await guest.opens("file") for _ in range(4)] == [E.SUCCESS, E.SUCCESS, E.MFILE, E.MFILE]
    assert await guest.opens("new", OFlags.CREAT) is E.MFILE
    assert await guest.opens("new") is E.MFILE
    assert await guest.call("fd_close", 4) is E.SUCCESS
    assert await guest.opens("new") is E.NOENT  # it was not made when there was no room


async def test_what_is_moved_is_charged_and_bounded(spawn) -> None:
    fs = MemFS({"file": b"x" * 20_000})
    guest = await spawn(Wasi(fs={"/": fs}))
    fd = await guest.open("file")
    costs = []
    for nbytes in (64, 6400, 64_000):
        before = guest.instance.fuel_consumed
        assert await guest.call("fd_pread", fd, *guest.iovecs(nbytes), 0, 0) is E.SUCCESS
        costs.append(guest.instance.fuel_consumed - before)
    assert costs[1] - costs[0] == 99
    assert costs[2] - costs[0] == 999
    before = guest.instance.fuel_consumed
    assert await guest.call("fd_pread", fd, *guest.iovecs(*[1] * 100), 0, 0) is E.SUCCESS
    assert guest.instance.fuel_consumed - before >= costs[0] + 98
    # One gibibyte in a thousand buffers, which are all the same: no more than the bound is moved.
    big = guest.instance.memory
    big.grow(30)
    for index in range(1000):
        big.write_u32(0x1_0000 + 8 * index, 0x2_0000)
        big.write_u32(0x1_0004 + 8 * index, 1 << 20)
    assert await guest.call("fd_pwrite", fd, 0x1_0000, 1000, 0, 0) is E.SUCCESS
    assert guest.u32() == MAX_CALL_NBYTES


async def test_memfs_is_bounded(spawn) -> None:
    fs = MemFS({"file": b""}, max_nbytes=1000, max_nodes=5)
    guest = await spawn(Wasi(fs={"/": fs}))
    fd = await guest.open("file")
    assert await guest.write(fd, b"x" * 1000) == 1000
    assert await guest.call("fd_write", fd, *guest.iovecs(b"x"), 0) is E.NOSPC
    assert await guest.call("fd_pwrite", fd, *guest.iovecs(b"x"), 1 << 40, 0) is E.NOSPC
    assert await guest.call("fd_filestat_set_size", fd, 1 << 50) is E.NOSPC
    assert await guest.call("fd_allocate", fd, 0, 1 << 50) is E.NOSPC
    assert await guest.call("fd_filestat_set_size", fd, 10) is E.SUCCESS
    assert fs.nbytes == 10
    for name in ("a", "b", "c"):
        assert await guest.call("path_create_directory", 3, name) is E.SUCCESS
    assert await guest.call("path_create_directory", 3, "d") is E.NOSPC
    assert await guest.opens("d", OFlags.CREAT) is E.NOSPC
    assert await guest.call("path_symlink", "x", 3, "d") is E.NOSPC
    assert await guest.call("path_unlink_file", 3, "file") is E.SUCCESS
    assert fs.nbytes == 10  # it is open
    assert await guest.call("fd_close", fd) is E.SUCCESS
    assert (fs.nbytes, fs.nodes) == (0, 4)
