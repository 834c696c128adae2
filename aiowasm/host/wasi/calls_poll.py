"""poll_oneoff: waiting for clocks and descriptors at once, through the event loop."""

from __future__ import annotations

import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple

import anyio
import anyio.lowlevel

from aiowasm.host.wasi.abi import (
    EVENT,
    SUBSCRIPTION_NBYTES,
    SUBSCRIPTION_NBYTES_UNSTABLE,
    ClockId,
    Errno,
    EventType,
    Rights,
    SubclockFlags,
)
from aiowasm.host.wasi.clocks import clock_of
from aiowasm.host.wasi.descriptors import (
    Descriptor,
    DirectoryDescriptor,
    FileDescriptor,
    ListenerDescriptor,
    SocketDescriptor,
    StreamDescriptor,
)
from aiowasm.host.wasi.errno import WasiError, errno_of
from aiowasm.host.wasi.system import Answer, Guest, System, check, put_u32

MAX_SUBSCRIPTIONS: Final = 4096
"""More is `INVAL`."""

_POLL: Final = int(Rights.POLL_FD_READWRITE)
_READ: Final = int(Rights.FD_READ)
_WRITE: Final = int(Rights.FD_WRITE)

_HEAD: Final = struct.Struct("<QB")
_CLOCK: Final = struct.Struct("<IxxxxQQH")
_FD: Final = struct.Struct("<I")


class _Subscription(NamedTuple):
    """What a guest waits for: a clock or a descriptor."""

    userdata: int
    kind: int
    fd: int = 0
    clock: int = 0
    timeout: int = 0
    flags: int = 0


class _Event(NamedTuple):
    """What happened; packed as the specification says."""

    userdata: int
    errno: int
    kind: int
    nbytes: int = 0
    flags: int = 0


def poll_oneoff(
    system: System, caller: Guest, subscriptions: int, events: int, count: int, result: int, *, unstable: bool = False
) -> Answer:
    view = system.view(caller)
    check(view, result, 4)
    if not 0 < count <= MAX_SUBSCRIPTIONS:
        raise WasiError(Errno.INVAL)
    size = SUBSCRIPTION_NBYTES_UNSTABLE if unstable else SUBSCRIPTION_NBYTES
    check(view, subscriptions, size * count)
    check(view, events, EVENT.size * count)
    caller.consume_fuel(count)
    wanted = [_subscription(view, subscriptions + size * index, unstable) for index in range(count)]
    return _poll(system, caller, wanted, events, result)


def _subscription(view: memoryview, address: int, unstable: bool) -> _Subscription:
    userdata, kind = _HEAD.unpack_from(view, address)
    if kind == EventType.CLOCK:
        clock, timeout, _precision, flags = _CLOCK.unpack_from(view, address + (24 if unstable else 16))
        return _Subscription(userdata, kind, clock=clock, timeout=timeout, flags=flags)
    return _Subscription(userdata, kind, fd=_FD.unpack_from(view, address + 16)[0])


async def _poll(system: System, caller: Guest, wanted: list[_Subscription], events: int, result: int) -> int:
    deadlines = [_deadline(system, subscription) for subscription in wanted]
    times = [deadline for deadline in deadlines if isinstance(deadline, tuple)]
    if len(times) == len(wanted):
        # Sleeping, the most frequent use: no tasks.
        found: list[_Event] = []
        while not found:  # a timer may be early, and the time of day may be set back
            clock, until = min(times, key=lambda time: time[1] - system.clock.now(time[0]))
            await system.clock.sleep(max(0, until - system.clock.now(clock)))
            found = await _happened(system, wanted, deadlines)
    else:
        await anyio.lowlevel.checkpoint()
        found = await _happened(system, wanted, deadlines)
        while not found:
            await _wait(system, wanted, times)
            found = await _happened(system, wanted, deadlines)
    view = system.view(caller)
    for index, event in enumerate(found):
        EVENT.pack_into(view, events + EVENT.size * index, *event)
    put_u32(view, result, len(found))
    return Errno.SUCCESS


def _deadline(system: System, subscription: _Subscription) -> tuple[ClockId, int] | Errno | None:
    """Return when a clock's time has come; an error of the subscription; None for a descriptor."""
    if subscription.kind != EventType.CLOCK:
        return None
    if subscription.flags & ~int(SubclockFlags.ABSTIME):
        return Errno.INVAL
    try:
        clock = clock_of(subscription.clock)
    except WasiError as error:
        return error.errno
    if clock not in (ClockId.REALTIME, ClockId.MONOTONIC):
        return Errno.NOTSUP  # who sleeps uses no CPU time: it might never come
    absolute = subscription.flags & SubclockFlags.ABSTIME
    return clock, subscription.timeout if absolute else system.clock.now(clock) + subscription.timeout


