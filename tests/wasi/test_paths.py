"""Calls on paths: what each does, and every errno it gives, on every kind of file system alike."""

from __future__ import annotations

import pytest

from aiowasm.host.wasi.abi import Errno, FdFlags, FileType, OFlags, Rights
from aiowasm.host.wasi.descriptors import ALL_RIGHTS, DIRECTORY_RIGHTS

pytestmark = pytest.mark.anyio

E = Errno
READ = int(Rights.FD_READ)
WRITE = int(Rights.FD_WRITE)
BOTH = READ | WRITE
FAR = 0x10_0000  # beyond the guest's memory

# Calls that take one path: how to call them with it, and the right they need.
ONE_PATH = {
    "path_open": (lambda at, path: (at, 1, path, 0, READ, 0, 0, 0), Rights.PATH_OPEN),
    "path_filestat_get": (lambda at, path: (at, 1, path, 0x800), Rights.PATH_FILESTAT_GET),
    "path_filestat_set_times": (lambda at, path: (at, 1, path, 0, 0, 5), Rights.PATH_FILESTAT_SET_TIMES),
    "path_create_directory": (lambda at, path: (at, path), Rights.PATH_CREATE_DIRECTORY),
    "path_remove_directory": (lambda at, path: (at, path), Rights.PATH_REMOVE_DIRECTORY),
    "path_unlink_file": (lambda at, path: (at, path), Rights.PATH_UNLINK_FILE),
    "path_readlink": (lambda at, path: (at, path, 0x800, 100, 0), Rights.PATH_READLINK),
    "path_symlink": (lambda at, path: ("target", at, path), Rights.PATH_SYMLINK),
    "path_link": (lambda at, path: (at, 0, path, 3, "new"), Rights.PATH_LINK_SOURCE),
    "path_rename": (lambda at, path: (at, path, 3, "new"), Rights.PATH_RENAME_SOURCE),
}


@pytest.mark.parametrize("name", ONE_PATH)
async def test_what_every_call_refuses(guest, name: str) -> None:
    arguments, right = ONE_PATH[name]
    file = await guest.open("file")
    weak = await guest.open(".", OFlags.DIRECTORY, rights=DIRECTORY_RIGHTS & ~right)
    creates = name in ("path_create_directory", "path_symlink")
    for at, path, errno in (
        (99, "file", E.BADF),
        (0, "file", E.NOTDIR),
        (file, "file", E.NOTDIR),
        (weak, "file", E.NOTCAPABLE),
        (3, "", E.NOENT),
        (3, "/file", E.NOTCAPABLE),
        (3, "../file", E.NOTCAPABLE),
        (3, "dir/../../file", E.NOTCAPABLE),
        (3, b"fi\0le", E.INVAL),
        (3, b"\xff", E.ILSEQ),
        (3, "none/file", E.NOENT),
        (3, "file/none", E.NOTDIR),
        (3, "link/none", E.NOTDIR),
        (3, "x" * 5000, E.NAMETOOLONG),
        *(() if creates else ((3, "none", E.NOENT),)),
    ):
        assert await guest.call(name, *arguments(at, path)) is errno, (at, path[:20])
    # A path outside of the memory.
    with_address = []
    for argument in arguments(3, "PATH"):
        with_address += [FAR, 4] if argument == "PATH" else [argument]
    assert await guest.call(name, *with_address) is E.FAULT


async def test_path_open(guest) -> None:
    assert await guest.read(await guest.open("file")) == b"0123456789"
    assert await guest.read(await guest.open("dir//./../link")) == b"0123456789"
    assert await guest.read(await guest.open("dir/deep/../inner")) == b"inner"
    for path, oflags, rights, errno in (
        ("link", 0, READ, E.LOOP),  # not followed
        ("link", OFlags.DIRECTORY, READ, E.LOOP),
        ("link/", 0, READ, E.NOTDIR),
        ("file", OFlags.DIRECTORY, READ, E.NOTDIR),
        ("file/", 0, READ, E.NOTDIR),
        ("file", OFlags.CREAT | OFlags.EXCL, READ, E.EXIST),
        ("dir", OFlags.CREAT | OFlags.EXCL, READ, E.EXIST),
        ("link", OFlags.CREAT | OFlags.EXCL, READ, E.EXIST),
        (".", OFlags.CREAT | OFlags.EXCL, READ, E.EXIST),
        ("dir", OFlags.CREAT, READ, E.ISDIR),
        ("dir", OFlags.TRUNC, READ, E.ISDIR),
        ("dir", 0, BOTH, E.ISDIR),
        (".", OFlags.DIRECTORY, BOTH, E.ISDIR),
        ("new/", OFlags.CREAT, BOTH, E.ISDIR),
        ("new", OFlags.CREAT | OFlags.DIRECTORY, READ, E.INVAL),
        ("file", 16, READ, E.INVAL),
        ("dir", 0, READ, E.SUCCESS),
        ("dir/", 0, READ, E.SUCCESS),
        ("dir/..", OFlags.DIRECTORY, READ, E.SUCCESS),
        ("file", 0, 0, E.SUCCESS),
        ("empty", OFlags.TRUNC, 0, E.SUCCESS),
        ("x" * 256, OFlags.CREAT, BOTH, E.NAMETOOLONG),
    ):
        assert await guest.opens(path, oflags, rights=rights, follow=False) is errno, (path, oflags)
    assert await guest.opens("file", fdflags=32) is E.INVAL
    assert await guest.call("path_open", 3, 2, "file", 0, READ, 0, 0, 0) is E.INVAL
    assert await guest.call("path_open", 3, 0, "file", 0, READ, 0, 0, FAR) is E.FAULT


