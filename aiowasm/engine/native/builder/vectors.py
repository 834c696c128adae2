"""Lowerings of vector instructions: %a, %b and %c are <2 x i64> or scalars, and so is %r.

`vectors.py` of the engine defines what they must compute. Instructions with a lane immediate have one per lane.
"""

from __future__ import annotations

import struct
from typing import Final

from aiowasm.engine.native.builder.shapes import Lowering
from aiowasm.engine.native.builder.target import Target
from aiowasm.syntax.instructions import Instruction, Operation

__all__ = ("lanes_of", "lower_lane", "lower_vector")

_LLVM: Final = {"i8": "i8", "i16": "i16", "i32": "i32", "i64": "i64", "f32": "float", "f64": "double"}
_V: Final = "v128"

_BINARY: Final = {"iadd": "add", "isub": "sub", "imul": "mul"}
_CALLS: Final = {
    "iadd_sat_s": "sadd.sat",
    "iadd_sat_u": "uadd.sat",
    "isub_sat_s": "ssub.sat",
    "isub_sat_u": "usub.sat",
    "imin_s": "smin",
    "imin_u": "umin",
    "imax_s": "smax",
    "imax_u": "umax",
}
_FLOATS: Final = {"fadd": "fadd", "fsub": "fsub", "fmul": "fmul", "fdiv": "fdiv"}
_FLOAT_CALLS: Final = {"fmin": "minimum", "fmax": "maximum", "frelaxed_min": "minimum", "frelaxed_max": "maximum"}
_ROUND: Final = {"fceil": "ceil", "ffloor": "floor", "ftrunc": "trunc", "fnearest": "roundeven", "fsqrt": "sqrt"}
_ORDER: Final = {
    "ieq": "icmp eq",
    "ine": "icmp ne",
    **{f"i{order}_{sign}": f"icmp {sign}{order}" for order in ("lt", "gt", "le", "ge") for sign in "su"},
    "feq": "fcmp oeq",
    "fne": "fcmp une",
    **{f"f{order}": f"fcmp o{order}" for order in ("lt", "gt", "le", "ge")},
}


class _Shape:
    """A lane shape: `type` is the LLVM vector, `integers` that of integers as wide, `tag` its name in intrinsics."""

    def __init__(self, name: str) -> None:
        lane, _, count = name.partition("x")
        self.lane = lane
        self.count = int(count)
        self.width = int(lane[1:])
        self.type = f"<{count} x {_LLVM[lane]}>"
        self.integers = f"<{count} x i{self.width}>"
        self.tag = f"v{count}{lane}"

    def splat(self, value: str) -> str:
        """A constant with *value* in every lane."""
        return "<" + ", ".join(f"{_LLVM[self.lane]} {value}" for _ in range(self.count)) + ">"


def _into(name: str, shape: _Shape) -> str:
    return f"%{name}v = bitcast <2 x i64> %{name} to {shape.type}\n"


def _back(vector: str, value: str = "%v") -> str:
    return f"%r = bitcast {vector} {value} to <2 x i64>\n"


def _hex(value: float) -> str:
    return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"


def _canonical(processor: Target, shape: _Shape, value: str) -> str:
    """IR for %v: NaN lanes of *value* made canonical."""
    return processor.canonical_lanes(shape.type, shape.lane, value, "%v")


def _mask(indices: list[int]) -> str:
    return f"<{len(indices)} x i32> <" + ", ".join(f"i32 {index}" for index in indices) + ">"


def _unary(processor: Target, shape: _Shape, operator: str) -> str | None:
    t, tag = shape.type, shape.tag
    head = _into("a", shape)
    if operator in _ROUND:
        return (
            head
            + f"%x = call {t} @llvm.{_ROUND[operator]}.{tag}({t} %av)\n"
            + _canonical(processor, shape, "%x")
            + _back(t)
        )
    match operator:
        case "fabs":
            return head + f"%v = call {t} @llvm.fabs.{tag}({t} %av)\n" + _back(t)
        case "fneg":
            return head + f"%v = fneg {t} %av\n" + _back(t)
        case "ineg":
            return head + f"%v = sub {t} zeroinitializer, %av\n" + _back(t)
        case "iabs":
            return head + f"%v = call {t} @llvm.abs.{tag}({t} %av, i1 0)\n" + _back(t)
        case "ipopcnt":
            return head + f"%v = call {t} @llvm.ctpop.{tag}({t} %av)\n" + _back(t)
    return None


