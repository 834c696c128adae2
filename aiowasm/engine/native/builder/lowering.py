"""One LLVM-IR lowering per row of the instruction table: what an operator computes, for both tiers of machine code.

A `Lowering` has operand types, a result type, and IR lines that compute %r from %a, %b and %c. Where operands come from
and where results go is `stencils.py`'s business. `numerics.py` and `storage.py` define what the lines must compute.
"""

from __future__ import annotations

import struct
from typing import Final

from aiowasm.engine.native.builder.shapes import Lowering, llvm_type
from aiowasm.engine.native.builder.target import Target
from aiowasm.engine.native.builder.vectors import lanes_of, lower_lane, lower_vector
from aiowasm.errors import TrapCode
from aiowasm.syntax.instructions import INSTRUCTIONS, Instruction, Operation

__all__ = ("lower", "lowerings")


def _trap_if(target: Target, condition: str, code: TrapCode, label: str) -> str:
    """IR that traps where the i1 *condition* holds, out of line."""
    return (
        f"br i1 {condition}, label %T{label}, label %K{label}, !prof !0\n"
        f"T{label}:\n{target.trap(code)}unreachable\nK{label}:\n"
    )


_INTEGER: Final = {
    "iadd": "add",
    "isub": "sub",
    "imul": "mul",
    "iand": "and",
    "ior": "or",
    "ixor": "xor",
}
_SHIFT: Final = {"ishl": "shl", "ishr_s": "ashr", "ishr_u": "lshr"}
_ROTATE: Final = {"irotl": "fshl", "irotr": "fshr"}
_COUNT: Final = {"iclz": "ctlz", "ictz": "cttz"}
_ORDER: Final = {
    "ieq": "eq",
    "ine": "ne",
    **{f"i{order}_{sign}": f"{sign}{order}" for order in ("lt", "gt", "le", "ge") for sign in "su"},
}
_FLOAT_ORDER: Final = {"feq": "oeq", "fne": "une", "flt": "olt", "fgt": "ogt", "fle": "ole", "fge": "oge"}
_FLOAT: Final = {"fadd": "fadd", "fsub": "fsub", "fmul": "fmul", "fdiv": "fdiv"}
_ROUND: Final = {"fceil": "ceil", "ffloor": "floor", "ftrunc": "trunc", "fnearest": "roundeven", "fsqrt": "sqrt"}


def _division(target: Target, t: str, operator: str) -> str:
    lines = target.trap_if_zero(t, "%b", TrapCode.INTEGER_DIVIDE_BY_ZERO)
    low = -(1 << int(t[1:]) - 1)
    if operator == "idiv_s":
        lines += f"%m1 = icmp eq {t} %b, -1\n%mn = icmp eq {t} %a, {low}\n%ov = and i1 %m1, %mn\n"
        lines += _trap_if(target, "%ov", TrapCode.INTEGER_OVERFLOW, "ov")
        return lines + f"%r = sdiv {t} %a, %b\n"
    if operator == "irem_s":
        # The remainder of the lowest number by -1 is 0, but the processor's division faults.
        return lines + f"%m1 = icmp eq {t} %b, -1\n%b1 = select i1 %m1, {t} 1, {t} %b\n%r = srem {t} %a, %b1\n"
    return lines + f"%r = {'udiv' if operator == 'idiv_u' else 'urem'} {t} %a, %b\n"


def _integer(target: Target, t: str, operator: str) -> Lowering | None:
    n = int(t[1:])
    two = (t, t)
    if operator in _INTEGER:
        return Lowering(two, t, f"%r = {_INTEGER[operator]} {t} %a, %b\n")
    if operator in _SHIFT:
        return Lowering(two, t, f"%s = and {t} %b, {n - 1}\n%r = {_SHIFT[operator]} {t} %a, %s\n")
    if operator in _ROTATE:
        return Lowering(two, t, f"%r = call {t} @llvm.{_ROTATE[operator]}.{t}({t} %a, {t} %a, {t} %b)\n")
    if operator.startswith(("idiv", "irem")):
        return Lowering(two, t, _division(target, t, operator))
    if operator in _COUNT:
        return Lowering((t,), t, f"%r = call {t} @llvm.{_COUNT[operator]}.{t}({t} %a, i1 0)\n")
    if operator == "ipopcnt":
        return Lowering((t,), t, f"%r = call {t} @llvm.ctpop.{t}({t} %a)\n")
    if operator.startswith("iextend"):
        m = operator[7:].removesuffix("_s")
        return Lowering((t,), t, f"%n = trunc {t} %a to i{m}\n%r = sext i{m} %n to {t}\n")
    if operator == "ieqz":
        return Lowering((t,), "i1", f"%r = icmp eq {t} %a, 0\n")
    if operator in _ORDER:
        return Lowering(two, "i1", f"%r = icmp {_ORDER[operator]} {t} %a, %b\n")
    return None


