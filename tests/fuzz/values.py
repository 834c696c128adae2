"""Values at the edges of their types, as bits."""

from __future__ import annotations

from random import Random

from aiowasm.syntax.types import F32, F64, I32, I64, V128, NumType

_WIDTHS = {I32: 32, I64: 64, F32: 32, F64: 64, V128: 128}
_F32 = (
    *(0x0000_0000, 0x8000_0000, 0x3F80_0000, 0xBF80_0000, 0x0000_0001, 0x8000_0001, 0x007F_FFFF, 0x0080_0000),
    *(0x7F7F_FFFF, 0xFF7F_FFFF, 0x7F80_0000, 0xFF80_0000, 0x7FC0_0000, 0xFFC0_0000, 0x7FA0_0001, 0xFFFF_FFFF),
    *(0x4F00_0000, 0xCF00_0000, 0x4F80_0000, 0x5F00_0000, 0xDF00_0000, 0x5F80_0000, 0x4EFF_FFFF, 0xCF00_0001),
    *(0x3F00_0000, 0xBF00_0000, 0x3FC0_0000, 0x4020_0000, 0x4B00_0001, 0x3EFF_FFFF),
)
_F64 = (
    *(0, 1 << 63, 0x3FF0 << 48, 0xBFF0 << 48, 1, (1 << 63) | 1, 0x000F_FFFF_FFFF_FFFF, 0x0010 << 48),
    *(0x7FEF_FFFF_FFFF_FFFF, 0xFFEF_FFFF_FFFF_FFFF, 0x7FF0 << 48, 0xFFF0 << 48, 0x7FF8 << 48, 0xFFF8 << 48),
    *(0x7FF4_0000_0000_0001, (1 << 64) - 1, 0x41DF_FFFF_FFC0_0000, 0x41E0 << 48, 0xC1E0_0000_0020_0000, 0x41F0 << 48),
    *(0x43E0 << 48, 0xC3E0 << 48, 0x43F0 << 48, 0x3FE0 << 48, 0xBFE0 << 48, 0x3FF8 << 48, 0x4004 << 48),
    *(0x47EF_FFFF_E000_0000, 0x47EF_FFFF_F000_0000, 0x36A0 << 48, 0x3690 << 48, 0x4330_0000_0000_0001),
)
_I32 = (*(0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 33, 63, 64, 127, 128, 255, 256), *(0x7FFF, 0x8000, 0xFFFF, 0x1_0000))
_INTEGERS = {
    width: tuple(
        dict.fromkeys(
            each & ((1 << width) - 1)
            for each in (*_I32, *(-each for each in _I32), (1 << width - 1) - 1, 1 << width - 1, (1 << width - 1) + 1)
        )
    )
    for width in (32, 64)
}
EDGES: dict[NumType, tuple[int, ...]] = {
    I32: (*_INTEGERS[32], 0xFF7F_FFFF, 0x4EFF_FFFF),
    I64: (
        *_INTEGERS[64],
        0x7FFF_FFFF,
        0x8000_0000,
        0xFFFF_FFFF,
        0x1_0000_0000,
        0xFFFF_FFFF_7FFF_FFFF,
        1 << 53,
        1 << 62,
    ),
    F32: _F32,
    F64: _F64,
    V128: (),
}
"""Values at which operators of a type could go wrong; of v128 there are too many."""


def _integer(rng: Random, width: int) -> int:
    kind = rng.randrange(4)
    mask = (1 << width) - 1
    if kind == 0:
        return rng.randrange(-4, 20) & mask
    if kind == 1:
        return ((1 << rng.randrange(width + 1)) + rng.randrange(-1, 2)) & mask
    if kind == 2:
        return rng.choice((1 << (width - 1), (1 << (width - 1)) - 1, mask, 0, 0x80, 0x7F, 0xFFFF, 0x8000)) & mask
    return rng.getrandbits(width)


def bits_of(rng: Random, valtype: NumType) -> int:
    """A value of *valtype*, more often than not a special one."""
    if valtype in (F32, F64):
        edges = _F32 if valtype is F32 else _F64
        return rng.choice(edges) if rng.random() < 0.7 else rng.getrandbits(_WIDTHS[valtype])
    if valtype is V128:
        lane = rng.choice((F32, F64, I32, I64, None))
        if lane is None:
            return sum(_integer(rng, 8) << at for at in range(0, 128, 8))
        width = _WIDTHS[lane]
        return sum(bits_of(rng, lane) << at for at in range(0, 128, width))
    return _integer(rng, _WIDTHS[valtype])
