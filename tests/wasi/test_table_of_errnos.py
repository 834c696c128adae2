"""Each function with every errno it can give: what the other tests of this folder have seen, beside the list of it.

It runs last, and only where all of the folder ran: an errno that no test sees is missing from them, one that is not
listed is new. Those of the first list are seen on directories of the host and in memory alike.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from aiowasm.host.wasi.abi import FUNCTIONS, Errno
from tests.wasi.conftest import SEEN

_PATH = "BADF FAULT ILSEQ INVAL LOOP NAMETOOLONG NOENT NOTCAPABLE NOTDIR"
ON_ALL = {
    "args_get": "FAULT",
    "args_sizes_get": "FAULT",
    "clock_res_get": "FAULT INVAL",
    "clock_time_get": "FAULT INVAL",
    "environ_get": "FAULT",
    "environ_sizes_get": "FAULT",
    "fd_advise": "BADF INVAL NOTCAPABLE SPIPE",
    "fd_allocate": "BADF FBIG INVAL ISDIR NOTCAPABLE SPIPE",
    "fd_close": "BADF",
    "fd_datasync": "BADF INVAL NOTCAPABLE",
    "fd_fdstat_get": "BADF FAULT",
    "fd_fdstat_set_flags": "BADF INVAL NOTCAPABLE",
    "fd_fdstat_set_rights": "BADF NOTCAPABLE",
    "fd_filestat_get": "BADF FAULT NOTCAPABLE",
    "fd_filestat_set_size": "BADF INVAL ISDIR NOTCAPABLE SPIPE",
    "fd_filestat_set_times": "BADF INVAL NOTCAPABLE",
    "fd_pread": "BADF FAULT INVAL ISDIR NOTCAPABLE SPIPE",
    "fd_prestat_dir_name": "BADF FAULT NAMETOOLONG",
    "fd_prestat_get": "BADF FAULT",
    "fd_pwrite": "BADF FAULT FBIG INVAL ISDIR NOTCAPABLE SPIPE",
    "fd_read": "BADF FAULT INVAL ISDIR NOTCAPABLE",
    "fd_readdir": "BADF FAULT NOTCAPABLE NOTDIR",
    "fd_renumber": "BADF",
    "fd_seek": "BADF FAULT INVAL ISDIR NOTCAPABLE OVERFLOW SPIPE",
    "fd_sync": "BADF INVAL NOTCAPABLE",
    "fd_tell": "BADF FAULT ISDIR NOTCAPABLE SPIPE",
    "fd_write": "BADF FAULT FBIG INVAL ISDIR NOTCAPABLE",
    "path_create_directory": f"EXIST {_PATH}",
    "path_filestat_get": _PATH,
    "path_filestat_set_times": _PATH,
    "path_link": f"EXIST PERM {_PATH}",
    "path_open": f"EXIST ISDIR {_PATH}",
    "path_readlink": _PATH,
    "path_remove_directory": f"NOTEMPTY {_PATH}",
    "path_rename": f"BUSY ISDIR NOTEMPTY {_PATH}",
    "path_symlink": f"EXIST {_PATH}",
    "path_unlink_file": f"ISDIR {_PATH}",
    "poll_oneoff": "FAULT INVAL",
    "sock_accept": "BADF NOTSOCK",
    "sock_recv": "BADF NOTSOCK",
    "sock_send": "BADF NOTSOCK",
    "sock_shutdown": "BADF NOTSOCK",
}
"""What a function gives whatever the file system."""
ON_SOME = {
    "fd_allocate": "NOSPC",
    "fd_filestat_set_size": "NOSPC",
    "fd_filestat_set_times": "ROFS",
    "fd_pwrite": "NOSPC",
    "fd_read": "AGAIN IO NOTCONN",
    "fd_write": "NOSPC PIPE",
    "path_create_directory": "NOSPC ROFS",
    "path_filestat_set_times": "ROFS",
    "path_link": "NOSPC ROFS XDEV",
    "path_open": "ACCES IO MFILE NOSPC NOTSUP ROFS",
    "path_remove_directory": "BUSY ROFS",
    "path_rename": "ROFS XDEV",
    "path_symlink": "NOSPC ROFS",
    "path_unlink_file": "ROFS",
    "proc_raise": "INVAL NOTSUP",
    "random_get": "FAULT",
    "sock_accept": "AGAIN INVAL NOTCAPABLE",
    "sock_recv": "AGAIN FAULT INVAL NOTCONN",
    "sock_send": "AGAIN FAULT INVAL NOTCAPABLE PIPE",
    "sock_shutdown": "INVAL NOTCAPABLE",
}
"""What needs a limit, a read-only mount, a stream or a socket, or a host that says so."""


def pairs(table: dict[str, str]) -> set[tuple[str, str]]:
    return {(name, errno) for name, errnos in table.items() for errno in errnos.split()}


def test_the_table_knows_every_function_and_errno() -> None:
    assert ON_ALL.keys() | ON_SOME.keys() | {"proc_exit", "sched_yield"} == FUNCTIONS.keys()
    assert not pairs(ON_ALL) & pairs(ON_SOME)
    assert {errno for _, errno in pairs(ON_ALL) | pairs(ON_SOME)} <= Errno.__members__.keys()


def test_every_errno_was_seen_and_no_other(request: pytest.FixtureRequest) -> None:
    ran = {item.path for item in request.session.items}
    everything = set(Path(__file__).parent.glob("test_*.py"))
    if not everything <= ran or request.config.option.keyword or request.session.testsfailed:
        pytest.skip("it compares what all tests of this folder have seen")
    seen = {(name, errno.name): kinds for (name, errno), kinds in SEEN.items() if errno is not Errno.SUCCESS}
    assert {pair for pair, kinds in seen.items() if {"HostDir", "MemFS"} <= kinds} == pairs(ON_ALL)
    assert seen.keys() == pairs(ON_ALL) | pairs(ON_SOME)
