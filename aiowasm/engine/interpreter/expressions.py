"""Python expressions for the standard's numeric operators: the templates of generated code.

An `Expr` is text with what is known of its value, so that masks are written only where they can matter. `TEMPLATES`
maps `Instruction.code` to a function from operands to an `Expr`; arithmetic without a template calls the operator of
`engine.operators`, under the name `E` and its code. Statements, memory and control are not here.

The masks matter: without bounds and dirty values the kernels of benchmarks/interpreter.py run a third slower.
"""

from __future__ import annotations

from collections.abc import Callable
from math import copysign
from struct import Struct
from typing import Any, Final, NamedTuple

from aiowasm.engine.operators import EVALUATE
from aiowasm.syntax.floats import NAN
from aiowasm.syntax.instructions import INSTRUCTIONS, Operation

__all__ = (
    "BOOL",
    "EXACT",
    "MASKS",
    "NAMES",
    "NAN_CANONICAL",
    "NAN_DIRTY",
    "TEMPLATES",
    "TRAPS",
    "Expr",
    "canonical",
    "clean",
    "constant",
    "whole",
)

M32: Final = 0xFFFF_FFFF
M64: Final = 0xFFFF_FFFF_FFFF_FFFF
MASKS: Final = {"i32": M32, "i64": M64}

BOOL: Final = -(1 << 20)
"""`Expr.bound` of a Python truth value, which stands for 0 or 1."""
EXACT: Final = 0
"""`Expr.bound` of anything but an integer: a value as it has to be."""
NAN_DIRTY: Final = -1
"""`Expr.bound` of a float that may be a NaN other than the canonical one, which it stands for."""

NAN_CANONICAL: Final = -2
"""`Expr.bound` of a float whose NaN, if it is one, is canonical."""

_WIDEST_DIRTY = 90  # bits: beyond this Python's integers get a third digit and everything slows down


class Expr(NamedTuple):
    """An expression safe to embed anywhere.

    `bound` >= 0: an unsigned integer of its type, at most that; < 0: an integer of about -bound bits that is congruent
    to the value ("dirty"), or one of the special bounds. `deps`: bit 0 says that it may trap or reads what statements
    can change (memory, globals, tables), bit k+1 that it reads variable k.
    """

    text: str
    bound: int
    deps: int


Template = Callable[..., Expr]


def constant(value: int) -> Expr:
    """A canonical integer constant."""
    return Expr(str(value), value, 0)


def whole(expr: Expr) -> Expr:
    """The integer for a truth value; anything else as it is."""
    return Expr(f"(1 if {expr.text} else 0)", 1, expr.deps) if expr.bound == BOOL else expr


def clean(expr: Expr, mask: int) -> str:
    """The text of the canonical unsigned integer."""
    return expr.text if expr.bound >= 0 else f"({expr.text}&{mask})"


def canonical(expr: Expr) -> Expr:
    """The float with its NaN canonical."""
    if expr.bound != NAN_DIRTY:
        return expr
    return Expr(f"(t if (t:={expr.text})==t else NAN)", EXACT, expr.deps)


def _cleaned(expr: Expr, mask: int) -> Expr:
    return expr if expr.bound >= 0 else Expr(f"({expr.text}&{mask})", mask, expr.deps)


def _bits(expr: Expr) -> int:
    return expr.bound.bit_length() if expr.bound >= 0 else -expr.bound


def _is_constant(expr: Expr) -> bool:
    return expr.text[0].isdigit()


