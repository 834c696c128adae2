"""MemFS: a complete file system in memory, bounded, and convertible to and from a dict.

Directories map names to nodes; what a guest opens are thin handles on nodes, so that removed files live on while they
are open. Nothing here waits.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from aiowasm.host.wasi.abi import Errno, FileType, OFlags
from aiowasm.host.wasi.errno import WasiError
from aiowasm.host.wasi.filesystem import Directory, Entry, File, FileSystem, Stat

__all__ = ("Contents", "MemFS", "Symlink")

MAX_NAME_NBYTES: Final = 255
DEFAULT_MAX_NBYTES: Final = 1 << 28
DEFAULT_MAX_NODES: Final = 100_000
_devices = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Symlink:
    """A symbolic link, as a value in the dict of a `MemFS`."""

    target: str


Contents = Mapping[str, "bytes | bytearray | str | Symlink | Contents"]


class _Node:
    __slots__ = ("atim", "ctim", "ino", "mtim", "nlink")
    filetype: FileType

    def __init__(self, ino: int, now: int) -> None:
        self.ino = ino
        self.nlink = 1
        self.atim = self.mtim = self.ctim = now

    @property
    def size(self) -> int:
        return 0


class _FileNode(_Node):
    __slots__ = ("data", "handles")
    filetype = FileType.REGULAR_FILE

    def __init__(self, ino: int, now: int) -> None:
        super().__init__(ino, now)
        self.data = bytearray()
        self.handles = 0

    @property
    def size(self) -> int:
        return len(self.data)


class _LinkNode(_Node):
    __slots__ = ("target",)
    filetype = FileType.SYMBOLIC_LINK

    def __init__(self, ino: int, now: int, target: str) -> None:
        super().__init__(ino, now)
        self.target = target

    @property
    def size(self) -> int:
        return len(self.target.encode())


class _DirectoryNode(_Node):
    __slots__ = ("entries", "parent")
    filetype = FileType.DIRECTORY

    def __init__(self, ino: int, now: int, parent: _DirectoryNode | None) -> None:
        super().__init__(ino, now)
        self.entries: dict[str, _Node] = {}
        self.parent = parent  # None: the root, or removed


class MemFS(FileSystem):
    """A file system in memory.

    Args:
        contents: Names to contents: bytes, text (as UTF-8), `Symlink`, or again a mapping. A name may be a path.
        read_only: Whether guests may only read.
        max_nbytes: What all files together may hold, the targets of links included; more is `NOSPC` to a guest.
        max_nodes: How many files, directories and links there may be, each further name of a file included.
        clock: What times are stamped with, in nanoseconds since 1970.

    Raises:
        ValueError: A name in *contents* that a path cannot have, or more than fits.
    """

    def __init__(
        self,
        contents: Contents | None = None,
        *,
        read_only: bool = False,
        max_nbytes: int = DEFAULT_MAX_NBYTES,
        max_nodes: int = DEFAULT_MAX_NODES,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.max_nbytes = max_nbytes
        self.max_nodes = max_nodes
        self.read_only = False
        self.dev = next(_devices)
        self._clock = clock
        self._last_ino = 0
        self.nbytes = 0
        """What all files and links hold now."""
        self.nodes = 0
        """How many files, directories and links there are now."""
        self._root = self._new_directory(None)
        try:
            self._fill(self._root, contents or {})
        except WasiError as error:
            raise ValueError(f"contents do not fit: {error.errno.name}") from None
        self.read_only = read_only

    def open_root(self) -> Directory:
        """Return the root directory."""
        return _MemDirectory(self, self._root)

    def use_clock(self, clock: Callable[[], int]) -> None:
        """Stamp everything with the time *clock* tells, now and later."""
        self._clock = clock
        now = clock()
        pending: list[_Node] = [self._root]
        while pending:
            node = pending.pop()
            node.atim = node.mtim = node.ctim = now
            if isinstance(node, _DirectoryNode):
                pending += node.entries.values()

    def snapshot(self) -> dict[str, object]:
        """Return all contents as nested dicts of bytes and `Symlink`: what `MemFS(...)` takes."""
        return _snapshot(self._root)

    def read(self, path: str) -> bytes:
        """Return the contents of the file *path*, without following links.

        Raises:
            FileNotFoundError: There is no such file.
        """
        node: _Node | None = self._root
        for component in path.strip("/").split("/"):
            node = node.entries.get(component) if isinstance(node, _DirectoryNode) else None
        if not isinstance(node, _FileNode):
            raise FileNotFoundError(path)
        return bytes(node.data)

    def _fill(self, root: _DirectoryNode, contents: Contents) -> None:
        pending = [(root, contents)]  # what a guest made may be nested deeper than Python calls can be
        while pending:
            directory, inner = pending.pop()
            for path, value in inner.items():
                *parents, name = path.strip("/").split("/")
                where = directory
                for parent in parents:
                    where = self._subdirectory(where, parent, path)
                if isinstance(value, Mapping):
                    pending.append((self._subdirectory(where, name, path), value))
                else:
                    self._put(where, name, value, path)

    def _put(self, directory: _DirectoryNode, name: str, value: object, path: str) -> None:
        _check_name(name, path)
        if name in directory.entries:
            raise ValueError(f"{path!r} is there twice")
        if isinstance(value, Symlink):
            _check_target(value.target, path)
            directory.entries[name] = self._new_link(value.target)
        elif isinstance(value, str | bytes | bytearray):
            data = value.encode() if isinstance(value, str) else value
            self.check_room(len(data))
            node = directory.entries[name] = self._new_file()
            node.data += data
            self.nbytes += len(data)
        else:
            raise TypeError(f"{path!r}: contents are bytes, str, Symlink or a mapping, not {type(value).__name__}")

    def _subdirectory(self, directory: _DirectoryNode, name: str, path: str) -> _DirectoryNode:
        _check_name(name, path)
        node = directory.entries.get(name)
        if node is None:
            node = directory.entries[name] = self._new_directory(directory)
        if not isinstance(node, _DirectoryNode):
            raise ValueError(f"{path!r}: {name!r} is a file already")
        return node

    # Used by the handles below.

    def check_room(self, nbytes: int) -> None:
        """Refuse *nbytes* more in files and links if they do not fit."""
        if nbytes > 0 and self.nbytes + nbytes > self.max_nbytes:
            raise WasiError(Errno.NOSPC)

    def now(self) -> int:
        return self._clock()

    def check_writable(self) -> None:
        if self.read_only:
            raise WasiError(Errno.ROFS)

    def add_name(self) -> None:
        """Account for one more file, directory or link."""
        if self.nodes >= self.max_nodes:
            raise WasiError(Errno.NOSPC)
        self.nodes += 1

    def _ino(self) -> int:
        self.add_name()
        self._last_ino += 1
        return self._last_ino

    def _new_file(self) -> _FileNode:
        return _FileNode(self._ino(), self._clock())

    def _new_link(self, target: str) -> _LinkNode:
        nbytes = len(target.encode())
        self.check_room(nbytes)
        node = _LinkNode(self._ino(), self._clock(), target)
        self.nbytes += nbytes
        return node

    def _new_directory(self, parent: _DirectoryNode | None) -> _DirectoryNode:
        return _DirectoryNode(self._ino(), self._clock(), parent)

    def release(self, node: _Node) -> None:
        """Account for a node that may have lost its last name or handle."""
        if node.nlink or (isinstance(node, _FileNode) and node.handles):
            return
        self.nodes -= 1
        self.nbytes -= node.size
        if isinstance(node, _FileNode):
            node.data = bytearray()


def _check_name(name: str, path: str) -> None:
    if name in ("", ".", "..") or not _is_text(name) or len(name.encode()) > MAX_NAME_NBYTES:
        raise ValueError(f"{path!r} is no path of names")


def _check_target(target: str, path: str) -> None:
    if not target or not _is_text(target):
        raise ValueError(f"{path!r}: a link cannot lead to {target!r}")


def _is_text(name: str) -> bool:
    """Return whether a guest could say *name*: UTF-8 without a NUL."""
    try:
        return b"\0" not in name.encode()
    except UnicodeEncodeError:
        return False


def _snapshot(root: _DirectoryNode) -> dict[str, object]:
    result: dict[str, object] = {}
    pending = [(root, result)]
    while pending:
        directory, contents = pending.pop()
        for name, node in directory.entries.items():
            if isinstance(node, _DirectoryNode):
                inner: dict[str, object] = {}
                contents[name] = inner
                pending.append((node, inner))
            elif isinstance(node, _LinkNode):
                contents[name] = Symlink(node.target)
            elif isinstance(node, _FileNode):
                contents[name] = bytes(node.data)
    return result


def _stat(fs: MemFS, node: _Node) -> Stat:
    return Stat(fs.dev, node.ino, node.filetype, node.nlink, node.size, node.atim, node.mtim, node.ctim)


def _set_times(fs: MemFS, node: _Node, atim: int | None, mtim: int | None) -> None:
    fs.check_writable()
    node.atim = node.atim if atim is None else atim
    node.mtim = node.mtim if mtim is None else mtim
    node.ctim = fs.now()


class _MemFile(File):
    __slots__ = ("_fs", "_node")

    def __init__(self, fs: MemFS, node: _FileNode) -> None:
        self._fs = fs
        self._node = node
        node.handles += 1

    async def stat(self) -> Stat:
        return _stat(self._fs, self._node)

    async def pread(self, buffers: Sequence[memoryview], offset: int) -> int:
        data = self._node.data
        start = offset
        with memoryview(data) as view:
            for buffer in buffers:
                piece = view[offset : offset + len(buffer)]
                nbytes = len(piece)
                buffer[:nbytes] = piece
                piece.release()
                offset += nbytes
                if nbytes < len(buffer):
                    break
        return offset - start

    async def pwrite(self, buffers: Sequence[memoryview], offset: int) -> int:
        self._fs.check_writable()
        data = self._node.data
        nbytes = sum(map(len, buffers))
        if not nbytes:
            return 0
        before = len(data)
        self._fs.check_room(offset + nbytes - before)
        try:
            if offset > before:
                data.extend(bytes(offset - before))
            for buffer in buffers:
                data[offset : offset + len(buffer)] = buffer
                offset += len(buffer)
        finally:
            self._fs.nbytes += len(data) - before  # what was done before memory ended, too
        self._node.mtim = self._node.ctim = self._fs.now()
        return nbytes

    async def append(self, buffers: Sequence[memoryview]) -> tuple[int, int]:
        nbytes = await self.pwrite(buffers, len(self._node.data))
        return nbytes, len(self._node.data)

    async def set_size(self, nbytes: int) -> None:
        self._fs.check_writable()
        _truncate(self._fs, self._node, nbytes)

    async def set_times(self, atim: int | None, mtim: int | None) -> None:
        _set_times(self._fs, self._node, atim, mtim)

    def close(self) -> None:
        self._node.handles -= 1
        self._fs.release(self._node)


def _truncate(fs: MemFS, node: _FileNode, nbytes: int) -> None:
    growth = nbytes - len(node.data)
    fs.check_room(growth)
    if growth < 0:
        del node.data[nbytes:]
    else:
        node.data.extend(bytes(growth))
    fs.nbytes += growth
    node.mtim = node.ctim = fs.now()


class _MemDirectory(Directory):
    __slots__ = ("_fs", "_node")

    def __init__(self, fs: MemFS, node: _DirectoryNode) -> None:
        self._fs = fs
        self._node = node
        self.key = fs

    def _get(self, name: str) -> _Node:
        node = self._node.entries.get(name)
        if node is None:
            # No directory has a longer name: what POSIX says of it, whether it is looked up or created.
            raise WasiError(Errno.NAMETOOLONG if len(name.encode()) > MAX_NAME_NBYTES else Errno.NOENT)
        return node

    def _check_new(self, name: str) -> None:
        if name in self._node.entries:
            raise WasiError(Errno.EXIST)
        self._fs.check_writable()
        if len(name.encode()) > MAX_NAME_NBYTES:
            raise WasiError(Errno.NAMETOOLONG)
        if not self._node.nlink:
            raise WasiError(Errno.NOENT)  # the directory was removed while open

    def _touch(self) -> None:
        self._node.mtim = self._node.ctim = self._fs.now()

    def _remove(self, name: str) -> None:
        node = self._node.entries.pop(name)
        node.nlink -= 1
        node.ctim = self._fs.now()
        if isinstance(node, _DirectoryNode):
            node.parent = None
        if node.nlink:
            self._fs.nodes -= 1  # one name of several
        self._fs.release(node)
        self._touch()

    async def stat(self) -> Stat:
        return _stat(self._fs, self._node)

    async def stat_entry(self, name: str) -> Stat:
        return _stat(self._fs, self._get(name))

    async def duplicate(self) -> Directory:
        return _MemDirectory(self._fs, self._node)

    async def open_directory(self, name: str) -> Directory:
        node = self._get(name)
        if isinstance(node, _DirectoryNode):
            return _MemDirectory(self._fs, node)
        raise WasiError(Errno.LOOP if isinstance(node, _LinkNode) else Errno.NOTDIR)

    async def open_entry(self, name: str, oflags: OFlags, *, read: bool, write: bool) -> File | Directory:
        try:
            node = self._get(name)
        except WasiError as error:
            if error.errno is not Errno.NOENT or not oflags & OFlags.CREAT or oflags & OFlags.DIRECTORY:
                raise
            self._check_new(name)
            node = self._node.entries[name] = self._fs._new_file()
            self._touch()
        else:
            if oflags & OFlags.EXCL and oflags & OFlags.CREAT:
                raise WasiError(Errno.EXIST)
        if isinstance(node, _LinkNode):
            raise WasiError(Errno.LOOP)
        if isinstance(node, _DirectoryNode):
            if write or oflags & (OFlags.TRUNC | OFlags.CREAT):
                raise WasiError(Errno.ISDIR)
            return _MemDirectory(self._fs, node)
        if not isinstance(node, _FileNode) or oflags & OFlags.DIRECTORY:
            raise WasiError(Errno.NOTDIR)
        if write or oflags & OFlags.TRUNC:
            self._fs.check_writable()
        if oflags & OFlags.TRUNC:
            _truncate(self._fs, node, 0)
        return _MemFile(self._fs, node)

    async def entries(self) -> Sequence[Entry]:
        return [Entry(name, node.ino, node.filetype) for name, node in self._node.entries.items()]

    async def readlink(self, name: str) -> str:
        node = self._get(name)
        if not isinstance(node, _LinkNode):
            raise WasiError(Errno.INVAL)
        return node.target

    async def set_times(self, atim: int | None, mtim: int | None) -> None:
        _set_times(self._fs, self._node, atim, mtim)

    async def set_entry_times(self, name: str, atim: int | None, mtim: int | None) -> None:
        _set_times(self._fs, self._get(name), atim, mtim)

    async def create_directory(self, name: str) -> None:
        self._check_new(name)
        self._node.entries[name] = self._fs._new_directory(self._node)
        self._touch()

    async def remove_directory(self, name: str) -> None:
        node = self._get(name)
        if not isinstance(node, _DirectoryNode):
            raise WasiError(Errno.NOTDIR)
        self._fs.check_writable()
        if node.entries:
            raise WasiError(Errno.NOTEMPTY)
        self._remove(name)

    async def unlink(self, name: str) -> None:
        node = self._get(name)
        if isinstance(node, _DirectoryNode):
            raise WasiError(Errno.ISDIR)
        self._fs.check_writable()
        self._remove(name)

    async def symlink(self, name: str, target: str) -> None:
        self._check_new(name)
        self._node.entries[name] = self._fs._new_link(target)
        self._touch()

    async def link(self, name: str, to: Directory, to_name: str) -> None:
        node = self._get(name)
        if not isinstance(to, _MemDirectory):
            raise WasiError(Errno.XDEV)
        to._check_new(to_name)
        if isinstance(node, _DirectoryNode):
            raise WasiError(Errno.PERM)
        self._fs.add_name()
        to._node.entries[to_name] = node
        node.nlink += 1
        node.ctim = self._fs.now()
        to._touch()

    async def rename(self, name: str, to: Directory, to_name: str) -> None:
        node = self._get(name)
        if not isinstance(to, _MemDirectory):
            raise WasiError(Errno.XDEV)
        self._fs.check_writable()
        existing = to._node.entries.get(to_name)
        if existing is node:
            return
        if isinstance(node, _DirectoryNode):
            _check_not_below(node, to._node)
        if existing is None:
            to._check_new(to_name)
        else:
            _check_replaceable(node, existing)
            to._remove(to_name)
        del self._node.entries[name]
        to._node.entries[to_name] = node
        if isinstance(node, _DirectoryNode):
            node.parent = to._node
        node.ctim = self._fs.now()
        self._touch()
        to._touch()


def _check_not_below(node: _DirectoryNode, directory: _DirectoryNode | None) -> None:
    """Refuse to move a directory into itself."""
    while directory is not None:
        if directory is node:
            raise WasiError(Errno.INVAL)
        directory = directory.parent


def _check_replaceable(node: _Node, existing: _Node) -> None:
    if isinstance(existing, _DirectoryNode):
        if not isinstance(node, _DirectoryNode):
            raise WasiError(Errno.ISDIR)
        if existing.entries:
            raise WasiError(Errno.NOTEMPTY)
    elif isinstance(node, _DirectoryNode):
        raise WasiError(Errno.NOTDIR)