async def test_a_dot_at_the_end_is_no_entry(guest) -> None:
    """What stands before it has to be a directory, and the entry itself cannot be made, moved or removed so."""
    for name, arguments, errno in (
        ("path_remove_directory", (3, "dir/deep/."), E.INVAL),
        ("path_remove_directory", (3, "dir/./"), E.INVAL),
        ("path_create_directory", (3, "new/."), E.NOENT),
        ("path_create_directory", (3, "dir/."), E.EXIST),
        ("path_unlink_file", (3, "dir/."), E.ISDIR),
        ("path_unlink_file", (3, "file/."), E.NOTDIR),
        ("path_rename", (3, "dir/.", 3, "new"), E.BUSY),
        ("path_rename", (3, "dir", 3, "new/."), E.NOENT),
        ("path_link", (3, 0, "file", 3, "new/."), E.NOENT),
        ("path_symlink", ("file", 3, "new/."), E.NOENT),
        ("path_open", (3, 1, "new/.", OFlags.CREAT, BOTH, 0, 0, 0), E.NOENT),
        ("path_open", (3, 1, "dir/.", OFlags.CREAT | OFlags.EXCL, READ, 0, 0, 0), E.EXIST),
        ("path_open", (3, 1, "dir/.", 0, READ, 0, 0, 0), E.SUCCESS),
        ("path_filestat_get", (3, 0, "dir/././", 0x800), E.SUCCESS),
        ("path_symlink", ("dir/.", 3, "to_dot"), E.SUCCESS),
        ("path_filestat_get", (3, 0, "to_dot/inner", 0x800), E.SUCCESS),
        ("path_filestat_get", (3, 1, "to_dot", 0x800), E.SUCCESS),
    ):
        assert await guest.call(name, *arguments) is errno, (name, arguments)


async def test_a_link_with_a_slash_is_not_what_is_made_moved_or_removed(guest) -> None:
    assert await guest.call("path_symlink", "dir/deep", 3, "to_dir") is E.SUCCESS
    assert await guest.call("path_symlink", "none", 3, "to_none") is E.SUCCESS
    assert await guest.call("path_unlink_file", 3, "dir/deep/x") is E.SUCCESS
    for name, arguments, errno in (
        ("path_remove_directory", (3, "to_dir/"), E.NOTDIR),
        ("path_rename", (3, "to_dir/", 3, "new"), E.NOTDIR),
        ("path_rename", (3, "file", 3, "to_dir/"), E.NOTDIR),
        ("path_create_directory", (3, "to_none/"), E.EXIST),
        ("path_create_directory", (3, "to_dir/"), E.EXIST),
        ("path_filestat_get", (3, 0, "to_none/", 0x800), E.NOENT),
        ("path_filestat_get", (3, 0, "to_dir/", 0x800), E.SUCCESS),
    ):
        assert await guest.call(name, *arguments) is errno, (name, arguments)
    assert (await guest.stat("dir/deep")).filetype is FileType.DIRECTORY
    assert await guest.opens("none") is E.NOENT


async def test_path_open_creates_and_truncates(guest) -> None:
    fd = await guest.open("new", OFlags.CREAT | OFlags.EXCL)
    assert await guest.write(fd, b"hello") == 5
    assert await guest.read(await guest.open("new")) == b"hello"
    fd = await guest.open("new", OFlags.CREAT)
    assert await guest.read(fd) == b"hello"
    fd = await guest.open("new", OFlags.CREAT | OFlags.TRUNC)
    assert await guest.read(fd) == b""
    assert (await guest.stat("new")).size == 0
    # Through a link whose target does not exist yet.
    assert await guest.call("path_symlink", "made", 3, "to_made") is E.SUCCESS
    assert await guest.opens("to_made") is E.NOENT
    await guest.open("to_made", OFlags.CREAT)
    assert (await guest.stat("made")).filetype is FileType.REGULAR_FILE


