"""The layers of aiowasm: who may import whom. This file is the definition of the architecture.

Imports go down only. They are read from the source: an import inside a function or under TYPE_CHECKING counts too.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "aiowasm"

# From the top down. Those on one line are siblings and do not import each other.
LAYERS = (
    ("cli",),
    ("host",),
    ("store",),
    ("engine",),
    ("validation", "text", "binary"),
    ("syntax",),
    ("errors", "features", "limits"),
)

# Parts of one layer that do not import each other either.
STRANGERS = (("aiowasm.engine.interpreter", "aiowasm.engine.native"),)

# Other distributions, and the only parts that may import them.
OUTSIDE = {
    "anyio": ("store", "host", "cli"),
    # One interface to both event loops: nobody goes around it.
    "asyncio": (),
    "trio": (),
    "sniffio": (),
    # Builds machine code when a wheel is made; nothing that runs imports it.
    "llvmlite": ("engine",),
}

DEPTH = {part: depth for depth, parts in enumerate(LAYERS) for part in parts}


def module_name(path: Path) -> str:
    parts = ("aiowasm", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, *, is_package: bool = False) -> list[tuple[int, str]]:
    """Line and full name of everything that `source` imports; of `from x import y` it is `x.y`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                here = parts[: len(parts) - node.level + is_package]
                base = ".".join([*here, base] if base else here)
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def part_of(name: str) -> str:
    """The part of aiowasm a full name belongs to; "" for aiowasm itself."""
    return name.split(".", 2)[1] if "." in name else ""


def inside(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def problem(module: str, target: str) -> str | None:
    """Why `module` may not import `target`, or None."""
    part = part_of(module)
    if not inside(target, "aiowasm"):
        allowed = OUTSIDE.get(target.partition(".")[0])
        if allowed is not None and part not in allowed:
            return f"{target} belongs to {', '.join(allowed) or 'no part'} only"
        return None
    for first, second in STRANGERS:
        for one, other in ((first, second), (second, first)):
            if inside(module, one) and inside(target, other):
                return f"{one} and {other} do not know each other"
    if part in {"", "__main__"}:  # the public names come from everywhere
        return None
    to = part_of(target)
    if to not in DEPTH:
        return f"{target} is no layer: import from the module that defines the name"
    if part != to and DEPTH[part] >= DEPTH[to]:
        return f"{part} is not above {to}"
    return None


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    found = []
    for line, target in imports(source, module, is_package=is_package):
        why = problem(module, target)
        if why is not None:
            found.append(f"{module}:{line}: imports {target}: {why}")
    return found


def test_every_part_has_a_layer() -> None:
    parts = {part_of(module_name(path)) for path in ROOT.rglob("*.py")} - {"", "__main__"}
    assert parts <= set(DEPTH), "a new part needs a place in LAYERS"


def test_imports_go_down_only() -> None:
    paths = sorted(ROOT.rglob("*.py"))
    assert paths
    found = []
    for path in paths:
        found += violations(path.read_text(encoding="utf-8"), module_name(path), is_package=path.name == "__init__.py")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("aiowasm.syntax.types", "from aiowasm.binary.decoder import decode"),
        ("aiowasm.syntax.types", "from aiowasm import binary"),
        ("aiowasm.syntax.types", "from ..binary import decoder"),
        ("aiowasm.syntax.types", "import aiowasm.store.store as s"),
        ("aiowasm.syntax.types", "def f():\n    import aiowasm.engine"),
        ("aiowasm.syntax.types", "from aiowasm import Trap"),
        ("aiowasm.syntax.types", "import aiowasm"),
        ("aiowasm.text.parser", "from aiowasm.binary import decoder"),
        ("aiowasm.binary.decoder", "from aiowasm.validation import validate"),
        ("aiowasm.validation", "from aiowasm.text import parser"),
        ("aiowasm.errors", "from aiowasm.features import Feature"),
        ("aiowasm.engine.base", "import anyio"),
        ("aiowasm.engine.base", "from anyio.abc import TaskGroup"),
        ("aiowasm.store.drive", "import asyncio"),
        ("aiowasm.store.engines", "import llvmlite.binding"),
        ("aiowasm.engine.interpreter.loop", "from aiowasm.engine.native import stencils"),
        ("aiowasm.engine.native.stencils", "from aiowasm.engine.interpreter import loop"),
        ("aiowasm.engine.native.stencils", "from ..interpreter import loop"),
        ("aiowasm.store", "from aiowasm.host import HostModule"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("aiowasm", "from aiowasm.errors import Trap\nfrom aiowasm.store import Store"),
        ("aiowasm.cli.main", "import anyio\nfrom aiowasm.limits import MAX_TYPES"),
        ("aiowasm.text.parser", "from aiowasm.syntax import types\nfrom aiowasm.text.lexer import Lexer\nimport re"),
        (
            "aiowasm.engine.native.llvm",
            "from aiowasm.engine.base import Engine\nfrom aiowasm.validation import validate",
        ),
    ],
)
def test_what_is_allowed_is_not_found(module: str, source: str) -> None:
    assert not violations(source, module)


def test_relative_imports_of_a_package_start_at_itself() -> None:
    assert imports("from . import x\nfrom .y import z", "aiowasm.text", is_package=True) == [
        (1, "aiowasm.text.x"),
        (2, "aiowasm.text.y.z"),
    ]
