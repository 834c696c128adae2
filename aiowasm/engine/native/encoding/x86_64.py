"""x86-64: displacements are filled in place, and shortened to a byte where they fit one."""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Callable
from typing import ClassVar, Final

from aiowasm.engine.native.encoding.base import Encoding, Hole, Patched

__all__ = ("X86",)

_Patch = tuple[Callable[..., None], int, str, int, int | None]
_BYTE, _WORD, _SIGNED, _QUAD = (struct.Struct(format_).pack_into for format_ in ("<b", "<I", "<i", "<q"))
_ABSOLUTE_64: Final = 1
_SIGNED_32: Final = 11
_SHRINKABLE: Final = frozenset(("HA", "HB", "HC", "HO", "HE"))
_BRANCHES: Final = frozenset(("TARGET", "NANFIX", "OUTFIX"))
_LAZY_STUB: Final = struct.Struct("<BIBBBi")  # movl $index,%eax; jmp *lazy(%r13)
_INDEX_AT: Final = 1  # in a stub
_SUBTRACT: Final = 3  # bytes before the number in `subq $n, %rbp`


class X86(Encoding):
    """The stencils of a blob for x86-64."""

    machine: ClassVar = "x86_64"
    jump: ClassVar = (b"\xe9\0\0\0\0", (1,))
    skip: ClassVar = b"\xeb\x05"
    stub_nbytes: ClassVar = _LAZY_STUB.size

    def __init__(self, code: dict[str, bytes], holes: dict[str, list[Hole]], fixed: frozenset[str]) -> None:
        super().__init__(code, holes, fixed)
        self._shapes: dict[tuple[str, int], tuple[bytes, list[_Patch], tuple[int, ...]]] = {}

    def patch(self, name: str, shrink: bool, values: dict[str, int]) -> Patched:
        """Return a patched copy, and where in it branch displacements are.

        Raises:
            struct.error: If a value does not fit its hole.
        """
        narrow = 0
        if shrink and name not in self.fixed:
            for number, (_, kind, symbol, addend) in enumerate(self.holes[name]):
                if kind == _SIGNED_32 and symbol in _SHRINKABLE and -128 <= values[symbol] + addend < 128:
                    narrow |= 1 << number
        shape = self._shapes.get((name, narrow))
        if shape is None:
            shape = self._shapes[name, narrow] = self._shape(name, narrow)
        code, patches, targets = shape
        if not patches:
            return code, targets
        copy = bytearray(code)
        for put, offset, symbol, addend, mask in patches:
            value = values[symbol] + addend
            put(copy, offset, value if mask is None else value & mask)
        return bytes(copy), targets

    def _shape(self, name: str, narrow: int) -> tuple[bytes, list[_Patch], tuple[int, ...]]:
        code = bytearray(self.code[name])
        cut = 0
        targets = []
        patches: list[_Patch] = []
        for number, (start, kind, symbol, addend) in enumerate(self.holes[name]):
            offset = start - cut
            if symbol in _BRANCHES:
                targets.append(offset)
            elif narrow >> number & 1 and (at := _modrm(code, offset, symbol)) >= 0:
                code[at] -= 0x40  # from a displacement of 32 bits to one of 8
                code[offset : offset + 4] = b"\0"
                cut += 3
                patches.append((_BYTE, offset, symbol, addend, None))
            elif kind == _ABSOLUTE_64:
                patches.append((_QUAD, offset, symbol, addend, None))
            elif kind == _SIGNED_32:
                patches.append((_SIGNED, offset, symbol, addend, None))
            else:
                patches.append((_WORD, offset, symbol, addend, None))
        return bytes(code), patches, tuple(targets)

    def charge(self, cost: int) -> bytes:
        """Return code that takes *cost* units of fuel."""
        if cost < 128:
            return b"\x49\x83\xee" + bytes((cost,))
        return self.patch("sub", False, {"HA": cost})[0]

    @staticmethod
    def fix(out: bytearray, fixup: int, target: int) -> None:
        """Make the branch at *fixup* of *out* lead to *target*."""
        _SIGNED(out, fixup, target - fixup - 4)

    @staticmethod
    def stubs(count: int, lazy: int) -> bytes:
        """Stubs for functions 0 to *count*, each with its index: column by column, as there may be 100,000 of them."""
        stubs = bytearray(_LAZY_STUB.pack(0xB8, 0, 0x41, 0xFF, 0xA5, lazy) * count)
        indices = array("I", range(count)).tobytes()
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
