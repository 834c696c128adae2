"""Tokens of the text format (the standard's chapter 6.3): a `Lexer` holds them all and a cursor over them.

Kinds of token: `(`, `)`, `keyword`, `number` (starts with a digit or a sign, or is a form of nan or inf), `string` (its
value is bytes), `id` (its value starts with `$`), `eof`. Reserved tokens are errors. Annotations are no tokens: they
are kept aside, under the index of the token that they precede. What tokens mean is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass
from typing import NoReturn

from aiowasm.errors import MalformedError
from aiowasm.limits import MAX_MODULE_NBYTES, MAX_TEXT_NESTING
from aiowasm.syntax.instructions import BY_MNEMONIC

__all__ = ("KEYWORDS", "Annotation", "Lexer")

_IDCHARS = r"0-9A-Za-z!#$%&'*+./:<=>?@\\^_`|~\-"
_STRING = (
    r'"(?:[^"\\\x00-\x1f\x7f]|\\(?:[tnr"' + r"'\\]|[0-9a-fA-F]{2}|u\{[0-9a-fA-F]++(?:_[0-9a-fA-F]++)*+\}))*+" + r'"'
)
_TOKEN = re.compile(
    rf"(?P<space>[ \t\r\n]++|;;[^\r\n]*+)|(?P<comment>\(;)|(?P<annotation>\(@)|(?P<paren>[()])"
    rf"|(?P<atom>(?:[{_IDCHARS},\[\]{{}}]++|;(?!;)|{_STRING})++)"
)
_COMMENT = re.compile(r"\(;|;\)")
_IDENTIFIER = re.compile(rf"[{_IDCHARS}]+\Z")
_STRING_ONLY = re.compile(_STRING + r"\Z")
_NUMBER = re.compile(r"(?:[+-]?(?:[0-9]|inf\Z|nan\Z|nan:0x)|nan:(?:canonical|arithmetic)\Z)")
_NUMBER_FORM = re.compile(
    r"[+-]?(?:0x[0-9a-fA-F]++(?:_[0-9a-fA-F]++)*+(?:\.(?:[0-9a-fA-F]++(?:_[0-9a-fA-F]++)*+)?)?"
    r"(?:[pP][+-]?[0-9]++(?:_[0-9]++)*+)?"
    r"|[0-9]++(?:_[0-9]++)*+(?:\.(?:[0-9]++(?:_[0-9]++)*+)?)?(?:[eE][+-]?[0-9]++(?:_[0-9]++)*+)?"
    r"|inf|nan|nan:0x[0-9a-fA-F]++(?:_[0-9a-fA-F]++)*+)\Z|nan:(?:canonical|arithmetic)\Z"
)
# How much is done in a step: about half a millisecond of work.
_CHARACTERS_PER_STEP = 2000
_TOKENS_SKIPPED_PER_STEP = 5000
_ESCAPE = re.compile(r"((?:\\[0-9a-fA-F]{2})+)|\\(?:u\{([0-9a-fA-F_]+)\}|(.))")
_SIMPLE_ESCAPES = {"t": b"\t", "n": b"\n", "r": b"\r", '"': b'"', "'": b"'", "\\": b"\\"}

KEYWORDS = frozenset(BY_MNEMONIC) | frozenset(
    [
        "i32",
        "i64",
        "f32",
        "f64",
        "v128",
        "i8",
        "i16",
        "any",
        "eq",
        "i31",
        "struct",
        "array",
        "none",
        "func",
        "nofunc",
        "extern",
        "noextern",
        "exn",
        "noexn",
        "null",
        "anyref",
        "eqref",
        "i31ref",
        "structref",
        "arrayref",
        "nullref",
        "funcref",
        "nullfuncref",
        "externref",
        "nullexternref",
        "exnref",
        "nullexnref",
        "ref",
        "mut",
        "param",
        "result",
        "type",
        "rec",
        "sub",
        "final",
        "field",
        "local",
        "module",
        "import",
        "export",
        "memory",
        "table",
        "global",
        "tag",
        "start",
        "elem",
        "data",
        "item",
        "offset",
        "declare",
        "shared",
        "pagesize",
        "then",
        "do",
        "else",
        "end",
        "catch",
        "catch_ref",
        "catch_all",
        "catch_all_ref",
        "definition",
        "instance",
        "binary",
        "quote",
        "register",
        "invoke",
        "get",
        "assert_return",
        "assert_trap",
        "assert_exhaustion",
        "assert_exception",
        "assert_malformed",
        "assert_invalid",
        "assert_unlinkable",
        "assert_malformed_custom",
        "assert_invalid_custom",
        "script",
        "input",
        "output",
        "either",
        "i8x16",
        "i16x8",
        "i32x4",
        "i64x2",
        "f32x4",
        "f64x2",
        "ref.host",
        "ref.extern",
        "ref.any",
        "ref.eq",
        "ref.struct",
        "ref.array",
        "ref.exn",
        "thread",
        "wait",
        "before",
        "after",
        "first",
        "last",
    ]
)
"""Every keyword of modules and scripts, but `offset=` and `align=`; other words are unknown operators."""


@dataclass(slots=True)
class Annotation:
    """`(@name ...)`: `tokens` are the kinds and values of what it holds; a reserved token has the kind `reserved`."""

    name: str
    tokens: list[tuple[str, str | bytes]]
    offset: int


class Lexer:
    """The tokens of a text and a cursor, `position`. The last token is `eof`."""

    def __init__(self, text: str | bytes) -> None:
        """Split a text; raises `MalformedError` for what is no token."""
        self._begin(text)
        for _ in self._scan():
            pass

    @classmethod
    def steps(cls, text: str | bytes) -> Generator[None, None, Lexer]:
        """Split a text in steps: yield None now and then, return the lexer."""
        lexer = cls.__new__(cls)
        lexer._begin(text)
        yield from lexer._scan()
        return lexer

    def _begin(self, text: str | bytes) -> None:
        if len(text) > MAX_MODULE_NBYTES:
            raise MalformedError("text too large", line=1, column=1)
        self.source = _decode_text(text)
        self.kinds: list[str] = []
        self.values: list[str | bytes] = []
        self.offsets: list[int] = []
        self.position = 0
        self.annotations: dict[int, list[Annotation]] = {}
        """Index of a token -> the annotations before it."""

    # Scanning.

    def _scan(self) -> Generator[None, None, None]:
        source = self.source
        match_token = _TOKEN.match
        kinds, values, offsets = self.kinds, self.values, self.offsets
        position, depth = 0, 0
        annotation: Annotation | None = None
        annotation_depth = 0
        pause = _CHARACTERS_PER_STEP
        while position < len(source):
            if position > pause:
                pause = position + _CHARACTERS_PER_STEP
                yield
            match = match_token(source, position)
            if match is None:
                self._refuse(position, annotation is not None)
            start, position = position, match.end()
            group = match.lastgroup
            if group == "space":
                continue
            if group == "comment":
                position = self._skip_comment(start)
                continue
            text = match.group()
            if group == "annotation" and annotation is not None:
                # Inside an annotation even `(@)` is nothing but tokens.
                group, text, position = "paren", "(", start + 1
            if group == "annotation":
                name, position = self._annotation_name(start)
                depth += 1
                annotation_depth = depth
                annotation = Annotation(name, [], start)
                self.annotations.setdefault(len(kinds), []).append(annotation)
                continue
            kind: str
            value: str | bytes = text
            if group == "paren":
                kind = text
                if text == "(":
                    depth += 1
                    if depth > MAX_TEXT_NESTING:
                        raise self.error("text nested too deeply", start)
                else:
                    depth -= 1
                    if annotation is not None and depth < annotation_depth:
                        annotation = None
                        continue
            else:
                kind, value = self._classify(text, start, annotation is not None)
            if annotation is not None:
                annotation.tokens.append((kind, value))
            else:
                kinds.append(kind)
                values.append(value)
                offsets.append(start)
        if annotation is not None:
            raise self.error("unclosed annotation", annotation.offset)
        kinds.append("eof")
        values.append("")
        offsets.append(len(source))

    def _classify(self, text: str, start: int, reserved_allowed: bool) -> tuple[str, str | bytes]:
        first = text[0]
        if first == '"':
            if _STRING_ONLY.match(text):
                return "string", self._decode_string(text, start)
        elif _IDENTIFIER.match(text):
            if first == "$":
                if len(text) > 1:
                    return "id", text
                if not reserved_allowed:
                    raise self.error("empty identifier", start)
                return "reserved", text
            if _NUMBER.match(text):
                if _NUMBER_FORM.match(text):
                    return "number", text
            elif "a" <= first <= "z":
                return "keyword", text
        elif text.startswith('$"') and _STRING_ONLY.match(text, 1):
            name = self._decode_string(text[1:], start)
            try:
                decoded = name.decode()
            except UnicodeDecodeError:
                raise self.error("malformed UTF-8 encoding", start) from None
            if not decoded:
                raise self.error("empty identifier", start)
            return "id", "$" + decoded
        if not reserved_allowed:
            raise self.error("unknown operator", start)
        return "reserved", text

    def _decode_string(self, text: str, start: int) -> bytes:
        body = text[1:-1]
        if "\\" not in body:
            return body.encode()
        out = bytearray()
        position = 0
        for match in _ESCAPE.finditer(body):
            out += body[position : match.start()].encode()
            position = match.end()
            run, code, simple = match.groups()
            if simple is not None:
                out += _SIMPLE_ESCAPES[simple]
            elif run is not None:
                out += bytes.fromhex(run.replace("\\", ""))
            else:
                number = int(code.replace("_", ""), 16)
                if number >= 0x110000 or 0xD800 <= number < 0xE000:
                    raise self.error("malformed UTF-8 encoding", start)
                out += chr(number).encode()
        out += body[position:].encode()
        return bytes(out)

    def _annotation_name(self, start: int) -> tuple[str, int]:
        match = _TOKEN.match(self.source, start + 2)
        if match is None or match.lastgroup != "atom":
            raise self.error("empty annotation id", start)
        text = match.group()
        if text[0] != '"':
            if not _IDENTIFIER.match(text):
                # The name ends where a string begins: `(@x"y")` holds a string.
                head = re.match(rf"[{_IDCHARS}]+", text)
                if head is None:
                    raise self.error("empty annotation id", start)
                return head.group(), match.start() + head.end()
            return text, match.end()
        quoted = re.match(_STRING, text)
        if quoted is None:
            raise self.error("empty annotation id", start)
        try:
            name = self._decode_string(quoted.group(), start).decode()
        except UnicodeDecodeError:
            raise self.error("malformed UTF-8 encoding", start) from None
        if not name:
            raise self.error("empty annotation id", start)
        return name, match.start() + quoted.end()

    def _skip_comment(self, start: int) -> int:
        depth = 0
        position = start
        while True:
            match = _COMMENT.search(self.source, position)
            if match is None:
                raise self.error("unclosed comment", start)
            position = match.end()
            depth += 1 if match.group() == "(;" else -1
            if depth == 0:
                return position

    def _refuse(self, position: int, in_annotation: bool) -> NoReturn:
        character = self.source[position]
        if character == '"':
            match = re.compile(_STRING[:-1]).match(self.source, position)
            end = match.end() if match else position
            if end >= len(self.source) or self.source[end] == "\n":
                raise self.error("unclosed string literal" if not in_annotation else "unclosed string", position)
            if self.source[end] == "\\":
                raise self.error("illegal escape", end)
            raise self.error("illegal control character in string literal", end)
        if character < " " or character == "\x7f":
            raise self.error("illegal character: misplaced control character", position)
        raise self.error("illegal character: misplaced unicode character", position)

    # Errors.

    def error(self, reason: str, offset: int | None = None) -> MalformedError:
        """The error at an offset in the text, by default that of the current token; the caller raises it."""
        at = self.offsets[self.position] if offset is None else offset
        line = self.source.count("\n", 0, at) + 1
        return MalformedError(reason, line=line, column=at - self.source.rfind("\n", 0, at))

    def unexpected(self) -> MalformedError:
        """The error for a current token that the grammar does not allow here."""
        kind, value = self.kinds[self.position], self.values[self.position]
        if (
            kind == "keyword"
            and value not in KEYWORDS
            and not re.match(r"(?:offset|align)=(?:0x[0-9a-fA-F_]+|[0-9][0-9_]*)\Z", str(value))
        ):
            return self.error(f"unknown operator {value!s}")
        return self.error("unexpected token" + (f" {value!s}" if kind not in ("string", "eof") else ""))

    # The cursor.

    @property
    def kind(self) -> str:
        """Kind of the current token."""
        return self.kinds[self.position]

    @property
    def value(self) -> str | bytes:
        """Value of the current token."""
        return self.values[self.position]

    def at_keyword(self, word: str) -> bool:
        """Whether the current token is this keyword."""
        return self.values[self.position] == word and self.kinds[self.position] == "keyword"

    def at_form(self, word: str) -> bool:
        """Whether `(word` comes next."""
        position = self.position
        if self.kinds[position] != "(":
            return False
        return self.values[position + 1] == word and self.kinds[position + 1] == "keyword"

    def accept(self, word: str) -> bool:
        """Pass this keyword if it comes next."""
        if self.at_keyword(word):
            self.position += 1
            return True
        return False

    def accept_form(self, word: str) -> bool:
        """Pass `(word` if it comes next."""
        if self.at_form(word):
            self.position += 2
            return True
        return False

    def accept_id(self) -> str | None:
        """Pass an identifier if one comes next."""
        if self.kinds[self.position] == "id":
            value = self.values[self.position]
            self.position += 1
            return str(value)
        return None

    def take(self, kind: str) -> str | bytes:
        """Pass a token of this kind and return its value, or raise."""
        if self.kinds[self.position] != kind:
            raise self.unexpected()
        value = self.values[self.position]
        self.position += 1
        return value

    def take_keyword(self) -> str:
        """Pass a keyword and return it, or raise."""
        return str(self.take("keyword"))

    def take_string(self) -> bytes:
        """Pass a string and return its bytes, or raise."""
        value = self.take("string")
        return value if isinstance(value, bytes) else value.encode()

    def take_strings(self) -> bytes:
        """Pass all strings that come next and return them joined."""
        parts = []
        while self.kinds[self.position] == "string":
            parts.append(self.take_string())
        return b"".join(parts)

    def take_name(self) -> str:
        """Pass a string that is a name, that is UTF-8."""
        try:
            return self.take_string().decode()
        except UnicodeDecodeError:
            self.position -= 1
            raise self.error("malformed UTF-8 encoding") from None

    def open(self, word: str) -> None:
        """Pass `(word`, or raise."""
        self.take("(")
        if not self.accept(word):
            raise self.unexpected()

    def close(self) -> None:
        """Pass `)`, or raise."""
        self.take(")")

    def skip_form(self) -> None:
        """Pass one balanced form or one token."""
        for _ in self.skip_form_steps():
            pass

    def skip_form_steps(self) -> Generator[None, None, None]:
        """Do what `skip_form` does in steps: yield None now and then."""
        depth = 0
        pause = self.position + _TOKENS_SKIPPED_PER_STEP
        while True:
            if self.position > pause:
                pause = self.position + _TOKENS_SKIPPED_PER_STEP
                yield
            kind = self.kind
            if kind == "eof" or (kind == ")" and depth == 0):
                raise self.unexpected()
            self.position += 1
            depth += (kind == "(") - (kind == ")")
            if depth == 0:
                return


def _decode_text(text: str | bytes) -> str:
    try:
        if isinstance(text, str):
            # A lone surrogate has no encoding.
            text.encode()
            return text
        return bytes(text).decode()
    except UnicodeError as error:
        start = error.start if isinstance(error, UnicodeDecodeError | UnicodeEncodeError) else 0
        before = text[:start] if isinstance(text, str) else bytes(text[:start]).decode()
        line, column = before.count("\n") + 1, start and len(before) - before.rfind("\n")
        raise MalformedError("malformed UTF-8 encoding", line=line, column=column or 1) from None
