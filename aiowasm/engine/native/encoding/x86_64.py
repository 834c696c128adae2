"""x86-64: displacements are filled in place, and shortened to a byte where they fit one."""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final

from aiowasm.engine.native.encoding.base import Encoding, Hole, Kept, Patched
from aiowasm.engine.native.encoding.x86_64_integers import IntegerCode

__all__ = ("X86",)

_Patch = tuple[Callable[..., None], int, str, int]
_Shape = tuple[bytes, list[_Patch], tuple[int, ...]]
_Shrinkable = tuple[tuple[int, str, int], ...]
"""Holes that may shrink to a byte: the bit that says so, symbol, addend."""
_BYTE, _WORD, _SIGNED, _QUAD = (struct.Struct(format_).pack_into for format_ in ("<b", "<I", "<i", "<q"))
_ABSOLUTE_64: Final = 1
_SIGNED_32: Final = 11
_SHRINKABLE: Final = frozenset(("HA", "HB", "HC", "HO", "HE"))
_BRANCHES: Final = frozenset(("TARGET", "NANFIX", "OUTFIX"))
_LAZY_STUB: Final = struct.Struct("<BIBBBi")  # movl $index,%eax; jmp *lazy(%r13)
_VEX: Final = 0xC5
_ADDITION: Final = "a0.SS"  # f64.add of two slots
_ESCAPE: Final = 0x0F
_REGISTER: Final = 0xC0  # in a ModRM byte: an operand is in a register
_MOVE_UNALIGNED: Final = 0x10
_MOVE_ALIGNED: Final = 0x28
_TAKE_REGISTERS: Final = frozenset(
    [
        *(_MOVE_UNALIGNED, _MOVE_ALIGNED, 0x14, 0x15, 0x2E, 0x2F, 0x51, *range(0x54, 0x60), 0xC2, 0xC6),  # floats
        *(*range(0x60, 0x6E), 0x6F, 0x70, *range(0x74, 0x77), 0xD4, 0xD5, *range(0xD8, 0xE6)),  # lanes of integers
        *(*range(0xE8, 0xF0), *range(0xF1, 0xF7), *range(0xF8, 0xFF)),
    ]
)
"""Opcodes behind 0F that mean the same with an xmm register as with memory.

12, 13, 16 and 17 move other halves then, and 6E, 7E, C4, C5, D6, D7 and others take general registers.
"""
_NAN_CHECKS: Final = (
    bytes.fromhex("660f2ec9 0f8a"),  # ucomisd %xmm1,%xmm1; jp
    bytes.fromhex("0f2ec9 0f8a"),  # ucomiss %xmm1,%xmm1; jp
    bytes.fromhex("c5f1c2f903 c4e2790fff 0f85"),  # vcmpunordpd %xmm1,%xmm1,%xmm7; vtestpd %xmm7,%xmm7; jne
    bytes.fromhex("c5f0c2f903 c4e2790eff 0f85"),  # the same for floats of 32 bits
    # movaps %xmm1,%xmm7; cmpunordpd %xmm7,%xmm7; movmskpd %xmm7,%eax; testl %eax,%eax; jne
    bytes.fromhex("0f28f9 660fc2ff03 660f50c7 85c0 0f85"),
    bytes.fromhex("0f28f9 0fc2ff03 0f50c7 85c0 0f85"),  # the same for floats of 32 bits
)
_MOVE: Final = bytes.fromhex("c5f828")  # vmovaps to xmm0
_MOVE_NBYTES: Final = 4
_SOURCE: Final = 0x78  # of a VEX prefix: its source is xmm0, and inverted
_ARITHMETIC: Final = frozenset((0x58, 0x59, 0x5C, 0x5E))
_INDEX_AT: Final = 1  # in a stub
_SUBTRACT: Final = 3  # bytes before the number in `subq $n, %rbp`


