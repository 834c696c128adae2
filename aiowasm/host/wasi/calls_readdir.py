"""fd_readdir: listing directories, a buffer at a time.

What a descriptor lists is taken when a guest starts at the beginning, so that a listing that has begun goes on as it
began, whatever happens to the directory.
"""

from __future__ import annotations

from typing import Final

import anyio.lowlevel

from aiowasm.host.wasi.abi import DIRENT, Errno, FileType, Rights
from aiowasm.host.wasi.descriptors import DirectoryDescriptor
from aiowasm.host.wasi.errno import WasiError
from aiowasm.host.wasi.filesystem import Entry
from aiowasm.host.wasi.system import FUEL_NBYTES, Answer, Guest, System, check, put_u32, run

MAX_LISTED: Final = 1 << 20
"""How many entries are kept of all listings of one guest, and at least of the last one."""
_LISTED_BETWEEN_CHECKPOINTS: Final = 4096
_LISTED_NBYTES: Final = _LISTED_BETWEEN_CHECKPOINTS * DIRENT.size
"""What is listed without letting the event loop run."""


def fd_readdir(system: System, caller: Guest, fd: int, buffer: int, nbytes: int, cookie: int, result: int) -> Answer:
    descriptor = system.table[fd]
    if not isinstance(descriptor, DirectoryDescriptor):
        raise WasiError(Errno.NOTDIR)
    if not descriptor.rights & Rights.FD_READDIR:
        raise WasiError(Errno.NOTCAPABLE)
    view = system.view(caller)
    check(view, result, 4)
    check(view, buffer, nbytes)
    waits = nbytes > _LISTED_NBYTES or (
        (cookie == 0 or descriptor.listing is None) and descriptor.directory.listing_waits()
    )
    work = _readdir(system, caller, descriptor, buffer, nbytes, cookie, result)
    return work if waits or system.waits else run(work)


async def _listing(system: System, descriptor: DirectoryDescriptor) -> list[Entry]:
    ino = (await descriptor.directory.stat()).ino
    found = list(await descriptor.directory.entries())
    if system.mounts:
        depth = len(descriptor.place)
        mounted = {path[-1]: root for path, root in system.mounts.items() if path[:-1] == descriptor.place}
        found = [entry for entry in found if entry.name not in mounted]
        for name, root in mounted.items() if depth or descriptor.preopen == b"/" else ():
            found.append(Entry(name, (await root.stat()).ino, FileType.DIRECTORY))
    # The parent is none of the guest's business, as this directory may be all it was given.
    return [Entry(".", ino, FileType.DIRECTORY), Entry("..", ino, FileType.DIRECTORY), *found]


def _make_room(system: System, count: int) -> None:
    """Drop the listings of other descriptors if *count* more entries are too many; they are taken anew then."""
    listed = [
        descriptor
        for descriptor in system.table.entries.values()
        if isinstance(descriptor, DirectoryDescriptor) and descriptor.listing is not None
    ]
    if count + sum(len(descriptor.listing or ()) for descriptor in listed) > MAX_LISTED:
        for descriptor in listed:
            descriptor.listing = None


async def _readdir(
    system: System, caller: Guest, descriptor: DirectoryDescriptor, buffer: int, nbytes: int, cookie: int, result: int
) -> int:
    listing = descriptor.listing
    if cookie == 0 or listing is None:
        listing = await _listing(system, descriptor)
        _make_room(system, len(listing))
        descriptor.listing = listing
    view = system.view(caller)
    end = buffer + nbytes
    at = buffer
    for index in range(min(cookie, len(listing)), len(listing)):
        name, ino, filetype = listing[index]
        data = name.encode()
        after = at + DIRENT.size + len(data)
        if after > end:
            # The last entry is cut off where the buffer ends: a full buffer tells the guest that there is more.
            entry = DIRENT.pack(index + 1, ino, len(data), filetype) + data
            view[at:end] = entry[: end - at]
            at = end
            break
        DIRENT.pack_into(view, at, index + 1, ino, len(data), filetype)
        view[after - len(data) : after] = data
        at = after
        if nbytes > _LISTED_NBYTES and index % _LISTED_BETWEEN_CHECKPOINTS == 0:
            await anyio.lowlevel.checkpoint()
            view = system.view(caller)
    caller.consume_fuel((at - buffer) // FUEL_NBYTES)
    put_u32(view, result, at - buffer)
    return Errno.SUCCESS
