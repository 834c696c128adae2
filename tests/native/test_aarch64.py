"""How AArch64's holes are filled: what the instructions that come out would do, on any machine."""

from __future__ import annotations

import ctypes
import struct

import pytest

from aiowasm.engine.native.encoding import ReachError
from aiowasm.engine.native.encoding.aarch64 import AArch64, _fill

ADD, SUB, SUBS = 0x91000128, 0xD10002B5, 0xF1000318  # add x8,x9,#0; sub x21,x21,#0; subs x24,x24,#0
LOAD = {1: 0x394002A8, 4: 0xB94002A8, 8: 0xF94002A8, 16: 0x3DC002A1}  # ldrb, ldr w8, ldr x8, ldr q1: [x21,#0]
MOVZ_W, MOVZ_X = 0x52800017, 0xD2800017
BEQ, B, CBZ, CALL = 0x54000000, 0x14000000, 0xB4000017, 0xD63F0200
VALUES = [0, 1, 8, 15, 16, 255, 256, 4095, 4096, 32760, 32761, 65_535, 65_536, 70_000, 0xFFF000, 1 << 24, (1 << 31) - 1]
VALUES += [-1, -8, -128, -256, -257, -(1 << 31)]


def words(code: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(code) // 4}I", code))


def constant(instructions: list[int], nbits: int) -> int:
    """What a movz or movn and following movk leave in their register."""
    value = 0
    for word in instructions:
        shift, half = (word >> 21 & 3) * 16, word >> 5 & 0xFFFF
        match word >> 29 & 3:
            case 0:
                value = ~(half << shift)
            case 2:
                value = half << shift
            case 3:
                value = value & ~(0xFFFF << shift) | half << shift
    return value & (1 << nbits) - 1


@pytest.mark.parametrize("value", [*VALUES, 0xFFFF, 0xFFFF_0000, 0x7FF8 << 48, (1 << 64) - 2, 0x1234_0000_5678_0000])
def test_constants(value: int) -> None:
    code = words(_fill(MOVZ_X, value))
    assert {word & 31 for word in code} == {23}
    assert {word >> 31 for word in code} == {1}
    assert constant(code, 64) == value % (1 << 64)
    code = words(_fill(MOVZ_W, value))
    assert {word >> 31 for word in code} == {0}
    assert len(code) <= 2
    assert constant(code, 32) == value % (1 << 32)


@pytest.mark.parametrize("template", [ADD, SUB, SUBS])
@pytest.mark.parametrize("value", VALUES)
def test_additions(template: int, value: int) -> None:
    *before, last = words(_fill(template, value)) or [0]
    if not last:
        assert value == 0
        assert template == SUB
        return
    assert last & 0x3FF == template & 0x3FF
    assert last >> 29 == template >> 29
    if before:
        assert last & 0x1FFFFC00 == 0x0B0F0000  # the register x15
        assert constant(before, 64) == value % (1 << 64)
    else:
        assert (last >> 10 & 0xFFF) << 12 * (last >> 22 & 1) == value


@pytest.mark.parametrize("nbytes", LOAD)
@pytest.mark.parametrize("value", VALUES)
def test_offsets_of_accesses(nbytes: int, value: int) -> None:
    *before, last = words(_fill(LOAD[nbytes], value))
    assert last & 0xFEC003FF == LOAD[nbytes] & 0xFEC003FF
    if before:
        assert last & 0x013FFC00 == 0x002F6800  # the register x15, not scaled
        assert constant(before, 64) == value % (1 << 64)
    elif last >> 24 & 1:
        assert (last >> 10 & 0xFFF) * nbytes == value
    else:
        near = last >> 12 & 0x1FF
        assert near - (512 if near >> 8 else 0) == value
        assert not last & 0x00200C00


def encoding(code: list[int], holes: list[tuple[int, int, str, int]], *, far: bool = False) -> AArch64:
    made = AArch64({"it": struct.pack(f"<{len(code)}I", *code)}, {"it": holes}, frozenset())
    made.far = far
    return made


def test_branches_within_follow_what_has_become_longer() -> None:
    # cbz over a load to the end, and an endless loop behind it that leads back across the load
    stencil = encoding([CBZ, LOAD[8], B], [(0, 0, "", 12), (4, 286, "HA", 0), (8, 0, "", 4)])
    near, _ = stencil.patch("it", True, {"HA": 8})
    assert words(near) == [CBZ | 3 << 5, LOAD[8] | 1 << 10, B | 0x3FFFFFF]
    grown, fixups = stencil.patch("it", True, {"HA": 1 << 20})
    code = words(grown)
    assert (len(code), fixups) == (4, ())
    assert code[0] == CBZ | 4 << 5
    assert code[3] == B | 0x3FFFFFE


def test_branches_that_lead_elsewhere() -> None:
    holes = [(0, 280, "TARGET", 0)]
    code, fixups = encoding([BEQ], holes).patch("it", True, {})
    out = bytearray(code)
    AArch64.fix(out, fixups[0], (1 << 20) - 4)
    assert words(bytes(out)) == [BEQ | 0x3FFFF << 5]
    with pytest.raises(ReachError):
        AArch64.fix(out, fixups[0], 1 << 20)
    code, fixups = encoding([BEQ], holes, far=True).patch("it", True, {})
    out = bytearray(code)
    AArch64.fix(out, fixups[0], 1 << 26)
    assert words(bytes(out)) == [BEQ | 2 << 5 | 1, B | (1 << 26) - 4 >> 2]
    with pytest.raises(ReachError):
        AArch64.fix(out, fixups[0], 1 << 28)


@pytest.mark.parametrize("value", [0, 8, 4088, 4096, 4104, 65_536, 0xFFFFF8, 16_000_008])
def test_the_frame_of_a_caller(value: int) -> None:
    code = _fill(SUB, value) + struct.pack("<2I", LOAD[8], 0)
    buffer = ctypes.create_string_buffer(code)
    assert AArch64.frame_delta(ctypes.addressof(buffer)) == value


def test_stubs_know_their_number() -> None:
    code = AArch64.stubs(range(70_000), 152)
    assert len(code) == 70_000 * AArch64.stub_nbytes
    for number in (0, 1, 65_535, 65_536, 69_999):
        stub = words(code[16 * number : 16 * number + 16])
        assert constant(stub[:2], 32) == number
        assert stub[2:] == [0xF9404E90, 0xD61F0200]  # ldr x16,[x20,#152]; br x16
