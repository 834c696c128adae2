"""Resolving a guest's path, component by component: the only place that knows `..` and symbolic links.

A walk starts at an open directory and keeps every directory it has entered open, so that `..` returns to where it
came from, whatever is renamed or replaced meanwhile, and cannot leave the directory it started at. Symbolic links are
read and their targets walked like the guest's own path: an absolute target leaves the sandbox and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiowasm.host.wasi.abi import Errno, FileType
from aiowasm.host.wasi.errno import WasiError
from aiowasm.host.wasi.filesystem import Directory

__all__ = ("MAX_PATH_NBYTES", "Walk", "check_path", "decode_path", "place_of")

MAX_PATH_NBYTES: Final = 4096
"""The longest path a guest may give: PATH_MAX of Linux."""
_MAX_SYMLINKS: Final = 40  # as Linux
_MAX_COMPONENTS: Final = 4096  # of a whole walk, links included
_MAX_DEPTH: Final = 256  # directories that a walk keeps open at once: they are descriptors of the whole process

Mounts = Mapping[tuple[str, ...], Directory]


def decode_path(data: bytes) -> str:
    """Return a guest's path as text.

    Raises:
        WasiError: `NAMETOOLONG`, `ILSEQ` for what is not UTF-8, `INVAL` for a NUL.
    """
    if len(data) > MAX_PATH_NBYTES:
        raise WasiError(Errno.NAMETOOLONG)
    try:
        path = data.decode()
    except UnicodeDecodeError:
        raise WasiError(Errno.ILSEQ) from None
    if "\0" in path:
        raise WasiError(Errno.INVAL)
    return path


def place_of(path: str) -> tuple[str, ...]:
    """Return a guest path of a mount as components; `/` and `.` have none.

    Raises:
        ValueError: A guest could not name it.
    """
    components = tuple(component for component in path.split("/") if component not in ("", "."))
    try:
        nbytes = len(path.encode())
    except UnicodeEncodeError:
        nbytes = 0
    if ".." in components or "\0" in path or not 0 < nbytes <= MAX_PATH_NBYTES:
        raise ValueError(f"{path!r} is no guest path to mount a file system at")
    return components


def check_path(path: str) -> None:
    """Refuse paths that cannot be resolved from a directory."""
    if not path:
        raise WasiError(Errno.NOENT)
    if path[0] == "/":
        raise WasiError(Errno.NOTCAPABLE)


class Walk:
    """A path on its way to its last component.

    After `start`, the path names the entry `name` of `directory`; `name` is None if it names `directory` itself (`.`,
    or a path that ends with `.` or `..`). `must_be_directory`: the path ends with a slash. `ends_with_dot`: its last
    component is `.`, which no entry is. `close` gives back the directories opened on the way.
    """

    __slots__ = (
        "_count",
        "_links",
        "_mounts",
        "_owned",
        "_pending",
        "_places",
        "_stack",
        "directory",
        "ends_with_dot",
        "must_be_directory",
        "name",
    )

    def __init__(self, base: Directory, mounts: Mounts | None = None, place: tuple[str, ...] = ()) -> None:
        self.directory = base
        self.name: str | None = None
        self.must_be_directory = False
        self.ends_with_dot = False
        self._stack: list[Directory] = []  # what `..` returns to; the base is never closed here
        self._owned: list[bool] = []  # whether what was entered is ours to close: the root of a mount is not
        self._pending: list[str] = []  # components still to go, the next one last
        self._links = 0
        self._count = 0
        self._mounts = mounts
        self._places = [place]

    async def start(self, path: str, *, follow: bool = False, follow_before_slash: bool = True) -> None:
        """Walk to the last component of *path*; with *follow*, on through a symbolic link there.

        A link with a slash behind it is the directory it leads to, unless *follow_before_slash* is False: then it is
        the entry that it is, as for systems when they make, move or remove directories.
        """
        check_path(path)
        self._push(path)
        await self._go()
        if follow or (follow_before_slash and self.must_be_directory):
            await self.follow_links()

    async def follow_links(self) -> None:
        """Walk on while the entry arrived at is a symbolic link. One that does not exist is left as it is."""
        while self.name is not None and not self.is_mount():
            try:
                stat = await self.directory.stat_entry(self.name)
            except (WasiError, OSError):
                return  # whatever is done with the entry reports it
            if stat.filetype is not FileType.SYMBOLIC_LINK:
                return
            await self.follow_link()

    async def follow_link(self) -> None:
        """Walk on through the symbolic link arrived at."""
        name = self.name
        if name is None:
            return
        self._push_link(await self.directory.readlink(name))
        await self._go()

    def is_mount(self) -> bool:
        """Return whether the entry arrived at is where another file system is mounted."""
        return bool(self._mounts) and self.name is not None and (*self._places[-1], self.name) in (self._mounts or {})

    def mount(self) -> Directory | None:
        """Return the root of the file system mounted at the entry arrived at."""
        if not self._mounts or self.name is None:
            return None
        return self._mounts.get((*self._places[-1], self.name))

    @property
    def place(self) -> tuple[str, ...]:
        """Where `directory` is for the guest."""
        return self._places[-1]

    def close(self) -> None:
        """Close the directories opened on the way, `directory` too unless it is where the walk started."""
        while self._stack:
            self._leave()

    @property
    def is_at_base(self) -> bool:
        """Whether `directory` is where the walk started."""
        return not self._stack

    def _push(self, path: str) -> None:
        components = [component for component in path.split("/") if component not in ("", ".")]
        self._count += len(components)
        if self._count > _MAX_COMPONENTS:
            raise WasiError(Errno.NAMETOOLONG)
        if not self._pending:
            self.must_be_directory = self.must_be_directory or path.rpartition("/")[2] in ("", ".", "..")
            self.ends_with_dot = path.rstrip("/").rpartition("/")[2] == "."
            if self.ends_with_dot and components:
                components.append(".")  # what stands before it has to be entered
        components.reverse()
        self._pending += components

    def _push_link(self, target: str) -> None:
        self._links += 1
        if self._links > _MAX_SYMLINKS:
            raise WasiError(Errno.LOOP)
        check_path(target)
        self._push(target)

    async def _go(self) -> None:
        pending = self._pending
        self.name = None
        while pending:
            component = pending.pop()
            if component == "..":
                if not self._stack:
                    raise WasiError(Errno.NOTCAPABLE)
                self._leave()
            elif component == ".":
                continue
            elif not pending:
                self.name = component
                return
            else:
                await self._enter(component)

    async def _enter(self, component: str) -> None:
        if len(self._stack) >= _MAX_DEPTH:
            raise WasiError(Errno.NAMETOOLONG)
        place = (*self._places[-1], component) if self._mounts else ()
        mounted = self._mounts.get(place) if self._mounts else None
        if mounted is not None:
            directory = mounted
        else:
            try:
                directory = await self.directory.open_directory(component)
            except WasiError as error:
                if error.errno is not Errno.LOOP:
                    raise
                self._push_link(await self.directory.readlink(component))
                return
        self._stack.append(self.directory)
        self._owned.append(mounted is None)
        self._places.append(place)
        self.directory = directory

    def _leave(self) -> None:
        left, self.directory = self.directory, self._stack.pop()
        self._places.pop()
        if self._owned.pop():
            left.close()
