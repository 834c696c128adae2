"""poll_oneoff: clocks and descriptors together, in order, cancellable, without threads."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time

import anyio
import pytest

from aiowasm import Module, Store
from aiowasm.host.wasi import FakeClock, MemFS, SystemClock, Wasi
from aiowasm.host.wasi.abi import EVENT, SUBSCRIPTION_NBYTES, ClockId, Errno, EventType, Rights
from aiowasm.host.wasi.calls_poll import MAX_SUBSCRIPTIONS
from aiowasm.host.wasi.descriptors import FILE_RIGHTS

pytestmark = pytest.mark.anyio

E = Errno
FAR = 0x10_0000
MS = 1_000_000
IN, OUT = 0x2000, 0x8000


def clock(userdata: int, timeout: int, *, clock_id: int = ClockId.MONOTONIC, flags: int = 0) -> bytes:
    return struct.pack("<QB7xI4xQQH6x", userdata, EventType.CLOCK, clock_id, timeout, 0, flags)


def on(userdata: int, fd: int, kind: int = EventType.FD_READ) -> bytes:
    return struct.pack("<QB7xI28x", userdata, kind, fd)


async def poll(guest, *subscriptions: bytes) -> list[tuple[int, int, int, int]]:
    """Poll and return user data, errno, type and number of bytes of each event."""
    assert all(len(subscription) == SUBSCRIPTION_NBYTES for subscription in subscriptions)
    guest.memory.write(IN, b"".join(subscriptions))
    assert await guest.call("poll_oneoff", IN, OUT, len(subscriptions), 0) is E.SUCCESS
    return [EVENT.unpack_from(guest.memory.read(OUT + 32 * index, 32))[:4] for index in range(guest.u32())]


async def test_what_it_refuses(guest) -> None:
    assert await guest.call("poll_oneoff", IN, OUT, 0, 0) is E.INVAL
    assert await guest.call("poll_oneoff", IN, OUT, MAX_SUBSCRIPTIONS + 1, 0) is E.INVAL
    assert await guest.call("poll_oneoff", FAR, OUT, 1, 0) is E.FAULT
    assert await guest.call("poll_oneoff", IN, FAR, 1, 0) is E.FAULT
    assert await guest.call("poll_oneoff", IN, OUT, 1, FAR) is E.FAULT


async def test_clocks(guest) -> None:
    start = time.monotonic()
    assert await poll(guest, clock(7, 20 * MS)) == [(7, 0, 0, 0)]
    assert time.monotonic() - start >= 0.02
    assert await poll(guest, clock(1, 3600 * 1000 * MS), clock(2, 5 * MS)) == [(2, 0, 0, 0)]
    assert await poll(guest, clock(1, 0), clock(2, 0)) == [(1, 0, 0, 0), (2, 0, 0, 0)]
    soon = time.time_ns() + 10 * MS
    assert await poll(guest, clock(3, soon, clock_id=ClockId.REALTIME, flags=1)) == [(3, 0, 0, 0)]
    assert time.time_ns() >= soon
    assert await poll(guest, clock(4, 1, clock_id=ClockId.REALTIME, flags=1)) == [(4, 0, 0, 0)]  # long past


async def test_subscriptions_with_errors(guest) -> None:
    directory = 3
    assert await poll(guest, clock(1, 0, clock_id=9)) == [(1, E.INVAL, 0, 0)]
    assert await poll(guest, clock(2, 0, flags=2)) == [(2, E.INVAL, 0, 0)]
    assert await poll(guest, on(3, 99)) == [(3, E.BADF, 1, 0)]
    assert await poll(guest, on(5, directory)) == [(5, E.BADF, 1, 0)]
    assert await poll(guest, on(6, 0, 9)) == [(6, E.INVAL, 9, 0)]
    for right in (Rights.POLL_FD_READWRITE, Rights.FD_READ):
        weak = await guest.open("file", rights=FILE_RIGHTS & ~right)
        assert await poll(guest, on(7, weak)) == [(7, E.NOTCAPABLE, 1, 0)]
    weak = await guest.open("file", rights=FILE_RIGHTS & ~Rights.FD_WRITE)
    assert await poll(guest, on(8, weak, EventType.FD_WRITE)) == [(8, E.NOTCAPABLE, 2, 0)]
    for cpu in (ClockId.PROCESS_CPUTIME, ClockId.THREAD_CPUTIME):  # which does not pass for who sleeps
        assert await poll(guest, clock(9, 0, clock_id=cpu)) == [(9, E.NOTSUP, 0, 0)]


async def test_stdout_cannot_be_read_nor_stdin_written(guest) -> None:
    assert await poll(guest, on(1, 1), on(2, 0, EventType.FD_WRITE)) == [(1, E.BADF, 1, 0), (2, E.BADF, 2, 0)]


async def test_what_is_ready_at_once(guest) -> None:
    fd = await guest.open("file")
    events = await poll(guest, on(1, fd), clock(9, 3600 * 1000 * MS), on(2, fd, 2), on(3, 0), on(4, 1, 2), on(5, 2, 2))
    assert [event[0] for event in events] == [1, 2, 3, 4, 5]
    assert events[0] == (1, 0, 1, 10)
    assert events[2] == (3, 0, 1, 5)


async def test_the_end_of_stdin_is_readable(spawn) -> None:
    guest = await spawn(Wasi())
    assert await poll(guest, on(1, 0), clock(2, 1000 * MS)) == [(1, 0, 1, 0)]
    assert guest.memory.read_u16(OUT + 24) == 1  # hung up


async def test_the_end_of_a_connection_is_readable(spawn) -> None:
    ours, theirs = socket.socketpair()
    guest = await spawn(Wasi(sockets=[theirs]))
    ours.send(b"last")
    ours.close()
    assert await poll(guest, on(1, 3)) == [(1, 0, 1, 4)]
    assert guest.memory.read_u16(OUT + 24) == 0
    assert await guest.read(3) == b"last"
    assert await poll(guest, on(1, 3)) == [(1, 0, 1, 0)]
    assert guest.memory.read_u16(OUT + 24) == 1  # hung up


async def test_a_timer_that_is_early(spawn) -> None:
    """A guest is never woken without an event."""
    sleeps = []

    class Early(SystemClock):
        async def sleep(self, nanoseconds: int) -> None:
            sleeps.append(nanoseconds)
            await super().sleep(nanoseconds // 2)

    guest = await spawn(Wasi(clock=Early()))
    assert await poll(guest, clock(1, 10 * MS)) == [(1, 0, 0, 0)]
    assert len(sleeps) > 1


@pytest.fixture
def high_descriptors():
    """Let new descriptors have numbers that select() does not take."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2048:
        pytest.skip("this process may not have as many descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, before[1]))
    low = [os.open(os.devnull, os.O_RDONLY)]
    while low[-1] < 1024:
        low.append(os.dup(low[0]))
    yield
    for fd in low:
        os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_descriptors_of_a_busy_server(spawn, high_descriptors) -> None:
    ours, theirs = socket.socketpair()
    reading, writing = os.pipe()
    with (
        ours,
        socket.create_server(("127.0.0.1", 0)) as server,
        os.fdopen(reading, "rb", buffering=0) as source,
        os.fdopen(writing, "wb", buffering=0) as target,
    ):
        assert min(server.fileno(), theirs.fileno(), reading) > 1023
        guest = await spawn(Wasi(stdin=source, stdout=target, listeners=[server], sockets=[theirs]))
        events = [on(1, 1, 2), on(2, 4, 2), on(3, 3), on(4, 0), clock(5, 1000 * MS)]
        assert [event[:2] for event in await poll(guest, *events)] == [(1, 0), (2, 0)]
        assert await guest.write(1, b"x") == 1
        assert [event[:2] for event in await poll(guest, *events[2:])] == [(4, 0)]


async def test_waiting_for_several_streams(spawn) -> None:
    send, receive = anyio.create_memory_object_stream[bytes](10)
    ours, theirs = socket.socketpair()
    with send, receive, ours:
        guest = await spawn(Wasi(stdin=receive, sockets=[theirs]))
        waits = [on(1, 0), on(2, 3), clock(3, 10 * MS), on(4, 0)]
        assert await poll(guest, *waits) == [(3, 0, 0, 0)]
        async with anyio.create_task_group() as group:

            async def later() -> None:
                await anyio.sleep(0.02)
                ours.send(b"hello")

            group.start_soon(later)
            assert await poll(guest, on(1, 0), on(2, 3), clock(3, 5000 * MS)) == [(2, 0, 1, 5)]
        await send.send(b"abc")
        assert await poll(guest, on(1, 0), clock(3, 5000 * MS), on(4, 0)) == [(1, 0, 1, 3), (4, 0, 1, 3)]
        assert await guest.read(0) == b"abc"  # looking lost nothing


async def test_cancelling_loses_nothing(spawn) -> None:
    send, receive = anyio.create_memory_object_stream[bytes](10)
    with send, receive:
        wasi = Wasi(stdin=receive)
        guest = await spawn(wasi)
        for waits in ([on(1, 0)], [on(1, 0), clock(2, 10**12)], [on(1, 0), on(2, 0), clock(3, 10**12)]):
            with anyio.move_on_after(0.01) as scope:
                await poll(guest, *waits)
            assert scope.cancelled_caught
            guest = await spawn(wasi)
        await send.send(b"here")
        assert await poll(guest, on(1, 0)) == [(1, 0, 1, 4)]


SLEEPER = """(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "sleep") (result i32)
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 3600_000_000_000))
    (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))))"""


async def test_sleeping_guests_cost_no_threads(engine: str) -> None:
    async with Store(engine=engine) as store:
        await sleep_a_thousand_times(store)


async def sleep_a_thousand_times(store: Store[None]) -> None:
    asleep = 0

    class Clock(SystemClock):
        async def sleep(self, nanoseconds: int) -> None:
            nonlocal asleep
            asleep += 1
            await super().sleep(nanoseconds)

    module = await Module.from_text(SLEEPER)
    instances = [await store.instantiate(module, imports=Wasi(clock=Clock()).imports(module)) for _ in range(1000)]
    before = threading.active_count()
    async with anyio.create_task_group() as group:
        for instance in instances:
            group.start_soon(instance.exports.sleep)
        while asleep < len(instances):
            await anyio.sleep(0.01)
        assert threading.active_count() == before
        group.cancel_scope.cancel()
    assert all(instance.exit_code is not None for instance in instances)


async def test_fake_time_does_not_wait(spawn) -> None:
    send, receive = anyio.create_memory_object_stream[bytes](10)
    with send, receive:
        guest = await spawn(Wasi(clock=FakeClock(), stdin=receive, fs={"/": MemFS()}))
        start = time.monotonic()
        assert await poll(guest, clock(1, 10**15)) == [(1, 0, 0, 0)]
        assert await poll(guest, on(2, 0), clock(1, 10**15)) == [(1, 0, 0, 0)]
        assert time.monotonic() - start < 5
