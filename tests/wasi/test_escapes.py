"""Attempts to get out of a HostDir, and to write where only reading is allowed. None may succeed.

The directory has a secret beside it, and everything in it that leads there. Every attempt is made through all calls
that take a path, and is judged by whether the secret or what is outside was reached, not by the errno alone.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiowasm.host.wasi import HostDir, MemFS, Overlay, Wasi
from aiowasm.host.wasi.abi import Errno, OFlags
from aiowasm.host.wasi.descriptors import DIRECTORY_RIGHTS
from aiowasm.host.wasi.errno import WasiError

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no HostDir where there is no openat"),
]

SECRET = b"the secret"
INSIDE = b"inside"


def make(tmp_path: Path) -> Path:
    """Build a world: `box` is the sandbox; `outside`, `secret` and `box2` are not in it."""
    (tmp_path / "secret").write_bytes(SECRET)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(SECRET)
    (tmp_path / "box2").mkdir()
    (tmp_path / "box2" / "file").write_bytes(SECRET)
    box = tmp_path / "box"
    (box / "dir" / "deep").mkdir(parents=True)
    (box / "file").write_bytes(INSIDE)
    (box / "dir" / "file").write_bytes(INSIDE)
    links = {
        "absolute": str(tmp_path / "secret"),
        "relative": "../secret",
        "to_parent": "..",
        "to_outside": "../outside",
        "to_root": "/",
        "dir/up2": "../../secret",
        "dir/deep/up3": "../../../outside/file",
        "chain1": "chain2",
        "chain2": "chain3",
        "chain3": "../secret",
        "through_dir": "dir/../../secret",
        "dir_link": "dir",
        "dir_parent": "dir/..",
        "loop": "loop",
        "loop_a": "loop_b",
        "loop_b": "loop_a",
        "dots": "./././../secret",
        "slashes": "..//..///" + tmp_path.name + "/secret",
        "self": ".",
        "proc": "/proc/self/root" + str(tmp_path / "secret"),
        "proc_cwd": "/proc/self/cwd",
        "long": "dir/../" * 100 + "../secret",
        "prefix": "../box2/file",
    }
    for name, target in links.items():
        (box / name).symlink_to(target)
    os.mkfifo(box / "pipe")
    return box


ATTEMPTS = [
    "../secret",
    "..",
    "../",
    "../.",
    "./..",
    "../box/../secret",
    "dir/../../secret",
    "dir/deep/../../../secret",
    "dir/deep/../../../box2/file",
    "dir//..//..//secret",
    "dir/./../.././secret",
    "dir/../../box/../secret",
    "/",
    "/etc/passwd",
    "//etc/passwd",
    "/../secret",
    "absolute",
    "absolute/",
    "relative",
    "to_parent",
    "to_parent/secret",
    "to_parent/outside/file",
    "to_parent/box/file",
    "to_outside",
    "to_outside/",
    "to_outside/file",
    "to_outside/../secret",
    "to_root",
    "to_root/etc/passwd",
    "dir/up2",
    "dir/deep/up3",
    "chain1",
    "chain2",
    "chain3",
    "through_dir",
    "dir_link/../../secret",
    "dir_link/up2",
    "dir_parent/../secret",
    "dots",
    "slashes",
    "self/self/self/../secret",
    "self/../../secret",
    "proc",
    "proc_cwd",
    "proc_cwd/..",
    "long",
    "prefix",
    "nowhere/../../secret",
    "file/../../secret",
    "dir_link/deep/../../../outside/file",
]


def kinds(box: Path) -> dict[str, Wasi]:
    return {
        "writable": Wasi(fs={"/": HostDir(box)}),
        "read-only": Wasi(fs={"/": HostDir(box, read_only=True)}),
        "offloaded": Wasi(fs={"/": HostDir(box, offload="always")}),
        "overlay": Wasi(fs={"/": Overlay(MemFS(), HostDir(box, read_only=True))}),
    }


KINDS = ["writable", "read-only", "offloaded", "overlay"]


def test_there_are_enough_attempts() -> None:
    assert len(set(ATTEMPTS)) >= 40


def outside_of(box: Path) -> dict[str, object]:
    """What is outside the box: names, contents and kinds."""
    found: dict[str, object] = {}
    for path in sorted(box.parent.rglob("*")):
        if box not in path.parents and path != box:
            found[str(path)] = path.read_bytes() if path.is_file() else path.is_dir()
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_no_path_leads_out(spawn, tmp_path: Path, kind: str) -> None:
    box = make(tmp_path)
    before = outside_of(box)
    guest = await spawn(kinds(box)[kind])
    own = {os.stat(path).st_ino for path in (box, *box.rglob("*")) if not path.is_symlink() and path.exists()}
    theirs = {os.stat(path).st_ino for path in (tmp_path, *tmp_path.rglob("*")) if path.exists()} - own
    for path in ATTEMPTS:
        for follow in (0, 1):
            for oflags in (0, OFlags.DIRECTORY, OFlags.CREAT, OFlags.CREAT | OFlags.TRUNC):
                for rights in (2, 2 | 64, 0):
                    try:
                        fd = await guest.open(path, oflags, rights=rights, follow=bool(follow))
                    except WasiError:
                        continue
                    pytest.fail(f"{path!r} was opened as {fd}")
            errno = await guest.call("path_filestat_get", 3, follow, path, 0x800)
            if errno is Errno.SUCCESS:  # a link itself may be looked at
                assert not follow
                assert kind == "overlay" or guest.u64(0x808) not in theirs, path
        link = await guest.call("path_readlink", 3, path, 0x800, 100, 0)
        assert link is not Errno.SUCCESS or "/" not in path.strip("/") or path.startswith("dir")
        for errno in (
            await guest.call("path_create_directory", 3, path),
            await guest.call("path_remove_directory", 3, path),
            await guest.call("path_symlink", "file", 3, path),
            await guest.call("path_link", 3, 0, "file", 3, path),
            await guest.call("path_filestat_set_times", 3, 1, path, 0, 0, 5),
        ):
            assert errno is not Errno.SUCCESS, path
    assert outside_of(box) == before


@pytest.mark.parametrize("kind", KINDS)
async def test_renaming_does_not_lead_out(spawn, tmp_path: Path, kind: str) -> None:
    box = make(tmp_path)
    before = outside_of(box)
    guest = await spawn(kinds(box)[kind])
    for path in ATTEMPTS:
        if path.rpartition("/")[0] in ("", "dir", "dir/deep", "dir_link") and not path.startswith(("/", "..")):
            continue  # links that lead out are entries like others: they may be renamed and replaced themselves
        assert await guest.call("path_rename", 3, "file", 3, path) is not Errno.SUCCESS, path
        assert await guest.call("path_rename", 3, path, 3, "stolen") is not Errno.SUCCESS, path
    assert outside_of(box) == before


@pytest.mark.parametrize("kind", KINDS)
async def test_subdirectories_keep_guests_in_too(spawn, tmp_path: Path, kind: str) -> None:
    guest = await spawn(kinds(make(tmp_path))[kind])
    fd = await guest.open("dir", OFlags.DIRECTORY, rights=DIRECTORY_RIGHTS)
    for path in ("..", "../file", "deep/../../file", "up2", "deep/up3"):
        assert await guest.opens(path, at=fd) is Errno.NOTCAPABLE, path
    assert await guest.opens("deep/../file", rights=2, at=fd) is Errno.SUCCESS


ODD = {
    b"file\0": Errno.INVAL,
    b"\0": Errno.INVAL,
    b"dir\0/../../secret": Errno.INVAL,
    b"": Errno.NOENT,
    b"\xc0\xae\xc0\xae/secret": Errno.ILSEQ,  # `..` in overlong UTF-8
    b"\xe0\x80\xae\xe0\x80\xae/secret": Errno.ILSEQ,
    b"..\xc0\xafsecret": Errno.ILSEQ,  # `/` likewise
    b"\xff": Errno.ILSEQ,
    b"\xed\xa0\x80": Errno.ILSEQ,  # a surrogate
    b"..\\secret": Errno.NOENT,
    b"%2e%2e/secret": Errno.NOENT,
    b"... /secret": Errno.NOENT,
    b".../secret": Errno.NOENT,
    b".. /secret": Errno.NOENT,
    "‥/secret".encode(): Errno.NOENT,
    "．．/secret".encode(): Errno.NOENT,
    "..∕secret".encode(): Errno.NOENT,
    b"FILE": Errno.NOENT,
    b"Dir/../../secret": Errno.NOENT,
    b"file/": Errno.NOTDIR,
    b"file/.": Errno.NOTDIR,
    b"file/..": Errno.NOTDIR,
    b"loop": Errno.LOOP,
    b"loop_a/x": Errno.LOOP,
    b"a" * 256: Errno.NAMETOOLONG,
    b"a/" * 2048 + b"a": Errno.NAMETOOLONG,
    b"pipe": Errno.NOTSUP,
}


@pytest.mark.parametrize("kind", KINDS)
async def test_odd_names(spawn, tmp_path: Path, kind: str) -> None:
    box = make(tmp_path)
    if (box / "FILE").exists():
        pytest.skip("this file system does not tell cases apart")
    guest = await spawn(kinds(box)[kind])
    for path, errno in ODD.items():
        if path == b"a" * 256 and kind == "overlay":
            continue
        assert await guest.opens(path, rights=2) is errno, path


@pytest.mark.parametrize("kind", ["writable", "read-only", "offloaded"])
async def test_devices_pipes_and_sockets_are_not_opened(spawn, tmp_path: Path, kind: str, monkeypatch) -> None:
    box = make(tmp_path)
    monkeypatch.chdir(box)  # the address of such a socket may be short only
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        guest = await spawn(kinds(box)[kind])
        for name in ("pipe", "socket"):
            for rights in (2, 64, 66):
                # A pipe without a reader would make the one who opens it for writing wait.
                assert await guest.opens(name, rights=rights) in (Errno.NOTSUP, Errno.ROFS), name
        # Nothing was opened and closed again either: whoever reads the pipe would have taken that for its end.
        reading = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
        poll = select.poll()
        poll.register(reading, select.POLLIN)
        assert await guest.opens("pipe", rights=64) in (Errno.NOTSUP, Errno.ROFS)
        assert poll.poll(0) == []
        os.close(reading)
    if os.path.exists("/dev/null"):
        guest = await spawn(Wasi(fs={"/dev": HostDir("/dev")}))
        for name in ("null", "zero", "tty", "ptmx"):
            assert await guest.opens(name, rights=2) is not Errno.SUCCESS, name


async def test_a_hard_link_does_not_follow(spawn, tmp_path: Path) -> None:
    box = make(tmp_path)
    guest = await spawn(kinds(box)["writable"])
    assert await guest.call("path_link", 3, 0, "relative", 3, "hard") is Errno.SUCCESS
    assert (box / "hard").is_symlink()
    assert await guest.call("path_link", 3, 1, "relative", 3, "followed") is Errno.INVAL
    assert await guest.opens("hard") is Errno.NOTCAPABLE
    assert await guest.call("path_link", 3, 0, "to_outside/file", 3, "hard2") is Errno.NOTCAPABLE
    assert not (box / "hard2").exists()


async def test_links_to_absolute_paths_cannot_be_made(spawn, tmp_path: Path) -> None:
    box = make(tmp_path)
    guest = await spawn(kinds(box)["writable"])
    assert await guest.call("path_symlink", "/etc", 3, "etc") is Errno.NOTCAPABLE
    assert await guest.call("path_symlink", "../secret", 3, "mine") is Errno.SUCCESS
    assert await guest.opens("mine") is Errno.NOTCAPABLE
    assert await guest.opens("mine", OFlags.CREAT | OFlags.TRUNC) is Errno.NOTCAPABLE
    assert (tmp_path / "secret").read_bytes() == SECRET


async def test_another_mount_is_another_file_system(spawn, tmp_path: Path) -> None:
    box = make(tmp_path)
    guest = await spawn(Wasi(fs={"/a": HostDir(box), "/b": HostDir(tmp_path / "box2")}))
    assert await guest.call("path_rename", 3, "file", 4, "file2") is Errno.XDEV
    assert await guest.call("path_link", 3, 0, "file", 4, "file2") is Errno.XDEV
    assert not (tmp_path / "box2" / "file2").exists()


async def test_renaming_a_parent_while_inside(spawn, tmp_path: Path) -> None:
    """A directory that is moved out of the box takes its guest along, but not to where it is now."""
    box = make(tmp_path)
    guest = await spawn(kinds(box)["writable"])
    fd = await guest.open("dir/deep", OFlags.DIRECTORY, rights=DIRECTORY_RIGHTS)
    (box / "dir" / "deep").rename(tmp_path / "outside" / "deep")
    for path in ("..", "../file", "../../secret", "./../file"):
        assert await guest.opens(path, at=fd) is Errno.NOTCAPABLE, path
    assert await guest.opens("dir/deep/../../file") is Errno.NOENT
    assert await guest.opens("made", OFlags.CREAT, at=fd) is Errno.SUCCESS
    assert (tmp_path / "outside" / "deep" / "made").exists()  # its directory is what it was given


async def test_the_directory_itself_may_be_renamed(spawn, tmp_path: Path) -> None:
    box = make(tmp_path)
    guest = await spawn(kinds(box)["writable"])
    box.rename(tmp_path / "moved")
    (tmp_path / "box").symlink_to("outside")
    assert await guest.read(await guest.open("file")) == INSIDE


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Let threads take turns as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_threads")
@pytest.mark.parametrize("path", ["flip", "flip/file"])
async def test_a_link_that_a_thread_flips(spawn, tmp_path: Path, path: str) -> None:
    """What is checked and what is opened must be the same thing, however often it is replaced in between."""
    box = make(tmp_path)
    inside, outside = (box / "file", "../secret") if path == "flip" else (box / "real", "../outside")
    if path != "flip":
        inside.mkdir()
        (inside / "file").write_bytes(INSIDE)
    flipped, spare = box / "flip", box / "spare"
    inside.rename(flipped)
    stop = threading.Event()

    def flip() -> None:
        while not stop.is_set():
            flipped.rename(inside)
            spare.symlink_to(outside)
            spare.rename(flipped)
            flipped.unlink()
            inside.rename(flipped)

    thread = threading.Thread(target=flip)
    thread.start()
    guest = await spawn(kinds(box)["writable"])
    seen: dict[object, int] = {}
    try:
        for _ in range(4000):
            try:
                fd = await guest.open(path, rights=2)
            except WasiError as error:
                seen[error.errno] = seen.get(error.errno, 0) + 1
                continue
            assert await guest.read(fd) == INSIDE
            assert await guest.call("fd_close", fd) is Errno.SUCCESS
            seen["opened"] = seen.get("opened", 0) + 1
            if len(seen) > 2 and seen.get("opened", 0) > 20 and seen.get(Errno.NOTCAPABLE, 0) > 20:
                break
    finally:
        stop.set()
        thread.join()
    # What was a link a moment ago may be reported as one, or as what is no directory.
    assert set(seen) <= {"opened", Errno.NOENT, Errno.NOTCAPABLE, Errno.LOOP, Errno.NOTDIR, Errno.INVAL}
    assert len(seen) > 1, "the race was never on"


async def changes(guest, name: str) -> list[Errno]:
    """Try everything that changes something below *name*, a directory with a file in it."""
    file = f"{name}/file"
    made = [
        await guest.opens(file, rights=2 | 64),
        await guest.opens(file, rights=64),
        await guest.opens(file, OFlags.TRUNC, rights=2),
        await guest.opens(f"{name}/new", OFlags.CREAT, rights=2),
        await guest.opens(f"{name}/new", OFlags.CREAT | OFlags.EXCL, rights=2),
        await guest.call("path_create_directory", 3, f"{name}/new"),
        await guest.call("path_remove_directory", 3, f"{name}/deep"),
        await guest.call("path_unlink_file", 3, file),
        await guest.call("path_symlink", "file", 3, f"{name}/new"),
        await guest.call("path_link", 3, 0, file, 3, f"{name}/new"),
        await guest.call("path_rename", 3, file, 3, f"{name}/new"),
        await guest.call("path_filestat_set_times", 3, 0, file, 0, 0, 5),
        await guest.call("path_filestat_set_times", 3, 0, name, 0, 0, 5),
    ]
    fd = await guest.open(file, rights=2 | 1 << 23)
    made.append(await guest.call("fd_filestat_set_times", fd, 0, 0, 5))
    directory = await guest.open(name, rights=DIRECTORY_RIGHTS)
    made.append(await guest.call("fd_filestat_set_times", directory, 0, 0, 5))
    return made


@pytest.mark.parametrize("kind", ["HostDir", "offloaded", "MemFS"])
async def test_read_only_means_read_only(spawn, tmp_path: Path, kind: str) -> None:
    box = make(tmp_path)
    fs = {
        "HostDir": lambda: HostDir(box, read_only=True),
        "offloaded": lambda: HostDir(box, read_only=True, offload="always"),
        "MemFS": lambda: MemFS({"dir": {"file": INSIDE, "deep": {}}}, read_only=True),
    }[kind]()
    guest = await spawn(Wasi(fs={"/": fs}))
    before = {str(path): os.lstat(path)[:10] for path in (box, *box.rglob("*"))}
    assert set(await changes(guest, "dir")) == {Errno.ROFS}
    assert await guest.read(await guest.open("dir/file", rights=2)) == INSIDE
    # What is there is reported as that, not as read-only: programs rely on it.
    assert await guest.call("path_create_directory", 3, "dir") is Errno.EXIST
    assert await guest.opens("dir/file", OFlags.CREAT, rights=2) is Errno.SUCCESS
    after = {str(path): os.lstat(path)[:10] for path in (box, *box.rglob("*"))}
    drop_atime = {path: (*stat[:7], *stat[8:]) for path, stat in before.items()}
    assert {path: (*stat[:7], *stat[8:]) for path, stat in after.items()} == drop_atime