class _Integers:
    """Templates of one width. Methods are named as the operators in the standard's index."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.mask = (1 << n) - 1
        self.sign = 1 << n - 1

    def _clean(self, a: Expr) -> str:
        return clean(a, self.mask)

    def _dirty(self, text: str, bits: int, deps: int) -> Expr:
        if bits <= _WIDEST_DIRTY:
            return Expr(text, -bits, deps)
        return Expr(f"({text}&{self.mask})", self.mask, deps)

    def iadd(self, a: Expr, b: Expr) -> Expr:
        deps = a.deps | b.deps
        if a.bound >= 0 and b.bound >= 0 and a.bound + b.bound <= self.mask:
            return Expr(f"({a.text}+{b.text})", a.bound + b.bound, deps)
        if _is_constant(b) and b.bound > self.sign:
            return self._dirty(f"({a.text}-{self.mask + 1 - b.bound})", max(self.n, _bits(a)) + 1, deps)
        return self._dirty(f"({a.text}+{b.text})", max(_bits(a), _bits(b)) + 1, deps)

    def isub(self, a: Expr, b: Expr) -> Expr:
        bits = max(_bits(a), _bits(b)) + 1
        return self._dirty(f"({a.text}-{b.text})", bits, a.deps | b.deps)

    def imul(self, a: Expr, b: Expr) -> Expr:
        if _bits(a) + _bits(b) > 140:
            a, b = _cleaned(a, self.mask), _cleaned(b, self.mask)
        text, deps = f"({a.text}*{b.text})", a.deps | b.deps
        if a.bound >= 0 and b.bound >= 0 and a.bound * b.bound <= self.mask:
            return Expr(text, a.bound * b.bound, deps)
        return self._dirty(text, _bits(a) + _bits(b), deps)

    def iand(self, a: Expr, b: Expr) -> Expr:
        text, deps = f"({a.text}&{b.text})", a.deps | b.deps
        bounds = [x.bound for x in (a, b) if x.bound >= 0]
        return Expr(text, min(bounds) if bounds else -max(_bits(a), _bits(b)) - 1, deps)

    def _or(self, sign: str, a: Expr, b: Expr) -> Expr:
        bits = max(_bits(a), _bits(b))
        bound = (1 << bits) - 1 if a.bound >= 0 and b.bound >= 0 else -bits - 1
        return Expr(f"({a.text}{sign}{b.text})", bound, a.deps | b.deps)

    def ior(self, a: Expr, b: Expr) -> Expr:
        return self._or("|", a, b)

    def ixor(self, a: Expr, b: Expr) -> Expr:
        return self._or("^", a, b)

    def _amount(self, b: Expr) -> str:
        if _is_constant(b):
            return str(b.bound % self.n)
        return b.text if 0 <= b.bound < self.n else f"({b.text}&{self.n - 1})"

    def ishl(self, a: Expr, b: Expr) -> Expr:
        if _is_constant(b):
            k = b.bound % self.n
            text = f"({a.text}<<{k})"
            if a.bound >= 0 and a.bound << k <= self.mask:
                return Expr(text, a.bound << k, a.deps)
            return self._dirty(text, _bits(a) + k, a.deps)
        return Expr(f"({self._clean(a)}<<{self._amount(b)}&{self.mask})", self.mask, a.deps | b.deps)

    def ishr_u(self, a: Expr, b: Expr) -> Expr:
        bound = (a.bound if a.bound >= 0 else self.mask) >> (b.bound % self.n if _is_constant(b) else 0)
        return Expr(f"({self._clean(a)}>>{self._amount(b)})", bound, a.deps | b.deps)

    def ishr_s(self, a: Expr, b: Expr) -> Expr:
        if 0 <= a.bound < self.sign:
            return self.ishr_u(a, b)
        return Expr(f"({self.signed(a)}>>{self._amount(b)})", -self.n, a.deps | b.deps)

    def signed(self, a: Expr) -> str:
        """The text of the signed integer."""
        return a.text if 0 <= a.bound < self.sign else f"(({self._clean(a)}^{self.sign})-{self.sign})"

    def _rotate(self, a: Expr, k: int) -> Expr:
        x = self._clean(a)
        again = x if x.isidentifier() else "t"
        x = x if x.isidentifier() else f"(t:={x})"
        return self._dirty(f"({x}<<{k}|{again}>>{self.n - k})", self.n + k, a.deps)

    def irotl(self, a: Expr, b: Expr) -> Expr | None:
        return self._rotate(a, b.bound % self.n) if _is_constant(b) else None

    def irotr(self, a: Expr, b: Expr) -> Expr | None:
        return self._rotate(a, -b.bound % self.n) if _is_constant(b) else None

    def iclz(self, a: Expr) -> Expr:
        return Expr(f"({self.n}-{self._clean(a)}.bit_length())", self.n, a.deps) if not _is_constant(a) else None  # type: ignore[return-value]

    def ipopcnt(self, a: Expr) -> Expr:
        return Expr(f"({self._clean(a)}).bit_count()", self.n, a.deps)

    def idiv_u(self, a: Expr, b: Expr) -> Expr:
        return Expr(f"({self._clean(a)}//{self._clean(b)})", self.mask, a.deps | b.deps | 1)

    def irem_u(self, a: Expr, b: Expr) -> Expr:
        return Expr(f"({self._clean(a)}%{self._clean(b)})", self.mask, a.deps | b.deps | 1)

    def ieqz(self, a: Expr) -> Expr:
        if a.bound == BOOL:
            return Expr(f"(not {a.text})", BOOL, a.deps)
        return Expr(f"({self._clean(a)}==0)", BOOL, a.deps)

    def relation(self, sign: str) -> Template:
        """An unsigned relation."""
        return lambda a, b: Expr(f"({self._clean(a)}{sign}{self._clean(b)})", BOOL, a.deps | b.deps)

    def signed_relation(self, sign: str) -> Template:
        """A signed relation, as an unsigned one of values with their sign bits flipped where nothing simpler holds."""
        return lambda a, b: Expr(self._compare(sign, a, b), BOOL, a.deps | b.deps)

    def _compare(self, sign: str, a: Expr, b: Expr) -> str:
        half = self.sign
        if 0 <= a.bound < half and 0 <= b.bound < half:
            return f"({a.text}{sign}{b.text})"
        if _is_constant(b):
            k = b.bound - (self.mask + 1) if b.bound & half else b.bound
            x = self._clean(a)
            if (k, sign) in ((0, "<"), (-1, "<=")):
                return f"({x}>{half - 1})"
            if (k, sign) in ((0, ">="), (-1, ">")):
                return f"({x}<{half})"
            if k > 0 and x.isidentifier():
                if sign in ("<", "<="):
                    return f"({x}{sign}{k} or {x}>{half - 1})"
                return f"({k}{'<' if sign == '>' else '<='}{x}<{half})"
        left = f"({a.text}+{half})" if 0 <= a.bound < half else f"({self._clean(a)}^{half})"
        right = str(b.bound ^ half) if _is_constant(b) else f"({self._clean(b)}^{half})"
        return f"({left}{sign}{right})"

    def extend_low(self, k: int) -> Template:
        """Sign extension of the lowest *k* bits."""
        half = 1 << k - 1
        return lambda a: Expr(f"(({a.text}&{2 * half - 1}^{half})-{half})", -k - 1, a.deps)

    def templates(self) -> dict[str, Template]:
        """Operator -> template."""
        names = [
            "iadd",
            "isub",
            "imul",
            "iand",
            "ior",
            "ixor",
            "ishl",
            "ishr_u",
            "ishr_s",
            "irotl",
            "irotr",
            "iclz",
            "ipopcnt",
            "idiv_u",
            "irem_u",
            "ieqz",
        ]
        made: dict[str, Template] = {name: getattr(self, name) for name in names}
        for name, sign in (
            ("ieq", "=="),
            ("ine", "!="),
            ("ilt_u", "<"),
            ("igt_u", ">"),
            ("ile_u", "<="),
            ("ige_u", ">="),
        ):
            made[name] = self.relation(sign)
        for name, sign in (("ilt_s", "<"), ("igt_s", ">"), ("ile_s", "<="), ("ige_s", ">=")):
            made[name] = self.signed_relation(sign)
        for k in (8, 16, 32):
            made[f"iextend{k}_s"] = self.extend_low(k)
        return made


_I32, _I64 = _Integers(32), _Integers(64)


def _float_templates(n: int) -> dict[str, Template]:
    made: dict[str, Template] = {}
    if n == 64:  # every other float operator rounds or looks at NaNs, which costs a call anyway
        for name, sign in (("fadd", "+"), ("fsub", "-"), ("fmul", "*")):
            made[name] = _arithmetic(sign)
    for name, sign in (("feq", "=="), ("fne", "!="), ("flt", "<"), ("fgt", ">"), ("fle", "<="), ("fge", ">=")):
        made[name] = _float_relation(sign)
    made["fneg"] = lambda a: Expr(f"(-{canonical(a).text})", EXACT, a.deps)
    made["fabs"] = lambda a: Expr(f"abs({canonical(a).text})", EXACT, a.deps)
    return made


def _arithmetic(sign: str) -> Template:
    return lambda a, b: Expr(f"({a.text}{sign}{b.text})", NAN_DIRTY, a.deps | b.deps)


def _float_relation(sign: str) -> Template:
    return lambda a, b: Expr(f"({a.text}{sign}{b.text})", BOOL, a.deps | b.deps)


def _wrap(a: Expr) -> Expr:
    if _is_constant(a):
        return constant(a.bound & 0xFFFFFFFF)
    if 0 <= a.bound <= M32:
        return a
    return Expr(a.text, -max(33, _bits(a)), a.deps)


def _extend_s(a: Expr) -> Expr:
    return a if 0 <= a.bound < 1 << 31 else Expr(_I32.signed(a), -33, a.deps)


_CONVERSIONS: dict[tuple[str, str, str], Template] = {
    ("i32", "wrap", "i64"): _wrap,
    ("i64", "extend_u", "i32"): lambda a: _cleaned(a, M32),
    ("i64", "extend_s", "i32"): _extend_s,
    ("f64", "convert_s", "i32"): lambda a: Expr(f"float({_I32.signed(a)})", EXACT, a.deps),
    ("f64", "convert_u", "i32"): lambda a: Expr(f"float({clean(a, M32)})", EXACT, a.deps),
    ("f64", "convert_s", "i64"): lambda a: Expr(f"float({_I64.signed(a)})", EXACT, a.deps),
    ("f64", "convert_u", "i64"): lambda a: Expr(f"float({clean(a, M64)})", EXACT, a.deps),
    ("f64", "promote", "f32"): lambda a: Expr(a.text, NAN_DIRTY, a.deps),
}
_SCALARS = {"i32": _I32.templates(), "i64": _I64.templates(), "f32": _float_templates(32), "f64": _float_templates(64)}

_TRAPPING = ("idiv_s", "irem_s", "trunc_s", "trunc_u")


def _operand(a: Expr, shape: str) -> str:
    """The text of an operand of a called operator: in engine form."""
    if shape in MASKS:
        return clean(a, MASKS[shape])
    return canonical(a).text


def _called(code: int, operation: Operation, params: tuple[str, ...], result: str) -> Template:
    bound = MASKS.get(result, EXACT)
    trapping = 1 if operation.operator in _TRAPPING and operation.shape in MASKS else 0
    # An operator that rounds or computes looks at NaNs itself: any NaN will do.
    any_nan = operation.operator in ("fadd", "fsub", "fmul", "fdiv", "fsqrt", "demote")
    if any_nan and result in ("f32", "f64"):
        bound = NAN_CANONICAL

    def template(*operands: Expr) -> Expr:
        deps = trapping
        for operand in operands:
            deps |= operand.deps
        texts = (a.text if any_nan else _operand(a, shape) for a, shape in zip(operands, params, strict=True))
        return Expr(f"E{code}({','.join(texts)})", bound, deps)

    return template


def _or_called(template: Callable[..., Expr | None], called: Template) -> Template:
    """Some templates hold for constants only and are None otherwise."""

    def either(*operands: Expr) -> Expr:
        return template(*operands) or called(*operands)

    return either


TEMPLATES: dict[int, Template] = {}
"""Code -> template, for scalar and vector arithmetic without immediates and with one result."""
TRAPS: set[int] = set()
"""Codes of arithmetic that may trap."""

NAMES: dict[str, Any] = {"NAN": NAN, "copysign": copysign}
"""What generated code finds in its globals: operators, and how to read and write memory."""
for _letter, _name in (
    ("H", "u2"),
    ("I", "u4"),
    ("Q", "u8"),
    ("f", "uf"),
    ("d", "ud"),
    ("b", "i1"),
    ("h", "i2"),
    ("i", "i4"),
):
    NAMES[_name] = Struct("<" + _letter).unpack_from
for _letter, _name in (("H", "p2"), ("I", "p4"), ("Q", "p8"), ("f", "pf"), ("d", "pd")):
    NAMES[_name] = Struct("<" + _letter).pack_into


def _register() -> None:
    for row in INSTRUCTIONS:
        operation = row.operation
        if row.code not in EVALUATE or operation is None or row.type is None:
            continue
        NAMES[f"E{row.code}"] = EVALUATE[row.code]
        if row.immediates or len(row.type[1]) != 1:
            continue
        called = _called(row.code, operation, row.type[0], row.type[1][0])
        template = _CONVERSIONS.get((operation.shape, operation.operator, operation.source))
        if template is None and operation.family in ("unop", "binop", "testop", "relop"):
            template = _SCALARS[operation.shape].get(operation.operator)
        TEMPLATES[row.code] = called if template is None else _or_called(template, called)
        if operation.operator in (*_TRAPPING, "idiv_u", "irem_u") and operation.shape in MASKS:
            TRAPS.add(row.code)


_register()
