"""stdin, stdout and stderr: every kind of them, back-pressure, limits, and that the event loop is never blocked."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from aiowasm import LimitError
from aiowasm.host.wasi import Wasi
from aiowasm.host.wasi.abi import Errno, FdFlags

pytestmark = pytest.mark.anyio

E = Errno


async def read_all(guest, fd: int = 0, nbytes: int = 7) -> bytes:
    pieces = []
    while piece := await guest.read(fd, nbytes):
        pieces.append(piece)
    return b"".join(pieces)


async def test_stdin_of_bytes_and_files(spawn, tmp_path: Path) -> None:
    data = bytes(range(256)) * 10
    (tmp_path / "file").write_bytes(data)
    assert await read_all(await spawn(Wasi())) == b""
    for source in (data, bytearray(data), memoryview(data), io.BytesIO(data)):
        assert await read_all(await spawn(Wasi(stdin=source))) == data
    with (tmp_path / "file").open("rb") as file:
        assert await read_all(await spawn(Wasi(stdin=file)), nbytes=1000) == data


async def test_stdin_of_streams_and_functions(spawn) -> None:
    send, receive = anyio.create_memory_object_stream[bytes](10)
    with send, receive:
        for piece in (b"one", b"", b"two"):
            await send.send(piece)
        send.close()
        assert await read_all(await spawn(Wasi(stdin=receive)), nbytes=2) == b"onetwo"
    pieces = iter([b"a", b"bc", b""])
    assert await read_all(await spawn(Wasi(stdin=lambda: next(pieces)))) == b"abc"
    later = iter([b"d", b"ef", b""])

    async def awaited() -> bytes:
        await anyio.sleep(0.001)
        return next(later)

    assert await read_all(await spawn(Wasi(stdin=awaited))) == b"def"


async def test_outputs(spawn, tmp_path: Path) -> None:
    captured, called, awaited = bytearray(), [], []

    async def take(data: bytes) -> None:
        await anyio.sleep(0.001)
        awaited.append(data)

    buffer = io.BytesIO()
    with (tmp_path / "file").open("wb") as file:
        for target in (captured, called.append, take, buffer, file):
            guest = await spawn(Wasi(stdout=target))
            assert await guest.write(1, b"hello") == 5
            assert await guest.call("fd_write", 1, *guest.iovecs(b"", b" ", b"world"), 0) is E.SUCCESS
            assert await guest.call("fd_write", 1, 0, 0, 0) is E.SUCCESS
            assert guest.u32() == 0
    assert captured == b"hello world"
    assert b"".join(called) == b"".join(awaited) == buffer.getvalue() == (tmp_path / "file").read_bytes() == captured


async def test_a_stream_that_is_full_holds_the_guest_back(spawn) -> None:
    send, receive = anyio.create_memory_object_stream[bytes](2)
    with send, receive:
        guest = await spawn(Wasi(stdout=send))
        assert [await guest.write(1, b"x") for _ in range(2)] == [1, 1]
        with anyio.move_on_after(0.01) as scope:
            await guest.write(1, b"lost")
        assert scope.cancelled_caught
        assert [receive.receive_nowait() for _ in range(2)] == [b"x", b"x"]
        with pytest.raises(anyio.WouldBlock):  # nobody was told that it was written, and it was not
            receive.receive_nowait()


async def test_a_stream_that_is_closed_is_a_broken_pipe(spawn) -> None:
    send, receive = anyio.create_memory_object_stream[bytes](2)
    guest = await spawn(Wasi(stdout=send))
    receive.close()
    assert await guest.call("fd_write", 1, *guest.iovecs(b"x"), 0) is E.PIPE
    send.close()
    assert await guest.call("fd_write", 1, *guest.iovecs(b"x"), 0) is E.PIPE


async def test_a_stream_that_the_application_closed(spawn) -> None:
    send, receive = anyio.create_memory_object_stream[bytes](2)
    send.close()
    receive.close()
    guest = await spawn(Wasi(stdin=receive))
    assert await guest.call("fd_read", 0, *guest.iovecs(1), 0) is E.IO


async def test_more_output_than_allowed(spawn) -> None:
    guest = await spawn(Wasi(max_output_nbytes=10))
    assert await guest.write(1, b"x" * 10) == 10
    with pytest.raises(LimitError) as caught:
        await guest.write(1, b"x")
    assert caught.value.limit == "output_nbytes"
    assert await guest.write(2, b"x") == 1


async def test_what_is_no_stream() -> None:
    for option in ({"stdin": 3}, {"stdout": b"x"}, {"stderr": object()}, {"stdin": ["x"]}):
        with pytest.raises(TypeError):
            Wasi(**option)


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue  # the test closed it


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are not waited for there")
class TestPipesOfTheSystem:
    async def test_reading(self, spawn, pipe) -> None:
        reading, writing = pipe
        with open(reading, "rb", buffering=0, closefd=False) as file:
            guest = await spawn(Wasi(stdin=file))
            async with anyio.create_task_group() as group:

                async def write() -> None:
                    for piece in (b"one", b"two"):
                        await anyio.sleep(0.01)
                        os.write(writing, piece)
                    os.close(writing)

                group.start_soon(write)
                assert await guest.read(0) == b"one"
                assert await read_all(guest) == b"two"
            assert await guest.read(0) == b""

    async def test_waiting_is_cancelled_and_loses_nothing(self, spawn, pipe) -> None:
        reading, writing = pipe
        with open(reading, "rb", buffering=0, closefd=False) as file:
            wasi = Wasi(stdin=file)
            guest = await spawn(wasi)
            with anyio.move_on_after(0.01) as scope:
                await guest.read(0)
            assert scope.cancelled_caught
            os.write(writing, b"kept")
            assert await (await spawn(wasi)).read(0) == b"kept"

    async def test_writing_to_a_full_pipe(self, spawn, pipe) -> None:
        reading, writing = pipe
        with open(writing, "wb", buffering=0, closefd=False) as file:
            guest = await spawn(Wasi(stdout=file))
            written = 0
            with anyio.move_on_after(0.05):
                while True:
                    written += await guest.write(1, b"x" * 10_000)
            os.close(writing)
            with open(reading, "rb", closefd=False) as rest:
                assert len(rest.read()) == written

    async def test_a_pipe_that_nobody_reads(self, spawn, pipe) -> None:
        reading, writing = pipe
        os.close(reading)
        with open(writing, "wb", buffering=0, closefd=False) as file:
            guest = await spawn(Wasi(stdout=file))
            assert await guest.call("fd_write", 1, *guest.iovecs(b"x"), 0) is E.PIPE

    async def test_not_waiting(self, spawn, pipe) -> None:
        reading, writing = pipe
        with open(reading, "rb", buffering=0, closefd=False) as file:
            guest = await spawn(Wasi(stdin=file))
            assert await guest.call("fd_fdstat_set_flags", 0, FdFlags.NONBLOCK) is E.SUCCESS
            assert await guest.call("fd_read", 0, *guest.iovecs(10), 0) is E.AGAIN
            os.write(writing, b"now")
            assert await guest.read(0) == b"now"

    async def test_a_terminal_is_read_by_a_thread(self, spawn) -> None:
        pty = pytest.importorskip("pty")
        ours, theirs = pty.openpty()
        with open(theirs, "rb", buffering=0) as file, open(ours, "wb", buffering=0) as keyboard:
            wasi = Wasi(stdin=file)
            guest = await spawn(wasi)
            with anyio.move_on_after(0.02) as scope:
                await guest.read(0)
            assert scope.cancelled_caught
            guest = await spawn(wasi)
            assert await guest.call("fd_fdstat_get", 0, 0x800) is E.SUCCESS
            assert guest.memory.read_u8(0x800) == 2  # a character device: the guest's isatty
            keyboard.write(b"typed\n")
            assert await guest.read(0) == b"typed\n"
            keyboard.write(b"\x04")  # Ctrl-D
            assert await guest.read(0) == b""


def test_leaving_does_not_wait_for_a_terminal() -> None:
    """A guest that waits for input is cancelled, and the program ends, though a thread still reads."""
    script = (
        "import anyio, os, pty\n"
        "from aiowasm.host.wasi.hostfd import FdInput\n"
        "async def main():\n"
        "    with anyio.move_on_after(0.05) as scope:\n"
        "        await FdInput(pty.openpty()[1]).wait_readable()\n"
        "    assert scope.cancelled_caught\n"
        "anyio.run(main)\n"
        "print('left')\n"
    )
    if sys.platform == "win32":
        pytest.skip("no terminals of this kind there")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=20, check=False)
    assert result.stdout == b"left\n", result.stderr
