"""AArch64 for the builder. Its routines and fragments are in `aarch64_runtime.py`."""

from __future__ import annotations

import re
from typing import ClassVar, Final

from aiowasm.engine.native.builder.aarch64_runtime import FRAGMENTS, ROUTINES
from aiowasm.engine.native.builder.elf import Function
from aiowasm.engine.native.builder.shapes import llvm_type
from aiowasm.engine.native.builder.target import HOLES, NANFIX, NEXT, OUTFIX, TARGET, Target
from aiowasm.engine.native.layout import Activation
from aiowasm.errors import TrapCode

__all__ = ("AArch64",)

_FORBIDDEN: Final = re.compile(r"\b(sp|[xw](15|18|28|30)|ret)\b")
_REGISTER: Final = {"i32": ("r", "${0:w}"), "i64": ("r", "$0"), "float": ("w", "${0:s}"), "double": ("w", "${0:d}")}
_PAGE, _JUMP, _CONDITION, _TEST = 275, 282, 280, 279  # relocations: adrp, b, b.cond and cbz, tbz
_IMMEDIATES: Final = frozenset((263, 264, 277, 278, 284, 285, 286, 299))  # movz, add, and loads of 1, 2, 4, 8, 16 bytes
_B: Final = 0x14000000


class AArch64(Target):
    """Processors of ARMv8-A."""

    machine: ClassVar = "aarch64"
    levels: ClassVar = ("aarch64",)
    triple: ClassVar = "aarch64-unknown-linux-gnu"
    convention: ClassVar = "preserve_nonecc"
    # In x20 to x27 and v0.
    arguments: ClassVar = "ptr %vm, ptr %fp, ptr %mb, i64 %R, i64 %fuel, i64 %ms, i64 %left, ptr %inst, <2 x double> %F"
    globals: ClassVar = ""
    attributes: ClassVar = (
        'optsize nounwind "frame-pointer"="none" "target-features"="+reserve-x15,+reserve-x18,+reserve-x28"'
    )
    ends: ClassVar = (0,)
    routines: ClassVar = ROUTINES
    fragments: ClassVar = FRAGMENTS
    fma = True

    @property
    def cpu(self) -> str:
        """LLVM's name of the processor."""
        return "generic"

    def trap(self, code: TrapCode) -> str:
        """IR that traps."""
        return f'call void asm sideeffect "ldr x16, [$0, #{Activation.trap(code)}]; blr x16", "r,~{{x16}}"(ptr %vm)\n'

    def trap_if_zero(self, t: str, value: str, code: TrapCode) -> str:
        """IR that traps if an integer is zero."""
        register = "${0:w}" if t == "i32" else "$0"
        return (
            f'call void asm sideeffect "cbnz {register}, 1f; ldr x16, [$1, #{Activation.trap(code)}]; blr x16; 1:", '
            f'"r,r,~{{x16}}"({t} {value}, ptr %vm)\n'
        )

    def canonical(self, t: str, value: str, result: str) -> str:
        """IR for *result*: the processor makes NaNs canonical, as the runtime sets its control register."""
        return self.canonical_lanes(llvm_type(t), t, value, result)

    def canonical_lanes(self, t: str, lane: str, value: str, result: str) -> str:
        """The same for a vector of LLVM type *t*."""
        return f"{result} = bitcast {t} {value} to {t}\n"

    def swizzle(self) -> str:
        """IR for %v: the bytes of %av at the indices %bv, zero for those from 16 on."""
        return "%v = call <16 x i8> @llvm.aarch64.neon.tbl1.v16i8(<16 x i8> %av, <16 x i8> %bv)\n"

    def slot(self, name: str, t: str, hole: str) -> str:
        """IR for %*name*: a slot of the frame."""
        constraint, register = _REGISTER.get(t, ("w", "${0:q}"))
        return f'%{name} = call {t} asm "ldr {register}, [$1, :lo12:H{hole}]", "={constraint},r"(ptr %fp)\n'

    def constant(self, name: str, t: str, hole: str) -> str:
        """IR for %*name*: a constant."""
        constraint, register = _REGISTER[t]
        letter = "W" if t == "i32" else "K"
        return f'%{name} = call {t} asm "movz {register}, #:abs_g0:{letter}{hole}", "={constraint}"()\n'

    def address(self, memory: str) -> str:
        """IR for %g, the checked host address of guest address %a plus the offset in HO (and HE: behind the access)."""
        lines = ""
        base, size = "%mb", "%ms"
        if "m" in memory:
            lines += (
                '%mp = call ptr asm "ldr $0, [$1, :lo12:HM]", "=r,r"(ptr %inst)\n'
                "%mb2 = load ptr, ptr %mp\n%msp = getelementptr i8, ptr %mp, i64 8\n%ms2 = load i64, ptr %msp\n"
            )
            base, size = "%mb2", "%ms2"
        lines += f"%az = {'add i64 %a, 0' if 'w' in memory else 'zext i32 %a to i64'}\n"
        # With an address of 64 bits the sum may be too large for a register.
        add, carry = ("adds", "b.hs OUTFIX; ") if "w" in memory else ("add", "")
        lines += (
            f'%e = call i64 asm sideeffect ".reloc .,R_AARCH64_ADD_ABS_LO12_NC,HE; {add} $0, $1, #0; {carry}'
            f'cmp $0, $2; b.hi OUTFIX", "=&r,r,r,~{{cc}}"(i64 %az, i64 {size})\n'
            f"%g0 = getelementptr i8, ptr {base}, i64 %az\n"
        )
        return lines + '%g = call ptr asm ".reloc .,R_AARCH64_ADD_ABS_LO12_NC,HO; add $0, $0, #0", "=r,0"(ptr %g0)\n'

    def uses_stack(self, lines: list[str]) -> bool:
        """Whether the assembly of a stencil touches the stack, or a register that is not its business."""
        return any(_FORBIDDEN.search(line) and "blr" not in line for line in lines)

    def cut(self, name: str, function: Function, pool: dict[str, int]) -> tuple[bytes, list[tuple[int, int, str, int]]]:
        """Turn a function into a stencil: no jump to what follows, constants in the pool, only known holes left."""
        code = _Code(name, function)
        code.resolve(pool)
        code.simplify()
        return code.encode()


