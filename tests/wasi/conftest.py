"""What the tests of WASI share: event loops, the upstream suite, guests made from text and from C."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aiowasm.store.engines import available

SUITE_HELP = (
    "WASI_TESTSUITE is not set; get the upstream suite with "
    "`git clone --branch prod/testsuite-base https://github.com/WebAssembly/wasi-testsuite` "
    "and set WASI_TESTSUITE to that folder"
)
ZIG_HELP = "ziglang is not installed; get it with `pip install ziglang`"

Compile = Callable[..., bytes]


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("trio", {}), id="trio"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    return request.param


@pytest.fixture(params=available())
def engine(request: pytest.FixtureRequest) -> str:
    """The name of an engine."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def wasi_testsuite() -> Path:
    """The folder of the upstream conformance suite of WASI."""
    value = os.environ.get("WASI_TESTSUITE")
    if not value:
        pytest.skip(SUITE_HELP)
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"WASI_TESTSUITE is {value!r}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """A function from C source to a WASI program."""
    try:
        import ziglang  # noqa: F401, PLC0415 - it is an executable in a package
    except ImportError:
        if os.environ.get("CI"):
            pytest.fail(ZIG_HELP)
        pytest.skip(ZIG_HELP)
    folder = tmp_path_factory.mktemp("zig")
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(folder / "global"), "ZIG_LOCAL_CACHE_DIR": str(folder / "local")}
    compiled: dict[tuple[str, tuple[str, ...]], bytes] = {}

    def compile_source(source: str, *flags: str) -> bytes:
        key = (source, flags)
        if key not in compiled:
            program = folder / f"program{len(compiled)}"
            program.with_suffix(".c").write_text(source, encoding="utf-8")
            command = [sys.executable, "-m", "ziglang", "cc", "--target=wasm32-wasi", "-Os", *flags]
            result = subprocess.run(
                [*command, "-o", f"{program}.wasm", f"{program}.c"],
                env={**os.environ, **caches},
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            if result.returncode:
                pytest.fail(f"the C compiler failed:\n{result.stderr}")
            compiled[key] = Path(f"{program}.wasm").read_bytes()
        return compiled[key]

    return compile_source
