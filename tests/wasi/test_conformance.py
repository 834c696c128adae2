"""The upstream conformance suite: every program of it, on both file systems and both event loops."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from aiowasm import Module, Store
from aiowasm.host.wasi import FileSystem, HostDir, MemFS, Wasi

PATTERN = "tests/*/testsuite/wasm32-wasip1/*.wasm"
COUNT = 72


def programs() -> list[str]:
    folder = os.environ.get("WASI_TESTSUITE")
    return sorted(str(path.relative_to(folder)) for path in Path(folder).glob(PATTERN)) if folder else ["unset"]


def contents(folder: Path) -> dict[str, object]:
    return {path.name: contents(path) if path.is_dir() else path.read_bytes() for path in folder.iterdir()}


def test_the_suite_is_complete(wasi_testsuite: Path) -> None:
    assert len(list(wasi_testsuite.glob(PATTERN))) >= COUNT


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["HostDir", "MemFS"])
@pytest.mark.parametrize("program", programs())
async def test_program(wasi_testsuite: Path, program: str, kind: str, engine: str, tmp_path: Path) -> None:
    path = wasi_testsuite / program
    description = path.with_suffix(".json")
    config = json.loads(description.read_text(encoding="utf-8")) if description.exists() else {}
    assert "operations" not in config, "a kind of test that this runner does not know"
    fs: dict[str, FileSystem] = {}
    if config.get("root"):
        root = tmp_path / "root"
        shutil.copytree(path.parent / config["root"], root)
        fs["/"] = HostDir(root) if kind == "HostDir" else MemFS(contents(root))
    # Only what POSIX says will do where the suite knows of other systems too.
    strict = {"ERRNO_MODE_UNIX": "1"} if "/rust/" in f"/{program}" else {}
    wasi = Wasi([path.name, *config.get("args", [])], {**config.get("env", {}), **strict}, fs=fs)
    async with Store(engine=engine) as store:
        result = await store.run_command(await Module.from_file(path, validation="lazy"), wasi)
    assert result.exit_code == config.get("exit_code", 0), result.stderr.decode()
    if "stdout" in config:
        assert result.stdout.decode() == config["stdout"]