class _Instruction:
    """A word, what its immediate depends on, and what it branches to within the function."""

    __slots__ = ("symbol", "to", "type", "word")

    def __init__(self, word: int, kind: int = 0, symbol: str = "") -> None:
        self.word = word
        self.type = kind
        self.symbol = symbol
        self.to: _Instruction | None = None


class _Code:
    """The instructions of one function; the last is the end, which stands for what follows."""

    def __init__(self, name: str, function: Function) -> None:
        self.name = name
        words = [int.from_bytes(function.code[at : at + 4], "little") for at in range(0, len(function.code), 4)]
        self.list = [_Instruction(word) for word in words]
        self.end = _Instruction(0)
        for relocation in function.relocations:
            instruction = self.list[relocation.offset // 4]
            if relocation.offset % 4 or relocation.addend or instruction.type:
                raise RuntimeError(f"{name}: an odd relocation of {relocation.symbol}")
            instruction.type, instruction.symbol = relocation.type, relocation.symbol
        everything = [*self.list, self.end]
        for index, instruction in enumerate(self.list):
            distance = None if instruction.type else _distance(instruction.word)
            if distance is not None:
                if distance % 4 or not 0 <= index + distance // 4 < len(everything):
                    raise RuntimeError(f"{name}: an odd branch")
                instruction.to = everything[index + distance // 4]

    def resolve(self, pool: dict[str, int]) -> None:
        """Address constants through the activation, and check what is left."""
        for instruction in self.list:
            symbol, kind = instruction.symbol, instruction.type
            if symbol.startswith(".LCPI"):
                if kind == _PAGE:  # adrp: a load of the pool's address
                    instruction.word = 0xF9400000 | Activation.POOL // 8 << 10 | 20 << 5 | instruction.word & 31
                elif kind in _IMMEDIATES and instruction.word & 0x3B000000 == 0x39000000:
                    wide = instruction.word & 0x04800000 == 0x04800000
                    scale = 4 if wide else instruction.word >> 30
                    place = pool[symbol]
                    if place & (1 << scale) - 1 or place >> scale >= 1 << 12:
                        raise RuntimeError(f"{self.name}: a constant in an odd place")
                    instruction.word |= place >> scale << 10
                else:
                    raise RuntimeError(f"{self.name}: a constant that is not loaded")
                instruction.type, instruction.symbol = 0, ""
            elif symbol == NEXT:
                if kind != _JUMP:
                    raise RuntimeError(f"{self.name}: an odd way to go on")
                instruction.type, instruction.symbol, instruction.to = 0, "", self.end
            elif symbol in (TARGET, OUTFIX, NANFIX):
                if kind not in (_JUMP, _CONDITION, _TEST):
                    raise RuntimeError(f"{self.name}: an odd branch")
            elif symbol and (symbol not in HOLES or kind not in _IMMEDIATES):
                raise RuntimeError(f"{self.name}: relocation {kind} of {symbol}")

    def simplify(self) -> None:
        """A conditional branch across a jump becomes one; the jump to what follows goes."""
        code = self.list
        if len(code) >= 3 and code[-2].word == code[-1].word == _B and code[-3].to is code[-1]:
            condition, first, last = code[-3:]
            if first.symbol == TARGET and last.to is self.end:
                condition.word = _inverted(condition.word)
            if TARGET in (first.symbol, last.symbol) and self.end in (first.to, last.to):
                condition.to, condition.symbol, condition.type = None, TARGET, _CONDITION
                del code[-2:]
        if code and code[-1].to is self.end and code[-1].word & 0xFC000000 == _B:
            last = code.pop()
            for instruction in code:
                if instruction.to is last:
                    instruction.to = self.end
        for instruction in [each for each in code if each.symbol in (TARGET, OUTFIX, NANFIX)]:
            if instruction.word & 0x7E000000 == 0x36000000:
                # Branches on a bit reach 32 KiB only: across a jump then.
                at = code.index(instruction)
                jump = _Instruction(_B, _JUMP, instruction.symbol)
                code.insert(at + 1, jump)
                instruction.word = _inverted(instruction.word)
                instruction.symbol, instruction.type = "", 0
                instruction.to = code[at + 2] if at + 2 < len(code) else self.end

    def encode(self) -> tuple[bytes, list[tuple[int, int, str, int]]]:
        """Bytes and holes: branches within are holes too, as what lies between may change its length."""
        places = {id(instruction): 4 * index for index, instruction in enumerate(self.list)}
        places[id(self.end)] = 4 * len(self.list)
        holes = []
        for index, instruction in enumerate(self.list):
            if instruction.to is not None:
                holes.append((4 * index, 0, "", places[id(instruction.to)]))
            elif instruction.symbol:
                holes.append((4 * index, instruction.type, instruction.symbol, 0))
        return b"".join(instruction.word.to_bytes(4, "little") for instruction in self.list), holes


def _inverted(word: int) -> int:
    return word ^ 1 if word & 0xFF000010 == 0x54000000 else word ^ 1 << 24


def _signed(value: int, nbits: int) -> int:
    return value - (1 << nbits) if value >> nbits - 1 else value


def _distance(word: int) -> int | None:
    """How far a branch (or `adr`) leads, in bytes; None: it is none."""
    if word & 0x7C000000 == _B:
        return 4 * _signed(word & 0x3FFFFFF, 26)
    if word & 0xFF000010 == 0x54000000 or word & 0x7E000000 == 0x34000000:
        return 4 * _signed(word >> 5 & 0x7FFFF, 19)
    if word & 0x7E000000 == 0x36000000:
        return 4 * _signed(word >> 5 & 0x3FFF, 14)
    if word & 0x9F000000 == 0x10000000:
        return _signed((word >> 5 & 0x7FFFF) << 2 | word >> 29 & 3, 21)
    return None
