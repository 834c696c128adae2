"""The binary interface of WASI preview 1: numbers, flags, layouts and the one table of signatures.

Names are those of the specification's witx files, without their prefixes. Nothing here does anything.

Spec: https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/docs.md
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

__all__ = (
    "DIRENT",
    "EVENT",
    "FDSTAT",
    "FILESTAT",
    "FILESTAT_UNSTABLE",
    "FUNCTIONS",
    "IOVEC",
    "PRESTAT",
    "SNAPSHOTS",
    "SNAPSHOT_0",
    "SNAPSHOT_1",
    "SUBSCRIPTION_NBYTES",
    "SUBSCRIPTION_NBYTES_UNSTABLE",
    "ClockId",
    "Errno",
    "EventType",
    "FdFlags",
    "FileType",
    "FstFlags",
    "LookupFlags",
    "OFlags",
    "RiFlags",
    "Rights",
    "RoFlags",
    "SdFlags",
    "Signature",
    "SubclockFlags",
    "Whence",
)

SNAPSHOT_0: Final = "wasi_unstable"
SNAPSHOT_1: Final = "wasi_snapshot_preview1"
SNAPSHOTS: Final = (SNAPSHOT_1, SNAPSHOT_0)
"""The names that guests import from."""


class Errno(IntEnum):
    """The specification's `errno`; the value is what a guest gets."""

    SUCCESS = 0
    TOOBIG = 1  # `2big`
    ACCES = 2
    ADDRINUSE = 3
    ADDRNOTAVAIL = 4
    AFNOSUPPORT = 5
    AGAIN = 6
    ALREADY = 7
    BADF = 8
    BADMSG = 9
    BUSY = 10
    CANCELED = 11
    CHILD = 12
    CONNABORTED = 13
    CONNREFUSED = 14
    CONNRESET = 15
    DEADLK = 16
    DESTADDRREQ = 17
    DOM = 18
    DQUOT = 19
    EXIST = 20
    FAULT = 21
    FBIG = 22
    HOSTUNREACH = 23
    IDRM = 24
    ILSEQ = 25
    INPROGRESS = 26
    INTR = 27
    INVAL = 28
    IO = 29
    ISCONN = 30
    ISDIR = 31
    LOOP = 32
    MFILE = 33
    MLINK = 34
    MSGSIZE = 35
    MULTIHOP = 36
    NAMETOOLONG = 37
    NETDOWN = 38
    NETRESET = 39
    NETUNREACH = 40
    NFILE = 41
    NOBUFS = 42
    NODEV = 43
    NOENT = 44
    NOEXEC = 45
    NOLCK = 46
    NOLINK = 47
    NOMEM = 48
    NOMSG = 49
    NOPROTOOPT = 50
    NOSPC = 51
    NOSYS = 52
    NOTCONN = 53
    NOTDIR = 54
    NOTEMPTY = 55
    NOTRECOVERABLE = 56
    NOTSOCK = 57
    NOTSUP = 58
    NOTTY = 59
    NXIO = 60
    OVERFLOW = 61
    OWNERDEAD = 62
    PERM = 63
    PIPE = 64
    PROTO = 65
    PROTONOSUPPORT = 66
    PROTOTYPE = 67
    RANGE = 68
    ROFS = 69
    SPIPE = 70
    SRCH = 71
    STALE = 72
    TIMEDOUT = 73
    TXTBSY = 74
    XDEV = 75
    NOTCAPABLE = 76


class Rights(IntFlag):
    """What may be done with a descriptor."""

    FD_DATASYNC = 1 << 0
    FD_READ = 1 << 1
    FD_SEEK = 1 << 2
    FD_FDSTAT_SET_FLAGS = 1 << 3
    FD_SYNC = 1 << 4
    FD_TELL = 1 << 5
    FD_WRITE = 1 << 6
    FD_ADVISE = 1 << 7
    FD_ALLOCATE = 1 << 8
    PATH_CREATE_DIRECTORY = 1 << 9
    PATH_CREATE_FILE = 1 << 10
    PATH_LINK_SOURCE = 1 << 11
    PATH_LINK_TARGET = 1 << 12
    PATH_OPEN = 1 << 13
    FD_READDIR = 1 << 14
    PATH_READLINK = 1 << 15
    PATH_RENAME_SOURCE = 1 << 16
    PATH_RENAME_TARGET = 1 << 17
    PATH_FILESTAT_GET = 1 << 18
    PATH_FILESTAT_SET_SIZE = 1 << 19
    PATH_FILESTAT_SET_TIMES = 1 << 20
    FD_FILESTAT_GET = 1 << 21
    FD_FILESTAT_SET_SIZE = 1 << 22
    FD_FILESTAT_SET_TIMES = 1 << 23
    PATH_SYMLINK = 1 << 24
    PATH_REMOVE_DIRECTORY = 1 << 25
    PATH_UNLINK_FILE = 1 << 26
    POLL_FD_READWRITE = 1 << 27
    SOCK_SHUTDOWN = 1 << 28
    SOCK_ACCEPT = 1 << 29


class FileType(IntEnum):
    """The specification's `filetype`."""

    UNKNOWN = 0
    BLOCK_DEVICE = 1
    CHARACTER_DEVICE = 2
    DIRECTORY = 3
    REGULAR_FILE = 4
    SOCKET_DGRAM = 5
    SOCKET_STREAM = 6
    SYMBOLIC_LINK = 7


