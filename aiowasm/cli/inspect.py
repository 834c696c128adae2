"""`aiowasm inspect`: what a module imports, exports and consists of, for people or as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

from aiowasm.binary.encoder import encode
from aiowasm.cli.describe import describe_module
from aiowasm.cli.failures import printable
from aiowasm.cli.files import Source

__all__ = ("execute",)

_MAX_ITEMS = 100
"""Items of a list shown to people; JSON has all."""


def execute(options: argparse.Namespace) -> int:
    """Describe a valid module."""
    source = Source(options.file)
    module = source.validate(source.parse(names=True)).module
    described = {
        "file": options.file,
        "format": "binary" if source.binary else "text",
        **describe_module(module, source.data if source.binary else encode(module)),
    }
    if options.json:
        print(json.dumps(described, indent=2))
    else:
        for line in _lines(described):
            print(line)
    return 0


def _lines(described: dict[str, Any]) -> Iterator[str]:
    name = f" {printable(described['name'])}" if described["name"] else ""
    yield f"{printable(described['file'])}: {described['format']} module{name}, {described['nbytes']:,} bytes"
    yield f"features: {', '.join(described['features']) or 'none'}"
    for key in ("types", "functions", "element_segments", "data_segments"):
        yield f"{key.replace('_', ' ')}: {described[key]:,}"
    if described["start"] is not None:
        yield f"start: function {described['start']}"
    for key in ("memories", "tables", "globals", "tags"):
        yield from _list(key, described[key])
    yield from _list("imports", [f"{e['module']}.{e['name']} {e['type']}" for e in described["imports"]])
    yield from _list("exports", [f"{e['name']} {e['type']}" for e in described["exports"]])
    sections = [f"{e['name']} at {e['offset']:#x}, {e['nbytes']:,} bytes" for e in described["sections"]]
    yield from _list("sections", sections)


def _list(title: str, items: Sequence[str]) -> Iterator[str]:
    if not items:
        return
    yield f"{title}:"
    for item in items[:_MAX_ITEMS]:
        yield f"  {printable(item)}"
    if len(items) > _MAX_ITEMS:
        yield f"  and {len(items) - _MAX_ITEMS:,} more"
