"""x86-64: the instructions that loops of integers are made of, as bytes; `integer_loops` says which, and on what.

An operand is a register (the complement of its number), a slot of the frame, or a constant, as in `operands`. An i32 in
a register has zeros above; one in a slot may have anything there. rax is scratch; rcx too where a shift needs cl.
`move` and `store` leave the flags alone, so that they may stand between a comparison and its branch.
"""

from __future__ import annotations

import struct
from typing import Final

from aiowasm.engine.native.encoding.operands import C32, C64, constant, slot
from aiowasm.engine.native.layout import Activation

__all__ = ("IntegerCode",)

_RAX, _RCX, _RSI, _RDI, _R8, _R12, _R14, _R15 = 0, 1, 6, 7, 8, 12, 14, 15
_MASK64: Final = (1 << 64) - 1
_ARITHMETIC: Final = {"iadd": 0, "ior": 1, "iand": 4, "isub": 5, "ixor": 6}
_COMMUTATIVE: Final = frozenset(("iadd", "ior", "iand", "ixor", "imul"))
_SHIFTS: Final = {"irotl": 0, "irotr": 1, "ishl": 4, "ishr_u": 5, "ishr_s": 7}
_SHIFTS_ANYWHERE: Final = {"ishl": 1, "ishr_s": 2, "ishr_u": 3}
"""With the count in any register (BMI2): their prefixes."""
_COUNTS: Final = {"ipopcnt": b"\x0f\xb8", "ictz": b"\x0f\xbc", "iclz": b"\x0f\xbd"}
_EXTENSIONS: Final = {8: b"\x0f\xbe", 16: b"\x0f\xbf", 32: b"\x63"}
_LOADS: Final = {
    ("i8", "s"): b"\x0f\xbe",
    ("i8", "u"): b"\x0f\xb6",
    ("i16", "s"): b"\x0f\xbf",
    ("i16", "u"): b"\x0f\xb7",
    ("i32", "s"): b"\x63",
    ("i32", "u"): b"\x8b",
    ("i32", ""): b"\x8b",
    ("i64", ""): b"\x8b",
}
_CONDITIONS: Final = {
    "ieqz": 4, "ieq": 4, "ine": 5, "ilt_s": 12, "ige_s": 13, "ile_s": 14, "igt_s": 15, "ilt_u": 2, "ige_u": 3,
    "ile_u": 6, "igt_u": 7,
}  # fmt: skip
_SWAPPED: Final = {4: 4, 5: 5, 12: 15, 15: 12, 13: 14, 14: 13, 2: 7, 7: 2, 3: 6, 6: 3}
_ASIDE: Final = {_R8: Activation.LOOP_SLOTS, _R15: Activation.LOOP_INSTANCE, _RSI: Activation.LOOP_NBYTES}
_int32 = struct.Struct("<i")
_uint64 = struct.Struct("<Q")


def _is_short(value: int) -> bool:
    return -128 <= value < 128


def _fits(value: int) -> bool:
    return -(1 << 31) <= value < 1 << 31


