"""From a function's record to Python source: one function that can be entered after any check point and after any call.

Its parameters are the function's, the frame budget `d`, the entry point `pc` (the operator after which to go on), the
other locals, and the operand slots that live at such points. A shallow tree of `if pc<n:` without else leads to the
leaves: code from one entry point or label to the next; falling out of a leaf runs into the next one. What contains no
entry point becomes Python's own control flow inside its leaf, so nesting in the guest never nests deeper here.

Generated code saves nothing: where it may stop, a comment at the end of the line before says what a driver needs:
  #D                nothing has happened yet
  #kPC:COST         a check point: go on at PC, COST will be charged again
  #cPC:K:N          a call: go on at PC with N results in the variables from K
  #tI, #zI, #bI, #sI, #aI, #xI
                    operator I may trap (an access, a division, a table, a structure, an array), or throws
Handlers of instructions are in `control` and `operands`; how instances are bound to the code is in `binding`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Generator as Generator_
from typing import Any

from aiowasm.engine.interpreter.accesses import LOAD_FORMS, STORE_FORMS
from aiowasm.engine.interpreter.control import ControlGenerator
from aiowasm.engine.interpreter.emitter import Scope, zero_text
from aiowasm.engine.interpreter.expressions import EXACT, MASKS, TEMPLATES, Expr, constant
from aiowasm.engine.interpreter.handlers import Clause, Handlers
from aiowasm.syntax.instructions import BY_NAME

__all__ = ("Generated", "Generator")

_LOCAL_GET = BY_NAME["local.get"].code
_INTEGER_CONSTS = frozenset(BY_NAME[name].code for name in ("i32.const", "i64.const"))
_STEP_MASK = 0x3FF  # operators between two steps: about 3 ms


class Generated:
    """A function's source and what is needed to bind and to resume it."""

    __slots__ = (
        "cells",
        "clauses",
        "defaults",
        "handlers",
        "has_tail",
        "names",
        "nlocals",
        "nparams",
        "slots",
        "source",
    )

    def __init__(self) -> None:
        self.source = ""
        self.cells: dict[str, tuple[str, Any]] = {}
        self.names: list[str] = []
        """Variables of a suspended frame, in order: locals, then slots."""
        self.nlocals = 0
        self.nparams = 0
        self.slots = 0
        """What a frame costs of the limit on stack slots."""
        self.defaults: list[str] = []
        self.has_tail = False
        self.handlers: Handlers[int] = Handlers()
        """Targets are numbers of clauses."""
        self.clauses: list[tuple[int, int, int]] = []
        """Where a clause lands: (pc or -1 for the function's end, first variable, number of values)."""


class Generator(ControlGenerator):
    """The walk over one record."""

    # The function as a whole

    def steps(self) -> Generator_[None, None, Generated]:
        """Generate the function, yielding now and then."""
        record = self.record
        ops, immediates, cost = record.ops, record.immediates, self.cost
        stack, shapes = self.stack, self.shapes
        self.scopes.append(Scope(record.blocks[0], "func", 0, simple=False))
        self.leaf(0)
        self.line(f"#D\nif d<{self.budget}:raise Deep")
        self.charge(-1)
        for index, code in enumerate(ops):
            if not index & _STEP_MASK:
                yield
            immediate = immediates[index]
            if code == _LOCAL_GET:
                stack.append(Expr(f"l{immediate}", MASKS.get(shapes[immediate], EXACT), 2 << immediate))  # type: ignore[call-overload,operator]
            elif code in _INTEGER_CONSTS:
                stack.append(constant(immediate))  # type: ignore[arg-type]
            elif code in TEMPLATES:
                self.arithmetic(index, code)
            elif code in LOAD_FORMS:
                self.load(index, code, immediate)
            elif code in STORE_FORMS:
                self.store(index, code, immediate)
            elif code in _HANDLERS:
                _HANDLERS[code](self, index, immediate)
            else:
                self.other(index, code, immediate)
            if index in cost and code not in _CHARGED:
                self.charge_or_split(index)
            stack = self.stack
        return self.finish()

    def finish(self) -> Generated:
        made = Generated()
        made.nlocals, made.nparams, made.slots = self.nlocals, self.record.nparams, self.budget
        made.names = [f"l{k}" for k in range(self.nlocals)] + [f"s{height}" for height in range(self.nslots)]
        made.defaults = [zero_text(valtype) for valtype in self.record.locals][made.nparams :] + ["0"] * self.nslots
        made.has_tail = self.has_tail
        self.catches(made)
        made.source = self.source(made)
        made.cells = self.cells
        return made

    def catches(self, made: Generated) -> None:
        for block, clauses in self.tries:
            row = []
            for kind, tagidx, scope in clauses:
                row.append(Clause(kind, tagidx, len(made.clauses)))
                count = len(scope.labels)
                if scope.kind == "func":
                    made.clauses.append((-1, 0, count))
                else:
                    made.clauses.append((scope.pc, self.nlocals + scope.base, count))
                    self.nslots = max(self.nslots, scope.base + count)
            made.handlers.add(block.start, block.end, row)
        made.handlers.close()
        made.names = [f"l{k}" for k in range(self.nlocals)] + [f"s{height}" for height in range(self.nslots)]
        made.defaults += ["0"] * (len(made.names) - made.nparams - len(made.defaults))

    def source(self, made: Generated) -> str:
        """The text: an outer function whose parameters become the closure's cells."""
        globals_ = [name for name, (kind, _) in self.cells.items() if kind == "g"]
        cells = ["fuel", "this", *self.cells, *(["catch"] if self.tries else [])]
        parameters = [*made.names[: made.nparams], "d", "pc=0"]
        parameters += [f"{name}={zero}" for name, zero in zip(made.names[made.nparams :], made.defaults, strict=True)]
        out = [
            f"def mk({','.join(cells)}):",
            f" def f{self.funcidx}({','.join(parameters)}):",
            f"  nonlocal {','.join(['fuel', 'this', *globals_])}",
        ]
        if self.jumps:
            out.append("  j=0")
        out.append("  while True:")
        indent = 3
        if self.tries:
            out.append("   try:")
            indent = 4
        self.tree(out, 0, len(self.leaves), indent)
        if self.tries:
            out.append("   except Thrown as e:")
            out.append("    t,v=catch(e)")
            for number, (pc, first, count) in enumerate(made.clauses):
                out.append(f"    if t=={number}:")
                if pc < 0:
                    out.append("     return " + ("v[0]" if count == 1 else "tuple(v)" if count else ""))
                    continue
                if count:
                    out.append("     " + "".join(f"{made.names[first + i]}," for i in range(count)) + "=v")
                out.append(f"     pc={pc}")
                out.append("     continue")
            out.append("    raise")
        out.append(f" return f{self.funcidx}\n")
        return "\n".join(out)

    def tree(self, out: list[str], low: int, high: int, indent: int) -> None:
        """The leaves from *low* to *high*, found by `pc` in log2 comparisons."""
        if high - low == 1:
            lines = self.leaves[low][1]
            out.extend([" " * (indent + depth) + text for depth, text in lines])
            if not lines:
                out.append(" " * indent + "pass")
            return
        middle = (low + high) // 2
        out.append(" " * indent + f"if pc<{self.leaves[middle][0]}:")
        self.tree(out, low, middle, indent + 1)
        self.tree(out, middle, high, indent)