def _float(target: Target, t: str, operator: str) -> Lowering | None:
    f = llvm_type(t)
    if operator in _FLOAT:
        return Lowering((t, t), t, f"%x = {_FLOAT[operator]} {f} %a, %b\n" + target.canonical(t, "%x", "%r"))
    if operator in _ROUND:
        return Lowering(
            (t,), t, f"%x = call {f} @llvm.{_ROUND[operator]}.{t}({f} %a)\n" + target.canonical(t, "%x", "%r")
        )
    if operator in _FLOAT_ORDER:
        return Lowering((t, t), "i1", f"%r = fcmp {_FLOAT_ORDER[operator]} {f} %a, %b\n")
    if operator in ("fmin", "fmax"):
        name = "minimum" if operator == "fmin" else "maximum"
        lines = f"%x = call {f} @llvm.{name}.{t}({f} %a, {f} %b)\n"
        return Lowering((t, t), t, lines + target.canonical(t, "%x", "%r"))
    if operator == "fabs":
        return Lowering((t,), t, f"%r = call {f} @llvm.fabs.{t}({f} %a)\n")
    if operator == "fneg":
        return Lowering((t,), t, f"%r = fneg {f} %a\n")
    if operator == "fcopysign":
        return Lowering((t, t), t, f"%r = call {f} @llvm.copysign.{t}({f} %a, {f} %b)\n")
    return None


def _hex(value: float) -> str:
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def _truncation(target: Target, t: str, source: str, *, signed: bool) -> str:
    n, f = int(t[1:]), llvm_type(source)
    low, high = (-(2.0 ** (n - 1)), 2.0 ** (n - 1)) if signed else (0.0, 2.0**n)
    # Below the lowest integer lie fractions that truncate to it, where the format can represent them.
    strict = not signed or (t == "i32" and source == "f64")
    compare, bound = ("ogt", low - 1.0) if strict else ("oge", low)
    return (
        f"%nan = fcmp uno {f} %a, %a\n"
        + _trap_if(target, "%nan", TrapCode.INVALID_CONVERSION, "nan")
        + f"%c1 = fcmp {compare} {f} %a, {_hex(bound)}\n%c2 = fcmp olt {f} %a, {_hex(high)}\n"
        + "%c3 = and i1 %c1, %c2\n%c4 = xor i1 %c3, 1\n"
        + _trap_if(target, "%c4", TrapCode.INTEGER_OVERFLOW, "range")
        + f"%r = fpto{'s' if signed else 'u'}i {f} %a to {t}\n"
    )


def _conversion(target: Target, operation: Operation) -> Lowering | None:
    t, source = operation.shape, operation.source
    lt, ls = llvm_type(t), llvm_type(source)
    base, _, sign = operation.operator.rpartition("_")
    match operation.operator:
        case "wrap":
            return Lowering((source,), t, "%r = trunc i64 %a to i32\n")
        case "extend_s" | "extend_u":
            return Lowering((source,), t, f"%r = {sign}ext i32 %a to i64\n".replace("uext", "zext"))
        case "demote":
            return Lowering((source,), t, "%x = fptrunc double %a to float\n" + target.canonical(t, "%x", "%r"))
        case "promote":
            return Lowering((source,), t, "%x = fpext float %a to double\n" + target.canonical(t, "%x", "%r"))
        case "reinterpret":
            return Lowering((source,), t, f"%r = bitcast {ls} %a to {lt}\n")
    match base:
        case "convert":
            return Lowering((source,), t, f"%r = {sign}itofp {ls} %a to {lt}\n")
        case "trunc":
            return Lowering((source,), t, _truncation(target, t, source, signed=sign == "s"))
        case "trunc_sat":
            return Lowering((source,), t, f"%r = call {t} @llvm.fpto{sign}i.sat.{t}.{source}({ls} %a)\n")
    return None


def _load(t: str, storage: str) -> Lowering:
    base, _, sign = storage.partition("_")
    nbytes = int(base[1:]) // 8
    lt, memory = llvm_type(t), llvm_type(base)
    if not sign and base == t:
        return Lowering(("addr",), t, f"%r = load {lt}, ptr %g, align 1\n", nbytes)
    extend = "sext" if sign == "s" else "zext"
    return Lowering(("addr",), t, f"%m = load {memory}, ptr %g, align 1\n%r = {extend} {memory} %m to {lt}\n", nbytes)


def _store(t: str, storage: str) -> Lowering:
    nbytes = int(storage[1:]) // 8
    lt, memory = llvm_type(t), llvm_type(storage)
    if storage == t:
        return Lowering(("addr", t), None, f"store {lt} %b, ptr %g, align 1\n", nbytes)
    lines = f"%m = trunc {lt} %b to {memory}\nstore {memory} %m, ptr %g, align 1\n"
    return Lowering(("addr", t), None, lines, nbytes)


def lower(row: Instruction, target: Target) -> Lowering | None:
    """Return the lowering of an instruction without a lane, or None where it has none."""
    operation = row.operation
    if operation is None:
        return None
    match operation.family:
        case "unop" | "binop" | "testop" | "relop":
            kind = _integer if operation.shape[0] == "i" else _float
            return kind(target, operation.shape, operation.operator)
        case "cvtop":
            return _conversion(target, operation)
        case "load":
            return _load(operation.shape, operation.operator)
        case "store":
            return _store(operation.shape, operation.operator)
    return lower_vector(row, target)


def lowerings(target: Target) -> dict[str, Lowering]:
    """Return all lowerings by the name of their stencils: the code in hexadecimal, and the lane if there is one."""
    made = {}
    for row in INSTRUCTIONS:
        lowered = lower(row, target)
        if lowered is not None:
            made[f"{row.code:x}"] = lowered
        for lane in range(lanes_of(row)):
            made[f"{row.code:x}.{lane}"] = lower_lane(row, lane)
    return made
