"""Twelve faults, seeded one at a time into a copy of the store: each must turn a test red.

`test_mutants.py` runs them; by itself, `python -m tests.store.mutants` prints what each fault breaks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
TIMEOUT_SECONDS = 60  # a test that hangs has noticed too


@dataclass(frozen=True)
class Fault:
    """In *file* of the store *old* becomes *new*; *tests* (of a file, by name) are those that must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    chosen: str = "asyncio and not uvloop and not eager"


FAULTS = (
    Fault(
        "a lost wake-up: who gives up its place wakes nobody",
        "group.py",
        "        self.queue.remove(waiter)\n        self.wake()\n",
        "        self.queue.remove(waiter)\n",
        "test_schedules.py",
        "test_shuffled and 0",
    ),
    Fault(
        "a hand-over lost: who is cancelled with the lock keeps it",
        "group.py",
        "        if waiter.granted:\n            self.leave(activation)\n",
        "        if waiter.granted:\n            pass\n",
        "test_groups.py",
        "native_cancellation_at_the_hand_over and asyncio",
    ),
    Fault(
        "a skipped abort: torn instances stay open",
        "drive.py",
        "    for instance in activation.live_instances():\n        instance.shut(code, cause)\n    if isinstance",
        "    if isinstance",
        "test_outcomes.py",
        "cancellation_in_a_slice and asyncio",
    ),
    Fault(
        "a double release: whoever leaves gives the baton away, also one it does not have",
        "gate.py",
        "        if self.holder is not turn:\n            return\n",
        "",
        "test_gate.py",
        "asyncio and not uvloop",
    ),
    Fault(
        "a name not freed",
        "namespace.py",
        "            del self._names[instance.name]\n",
        "            pass\n",
        "test_first_steps.py",
        "names_are_claimed and asyncio",
    ),
    Fault(
        "a close that forgets an instance",
        "namespace.py",
        "        for instance in reversed(self._instances.copy()):\n",
        "        for instance in list(reversed(self._instances.copy()))[1:]:\n",
        "test_outcomes.py",
        "errors_of_closing and asyncio",
    ),
    Fault(
        "the last exit code wins",
        "instance.py",
        "        if self.exit is not None:\n            return\n        self.exit = error",
        "        self.exit = error",
        "test_outcomes.py",
        "closing_a_yielded and asyncio",
    ),
    Fault(
        "closing leaves host functions waiting",
        "activation.py",
        "            self.scope.cancel()\n",
        "            pass\n",
        "test_outcomes.py",
        "closing_a_call_in_a_host_await and asyncio",
    ),
    Fault(
        "a guest goes on while a call nested in it is not over",
        "drive.py",
        "    while activation.children:\n",
        "    while False:\n",
        "test_groups.py",
        "outer_call_waits and asyncio",
    ),
    Fault(
        "two activations run in one group: the lock is open in host calls to everyone",
        "group.py",
        "        return inside and activation.descends_from(top)\n",
        "        return inside\n",
        "test_groups.py",
        "(queue_in_order or shadow_stack) and asyncio",
    ),
    Fault(
        "fuel of nested calls is not charged to the outer call's tanks",
        "activation.py",
        "                self.tanks = parent.tanks\n",
        "                pass\n",
        "test_limits.py",
        "nested_calls_draw and asyncio",
    ),
    Fault(
        "a call goes on below one that is nested in it",
        "group.py",
        "        if parent is not None and activation not in (parent.children or ()):\n",
        "        if False:\n",
        "test_groups.py",
        "a_nested_call_that_has_not_begun and asyncio",
    ),
    Fault(
        "memory of closed instances still counts",
        "instance.py",
        "        owned.account.add(-owned.size, 0)\n",
        "        pass\n",
        "test_limits.py",
        "growth_stops and asyncio",
    ),
)


def notices(fault: Fault) -> bool:
    """Whether a test turns red with *fault* in the store."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "aiowasm", copy / "aiowasm", ignore=ignored)
        (copy / "tests").mkdir()
        shutil.copytree(ROOT / "tests" / "store", copy / "tests" / "store", ignore=ignored)
        shutil.copy(ROOT / "tests" / "conftest.py", copy / "tests")
        shutil.copy(ROOT / "pyproject.toml", copy)
        target = copy / "aiowasm" / "store" / fault.file
        source = target.read_text(encoding="utf-8")
        if source.count(fault.old) != 1:
            raise ValueError(f"{fault.name}: {fault.file} has changed, the fault has no place")
        target.write_text(source.replace(fault.old, fault.new), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no"]
        environment = os.environ | {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                [*command, f"tests/store/{fault.tests}", "-k", fault.chosen],
                cwd=copy,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return True
        if done.returncode not in (0, 1):
            raise RuntimeError(f"{fault.name}: no tests ran: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.returncode == 1


def main() -> None:
    missed = 0
    for fault in FAULTS:
        noticed = notices(fault)
        missed += not noticed
        print(f"{'noticed' if noticed else 'MISSED '}  {fault.name}", flush=True)
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
