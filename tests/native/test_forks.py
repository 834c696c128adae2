"""Processes that fork: a module that parent and children share is compiled by each for itself."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from aiowasm.engine.native import Native

NFUNCTIONS = 60

SCRIPT = f"""
import os
import anyio
from aiowasm import Module, Store

EACH = '(func (export "f%d") (result i32) i32.const %d %s)'
TEXT = "(module " + "".join(EACH % (n, 1000 + n, "i32.const 1 i32.add " * n) for n in range({NFUNCTIONS})) + ")"

async def call(module, numbers, again=()):
    # What a function returns says whether its code is its own.
    async with Store(engine="native") as store:
        guest = await store.instantiate(module)
        for n in [*numbers, *again, *numbers]:
            if await guest.exports[f"f{{n}}"]() != 1000 + 2 * n:
                return False
    return True

async def made():
    return await Module.from_text(TEXT, validation="lazy")

module = anyio.run(made)
fine = anyio.run(call, module, range(0, 10))
children = []
for number in range(2):
    ready, told = os.pipe()
    go, start = os.pipe()
    pid = os.fork()
    if not pid:
        good = anyio.run(call, module, range(10 + 20 * number, 30 + 20 * number), range(0, 10))
        os.write(told, b"1" if good else b"0")
        os.read(go, 1)
        # The parent and the other child have compiled others meanwhile.
        os._exit(not (good and anyio.run(call, module, range(10 + 20 * number, 30 + 20 * number))))
    fine = os.read(ready, 1) == b"1" and fine
    children.append((pid, start))
fine = anyio.run(call, module, range(50, {NFUNCTIONS}), range(0, 50)) and fine
for pid, start in children:
    os.write(start, b"1")
    fine = not os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) and fine
print(anyio.run(call, module, range({NFUNCTIONS})) and fine)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_children_compile_what_is_theirs(native: Native) -> None:
    assert native.name == "native"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
