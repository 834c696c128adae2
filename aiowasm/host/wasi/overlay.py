"""Overlay: file systems on top of each other. Reading looks from the top down, writing goes to the top one.

A file below is copied up before it is first changed; of what is removed below a mark stays in memory. Directories are
merged. What lies below is only ever read.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import anyio
import anyio.lowlevel

from aiowasm.host.wasi.abi import Errno, FileType, OFlags
from aiowasm.host.wasi.errno import WasiError, errno_of
from aiowasm.host.wasi.filesystem import Directory, Entry, File, FileSystem, Stat

__all__ = ("Overlay",)

T = TypeVar("T")
Place = tuple[str, ...]

_COPY_NBYTES: Final = 64 << 10


class Overlay(FileSystem):
    """A writable file system on top of others.

    Args:
        upper: What takes all changes, such as an empty `MemFS`.
        lowers: What shows through, the uppermost first.
    """

    waits = True

    def __init__(self, upper: FileSystem, *lowers: FileSystem) -> None:
        self.upper = upper
        self.lowers = lowers
        self.read_only = upper.read_only
        self.hidden: set[Place] = set()
        """Paths at which nothing of what lies below is seen any more."""
        self.made: set[Place] = set()
        """Directories that were copied up, perhaps after somebody had opened them."""
        self.copying: dict[Place, anyio.Event] = {}
        """What is being copied up: whoever wants it waits, as half a file must not be seen."""
        self._opened: weakref.WeakSet[_OverlayDirectory] = weakref.WeakSet()

    def open_root(self) -> Directory:
        """Return the merged root directory."""
        root = self.add(_OverlayDirectory(self, (), None, []))
        try:
            root.upper = self.upper.open_root()
            for lower in self.lowers:
                root.lowers.append(lower.open_root())
        except BaseException:
            root.close()
            raise
        return root

    def add(self, directory: _OverlayDirectory) -> _OverlayDirectory:
        """Remember that *directory* is open, for as long as it is."""
        self._opened.add(directory)
        return directory

    def removed(self, place: Place) -> None:
        """Let those who have the directory at *place* open know that it is gone: it must not come back."""
        self.made.discard(place)
        for directory in self._opened:
            if directory.place == place:
                directory.is_removed = True

    def moved(self, place: Place, to: Place) -> None:
        """Let those who have the directory at *place* open, or one below it, know that it is at *to* now."""
        depth = len(place)
        self.made = {to + made[depth:] if made[:depth] == place else made for made in self.made}
        for directory in self._opened:
            if directory.place[:depth] == place:
                directory.place = to + directory.place[depth:]

    async def open_upper(self, place: Place) -> Directory:
        """Open a directory of the upper file system, made if it is not there."""
        directory = self.upper.open_root()
        for depth, name in enumerate(place, 1):
            self.made.add(place[:depth])
            try:
                inner = await _or_none(directory.open_directory(name))
                if inner is None:
                    await directory.create_directory(name)
                    inner = await directory.open_directory(name)
            finally:
                directory.close()
            directory = inner
        return directory


async def _or_none(operation: Awaitable[T]) -> T | None:
    """Return the result of *operation*, or None if what it names does not exist."""
    try:
        return await operation
    except (WasiError, OSError) as error:
        if errno_of(error) is Errno.NOENT:
            return None
        raise


class _OverlayDirectory(Directory):
    """An open directory: those of the layers it is in, as far as they are merged.

    `place` is where it is in the overlay, which is how it finds what was done to it through others.
    """

    waits = True

    def __init__(self, fs: Overlay, place: Place, upper: Directory | None, lowers: list[Directory]) -> None:
        self._fs = fs
        self.place = place
        self.upper = upper
        self.lowers = lowers
        self.is_removed = False
        self.key = fs

    def _below(self, name: str) -> list[Directory]:
        """Return the lower directories in which *name* may be seen."""
        return [] if (*self.place, name) in self._fs.hidden else self.lowers

    async def _top(self) -> Directory | None:
        """Return the upper directory, if there is one."""
        if self.upper is None and self.place in self._fs.made and not self.is_removed:
            self.upper = await self._fs.open_upper(self.place)
        return self.upper

    async def _find(self, name: str) -> tuple[Directory, Stat]:
        """Return the layer where *name* is, and what is known of it."""
        while (copied := self._fs.copying.get((*self.place, name))) is not None:
            await copied.wait()
        upper = await self._top()
        for layer in [*([upper] if upper else []), *self._below(name)]:
            stat = await _or_none(layer.stat_entry(name))
            if stat is not None:
                return layer, stat
        raise WasiError(Errno.NOENT)

    async def _lower_stat(self, name: str) -> Stat | None:
        for layer in self._below(name):
            stat = await _or_none(layer.stat_entry(name))
            if stat is not None:
                return stat
        return None

    async def _writable(self) -> Directory:
        if self.is_removed:
            raise WasiError(Errno.NOENT)
        if self.upper is None:
            self.upper = await self._fs.open_upper(self.place)
        return self.upper

    def _hide(self, name: str) -> None:
        self._fs.hidden.add((*self.place, name))

    async def stat(self) -> Stat:
        return await (await self._top() or self.lowers[0]).stat()

    async def stat_entry(self, name: str) -> Stat:
        return (await self._find(name))[1]

    async def duplicate(self) -> Directory:
        same = self._fs.add(_OverlayDirectory(self._fs, self.place, None, []))
        same.is_removed = self.is_removed
        try:
            same.upper = await self.upper.duplicate() if self.upper else None
            for lower in self.lowers:
                same.lowers.append(await lower.duplicate())
        except BaseException:
            same.close()
            raise
        return same

    async def open_directory(self, name: str) -> Directory:
        layer, stat = await self._find(name)
        if stat.filetype is not FileType.DIRECTORY:
            raise WasiError(Errno.LOOP if stat.filetype is FileType.SYMBOLIC_LINK else Errno.NOTDIR)
        merged = self._fs.add(_OverlayDirectory(self._fs, (*self.place, name), None, []))
        try:
            merged.upper = await layer.open_directory(name) if layer is self.upper else None
            for lower in self._below(name):
                below = await _or_none(lower.stat_entry(name))
                if below is None:
                    continue
                if below.filetype is not FileType.DIRECTORY:
                    break  # a file hides the directories below it
                merged.lowers.append(await lower.open_directory(name))
        except BaseException:
            merged.close()
            raise
        return merged

    async def open_entry(self, name: str, oflags: OFlags, *, read: bool, write: bool) -> File | Directory:
        try:
            layer, stat = await self._find(name)
        except WasiError as error:
            if error.errno is not Errno.NOENT or not oflags & OFlags.CREAT:
                raise
            return await (await self._writable()).open_entry(name, oflags, read=read, write=write)
        if stat.filetype is FileType.SYMBOLIC_LINK and not (oflags & OFlags.CREAT and oflags & OFlags.EXCL):
            raise WasiError(Errno.LOOP)
        if oflags & OFlags.CREAT and oflags & OFlags.EXCL:
            raise WasiError(Errno.EXIST)
        if stat.filetype is FileType.DIRECTORY:
            if write or oflags & (OFlags.TRUNC | OFlags.CREAT):
                raise WasiError(Errno.ISDIR)
            return await self.open_directory(name)
        oflags &= ~OFlags.CREAT
        if layer is not self.upper and (write or oflags & OFlags.TRUNC) and not oflags & OFlags.DIRECTORY:
            layer = await self._copy_up(name, layer, stat, empty=bool(oflags & OFlags.TRUNC))
        return await layer.open_entry(name, oflags, read=read, write=write)

    async def _copy_up(self, name: str, layer: Directory, stat: Stat, *, empty: bool = False) -> Directory:
        """Make *name*, which is in *layer* below, an entry of the upper file system."""
        path = (*self.place, name)
        if path in self._fs.copying:
            layer, stat = await self._find(name)  # once the other has done it
            return layer if layer is self.upper else await self._copy_up(name, layer, stat, empty=empty)
        copied = self._fs.copying[path] = anyio.Event()
        try:
            return await self._copy_entry(name, layer, stat, empty)
        finally:
            del self._fs.copying[path]
            copied.set()

    async def _copy_entry(self, name: str, layer: Directory, stat: Stat, empty: bool) -> Directory:
        upper = await self._writable()
        if stat.filetype is FileType.SYMBOLIC_LINK:
            await upper.symlink(name, await layer.readlink(name))
        elif stat.filetype is FileType.DIRECTORY:
            await upper.create_directory(name)
        else:
            source = await layer.open_entry(name, OFlags(0), read=True, write=False)
            try:
                await self._copy_file(name, source, upper, empty)
            finally:
                source.close()
        await upper.set_entry_times(name, stat.atim, stat.mtim)
        return upper

    async def _copy_file(self, name: str, source: File | Directory, upper: Directory, empty: bool) -> None:
        target = await upper.open_entry(name, OFlags.CREAT | OFlags.EXCL, read=False, write=True)
        if not isinstance(source, File) or not isinstance(target, File):
            target.close()
            raise WasiError(Errno.IO)
        try:
            offset = 0
            buffer = memoryview(bytearray(_COPY_NBYTES))
            while not empty:
                nbytes = await source.pread([buffer], offset)
                if not nbytes:
                    break
                await _write_all(target, buffer[:nbytes], offset)
                offset += nbytes
                await anyio.lowlevel.checkpoint()
        except BaseException:
            await _forget(upper.unlink, name)  # half a copy must not hide the whole file
            raise
        finally:
            target.close()

    async def entries(self) -> Sequence[Entry]:
        found: dict[str, Entry] = {}
        if await self._top() is not None and self.upper is not None:
            found = {entry.name: entry for entry in await self.upper.entries()}
        for lower in self.lowers:
            for entry in await lower.entries():
                if entry.name not in found and (*self.place, entry.name) not in self._fs.hidden:
                    found[entry.name] = entry
        return list(found.values())

    async def readlink(self, name: str) -> str:
        return await (await self._find(name))[0].readlink(name)

    async def set_times(self, atim: int | None, mtim: int | None) -> None:
        await (await self._writable()).set_times(atim, mtim)

    async def set_entry_times(self, name: str, atim: int | None, mtim: int | None) -> None:
        layer, stat = await self._find(name)
        if layer is not self.upper:
            layer = await self._copy_up(name, layer, stat)
        await layer.set_entry_times(name, atim, mtim)

    async def _check_new(self, name: str) -> Directory:
        if await _or_none(self._find(name)) is not None:
            raise WasiError(Errno.EXIST)
        return await self._writable()

    async def create_directory(self, name: str) -> None:
        await (await self._check_new(name)).create_directory(name)

    async def symlink(self, name: str, target: str) -> None:
        await (await self._check_new(name)).symlink(name, target)

    async def _check_empty(self, name: str) -> None:
        directory = await self.open_directory(name)
        try:
            if await directory.entries():
                raise WasiError(Errno.NOTEMPTY)
        finally:
            directory.close()

    async def _remove(self, name: str, layer: Directory, remove: Callable[[str], Awaitable[None]] | None) -> None:
        below = await self._lower_stat(name)
        if self._fs.read_only:
            raise WasiError(Errno.ROFS)
        if layer is self.upper and remove is not None:
            await remove(name)
        if below is not None:
            self._hide(name)

    async def remove_directory(self, name: str) -> None:
        layer, stat = await self._find(name)
        if stat.filetype is not FileType.DIRECTORY:
            raise WasiError(Errno.NOTDIR)
        await self._check_empty(name)
        await self._remove(name, layer, self.upper.remove_directory if self.upper else None)
        self._fs.removed((*self.place, name))

    async def unlink(self, name: str) -> None:
        layer, stat = await self._find(name)
        if stat.filetype is FileType.DIRECTORY:
            raise WasiError(Errno.ISDIR)
        await self._remove(name, layer, self.upper.unlink if self.upper else None)

    async def link(self, name: str, to: Directory, to_name: str) -> None:
        if not isinstance(to, _OverlayDirectory):
            raise WasiError(Errno.XDEV)
        layer, stat = await self._find(name)
        target = await to._check_new(to_name)
        if stat.filetype is FileType.DIRECTORY:
            raise WasiError(Errno.PERM)
        if layer is not self.upper:
            layer = await self._copy_up(name, layer, stat)
        await layer.link(name, target, to_name)

    async def rename(self, name: str, to: Directory, to_name: str) -> None:
        if not isinstance(to, _OverlayDirectory):
            raise WasiError(Errno.XDEV)
        layer, stat = await self._find(name)
        below = await self._lower_stat(name)
        if self._fs.read_only:
            raise WasiError(Errno.ROFS)
        place, to_place = (*self.place, name), (*to.place, to_name)
        if place == to_place:
            return
        if to_place[: len(place)] == place:
            raise WasiError(Errno.INVAL)
        await _check_replaceable(stat, to, to_name)
        if stat.filetype is FileType.DIRECTORY and below is not None:
            raise WasiError(Errno.XDEV)  # part of it cannot move: programs copy then, as on other overlays
        if layer is not self.upper:
            layer = await self._copy_up(name, layer, stat)
        await layer.rename(name, await to._writable(), to_name)
        if below is not None:
            self._hide(name)
        if await to._lower_stat(to_name) is not None:
            to._hide(to_name)
        if stat.filetype is FileType.DIRECTORY:
            self._fs.removed(to_place)
            self._fs.moved(place, to_place)

    async def sync(self, *, data_only: bool) -> None:
        if self.upper is not None:
            await self.upper.sync(data_only=data_only)

    def close(self) -> None:
        for layer in (self.upper, *self.lowers):
            if layer is not None:
                layer.close()


async def _check_replaceable(stat: Stat, to: _OverlayDirectory, to_name: str) -> None:
    existing = await _or_none(to._find(to_name))
    if existing is None:
        return
    is_directory = existing[1].filetype is FileType.DIRECTORY
    if is_directory != (stat.filetype is FileType.DIRECTORY):
        raise WasiError(Errno.ISDIR if is_directory else Errno.NOTDIR)
    if is_directory:
        await to._check_empty(to_name)


async def _write_all(target: File, data: memoryview, offset: int) -> None:
    while data:
        nbytes = await target.pwrite([data], offset)
        data = data[nbytes:]
        offset += nbytes


async def _forget(operation: Callable[[str], Awaitable[None]], name: str) -> None:
    with anyio.CancelScope(shield=True):
        try:
            await operation(name)
        except (WasiError, OSError):
            return