def _binary(processor: Target, shape: _Shape, operator: str) -> str | None:
    t, tag, n = shape.type, shape.tag, shape.count
    head = _into("a", shape) + _into("b", shape)
    if operator in _BINARY:
        return head + f"%v = {_BINARY[operator]} {t} %av, %bv\n" + _back(t)
    if operator in _CALLS:
        return head + f"%v = call {t} @llvm.{_CALLS[operator]}.{tag}({t} %av, {t} %bv)\n" + _back(t)
    if operator in _FLOATS:
        return head + f"%x = {_FLOATS[operator]} {t} %av, %bv\n" + _canonical(processor, shape, "%x") + _back(t)
    if operator in _FLOAT_CALLS:
        call = f"%x = call {t} @llvm.{_FLOAT_CALLS[operator]}.{tag}({t} %av, {t} %bv)\n"
        return head + call + _canonical(processor, shape, "%x") + _back(t)
    match operator:
        case "fpmin":
            compare = f"%c = fcmp olt {t} %bv, %av\n"
        case "fpmax":
            compare = f"%c = fcmp olt {t} %av, %bv\n"
        case "iavgr_u":
            wide = f"<{n} x i{2 * shape.width}>"
            one = "<" + ", ".join([f"i{2 * shape.width} 1"] * n) + ">"
            return head + (
                f"%aw = zext {t} %av to {wide}\n%bw = zext {t} %bv to {wide}\n%s = add {wide} %aw, %bw\n"
                f"%s1 = add {wide} %s, {one}\n%h = lshr {wide} %s1, {one}\n%v = trunc {wide} %h to {t}\n" + _back(t)
            )
        case "iq15mulr_sat_s" | "irelaxed_q15mulr_s":
            wide = f"<{n} x i32>"
            constants = {value: "<" + ", ".join([f"i32 {value}"] * n) + ">" for value in (0x4000, 15, 32767)}
            return head + (
                f"%aw = sext {t} %av to {wide}\n%bw = sext {t} %bv to {wide}\n%p = mul {wide} %aw, %bw\n"
                f"%q = add {wide} %p, {constants[0x4000]}\n%h = ashr {wide} %q, {constants[15]}\n"
                f"%m = call {wide} @llvm.smin.v{n}i32({wide} %h, {wide} {constants[32767]})\n"
                f"%v = trunc {wide} %m to {t}\n" + _back(t)
            )
        case _:
            return None
    return head + compare + f"%v = select <{n} x i1> %c, {t} %bv, {t} %av\n" + _back(t)


def _whole(operator: str) -> tuple[int, str] | None:
    match operator:
        case "inot":
            return 1, "%r = xor <2 x i64> %a, <i64 -1, i64 -1>\n"
        case "iand" | "ior" | "ixor":
            return 2, f"%r = {operator[1:]} <2 x i64> %a, %b\n"
        case "iandnot":
            return 2, "%n = xor <2 x i64> %b, <i64 -1, i64 -1>\n%r = and <2 x i64> %a, %n\n"
        case "ibitselect" | "irelaxed_laneselect":
            return 3, (
                "%x = and <2 x i64> %a, %c\n%n = xor <2 x i64> %c, <i64 -1, i64 -1>\n"
                "%y = and <2 x i64> %b, %n\n%r = or <2 x i64> %x, %y\n"
            )
    return None


