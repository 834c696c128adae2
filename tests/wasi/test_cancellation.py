"""Every call that can wait is cancelled at once, by a scope, by closing, and by a timeout; and others run meanwhile."""

from __future__ import annotations

import os
import socket
import sys

import anyio
import pytest

from aiowasm import EXIT_CANCELLED, EXIT_DEADLINE, DeadlineError, ExitError, Limits, Module, Store, run_command
from aiowasm.host.wasi import MemFS, Wasi

pytestmark = pytest.mark.anyio


GUEST = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_recv" (func $recv (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sock_send" (func $send (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
  (memory (export "memory") 8)
  (data (i32.const 0) "\\00\\04\\00\\00\\00\\80\\00\\00")
  (data (i32.const 24) "\\00\\e4\\0b\\54\\02\\00\\00\\00")
  (func (export "_start") (local $what i32)
    (drop (call $args (i32.const 200) (i32.const 300)))
    (local.set $what (i32.sub (i32.load8_u (i32.const 300)) (i32.const 97)))
    (loop $again
      (block $h (block $g (block $f (block $e (block $d (block $c (block $b (block $a
        (br_table $a $b $c $d $e $f $g $h (local.get $what)))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 100))) (br $again))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100))) (br $again))
      (i32.store (i32.const 16) (i32.const 1))
      (i64.store (i32.const 24) (i64.const 10000000000))
      (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128))) (br $again))
      (drop (call $accept (i32.const 3) (i32.const 0) (i32.const 100))) (br $again))
      (drop (call $recv (i32.const 4) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 100) (i32.const 104)))
      (br $again))
      (drop (call $send (i32.const 4) (i32.const 0) (i32.const 1) (i32.const 0) (i32.const 100))) (br $again))
      (drop (call $yield)) (br $again))
      (drop (call $random (i32.const 65536) (i32.const 400000))) (br $again))))"""

WAITS = {
    "a read": "a",
    "a read from a stream": "a",
    "a write": "b",
    "a write to a pipe": "b",
    "a sleep": "c",
    "an accept": "d",
    "a receive": "e",
    "a send": "f",
    "yielding": "g",
    "much randomness": "h",
}


class World:
    """Something to wait for in every way, for ever."""

    def __init__(self, name: str) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.ours, self.theirs = socket.socketpair()
        self.read_end, self.write_end = os.pipe()
        self.stdin = open(self.read_end, "rb", buffering=0)  # noqa: SIM115 - closed below
        self.send, self.receive = anyio.create_memory_object_stream[bytes](1)
        self.silent, self.heard = anyio.create_memory_object_stream[bytes](1)
        self.full = os.pipe()
        self.stdout = open(self.full[1], "wb", buffering=0)  # noqa: SIM115 - closed below
        self.wasi = Wasi(
            [WAITS[name]],
            stdin=self.heard if name == "a read from a stream" else self.stdin,
            stdout=self.stdout if name == "a write to a pipe" else self.send,
            listeners=[self.listening],
            sockets=[self.theirs],
        )

    def __enter__(self) -> World:
        return self

    def __exit__(self, *exc: object) -> None:
        streams = self.send, self.receive, self.silent, self.heard
        for thing in (self.listening, self.ours, self.theirs, self.stdin, self.stdout, *streams):
            thing.close()
        os.close(self.write_end)
        os.close(self.full[0])


@pytest.fixture
async def module(anyio_backend: object) -> Module:
    return await Module.from_text(GUEST)


needs_pipes = pytest.mark.skipif(sys.platform == "win32", reason="pipes are not waited for there")


@needs_pipes
@pytest.mark.parametrize("name", WAITS)
async def test_a_scope(module: Module, engine: str, name: str) -> None:
    with World(name) as world:
        async with Store(engine=engine) as store:
            with anyio.move_on_after(0.05) as scope:
                await store.run_command(module, world.wasi)
            assert scope.cancelled_caught
            assert not store.instances  # closed, and forgotten


@needs_pipes
@pytest.mark.parametrize("name", WAITS)
async def test_a_timeout_of_ours(module: Module, engine: str, name: str) -> None:
    with World(name) as world:
        async with Store(engine=engine, limits=Limits(timeout=0.05)) as store:
            with pytest.raises(DeadlineError) as caught:
                await store.run_command(module, world.wasi)
    assert caught.value.result.exit_code == EXIT_DEADLINE
    assert caught.value.result.peak_memory_bytes == 8 << 16


@needs_pipes
@pytest.mark.parametrize("name", WAITS)
async def test_closing(module: Module, engine: str, name: str) -> None:
    with World(name) as world:
        async with Store(engine=engine) as store, anyio.create_task_group() as group:

            async def close() -> None:
                await anyio.sleep(0.05)
                store.close_soon(exit_code=9)

            group.start_soon(close)
            with pytest.raises(ExitError) as caught:
                await store.run_command(module, world.wasi)
    assert caught.value.exit_code == 9


@needs_pipes
@pytest.mark.parametrize("name", WAITS)
async def test_others_run_meanwhile(module: Module, engine: str, name: str) -> None:
    with World(name) as world:
        async with Store(engine=engine) as store:
            ticks = 0
            with anyio.move_on_after(1) as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(store.run_command, module, world.wasi)
                    for _ in range(20):
                        await anyio.sleep(0.001)
                        ticks += 1
                    group.cancel_scope.cancel()
            assert ticks == 20
            assert not scope.cancelled_caught


WRITER = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (global (export "written") (mut i64) (i64.const 0))
  (data (i32.const 0) "\\00\\04\\00\\00\\10\\27\\00\\00")
  (func (export "_start") (loop $again
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)))
    (global.set 0 (i64.add (global.get 0) (i64.load32_u (i32.const 100))))
    (i32.store (i32.const 100) (i32.const 0)) (br $again))))"""


@needs_pipes
@pytest.mark.parametrize("seconds", [0.001, 0.003, 0.01, 0.02])
async def test_nothing_that_was_reported_as_written_is_lost(engine: str, seconds: float) -> None:
    """However a writer is cut off, the reader gets at least what the guest was told it had written."""
    module = await Module.from_text(WRITER)
    reading, writing = os.pipe()
    with open(reading, "rb") as reader:
        with open(writing, "wb", buffering=0) as file:
            async with Store(engine=engine) as store, anyio.create_task_group() as group:
                instance = await store.instantiate(module, imports=Wasi(stdout=file).imports(module))
                counter = instance.globals["written"]
                reported = 0

                async def watch() -> None:
                    nonlocal reported
                    while instance.exit_code is None:
                        reported = counter.value
                        await anyio.sleep(0)

                group.start_soon(watch)
                with anyio.move_on_after(seconds):
                    await instance.exports["_start"]()
                group.cancel_scope.cancel()
        assert len(reader.read()) >= reported


async def test_the_result_so_far(compile_c, engine: str) -> None:
    program = compile_c(
        "#include <stdio.h>\n#include <unistd.h>\n"
        'int main(void) { puts("so far"); fflush(stdout); for (;;) sleep(100); }'
    )
    with pytest.raises(DeadlineError) as caught:
        await run_command(program, timeout=0.3, engine=engine, fs={"/": MemFS()})
    assert caught.value.result.stdout == b"so far\n"
    assert caught.value.exit_code == EXIT_DEADLINE != EXIT_CANCELLED
