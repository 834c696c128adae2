"""Sockets that a guest was given."""

from __future__ import annotations

import socket

import anyio
import pytest

from aiowasm.host.wasi import Wasi
from aiowasm.host.wasi.abi import FUNCTIONS, Errno, FdFlags, FileType, RiFlags, Rights, SdFlags
from aiowasm.host.wasi.descriptors import SOCKET_RIGHTS

pytestmark = pytest.mark.anyio

E = Errno
FAR = 0x10_0000


@pytest.fixture
def ours_and_theirs():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


async def test_there_are_none_unless_given(guest) -> None:
    file = await guest.open("file")
    for name in ("sock_accept", "sock_recv", "sock_send", "sock_shutdown"):
        rest = [0] * (len(FUNCTIONS[name].parameters) - 1)
        assert await guest.call(name, 99, *rest) is E.BADF
        for fd in (0, 1, 3, file):
            assert await guest.call(name, fd, *rest) is E.NOTSOCK


async def test_a_connection(spawn, ours_and_theirs) -> None:
    ours, theirs = ours_and_theirs
    guest = await spawn(Wasi(sockets=[theirs]))
    assert await guest.call("fd_fdstat_get", 3, 0x800) is E.SUCCESS
    assert guest.memory.read_u8(0x800) == FileType.SOCKET_STREAM
    ours.send(b"hello")
    assert await guest.call("sock_recv", 3, *guest.iovecs(100), RiFlags.PEEK, 0, 4) is E.SUCCESS
    assert (guest.data(guest.u32()), guest.memory.read_u16(4)) == (b"hello", 0)
    assert await guest.call("sock_recv", 3, *guest.iovecs(2, 100), 0, 0, 4) is E.SUCCESS
    assert guest.data(guest.u32()) == b"hello"
    assert await guest.call("sock_send", 3, *guest.iovecs(b"ab", b"cd"), 0, 0) is E.SUCCESS
    assert guest.u32() == 4
    assert ours.recv(100) == b"abcd"
    assert await guest.write(3, b"as a file") == 9
    assert ours.recv(100) == b"as a file"
    ours.send(b"too")
    assert await guest.read(3) == b"too"
    assert await guest.call("fd_seek", 3, 0, 0, 0) is E.SPIPE
    for flags in (4, 255):
        assert await guest.call("sock_recv", 3, *guest.iovecs(1), flags, 0, 4) is E.INVAL
    assert await guest.call("sock_send", 3, *guest.iovecs(b"x"), 1, 0) is E.INVAL
    assert await guest.call("sock_recv", 3, FAR, 1, 0, 0, 4) is E.FAULT
    assert await guest.call("sock_recv", 3, *guest.iovecs(1), 0, 0, FAR) is E.FAULT
    assert await guest.call("sock_send", 3, *guest.iovecs(b"x"), 0, FAR) is E.FAULT
    assert await guest.call("sock_accept", 3, 0, 0) is E.INVAL
    for name in ("fd_sync", "fd_datasync"):
        assert await guest.call(name, 3) is E.INVAL


async def test_waiting(spawn, ours_and_theirs) -> None:
    ours, theirs = ours_and_theirs
    guest = await spawn(Wasi(sockets=[theirs]))
    async with anyio.create_task_group() as group:

        async def later() -> None:
            for piece in (b"one", b"two", b"three"):
                await anyio.sleep(0.01)
                ours.send(piece)

        group.start_soon(later)
        assert await guest.read(3) == b"one"
        assert await guest.call("sock_recv", 3, *guest.iovecs(5, 3), RiFlags.WAITALL, 0, 4) is E.SUCCESS
        assert guest.data(guest.u32()) == b"twothree"
    assert await guest.call("fd_fdstat_set_flags", 3, FdFlags.NONBLOCK) is E.SUCCESS
    assert await guest.call("sock_recv", 3, *guest.iovecs(5), 0, 0, 4) is E.AGAIN
    assert await guest.call("fd_read", 3, *guest.iovecs(5), 0) is E.AGAIN
    sent = 0
    while (errno := await guest.call("sock_send", 3, *guest.iovecs(b"x" * 60_000), 0, 0)) is E.SUCCESS:
        sent += guest.u32()
    assert errno is E.AGAIN
    ours.setblocking(False)
    received = 0
    while received < sent:
        received += len(ours.recv(100_000))
    ours.close()
    assert await guest.read(3) == b""


