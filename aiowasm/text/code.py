"""Instructions of the text format (the standard's chapter 6.5), flat and folded, to the bytes of the binary format.

Nesting is kept on explicit stacks, so its depth costs memory only. Types, fields of modules and literals are not here.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any

from aiowasm.errors import InvalidError
from aiowasm.limits import MAX_NESTING
from aiowasm.syntax.code import encode_instruction
from aiowasm.syntax.instructions import BY_MNEMONIC, BY_NAME, Instruction
from aiowasm.syntax.types import ValType
from aiowasm.text.numbers import parse_float, parse_int, parse_unsigned
from aiowasm.text.positions import Positions
from aiowasm.text.types import Context

__all__ = ("BRANCH_HINT", "CodeParser", "parse_v128")

BRANCH_HINT = "metadata.code.branch_hint"
_OPENERS = frozenset({"block", "loop", "if", "try", "try_table"})
_SHAPES = {"i8x16": (8, 16), "i16x8": (16, 8), "i32x4": (32, 4), "i64x2": (64, 2), "f32x4": (32, 4), "f64x2": (64, 2)}
_CATCHES = {"catch": 0, "catch_ref": 1, "catch_all": 2, "catch_all_ref": 3}
_OFFSET = re.compile(r"offset=(.+)\Z", re.DOTALL)
_ALIGN = re.compile(r"align=(.+)\Z", re.DOTALL)
_UNSIGNED = re.compile(r"(?:0x[0-9a-fA-F]+(?:_[0-9a-fA-F]+)*|[0-9]+(?:_[0-9]+)*)\Z")
_END = BY_NAME["end"]
_ELSE = BY_NAME["else"]
_TOKENS_PER_STEP = 200
"""How many tokens are parsed in a step: about half a millisecond of work."""
_SPACES = {"func": "func", "type": "type", "tag": "tag", "global": "global", "elem": "elem", "data": "data"}


class _Frame:
    """An open block or parenthesis: `state` says which, and what it may be followed by."""

    __slots__ = ("at", "code", "hint", "label", "row", "state")

    def __init__(
        self,
        state: str,
        row: Instruction,
        code: bytes = b"",
        label: str | None = None,
        hint: int | None = None,
        at: int = 0,
    ) -> None:
        self.at = at
        self.state = state
        self.row = row
        self.code = code
        self.label = label
        self.hint = hint


def parse_v128(context: Context) -> bytes:
    """Pass a vector literal: its shape and lanes."""
    lexer = context.lexer
    shape = str(lexer.value)
    if lexer.kind != "keyword" or shape not in _SHAPES:
        raise lexer.unexpected()
    lexer.position += 1
    bits, count = _SHAPES[shape]
    out = bytearray()
    given = 0
    while given <= count and lexer.kinds[lexer.position + given] == "number":
        given += 1
    if given < count and lexer.kinds[lexer.position + given] != ")":
        lexer.position += given
        raise lexer.unexpected()
    if given != count:
        raise lexer.error("wrong number of lane literals")
    for _ in range(count):
        out += _literal(context, "float" if shape[0] == "f" else "int", bits).to_bytes(bits // 8, "little")
    return bytes(out)


def _literal(context: Context, kind: str, bits: int) -> int:
    lexer = context.lexer
    text = str(lexer.take("number"))
    try:
        return parse_float(text, bits) if kind == "float" else parse_int(text, bits)
    except ValueError as error:
        lexer.position -= 1
        raise lexer.error(str(error)) from None


class CodeParser:
    """Parses the instructions of one module, appending them to `out`."""

    def __init__(self, context: Context, out: bytearray, positions: Positions | None = None) -> None:
        self.positions = positions
        self.context = context
        self.lexer = context.lexer
        self.out = out
        self.locals: dict[str, int] = {}
        self.labels: dict[str, list[int]] = {}
        """Label -> the depths of the open blocks with this name, innermost last."""
        self.depth = 0
        self.uses_data = False
        """Whether an instruction names a data segment: then the binary format needs a data count."""
        self.hints: list[tuple[int, int]] = []
        """Branch hints: where in `out` the instruction is, and the hint."""

    # Labels.

    def _push_label(self, label: str | None) -> None:
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise self.lexer.error("blocks nested too deeply")
        if label is not None:
            self.labels.setdefault(label, []).append(self.depth)

    def _pop_label(self, label: str | None) -> None:
        self.depth -= 1
        if label is not None:
            self.labels[label].pop()

    def _label(self) -> int:
        lexer = self.lexer
        if lexer.kind != "id":
            return self.context.unsigned()
        depths = self.labels.get(str(lexer.value))
        if not depths:
            raise lexer.error(f"unknown label {lexer.value!s}")
        lexer.position += 1
        return self.depth - depths[-1]

    def _local(self) -> int:
        lexer = self.lexer
        if lexer.kind != "id":
            return self.context.unsigned()
        found = self.locals.get(str(lexer.value))
        if found is None:
            raise lexer.error(f"unknown local {lexer.value!s}")
        lexer.position += 1
        return found

    # Sequences.

    def expression(self, single: bool = False) -> None:
        """Pass instructions up to a closing parenthesis that belongs to none of them, or one folded instruction.

        `end` is appended, the parenthesis is not passed.
        """
        for _ in self.expression_steps(single):
            pass

    def expression_steps(self, single: bool = False) -> Generator[None, None, None]:
        """Do what `expression` does in steps: yield None now and then."""
        lexer = self.lexer
        pause = lexer.position + _TOKENS_PER_STEP
        stack: list[_Frame] = []
        self.labels = {}
        self.depth = 0
        while True:
            if lexer.position > pause:
                pause = lexer.position + _TOKENS_PER_STEP
                yield
            kind = lexer.kind
            if kind == "keyword" and not single:
                self._flat(stack)
            elif kind == "(":
                self._folded(stack)
            elif kind == ")" and stack and stack[-1].state != "flat":
                self._close(stack)
                if single and not stack:
                    break
            elif kind == ")" and not stack and not single:
                break
            elif (
                kind == "keyword" and stack and stack[-1].state not in ("plain", "if", "try", "after_then", "after_do")
            ):
                self._flat(stack)
            else:
                raise lexer.unexpected()
        self._mark(lexer.position)
        encode_instruction(self.out, _END, ())

    def _mark(self, position: int) -> None:
        """What is emitted next stands at this token."""
        if self.positions is not None:
            self.positions.add(len(self.out), self.lexer.offsets[position])

    def _emit(self, row: Instruction, immediates: tuple[Any, ...], hint: int | None = None) -> None:
        if hint is not None:
            self.hints.append((len(self.out), hint))
        encode_instruction(self.out, row, immediates)

    def _hint(self, name: str, position: int) -> int | None:
        annotations = self.lexer.annotations.get(position)
        if not annotations:
            return None
        mine = [annotation for annotation in annotations if annotation.name == BRANCH_HINT]
        if not mine:
            return None
        annotations[:] = [annotation for annotation in annotations if annotation.name != BRANCH_HINT]
        if len(mine) > 1:
            raise self.lexer.error(f"@{BRANCH_HINT} annotation: duplicate annotation")
        content = b"".join(value for kind, value in mine[0].tokens if kind == "string" and isinstance(value, bytes))
        if content not in (b"\0", b"\1") or any(kind != "string" for kind, _ in mine[0].tokens):
            raise self.lexer.error(f"@{BRANCH_HINT} annotation: invalid format")
        if name not in ("if", "br_if"):
            raise InvalidError(f"@{BRANCH_HINT} annotation: invalid target")
        return content[0]

    def _flat(self, stack: list[_Frame]) -> None:
        lexer = self.lexer
        if stack and stack[-1].state in ("plain", "if", "try", "after_then", "after_do"):
            raise lexer.unexpected()
        word = str(lexer.value)
        self._mark(lexer.position)
        top = stack[-1] if stack and stack[-1].state == "flat" else None
        if word == "end" and top is not None:
            lexer.position += 1
            self._closing_label(top)
            stack.pop()
            self._pop_label(top.label)
            self._emit(_END, ())
        elif word == "else" and top is not None and top.row.name == "if":
            lexer.position += 1
            self._closing_label(top)
            top.row = _ELSE
            self._emit(_ELSE, ())
        elif word in ("catch", "catch_all") and top is not None and top.row.name in ("try", "catch"):
            lexer.position += 1
            row = BY_NAME[word]
            if top.label is not None:
                self._closing_label(top)
            self._emit(row, (self.context.index("tag"),) if word == "catch" else ())
            top.row = row
        elif word == "delegate" and top is not None and top.row.name == "try":
            lexer.position += 1
            stack.pop()
            self._pop_label(top.label)
            self._emit(BY_NAME[word], (self._label(),))
        elif word in _OPENERS:
            hint = self._hint(word, lexer.position)
            lexer.position += 1
            label = lexer.accept_id()
            row = BY_NAME[word]
            # The label of a block is not visible in its own type or handlers.
            self._emit(row, self._block_immediates(row), hint)
            self._push_label(label)
            stack.append(_Frame("flat", row, label=label))
        else:
            hint = self._hint(word, lexer.position)
            row, immediates = self._plain()
            self._emit(row, immediates, hint)

    def _closing_label(self, frame: _Frame) -> None:
        label = self.lexer.accept_id()
        if label is not None and label != frame.label:
            self.lexer.position -= 1
            raise self.lexer.error(f"mismatching label {label}")

    def _folded(self, stack: list[_Frame]) -> None:
        lexer = self.lexer
        at = lexer.position
        lexer.position += 1
        if lexer.kind != "keyword":
            raise lexer.unexpected()
        word = str(lexer.value)
        top = stack[-1] if stack else None
        if top is not None and top.state in ("if", "after_then", "try", "after_do"):
            if self._clause(top, word, stack):
                return
            if top.state != "if":
                raise lexer.unexpected()
        hint = self._hint(word, at)
        if word in _OPENERS:
            lexer.position += 1
            label = lexer.accept_id()
            row = BY_NAME[word]
            immediates = self._block_immediates(row)
            if word == "if":
                code = bytearray()
                encode_instruction(code, row, immediates)
                stack.append(_Frame("if", row, bytes(code), label, hint, at))
                return
            self._mark(at)
            self._emit(row, immediates)
            self._push_label(label)
            stack.append(_Frame("try" if word == "try" else "block", row, label=label))
            return
        row, immediates = self._plain()
        code = bytearray()
        encode_instruction(code, row, immediates)
        stack.append(_Frame("plain", row, bytes(code), hint=hint, at=at))

    def _clause(self, top: _Frame, word: str, stack: list[_Frame]) -> bool:
        """Pass `(then`, `(else`, `(do`, `(catch` and the like where they belong; False: it is something else."""
        lexer = self.lexer
        if word == "then" and top.state == "if":
            lexer.position += 1
            if top.hint is not None:
                self.hints.append((len(self.out), top.hint))
            self._mark(top.at)
            self.out += top.code
            self._push_label(top.label)
            top.state = "after_then"
            stack.append(_Frame("clause", top.row))
        elif word == "else" and top.state == "after_then" and top.row.name == "if":
            lexer.position += 1
            self._emit(_ELSE, ())
            top.row = _ELSE
            stack.append(_Frame("clause", top.row))
        elif word == "do" and top.state == "try":
            lexer.position += 1
            top.state = "after_do"
            stack.append(_Frame("clause", top.row))
        elif word in ("catch", "catch_all") and top.state == "after_do" and top.row.name in ("try", "catch"):
            lexer.position += 1
            top.row = BY_NAME[word]
            self._emit(top.row, (self.context.index("tag"),) if word == "catch" else ())
            stack.append(_Frame("clause", top.row))
        elif word == "delegate" and top.state == "after_do" and top.row.name == "try":
            lexer.position += 1
            self._pop_label(top.label)
            self._emit(BY_NAME[word], (self._label(),))
            lexer.close()
            lexer.close()
            stack.pop()
        else:
            return False
        return True

    def _close(self, stack: list[_Frame]) -> None:
        top = stack[-1]
        if top.state in ("if", "try"):
            raise self.lexer.unexpected()
        self.lexer.position += 1
        stack.pop()
        if top.state == "plain":
            if top.hint is not None:
                self.hints.append((len(self.out), top.hint))
            self._mark(top.at)
            self.out += top.code
        elif top.state != "clause":
            self._mark(self.lexer.position - 1)
            self._pop_label(top.label)
            self._emit(_END, ())

    # One instruction.

    def _plain(self) -> tuple[Instruction, tuple[Any, ...]]:
        lexer = self.lexer
        word = str(lexer.value)
        rows = BY_MNEMONIC.get(word)
        if rows is None or word in _OPENERS or word in ("end", "else", "catch", "catch_all", "delegate"):
            raise lexer.unexpected()
        lexer.position += 1
        row = rows[0]
        if len(rows) == 2:
            if word == "select":
                return self._select(rows)
            reftype = self.context.reftype()
            row = BY_NAME[word + "_null" if reftype.nullable else word]
            return row, (reftype.heaptype,)
        if not row.immediates:
            return row, ()
        return row, self._immediates(row)

    def _select(self, rows: tuple[Instruction, ...]) -> tuple[Instruction, tuple[Any, ...]]:
        if not self.lexer.at_form("result"):
            return BY_NAME["select"], ()
        return BY_NAME["select_t"], (tuple(self.context.results()),)

    def _block_immediates(self, row: Instruction) -> tuple[Any, ...]:
        context = self.context
        typeidx, functype = context.explicit_typeuse(None)
        blocktype: ValType | int | None
        if typeidx is not None:
            blocktype = typeidx
        elif functype.params or len(functype.results) > 1:
            blocktype = context.typeidx_of(functype)
        else:
            blocktype = functype.results[0] if functype.results else None
        if row.name != "try_table":
            return (blocktype,)
        lexer = self.lexer
        catches: list[tuple[int, int | None, int]] = []
        while lexer.kind == "(" and lexer.values[lexer.position + 1] in _CATCHES:
            lexer.position += 1
            kind = _CATCHES[lexer.take_keyword()]
            tagidx = context.index("tag") if kind < 2 else None
            catches.append((kind, tagidx, self._label()))
            lexer.close()
        return blocktype, tuple(catches)

    def _immediates(self, row: Instruction) -> tuple[Any, ...]:
        context, lexer, words = self.context, self.lexer, row.immediates
        if "data" in words:
            self.uses_data = True
        if words == ("type", "table"):
            table = context.index("table") if context.at_index() else 0
            return context.typeuse(None)[0], table
        if words in (("data", "mem"), ("elem", "table")):
            space = "memory" if words[1] == "mem" else "table"
            at = lexer.position
            if lexer.kinds[at + 1] in ("id", "number") and context.at_index():
                second = context.index(space)
                return context.index(words[0]), second
            return context.index(words[0]), 0
        if words in (("mem", "mem"), ("table", "table")):
            space = "memory" if words[1] == "mem" else "table"
            return (context.index(space), context.index(space)) if context.at_index() else (0, 0)
        if words[0] == "castop":
            label = self._label()
            source, target = context.reftype(), context.reftype()
            return source.nullable + 2 * target.nullable, label, source.heaptype, target.heaptype
        immediates: list[Any] = []
        for word in words:
            if word == "field":
                immediates.append(self._field(immediates[-1]))
            elif word.startswith("memarg:"):
                immediates.append(self._memarg(int(word[7:]), "lane" in words))
            else:
                immediates.append(self._immediate(word))
        return tuple(immediates)

    def _immediate(self, word: str) -> Any:
        context = self.context
        if word in _SPACES:
            return context.index(_SPACES[word])
        if word == "local":
            return self._local()
        if word == "label":
            return self._label()
        if word in ("i32", "i64"):
            return _literal(context, "int", int(word[1:]))
        if word in ("f32", "f64"):
            return _literal(context, "float", int(word[1:]))
        if word in ("mem", "table"):
            return context.index("memory" if word == "mem" else word) if context.at_index() else 0
        if word == "u32":
            return context.unsigned()
        if word == "heaptype":
            return context.heaptype()
        if word == "lane":
            return context.unsigned(8)
        if word == "v128":
            return parse_v128(context)
        if word == "lanes":
            return self._lanes()
        if word == "labels":
            labels = [self._label()]
            while context.at_index():
                labels.append(self._label())
            return tuple(labels)
        if word == "zero":
            return 0
        raise self.lexer.error(f"unknown operator: immediate {word}")

    def _field(self, typeidx: int) -> int:
        lexer = self.lexer
        if lexer.kind != "id":
            return self.context.unsigned()
        found = self.context.fields.get(typeidx, {}).get(str(lexer.value))
        if found is None:
            raise lexer.error(f"unknown field {lexer.value!s}")
        lexer.position += 1
        return found

    def _lanes(self) -> bytes:
        lexer = self.lexer
        lanes = bytearray()
        while lexer.kind == "number":
            if len(lanes) == 16:
                raise lexer.error("invalid lane length")
            if not _UNSIGNED.match(str(lexer.value)):
                raise lexer.error("i8 constant out of range")
            lanes.append(self.context.unsigned(8))
        if len(lanes) != 16:
            raise lexer.error("invalid lane length")
        return bytes(lanes)

    def _memarg(self, natural: int, before_lane: bool) -> tuple[int, int, int]:
        lexer = self.lexer
        memidx = 0
        following = lexer.kinds[min(lexer.position + 1, len(lexer.kinds) - 1)]
        if lexer.kind == "id" or (
            lexer.kind == "number"
            and (
                not before_lane
                or following == "number"
                or (following == "keyword" and str(lexer.values[lexer.position + 1]).startswith(("offset=", "align=")))
            )
        ):
            memidx = self.context.index("memory")
        offset = self._keyed("offset", 64)
        align = self._keyed("align", 64)
        if align is None:
            return natural, memidx, offset or 0
        if align == 0 or align & (align - 1):
            lexer.position -= 1
            raise lexer.error("alignment must be a power of two")
        return align.bit_length() - 1, memidx, offset or 0

    def _keyed(self, key: str, bits: int) -> int | None:
        lexer = self.lexer
        match = (_OFFSET if key == "offset" else _ALIGN).match(str(lexer.value)) if lexer.kind == "keyword" else None
        if match is None:
            return None
        if not _UNSIGNED.match(match.group(1)):
            raise lexer.unexpected()
        try:
            value = parse_unsigned(match.group(1), bits)
        except ValueError as error:
            raise lexer.error(str(error)) from None
        lexer.position += 1
        return value
