"""What generated code is made with: an operand stack of expressions, variables, lines, leaves.

Operands stay expressions until something forces a statement; then they are spilled to the slot of their height. Which
instruction does what is in `generate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiowasm.engine.interpreter.expressions import EXACT, MASKS, NAN_DIRTY, Expr, canonical, clean, whole
from aiowasm.syntax.types import NumType, RefType, ValType

if TYPE_CHECKING:
    from aiowasm.validation.record import Block

__all__ = ("Emitter", "Scope", "shape_of", "zero_text")

_LONGEST = 400  # characters: bounds the nesting of an expression below what Python's parser takes (200 parentheses)
_ZEROS = {"i32": "0", "i64": "0", "f32": "0.0", "f64": "0.0", "v128": "V0", "ref": "None"}


def shape_of(valtype: ValType) -> str:
    """i32, i64, f32, f64, v128, or ref."""
    return "ref" if isinstance(valtype, RefType) else _SHAPES[valtype]


_SHAPES = {numtype: numtype.name.lower() for numtype in NumType}


def zero_text(valtype: ValType) -> str:
    """The default value in generated code."""
    return _ZEROS[shape_of(valtype)]


class Scope:
    """A label in scope: a structured instruction while its code is generated.

    `simple`: nothing inside can be resumed, so it becomes Python's own control flow; `loops`: as a `while True`.
    Otherwise a branch to it sets `pc`. `far` are the jumps that leave its `while` for somewhere else.
    """

    __slots__ = (
        "base",
        "block",
        "far",
        "kind",
        "labels",
        "loops",
        "pc",
        "saved",
        "shapes",
        "simple",
        "then_live",
        "uid",
    )

    def __init__(self, block: Block, kind: str, base: int, *, simple: bool) -> None:
        self.block = block
        self.kind = kind
        self.base = base
        self.simple = simple
        self.loops = simple and (kind == "loop" or block.targeted)
        self.labels = [shape_of(valtype) for valtype in block.labels]
        self.shapes = [shape_of(valtype) for valtype in block.results]
        self.pc = block.start + 1 if kind == "loop" else block.end + 1
        self.uid = 0
        self.far: set[int] = set()
        self.saved: list[Expr] = []
        self.then_live = False


class Emitter:
    """Lines of one function in the making."""

    def __init__(self, nlocals: int) -> None:
        self.nlocals = nlocals
        self.stack: list[Expr] = []
        self.lines: list[tuple[int, str]] = []
        self.leaves: list[tuple[int, list[tuple[int, str]]]] = []
        self.depth = 0
        self.nslots = 0
        """Slots that are live at some point where the function can be resumed."""
        self.whiles: list[Scope] = []
        self.jumps = False
        self.cells: dict[str, tuple[str, Any]] = {}
        """What the code closes over: name -> (kind, immediate)."""
        self._uids = 0
        self._keys: dict[tuple[str, Any], str] = {}

    # Lines

    def line(self, text: str) -> None:
        """A statement; a first line that is a mark (`#...`) belongs to the next."""
        if text[0] == "#":
            mark, text = text.split("\n", 1)
            self.lines.append((self.depth, mark))
        self.lines.append((self.depth, text))

    def leaf(self, pc: int) -> None:
        """Start the code that is entered with *pc*, or by falling out of what is before it."""
        self.lines = []
        self.leaves.append((pc, self.lines))
        self.nslots = max(self.nslots, len(self.stack))

    def bound(self, kind: str, immediate: Any) -> str:
        """The name of a closure cell that binding fills with what *kind* makes of *immediate*."""
        key = (kind, immediate)
        name = self._keys.get(key)
        if name is None:
            name = self._keys[key] = f"x{len(self._keys)}"
            self.cells[name] = key
        return name

    def cell(self, letter: str, index: int) -> str:
        """The name of the cell of an entity: M memory, g global, F function, T table."""
        name = f"{letter}{index}"
        self.cells[name] = (letter, index)
        return name

    # Variables and operands

    def variable(self, k: int) -> str:
        """Local *k*, or the slot of height k - nlocals."""
        return f"l{k}" if k < self.nlocals else f"s{k - self.nlocals}"

    def slot(self, height: int, shape: str) -> Expr:
        """A canonical value in its slot."""
        k = self.nlocals + height
        return Expr(f"s{height}", MASKS.get(shape, EXACT), 2 << k)

    def push(self, expr: Expr) -> None:
        """Push an operand."""
        self.stack.append(expr)
        if len(expr.text) > _LONGEST:
            self.spill(len(self.stack) - 1)

    def pop(self) -> Expr:
        """Pop an operand; truth values become integers."""
        return whole(self.stack.pop())

    def typed(self, expr: Expr, shape: str) -> str:
        """The text of a value in engine form."""
        expr = whole(expr)
        if shape in MASKS:
            return clean(expr, MASKS[shape])
        return canonical(expr).text

    def spill(self, height: int) -> None:
        """Put the operand of *height* into its slot, after what must come before."""
        stack = self.stack
        expr = whole(stack[height])
        k = self.nlocals + height
        name = f"s{height}"
        if expr.text != name:
            before = (2 << k) | (expr.deps & 1)
            for below in range(height):
                if stack[below].deps & before:
                    self.spill(below)
            if expr.bound == NAN_DIRTY:
                expr = canonical(expr)
            self.line(f"{name}={expr.text}")
        stack[height] = Expr(name, expr.bound, 2 << k)

    def flush(self, deps: int = 1) -> None:
        """Spill the operands that depend on any of *deps*: what comes now may change it, or must come later."""
        for height, expr in enumerate(self.stack):
            if expr.deps & deps:
                self.spill(height)

    def flush_all(self) -> None:
        """Spill every operand."""
        for height in range(len(self.stack)):
            self.spill(height)

    def settle(self, count: int) -> None:
        """Spill those of the topmost *count* operands whose evaluation can be noticed."""
        for height in range(len(self.stack) - count, len(self.stack)):
            if self.stack[height].deps & 1:
                self.spill(height)

    def normalise(self, height: int, shape: str) -> None:
        """Bring the operand of *height* into its slot in engine form."""
        expr = whole(self.stack[height])
        text = self.typed(expr, shape)
        self.stack[height] = Expr(text, MASKS.get(shape, EXACT), expr.deps)
        self.spill(height)
        self.stack[height] = self.slot(height, shape)

    # Jumps

    def open_while(self, scope: Scope) -> None:
        """Start the `while True` of a simple scope."""
        self._uids += 1
        scope.uid = self._uids
        self.whiles.append(scope)
        self.line("while True:")
        self.depth += 1

    def close_while(self) -> None:
        """End it, and pass on the jumps that only left it."""
        scope = self.whiles.pop()
        self.depth -= 1
        if not scope.far:
            return
        outer = self.whiles[-1] if self.whiles else None
        self.line("if j:")
        self.depth += 1
        if outer is None:
            self.line("j=0")
            self.line("continue")
        else:
            self._pass_on(scope.far, outer)
        self.depth -= 1

    def _pass_on(self, far: set[int], outer: Scope) -> None:
        for uid in sorted(far):
            if len(far) > 1:
                self.line(f"if j=={uid}:")
                self.depth += 1
            if uid == outer.uid:
                self.line("j=0")
                self.line("continue" if outer.kind == "loop" else "break")
            else:
                outer.far.add(uid)
                self.line("break")
            if len(far) > 1:
                self.depth -= 1

    def goto(self, pc: int) -> None:
        """Go to the leaf of *pc*."""
        self.line(f"pc={pc}")
        self.jump_to_pc()

    def jump_to_pc(self) -> None:
        """Go to the leaf that `pc` says: through the tree, out of every `while`."""
        if not self.whiles:
            self.line("continue")
            return
        self.jumps = True
        self.line("j=-1")
        self.line("break")
        for scope in self.whiles:
            scope.far.add(-1)

    def jump(self, scope: Scope) -> None:
        """Go to a label whose values are in their slots."""
        if not scope.loops:
            self.goto(scope.pc)
        elif self.whiles[-1] is scope:
            self.line("continue" if scope.kind == "loop" else "break")
        else:
            self.jumps = True
            self.line(f"j={scope.uid}")
            self.line("break")
            for inner in reversed(self.whiles):
                if inner is scope:
                    break
                inner.far.add(scope.uid)

    def branch(self, scope: Scope) -> None:
        """Carry the topmost operands to *scope* and go there; the operand stack stays for who falls through."""
        count = len(scope.labels)
        values = self.stack[len(self.stack) - count :]
        texts = [self.typed(value, shape) for value, shape in zip(values, scope.labels, strict=True)]
        if scope.kind == "func":
            self.line("return " + ",".join(texts) if texts else "return")
            return
        moves = [(f"s{scope.base + i}", text) for i, text in enumerate(texts) if text != f"s{scope.base + i}"]
        if moves:
            self.line(",".join(name for name, _ in moves) + "=" + ",".join(text for _, text in moves))
        self.jump(scope)
