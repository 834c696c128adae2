"""The adapter of aiowasm for the runner of the upstream conformance suite.

    ./run-tests --runtime path/to/aiowasm/tests/wasi/suite_adapter.py      (in a checkout of WebAssembly/wasi-testsuite)

The runner needs Python 3.12. AIOWASM names the command to run, by default `python -m aiowasm` with that Python;
AIOWASM_OPTIONS are options of `aiowasm run`, such as `--engine interpreter`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

AIOWASM = shlex.split(os.environ.get("AIOWASM", "")) or [sys.executable, "-m", "aiowasm"]
OPTIONS = shlex.split(os.environ.get("AIOWASM_OPTIONS", ""))


def get_name() -> str:
    return "aiowasm"


def get_version() -> str:
    result = subprocess.run([*AIOWASM, "version"], capture_output=True, encoding="utf-8", check=True)
    return result.stdout.splitlines()[0].removeprefix("aiowasm ")


def get_wasi_versions() -> list[str]:
    return ["wasm32-wasip1"]


def get_wasi_worlds() -> list[str]:
    return ["wasi:cli/command"]


def get_timeout_seconds() -> float:
    return 60.0


def compute_argv(
    test_path: str,
    args_env_root: tuple[list[str], dict[str, str], str | None],
    proposals: list[str],
    wasi_world: str,
    wasi_version: str,
) -> list[str]:
    args, env, root = args_env_root
    argv = [*AIOWASM, "run", *OPTIONS]
    for name, value in env.items():
        argv += ["--env", f"{name}={value}"]
    if root:
        argv += ["--dir", f"{root}::/"]
    return [*argv, test_path, *args]
