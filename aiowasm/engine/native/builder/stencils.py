"""Stencils: one IR function per instruction and operand kinds, compiled by LLVM, cut out and checked.

Operand kinds: S a slot of the frame, R the integer register, F the float or vector register, C a constant. All state is
in registers of `ghccc`, nothing is saved, and each function ends in a tail call of @NEXT, which is cut off so that
stencils can be strung together. What a stencil may look like is asserted: a wrong hole corrupts the process.
"""

from __future__ import annotations

import json
import re
import struct
from typing import Any, Final

from aiowasm.engine.native.builder.elf import ABSOLUTE_32, ABSOLUTE_64, RELATIVE, SIGNED_32, Function, read_object
from aiowasm.engine.native.builder.lowering import llvm_type, lowerings
from aiowasm.engine.native.builder.runtime import FRAGMENTS, ROUTINES
from aiowasm.engine.native.builder.shapes import Lowering

__all__ = ("build_blob", "stencil_ir")

_ARGUMENTS: Final = ", ".join(
    [
        *("ptr %vm", "ptr %fp", "ptr %mb", "i64 %R", "i64 %fuel", "i64 %ms", "ptr %pool", "i64 %left", "i64 %spare"),
        *("ptr %inst", "<2 x double> %F"),
    ]
)
"""What is in registers: r13 rbp r12 rbx r14 rsi rdi r8 r9 r15 xmm1, in the order of the calling convention `ghccc`."""
_NEXT: Final = "NEXT"
_TARGET: Final = "TARGET"
_OUTFIX: Final = "OUTFIX"
"""Where an address is out of bounds: code behind the function traps."""
_NANFIX: Final = "NANFIX"
"""Where the result in xmm1 has a NaN: code behind the function makes it canonical and comes back."""
MEMORIES: Final = ("", "w", "m", "mw")
"""Address variants: memory 0 or another one (m), 32-bit or 64-bit (w) addresses."""
_LABELS: Final = ("enter_entry", "loop_head", "rt_crossed", "rt_entered")
_HOLES: Final = frozenset(
    ["HA", "HB", "HC", "HO", "HE", "HM", "KA", "KB", "KD", "WA", "WB", "HQ", "HQ2", "HQ3", "HQ4", "TARGET"]
)


def _is_vector(valtype: str) -> bool:
    return valtype in ("f32", "f64", "v128")


def _operand(name: str, valtype: str, kind: str, hole: str) -> str:
    """IR for SSA value *name*."""
    t = llvm_type(valtype)
    if kind == "S":
        place = f"%p{name} = getelementptr i8, ptr %fp, i64 ptrtoint (ptr @H{hole} to i64)\n"
        return place + f"%{name} = load {t}, ptr %p{name}, align 1\n"
    if kind == "R":
        return f"%{name} = trunc i64 %R to i32\n" if valtype == "i32" else f"%{name} = add i64 %R, 0\n"
    if kind == "C":
        if valtype == "i32":
            return f"%{name} = trunc i64 ptrtoint (ptr @W{hole} to i64) to i32\n"
        return f"%{name} = ptrtoint ptr @K{hole} to i64\n"
    if valtype == "f64":
        return f"%{name} = extractelement <2 x double> %F, i32 0\n"
    if valtype == "v128":
        return f"%{name} = bitcast <2 x double> %F to <2 x i64>\n"
    return f"%v{name} = bitcast <2 x double> %F to <4 x float>\n%{name} = extractelement <4 x float> %v{name}, i32 0\n"


def _result(valtype: str | None) -> tuple[str, str, str]:
    """(IR, R afterwards, F afterwards)."""
    match valtype:
        case "i32" | "i1":
            return f"%z = zext {valtype} %r to i64\n", "%z", "%F"
        case "i64":
            return "", "%r", "%F"
        case "f64":
            return "%F2 = insertelement <2 x double> undef, double %r, i32 0\n", "%R", "%F2"
        case "f32":
            lines = "%F1 = insertelement <4 x float> undef, float %r, i32 0\n"
            return lines + "%F2 = bitcast <4 x float> %F1 to <2 x double>\n", "%R", "%F2"
        case "v128":
            return "%F2 = bitcast <2 x i64> %r to <2 x double>\n", "%R", "%F2"
    return "", "%R", "%F"