async def test_shutting_down(spawn, ours_and_theirs) -> None:
    ours, theirs = ours_and_theirs
    guest = await spawn(Wasi(sockets=[theirs]))
    for how in (0, 4, 7):
        assert await guest.call("sock_shutdown", 3, how) is E.INVAL
    assert await guest.call("sock_shutdown", 3, SdFlags.WR) is E.SUCCESS
    assert ours.recv(10) == b""
    assert await guest.call("sock_send", 3, *guest.iovecs(b"x"), 0, 0) is E.PIPE
    assert await guest.call("fd_fdstat_set_rights", 3, SOCKET_RIGHTS & ~(1 << 28), 0) is E.SUCCESS
    assert await guest.call("sock_shutdown", 3, SdFlags.RD) is E.NOTCAPABLE
    assert await guest.call("fd_close", 3) is E.SUCCESS
    assert theirs.fileno() == -1


async def test_accepting(spawn, listening) -> None:
    guest = await spawn(Wasi(listeners=[listening]))
    assert await guest.call("fd_read", 3, *guest.iovecs(5), 0) is E.NOTCONN
    assert await guest.call("sock_recv", 3, *guest.iovecs(5), 0, 0, 4) is E.NOTCONN
    assert await guest.call("sock_accept", 3, 1, 0) is E.INVAL
    with anyio.move_on_after(0.01) as scope:
        await guest.call("sock_accept", 3, 0, 0)
    assert scope.cancelled_caught
    guest = await spawn(Wasi(listeners=[listening]))
    with socket.create_connection(listening.getsockname()) as client:
        assert await guest.call("sock_accept", 3, FdFlags.NONBLOCK, 0) is E.SUCCESS
        assert guest.u32() == 4
        assert await guest.call("fd_read", 4, *guest.iovecs(5), 0) is E.AGAIN
        client.send(b"hi")
        with anyio.fail_after(5):
            while await guest.call("fd_read", 4, *guest.iovecs(5), 0) is E.AGAIN:
                await anyio.sleep(0.001)
        assert guest.data(2) == b"hi"
    assert await guest.call("fd_fdstat_set_flags", 3, FdFlags.NONBLOCK) is E.SUCCESS
    assert await guest.call("sock_accept", 3, 0, 0) is E.AGAIN
    assert await guest.call("fd_close", 4) is E.SUCCESS
    assert await guest.call("fd_close", 3) is E.SUCCESS
    assert listening.fileno() >= 0  # it is the application's


async def test_a_listener_gives_no_more_than_it_inherits(spawn, listening) -> None:
    guest = await spawn(Wasi(listeners=[listening]))
    rights = int(Rights.SOCK_ACCEPT)
    assert await guest.call("fd_fdstat_set_rights", 3, rights, SOCKET_RIGHTS & ~Rights.FD_WRITE) is E.SUCCESS
    with socket.create_connection(listening.getsockname()):
        assert await guest.call("sock_accept", 3, 0, 0) is E.SUCCESS
        assert await guest.call("sock_send", 4, *guest.iovecs(b"x"), 0, 0) is E.NOTCAPABLE
    assert await guest.call("fd_fdstat_set_rights", 3, 0, 0) is E.SUCCESS
    assert await guest.call("sock_accept", 3, 0, 0) is E.NOTCAPABLE


async def test_listeners_and_streams_of_anyio(spawn) -> None:
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener:
        guest = await spawn(Wasi(listeners=[listener]))
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            assert await guest.call("sock_accept", 3, 0, 0) is E.SUCCESS
            await client.send(b"hello")
            assert await guest.read(4) == b"hello"
            assert await guest.write(4, b"back") == 4
            assert await client.receive() == b"back"


def test_what_is_no_socket() -> None:
    for option in ("listeners", "sockets"):
        with pytest.raises(TypeError):
            Wasi(**{option: [object()]})
