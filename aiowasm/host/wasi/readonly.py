"""Read-only file systems made of things that are not directories: zip archives and resources of Python packages."""

from __future__ import annotations

import os
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, Final

from anyio import to_thread

from aiowasm.host.wasi.abi import Errno, FileType, OFlags
from aiowasm.host.wasi.errno import WasiError
from aiowasm.host.wasi.filesystem import Directory, Entry, File, FileSystem, Stat
from aiowasm.host.wasi.hostdir import HostDir
from aiowasm.host.wasi.memfs import MAX_NAME_NBYTES
from aiowasm.host.wasi.streams import scatter

__all__ = ("ResourceFS", "ZipFS")

MAX_FILE_NBYTES: Final = 1 << 28
"""What is unpacked of one file at most: an archive may promise anything."""
MAX_ENTRIES: Final = 1_000_000


class _Leaf:
    """A file whose contents are loaded when it is opened."""

    __slots__ = ("ino", "load", "mtim", "size")

    def __init__(self, ino: int, size: int, mtim: int, load: Callable[[], bytes]) -> None:
        self.ino = ino
        self.size = size
        self.mtim = mtim
        self.load = load


class _Branch:
    """A directory."""

    __slots__ = ("entries", "ino")

    def __init__(self, ino: int) -> None:
        self.ino = ino
        self.entries: dict[str, _Leaf | _Branch] = {}


class _TreeFS(FileSystem):
    """A read-only file system of a tree that is known from the start."""

    waits = True
    read_only = True

    def __init__(self) -> None:
        self._last_ino = 0
        self._root = self._branch()

    @abstractmethod
    def close(self) -> None:
        """Give back what it holds."""

    def open_root(self) -> Directory:
        """Return the root directory."""
        return _TreeDirectory(self._root)

    def _ino(self) -> int:
        if self._last_ino >= MAX_ENTRIES:
            raise ValueError(f"more than {MAX_ENTRIES} files")
        self._last_ino += 1
        return self._last_ino

    def _branch(self) -> _Branch:
        return _Branch(self._ino())

    def _add(self, path: Sequence[str], size: int, mtim: int, load: Callable[[], bytes]) -> None:
        *parents, name = path
        directory = self._directory(parents)
        if directory is not None and name not in directory.entries:
            directory.entries[name] = _Leaf(self._ino(), size, mtim, load)

    def _directory(self, path: Sequence[str]) -> _Branch | None:
        """Return a directory, made with its parents; None if one of them is a file."""
        directory = self._root
        for name in path:
            inner = directory.entries.get(name)
            if inner is None:
                inner = directory.entries[name] = self._branch()
            if not isinstance(inner, _Branch):
                return None
            directory = inner
        return directory


def _stat(node: _Leaf | _Branch) -> Stat:
    if isinstance(node, _Branch):
        return Stat(0, node.ino, FileType.DIRECTORY)
    return Stat(0, node.ino, FileType.REGULAR_FILE, 1, node.size, node.mtim, node.mtim, node.mtim)


class _TreeFile(File):
    """A file that was loaded."""

    def __init__(self, node: _Leaf, data: bytes) -> None:
        self._node = node
        self._data = memoryview(data)

    async def stat(self) -> Stat:
        return _stat(self._node)._replace(size=len(self._data))

    async def pread(self, buffers: Sequence[memoryview], offset: int) -> int:
        return scatter(self._data[offset:], buffers)