async def test_path_open_gives_no_more_than_the_directory_has(guest) -> None:
    inheriting = ALL_RIGHTS & ~WRITE
    fd = await guest.open("dir", OFlags.DIRECTORY, rights=DIRECTORY_RIGHTS, inheriting=inheriting)
    assert await guest.opens("inner", rights=BOTH, inheriting=0, at=fd) is E.NOTCAPABLE
    assert await guest.opens("inner", rights=READ, inheriting=WRITE, at=fd) is E.NOTCAPABLE
    assert await guest.opens("inner", rights=READ, inheriting=0, at=fd) is E.SUCCESS
    assert await guest.opens("deep", rights=1 << 60 | READ, inheriting=0, at=fd) is E.SUCCESS  # no right at all
    for oflags, right in ((OFlags.CREAT, Rights.PATH_CREATE_FILE), (OFlags.TRUNC, Rights.PATH_FILESTAT_SET_SIZE)):
        weak = await guest.open(".", OFlags.DIRECTORY, rights=DIRECTORY_RIGHTS & ~right)
        assert await guest.opens("file", oflags, rights=READ, at=weak) is E.NOTCAPABLE


async def test_path_filestat_get(guest) -> None:
    file, link, directory = await guest.stat("file"), await guest.stat("link"), await guest.stat("dir")
    assert (file.filetype, file.size, file.nlink) == (FileType.REGULAR_FILE, 10, 1)
    assert link.filetype is FileType.SYMBOLIC_LINK
    assert directory.filetype is FileType.DIRECTORY
    assert await guest.stat("link", follow=True) == file
    assert (await guest.stat("dir/deep/..")).ino == directory.ino
    assert len({file.ino, link.ino, directory.ino}) == 3 or file.dev != link.dev
    assert min(file.atim, file.mtim, file.ctim) > 0
    assert await guest.call("path_filestat_get", 3, 1, "link/", 0x800) is E.NOTDIR
    assert await guest.call("path_filestat_get", 3, 0, "file/", 0x800) is E.NOTDIR
    assert await guest.call("path_filestat_get", 3, 2, "file", 0x800) is E.INVAL
    assert await guest.call("path_filestat_get", 3, 0, "file", FAR) is E.FAULT
    assert await guest.call("path_symlink", "dir", 3, "to_dir") is E.SUCCESS
    assert (await guest.stat("to_dir/")).ino == directory.ino


async def test_path_filestat_set_times(guest) -> None:
    async def set_times(path: str, atim: int, mtim: int, flags: int, follow: int = 0) -> Errno:
        return await guest.call("path_filestat_set_times", 3, follow, path, atim, mtim, flags)

    assert await set_times("file", 1_000, 2_000, 5) is E.SUCCESS
    stat = await guest.stat("file")
    assert (stat.atim, stat.mtim) == (1_000, 2_000)
    assert await set_times("file", 0, 3_000, 4) is E.SUCCESS
    stat = await guest.stat("file")
    assert (stat.atim, stat.mtim) == (1_000, 3_000)
    assert await set_times("file", 0, 0, 2 | 8) is E.SUCCESS  # now
    assert (await guest.stat("file")).mtim > 10**18
    assert await set_times("link", 5_000, 6_000, 5) is E.SUCCESS
    assert (await guest.stat("link")).mtim == 6_000
    assert await set_times("link", 7_000, 8_000, 5, follow=1) is E.SUCCESS
    assert (await guest.stat("file")).mtim == 8_000
    assert await set_times("dir", 1_000, 2_000, 5) is E.SUCCESS
    assert (await guest.stat("dir")).mtim == 2_000
    assert await set_times(".", 1_000, 2_000, 5) is E.SUCCESS
    for flags in (3, 12, 16):
        assert await set_times("file", 0, 0, flags) is E.INVAL
    assert await set_times("file/", 0, 0, 5) is E.NOTDIR


async def test_path_create_directory(guest) -> None:
    async def create(path: str) -> Errno:
        return await guest.call("path_create_directory", 3, path)

    assert await create("new") is E.SUCCESS
    assert await create("new/") is E.EXIST
    assert await create("slash/") is E.SUCCESS
    assert await create("new/inner") is E.SUCCESS
    assert await create("file") is E.EXIST
    assert await create("link") is E.EXIST
    assert await create(".") is E.EXIST
    assert await create("dir/..") is E.EXIST
    assert await create("x" * 256) is E.NAMETOOLONG
    assert await guest.list(await guest.open("new", rights=DIRECTORY_RIGHTS)) == [".", "..", "inner"]