class FdFlags(IntFlag):
    """The specification's `fdflags`."""

    APPEND = 1
    DSYNC = 2
    NONBLOCK = 4
    RSYNC = 8
    SYNC = 16


class OFlags(IntFlag):
    """The specification's `oflags`."""

    CREAT = 1
    DIRECTORY = 2
    EXCL = 4
    TRUNC = 8


class LookupFlags(IntFlag):
    """The specification's `lookupflags`."""

    SYMLINK_FOLLOW = 1


class FstFlags(IntFlag):
    """The specification's `fstflags`."""

    ATIM = 1
    ATIM_NOW = 2
    MTIM = 4
    MTIM_NOW = 8


class Whence(IntEnum):
    """The specification's `whence`."""

    SET = 0
    CUR = 1
    END = 2


class ClockId(IntEnum):
    """The specification's `clockid`."""

    REALTIME = 0
    MONOTONIC = 1
    PROCESS_CPUTIME = 2
    THREAD_CPUTIME = 3


class EventType(IntEnum):
    """The specification's `eventtype`."""

    CLOCK = 0
    FD_READ = 1
    FD_WRITE = 2


class SubclockFlags(IntFlag):
    """The specification's `subclockflags`."""

    ABSTIME = 1


class RiFlags(IntFlag):
    """The specification's `riflags` (into `sock_recv`)."""

    PEEK = 1
    WAITALL = 2


class RoFlags(IntFlag):
    """The specification's `roflags` (out of `sock_recv`)."""

    DATA_TRUNCATED = 1


class SdFlags(IntFlag):
    """The specification's `sdflags`."""

    RD = 1
    WR = 2


IOVEC: Final = struct.Struct("<II")
"""Address and length; `ciovec` too."""
FDSTAT: Final = struct.Struct("<BxHxxxxQQ")
"""Filetype, flags, rights, inheriting rights."""
FILESTAT: Final = struct.Struct("<QQBxxxxxxxQQQQQ")
"""Device, inode, filetype, links, size, then access, modification and change time in nanoseconds."""
FILESTAT_UNSTABLE: Final = struct.Struct("<QQBxxxIQQQQ")
"""The same in wasi_unstable: links are 32 bits."""
PRESTAT: Final = struct.Struct("<BxxxI")
"""Tag (0: a directory) and the length of its name."""
DIRENT: Final = struct.Struct("<QQIBxxx")
"""Cookie of the next entry, inode, length of the name, filetype; the name follows."""
EVENT: Final = struct.Struct("<QHBxxxxxQHxxxxxx")
"""User data, errno, event type; then of a descriptor: bytes available and flags (1: hung up)."""
SUBSCRIPTION_NBYTES: Final = 48
SUBSCRIPTION_NBYTES_UNSTABLE: Final = 56


class Signature(NamedTuple):
    """Parameters of a function, a letter each: `i` an u32, `l` an u64, `s` a signed 64-bit integer.

    The result is an errno, an i32, except where `returns` is False.
    """

    parameters: str
    returns: bool = True


FUNCTIONS: Final[dict[str, Signature]] = {
    "args_get": Signature("ii"),
    "args_sizes_get": Signature("ii"),
    "environ_get": Signature("ii"),
    "environ_sizes_get": Signature("ii"),
    "clock_res_get": Signature("ii"),
    "clock_time_get": Signature("ili"),
    "fd_advise": Signature("illi"),
    "fd_allocate": Signature("ill"),
    "fd_close": Signature("i"),
    "fd_datasync": Signature("i"),
    "fd_fdstat_get": Signature("ii"),
    "fd_fdstat_set_flags": Signature("ii"),
    "fd_fdstat_set_rights": Signature("ill"),
    "fd_filestat_get": Signature("ii"),
    "fd_filestat_set_size": Signature("il"),
    "fd_filestat_set_times": Signature("illi"),
    "fd_pread": Signature("iiili"),
    "fd_prestat_get": Signature("ii"),
    "fd_prestat_dir_name": Signature("iii"),
    "fd_pwrite": Signature("iiili"),
    "fd_read": Signature("iiii"),
    "fd_readdir": Signature("iiili"),
    "fd_renumber": Signature("ii"),
    "fd_seek": Signature("isii"),
    "fd_sync": Signature("i"),
    "fd_tell": Signature("ii"),
    "fd_write": Signature("iiii"),
    "path_create_directory": Signature("iii"),
    "path_filestat_get": Signature("iiiii"),
    "path_filestat_set_times": Signature("iiiilli"),
    "path_link": Signature("iiiiiii"),
    "path_open": Signature("iiiiillii"),
    "path_readlink": Signature("iiiiii"),
    "path_remove_directory": Signature("iii"),
    "path_rename": Signature("iiiiii"),
    "path_symlink": Signature("iiiii"),
    "path_unlink_file": Signature("iii"),
    "poll_oneoff": Signature("iiii"),
    "proc_exit": Signature("i", returns=False),
    "proc_raise": Signature("i"),
    "sched_yield": Signature(""),
    "random_get": Signature("ii"),
    "sock_accept": Signature("iii"),
    "sock_recv": Signature("iiiiii"),
    "sock_send": Signature("iiiii"),
    "sock_shutdown": Signature("ii"),
}
"""All 46 functions of wasi_snapshot_preview1."""
