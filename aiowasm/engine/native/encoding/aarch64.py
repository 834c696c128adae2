"""AArch64: a hole is the immediate of one instruction, which becomes as many instructions as its value needs.

Code for functions of a megabyte and more is made of longer branches (`far`): a condition reaches no farther.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from aiowasm.engine.native.encoding.base import Encoding, Hole, Kept, Patched, ReachError

__all__ = ("AArch64",)

_word = struct.Struct("<I")
_pack, _pack_into = _word.pack, _word.pack_into
_unpack_from = _word.unpack_from
_MASK64: Final = (1 << 64) - 1
_SCRATCH: Final = 15  # the register of large values
_FRAME: Final = 21
_ACTIVATION: Final = 20
_BRANCHES: Final = frozenset(("TARGET", "NANFIX", "OUTFIX"))
_B: Final = 0x14000000
_MOVZ, _MOVK, _MOVN = 0xD2800000, 0xF2800000, 0x92800000
_FROM_FRAME: Final = 0xD1000000 | _FRAME << 5 | _FRAME  # sub x21,x21,#0
_Item = tuple[bytes, int, str, int]
"""Code, then a word with a hole: its symbol and addend. An empty symbol: a branch to the addend, in the stencil."""


class AArch64(Encoding):
    """The stencils of a blob for AArch64."""

    machine: ClassVar = "aarch64"
    jump: ClassVar = (_pack(_B), (0,))
    skip: ClassVar = _pack(_B | 2)
    stub_nbytes: ClassVar = 16
    control: ClassVar = 1 << 25  # FPCR: NaNs that come out of arithmetic are the default one; round to nearest

    def __init__(self, code: dict[str, bytes], holes: Mapping[str, Sequence[Hole]], fixed: frozenset[str]) -> None:
        super().__init__(code, holes, fixed)
        self._plans: dict[str, tuple[list[_Item], bytes]] = {}

    def patch(self, name: str, shrink: bool, values: dict[str, int], kept: Kept = ()) -> Patched:
        """Return a copy of a stencil with *values* in its holes, and where in it branches are that lead elsewhere."""
        plan = self._plans.get(name)
        if plan is None:
            plan = self._plans[name] = self._plan(name)
        items, rest = plan
        if not items:
            return rest, ()
        out = bytearray()
        fixups: list[int] = []
        inner: list[tuple[int, int]] = []
        # How offsets have moved: in the stencil from the first on, by the second.
        moves: list[tuple[int, int]] = []
        at = 0
        for before, word, symbol, addend in items:
            out += before
            at += len(before) + 4
            if not symbol:
                inner.append((len(out), addend))
                out += _pack(word)
            elif symbol in _BRANCHES:
                across = self.far and word & 0xFC000000 != _B
                if across:
                    # Past a jump, if the condition does not hold.
                    out += _pack(_towards(_inverted(word), 8))
                fixups.append(len(out))
                out += _pack(_B if across else word)
            else:
                out += _fill(word, values[symbol] + addend)
            if moves or len(out) != at:
                moves.append((at, len(out) - at))
        out += rest
        for place, target in inner:
            _pack_into(out, place, _towards(_unpack_from(out, place)[0], _moved(target, moves) - place))
        return bytes(out), tuple(fixups)

    def _plan(self, name: str) -> tuple[list[_Item], bytes]:
        code = self.code[name]
        items = []
        at = 0
        for offset, _, symbol, addend in self.holes[name]:
            items.append((code[at:offset], _unpack_from(code, offset)[0], symbol, addend))
            at = offset + 4
        return items, code[at:]

    def charge(self, cost: int) -> bytes:
        """Return code that takes *cost* units of fuel."""
        return self.patch("sub", False, {"HA": cost})[0]

    @staticmethod
    def fix(out: bytearray, fixup: int, target: int) -> None:
        """Make the branch at *fixup* of *out* lead to *target*.

        Raises:
            ReachError: If that is too far away.
        """
        _pack_into(out, fixup, _towards(_unpack_from(out, fixup)[0], target - fixup))

    @staticmethod
    def stubs(numbers: range, lazy: int) -> bytes:
        """Return stubs: their number in w8, then off to the routine at *lazy* of the activation."""
        leave = _pack(0xF9400000 | lazy // 8 << 10 | _ACTIVATION << 5 | 16) + _pack(0xD61F0200)  # ldr x16; br x16
        return b"".join(
            _pack(0x52800008 | (number & 0xFFFF) << 5) + _pack(0x72A00008 | number >> 16 << 5) + leave  # movz, movk w8
            for number in numbers
        )

    @staticmethod
    def frame_delta(address: int) -> int:
        """Return how much is subtracted from the frame pointer at *address*, behind a call."""
        value = 0
        while True:
            word = ctypes.c_uint32.from_address(address).value
            if word & 0xFF8003FF == _FROM_FRAME:
                return (word >> 10 & 0xFFF) << (12 if word >> 22 & 1 else 0)
            if word & 0x9F80001F != 0x92800000 & 0x9F80001F | _SCRATCH:
                return value
            # movz and movk: halves of a larger number
            value |= (word >> 5 & 0xFFFF) << (word >> 21 & 3) * 16
            address += 4


def _moved(offset: int, moves: list[tuple[int, int]]) -> int:
    moved = offset
    for start, by in moves:
        if offset < start:
            break
        moved = offset + by
    return moved


def _inverted(word: int) -> int:
    """The branch whose condition is the opposite."""
    return word ^ 1 if word & 0xFF000010 == 0x54000000 else word ^ 1 << 24


def _towards(word: int, distance: int) -> int:
    """The branch (or `adr`) *word*, leading *distance* bytes on.

    Raises:
        ReachError: If that is too far away.
    """
    if word & 0x7C000000 == _B:
        if not -(1 << 27) <= distance < 1 << 27:
            raise ReachError
        return word & 0xFC000000 | distance >> 2 & 0x3FFFFFF
    if word & 0x9F000000 == 0x10000000:  # adr
        if not -(1 << 20) <= distance < 1 << 20:
            raise ReachError
        return word & 0x9F00001F | (distance & 3) << 29 | (distance >> 2 & 0x7FFFF) << 5
    if word & 0x7E000000 == 0x36000000:  # tbz, tbnz
        if not -(1 << 15) <= distance < 1 << 15:
            raise ReachError
        return word & 0xFFF8001F | (distance >> 2 & 0x3FFF) << 5
    # b.cond, cbz, cbnz
    if not -(1 << 20) <= distance < 1 << 20:
        raise ReachError
    return word & 0xFF00001F | (distance >> 2 & 0x7FFFF) << 5


def _fill(word: int, value: int) -> bytes:
    """The instruction *word* with *value* as its immediate, in as many instructions as it takes.

    Raises:
        struct.error: If there is no hole in an instruction of this kind.
    """
    if word & 0x3B000000 == 0x39000000:
        return _access(word, value)
    if word & 0x1F800000 == 0x11000000:
        return _addition(word, value)
    if word & 0x7F800000 == 0x52800000:
        return _constant(word & 31, value, 64 if word >> 31 else 32)
    raise struct.error(f"no hole in {word:#x}")


def _access(word: int, value: int) -> bytes:
    """A load or store at an offset: scaled, a near one that is not, or in a register."""
    scale = 4 if word & 0x04800000 == 0x04800000 else word >> 30
    if not value & (1 << scale) - 1 and 0 <= value >> scale < 1 << 12:
        return _pack(word | value >> scale << 10)
    if -256 <= value < 256:
        return _pack(word & ~(1 << 24) | (value & 0x1FF) << 12)
    register = word & ~(1 << 24) | 1 << 21 | _SCRATCH << 16 | 0x6800
    return _constant(_SCRATCH, value, 64) + _pack(register)


def _addition(word: int, value: int) -> bytes:
    """An addition or subtraction; of nothing to the same register nothing is left, unless it sets flags."""
    if 0 <= value < 1 << 12:
        if not value and word >> 5 & 31 == word & 31 and not word >> 29 & 1:
            return b""
        return _pack(word | value << 10)
    if 0 <= value < 1 << 24 and not value & 0xFFF:
        return _pack(word | 1 << 22 | value >> 12 << 10)
    register = word & 0xE0000000 | 0x0B000000 | _SCRATCH << 16 | word & 0x3FF
    return _constant(_SCRATCH, value, 64) + _pack(register)


def _constant(register: int, value: int, nbits: int) -> bytes:
    """Bring a constant into a register."""
    value &= (1 << nbits) - 1
    wide = (1 << 31) if nbits == 64 else 0
    halves = [value >> shift & 0xFFFF for shift in range(0, nbits, 16)]
    if halves.count(0xFFFF) > halves.count(0):
        first, fill = _MOVN & 0x7FFFFFFF, 0xFFFF
    else:
        first, fill = _MOVZ & 0x7FFFFFFF, 0
    out = b""
    for number, half in enumerate(halves):
        if half != fill:
            shown = half if out or not fill else half ^ 0xFFFF
            base = (_MOVK & 0x7FFFFFFF) if out else first
            out += _pack(base | wide | number << 21 | shown << 5 | register)
    return out or _pack(first | wide | register)
