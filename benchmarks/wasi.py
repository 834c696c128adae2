"""WASI beside wasmtime-py, in one process: piping and hashing a large file, creating and listing many files.

    python benchmarks/wasi.py [--engine auto|native|interpreter] [--megabytes N] [--files N]

Prints the times, their ratio, and what cancelling costs: the longest time from the cancellation of a scope to the end
of a guest that reads, sleeps or writes. Programs are C, compiled with ziglang; both runtimes run the same bytes,
compiled before the clock starts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import wasmtime

from aiowasm import Module, Store
from aiowasm.host.wasi import HostDir, Wasi

CAT = r"""
#include <stdio.h>
#include <unistd.h>
static char block[65536];
int main(void) {
    ssize_t n;
    while ((n = read(0, block, sizeof block)) > 0)
        for (ssize_t done = 0; done < n;) done += write(1, block + done, n - done);
    return n < 0;
}
"""

HASH = r"""
#include <stdint.h>
#include <stdio.h>
#include <fcntl.h>
#include <unistd.h>
static uint64_t block[8192];
int main(void) {
    uint64_t hash = 14695981039346656037u;
    ssize_t n;
    int fd = open("/input", O_RDONLY);
    while ((n = read(fd, block, sizeof block)) > 0)
        for (ssize_t i = 0; i < n / 8; i++) hash = (hash ^ block[i]) * 1099511628211u;
    printf("%016llx\n", (unsigned long long)hash);
}
"""

FILES = r"""
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char path[64];
    int count = atoi(argv[1]), seen = 0;
    mkdir("/files", 0777);
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "/files/%05d", i);
        close(open(path, O_CREAT | O_WRONLY, 0666));
    }
    DIR *directory = opendir("/files");
    while (readdir(directory)) seen++;
    closedir(directory);
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "/files/%05d", i);
        unlink(path);
    }
    rmdir("/files");
    return seen != count + 2;
}
"""

WAIT = r"""
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
    static char block[65536];
    for (;;)
        if (argv[1][0] == 'r') read(0, block, sizeof block);
        else if (argv[1][0] == 's') sleep(1000);
        else write(1, block, sizeof block);
}
"""


def build(source: str, folder: Path, name: str) -> bytes:
    """Compile C to a WASI program."""
    (folder / f"{name}.c").write_text(source)
    subprocess.run(
        [sys.executable, "-m", "ziglang", "cc", "--target=wasm32-wasi", "-O2", "-o", f"{name}.wasm", f"{name}.c"],
        cwd=folder,
        check=True,
    )
    return (folder / f"{name}.wasm").read_bytes()


def theirs(
    engine: wasmtime.Engine, module: wasmtime.Module, args: list[str], root: Path, stdin: Path, stdout: Path
) -> None:
    """Run a program under wasmtime-py."""
    store = wasmtime.Store(engine)
    wasi = wasmtime.WasiConfig()
    wasi.argv = args
    wasi.stdin_file = str(stdin)
    wasi.stdout_file = str(stdout)
    wasi.preopen_dir(str(root), "/")
    store.set_wasi(wasi)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    instance = linker.instantiate(store, module)
    try:
        instance.exports(store)["_start"](store)
    except wasmtime.ExitTrap as trap:
        if trap.code:
            raise


async def ours(engine: str, module: Module, args: list[str], root: Path, stdin: Path, stdout: Path) -> None:
    """Run a program under aiowasm."""
    with stdin.open("rb", buffering=0) as source, stdout.open("wb", buffering=0) as target:
        async with Store[None](engine=engine) as store:
            wasi = Wasi(args, stdin=source, stdout=target, fs={"/": HostDir(root)})
            result = await store.run_command(module, wasi)
            if result.exit_code:
                raise SystemExit(f"exit code {result.exit_code}: {result.stderr!r}")


async def compare(name: str, engine: str, program: bytes, args: list[str], root: Path, repeats: int) -> None:
    """Run a program under both, a few times in turns, and print the best times."""
    module = await Module.from_bytes(program)
    their_engine = wasmtime.Engine()
    their_module = wasmtime.Module(their_engine, program)
    best_ours = best_theirs = float("inf")
    outputs: list[bytes] = []
    for _ in range(repeats):
        start = time.perf_counter()
        theirs(their_engine, their_module, args, root, root / "input", root / "theirs")
        middle = time.perf_counter()
        await ours(engine, module, args, root, root / "input", root / "ours")
        best_theirs = min(best_theirs, middle - start)
        best_ours = min(best_ours, time.perf_counter() - middle)
        outputs = [(root / "theirs").read_bytes(), (root / "ours").read_bytes()]
    same = "same output" if outputs[0] == outputs[1] else "OUTPUT DIFFERS"
    print(f"{name:32} {best_ours:9.3f} s {best_theirs:9.3f} s {best_ours / best_theirs:7.2f}   {same}", flush=True)


async def cancel(engine: str, program: bytes) -> None:
    """Print how long it takes to cancel a guest that waits."""
    module = await Module.from_bytes(program)
    for what in ("read", "sleep", "write"):
        worst = 0.0
        for _ in range(20):
            reading, writing = os.pipe()
            with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb") as target:
                async with Store[None](engine=engine) as store:
                    wasi = Wasi(["wait", what], stdin=source, stdout=target)
                    with anyio.CancelScope() as scope:
                        async with anyio.create_task_group() as group:
                            group.start_soon(store.run_command, module, wasi)
                            await anyio.sleep(0.03)
                            start = time.perf_counter()
                            scope.cancel()
                    worst = max(worst, time.perf_counter() - start)
        print(f"cancelling a {what:8} {worst * 1000:9.3f} ms (the longest of 20)", flush=True)


async def main(options: argparse.Namespace) -> None:
    """Run all comparisons."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = folder / "root"
        root.mkdir()
        build_one: Callable[[str, str], bytes] = lambda source, title: build(source, folder, title)  # noqa: E731
        chunk = os.urandom(1 << 20)
        with (root / "input").open("wb") as file:
            for _ in range(options.megabytes):
                file.write(chunk)
        print(f"{'':32} {'aiowasm':>11} {'wasmtime':>11} {'ratio':>7}")
        cat, hashing = build_one(CAT, "cat"), build_one(HASH, "hash")
        files, wait = build_one(FILES, "files"), build_one(WAIT, "wait")
        mb = options.megabytes
        await compare(f"cat {mb} MB, 64 KiB blocks", options.engine, cat, ["cat"], root, options.repeats)
        await compare(
            f"create and list {options.files} files",
            options.engine,
            files,
            ["files", str(options.files)],
            root,
            options.repeats,
        )
        if not options.no_hash:
            await compare(f"hash {mb} MB", options.engine, hashing, ["hash"], root, 1)
        await cancel(options.engine, wait)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="auto", choices=["auto", "native", "interpreter"])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-hash", action="store_true", help="leave out what is mostly computing")
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "trio"])
    arguments = parser.parse_args()
    anyio.run(main, arguments, backend=arguments.backend)
