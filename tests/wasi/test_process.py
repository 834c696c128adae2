"""Calls about the process: arguments, environment, clocks, randomness, exit, signals; and repeating a run."""

from __future__ import annotations

import time

import pytest

from aiowasm import ExitError, HostModule, LinkError, Module, Store
from aiowasm.host.wasi import FakeClock, MemFS, Wasi
from aiowasm.host.wasi.abi import FUNCTIONS, SNAPSHOT_0, SNAPSHOT_1, ClockId, Errno
from aiowasm.host.wasi.module import host_module

pytestmark = pytest.mark.anyio

E = Errno
FAR = 0x10_0000


def test_the_table_is_complete() -> None:
    assert len(FUNCTIONS) == 46
    system = Wasi().system()
    assert set(host_module(SNAPSHOT_1, system).definitions) == set(FUNCTIONS)
    assert set(host_module(SNAPSHOT_0, system).definitions) == set(FUNCTIONS) - {"sock_accept"}
    with pytest.raises(ValueError, match="snapshot"):
        host_module("wasi_snapshot_preview2", system)


@pytest.mark.parametrize(("kind", "strings"), [("args", ["program", "argument"]), ("environ", ["NAME=value"])])
async def test_strings(guest, kind: str, strings: list[str]) -> None:
    assert await guest.call(f"{kind}_sizes_get", 0, 4) is E.SUCCESS
    assert (guest.u32(0), guest.u32(4)) == (len(strings), sum(map(len, strings)) + len(strings))
    assert await guest.call(f"{kind}_get", 0x800, 0x900) is E.SUCCESS
    for index, string in enumerate(strings):
        where = guest.u32(0x800 + 4 * index)
        assert guest.memory.read(where, len(string) + 1) == string.encode() + b"\0"
    for pointers in ((FAR, 0x900), (0x800, FAR)):
        assert await guest.call(f"{kind}_get", *pointers) is E.FAULT
        assert await guest.call(f"{kind}_sizes_get", *pointers) is E.FAULT


def test_strings_that_cannot_be() -> None:
    for options in ({"args": ["a\0b"]}, {"env": {"a=b": "c"}}, {"env": {"": "c"}}, {"env": {"a": "b\0"}}):
        with pytest.raises(ValueError, match="must not"):
            Wasi(**options)
    with pytest.raises(ValueError, match="more than"):
        Wasi(["x" * (1 << 24)])


async def test_clocks(guest) -> None:
    for clock in ClockId:
        assert await guest.call("clock_res_get", clock, 0) is E.SUCCESS
        assert 1 <= guest.u64() < 10**9
        assert await guest.call("clock_time_get", clock, 0, 0) is E.SUCCESS
    assert await guest.call("clock_time_get", 0, 0, 0) is E.SUCCESS
    assert abs(guest.u64() - time.time_ns()) < 10**10
    for name, extra in (("clock_res_get", ()), ("clock_time_get", (0,))):
        assert await guest.call(name, 4, *extra, 0) is E.INVAL
        assert await guest.call(name, 0, *extra, FAR) is E.FAULT


async def test_fake_clocks(spawn) -> None:
    guest = await spawn(Wasi(clock=FakeClock(start=10**18, step=5)))
    times = []
    for clock in (0, 0, 1):
        assert await guest.call("clock_time_get", clock, 0, 0) is E.SUCCESS
        times.append(guest.u64())
    assert times == [10**18 + 5, 10**18 + 10, 15]


async def test_random(spawn) -> None:
    guest = await spawn(Wasi())
    assert await guest.call("random_get", 0x1000, 200_000) is E.SUCCESS
    data = guest.memory.read(0x1000, 200_000)
    assert len(set(data)) == 256
    assert data[-1000:].count(0) < 50
    assert await guest.call("random_get", 0x1000, 0) is E.SUCCESS
    assert await guest.call("random_get", FAR, 1) is E.FAULT
    assert await guest.call("random_get", 0, 0xFFFF_FFFF) is E.FAULT


@pytest.mark.parametrize("code", [0, 1, 33, 255, 256, 0xFFFF_FFFF])
async def test_proc_exit(guest, code: int) -> None:
    with pytest.raises(ExitError) as caught:
        await guest.instance.call("proc_exit", code)
    assert caught.value.exit_code == guest.instance.exit_code == code
    with pytest.raises(ExitError):
        await guest.call("sched_yield")


async def test_proc_raise(spawn) -> None:
    guest = await spawn(Wasi())
    for signal in (0, 16, 17, 22, 27):
        assert await guest.call("proc_raise", signal) is E.SUCCESS
    for signal in (18, 19, 20, 21):
        assert await guest.call("proc_raise", signal) is E.NOTSUP
    assert await guest.call("proc_raise", 31) is E.INVAL
    for signal in (1, 2, 6, 9, 15, 30):
        guest = await spawn(Wasi())
        with pytest.raises(ExitError) as caught:
            await guest.call("proc_raise", signal)
        assert caught.value.exit_code == 128 + signal


async def test_sched_yield(guest) -> None:
    assert await guest.call("sched_yield") is E.SUCCESS


