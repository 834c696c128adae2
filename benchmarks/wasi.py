"""WASI beside wasmtime-py, in one process: piping and hashing a large file, creating and listing many files.

    python benchmarks/wasi.py [--engine auto|native|interpreter] [--megabytes N] [--files N] [WHAT ...]

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
from pathlib import Path

import anyio
import wasmtime

from aiowasm import Module, Store
from aiowasm.host.wasi import HostDir, Wasi

WHAT = ("cat", "files", "hash", "sha256", "wait")

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

SHA256 = r"""
#include <stdint.h>
#include <stdio.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#define ROTR(x, n) ((x) >> (n) | (x) << (32 - (n)))
static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
static uint32_t state[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
static void compress(const uint8_t *p) {
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++) {
        uint32_t word;
        memcpy(&word, p + 4 * i, 4);
        w[i] = __builtin_bswap32(word);
    }
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (ROTR(a, 7) ^ ROTR(a, 18) ^ a >> 3) + w[i - 7] + (ROTR(b, 17) ^ ROTR(b, 19) ^ b >> 10);
    }
    memcpy(s, state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t t1 = s[7] + K[i] + w[i];
        t1 += (ROTR(s[4], 6) ^ ROTR(s[4], 11) ^ ROTR(s[4], 25)) + (s[6] ^ (s[4] & (s[5] ^ s[6])));
        uint32_t t2 = (ROTR(s[0], 2) ^ ROTR(s[0], 13) ^ ROTR(s[0], 22)) + ((s[0] & s[1]) | (s[2] & (s[0] | s[1])));
        s[7] = s[6]; s[6] = s[5]; s[5] = s[4]; s[4] = s[3] + t1; s[3] = s[2]; s[2] = s[1]; s[1] = s[0]; s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) state[i] += s[i];
}
static uint8_t block[65536];
int main(void) {
    uint64_t total = 0;
    ssize_t n;
    int fd = open("/input", O_RDONLY);
    while ((n = read(fd, block, sizeof block)) > 0) {
        for (ssize_t i = 0; i + 64 <= n; i += 64) compress(block + i);
        total += n;
    }
    memset(block, 0, 64);
    block[0] = 0x80;
    for (int i = 0; i < 8; i++) block[63 - i] = total * 8 >> 8 * i;
    compress(block);  /* the file is made of whole blocks */
    for (int i = 0; i < 8; i++) printf("%08x", state[i]);
    printf("\n");
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
        chunk = os.urandom(1 << 20)
        with (root / "input").open("wb") as file:
            for _ in range(options.megabytes):
                file.write(chunk)
        print(f"{'':32} {'aiowasm':>11} {'wasmtime':>11} {'ratio':>7}")
        mb = options.megabytes
        sized = str(options.files)
        for what, source, title, args in (
            ("cat", CAT, f"cat {mb} MB, 64 KiB blocks", []),
            ("files", FILES, f"create and list {sized} files", [sized]),
            ("hash", HASH, f"hash {mb} MB, words of FNV-1a", []),
            ("sha256", SHA256, f"hash {mb} MB, SHA-256", []),
        ):
            if what in options.what:
                program = build(source, folder, what)
                await compare(title, options.engine, program, [what, *args], root, options.repeats)
        if "wait" in options.what:
            await cancel(options.engine, build(WAIT, folder, "wait"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="auto", choices=["auto", "native", "interpreter"])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("what", nargs="*", default=WHAT, metavar="WHAT", help=f"{', '.join(WHAT)}; all by default")
    parser.add_argument("--backend", default="asyncio", choices=["asyncio", "trio"])
    arguments = parser.parse_args()
    anyio.run(main, arguments, backend=arguments.backend)