def _go(target: str, r: str = "%R", f: str = "%F") -> str:
    arguments = _ARGUMENTS.replace("%R", r).replace("%F", f)
    return f"musttail call ghccc void @{target}({arguments})\nret void\n"


def _kinds(operands: tuple[str, ...]) -> list[str]:
    """Combinations of operand kinds: each register once, not constants only."""
    combined = [""]
    for valtype in operands:
        alternatives = "SF" if _is_vector(valtype) else "SRC"
        combined = [before + kind for before in combined for kind in alternatives]
    if len(operands) == 3:
        return ["SSS", "SSF"]
    return [kinds for kinds in combined if max(kinds.count("R"), kinds.count("F")) < 2 and kinds.strip("C") != ""]


def _address(memory: str, nbytes: int) -> str:
    """IR for %g, the checked host address of guest address %a plus the offset in the holes HO (and HE: behind it)."""
    lines = ""
    base, size = "%mb", "%ms"
    if "m" in memory:
        lines += (
            "%mpp = getelementptr i8, ptr %inst, i64 ptrtoint (ptr @HM to i64)\n%mp = load ptr, ptr %mpp\n"
            "%mb2 = load ptr, ptr %mp\n%msp = getelementptr i8, ptr %mp, i64 8\n%ms2 = load i64, ptr %msp\n"
        )
        base, size = "%mb2", "%ms2"
    if "w" in memory:
        lines += (
            '%e = call i64 asm sideeffect "movq $1, $0; addq $$HE, $0; jc OUTFIX; cmpq $2, $0; ja OUTFIX", '
            f'"=&r,r,r,~{{flags}}"(i64 %a, i64 {size})\n%az = add i64 %a, 0\n'
        )
    else:
        lines += (
            "%az = zext i32 %a to i64\n%e = add nuw nsw i64 %az, ptrtoint (ptr @HE to i64)\n"
            f'call void asm sideeffect "cmpq $1, $0; ja OUTFIX", "r,r,~{{flags}}"(i64 %e, i64 {size})\n'
        )
    lines += f"%g0 = getelementptr i8, ptr {base}, i64 %az\n"
    return lines + "%g = getelementptr i8, ptr %g0, i64 ptrtoint (ptr @HO to i64)\n"


def _define(name: str, body: str) -> str:
    return f'define ghccc void @"{name}"({_ARGUMENTS}) optsize nounwind {{\n{body}}}\n'


def _instruction(code: str, lowered: Lowering) -> list[str]:
    made = []
    memories = MEMORIES if lowered.access else ("",)
    for memory in memories:
        address = "i64" if "w" in memory else "i32"
        operands = tuple(address if operand == "addr" else operand for operand in lowered.operands)
        kinds = _kinds(operands) if not lowered.access else [*_kinds(operands), *_constant_store(operands)]
        for kind in kinds:
            body = "".join(_operand("abc"[i], operands[i], kind[i], "ABC"[i]) for i in range(len(operands)))
            if lowered.access:
                body += _address(memory, lowered.access)
            body += lowered.lines
            lines, r, f = _result(lowered.result)
            suffix = f".{memory}" if memory else ""
            made.append(_define(f"{code}{suffix}.{kind}", body + lines + _go(_NEXT, r, f)))
            if lowered.result == "i1":
                for sense, weight, order in (("t", "!1", "xy"), ("f", "!2", "yx")):
                    branch = f"br i1 %r, label %{order[0]}, label %{order[1]}, !prof {weight}\n"
                    end = "x:\n" + _go(_TARGET) + "y:\n" + _go(_NEXT)
                    made.append(_define(f"{code}.{kind}.{sense}", body + branch + end))
    return made


