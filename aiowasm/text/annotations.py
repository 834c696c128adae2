"""Custom sections that annotations stand for: `(@custom ...)`, `(@name ...)` and branch hints.

Where annotations may stand is the parser's business; the lexer only collects them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from aiowasm.errors import MalformedError
from aiowasm.syntax.leb128 import write_u
from aiowasm.syntax.module import Custom
from aiowasm.text.code import BRANCH_HINT
from aiowasm.text.lexer import Annotation, Lexer

__all__ = ("branch_hint_section", "custom_section", "in_order", "name_of", "name_section")

_SECTIONS = {
    "type": 1,
    "import": 2,
    "func": 3,
    "table": 4,
    "memory": 5,
    "tag": 13,
    "global": 6,
    "export": 7,
    "start": 8,
    "elem": 9,
    "datacount": 12,
    "code": 10,
    "data": 11,
}
_END = 14
"""The place of custom sections that are to come last, until it is known which section that is."""
_NEVER_EMPTY = (8, 12)
_SUBSECTIONS = {"func": 1, "type": 4, "table": 5, "memory": 6, "global": 7, "elem": 8, "data": 9, "tag": 11}


def custom_section(lexer: Lexer, annotation: Annotation) -> Custom:
    """The custom section that `(@custom "name" (before|after section)? "data"*)` stands for."""

    def error(reason: str) -> MalformedError:
        return lexer.error(f"@custom annotation: {reason}", annotation.offset)

    tokens = annotation.tokens
    if not tokens or not isinstance(tokens[0][1], bytes):
        raise error("missing section name")
    try:
        name = tokens[0][1].decode()
    except UnicodeDecodeError:
        raise error("malformed UTF-8 encoding") from None
    position, place = 1, _END
    if len(tokens) > 1 and tokens[1][0] == "(":
        words = [value for _, value in tokens[2:5]]
        if not words or words[0] not in ("before", "after"):
            raise error("malformed placement")
        if len(words) < 2 or words[1] not in (*_SECTIONS, "first", "last"):
            raise error("malformed section kind")
        if len(words) < 3 or tokens[4][0] != ")":
            raise error("unexpected token")
        place = _place(str(words[0]), str(words[1]))
        position = 5
    data = bytearray()
    for kind, value in tokens[position:]:
        if kind != "string" or not isinstance(value, bytes):
            raise error("unexpected token")
        data += value
    return Custom(name, bytes(data), place)


def _place(relation: str, section: str) -> int:
    if section == "first":
        return 0 if relation == "before" else 1
    if section == "last":
        return _END if relation == "after" else 10
    if relation == "after":
        return _SECTIONS[section]
    ids = [0, *_SECTIONS.values()]
    return ids[ids.index(_SECTIONS[section]) - 1]


def name_of(lexer: Lexer, annotation: Annotation) -> str:
    """The name that `(@name "...")` gives."""
    tokens = annotation.tokens
    if len(tokens) != 1 or not isinstance(tokens[0][1], bytes):
        raise lexer.error("@name annotation: unexpected token", annotation.offset)
    try:
        return tokens[0][1].decode()
    except UnicodeDecodeError:
        raise lexer.error("@name annotation: malformed UTF-8 encoding", annotation.offset) from None


def in_order(customs: Sequence[Custom], present: Collection[int]) -> tuple[Custom, ...]:
    """Custom sections in the order of the binary format, where the sections *present* are not empty.

    A binary can say that a section is empty for one to stand behind it, but for the start and the data count.
    """
    placed: list[Custom] = []
    last = 0
    for section in (0, *_SECTIONS.values()):
        here = [custom for custom in customs if custom.place == section]
        if section in present or (here and section not in _NEVER_EMPTY):
            last = section
        placed += [replace(custom, place=last) for custom in here]
    placed += [replace(custom, place=last) for custom in customs if custom.place == _END]
    return tuple(placed)


def name_section(module_name: str | None, names: dict[str, dict[int, str]]) -> Custom:
    """The name section of a module's own name and those in its index spaces."""
    out = bytearray()
    if module_name is not None:
        content = bytearray()
        _write_name(content, module_name)
        _write_subsection(out, 0, content)
    for space, number in _SUBSECTIONS.items():
        if names.get(space):
            content = bytearray()
            write_u(content, len(names[space]))
            for index, name in sorted(names[space].items()):
                write_u(content, index)
                _write_name(content, name)
            _write_subsection(out, number, content)
    return Custom("name", bytes(out), _END)


def branch_hint_section(hints: dict[int, list[tuple[int, int]]]) -> Custom:
    """The branch hints of functions: lists of (offset in the function, hint), as a section before the code."""
    out = bytearray()
    write_u(out, len(hints))
    for funcidx, found in sorted(hints.items()):
        write_u(out, funcidx)
        write_u(out, len(found))
        for offset, hint in sorted(found):
            write_u(out, offset)
            write_u(out, 1)
            out.append(hint)
    return Custom(BRANCH_HINT, bytes(out), _SECTIONS["datacount"])


def _write_name(out: bytearray, name: str) -> None:
    encoded = name.encode()
    write_u(out, len(encoded))
    out += encoded


def _write_subsection(out: bytearray, number: int, content: bytearray) -> None:
    out.append(number)
    write_u(out, len(content))
    out += content