def _used(part: str, count: int) -> list[int]:
    """Which source lanes are used."""
    return list({"low": range(count // 2), "high": range(count // 2, count)}.get(part, range(count)))


def _extend(name: str, source: _Shape, target: _Shape, part: str, sign: str) -> str:
    """IR for %<name>e: the used lanes of a source, extended."""
    used = _used(part, source.count)
    half = f"<{len(used)} x i{source.width}>"
    extend = "sext" if sign == "s" else "zext"
    return (
        _into(name, source)
        + f"%{name}h = shufflevector {source.type} %{name}v, {source.type} poison, {_mask(used)}\n"
        + f"%{name}e = {extend} {half} %{name}h to {target.type}\n"
    )


def _convert(processor: Target, operation: Operation) -> str | None:
    target, source = _Shape(operation.shape), _Shape(operation.source)
    base, _, sign = operation.operator.rpartition("_")
    if operation.family == "vextend":
        return _extend("a", source, target, operation.part, sign) + _back(target.type, "%ae")
    head = _into("a", source)
    used = _used(operation.part if operation.part != "zero" else "", source.count)
    n = len(used)
    part = f"<{n} x {_LLVM[source.lane]}>"
    if n != source.count:
        head += f"%s = shufflevector {source.type} %av, {source.type} poison, {_mask(used)}\n"
    value = "%s" if n != source.count else "%av"
    made = f"<{n} x {_LLVM[target.lane]}>"
    if operation.operator == "demote":
        convert = f"%x = fptrunc {part} {value} to {made}\n"
    elif operation.operator == "promote":
        convert = f"%x = fpext {part} {value} to {made}\n"
    elif base == "convert":
        convert = f"%x = {sign}itofp {part} {value} to {made}\n"
    elif base in ("trunc_sat", "relaxed_trunc"):
        tags = f"v{n}{target.lane}.v{n}{source.lane}"
        convert = f"%x = call {made} @llvm.fpto{sign}i.sat.{tags}({part} {value})\n"
    else:
        return None
    if n < target.count:
        indices = [*range(n), *([n] * (target.count - n))]
        convert += f"%w = shufflevector {made} %x, {made} zeroinitializer, {_mask(indices)}\n"
    else:
        convert = convert.replace("%x =", "%w =")
    if operation.operator in ("demote", "promote"):
        return head + convert + _canonical(processor, target, "%w") + _back(target.type)
    return head + convert + _back(target.type, "%w")


def _narrow(operation: Operation) -> str:
    target, source = _Shape(operation.shape), _Shape(operation.source)
    signed = operation.operator.endswith("_s")
    low = -(1 << target.width - 1) if signed else 0
    high = (1 << target.width - (1 if signed else 0)) - 1
    t = source.type
    lines = _into("a", source) + _into("b", source)
    for name in "ab":
        lines += f"%{name}l = call {t} @llvm.smax.{source.tag}({t} %{name}v, {t} {source.splat(str(low))})\n"
        lines += f"%{name}m = call {t} @llvm.smin.{source.tag}({t} %{name}l, {t} {source.splat(str(high))})\n"
    both = f"<{2 * source.count} x i{source.width}>"
    lines += f"%w = shufflevector {t} %am, {t} %bm, {_mask(list(range(2 * source.count)))}\n"
    return lines + f"%v = trunc {both} %w to {target.type}\n" + _back(target.type)


def _pairs(vector: str, value: str, count: int, add: str, result: str) -> str:
    """IR that adds neighbouring lanes of *value*."""
    half = vector.replace(f"<{count} x", f"<{count // 2} x")
    return (
        f"%even{result} = shufflevector {vector} {value}, {vector} poison, {_mask(list(range(0, count, 2)))}\n"
        f"%odd{result} = shufflevector {vector} {value}, {vector} poison, {_mask(list(range(1, count, 2)))}\n"
        + add.format(half=half, even=f"%even{result}", odd=f"%odd{result}", result=f"%{result}")
    )


_ADD: Final = "{result} = add {half} {even}, {odd}\n"


def _pairwise(operation: Operation) -> str:
    target, source = _Shape(operation.shape), _Shape(operation.source)
    extend = "sext" if operation.operator.endswith("_s") else "zext"
    wide = f"<{source.count} x i{target.width}>"
    lines = _into("a", source) + f"%w = {extend} {source.type} %av to {wide}\n"
    return lines + _pairs(wide, "%w", source.count, _ADD, "v") + _back(target.type)


def _dot(operation: Operation) -> str:
    target, source = _Shape(operation.shape), _Shape(operation.source)
    wide = f"<{source.count} x i{target.width}>"
    add = _ADD
    if operation.operator.startswith("relaxed"):
        add = f"{{result}} = call {{half}} @llvm.sadd.sat.{target.tag}({{half}} {{even}}, {{half}} {{odd}})\n"
    lines = _into("a", source) + _into("b", source)
    lines += f"%aw = sext {source.type} %av to {wide}\n%bw = sext {source.type} %bv to {wide}\n"
    lines += f"%p = mul {wide} %aw, %bw\n" + _pairs(wide, "%p", source.count, add, "v")
    return lines + _back(target.type)


def _dot_add() -> str:
    lines = _dot(Operation("vextbinop", "i16x8", "relaxed_dot_s", "i8x16")).replace("%r = bitcast", "%unused = bitcast")
    lines += "%w32 = sext <8 x i16> %v to <8 x i32>\n" + _pairs("<8 x i32>", "%w32", 8, _ADD, "s")
    lines += "%cv = bitcast <2 x i64> %c to <4 x i32>\n%sum = add <4 x i32> %s, %cv\n"
    return lines + _back("<4 x i32>", "%sum")


def _test(operation: Operation) -> str:
    if operation.family == "vvtestop":
        return "%w = bitcast <2 x i64> %a to i128\n%t = icmp ne i128 %w, 0\n%r = zext i1 %t to i32\n"
    shape = _Shape(operation.shape)
    n = shape.count
    if operation.family == "vbitmask":
        return _into("a", shape) + (
            f"%s = icmp slt {shape.type} %av, zeroinitializer\n%m = bitcast <{n} x i1> %s to i{n}\n"
            f"%r = zext i{n} %m to i32\n"
        )
    return _into("a", shape) + (
        f"%zs = icmp eq {shape.type} %av, zeroinitializer\n%m = bitcast <{n} x i1> %zs to i{n}\n"
        f"%t = icmp eq i{n} %m, 0\n%r = zext i1 %t to i32\n"
    )


def _shift(shape: _Shape, operator: str) -> str:
    name = {"ishl": "shl", "ishr_s": "ashr", "ishr_u": "lshr"}[operator]
    lane = _LLVM[shape.lane]
    cast = f"%k = trunc i32 %b to {lane}\n" if shape.width < 32 else f"%k = zext i32 %b to {lane}\n"
    if shape.width == 32:
        cast = "%k = add i32 %b, 0\n"
    return (
        _into("a", shape)
        + cast
        + (
            f"%m = and {lane} %k, {shape.width - 1}\n"
            f"%i = insertelement {shape.type} poison, {lane} %m, i32 0\n"
            f"%s = shufflevector {shape.type} %i, {shape.type} poison, {_mask([0] * shape.count)}\n"
            f"%v = {name} {shape.type} %av, %s\n" + _back(shape.type)
        )
    )


def _scalar(shape: _Shape) -> str:
    return {"i8": "i32", "i16": "i32"}.get(shape.lane, shape.lane)


def _splat(shape: _Shape) -> Lowering:
    lane, t = _LLVM[shape.lane], shape.type
    lines = f"%n = trunc i32 %a to {lane}\n" if shape.width < 32 else ""
    value = "%n" if lines else "%a"
    lines += f"%i = insertelement {t} poison, {lane} {value}, i32 0\n"
    lines += f"%v = shufflevector {t} %i, {t} poison, {_mask([0] * shape.count)}\n"
    return Lowering((_scalar(shape),), _V, lines + _back(t))


def _fma(processor: Target, shape: _Shape, operator: str) -> str:
    t = shape.type
    lines = _into("a", shape) + _into("b", shape) + _into("c", shape)
    first = "%av"
    if operator == "frelaxed_nmadd":
        lines += f"%neg = fneg {t} %av\n"
        first = "%neg"
    lines += f"%x = call {t} @llvm.fma.{shape.tag}({t} {first}, {t} %bv, {t} %cv)\n"
    return lines + _canonical(processor, shape, "%x") + _back(t)


def _load(operation: Operation) -> Lowering | None:
    storage, _, sign = operation.operator.partition("_")
    match operation.family:
        case "load_splat":
            width = int(storage[1:])
            shape = _Shape(f"i{width}x{128 // width}")
            lines = f"%m = load {storage}, ptr %g, align 1\n"
            lines += f"%i = insertelement {shape.type} poison, {storage} %m, i32 0\n"
            lines += f"%v = shufflevector {shape.type} %i, {shape.type} poison, {_mask([0] * shape.count)}\n"
            return Lowering(("addr",), _V, lines + _back(shape.type), width // 8)
        case "load_zero":
            width = int(storage[1:])
            shape = _Shape(f"i{width}x{128 // width}")
            lines = f"%m = load {storage}, ptr %g, align 1\n"
            lines += f"%v = insertelement {shape.type} zeroinitializer, {storage} %m, i32 0\n"
            return Lowering(("addr",), _V, lines + _back(shape.type), width // 8)
        case "load_extend":
            lane, _, count = storage.partition("x")
            wide = f"<{count} x i{2 * int(lane[1:])}>"
            narrow = f"<{count} x {lane}>"
            extend = "sext" if sign == "s" else "zext"
            lines = f"%m = load {narrow}, ptr %g, align 1\n%v = {extend} {narrow} %m to {wide}\n"
            return Lowering(("addr",), _V, lines + _back(wide), 8)
    return None


def lower_vector(row: Instruction, processor: Target) -> Lowering | None:
    """Return the lowering of a vector instruction without a lane, or None."""
    operation = row.operation
    if operation is None:
        return None
    family, operator = operation.family, operation.operator
    two, three = (_V, _V), (_V, _V, _V)
    whole = _whole(operator) if family in ("vvunop", "vvbinop", "vvternop", "vternop") else None
    if whole is not None:
        return Lowering((_V,) * whole[0], _V, whole[1])
    lines: str | None = None
    match family:
        case "vunop":
            lines = _unary(processor, _Shape(operation.shape), operator)
            return None if lines is None else Lowering((_V,), _V, lines)
        case "vbinop":
            lines = _binary(processor, _Shape(operation.shape), operator)
        case "vrelop":
            shape = _Shape(operation.shape)
            lines = _into("a", shape) + _into("b", shape)
            lines += f"%c = {_ORDER[operator]} {shape.type} %av, %bv\n"
            lines += f"%v = sext <{shape.count} x i1> %c to {shape.integers}\n" + _back(shape.integers)
        case "vtestop" | "vbitmask" | "vvtestop":
            return Lowering((_V,), "i32", _test(operation))
        case "vshiftop":
            return Lowering((_V, "i32"), _V, _shift(_Shape(operation.shape), operator))
        case "vsplat":
            return _splat(_Shape(operation.shape))
        case "vcvtop" | "vextend":
            lines = _convert(processor, operation)
            return None if lines is None else Lowering((_V,), _V, lines)
        case "vnarrow":
            lines = _narrow(operation)
        case "vextmul":
            target, source = _Shape(operation.shape), _Shape(operation.source)
            sign = operator[-1]
            lines = _extend("a", source, target, operation.part, sign)
            lines += _extend("b", source, target, operation.part, sign)
            lines += f"%v = mul {target.type} %ae, %be\n" + _back(target.type)
        case "vextunop":
            return Lowering((_V,), _V, _pairwise(operation))
        case "vextbinop":
            lines = _dot(operation)
        case "vextternop":
            return Lowering(three, _V, _dot_add())
        case "vternop":
            return Lowering(three, _V, _fma(processor, _Shape(operation.shape), operator)) if processor.fma else None
        case "vswizzlop":
            lines = _into("a", _Shape("i8x16")) + _into("b", _Shape("i8x16"))
            lines += processor.swizzle()
            lines += _back("<16 x i8>")
        case "load_splat" | "load_zero" | "load_extend":
            return _load(operation)
    return None if lines is None else Lowering(two, _V, lines)


def lanes_of(row: Instruction) -> int:
    """How many lowerings an instruction has, one for each lane; 0: it has no lane."""
    operation = row.operation
    if operation is None or operation.family not in ("vextract_lane", "vreplace_lane"):
        return 0
    return _Shape(operation.shape).count


def lower_lane(row: Instruction, lane: int) -> Lowering:
    """Return the lowering of extract_lane or replace_lane for one lane."""
    operation = row.operation
    if operation is None:
        raise LookupError(row.name)
    shape = _Shape(operation.shape)
    scalar, t, lane_type = _scalar(shape), shape.type, _LLVM[shape.lane]
    if operation.family == "vextract_lane":
        lines = _into("a", shape)
        if shape.width >= 32:
            return Lowering((_V,), scalar, lines + f"%r = extractelement {t} %av, i32 {lane}\n")
        extend = "sext" if operation.operator.endswith("_s") else "zext"
        lines += f"%x = extractelement {t} %av, i32 {lane}\n%r = {extend} {lane_type} %x to i32\n"
        return Lowering((_V,), "i32", lines)
    lines = _into("a", shape)
    value = "%b"
    if shape.width < 32:
        lines += f"%n = trunc i32 %b to {lane_type}\n"
        value = "%n"
    lines += f"%v = insertelement {t} %av, {lane_type} {value}, i32 {lane}\n" + _back(t)
    return Lowering((_V, scalar), _V, lines)