def _constant_store(operands: tuple[str, ...]) -> list[str]:
    return ["C"] if len(operands) == 1 else []


def stencil_ir(cases: dict[str, Lowering]) -> str:
    """Return the IR module of all stencils for *cases*, with the fragments and routines as assembly."""
    parts = [
        (
            f"declare ghccc void @NEXT({_ARGUMENTS})\ndeclare ghccc void @TARGET({_ARGUMENTS})\n"
            '!0 = !{!"branch_weights", i32 1, i32 100000}\n!1 = !{!"branch_weights", i32 1, i32 100}\n'
            '!2 = !{!"branch_weights", i32 100, i32 1}\n'
            "!3 = !{i64 -2147483648, i64 2147483648}\n!4 = !{i64 0, i64 2147483648}\n"
        )
    ]
    parts += [f"@{hole} = external hidden global i8, !absolute_symbol !3\n" for hole in ("HA", "HB", "HC", "KA", "KB")]
    parts += [f"@{hole} = external hidden global i8, !absolute_symbol !4\n" for hole in ("HE", "HO", "HM")]
    parts += ["@WA = external hidden global i8\n@WB = external hidden global i8\n"]
    for code, lowered in cases.items():
        parts += _instruction(code, lowered)
    for name, text in (FRAGMENTS | ROUTINES).items():
        quoted = f"\\22{name}\\22"
        parts.append(f'module asm ".type {quoted},@function; {quoted}: {text}; .size {quoted}, .-{quoted}"\n')
    source = "".join(parts)
    declared: set[str] = set()
    for result, name, arguments in re.findall(r"call (<[^>]*>|\S+) (@llvm\.[\w.]+)\((.*)\)\n", source):
        # A type comes before its value; values may be vectors themselves.
        types = ", ".join(
            re.findall(r"(?:^|, )(<\d+ x [^>]*>|\w+) (?=%|<|\d|-)", re.sub(r" <[a-z][^>]*>", " 0", arguments))
        )
        declared.add(f"declare {result} {name}({types})\n")
    return source + "".join(sorted(declared))


def _cut(name: str, function: Function, pool: dict[str, int]) -> tuple[bytes, list[tuple[int, int, str, int]]]:
    """Turn a function into a stencil: no jump to what follows, constants in the pool, only known holes left."""
    code = bytearray(function.code)
    holes = list(function.relocations)
    # "jcc NEXT; jmp TARGET" becomes "jncc TARGET".
    if (
        len(holes) > 1
        and holes[-1].symbol == _TARGET
        and holes[-2].symbol == _NEXT
        and holes[-2].offset == len(code) - 9
        and code[-11] == 0x0F
        and code[-5] == 0xE9
        and all(hole.symbol not in (_NEXT, _TARGET) for hole in holes[:-2])
    ):
        code[-10] ^= 1
        del code[-5:]
        holes[-2:] = [holes[-1]._replace(offset=len(code) - 4)]
    if holes and holes[-1].symbol == _NEXT and holes[-1].offset == len(code) - 4 and code[-5] == 0xE9:
        del code[-5:]
        holes.pop()
    left = []
    for hole in holes:
        if hole.symbol == _NEXT:
            struct.pack_into("<i", code, hole.offset, len(code) - (hole.offset + 4))
        elif hole.symbol.startswith(".LCPI"):
            # disp32(%rip) becomes disp32(%rdi): the same length, and alignment is the pool's.
            at = hole.offset - 1
            if hole.type not in RELATIVE or code[at] & 0xC7 != 0x05:
                raise RuntimeError(f"{name}: a constant that is not addressed by the instruction pointer")
            code[at] = code[at] & 0x38 | 0x87
            # What follows the displacement (an immediate) is part of the addend.
            struct.pack_into("<i", code, hole.offset, pool[hole.symbol])
            if hole.addend not in (-4, -5):
                raise RuntimeError(f"{name}: an odd constant address")
        elif hole.symbol in (_NANFIX, _OUTFIX):
            if hole.type not in RELATIVE or hole.addend != -4:
                raise RuntimeError(f"{name}: an odd branch")
            left.append(hole)
        elif hole.symbol not in _HOLES:
            raise RuntimeError(f"{name} refers to {hole.symbol}")
        elif hole.symbol == _TARGET:
            if hole.type not in RELATIVE or hole.addend != -4:
                raise RuntimeError(f"{name}: an odd branch")
            left.append(hole)
        elif hole.type not in (ABSOLUTE_32, ABSOLUTE_64, SIGNED_32):
            raise RuntimeError(f"{name}: relocation {hole.type} of {hole.symbol}")
        else:
            left.append(hole)
    return bytes(code), [(hole.offset, hole.type, hole.symbol, hole.addend) for hole in left]


