"""How long modules that are large in one way hold up an event loop, and the memory that they take.

    python benchmarks/stalls.py [word of a name...]

"steps": the longest step of decoding and of validating with all records made, in processor time; the goal is 5 ms.
"loop": the longest gap, in processor time, between two turns of an idle asyncio loop while the module is loaded
(validated lazily), instantiated and its export `f` first called: what a program sees; the bound is 10 ms,
in the median of runs. Memory is the growth of the process, in times of the input's size beyond 20 MB; the bound is 100.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

import aiowasm
from aiowasm.binary.decoder import decode_steps
from aiowasm.errors import InvalidError, MalformedError
from aiowasm.features import ALL
from aiowasm.syntax.leb128 import write_s, write_u
from aiowasm.validation.module import validate_module_steps

REPEATS = 3


def u(value: int) -> bytes:
    """An unsigned number."""
    out = bytearray()
    write_u(out, value)
    return bytes(out)


def s(value: int) -> bytes:
    """A signed number."""
    out = bytearray()
    write_s(out, value)
    return bytes(out)


def module(*sections: tuple[int, bytes]) -> bytes:
    """A module of these sections."""
    return b"\0asm\1\0\0\0" + b"".join(bytes([number]) + u(len(data)) + data for number, data in sections)


def vector(count: int, data: bytes) -> bytes:
    """A vector whose elements are encoded in *data*."""
    return u(count) + data


NOTHING = b"\x60\0\0"


def function(body: bytes, types: bytes = NOTHING, ntypes: int = 1, locals_: bytes = b"\0") -> bytes:
    """A module of one function of the first type, exported as f."""
    code = locals_ + body + b"\x0b"
    return module(
        (1, vector(ntypes, types)),
        (3, vector(1, b"\0")),
        (5, b"\x01\x00\x01"),
        (7, vector(1, b"\x01f\x00\x00")),
        (10, vector(1, u(len(code)) + code)),
    )


def wide(results: int) -> bytes:
    """A function type of many results."""
    return b"\x60\0" + vector(results, b"\x7f" * results)


CASES: dict[str, Callable[[], bytes]] = {
    "straight 5 MB": lambda: function(b"\x41\x01\x1a" * 1_700_000),
    "straight 5 MB of sums": lambda: function(b"\x20\x00\x20\x00\x6a\x21\x00" * 720_000, locals_=b"\x01\x01\x7f"),
    "straight 5 MB of large numbers": lambda: function(b"\x41\x80\x80\x04\x1a" * 1_000_000),
    "straight 5 MB of nop": lambda: function(b"\x01" * 5_000_000),
    "straight 5 MB of stores": lambda: function(b"\x41\x00\x41\x01\x36\x02\x80\x01" * 620_000),
    "deep operands": lambda: function(b"\x41\x01" * 900_000 + b"\x1a" * 900_000),
    "50,000 locals in a loop": lambda: function(
        b"\x03\x40" + b"\x20\xcf\x86\x03\x1a" * 100 + b"\x0b", locals_=b"\x01\xd0\x86\x03\x7f"
    ),
    "100,000 functions": lambda: module(
        (1, vector(1, NOTHING)),
        (3, vector(100_000, b"\0" * 100_000)),
        (7, vector(1, b"\x01f\x00\x00")),
        (10, vector(100_000, b"\x02\x00\x0b" * 100_000)),
    ),
    "100,000 functions of 50,000 references": lambda: module(
        (1, vector(1, NOTHING)),
        (3, vector(100_000, b"\0" * 100_000)),
        (10, vector(100_000, b"\x07\x01\xd0\x86\x03\x64\x00\x0b" * 100_000)),
    ),
    "blocks": lambda: function(b"\x02\x40\x0b" * 1_000_000),
    "loops": lambda: function(b"\x03\x40\x0b" * 1_000_000),
    "ifs": lambda: function(b"\x41\x00\x04\x40\x0b" * 600_000),
    "nested blocks": lambda: function(b"\x02\x40" * 90_000 + b"\x0b" * 90_000),
    "br_table of a million labels": lambda: function(b"\x41\x00\x0e" + u(900_000) + b"\0" * 900_001),
    "br_table of wide labels": lambda: function(
        b"\x02\x40" * 300 + b"\x41\x00\x0e" + u(900_000) + b"\x80\x02" * 900_001 + b"\x0b" * 300
    ),
    "try_table of many clauses": lambda: function(b"\x1f\x40" + u(900_000) + b"\x02\x00" * 900_000 + b"\x0b"),
    "select of many types": lambda: function(b"\x1c" + u(900_000) + b"\x7f" * 900_000),
    "unreachable calls": lambda: function(
        b"\x00" + b"\x10\x00" * 500_000, types=b"\x60" + vector(1000, b"\x7f" * 1000) + b"\x00"
    ),
    "calls with many results": lambda: function(b"\x10\x00" * 900 + b"\x00", types=wide(1000)),
    "dropped results": lambda: function((b"\x10\x00" + b"\x1a" * 1000) * 3000 + b"\x00", types=wide(1000)),
    "one data segment of 20 MB": lambda: module(
        (5, b"\x01\x00\x01"), (11, b"\x01\x01" + u(20_000_000) + b"x" * 20_000_000)
    ),
    "100,000 data segments": lambda: module(
        (5, b"\x01\x00\x01"), (11, vector(100_000, b"\x00\x41\x00\x0b\x01x" * 100_000))
    ),
    "elem segment of 2,000,000 functions": lambda: module(
        (1, vector(1, NOTHING)),
        (3, vector(1, b"\0")),
        (4, b"\x01\x70\x00\x01"),
        (9, b"\x01\x01\x00" + u(2_000_000) + b"\0" * 2_000_000),
        (10, b"\x01\x02\x00\x0b"),
    ),
    "elem segment of 500,000 expressions": lambda: module(
        (4, b"\x01\x70\x00\x01"), (9, b"\x01\x05\x70" + u(500_000) + b"\xd0\x70\x0b" * 500_000)
    ),
    "500,000 element segments": lambda: module(
        (4, b"\x01\x70\x00\x01"), (9, vector(500_000, b"\x01\x00\x00" * 500_000))
    ),
    "200,000 globals": lambda: module((6, vector(200_000, b"\x7f\x00\x41\x00\x0b" * 200_000))),
    "a constant expression of 2 MB": lambda: module((6, b"\x01\x7f\x00\x41\x00" + b"\x41\x01\x6a" * 700_000 + b"\x0b")),
    "200,000 exports": lambda: module(
        (5, b"\x01\x00\x01"),
        (7, vector(200_000, b"".join(u(len(str(i))) + str(i).encode() + b"\x02\x00" for i in range(200_000)))),
    ),
    "200,000 imports": lambda: module((2, vector(200_000, b"\x01a\x01b\x03\x7f\x00" * 200_000))),
    "200,000 equal types": lambda: module((1, vector(200_000, b"\x60\x01\x7f\x00" * 200_000))),
    "100,000 different types": lambda: module(
        (1, vector(100_000, b"".join(b"\x60\x01\x63" + s(max(i - 1, 0)) + b"\x01\x7f" for i in range(100_000))))
    ),
    "2,000 types of 1,000 parameters": lambda: module(
        (
            1,
            vector(
                2000,
                b"".join(
                    b"\x60" + vector(1000, b"\x7f" * 990 + bytes(0x7F - (i >> j & 1) for j in range(10))) + b"\0"
                    for i in range(2000)
                ),
            ),
        )
    ),
    "300 structures of 10,000 fields": lambda: module(
        (
            1,
            vector(
                300,
                b"".join(
                    b"\x5f"
                    + vector(
                        10_000,
                        b"\x7f\x00" * 9990
                        + bytes([0x7F, 0, 0x7E, 1][i >> j & 1 and 2 :][k] for j in range(10) for k in (0, 1)),
                    )
                    for i in range(300)
                ),
            ),
        )
    ),
    "structures made of 10,000 fields": lambda: function(
        b"\x00" + b"\xfb\x00\x01\x1a" * 1_000_000,
        types=NOTHING + b"\x5f" + vector(10_000, b"\x7f\x00" * 10_000),
        ntypes=2,
    ),
    "a group of 100,000 types": lambda: module((1, b"\x01\x4e" + vector(100_000, b"\x5f\x01\x63\x05\x00" * 100_000))),
    "10,000 custom sections": lambda: module(*[(0, b"\x01a" + b"x" * 100)] * 10_000),
    "a name section of 5 MB": lambda: module((0, b"\x04name\x01" + u(4_999_000) + vector(600_000, b"\0"))),
}


def measure(data: bytes) -> tuple[float, float, str]:
    """The longest step and all of them, in seconds, and how it ended."""
    longest = 0.0

    def drive(steps: Generator[None, None, object]) -> object:
        nonlocal longest
        while True:
            start = time.process_time()
            try:
                next(steps)
            except StopIteration as stop:
                longest = max(longest, time.process_time() - start)
                return stop.value
            longest = max(longest, time.process_time() - start)

    start = time.process_time()
    try:
        decoded = drive(decode_steps(data, ALL))
        drive(validate_module_steps(decoded, ALL))  # type: ignore[arg-type]
        outcome = "valid"
    except (MalformedError, InvalidError) as error:
        outcome = str(error)[:40]
    return longest, time.process_time() - start, outcome


def resident_nbytes(field: str) -> int:
    """The memory of this process (Linux): now, VmRSS, or at most so far, VmHWM."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(field + ":")[2].split()[0]) * 1024