class X86(Encoding):
    """The stencils of a blob for x86-64."""

    machine: ClassVar = "x86_64"
    jump: ClassVar = (b"\xe9\0\0\0\0", (1,))
    skip: ClassVar = b"\xeb\x05"
    stub_nbytes: ClassVar = _LAZY_STUB.size
    kept: ClassVar = range(2, 7)
    control: ClassVar = 0x1F80  # MXCSR: round to nearest, no traps, no flushing of subnormals

    def __init__(self, code: dict[str, bytes], holes: Mapping[str, Sequence[Hole]], fixed: frozenset[str]) -> None:
        super().__init__(code, holes, fixed)
        self._known: dict[str, tuple[_Shrinkable, dict[Any, _Shape]]] = {}
        """What was found out about a stencil, by its name: what may shrink in it, and how it is patched then."""
        self._vex = code[_ADDITION][0] == _VEX
        """Whether instructions of floats have the VEX encoding: in one blob all of them, in the other none."""

    def patch(self, name: str, shrink: bool, values: dict[str, int], kept: Kept = ()) -> Patched:
        """Return a patched copy, and where in it branch displacements are.

        Raises:
            struct.error: If a value does not fit its hole.
        """
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = (self._shrinkable(name), {})
        shrinkable, shapes = known
        narrow: Any = 0
        if shrink:
            for bit, symbol, addend in shrinkable:
                if -128 <= values[symbol] + addend < 128:
                    narrow |= bit
        key = (narrow, kept) if kept else narrow
        shape = shapes.get(key)
        if shape is None:
            shape = shapes[key] = self._shape(name, narrow, dict(kept))
        code, patches, targets = shape
        if not patches:
            return code, targets
        copy = bytearray(code)
        for put, offset, symbol, addend in patches:
            put(copy, offset, values[symbol] + addend)
        return bytes(copy), targets

    def _shrinkable(self, name: str) -> _Shrinkable:
        if name in self.fixed:
            return ()
        return tuple(
            (1 << number, symbol, addend)
            for number, (_, kind, symbol, addend) in enumerate(self.holes[name])
            if kind == _SIGNED_32 and symbol in _SHRINKABLE
        )

    def takes_kept(self, name: str, symbol: str) -> bool:
        """Whether the slot operand in hole *symbol* may be in a register that a loop keeps it in."""
        if name in self.fixed:
            return False
        code, holes = bytearray(self.code[name]), [hole for hole in self.holes[name] if hole[2] == symbol]
        return bool(holes) and all(
            kind == _SIGNED_32 and addend == 0 and _in_slot(code, offset, self._vex)
            for offset, kind, _, addend in holes
        )

    def without_check(self, code: bytes, fixups: tuple[int, ...]) -> Patched:
        """Return code without the check at its end that its result is no NaN."""
        if fixups == (len(code) - 4,):
            for check in _NAN_CHECKS:
                if code.endswith(check, 0, -4):
                    return code[: -4 - len(check)], ()
        return code, fixups

    def _shape(self, name: str, narrow: int, kept: dict[str, int]) -> tuple[bytes, list[_Patch], tuple[int, ...]]:
        code = bytearray(self.code[name])
        cut = 0
        targets = []
        patches: list[_Patch] = []
        for number, (start, kind, symbol, addend) in enumerate(self.holes[name]):
            offset = start - cut
            if symbol in _BRANCHES:
                targets.append(offset)
            elif symbol in kept:
                _to_register(code, offset, kept[symbol], self._vex)
                cut += 4
            elif narrow >> number & 1 and (at := _modrm(code, offset, symbol)) >= 0:
                code[at] -= 0x40  # from a displacement of 32 bits to one of 8
                code[offset : offset + 4] = b"\0"
                cut += 3
                patches.append((_BYTE, offset, symbol, addend))
            elif kind == _ABSOLUTE_64:
                patches.append((_QUAD, offset, symbol, addend))
            elif kind == _SIGNED_32:
                patches.append((_SIGNED, offset, symbol, addend))
            else:
                patches.append((_WORD, offset, symbol, addend))
        if kept and self._vex and _reads_register(code):
            patches = [(each[0], each[1] - _MOVE_NBYTES, *each[2:]) for each in patches]
            targets = [offset - _MOVE_NBYTES for offset in targets]
        return bytes(code), patches, tuple(targets)

    def integer_code(self) -> IntegerCode:
        """Return what makes the code of loops that keep integers in registers."""
        return IntegerCode(is_level_3=self._vex)

    def charge(self, cost: int) -> bytes:
        """Return code that takes *cost* units of fuel."""
        if cost < 128:
            return b"\x49\x83\xee" + bytes((cost,))
        return self.patch("sub", False, {"HA": cost})[0]

    @staticmethod
    def fix(out: bytearray, fixup: int, target: int) -> None:
        """Make the branch at *fixup* of *out* lead to *target*."""
        _SIGNED(out, fixup, target - fixup - 4)

    def fix_each(self, out: bytearray, fixups: Sequence[int], target: int, nbytes: int) -> None:
        """Make the branches at *fixups* lead to *target* and to what follows it, each *nbytes* farther."""
        behind = target - 4
        for fixup in fixups:
            _SIGNED(out, fixup, behind - fixup)
            behind += nbytes

    @staticmethod
    def stubs(numbers: range, lazy: int) -> bytes:
        """Stubs with their numbers, column by column, as there may be 100,000 of them."""
        stubs = bytearray(_LAZY_STUB.pack(0xB8, 0, 0x41, 0xFF, 0xA5, lazy) * len(numbers))
        indices = array("I", numbers).tobytes()
        for byte in range(4):
            stubs[_INDEX_AT + byte :: _LAZY_STUB.size] = indices[byte::4]
        return bytes(stubs)

    @staticmethod
    def frame_delta(address: int) -> int:
        """Return the number of the `subq $n, %rbp` at *address*."""
        return ctypes.c_int32.from_address(address + _SUBTRACT).value


