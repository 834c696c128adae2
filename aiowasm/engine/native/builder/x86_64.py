"""x86-64 for the builder. Its routines and fragments are in `x86_64_runtime.py`."""

from __future__ import annotations

import re
import struct
from typing import ClassVar, Final

from aiowasm.engine.native.builder.elf import ABSOLUTE_32, ABSOLUTE_64, RELATIVE, SIGNED_32, Function
from aiowasm.engine.native.builder.shapes import llvm_type
from aiowasm.engine.native.builder.target import HOLES, NANFIX, NEXT, OUTFIX, TARGET, Target
from aiowasm.engine.native.builder.x86_64_runtime import FRAGMENTS, ROUTINES
from aiowasm.engine.native.layout import Activation
from aiowasm.errors import TrapCode

__all__ = ("X86",)

_STACK: Final = re.compile(r"%[re]?sp\b|\bpush|\bpop[^c]|\bret|%[xyz]mm[2-6]\b")


def _globals() -> str:
    lines = "!3 = !{i64 -2147483648, i64 2147483648}\n!4 = !{i64 0, i64 2147483648}\n"
    for hole in ("HA", "HB", "HC", "KA", "KB"):
        lines += f"@{hole} = external hidden global i8, !absolute_symbol !3\n"
    for hole in ("HE", "HO", "HM"):
        lines += f"@{hole} = external hidden global i8, !absolute_symbol !4\n"
    return lines + "@WA = external hidden global i8\n@WB = external hidden global i8\n"