async def gaps(data: bytes) -> tuple[float, float, str]:
    """The longest gaps of an idle loop while *data* is loaded, and while it is instantiated and called."""
    longest = 0.0
    done = False

    async def tick() -> None:
        nonlocal longest
        last = time.process_time()
        while not done:
            await anyio.sleep(0)
            now = time.process_time()
            longest = max(longest, now - last)
            last = now

    engine = os.environ.get("AIOWASM_ENGINE", "interpreter")
    async with anyio.create_task_group() as tasks, aiowasm.Store(engine=engine) as store:
        tasks.start_soon(tick)
        await anyio.sleep(0.01)
        longest = 0.0
        loaded = await aiowasm.Module.from_bytes(data, features=ALL, validation="lazy")
        await anyio.sleep(0.001)  # the gap that the last step made ends with the ticker's next turn
        loading, longest = longest, 0.0
        outcome = "returned"
        try:
            instance = await store.instantiate(loaded)
            await instance.exports.f(*[0] * len(instance.exports.f.type.params))
        except aiowasm.AiowasmError as error:
            outcome = str(error).partition("\n")[0]
        await anyio.sleep(0.001)
        calling = longest
        done = True
    return loading, calling, outcome


def report_steps(name: str, data: bytes) -> None:
    """Measure the steps of one case."""
    before = resident_nbytes("VmRSS")
    first = measure(data)
    memory = _memory(before, len(data))
    runs = sorted([first, *(measure(data) for _ in range(REPEATS - 1 if first[1] < 2 else 0))])
    longest, total, outcome = runs[len(runs) // 2]
    print(f"{name:38} steps: {1000 * longest:7.2f} ms of {total:5.2f} s; {memory}; {outcome}", flush=True)


def report_gaps(name: str, data: bytes) -> None:
    """Measure the gaps of one case."""
    before = resident_nbytes("VmRSS")
    runs = [anyio.run(gaps, data)]
    memory = _memory(before, len(data))
    runs += [anyio.run(gaps, data) for _ in range(REPEATS - 1)]
    loading, calling = (sorted(run[at] for run in runs)[len(runs) // 2] for at in (0, 1))
    print(
        f"{name:38} loop: {1000 * loading:7.2f} ms loading, {1000 * calling:7.2f} ms called; {memory}; {runs[0][2]}",
        flush=True,
    )


def _memory(before: int, nbytes: int) -> str:
    peak = resident_nbytes("VmHWM") - before
    times = max(0.0, (peak - 20e6) / nbytes)
    return f"{nbytes / 1e6:5.2f} MB take {peak / 1e6:6.1f} MB, {times:5.1f} times"


def main() -> None:
    """Measure every case, or those whose names have a word of the command line in them."""
    if sys.argv[1:2] == ["--one"]:
        # In a process of its own, for the memory.
        what, name, path = sys.argv[2:]
        (report_gaps if what == "loop" else report_steps)(name, Path(path).read_bytes())
        return
    with TemporaryDirectory() as folder:
        path = Path(folder, "case.wasm")
        for name, make in CASES.items():
            if not sys.argv[1:] or any(word in name for word in sys.argv[1:]):
                data = make()
                path.write_bytes(data)
                for what in ("steps", "loop") if b"\x01f\x00\x00" in data else ("steps",):
                    subprocess.run([sys.executable, __file__, "--one", what, name, str(path)], check=False)


if __name__ == "__main__":
    main()
