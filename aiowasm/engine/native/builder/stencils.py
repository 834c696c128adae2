"""Stencils: one IR function per instruction and operand kinds, compiled by LLVM, cut out and checked.

Operand kinds: S a slot of the frame, R the integer register, F the float or vector register, C a constant. All state is
in registers, nothing is saved, and each function ends in a tail call of @NEXT, which is cut off so that
stencils can be strung together. What a stencil may look like is asserted: a wrong hole corrupts the process.
"""

from __future__ import annotations

import json
import os
import platform
import re
import struct
import subprocess
import sys
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any, Final

from aiowasm.engine.native.builder.aarch64 import AArch64
from aiowasm.engine.native.builder.elf import read_object
from aiowasm.engine.native.builder.lowering import lowerings
from aiowasm.engine.native.builder.shapes import Lowering, llvm_type
from aiowasm.engine.native.builder.subset import functions_ir
from aiowasm.engine.native.builder.target import NEXT, TARGET, Target
from aiowasm.engine.native.builder.x86_64 import X86
from aiowasm.engine.native.scanning.walk import validate
from aiowasm.syntax.instructions import BY_NAME

__all__ = ("TARGETS", "build_blob", "stencil_ir")

MEMORIES: Final = ("", "w", "m", "mw")
"""Address variants: memory 0 or another one (m), 32-bit or 64-bit (w) addresses."""
_FREE: Final = frozenset((f"{BY_NAME['i32.wrap_i64'].code:x}",))
"""What costs no code: registers and slots hold an i32 with any upper half."""
_LABELS: Final = ("enter_entry", "loop_head", "rt_crossed", "rt_entered")


def _is_vector(valtype: str) -> bool:
    return valtype in ("f32", "f64", "v128")


def _operand(target: Target, name: str, valtype: str, kind: str, hole: str) -> str:
    """IR for SSA value *name*."""
    t = llvm_type(valtype)
    if kind == "S":
        return target.slot(name, t, hole)
    if kind == "R":
        return f"%{name} = trunc i64 %R to i32\n" if valtype == "i32" else f"%{name} = add i64 %R, 0\n"
    if kind == "C":
        return target.constant(name, t, hole)
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


def _go(target: Target, symbol: str, r: str = "%R", f: str = "%F") -> str:
    arguments = target.arguments.replace("%R", r).replace("%F", f)
    return f"musttail call {target.convention} void @{symbol}({arguments})\nret void\n"


def _kinds(operands: tuple[str, ...]) -> list[str]:
    """Combinations of operand kinds: each register once, not constants only."""
    combined = [""]
    for valtype in operands:
        alternatives = "SF" if _is_vector(valtype) else "SRC"
        combined = [before + kind for before in combined for kind in alternatives]
    if len(operands) == 3:
        return ["SSS", "SSF"]
    return [kinds for kinds in combined if max(kinds.count("R"), kinds.count("F")) < 2 and kinds.strip("C") != ""]


def _define(target: Target, name: str, body: str) -> str:
    return f'define {target.convention} void @"{name}"({target.arguments}) {target.attributes} {{\n{body}}}\n'


def _instruction(target: Target, code: str, lowered: Lowering) -> list[str]:
    made = []
    memories = MEMORIES if lowered.access else ("",)
    for memory in memories:
        address = "i64" if "w" in memory else "i32"
        operands = tuple(address if operand == "addr" else operand for operand in lowered.operands)
        kinds = _kinds(operands) if not lowered.access else [*_kinds(operands), *_constant_store(operands)]
        for kind in kinds:
            body = "".join(_operand(target, "abc"[i], operands[i], kind[i], "ABC"[i]) for i in range(len(operands)))
            if lowered.access:
                body += target.address(memory)
            body += lowered.lines
            lines, r, f = _result(lowered.result)
            suffix = f".{memory}" if memory else ""
            made.append(_define(target, f"{code}{suffix}.{kind}", body + lines + _go(target, NEXT, r, f)))
            if lowered.result == "i1":
                for sense, weight, order in (("t", "!1", "xy"), ("f", "!2", "yx")):
                    branch = f"br i1 %r, label %{order[0]}, label %{order[1]}, !prof {weight}\n"
                    end = "x:\n" + _go(target, TARGET) + "y:\n" + _go(target, NEXT)
                    made.append(_define(target, f"{code}.{kind}.{sense}", body + branch + end))
    return made


def _constant_store(operands: tuple[str, ...]) -> list[str]:
    return ["C"] if len(operands) == 1 else []


def stencil_ir(target: Target, cases: dict[str, Lowering]) -> str:
    """Return the IR module of all stencils for *cases*, with the fragments and routines as assembly."""
    parts = [
        "".join(f"declare {target.convention} void @{symbol}({target.arguments})\n" for symbol in (NEXT, TARGET)),
        (
            '!0 = !{!"branch_weights", i32 1, i32 100000}\n!1 = !{!"branch_weights", i32 1, i32 100}\n'
            '!2 = !{!"branch_weights", i32 100, i32 1}\n'
        ),
        target.globals,
    ]
    for code, lowered in cases.items():
        if code not in _FREE:
            parts += _instruction(target, code, lowered)
    for name, text in (target.fragments | target.routines).items():
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