Handler = Callable[[Generator, int, Any], None]
_HANDLERS: dict[int, Handler] = {
    BY_NAME[name].code: handler
    for names, handler in (
        ("local.set", Generator.local_set),
        ("local.tee", Generator.local_tee),
        ("global.get", Generator.global_get),
        ("global.set", Generator.global_set),
        ("f32.const", Generator.f32_const),
        ("f64.const", Generator.f64_const),
        ("v128.const", Generator.v128_const),
        ("drop", Generator.drop),
        ("select select_t", Generator.select),
        ("block loop if try_table", Generator.open),
        ("else", Generator.else_),
        ("end", Generator.end),
        ("br", Generator.br),
        ("br_if", Generator.br_if),
        ("br_on_null", Generator.br_on_null),
        ("br_on_non_null", Generator.br_on_non_null),
        ("br_on_cast", Generator.br_on_cast),
        ("br_on_cast_fail", Generator.br_on_cast_fail),
        ("br_table", Generator.br_table),
        ("return", Generator.return_),
        ("unreachable", Generator.unreachable),
        ("call", Generator.call),
        ("call_indirect", Generator.call_indirect),
        ("call_ref", Generator.call_ref),
        ("return_call", Generator.return_call),
        ("return_call_indirect", Generator.return_call_indirect),
        ("return_call_ref", Generator.return_call_ref),
        ("throw", Generator.throw),
        ("throw_ref", Generator.throw_ref),
        ("ref.null", Generator.ref_null),
        ("ref.func", Generator.ref_func),
        ("ref.is_null", Generator.ref_is_null),
        ("ref.eq", Generator.ref_eq),
        ("ref.test ref.test_null", Generator.ref_test),
        ("any.convert_extern extern.convert_any", Generator.convert),
        ("memory.size", Generator.memory_size),
        ("table.size", Generator.table_size),
        ("table.get", Generator.table_get),
        ("struct.get struct.get_u", Generator.struct_get),
        ("struct.get_s", Generator.struct_get_s),
        ("array.get array.get_u", Generator.array_get),
        ("array.get_s", Generator.array_get_s),
        ("array.len", Generator.array_len),
        ("nop atomic.fence", Generator.nop),
    )
    for name in names.split()
}
_CHARGED = frozenset(
    BY_NAME[name].code
    for name in [
        "block",
        "loop",
        "if",
        "try_table",
        "else",
        "end",
        "br_if",
        "br_on_null",
        "br_on_non_null",
        "br_on_cast",
        "br_on_cast_fail",
        "call",
        "call_indirect",
        "call_ref",
    ]
)
"""Handlers of these charge the segment after them themselves."""