async def _happened(
    system: System, wanted: list[_Subscription], deadlines: list[tuple[ClockId, int] | Errno | None]
) -> list[_Event]:
    """Return the events that are there now, in the order of the subscriptions."""
    found = []
    for subscription, deadline in zip(wanted, deadlines, strict=True):
        if isinstance(deadline, Errno):
            found.append(_Event(subscription.userdata, deadline, subscription.kind))
        elif deadline is not None:
            clock, until = deadline
            if system.clock.now(clock) >= until:
                found.append(_Event(subscription.userdata, Errno.SUCCESS, subscription.kind))
        else:
            event = await _descriptor_event(system, subscription)
            if event is not None:
                found.append(event)
    return found


async def _descriptor_event(system: System, subscription: _Subscription) -> _Event | None:
    try:
        descriptor = _subscribed(system, subscription)
        nbytes = await _ready(descriptor, subscription.kind)
    except (WasiError, OSError) as error:
        return _Event(subscription.userdata, errno_of(error), subscription.kind)
    if nbytes is None:
        return None
    ends = isinstance(descriptor, StreamDescriptor | SocketDescriptor)
    hung_up = subscription.kind == EventType.FD_READ and nbytes == 0 and ends
    return _Event(subscription.userdata, Errno.SUCCESS, subscription.kind, nbytes, int(hung_up))


def _subscribed(system: System, subscription: _Subscription) -> Descriptor:
    if subscription.kind not in (EventType.FD_READ, EventType.FD_WRITE):
        raise WasiError(Errno.INVAL)
    descriptor = system.table[subscription.fd]
    needed = _POLL
    if isinstance(descriptor, StreamDescriptor):
        stream = descriptor.input if subscription.kind == EventType.FD_READ else descriptor.output
        if stream is None:
            raise WasiError(Errno.BADF)
    elif isinstance(descriptor, DirectoryDescriptor):
        raise WasiError(Errno.BADF)
    elif isinstance(descriptor, ListenerDescriptor) and subscription.kind == EventType.FD_WRITE:
        raise WasiError(Errno.INVAL)
    if not isinstance(descriptor, ListenerDescriptor):
        needed |= _READ if subscription.kind == EventType.FD_READ else _WRITE
    if descriptor.rights & needed != needed:
        raise WasiError(Errno.NOTCAPABLE)
    return descriptor


async def _ready(descriptor: Descriptor, kind: int) -> int | None:
    """Return how many bytes can be read or written without waiting (a guess of 1 where unknown), or None."""
    if isinstance(descriptor, FileDescriptor):
        if kind == EventType.FD_WRITE:
            return 1
        return max(0, (await descriptor.file.stat()).size - descriptor.position)
    if isinstance(descriptor, StreamDescriptor):
        if kind == EventType.FD_READ:
            return None if descriptor.input is None else descriptor.input.available()
        return 1 if descriptor.output is not None and descriptor.output.writable() else None
    if isinstance(descriptor, SocketDescriptor):
        return descriptor.connection.ready(write=kind == EventType.FD_WRITE)
    if isinstance(descriptor, ListenerDescriptor):
        return descriptor.listener.ready()
    return None


def _waiter(descriptor: Descriptor, kind: int) -> Callable[[], Awaitable[None]] | None:
    if isinstance(descriptor, StreamDescriptor):
        if kind == EventType.FD_READ:
            return None if descriptor.input is None else descriptor.input.wait_readable
        return None if descriptor.output is None else descriptor.output.wait_writable
    if isinstance(descriptor, SocketDescriptor):
        connection = descriptor.connection
        return connection.wait_readable if kind == EventType.FD_READ else connection.wait_writable
    return descriptor.listener.wait_readable if isinstance(descriptor, ListenerDescriptor) else None


async def _wait(system: System, wanted: list[_Subscription], times: list[tuple[ClockId, int]]) -> None:
    """Suspend until something may have happened."""
    nanoseconds = [max(0, until - system.clock.now(clock)) for clock, until in times]
    seconds = system.clock.poll(min(nanoseconds)) if nanoseconds else None
    if nanoseconds and seconds is None:
        # Time that is not real passes at once: nothing that is not ready now comes first.
        await system.clock.sleep(min(nanoseconds))
        return
    # One waiter for each thing, however often it is subscribed to.
    waiters: dict[tuple[int, int], Callable[[], Awaitable[None]]] = {}
    for subscription in wanted:
        if subscription.kind != EventType.CLOCK:
            descriptor = system.table[subscription.fd]
            waiter = _waiter(descriptor, subscription.kind)
            if waiter is not None:
                waiters[id(descriptor), subscription.kind] = waiter
    with anyio.move_on_after(seconds) as scope:
        if len(waiters) == 1:
            await next(iter(waiters.values()))()
        elif waiters:
            await _first(list(waiters.values()))
        else:
            await anyio.sleep_forever()
    if scope.cancelled_caught:
        return


async def _first(waiters: list[Callable[[], Awaitable[None]]]) -> None:
    """Suspend until the first of *waiters* returns."""

    async def wait(waiter: Callable[[], Awaitable[None]]) -> None:
        with suppress(WasiError, OSError):  # looking at it again reports it
            await waiter()
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for waiter in waiters:
            group.start_soon(wait, waiter)
