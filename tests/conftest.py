"""What all tests share: where the suites are, which are not part of this repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TESTSUITE_HELP = (
    "WASM_TESTSUITE is not set; get the upstream suite with `git clone https://github.com/WebAssembly/testsuite` "
    "and set WASM_TESTSUITE to that folder"
)
KERNELS_HELP = "WASM_KERNELS is not set; set it to a folder of small compiled kernels with their expected results"
SPEC_INDEX_HELP = (
    "WASM_SPEC_INDEX is not set; set it to the folder of instructions.json, the standard's index of instructions "
    "(https://webassembly.github.io/spec/core/appendix/index-instructions.html)"
)


def _folder(variable: str, message: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(message)
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable} is {value!r}, which is not a folder")  # a wrong path must not pass as a skip
    return folder


@pytest.fixture(scope="session")
def testsuite() -> Path:
    """The folder of the WebAssembly core test suite."""
    return _folder("WASM_TESTSUITE", TESTSUITE_HELP)


@pytest.fixture(scope="session")
def kernels() -> Path:
    """The folder of CPU kernels with expected results."""
    return _folder("WASM_KERNELS", KERNELS_HELP)


@pytest.fixture(scope="session")
def spec_index() -> Path:
    """The folder of the standard's instruction index."""
    return _folder("WASM_SPEC_INDEX", SPEC_INDEX_HELP)