def _check_text(target: Target, text: str) -> set[str]:
    """Assert that no stencil uses the stack; return the names of those with branches of their own."""
    branching = set()
    for chunk in text.split("\t.globl\t")[1:]:
        name, _, rest = chunk.partition("\n")
        name = name.strip().strip('"')
        body, end, _ = rest.partition(".Lfunc_end")
        if not end:  # a label of a routine
            continue
        lines = [line for line in body.splitlines() if line.startswith("\t") and not line.startswith("\t.")]
        if target.uses_stack(lines):
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


TARGETS: Final[dict[str, type[Target]]] = {kind.machine: kind for kind in (X86, AArch64)}
"""By the name of the machine."""


def _compiled(source: str, target: Target, *, optimised: bool = False) -> tuple[str, bytes]:
    """Assembly text and object file of IR. llvmlite assembles for the machine it runs on only.

    Args:
        source: The IR.
        target: What it is for.
        optimised: Run LLVM's passes over it; stencils need none.
    """
    if target.machine != platform.machine():
        return _cross_compiled(source, target)
    from llvmlite import binding as llvm  # type: ignore[import-untyped,import-not-found,unused-ignore] # noqa: PLC0415 - a requirement of builds only

    for name in ("initialize_all_targets", "initialize_all_asmprinters", "initialize_native_asmparser"):
        getattr(llvm, name)()
    options = {"cpu": target.cpu, "opt": 2, "reloc": "static", "codemodel": "small"}
    machine = llvm.Target.from_triple(target.triple).create_target_machine(**options)
    module = llvm.parse_assembly(source)
    module.verify()
    if optimised:
        passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
        passes.getModulePassManager().run(module, passes)
        source = str(module)
    text = machine.emit_assembly(module)
    return text, machine.emit_object(llvm.parse_assembly(source))


def _validate(target: Target) -> bytes:
    """The machine code of the walk that validates: it stands alone."""
    source = f'target triple = "{target.triple}"\n' + functions_ir(validate)
    _text, made = _compiled(source, target, optimised=True)
    functions, _labels, _constants = read_object(made, target.ends)
    function = functions["validate.entry"]
    if len(functions) != 1 or function.relocations:
        raise RuntimeError(f"the walk that validates refers to {[hole.symbol for hole in function.relocations]}")
    return function.code


def _cross_compiled(source: str, target: Target) -> tuple[str, bytes]:
    """The same with a clang for another machine, ziglang's for one."""
    compiler = os.environ.get("AIOWASM_CC") or f"{sys.executable} -m ziglang cc -target {target.machine}-linux-gnu"
    with tempfile.TemporaryDirectory() as folder:
        code, text, made = (Path(folder, f"stencils.{suffix}") for suffix in ("ll", "s", "o"))
        code.write_text(source, encoding="utf-8")
        options = ["-O2", f"-mcpu={target.cpu}", "-Wno-override-module", "-Wno-unused-command-line-argument"]
        for kind, result in (("-S", text), ("-c", made)):
            subprocess.run([*compiler.split(), *options, kind, str(code), "-o", str(result)], check=True)
        return text.read_text(encoding="utf-8"), made.read_bytes()


def build_blob(target: Target) -> bytes:
    """Return the stencils for processors of a kind as one file.

    The format: the length of a JSON header (4 bytes, little endian), the header, all code. Of the header's lists
    "names", "sizes" and "counts" (of holes) have an entry for each stencil, and "holes" has four for each hole: the
    thousands of lists that nested ones would be have Python's collector stop whoever loads them.
    """
    source = f'target triple = "{target.triple}"\n' + stencil_ir(target, lowerings(target))
    text, made = _compiled(source, target)
    branching = _check_text(target, text)
    functions, labels, constants = read_object(made, target.ends)
    pool, places = _pool(constants)
    body = bytearray(pool + bytes(-len(pool) % 16))
    header: dict[str, Any] = {
        "machine": target.machine,
        "level": target.level,
        "pool": len(body),
        "labels": {name: offset for name, (_owner, offset) in labels.items() if name in _LABELS},
        "names": list(functions),
        "sizes": [],
        "counts": [],
        "holes": [],
        "fixed": sorted(branching),
    }
    for name, function in functions.items():
        code, holes = target.cut(name, function, places)
        header["sizes"].append(len(code))
        header["counts"].append(len(holes))
        header["holes"] += chain.from_iterable(holes)
        body += code
    validate = _validate(target)
    header["names"].append("validate")
    header["sizes"].append(len(validate))
    header["counts"].append(0)
    body += validate
    encoded = json.dumps(header, separators=(",", ":"), sort_keys=True).encode()
    return struct.pack("<I", len(encoded)) + encoded + bytes(body)
