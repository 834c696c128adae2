"""Calls about the process: arguments, environment, clocks, randomness, exit."""

from __future__ import annotations

from typing import Final

import anyio.lowlevel

from aiowasm.host.wasi.abi import Errno
from aiowasm.host.wasi.clocks import clock_of
from aiowasm.host.wasi.errno import WasiError
from aiowasm.host.wasi.system import FUEL_NBYTES, Answer, Guest, System, check, put_u32, put_u64

_RANDOM_NBYTES: Final = 64 << 10  # what is made without letting the event loop run
_SIGNALS: Final = 31
_IGNORED_SIGNALS: Final = frozenset({0, 16, 17, 22, 27})  # none, chld, cont, urg, winch
_STOPPING_SIGNALS: Final = frozenset({18, 19, 20, 21})  # there is nobody who could continue the guest


def _strings_sizes(system: System, caller: Guest, strings: list[bytes], count: int, size: int) -> int:
    view = system.view(caller)
    check(view, count, 4)
    put_u32(view, size, sum(len(string) + 1 for string in strings))
    put_u32(view, count, len(strings))
    return Errno.SUCCESS


def _strings(system: System, caller: Guest, strings: list[bytes], pointers: int, buffer: int) -> int:
    view = system.view(caller)
    check(view, pointers, 4 * len(strings))
    data = b"".join(string + b"\0" for string in strings)
    check(view, buffer, len(data))
    caller.consume_fuel((len(data) + 4 * len(strings)) // FUEL_NBYTES)
    for index, string in enumerate(strings):
        put_u32(view, pointers + 4 * index, buffer)
        view[buffer : buffer + len(string) + 1] = string + b"\0"
        buffer += len(string) + 1
    return Errno.SUCCESS


def args_get(system: System, caller: Guest, argv: int, buffer: int) -> int:
    return _strings(system, caller, system.args, argv, buffer)


def args_sizes_get(system: System, caller: Guest, count: int, size: int) -> int:
    return _strings_sizes(system, caller, system.args, count, size)


def environ_get(system: System, caller: Guest, environ: int, buffer: int) -> int:
    return _strings(system, caller, system.env, environ, buffer)


def environ_sizes_get(system: System, caller: Guest, count: int, size: int) -> int:
    return _strings_sizes(system, caller, system.env, count, size)


def clock_res_get(system: System, caller: Guest, clock: int, result: int) -> int:
    put_u64(system.view(caller), result, system.clock.resolution(clock_of(clock)))
    return Errno.SUCCESS


def clock_time_get(system: System, caller: Guest, clock: int, _precision: int, result: int) -> int:
    view = system.view(caller)
    check(view, result, 8)
    put_u64(view, result, system.clock.now(clock_of(clock)))
    return Errno.SUCCESS


def random_get(system: System, caller: Guest, buffer: int, nbytes: int) -> Answer:
    view = system.view(caller)
    check(view, buffer, nbytes)
    caller.consume_fuel(nbytes // FUEL_NBYTES)
    if nbytes > _RANDOM_NBYTES:
        return _much_random(system, caller, buffer, nbytes)
    view[buffer : buffer + nbytes] = system.random(nbytes)
    return Errno.SUCCESS


async def _much_random(system: System, caller: Guest, buffer: int, nbytes: int) -> int:
    while nbytes:
        part = min(nbytes, _RANDOM_NBYTES)
        system.view(caller)[buffer : buffer + part] = system.random(part)
        buffer += part
        nbytes -= part
        await anyio.lowlevel.checkpoint()
    return Errno.SUCCESS


def proc_exit(system: System, caller: Guest, code: int) -> None:
    system.exit(caller, code)


def proc_raise(system: System, caller: Guest, signal: int) -> int:
    if signal in _IGNORED_SIGNALS:
        return Errno.SUCCESS
    if signal in _STOPPING_SIGNALS:
        raise WasiError(Errno.NOTSUP)
    if signal >= _SIGNALS:
        raise WasiError(Errno.INVAL)
    return system.exit(caller, 128 + signal)  # what a shell reports of a process that a signal ended


def sched_yield(_system: System, caller: Guest) -> int:
    caller.yield_soon()
    return Errno.SUCCESS
