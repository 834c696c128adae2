"""The name section: what functions, locals and other things are called, for traces and printed text.

Names are a courtesy, so a malformed name section is never an error: what could be read before that place is kept.
The numbers and names of subsections are those of the standard's appendix and of the extended-name-section proposal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from aiowasm.errors import MalformedError
from aiowasm.limits import MAX_NAME_NBYTES
from aiowasm.syntax.leb128 import read_u
from aiowasm.syntax.steps import Steps, finish

__all__ = ("KINDS", "Names", "decode_names", "decode_names_steps")

T = TypeVar("T")

KINDS = {1: "func", 4: "type", 5: "table", 6: "memory", 7: "global", 8: "elem", 9: "data", 11: "tag"}
"""Subsections that map indices to names."""
INDIRECT_KINDS = {2: "local", 3: "label", 10: "field"}
"""Subsections that map indices, and then indices within those, to names."""
_NAMES_PER_STEP = 0xFF


@dataclass(slots=True)
class Names:
    """What a name section says.

    `others` maps type, table, memory, global, elem, data and tag to names by index; `nested` maps label and field
    likewise to names by index within a function or type.
    """

    module: str | None = None
    functions: dict[int, str] = field(default_factory=dict)
    locals: dict[int, dict[int, str]] = field(default_factory=dict)
    others: dict[str, dict[int, str]] = field(default_factory=dict)
    nested: dict[str, dict[int, dict[int, str]]] = field(default_factory=dict)


def _name(data: bytes, pos: int, end: int) -> tuple[str, int]:
    size, pos = read_u(data, pos, 32)
    if pos + size > end or size > MAX_NAME_NBYTES:
        raise MalformedError("length out of bounds", offset=pos)
    try:
        return data[pos : pos + size].decode(), pos + size
    except UnicodeDecodeError:
        raise MalformedError("malformed UTF-8 encoding", offset=pos) from None


def _map(data: bytes, pos: int, end: int, into: dict[int, str]) -> Steps[int]:
    """Read a map into `into`, so that what was read before an error stays."""
    count, pos = read_u(data, pos, 32)
    for number in range(min(count, end - pos)):
        index, pos = read_u(data, pos, 32)
        value, pos = _name(data, pos, end)
        into.setdefault(index, value)
        if number & _NAMES_PER_STEP == _NAMES_PER_STEP:
            yield
    return pos


def _nested(data: bytes, pos: int, end: int, into: dict[int, dict[int, str]]) -> Steps[None]:
    """Read a map of maps likewise."""
    count, pos = read_u(data, pos, 32)
    for number in range(min(count, end - pos)):
        index, pos = read_u(data, pos, 32)
        names: dict[int, str] = {}
        pos = yield from _map(data, pos, end, names)
        if pos > end:
            raise MalformedError("unexpected end", offset=pos)
        into.setdefault(index, names)
        if number & _NAMES_PER_STEP == _NAMES_PER_STEP:
            yield


def decode_names(data: bytes) -> Names:
    """Decode the content of a custom section `name`, as far as it is well-formed."""
    return finish(decode_names_steps(data))


def decode_names_steps(data: bytes, *, functions_only: bool = False) -> Steps[Names]:
    """Decode as `decode_names` does, in steps: yields None about every millisecond of work, returns the names."""
    names = Names()
    pos = 0
    while pos < len(data):
        kind = data[pos]
        try:
            size, pos = read_u(data, pos + 1, 32)
        except MalformedError:
            break
        end = min(pos + size, len(data))
        try:
            if kind == 0:
                names.module, _after = _name(data, pos, end)
            elif kind == 1:
                yield from _map(data, pos, end, names.functions)
            elif functions_only:
                pass
            elif kind == 2:
                yield from _nested(data, pos, end, names.locals)
            elif kind in KINDS:
                yield from _map(data, pos, end, names.others.setdefault(KINDS[kind], {}))
            elif kind in INDIRECT_KINDS:
                yield from _nested(data, pos, end, names.nested.setdefault(INDIRECT_KINDS[kind], {}))
        except MalformedError:
            # The size of the subsection says where the next one starts.
            pass
        pos = end
    return names