def _check_text(text: str) -> set[str]:
    """Assert that no stencil uses the stack; return the names of those with branches of their own."""
    branching = set()
    for chunk in text.split("\t.globl\t")[1:]:
        name, _, rest = chunk.partition("\n")
        name = name.strip().strip('"')
        body, end, _ = rest.partition(".Lfunc_end")
        if not end:  # a label of a routine
            continue
        lines = [line for line in body.splitlines() if line.startswith("\t") and not line.startswith("\t.")]
        if any(re.search(r"%[re]?sp\b|\bpush|\bpop[^c]|\bret", line) for line in lines):
            raise RuntimeError(f"{name} uses the stack:\n{body}")
        if any(".LBB" in line for line in lines):
            branching.add(name)
    return branching


def _pool(constants: dict[str, bytes]) -> tuple[bytes, dict[str, int]]:
    data = bytearray()
    seen: dict[bytes, int] = {}
    places = {}
    for symbol, value in sorted(constants.items(), key=lambda item: (-len(item[1]), item[0])):
        if not value or len(value) > 64:
            raise RuntimeError(f"a constant of {len(value)} bytes")
        if value not in seen:
            seen[value] = len(data)
            data += value
        places[symbol] = seen[value]
    return bytes(data), places


def build_blob(cpu: str) -> bytes:
    """Return the stencils for x86-64 processors of level *cpu* ("x86-64-v2", "x86-64-v3") as one file.

    The format is `blob.py`'s: the length of a JSON header (4 bytes, little endian), the header, all code.
    """
    from llvmlite import binding as llvm  # type: ignore[import-untyped,import-not-found,unused-ignore] # noqa: PLC0415 - a requirement of builds only

    for name in ("initialize_all_targets", "initialize_all_asmprinters", "initialize_native_asmparser"):
        getattr(llvm, name)()
    source = stencil_ir(lowerings(fma=cpu != "x86-64-v2"))
    target = llvm.Target.from_triple("x86_64-unknown-linux-gnu")
    machine = target.create_target_machine(cpu=cpu, opt=2, reloc="static", codemodel="small")
    module = llvm.parse_assembly('target triple = "x86_64-unknown-linux-gnu"\n' + source)
    module.verify()
    branching = _check_text(machine.emit_assembly(module))
    module = llvm.parse_assembly('target triple = "x86_64-unknown-linux-gnu"\n' + source)
    functions, labels, constants = read_object(machine.emit_object(module))
    pool, places = _pool(constants)
    body = bytearray(pool + bytes(-len(pool) % 16))
    header: dict[str, Any] = {"cpu": cpu, "pool": len(pool), "labels": {}, "stencils": {}, "fixed": sorted(branching)}
    header["labels"] = {name: offset for name, (_owner, offset) in labels.items() if name in _LABELS}
    for name, function in functions.items():
        code, holes = _cut(name, function, places)
        header["stencils"][name] = (len(body), len(code), holes)
        body += code
    encoded = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    return struct.pack("<I", len(encoded)) + encoded + bytes(body)