class _TreeDirectory(Directory):
    waits = True

    def __init__(self, node: _Branch) -> None:
        self._node = node
        self.key = self

    def _get(self, name: str) -> _Leaf | _Branch:
        node = self._node.entries.get(name)
        if node is None:
            raise WasiError(Errno.NAMETOOLONG if len(name.encode()) > MAX_NAME_NBYTES else Errno.NOENT)
        return node

    def _refuse_new(self, name: str) -> WasiError:
        return WasiError(Errno.EXIST if name in self._node.entries else Errno.ROFS)

    async def stat(self) -> Stat:
        return _stat(self._node)

    async def stat_entry(self, name: str) -> Stat:
        return _stat(self._get(name))

    async def duplicate(self) -> Directory:
        return _TreeDirectory(self._node)

    async def open_directory(self, name: str) -> Directory:
        node = self._get(name)
        if not isinstance(node, _Branch):
            raise WasiError(Errno.NOTDIR)
        return _TreeDirectory(node)

    async def open_entry(self, name: str, oflags: OFlags, *, read: bool, write: bool) -> File | Directory:
        if oflags & OFlags.CREAT and (oflags & OFlags.EXCL or name not in self._node.entries):
            raise self._refuse_new(name)
        node = self._get(name)
        if isinstance(node, _Branch):
            if write or oflags & (OFlags.TRUNC | OFlags.CREAT):
                raise WasiError(Errno.ISDIR)
            return _TreeDirectory(node)
        if oflags & OFlags.DIRECTORY:
            raise WasiError(Errno.NOTDIR)
        if write or oflags & OFlags.TRUNC:
            raise WasiError(Errno.ROFS)
        if node.size > MAX_FILE_NBYTES:
            raise WasiError(Errno.FBIG)
        return _TreeFile(node, await to_thread.run_sync(node.load))

    async def entries(self) -> Sequence[Entry]:
        return [Entry(name, node.ino, _stat(node).filetype) for name, node in self._node.entries.items()]

    async def readlink(self, name: str) -> str:
        self._get(name)
        raise WasiError(Errno.INVAL)

    async def remove_directory(self, name: str) -> None:
        raise WasiError(Errno.ROFS if isinstance(self._get(name), _Branch) else Errno.NOTDIR)

    async def unlink(self, name: str) -> None:
        raise WasiError(Errno.ISDIR if isinstance(self._get(name), _Branch) else Errno.ROFS)

    async def create_directory(self, name: str) -> None:
        raise self._refuse_new(name)

    async def symlink(self, name: str, target: str) -> None:
        raise self._refuse_new(name)


class ZipFS(_TreeFS):
    """A zip archive, read-only. Files are unpacked whole, in a worker thread, when a guest opens them.

    Entries whose names lead elsewhere (`..`, absolute) or are no text are not there; links are not followed but files.

    Raises:
        zipfile.BadZipFile: It is none.
    """

    def __init__(self, file: str | os.PathLike[str] | IO[bytes]) -> None:
        super().__init__()
        self._archive = zipfile.ZipFile(file)
        for info in self._archive.infolist():
            path = [component for component in info.filename.split("/") if component not in ("", ".")]
            if not path or ".." in path or "\0" in info.filename or info.filename.startswith("/"):
                continue
            if info.is_dir():
                self._directory(path)
            else:
                self._add(path, info.file_size, _zip_time(info), lambda info=info: self._load(info))  # type: ignore[misc]

    def _load(self, info: zipfile.ZipInfo) -> bytes:
        try:
            with self._archive.open(info) as file:
                data = file.read(MAX_FILE_NBYTES + 1)
        except (OSError, MemoryError):
            raise
        except Exception:
            # Damaged, encrypted, or packed in a way that Python does not know: each compression has its own errors.
            raise WasiError(Errno.IO) from None
        if len(data) > MAX_FILE_NBYTES:
            raise WasiError(Errno.FBIG)
        return data

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()


def _zip_time(info: zipfile.ZipInfo) -> int:
    """Return the modification time in nanoseconds; zip archives know local time only: it is taken as UTC."""
    from calendar import timegm  # noqa: PLC0415

    return timegm((*info.date_time, 0, 0, 0)) * 1_000_000_000


class ResourceFS(FileSystem):
    """The resources of an importable package, read-only, wherever they are: a folder or a zip archive.

    Args:
        package: The package's name.

    Raises:
        ModuleNotFoundError: There is no such package.
    """

    read_only = True

    def __init__(self, package: str) -> None:
        root = files(package)
        self._inner: FileSystem
        if isinstance(root, Path):
            self._inner = HostDir(root, read_only=True)
        else:
            self._inner = _Traversed(root)
        self.waits = self._inner.waits

    def open_root(self) -> Directory:
        """Return the package's folder."""
        return self._inner.open_root()


class _Traversed(_TreeFS):
    """What importlib.resources can walk."""

    def __init__(self, root: Traversable) -> None:
        super().__init__()
        self._walk(root, [])

    def _walk(self, directory: Traversable, path: list[str]) -> None:
        for entry in directory.iterdir():
            if entry.is_dir():
                self._directory([*path, entry.name])
                self._walk(entry, [*path, entry.name])
            else:
                # How long it is nobody says; it is read when it is opened.
                self._add([*path, entry.name], 0, 0, entry.read_bytes)

    def close(self) -> None:
        """Nothing is held."""
