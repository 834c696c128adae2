"""Test scripts (`.wast`) as data: `parse_script` gives their commands; running them is the caller's.

Modules stay unparsed (`ModuleText`): whether one is malformed is often what a command asserts, and many are never
needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aiowasm.text.lexer import Lexer
from aiowasm.text.numbers import parse_float, parse_int

__all__ = (
    "Action",
    "ActionCommand",
    "Argument",
    "AssertException",
    "AssertExhaustion",
    "AssertInvalid",
    "AssertMalformed",
    "AssertReturn",
    "AssertTrap",
    "AssertUnlinkable",
    "Command",
    "Const",
    "Either",
    "Get",
    "Invoke",
    "ModuleCommand",
    "ModuleDefinition",
    "ModuleInstance",
    "ModuleText",
    "NanPattern",
    "RefHost",
    "RefNull",
    "RefPattern",
    "Register",
    "Result",
    "Thread",
    "VectorPattern",
    "Wait",
    "parse_script",
)


@dataclass(frozen=True, slots=True)
class ModuleText:
    """A module as the script has it.

    `kind` is "text" (`source` is the form `(module ...)`, a str), "quote" (`source` is the quoted text as bytes, not
    necessarily UTF-8) or "binary" (`source` is the module's binary). `name` is its identifier with the `$`. `line` is
    where it stands in the script.
    """

    name: str | None
    kind: str
    source: str | bytes
    line: int


# Values and patterns of results.


@dataclass(frozen=True, slots=True)
class Const:
    """A number (`kind` i32, i64, f32, f64; `value` its bits as an unsigned int) or a vector (v128, 16 bytes)."""

    kind: str
    value: int | bytes


@dataclass(frozen=True, slots=True)
class RefNull:
    """A null reference; `heaptype` is the abstract heap type's name, None for `(ref.null)`: null of any type."""

    heaptype: str | None


@dataclass(frozen=True, slots=True)
class RefHost:
    """A reference to the host's value number `value`; `kind` is extern (as externref) or host (as anyref)."""

    kind: str
    value: int


@dataclass(frozen=True, slots=True)
class RefPattern:
    """Any reference that is not null and of an abstract heap type (any, eq, i31, ..., or host)."""

    heaptype: str


@dataclass(frozen=True, slots=True)
class NanPattern:
    """A NaN of f32 or f64 (`kind`); `nan` is canonical or arithmetic."""

    kind: str
    nan: str


@dataclass(frozen=True, slots=True)
class VectorPattern:
    """A vector of floats, at least one lane of which is a pattern; the others are `Const`."""

    shape: str
    lanes: tuple[Const | NanPattern, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of several results."""

    alternatives: tuple[Result, ...]


Argument = Const | RefNull | RefHost
Result = Const | RefNull | RefHost | RefPattern | NanPattern | VectorPattern | Either


# Actions and commands. Every command carries its line.


@dataclass(frozen=True, slots=True)
class Invoke:
    """Call the exported function `name` of an instance (None: the latest)."""

    module: str | None
    name: str
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Get:
    """Read the exported global `name` of an instance (None: the latest)."""

    module: str | None
    name: str


Action = Invoke | Get


@dataclass(frozen=True, slots=True)
class ModuleCommand:
    """`(module ...)`: define and instantiate; name of both is the module's."""

    line: int
    module: ModuleText


@dataclass(frozen=True, slots=True)
class ModuleDefinition:
    """`(module definition ...)`: define without instantiating."""

    line: int
    module: ModuleText


@dataclass(frozen=True, slots=True)
class ModuleInstance:
    """`(module instance $name $definition)`; None: no name, the latest definition."""

    line: int
    name: str | None
    definition: str | None


@dataclass(frozen=True, slots=True)
class Register:
    """Make the exports of an instance (None: the latest) importable under a name."""

    line: int
    name: str
    module: str | None


@dataclass(frozen=True, slots=True)
class ActionCommand:
    """An action whose results do not matter; it must not fail."""

    line: int
    action: Action


@dataclass(frozen=True, slots=True)
class AssertReturn:
    """The action returns results that fit the patterns."""

    line: int
    action: Action
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class AssertTrap:
    """The action, or instantiating the module, traps."""

    line: int
    action: Action | ModuleText
    message: str


@dataclass(frozen=True, slots=True)
class AssertExhaustion:
    """The action exhausts a resource."""

    line: int
    action: Action
    message: str


@dataclass(frozen=True, slots=True)
class AssertException:
    """The action throws an exception that nothing catches."""

    line: int
    action: Action


@dataclass(frozen=True, slots=True)
class AssertMalformed:
    """The module is malformed; `custom`: because of an annotation or custom section."""

    line: int
    module: ModuleText
    message: str
    custom: bool = False


@dataclass(frozen=True, slots=True)
class AssertInvalid:
    """The module is well-formed but invalid; `custom`: because of an annotation or custom section."""

    line: int
    module: ModuleText
    message: str
    custom: bool = False


@dataclass(frozen=True, slots=True)
class AssertUnlinkable:
    """The module is valid but its imports do not resolve."""

    line: int
    module: ModuleText
    message: str


@dataclass(frozen=True, slots=True)
class Thread:
    """Run commands in a thread of its own, which sees the instances named in `shared` (threads proposal)."""

    line: int
    name: str | None
    shared: tuple[str, ...]
    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until a thread ends (threads proposal)."""

    line: int
    thread: str | None


Command = (
    ModuleCommand
    | ModuleDefinition
    | ModuleInstance
    | Register
    | ActionCommand
    | AssertReturn
    | AssertTrap
    | AssertExhaustion
    | AssertException
    | AssertMalformed
    | AssertInvalid
    | AssertUnlinkable
    | Thread
    | Wait
)

_SHAPES = {
    "i8x16": ("i", 8),
    "i16x8": ("i", 16),
    "i32x4": ("i", 32),
    "i64x2": ("i", 64),
    "f32x4": ("f", 32),
    "f64x2": ("f", 64),
}
_NANS = ("nan:canonical", "nan:arithmetic")
_REF_PATTERNS = frozenset({"any", "eq", "struct", "array", "i31", "func", "extern", "exn", "host"})


def parse_script(text: str | bytes) -> list[Command]:
    """The commands of a script, in order; a text of mere module fields is one module.

    Raises:
        MalformedError: It is not a script. What modules contain is not looked at beyond their tokens.
    """
    return _ScriptParser(Lexer(text)).parse()


class _ScriptParser:
    def __init__(self, lexer: Lexer) -> None:
        self.lexer = lexer
        self.in_thread = False
        # Lines are counted from the last place asked for: commands come in order.
        self.counted = 0
        self.counted_line = 1

    def parse(self) -> list[Command]:
        lexer = self.lexer
        commands: list[Command] = []
        if lexer.kind == "(" and not any(lexer.at_form(word) for word in _COMMANDS):
            return [ModuleCommand(1, ModuleText(None, "text", lexer.source, 1))]
        while lexer.kind != "eof":
            commands.append(self.command())
        return commands

    def line(self) -> int:
        offset = self.lexer.offsets[self.lexer.position]
        self.counted_line += self.lexer.source.count("\n", self.counted, offset)
        self.counted = offset
        return self.counted_line

    def command(self) -> Command:
        lexer = self.lexer
        line = self.line()
        if lexer.at_form("module"):
            return self.module_command(line)
        start = lexer.position
        lexer.take("(")
        method = _COMMANDS.get(lexer.take_keyword())
        if method is None:
            lexer.position = start + 1
            raise lexer.unexpected()
        command = method(self, line)
        lexer.close()
        return command

    # Modules.

    def module_command(self, line: int) -> Command:
        lexer = self.lexer
        start = lexer.position
        lexer.position = start + 2
        if lexer.accept("instance"):
            name = lexer.accept_id()
            definition = lexer.accept_id()
            lexer.close()
            return ModuleInstance(line, name, definition)
        definition_only = lexer.accept("definition")
        lexer.position = start
        module = self.module(line)
        return ModuleDefinition(line, module) if definition_only else ModuleCommand(line, module)

    def module(self, line: int | None = None) -> ModuleText:
        """`(module definition? $id? ...)` of any kind."""
        lexer = self.lexer
        line = self.line() if line is None else line
        start = lexer.position
        lexer.open("module")
        definition = lexer.accept("definition")
        # Behind the word, not at the next token: an annotation of the module may come before that.
        body = lexer.offsets[lexer.position - 1] + len("definition")
        name = lexer.accept_id()
        for kind in ("binary", "quote"):
            if lexer.accept(kind):
                source = lexer.take_strings()
                lexer.close()
                return ModuleText(name, kind, source, line)
        lexer.position = start
        lexer.skip_form()
        # The form ends with the closing parenthesis, the token before the cursor.
        end = lexer.offsets[lexer.position - 1] + 1
        text = lexer.source[lexer.offsets[start] : end]
        if definition:
            text = "(module" + lexer.source[body:end]
        return ModuleText(name, "text", text, line)

    # Commands; the cursor stands behind the keyword, the caller passes the closing parenthesis.

    def register(self, line: int) -> Command:
        name = self.lexer.take_name()
        return Register(line, name, self.lexer.accept_id())

    def invoke(self, line: int) -> Command:
        return ActionCommand(line, self.invoke_body())

    def get(self, line: int) -> Command:
        return ActionCommand(line, self.get_body())

    def assert_return(self, line: int) -> Command:
        action = self.action()
        results = []
        while self.lexer.kind == "(":
            results.append(self.result(either=True))
        return AssertReturn(line, action, tuple(results))

    def assert_trap(self, line: int) -> Command:
        what = self.module() if self.lexer.at_form("module") else self.action()
        return AssertTrap(line, what, self.lexer.take_name())

    def assert_exhaustion(self, line: int) -> Command:
        action = self.action()
        return AssertExhaustion(line, action, self.lexer.take_name())

    def assert_exception(self, line: int) -> Command:
        return AssertException(line, self.action())

    def assert_malformed(self, line: int) -> Command:
        module = self.module()
        return AssertMalformed(line, module, self.lexer.take_name())

    def assert_malformed_custom(self, line: int) -> Command:
        module = self.module()
        return AssertMalformed(line, module, self.lexer.take_name(), custom=True)

    def assert_invalid(self, line: int) -> Command:
        module = self.module()
        return AssertInvalid(line, module, self.lexer.take_name())

    def assert_invalid_custom(self, line: int) -> Command:
        module = self.module()
        return AssertInvalid(line, module, self.lexer.take_name(), custom=True)

    def assert_unlinkable(self, line: int) -> Command:
        module = self.module()
        return AssertUnlinkable(line, module, self.lexer.take_name())

    def thread(self, line: int) -> Command:
        lexer = self.lexer
        if self.in_thread:
            raise lexer.error("unexpected token: threads do not nest")
        self.in_thread = True
        name = lexer.accept_id()
        shared = []
        while lexer.accept_form("shared"):
            lexer.open("module")
            shared.append(str(lexer.take("id")))
            lexer.close()
            lexer.close()
        commands = []
        while lexer.kind == "(":
            commands.append(self.command())
        self.in_thread = False
        return Thread(line, name, tuple(shared), tuple(commands))

    def wait(self, line: int) -> Command:
        return Wait(line, self.lexer.accept_id())

    # Actions.

    def action(self) -> Action:
        lexer = self.lexer
        action: Action
        if lexer.accept_form("get"):
            action = self.get_body()
        else:
            lexer.open("invoke")
            action = self.invoke_body()
        lexer.close()
        return action

    def invoke_body(self) -> Invoke:
        lexer = self.lexer
        module = lexer.accept_id()
        name = lexer.take_name()
        arguments = []
        while lexer.kind == "(":
            start = lexer.position
            value = self.result(either=False)
            if not isinstance(value, (Const, RefNull, RefHost)):
                lexer.position = start + 1
                raise lexer.unexpected()
            arguments.append(value)
        return Invoke(module, name, tuple(arguments))

    def get_body(self) -> Get:
        module = self.lexer.accept_id()
        return Get(module, self.lexer.take_name())

    # Values.

    def result(self, either: bool) -> Result:
        """A value or a pattern; `either` alternatives do not nest."""
        lexer = self.lexer
        lexer.take("(")
        start = lexer.position
        word = lexer.take_keyword()
        result: Result
        if word in ("i32.const", "i64.const"):
            result = Const(word[:3], self.integer(int(word[1:3])))
        elif word in ("f32.const", "f64.const"):
            result = self.floating(int(word[1:3]))
        elif word == "v128.const":
            result = self.vector()
        elif word == "ref.null":
            result = RefNull(lexer.take_keyword() if lexer.kind == "keyword" else None)
        elif word in ("ref.extern", "ref.host") and lexer.kind == "number":
            result = RefHost(word[4:], self.integer(32))
        elif word.startswith("ref.") and word[4:] in _REF_PATTERNS:
            result = RefPattern(word[4:])
        elif word == "either" and either:
            alternatives = []
            while lexer.kind == "(":
                alternatives.append(self.result(either=False))
            result = Either(tuple(alternatives))
        else:
            lexer.position = start
            raise lexer.unexpected()
        lexer.close()
        return result

    def literal(self, parse: Callable[[str, int], int], nbits: int) -> int:
        text = str(self.lexer.take("number"))
        try:
            return parse(text, nbits)
        except ValueError as error:
            self.lexer.position -= 1
            raise self.lexer.error(str(error)) from None

    def integer(self, nbits: int) -> int:
        return self.literal(parse_int, nbits)

    def floating(self, nbits: int) -> Const | NanPattern:
        lexer = self.lexer
        if lexer.kind == "number" and lexer.value in _NANS:
            return NanPattern(f"f{nbits}", str(lexer.take("number"))[4:])
        return Const(f"f{nbits}", self.literal(parse_float, nbits))

    def vector(self) -> Const | VectorPattern:
        lexer = self.lexer
        start = lexer.position
        shape = lexer.take_keyword()
        if shape not in _SHAPES:
            lexer.position = start
            raise lexer.unexpected()
        family, nbits = _SHAPES[shape]
        lanes = [
            Const(f"i{nbits}", self.integer(nbits)) if family == "i" else self.floating(nbits)
            for _ in range(128 // nbits)
        ]
        data = b""
        for lane in lanes:
            if not isinstance(lane, Const) or not isinstance(lane.value, int):
                return VectorPattern(shape, tuple(lanes))
            data += lane.value.to_bytes(nbits // 8, "little")
        return Const("v128", data)


_COMMANDS: dict[str, Callable[[_ScriptParser, int], Command]] = {
    "register": _ScriptParser.register,
    "invoke": _ScriptParser.invoke,
    "get": _ScriptParser.get,
    "assert_return": _ScriptParser.assert_return,
    "assert_trap": _ScriptParser.assert_trap,
    "assert_exhaustion": _ScriptParser.assert_exhaustion,
    "assert_exception": _ScriptParser.assert_exception,
    "assert_malformed": _ScriptParser.assert_malformed,
    "assert_malformed_custom": _ScriptParser.assert_malformed_custom,
    "assert_invalid": _ScriptParser.assert_invalid,
    "assert_invalid_custom": _ScriptParser.assert_invalid_custom,
    "assert_unlinkable": _ScriptParser.assert_unlinkable,
    "thread": _ScriptParser.thread,
    "wait": _ScriptParser.wait,
    "module": _ScriptParser.module_command,
}