class IntegerCode:
    """Code that is being made: `out`. Branches are made open; `fix` says where they lead.

    Args:
        is_level_3: Whether the processor has what x86-64-v3 has.
    """

    order: Final = (3, 2, 9, 10, 11, 1, 7, 8, 15)
    """Numbers of the registers that values may be in; the last three have something to be restored."""
    restored: Final = frozenset((_RSI, _RDI, _R8, _R15))
    count_register: Final = _RCX

    def __init__(self, *, is_level_3: bool) -> None:
        self.out = bytearray()
        self._is_level_3 = is_level_3
        self._size_in_register = True

    def give_up_size(self) -> int:
        """Let the register that holds the bytes of memory 0 hold a value; checks read the activation then."""
        self._size_in_register = False
        return _RSI

    def computes(self, operator: str) -> bool:
        """Whether an operator with an integer result is known here."""
        if operator in _COUNTS:
            return self._is_level_3
        return operator in _ARITHMETIC or operator in _SHIFTS or operator == "imul" or operator.startswith("iextend")

    def needs_count_register(self, operator: str) -> bool:
        """Whether a shift by what is no constant needs its count in `count_register`."""
        return operator in _SHIFTS and not (self._is_level_3 and operator in _SHIFTS_ANYWHERE)

    @staticmethod
    def is_commutative(operator: str) -> bool:
        """Whether operands may change places."""
        return operator in _COMMUTATIVE

    @staticmethod
    def condition(operator: str) -> int | None:
        """The number of a comparison's condition, whose lowest bit negates it."""
        return _CONDITIONS.get(operator)

    # Instructions

    def _emit(
        self, opcode: bytes, reg: int, operand: int, wide: bool, rest: bytes = b"", *, prefix: bytes = b"",
        byte: bool = False,
    ) -> None:  # fmt: skip
        """An instruction with a register and a register or slot; *byte*: registers are those of one byte."""
        rex = wide << 3 | (reg >> 3) << 2
        if operand < 0:
            base = ~operand
            rex |= base >> 3
            tail = bytes((0xC0 | (reg & 7) << 3 | base & 7,))
            byte = byte and (base >= 4 or reg >= 4)
        else:
            displacement = slot(operand)
            byte = byte and reg >= 4
            if _is_short(displacement):
                tail = bytes((0x45 | (reg & 7) << 3, displacement & 0xFF))
            else:
                tail = bytes((0x85 | (reg & 7) << 3,)) + _int32.pack(displacement)
        self.out += prefix + (bytes((0x40 | rex,)) if rex or byte else b"") + opcode + tail + rest

    def _vex(self, pages: int, pp: int, opcode: int, reg: int, source: int, operand: int, wide: bool) -> None:
        """A BMI2 instruction: *reg* from *operand* (a register or slot) and register *source*."""
        base = ~operand if operand < 0 else 5
        first = (0x80 if reg < 8 else 0) | 0x40 | (0x20 if base < 8 else 0) | pages
        self.out += bytes((0xC4, first, wide << 7 | (~source & 15) << 3 | pp, opcode))
        if operand < 0:
            self.out.append(0xC0 | (reg & 7) << 3 | base & 7)
            return
        displacement = slot(operand)
        if _is_short(displacement):
            self.out += bytes((0x45 | (reg & 7) << 3, displacement & 0xFF))
        else:
            self.out += bytes((0x85 | (reg & 7) << 3,)) + _int32.pack(displacement)

    def _lea(self, to: int, base: int, wide: bool, *, index: int = -1, displacement: int = 0) -> None:
        """The sum of registers *base* and *index* and a displacement; neither may be rsp, rbp, r12 or r13 as base."""
        rex = wide << 3 | (to >> 3) << 2 | base >> 3 | (index >> 3 << 1 if index >= 0 else 0)
        short = _is_short(displacement)
        mode = 0 if not displacement else 0x40 if short else 0x80
        code = bytes((0x40 | rex,)) if rex else b""
        if index >= 0:
            code += bytes((0x8D, mode | (to & 7) << 3 | 4, (index & 7) << 3 | base & 7))
        else:
            code += bytes((0x8D, mode | (to & 7) << 3 | base & 7))
        if displacement:
            code += bytes((displacement & 0xFF,)) if short else _int32.pack(displacement)
        self.out += code

    def move(self, to: int, operand: int, wide: bool) -> None:
        """Bring an operand into register *to*."""
        if operand >= C32:
            value = constant(operand) if wide else constant(operand) & 0xFFFFFFFF
            if 0 <= value < 1 << 32:
                self.out += (b"\x41" if to >= 8 else b"") + bytes((0xB8 | to & 7,)) + struct.pack("<I", value)
            elif _fits(value):
                self._emit(b"\xc7", 0, ~to, True, _int32.pack(value))
            else:
                code = bytes((0x48 | to >> 3, 0xB8 | to & 7))
                self.out += code + _uint64.pack(value & _MASK64)
        elif operand != ~to:
            self._emit(b"\x8b", to, operand, wide)

    def truncate(self, to: int, operand: int) -> None:
        """*to* := the lower half of an operand, with zeros above, also if it is there already."""
        if operand >= C32:
            self.move(to, C32 + (constant(operand) & 0xFFFFFFFF), False)
        else:
            self._emit(b"\x8b", to, operand, False)

    def store(self, place: int, operand: int) -> None:
        """Put an operand into a slot, all 64 bits of it."""
        if operand >= C32:
            value = constant(operand)
            if _fits(value):
                self._emit(b"\xc7", 0, place, True, _int32.pack(value))
                return
            self.move(_RAX, operand, True)
            operand = ~_RAX
        elif operand >= 0:
            self._emit(b"\x8b", _RAX, operand, True)
            operand = ~_RAX
        self._emit(b"\x89", ~operand, place, True)

    def park(self, operand: int) -> None:
        """Put a register or slot aside, into xmm7."""
        if operand < 0:
            self._emit(b"\x0f\x6e", 7, operand, True, prefix=b"\x66")
        else:
            self._emit(b"\x0f\x7e", 7, operand, False, prefix=b"\xf3")

    def unpark(self, to: int, wide: bool) -> None:
        """Bring what was put aside into a register or slot."""
        if to < 0:
            self._emit(b"\x0f\x7e", 7, to, wide, prefix=b"\x66")
        else:
            self._emit(b"\x0f\xd6", 7, to, False, prefix=b"\x66")

    def binary(self, operator: str, wide: bool, to: int, a: int, b: int) -> None:
        """*to* := a operator b. *to* may be the register of a, and that of b if the operator commutes."""
        if operator in _SHIFTS:
            self._shift(operator, wide, to, a, b)
            return
        if operator in _COMMUTATIVE and (a >= C32 or b == ~to):
            a, b = b, a
        if b >= C32 and not _fits(constant(b)):
            self.move(_RAX, b, wide)
            b = ~_RAX
        if operator == "imul":
            self._multiply(wide, to, a, b)
        elif operator == "iadd" and a < 0 and a != ~to and (b < 0 or b >= C32):
            if b < 0:
                self._lea(to, ~a, wide, index=~b)
            else:
                self._lea(to, ~a, wide, displacement=constant(b))
        else:
            self.move(to, a, wide)
            self._arithmetic(_ARITHMETIC[operator], ~to, b, wide)

    def _arithmetic(self, number: int, to: int, b: int, wide: bool) -> None:
        """One of the eight operations on a register (or, with a constant or register, a slot)."""
        if b >= C32:
            value = constant(b)
            if _is_short(value):
                self._emit(b"\x83", number, to, wide, bytes((value & 0xFF,)))
            else:
                self._emit(b"\x81", number, to, wide, _int32.pack(value))
        elif to < 0:
            self._emit(bytes((number << 3 | 3,)), ~to, b, wide)
        else:
            self._emit(bytes((number << 3 | 1,)), ~b, to, wide)

    def _multiply(self, wide: bool, to: int, a: int, b: int) -> None:
        if b < C32:
            self.move(to, a, wide)
            self._emit(b"\x0f\xaf", to, b, wide)
            return
        if a >= C32:
            self.move(to, a, wide)
            a = ~to
        value = constant(b)
        if _is_short(value):
            self._emit(b"\x6b", to, a, wide, bytes((value & 0xFF,)))
        else:
            self._emit(b"\x69", to, a, wide, _int32.pack(value))

    def _shift(self, operator: str, wide: bool, to: int, a: int, b: int) -> None:
        nbits = 64 if wide else 32
        if b >= C32:
            count = constant(b) & nbits - 1
            if count and self._is_level_3 and operator in ("irotl", "irotr") and a < C32 and a != ~to:
                right = nbits - count if operator == "irotl" else count
                self._vex(3, 3, 0xF0, to, 0, a, wide)
                self.out.append(right)
                return
            self.move(to, a, wide)
            if count:
                self._emit(b"\xc1", _SHIFTS[operator], ~to, wide, bytes((count,)))
            return
        if self.needs_count_register(operator):
            self.move(_RCX, b, False)
            self.move(to, a, wide)
            self._emit(b"\xd3", _SHIFTS[operator], ~to, wide)
            return
        if b >= 0:
            self.move(_RAX, b, wide)
            b = ~_RAX
        if a >= C32:
            self.move(to, a, wide)
            a = ~to
        self._vex(2, _SHIFTS_ANYWHERE[operator], 0xF7, to, ~b, a, wide)

    def unary(self, operator: str, wide: bool, to: int, a: int) -> None:
        """*to* := operator a: counts of bits, and extensions of 8, 16 or 32 bits."""
        if a >= C32:
            self.move(to, a, wide)
            a = ~to
        if operator in _COUNTS:
            self._emit(_COUNTS[operator], to, a, wide, prefix=b"\xf3")
            return
        nbits = int(operator.removeprefix("iextend").removesuffix("_s"))
        self._emit(_EXTENSIONS[nbits], to, a, wide, byte=nbits == 8)

    def compare(self, wide: bool, condition: int, a: int, b: int) -> int:
        """Compare two operands, of which not both are constants; returns the condition to ask for."""
        if a >= C32:
            a, b, condition = b, a, _SWAPPED[condition]
        if b >= C32 and not _fits(constant(b)):
            self.move(_RAX, b, wide)
            b = ~_RAX
        if b >= C32 and a < 0 and not constant(b):
            self._emit(b"\x85", ~a, a, wide)
            return condition
        if a >= 0 and 0 <= b < C32:
            self.move(_RAX, a, wide)
            a = ~_RAX
        self._arithmetic(7, a, b, wide)
        return condition

    def test(self, wide: bool, a: int) -> None:
        """Compare with zero."""
        if a >= C32:
            self.move(_RAX, a, wide)
            a = ~_RAX
        self.compare(wide, 4, a, C64 if wide else C32)

    def truth(self, condition: int, to: int) -> None:
        """*to* := whether the condition holds."""
        self._emit(bytes((0x0F, 0x90 | condition)), 0, ~_RAX, False)
        self._emit(b"\x0f\xb6", to, ~_RAX, False)

    def choose(self, condition: int, wide: bool, to: int, a: int) -> None:
        """*to* := a, a register or slot, if the condition holds."""
        self._emit(bytes((0x0F, 0x40 | condition)), to, a, wide)

    # Memory 0

    def check(self, address: int, nbytes: int) -> int:
        """Branch if less than *nbytes* follow register *address* in the memory; returns the fixup."""
        self._lea(_RAX, address, True, displacement=nbytes)
        if self._size_in_register:
            self._emit(b"\x3b", _RAX, ~_RSI, True)
        else:
            self._activation(b"\x3b", _RAX, Activation.LOOP_NBYTES)
        return self.branch(7)

    def _memory(
        self, opcode: bytes, reg: int, address: int, offset: int, wide: bool, *, prefix: bytes = b"", byte: bool = False
    ) -> None:
        rex = wide << 3 | (reg >> 3) << 2 | (address >> 3) << 1 | 1
        short = _is_short(offset)
        mode = 0 if not offset else 0x40 if short else 0x80
        self.out += prefix + bytes((0x40 | rex,)) + opcode
        self.out += bytes((mode | (reg & 7) << 3 | 4, (address & 7) << 3 | _R12 & 7))
        if offset:
            self.out += bytes((offset & 0xFF,)) if short else _int32.pack(offset)

    def load(self, storage: str, wide: bool, to: int, address: int, offset: int) -> None:
        """*to* := what a storage type (i8_s, i64 ...) has at register *address* plus *offset*, which was checked."""
        base, _, sign = storage.partition("_")
        # Only a sign, or 64 bits, must reach the upper half: writing the lower one clears it.
        self._memory(_LOADS[base, sign], to, address, offset, wide and (sign == "s" or base == "i64"))

    def save(self, storage: str, address: int, offset: int, operand: int) -> None:
        """Store an operand at register *address* plus *offset*, which was checked."""
        wide = storage == "i64"
        if operand >= 0:
            self.move(_RAX, operand, wide)
            operand = ~_RAX
        prefix = b"\x66" if storage == "i16" else b""
        opcode = b"\x88" if storage == "i8" else b"\x89"
        self._memory(opcode, ~operand, address, offset, wide, prefix=prefix)

    # Control and what stands around a loop

    def jump(self) -> int:
        """A jump; returns its fixup."""
        self.out += b"\xe9\0\0\0\0"
        return len(self.out) - 4

    def branch(self, condition: int) -> int:
        """A branch; returns its fixup."""
        self.out += bytes((0x0F, 0x80 | condition, 0, 0, 0, 0))
        return len(self.out) - 4

    def fix(self, fixup: int, target: int) -> None:
        """Make a branch lead to *target*."""
        _int32.pack_into(self.out, fixup, target - fixup - 4)

    def charge(self, cost: int) -> None:
        """Take fuel, and set the flags by what is left: condition 8 says that it is too little."""
        self._arithmetic(5, ~_R14, C64 + cost, True)

    def _activation(self, opcode: bytes, reg: int, offset: int) -> None:
        self.out += bytes((0x49 | (reg >> 3) << 2,)) + opcode + bytes((0x85 | (reg & 7) << 3,)) + _int32.pack(offset)

    def set_aside(self, used: frozenset[int]) -> None:
        """Keep in the activation what the registers in *used* have for the code around the loop."""
        for register in used & _ASIDE.keys():
            self._activation(b"\x89", register, _ASIDE[register])
        if not self._size_in_register and _RSI not in used:
            self._activation(b"\x89", _RSI, Activation.LOOP_NBYTES)

    def restore(self, used: frozenset[int]) -> None:
        """Give the registers in *used* back what they have around the loop."""
        for register in used & _ASIDE.keys():
            self._activation(b"\x8b", register, _ASIDE[register])
        if _RDI in used:
            self._activation(b"\x8b", _RDI, Activation.POOL)
