"""Build hook: makes the machine-code stencils of the native engine when a wheel (editable or not) is built.

They need llvmlite at build time only. Without it the wheel has the interpreter alone, and this says so. They are made
for this machine, or for those that AIOWASM_MACHINES names ("x86_64 aarch64").
"""

from __future__ import annotations

import os
import platform
import sys
import types
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("aiowasm", "engine", "native")


def make_stencils(root: Path) -> list[Path]:
    """Write the stencils below *root*; return the files, relative to it."""
    # The package itself imports what is not installed here, so only its parts are loaded.
    package = types.ModuleType("aiowasm")
    package.__path__ = [str(root / "aiowasm")]
    saved = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "aiowasm"}
    for name in saved:
        del sys.modules[name]
    sys.modules["aiowasm"] = package
    try:
        from aiowasm.engine.native.builder.stencils import TARGETS, build_blob  # noqa: PLC0415

        made = []
        for machine in os.environ.get("AIOWASM_MACHINES", platform.machine()).split():
            target = TARGETS.get(machine)
            for level in target.levels if target else ():
                path = FOLDER / f"{level}.stencils"
                (root / path).write_bytes(build_blob(target(level)))
                made.append(path)
        return made
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "aiowasm"]:
            del sys.modules[name]
        sys.modules.update(saved)


class StencilHook(BuildHookInterface):
    """Adds the stencils to a wheel; for editable installs they stay in the source tree."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Make the stencils, or say why there are none."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        try:
            made = make_stencils(root)
        except ImportError as error:
            self.app.display_warning(f"aiowasm: no machine code, the interpreter only ({error})")
            return
        if version != "editable":
            build_data["artifacts"] += [path.as_posix() for path in made]


if __name__ == "__main__":
    for written in make_stencils(Path(__file__).parent):
        print(written)