def _modrm(code: bytearray, offset: int, symbol: str) -> int:
    """Where the ModRM byte is of an instruction with a displacement at *offset*, or -1 if it is none we shorten."""
    if symbol in ("HO", "HE"):
        if code[offset - 2] & 0xC7 == 0x84:
            return offset - 2
        return offset - 1 if code[offset - 1] & 0xC0 == 0x80 and code[offset - 1] & 7 != 4 else -1
    return offset - 1 if code[offset - 1] & 0xC7 == 0x85 else -1


def _in_slot(code: bytearray, offset: int, vex: bool) -> bool:
    """Whether the displacement at *offset* is that of a slot, in an instruction that would take an xmm register too."""
    modrm = offset - 1
    if code[modrm] & 0xC7 != 0x85 or code[modrm - 1] not in _TAKE_REGISTERS:
        return False
    return code[modrm - 3] == _VEX if vex else code[modrm - 2] == _ESCAPE


def _to_register(code: bytearray, offset: int, register: int, vex: bool) -> None:
    """Replace the slot whose displacement is at *offset* by an xmm register below 8."""
    modrm = offset - 1
    if vex and code[modrm - 1] == _MOVE_UNALIGNED:
        code[modrm - 1] = _MOVE_ALIGNED  # all of it, also of a number: depends on nothing else
        code[modrm - 2] &= ~3
    code[modrm] = _REGISTER | code[modrm] & 0x38 | register
    del code[offset : offset + 4]


def _reads_register(code: bytearray) -> bool:
    """Let an addition or the like read its first operand where it is kept, if that was moved to xmm0 before."""
    move, add = code[:_MOVE_NBYTES], code[_MOVE_NBYTES : 2 * _MOVE_NBYTES]
    if move[:3] != _MOVE or move[3] & 0xF8 != _REGISTER or add[0] != _VEX or add[1] & _SOURCE != _SOURCE:
        return False
    if add[2] not in _ARITHMETIC or add[3] & 0x38 != 0x08 or add[3] == _REGISTER | 0x08:
        return False
    after = 2 * _MOVE_NBYTES + (4 if add[3] & 0xC0 == 0x80 else add[3] & 0xC0 == 0x40)
    if code[after:-4] not in _NAN_CHECKS or add[3] & 0x07 == 0x04:
        return False
    code[_MOVE_NBYTES + 1] ^= (move[3] & 7) << 3  # the register's number, inverted
    del code[:_MOVE_NBYTES]
    return True
