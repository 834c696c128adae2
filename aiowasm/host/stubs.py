"""Stand-ins for functions that nobody provides: programs often import more than they use.

A function that is missing is a LinkError, as the standard says. These are for those who know that theirs is not called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from aiowasm.errors import Trap, TrapCode
from aiowasm.host.module import HostModule
from aiowasm.host.wasi.abi import SNAPSHOTS
from aiowasm.store.definitions import HostFunction
from aiowasm.store.module import Module
from aiowasm.syntax.types import FuncType

__all__ = ("stub_imports",)


def stub_imports(module: Module) -> dict[str, HostModule]:
    """Return host modules with every function that *module* imports, those of WASI left out: all a call does is trap.

    What is really there goes on top: `imports={**stub_imports(module), "env": env}`.
    """
    stubs: dict[str, HostModule] = {}
    for entry in module.imports:
        if not isinstance(entry.type, FuncType) or entry.kind != "func" or entry.module in SNAPSHOTS:
            continue
        host = stubs.setdefault(entry.module, HostModule(entry.module))
        if entry.name not in host.definitions:
            unsigned = (False,) * len(entry.type.params)
            trap = _trap(f"(unknown import: {entry.module}.{entry.name})")
            host.define(HostFunction(entry.name, entry.type, trap, False, False, 0, unsigned))
    return stubs


def _trap(detail: str) -> Callable[..., NoReturn]:
    def trap(*_arguments: object) -> NoReturn:
        raise Trap(TrapCode.UNREACHABLE, detail)

    return trap