async def test_path_remove_directory(guest) -> None:
    async def remove(path: str) -> Errno:
        return await guest.call("path_remove_directory", 3, path)

    assert await remove("dir") is E.NOTEMPTY
    assert await remove("file") is E.NOTDIR
    assert await remove("file/") is E.NOTDIR
    assert await remove("link") is E.NOTDIR
    assert await remove(".") is E.INVAL
    assert await remove("dir/..") is E.INVAL
    assert await remove("dir/deep/..") is E.NOTEMPTY
    for path in ("dir/deep/x", "dir/inner"):
        assert await guest.call("path_unlink_file", 3, path) is E.SUCCESS
    assert await remove("dir/deep/") is E.SUCCESS
    assert await remove("dir") is E.SUCCESS
    assert await remove("dir") is E.NOENT


async def test_path_unlink_file(guest) -> None:
    async def unlink(path: str) -> Errno:
        return await guest.call("path_unlink_file", 3, path)

    assert await unlink("dir") is E.ISDIR
    assert await unlink("dir/") is E.ISDIR
    assert await unlink(".") is E.ISDIR
    assert await unlink("file/") is E.NOTDIR
    assert await unlink("link/") is E.NOTDIR
    fd = await guest.open("file")
    assert await unlink("link") is E.SUCCESS
    assert await unlink("file") is E.SUCCESS
    assert await unlink("file") is E.NOENT
    assert await guest.read(fd) == b"0123456789"  # as long as it is open
    assert await guest.call("fd_close", fd) is E.SUCCESS


async def test_path_readlink(guest) -> None:
    assert await guest.call("path_readlink", 3, "link", 0x800, 100, 0) is E.SUCCESS
    assert guest.memory.read(0x800, guest.u32()) == b"file"
    assert await guest.call("path_readlink", 3, "link", 0x800, 2, 0) is E.SUCCESS
    assert guest.memory.read(0x800, guest.u32()) == b"fi"
    for path in ("file", "dir", ".", "dir/"):
        assert await guest.call("path_readlink", 3, path, 0x800, 100, 0) is E.INVAL, path
    assert await guest.call("path_readlink", 3, "file/", 0x800, 100, 0) is E.NOTDIR
    assert await guest.call("path_readlink", 3, "link", FAR, 100, 0) is E.FAULT
    assert await guest.call("path_readlink", 3, "link", 0x800, 100, FAR) is E.FAULT


async def test_path_symlink(guest) -> None:
    async def symlink(target: str | bytes, path: str) -> Errno:
        return await guest.call("path_symlink", target, 3, path)

    assert await symlink("dir/inner", "new") is E.SUCCESS
    assert await guest.read(await guest.open("new")) == b"inner"
    assert await symlink("../file", "dir/up") is E.SUCCESS
    assert await guest.read(await guest.open("dir/up")) == b"0123456789"
    for path, errno in (
        ("file", E.EXIST),
        ("dir", E.EXIST),
        ("dir/", E.EXIST),
        (".", E.EXIST),
        ("link", E.EXIST),
        ("none/", E.NOENT),
        ("file/", E.NOTDIR),
        ("x" * 256, E.NAMETOOLONG),
    ):
        assert await symlink("target", path) is errno, path
    assert await symlink("", "empty_link") is E.NOENT
    assert await symlink("/file", "absolute") is E.NOTCAPABLE
    assert await symlink(b"\xff", "odd") is E.ILSEQ
    assert await symlink(b"a\0b", "odd") is E.INVAL
    assert await symlink("loop_b", "loop_a") is E.SUCCESS
    assert await symlink("loop_a", "loop_b") is E.SUCCESS
    assert await guest.opens("loop_a") is E.LOOP
    assert await guest.opens("loop_a/x") is E.LOOP
    # Forty links are followed, as on Linux; not one more.
    await guest.open("end", OFlags.CREAT)
    for number in range(41):
        assert await symlink(f"chain{number - 1}" if number else "end", f"chain{number}") is E.SUCCESS
    assert await guest.opens("chain39") is E.SUCCESS
    assert await guest.opens("chain40") is E.LOOP