class X86(Target):
    """Processors of a level of x86-64."""

    machine: ClassVar = "x86_64"
    levels: ClassVar = ("x86-64-v2", "x86-64-v3")
    triple: ClassVar = "x86_64-unknown-linux-gnu"
    convention: ClassVar = "ghccc"
    # In r13 rbp r12 rbx r14 rsi rdi r8 r9 r15 xmm1, and what a loop keeps in xmm2 to xmm6.
    arguments: ClassVar = ", ".join(
        [
            *(
                "ptr %vm",
                "ptr %fp",
                "ptr %mb",
                "i64 %R",
                "i64 %fuel",
                "i64 %ms",
                "ptr %pool",
                "i64 %left",
                "i64 %spare",
            ),
            *("ptr %inst", "<2 x double> %F", *(f"<2 x double> %K{register}" for register in range(2, 7))),
        ]
    )
    globals: ClassVar = _globals()
    ends: ClassVar = (-4, -5)  # an immediate of one byte may follow the displacement
    routines: ClassVar = ROUTINES
    fragments: ClassVar = FRAGMENTS

    def __init__(self, level: str) -> None:
        super().__init__(level)
        self.fma = level != "x86-64-v2"

    @property
    def cpu(self) -> str:
        """LLVM's name of the processor."""
        return self.level

    def trap(self, code: TrapCode) -> str:
        """IR that traps."""
        return f'call void asm sideeffect "call *{Activation.trap(code)}($0)", "r"(ptr %vm)\n'

    def trap_if_zero(self, t: str, value: str, code: TrapCode) -> str:
        """IR that traps if an integer is zero."""
        suffix = "l" if t == "i32" else "q"
        return (
            f'call void asm sideeffect "test{suffix} $0, $0; jne 1f; call *{Activation.trap(code)}($1); 1:", '
            f'"r,r,~{{flags}}"({t} {value}, ptr %vm)\n'
        )

    def canonical(self, t: str, value: str, result: str) -> str:
        """IR for *result*: the float *value* with every NaN made the canonical one, which happens out of line."""
        letter = "d" if t == "f64" else "s"
        return (
            f'{result} = call {llvm_type(t)} asm sideeffect "ucomis{letter} $0, $0; jp NANFIX", '
            f'"={{xmm1}},0,~{{flags}}"({llvm_type(t)} {value})\n'
        )

    def canonical_lanes(self, t: str, lane: str, value: str, result: str) -> str:
        """The same for a vector of LLVM type *t* with lanes f32 or f64."""
        letter = "d" if lane == "f64" else "s"
        if self.fma:
            return (
                f'{result} = call {t} asm sideeffect "vcmpunordp{letter} $0, $0, %xmm7; vtestp{letter} %xmm7, %xmm7; '
                f'jne NANFIX", "={{xmm1}},0,~{{xmm0}},~{{xmm7}},~{{flags}}"({t} {value})\n'
            )
        return (
            f'{result} = call {t} asm sideeffect "movaps $0, %xmm7; cmpunordp{letter} %xmm7, %xmm7; '
            f'movmskp{letter} %xmm7, %eax; testl %eax, %eax; jne NANFIX", '
            f'"={{xmm1}},0,~{{xmm0}},~{{xmm7}},~{{eax}},~{{flags}}"({t} {value})\n'
        )

    def swizzle(self) -> str:
        """IR for %v: indices from 16 on must have their top bit set, as pshufb gives zero for those."""
        far = "<" + ", ".join(["i8 112"] * 16) + ">"
        return (
            f"%s = call <16 x i8> @llvm.uadd.sat.v16i8(<16 x i8> %bv, <16 x i8> {far})\n"
            "%v = call <16 x i8> @llvm.x86.ssse3.pshuf.b.128(<16 x i8> %av, <16 x i8> %s)\n"
        )

    def slot(self, name: str, t: str, hole: str) -> str:
        """IR for %*name*: a slot of the frame."""
        place = f"%p{name} = getelementptr i8, ptr %fp, i64 ptrtoint (ptr @H{hole} to i64)\n"
        return place + f"%{name} = load {t}, ptr %p{name}, align 1\n"

    def constant(self, name: str, t: str, hole: str) -> str:
        """IR for %*name*: a constant."""
        if t == "i32":
            return f"%{name} = trunc i64 ptrtoint (ptr @W{hole} to i64) to i32\n"
        return f"%{name} = ptrtoint ptr @K{hole} to i64\n"

    def address(self, memory: str) -> str:
        """IR for %g, the checked host address of guest address %a plus the offset in HO (and HE: behind the access)."""
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

    def uses_stack(self, lines: list[str]) -> bool:
        """Whether the assembly of a stencil touches the stack, or registers that loops keep values in."""
        return any(_STACK.search(line) for line in lines)

    def cut(self, name: str, function: Function, pool: dict[str, int]) -> tuple[bytes, list[tuple[int, int, str, int]]]:
        """Turn a function into a stencil: no jump to what follows, constants in the pool, only known holes left."""
        code = bytearray(function.code)
        holes = list(function.relocations)
        # "jcc NEXT; jmp TARGET" becomes "jncc TARGET".
        if (
            len(holes) > 1
            and holes[-1].symbol == TARGET
            and holes[-2].symbol == NEXT
            and holes[-2].offset == len(code) - 9
            and code[-11] == 0x0F
            and code[-5] == 0xE9
            and all(hole.symbol not in (NEXT, TARGET) for hole in holes[:-2])
        ):
            code[-10] ^= 1
            del code[-5:]
            holes[-2:] = [holes[-1]._replace(offset=len(code) - 4)]
        if holes and holes[-1].symbol == NEXT and holes[-1].offset == len(code) - 4 and code[-5] == 0xE9:
            del code[-5:]
            holes.pop()
        left = []
        for hole in holes:
            if hole.symbol == NEXT:
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
            elif hole.symbol in (NANFIX, OUTFIX):
                if hole.type not in RELATIVE or hole.addend != -4:
                    raise RuntimeError(f"{name}: an odd branch")
                left.append(hole)
            elif hole.symbol not in HOLES:
                raise RuntimeError(f"{name} refers to {hole.symbol}")
            elif hole.symbol == TARGET:
                if hole.type not in RELATIVE or hole.addend != -4:
                    raise RuntimeError(f"{name}: an odd branch")
                left.append(hole)
            elif hole.type not in (ABSOLUTE_32, ABSOLUTE_64, SIGNED_32):
                raise RuntimeError(f"{name}: relocation {hole.type} of {hole.symbol}")
            else:
                left.append(hole)
        return bytes(code), [(hole.offset, hole.type, hole.symbol, hole.addend) for hole in left]
