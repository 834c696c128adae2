"""A small part of Python as LLVM IR: functions on integers and arrays of integers, for what is too slow in Python.

Such a function runs in Python too, which is how it is tested. All integers have 64 bits and wrap. Every access to an
array is checked: one outside (negative indices too) ends the whole call, and so nothing that such code does can touch
memory that is not in the arrays it was given. There are assignments, `if`, `while`, `break`, `continue`, `return`,
calls of other such functions, constants of modules, arithmetic, and conditions; there is nothing else.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Final

__all__ = ("ARRAYS", "FAULT", "functions_ir")

ARRAYS: Final = {"Bytes": 8, "Halves": 16, "Words": 32, "Longs": 64}
"""Annotations of arrays, and the bits of their unsigned elements."""
FAULT: Final = -2
"""What a call returns that reached outside an array."""

_OPERATORS: Final[dict[type[ast.operator], str]] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.BitAnd: "and",
    ast.BitOr: "or",
    ast.BitXor: "xor",
    ast.LShift: "shl",
    ast.RShift: "ashr",
}
_COMPARISONS: Final[dict[type[ast.cmpop], str]] = {
    ast.Eq: "eq",
    ast.NotEq: "ne",
    ast.Lt: "slt",
    ast.LtE: "sle",
    ast.Gt: "sgt",
    ast.GtE: "sge",
}
# Neither tables nor calls of the C library may come of it: the code stands alone.
_ATTRIBUTES: Final = 'nounwind "no-jump-tables"="true" "no-builtins"'


class _Function:
    """The IR of one function, as it is written."""

    def __init__(self, function: Callable[..., int]) -> None:
        self._names = function.__globals__
        (node,) = ast.parse(inspect.getsource(function)).body
        if not isinstance(node, ast.FunctionDef):
            raise SyntaxError(f"{function} is not written as a function")
        self._node = node
        self.name = node.name
        self.called: list[Callable[..., int]] = []
        self._lines: list[str] = []
        self._number = 0
        self._loops: list[tuple[str, str]] = []
        self._arguments = _parameters(node)
        self.arrays = {name: ARRAYS[kind] for name, kind in self._arguments.items() if kind in ARRAYS}
        self.scalars = [name for name in self._arguments if name not in self.arrays]
        self._locals = {target.id for target in ast.walk(node) if isinstance(target, ast.Name) and _is_stored(target)}
        self._locals.update(self.scalars)

    def _fail(self, node: ast.AST, why: str) -> SyntaxError:
        return SyntaxError(f"{self._node.name}, line {getattr(node, 'lineno', '?')}: {why}")

    def _new(self, prefix: str = "") -> str:
        self._number += 1
        return f"{prefix}{self._number}"

    def _emit(self, line: str) -> None:
        self._lines.append(line)

    def _value(self, line: str) -> str:
        name = "%" + self._new("v")
        self._emit(f"{name} = {line}")
        return name

    def _label(self, name: str) -> None:
        """Start a block; what stands before falls through to it."""
        self._emit(f"br label %{name}")
        self._emit(f"{name}:")

    def text(self) -> str:
        """Return the definition."""
        parameters = ["ptr %fault"]
        for name in self._arguments:
            parameters += [f"ptr %a.{name}", f"i64 %n.{name}"] if name in self.arrays else [f"i64 %p.{name}"]
        for name in sorted(self._locals):
            self._emit(f"%l.{name} = alloca i64")
            self._emit(f"store i64 {'%p.' + name if name in self.scalars else 0}, ptr %l.{name}")
        for statement in self._node.body:
            self._statement(statement)
        self._emit("br label %out")
        self._emit("outside:\nstore i64 1, ptr %fault\nbr label %out")
        self._emit("out:\nret i64 0")
        name = self._node.name
        head = f"define internal i64 @{name}({', '.join(parameters)}) alwaysinline {_ATTRIBUTES} {{\nentry:\n"
        return head + "\n".join(self._lines) + "\n}\n"

    # Statements

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=[target], value=value):
                self._store(target, self._expression(value))
            case ast.AugAssign(target=target, op=op, value=value):
                before = self._expression(target)
                self._store(target, self._value(f"{self._operator(op)} i64 {before}, {self._expression(value)}"))
            case ast.If(test=test, body=body, orelse=orelse):
                self._if(test, body, orelse)
            case ast.While(test=test, body=body, orelse=[]):
                head, inside, after = self._new("head"), self._new("body"), self._new("after")
                self._label(head)
                self._condition(test, inside, after)
                self._emit(f"{inside}:")
                self._loops.append((head, after))
                self._block(body)
                self._loops.pop()
                self._emit(f"br label %{head}\n{after}:")
            case ast.Return(value=value) if value is not None:
                self._emit(f"ret i64 {self._expression(value)}\n{self._new('dead')}:")
            case ast.Continue() if self._loops:
                self._emit(f"br label %{self._loops[-1][0]}\n{self._new('dead')}:")
            case ast.Break() if self._loops:
                self._emit(f"br label %{self._loops[-1][1]}\n{self._new('dead')}:")
            case ast.Expr(value=ast.Call() as call):
                self._expression(call)
            case ast.Expr(value=ast.Constant(value=str())):
                pass
            case _:
                raise self._fail(node, f"{ast.unparse(node)} is not in the subset")

    def _operator(self, node: ast.operator) -> str:
        if type(node) not in _OPERATORS:
            raise self._fail(node, f"no operator {type(node).__name__}")
        return _OPERATORS[type(node)]

    def _block(self, body: list[ast.stmt]) -> None:
        for statement in body:
            self._statement(statement)

    def _if(self, test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt]) -> None:
        then, otherwise, after = self._new("then"), self._new("else"), self._new("after")
        self._condition(test, then, otherwise if orelse else after)
        self._emit(f"{then}:")
        self._block(body)
        if orelse:
            self._emit(f"br label %{after}\n{otherwise}:")
            self._block(orelse)
        self._label(after)

    def _store(self, target: ast.expr, value: str) -> None:
        match target:
            case ast.Name(id=name):
                self._emit(f"store i64 {value}, ptr %l.{name}")
            case ast.Subscript(value=ast.Name(id=name), slice=index) if name in self.arrays:
                bits, place = self.arrays[name], self._element(name, index)
                if bits < 64:
                    value = self._value(f"trunc i64 {value} to i{bits}")
                self._emit(f"store i{bits} {value}, ptr {place}, align 1")
            case _:
                raise self._fail(target, f"cannot assign to {ast.unparse(target)}")

    # Expressions

    def _element(self, name: str, index: ast.expr) -> str:
        """The address of an element, which exists: else the function is left."""
        at = self._expression(index)
        inside = self._value(f"icmp ult i64 {at}, %n.{name}")
        label = self._new("inside")
        self._emit(f"br i1 {inside}, label %{label}, label %outside, !prof !0\n{label}:")
        return self._value(f"getelementptr i{self.arrays[name]}, ptr %a.{name}, i64 {at}")

    def _expression(self, node: ast.expr) -> str:
        match node:
            case ast.Constant(value=int(value)):
                return _literal(value)
            case ast.Name(id=name) if name in self._locals:
                return self._value(f"load i64, ptr %l.{name}")
            case ast.Name(id=name) if isinstance(self._names.get(name), int):
                return _literal(self._names[name])
            case ast.Attribute(value=ast.Name(id=module), attr=name) if self._is_constant(module, name):
                return _literal(getattr(self._names[module], name))
            case ast.Subscript(value=ast.Name(id=name), slice=index) if name in self.arrays:
                bits = self.arrays[name]
                loaded = self._value(f"load i{bits}, ptr {self._element(name, index)}, align 1")
                return loaded if bits == 64 else self._value(f"zext i{bits} {loaded} to i64")
            case ast.BinOp(left=left, op=op, right=right):
                first, second = self._expression(left), self._expression(right)
                return self._value(f"{self._operator(op)} i64 {first}, {second}")
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._value(f"sub i64 0, {self._expression(operand)}")
            case ast.Call(func=ast.Name(id="max"), args=[left, right], keywords=[]):
                first, second = self._expression(left), self._expression(right)
                larger = self._value(f"icmp sgt i64 {first}, {second}")
                return self._value(f"select i1 {larger}, i64 {first}, i64 {second}")
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if inspect.isfunction(
                self._names.get(name)
            ):
                return self._call(node, self._names[name], arguments)
            case _:
                raise self._fail(node, f"{ast.unparse(node)} is not in the subset")

    def _is_constant(self, module: str, name: str) -> bool:
        found = self._names.get(module)
        return isinstance(found, ModuleType) and isinstance(getattr(found, name, None), int)

    def _is_function(self, name: str) -> bool:
        return inspect.isfunction(self._names.get(name))

    def _call(self, node: ast.expr, function: Callable[..., int], arguments: list[ast.expr]) -> str:
        called = _Function(function)
        self.called.append(function)
        if len(called._arguments) != len(arguments):
            raise self._fail(node, f"{called.name} takes {len(called._arguments)} arguments")
        given = ["ptr %fault"]
        for name, argument in zip(called._arguments, arguments, strict=True):
            bits = called.arrays.get(name)
            if bits is None:
                given.append(f"i64 {self._expression(argument)}")
            elif isinstance(argument, ast.Name) and self.arrays.get(argument.id) == bits:
                given += [f"ptr %a.{argument.id}", f"i64 %n.{argument.id}"]
            else:
                raise self._fail(node, f"{name} is an array of {bits} bits")
        value = self._value(f"call i64 @{called.name}({', '.join(given)})")
        fault = self._value("load i64, ptr %fault")
        fine, label = self._value(f"icmp eq i64 {fault}, 0"), self._new("fine")
        self._emit(f"br i1 {fine}, label %{label}, label %out, !prof !0\n{label}:")
        return value

    def _condition(self, node: ast.expr, true: str, false: str) -> None:
        """Branch to *true* or *false*."""
        match node:
            case ast.BoolOp(op=op, values=[*earlier, last]):
                for value in earlier:
                    between = self._new("next")
                    if isinstance(op, ast.And):
                        self._condition(value, between, false)
                    else:
                        self._condition(value, true, between)
                    self._emit(f"{between}:")
                self._condition(last, true, false)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self._condition(operand, false, true)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
                first, second = self._expression(left), self._expression(right)
                holds = self._value(f"icmp {_COMPARISONS[type(op)]} i64 {first}, {second}")
                self._emit(f"br i1 {holds}, label %{true}, label %{false}")
            case ast.Compare(left=left, ops=[ast.In()], comparators=[ast.Tuple(elts=values)]):
                equal: list[ast.expr] = [ast.Compare(left, [ast.Eq()], [value]) for value in values]
                self._condition(ast.BoolOp(ast.Or(), equal), true, false)
            case _:
                holds = self._value(f"icmp ne i64 {self._expression(node)}, 0")
                self._emit(f"br i1 {holds}, label %{true}, label %{false}")


def _parameters(node: ast.FunctionDef) -> dict[str, str]:
    """Names and annotations."""
    return {each.arg: ast.unparse(each.annotation) if each.annotation else "" for each in node.args.args}


def _is_stored(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)


def _literal(value: int) -> str:
    value &= (1 << 64) - 1
    return str(value - (1 << 64) if value >> 63 else value)


def functions_ir(entry: Callable[..., int]) -> str:
    """Return IR for the function *entry*, with what it calls.

    The IR defines `i64 @<name>.entry(ptr)`, whose argument points to the address and the length of each array, in the
    order of the parameters, all of which must be arrays; it returns what *entry* does, or `FAULT`.

    Raises:
        SyntaxError: If something is not in the subset.
    """
    written: dict[str, str] = {}
    waiting = [entry]
    while waiting:
        function = _Function(waiting.pop())
        if function.name not in written:
            written[function.name] = function.text()
            waiting += function.called
    outermost = _Function(entry)
    if outermost.scalars:
        raise SyntaxError(f"{outermost.name} takes other things than arrays")
    weights = '!0 = !{!"branch_weights", i32 1000, i32 1}\n'
    return "".join(written.values()) + _entry(outermost.name, len(outermost.arrays)) + weights


def _entry(name: str, count: int) -> str:
    lines = ["%fault = alloca i64", "store i64 0, ptr %fault"]
    given = ["ptr %fault"]
    for number in range(count):
        for offset, kind in ((0, "ptr"), (1, "i64")):
            lines.append(f"%p{number}.{offset} = getelementptr i64, ptr %arrays, i64 {2 * number + offset}")
            lines.append(f"%v{number}.{offset} = load {kind}, ptr %p{number}.{offset}")
            given.append(f"{kind} %v{number}.{offset}")
    lines.append(f"%result = call i64 @{name}({', '.join(given)})")
    lines.append("%seen = load i64, ptr %fault\n%bad = icmp ne i64 %seen, 0")
    lines.append(f"%answer = select i1 %bad, i64 {FAULT}, i64 %result\nret i64 %answer")
    body = "\n".join(lines)
    return f'define i64 @"{name}.entry"(ptr %arrays) {_ATTRIBUTES} {{\n{body}\n}}\n'