async def test_a_guest_without_memory(engine: str) -> None:
    module = await Module.from_text(
        '(module (import "wasi_snapshot_preview1" "args_sizes_get" (func $f (param i32 i32) (result i32)))'
        ' (import "wasi_snapshot_preview1" "proc_exit" (func $e (param i32)))'
        ' (func (export "f") (result i32) (call $f (i32.const 0) (i32.const 4))) (func (export "_start")'
        " (call $e (i32.const 5))))"
    )
    async with Store(engine=engine) as store:
        instance = await store.instantiate(module, imports=Wasi().imports())
        assert await instance.exports.f() == E.FAULT
        assert (await store.run_command(module, Wasi())).exit_code == 5


OLD = """(module
  (import "wasi_unstable" "fd_seek" (func $seek (param i32 i64 i32 i32) (result i32)))
  (import "wasi_unstable" "path_open" (func $open
    (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_unstable" "fd_filestat_get" (func $stat (param i32 i32) (result i32)))
  (import "wasi_unstable" "path_filestat_get" (func $path_stat (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_unstable" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 100) "file")
  (data (i32.const 600) "\\07")
  (data (i32.const 624) "\\01")
  (func (export "open") (result i32) (call $open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 4)
    (i32.const 0) (i64.const 0x2000ff) (i64.const 0) (i32.const 0) (i32.const 0)))
  (func (export "seek") (param i64 i32) (result i32)
    (call $seek (i32.const 4) (local.get 0) (local.get 1) (i32.const 8)))
  (func (export "stat") (result i32) (call $stat (i32.const 4) (i32.const 200)))
  (func (export "path_stat") (result i32) (call $path_stat (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 4)
    (i32.const 300)))
  (func (export "poll") (result i32) (call $poll (i32.const 600) (i32.const 800) (i32.const 1) (i32.const 0))))"""


async def test_the_snapshot_before(engine: str) -> None:
    """wasi_unstable numbers whence differently, and its structures have other layouts."""
    async with Store(engine=engine) as store:
        wasi = Wasi(fs={"/": MemFS({"file": b"0123456789"})})
        old = await store.instantiate(await Module.from_text(OLD), imports=wasi.imports())
        assert await old.exports.open() == 0
        for offset, whence, position in ((3, 2, 3), (2, 0, 5), (-1, 1, 9)):
            assert await old.exports.seek(offset, whence) == 0
            assert old.memory.read_u64(8) == position
        assert await old.exports.seek(0, 3) == E.INVAL
        assert await old.exports.stat() == 0
        assert await old.exports.path_stat() == 0
        assert old.memory.read(200, 56) == old.memory.read(300, 56)
        assert (old.memory.read_u32(220), old.memory.read_u64(224)) == (1, 10)
        assert await old.exports.poll() == 0
        assert (old.memory.read_u32(0), old.memory.read_u64(800)) == (1, 7)


async def test_the_same_run_twice(compile_c, engine: str) -> None:
    program = compile_c(
        r"""
        #include <stdio.h>
        #include <stdlib.h>
        #include <time.h>
        #include <sys/stat.h>
        #include <unistd.h>
        int main(void) {
            unsigned char random[8];
            struct stat info;
            getentropy(random, 8);
            usleep(1000);
            fclose(fopen("/new", "w"));
            stat("/old", &info);
            printf("%ld %d %lld %p\n", (long)time(0), random[0], (long long)info.st_mtim.tv_sec, malloc(10));
            stat("/new", &info);
            printf("%lld.%09ld\n", (long long)info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
        }
        """
    )
    results = []
    for _ in range(2):
        async with Store(engine=engine) as store:
            wasi = Wasi.deterministic(["x"], seed=5, fs={"/": MemFS({"old": b""})})
            results.append([await store.run_command(program, wasi) for _ in range(2)])
    assert results[0] == results[1]
    assert results[0][0].stdout
    other = await Store(engine=engine).run_command(program, Wasi.deterministic(["x"], seed=6, fs={"/": MemFS()}))
    assert other.stdout != results[0][0].stdout


async def test_a_command_that_imports_what_is_not_there(engine: str) -> None:
    module = await Module.from_text('(module (import "other" "f" (func $f)) (func (export "_start") (call $f)))')
    async with Store(engine=engine) as store:
        with pytest.raises(LinkError):
            await store.run_command(module, Wasi())
        with pytest.raises(LinkError, match="_start"):
            await store.run_command(await Module.from_text("(module)"), Wasi())
        called = []
        other = HostModule("other")

        @other.function
        def f() -> None:
            called.append(1)

        assert (await store.run_command(module, Wasi(), imports={"other": other})).exit_code == 0
        assert called == [1]


async def test_a_store_keeps_nothing_of_commands(engine: str) -> None:
    module = await Module.from_text(
        '(module (import "wasi_snapshot_preview1" "sched_yield" (func $f (result i32)))'
        ' (memory 1) (func (export "_start") (drop (call $f))))'
    )
    async with Store(engine=engine) as store:
        for _ in range(3):
            result = await store.run_command(module, Wasi())
            assert (result.exit_code, result.peak_memory_bytes) == (0, 65_536)
            assert not store.instances
