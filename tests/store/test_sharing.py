"""Stores of several threads share a module: what they compile and remember of it is not mixed up."""

from __future__ import annotations

import subprocess
import sys

# Functions with all that is made of code: rules of the engine, exceptions, loops that get hot.
SCRIPT = """
import sys, threading
import anyio
from aiowasm import Module, Store

N = 120
EACH = '''(func (export "f%d") (param i32) (result i32) (local i32)
  (memory.fill (i32.const 0) (i32.const 1) (i32.const 1)) (drop (table.get (i32.const 0)))
  (block (try_table (catch $t 0) (throw $t)))
  (loop (br_if 0 (i32.gt_u (i32.const 300) (local.tee 1 (i32.add (local.get 1) (i32.const 1))))))
  local.get 0 i32.const %d i32.add %s)'''
TEXT = "(module (memory 1) (table 10 funcref) (tag $t)" + "".join(
    EACH % (n, 1000 + n, "i32.const 1 i32.add " * (n % 50)) for n in range(N)
) + ")"

async def work(module, number, wrong):
    async with Store(engine=sys.argv[1]) as store:
        guest = await store.instantiate(module)
        for n in list(range(N))[:: 1 if number % 2 else -1]:
            for _ in range(3):
                if await guest.exports[f"f{n}"](5) != 1005 + n + n % 50:
                    wrong.append((number, n))

def thread(module, number, wrong):
    try:
        anyio.run(work, module, number, wrong)
    except BaseException as error:
        wrong.append((number, repr(error)))

async def made():
    return await Module.from_text(TEXT, validation="lazy")

module, wrong = anyio.run(made), []
sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=thread, args=(module, number, wrong)) for number in range(4)]
for each in threads:
    each.start()
for each in threads:
    each.join()
print(wrong)
"""


def test_stores_of_several_threads_share_a_module(engine: str) -> None:
    for _ in range(3):  # in new processes: what they do first is part of it
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, engine], capture_output=True, text=True, timeout=120, check=False
        )
        assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