async def test_path_link(guest) -> None:
    async def link(old: str, new: str, follow: int = 0) -> Errno:
        return await guest.call("path_link", 3, follow, old, 3, new)

    assert await link("file", "dir/hard") is E.SUCCESS
    assert (await guest.stat("dir/hard")).ino == (await guest.stat("file")).ino
    assert (await guest.stat("file")).nlink == 2
    assert await guest.write(await guest.open("dir/hard"), b"AB") == 2
    assert await guest.read(await guest.open("file")) == b"AB23456789"
    for old, new, errno in (
        ("file", "empty", E.EXIST),
        ("file", "file", E.EXIST),
        ("file", "dir", E.EXIST),
        ("file", "link", E.EXIST),
        ("file", ".", E.EXIST),
        ("file", "new/", E.NOENT),
        ("file", "none/new", E.NOENT),
        ("none", "new", E.NOENT),
        ("file/", "new", E.NOTDIR),
        ("dir", "new", E.PERM),
        (".", "new", E.PERM),
        ("file", "../new", E.NOTCAPABLE),
    ):
        assert await link(old, new) is errno, (old, new)
    assert await link("file", "new", follow=1) is E.INVAL
    assert await link("file", "new", follow=2) is E.INVAL
    weak = await guest.open(".", OFlags.DIRECTORY, rights=DIRECTORY_RIGHTS & ~Rights.PATH_LINK_TARGET)
    assert await guest.call("path_link", 3, 0, "file", weak, "new") is E.NOTCAPABLE
    assert await link("link", "to_link") is E.SUCCESS
    assert (await guest.stat("to_link")).filetype is FileType.SYMBOLIC_LINK


async def test_path_rename(guest) -> None:
    async def rename(old: str, new: str) -> Errno:
        return await guest.call("path_rename", 3, old, 3, new)

    assert await rename("file", "dir/moved") is E.SUCCESS
    assert await guest.opens("file") is E.NOENT
    assert await guest.read(await guest.open("dir/moved")) == b"0123456789"
    assert await rename("dir/moved", "empty") is E.SUCCESS  # which is replaced
    assert await guest.read(await guest.open("empty")) == b"0123456789"
    assert await rename("empty", "empty") is E.SUCCESS
    await guest.call("path_create_directory", 3, "a")
    await guest.call("path_create_directory", 3, "a/inner")
    await guest.call("path_create_directory", 3, "b")
    for old, new, errno in (
        ("none", "new", E.NOENT),
        ("empty", "none/new", E.NOENT),
        ("empty", "dir", E.ISDIR),
        ("a", "empty", E.NOTDIR),
        ("a", "dir", E.NOTEMPTY),
        ("a", "a/inner/x", E.INVAL),
        ("empty/", "new", E.NOTDIR),
        ("empty", "new/", E.NOTDIR),
        (".", "new", E.BUSY),
        ("a", "a/inner/..", E.BUSY),
        ("empty", "../new", E.NOTCAPABLE),
    ):
        assert await rename(old, new) is errno, (old, new)
    assert await rename("a/", "b/") is E.SUCCESS
    assert await guest.list(await guest.open("b", rights=DIRECTORY_RIGHTS)) == [".", "..", "inner"]
    assert await rename("link", "renamed") is E.SUCCESS
    assert (await guest.stat("renamed")).filetype is FileType.SYMBOLIC_LINK
    weak = await guest.open(".", OFlags.DIRECTORY, rights=DIRECTORY_RIGHTS & ~Rights.PATH_RENAME_TARGET)
    assert await guest.call("path_rename", 3, "empty", weak, "new") is E.NOTCAPABLE


async def test_flags_of_an_opened_file(guest) -> None:
    flags = FdFlags.APPEND | FdFlags.NONBLOCK | FdFlags.SYNC | FdFlags.DSYNC | FdFlags.RSYNC
    fd = await guest.open("file", fdflags=flags)
    assert await guest.call("fd_fdstat_get", fd, 0x800) is E.SUCCESS
    assert guest.memory.read_u16(0x802) == flags
    assert await guest.write(fd, b"+") == 1
    assert await guest.read(await guest.open("file")) == b"0123456789+"


@pytest.mark.parametrize("name", ONE_PATH)
async def test_links_that_lead_round_and_round(guest, name: str) -> None:
    for at, target in (("round", "about"), ("about", "round"), ("self", "self/x"), ("up", "dir/../up")):
        assert await guest.call("path_symlink", target, 3, at) is E.SUCCESS
    arguments, _ = ONE_PATH[name]
    for path in ("round/x", "dir/../about/x", "self/y", "up/.."):
        assert await guest.call(name, *arguments(3, path)) is E.LOOP, path
    if name in ("path_open", "path_filestat_get", "path_filestat_set_times"):
        assert await guest.call(name, *arguments(3, "round")) is E.LOOP  # followed
