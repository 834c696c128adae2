"""The runtime's routines and the stencils that touch the stack or the frame pointer, as AArch64 assembly text.

Registers: x20 activation, x21 frame (biased by 128), x22 base and x25 bytes of memory 0, x23 R, v0 F, x24 fuel,
x26 slots left, x27 instance, x28 stack of return addresses; x15 belongs to holes whose value needs a register; all else
is scratch.
A function keeps its return address on the stack of x28, so that x30 is scratch too. The stack pointer is for signals.
Holes: as on x86-64; each is the immediate of one instruction, which becomes several where the value is large.
"""

from __future__ import annotations

from aiowasm.engine.native.layout import Activation, Caught, Descriptor, Handler, Instance, Memory, Saved, Status, Table
from aiowasm.errors import TrapCode

__all__ = ("FRAGMENTS", "ROUTINES")

_PUSH = "str x30,[x28,#-8]!; "
_POP = "ldr x30,[x28],#8; "
_SAVE = (
    f"str x8,[x20,#{Activation.ARGUMENT}]; str x21,[x20,#{Activation.FRAME}]; str x24,[x20,#{Activation.FUEL}]; "
    f"str x26,[x20,#{Activation.SLOTS}]; str x27,[x20,#{Activation.INSTANCE}]; "
)
_MEMORY = f"ldr x9,[x27]; ldr x22,[x9,#{Memory.BASE}]; ldr x25,[x9,#{Memory.NBYTES}]; "
_RELOAD = f"ldr x24,[x20,#{Activation.FUEL}]; ldr x26,[x20,#{Activation.SLOTS}]; " + _MEMORY
_HOST = "".join(
    f"{{0}}p {first}{number},{first}{number + 1},[sp,#{at}]; "
    for at, (first, number) in enumerate([*(("x", n) for n in range(19, 30, 2)), *(("d", n) for n in range(8, 16, 2))])
    for at in (16 * at,)
)
_HOST_NBYTES = 160
_LARGE = 1 << 20  # a pause is possible after so many bytes


def _call(name: str, branch: str = "blr") -> str:
    return f"ldr x16,[x20,#{Activation.routine(name)}]; {branch} x16; "


def _trap(code: TrapCode) -> str:
    return f"ldr x16,[x20,#{Activation.trap(code)}]; blr x16; "


def _exit(status: int) -> str:
    return _SAVE + f"mov x9,#{status}; str x9,[x20,#{Activation.STATUS}]; " + _call("switch")


def _hole(instruction: str, hole: str) -> str:
    """An addition or subtraction of a hole."""
    return f".reloc .,R_AARCH64_ADD_ABS_LO12_NC,{hole}; {instruction},#0; "


def _bytes(step: str, last: str) -> str:
    """A loop over x12 bytes, sixteen at a time."""
    return f"4: cmp x12,#16; b.lo 5f; {step}; b 4b; 5: cbz x12,3f; {last}; b 5b; "


_BOUNDS = (  # of x12 bytes; and the fuel for them
    f"movz w13,#{_LARGE >> 16},lsl #16; cmp w12,w13; b.hi 9f; lsr w13,w12,#6; cmp x24,x13; b.lt 9f; sub x24,x24,x13; "
)

_ENTRIES_MAX = 1 << 20
_ENTRY_LOG2 = Caught.ENTRY_NBYTES.bit_length() - 1
_UNWIND = (
    # Look for a handler: x12 the return address's place, x13 its frame, x14 its instance, x0 slots and x1 bytes of the
    # frames before. x11 is the exception's reference if it has one. Nothing is changed before one is found.
    f"{_PUSH} mov x12,x28; mov x13,x21; mov x14,x27; mov x0,xzr; mov x1,xzr; ",
    f"1: ldr x3,[x12]; ldr x4,[x20,#{Activation.CROSSED}]; cmp x3,x4; b.eq 7f; ",
    f"ldr x2,[x14,#{Instance.HANDLERS}]; ldr x2,[x2]; and x4,x3,#{Handler.BUCKETS - 1}; ldr x2,[x2,x4,lsl #3]; ",
    f"21: cbz x2,8f; ldr x4,[x2,#{Handler.ADDRESS}]; cmp x4,x3; b.eq 22f; ldr x2,[x2,#{Handler.NEXT}]; b 21b; ",
    f"22: cmp x12,x28; b.eq 2f; ldr x4,[x2,#{Handler.DELTA}]; sub x13,x13,x4; 2: add x2,x2,#{Handler.CLAUSES}; ",
    f"3: ldr w4,[x2,#{Handler.KIND}]; tst w4,#{Handler.ALL}; b.ne 4f; ldr w5,[x2,#{Handler.TAG}]; ",
    f"ldr x5,[x14,x5]; cmp x5,x10; b.eq 5f; add x2,x2,#{Handler.CLAUSE_NBYTES}; b 3b; ",
    f"4: cmp w4,#{Handler.END}; b.ne 5f; ldr w5,[x2,#{Handler.TAG}]; add x0,x0,x5; add x12,x12,#8; b 1b; ",
    "7: ldr x14,[x12,#8]; add x1,x1,#16; add x12,x12,#16; b 1b; ",
    f"8: {_POP} {_call('leave', 'br')} ",
    # Found: make an entry of it if it is caught by reference and has none.
    f"5: tst w4,#{Handler.LEAVE}; b.ne 8b; tst w4,#{Handler.REF}; b.eq 6f; cbnz x11,6f; ",
    f"ldr x3,[x20,#{Activation.CAUGHT}]; ldr x11,[x3,#{Caught.NEXT}]; ldr x5,[x3,#{Caught.END}]; cmp x11,x5; b.hs 8b; ",
    f"add x5,x11,#{Caught.ENTRY_NBYTES}; str x5,[x3,#{Caught.NEXT}]; str x10,[x11]; ",
    "ldp q1,q2,[x9]; ldr q3,[x9,#32]; stur q1,[x11,#8]; stur q2,[x11,#24]; stur q3,[x11,#40]; ",
    # ENTRIES is less than an entry, so that this is its number.
    f"sub x11,x11,x3; lsr x11,x11,#{_ENTRY_LOG2}; ldr x5,[x3,#{Caught.FIRST}]; add x11,x11,x5; ",
    # Go there. The payload moves down, if at all.
    f"6: ldrsw x5,[x2,#{Handler.SLOT}]; add x5,x5,x13; ldr w6,[x2,#{Handler.COUNT}]; ",
    "61: subs w6,w6,#1; b.mi 62f; ldr x7,[x9],#8; str x7,[x5],#8; b 61b; ",
    f"62: tst w4,#{Handler.REF}; b.eq 63f; str x11,[x5]; ",
    f"63: add x26,x26,x0; ldr x3,[x20,#{Activation.DEPTH_LIMIT}]; add x3,x3,x1; ",
    f"str x3,[x20,#{Activation.DEPTH_LIMIT}]; mov x27,x14; mov x21,x13; add x28,x12,#8; ",
    f"ldr x16,[x2,#{Handler.TARGET}]; {_MEMORY} br x16",
)

ROUTINES: dict[str, str] = {
    # C: void flush(start, end). New code in that range can be executed after an isb.
    "rt_flush": "mrs x3,ctr_el0; ubfx x4,x3,#16,#4; mov x5,#4; lsl x4,x5,x4; sub x6,x4,#1; bic x2,x0,x6; "
    "1: dc cvau,x2; add x2,x2,x4; cmp x2,x1; b.lo 1b; dsb ish; "
    "and x3,x3,#15; lsl x4,x5,x3; sub x6,x4,#1; bic x2,x0,x6; "
    "2: ic ivau,x2; add x2,x2,x4; cmp x2,x1; b.lo 2b; dsb ish; isb; ret",
    # C: long resume(activation). Leaves the host's stack, enters the guest's. Another thread may have made its code.
    # What Python does with memory is in order with what the guest does: atomic accesses are Python's.
    "rt_resume": f"sub sp,sp,#{_HOST_NBYTES}; {_HOST.format('st')} dmb ish; isb; "
    f"mrs x9,fpcr; str w9,[x0,#{Activation.HOST_CONTROL}]; ldr w9,[x0,#{Activation.CONTROL}]; msr fpcr,x9; "
    f"mov x9,sp; str x9,[x0,#{Activation.HOST_SP}]; ldr x28,[x0,#{Activation.GUEST_SP}]; "
    f"ldr x9,[x0,#{Activation.STACK}]; mov sp,x9; ldr x27,[x28]; ldr x20,[x28,#{8 * Saved.ACTIVATION}]; "
    f"ldr x23,[x28,#{8 * Saved.R}]; ldp x21,x30,[x28,#{8 * Saved.FRAME}]; add x28,x28,#{8 * Saved.WORDS}; ret",
    # The way back; returns to the caller of `resume` the status.
    "rt_switch": f"dmb ish; sub x28,x28,#{8 * Saved.WORDS}; str x27,[x28]; str x20,[x28,#{8 * Saved.ACTIVATION}]; "
    f"str x23,[x28,#{8 * Saved.R}]; stp x21,x30,[x28,#{8 * Saved.FRAME}]; str x28,[x20,#{Activation.GUEST_SP}]; "
    f"ldr w9,[x20,#{Activation.HOST_CONTROL}]; msr fpcr,x9; ldr x0,[x20,#{Activation.STATUS}]; "
    f"ldr x9,[x20,#{Activation.HOST_SP}]; mov sp,x9; {_HOST.format('ld')} add sp,sp,#{_HOST_NBYTES}; ret",
    # The first frame of a guest: x23 points to the descriptor of the function to call.
    "rt_entry": f"mov x8,x23; {_RELOAD} ldr x16,[x8]; blr x16; .globl rt_entered; rt_entered: "
    + _exit(Status.RETURNED)
    + "brk #1",
    "rt_yield": _PUSH + _exit(Status.YIELD) + _RELOAD + _POP + "ret",
    "rt_exhausted": _PUSH + _exit(Status.EXHAUSTED) + "brk #1",
    "rt_leave": _PUSH + _exit(Status.RULE) + _RELOAD + _POP + "ret",
    # memory.copy and memory.fill of memory 0: operands from x9 on, w8 the rule for what is rare here: out of bounds,
    # large, or more than the fuel that is left.
    "rt_copy": "ldr w10,[x9]; ldr w11,[x9,#8]; ldr w12,[x9,#16]; "
    "add x13,x10,x12; cmp x13,x25; b.hi 9f; add x13,x11,x12; cmp x13,x25; b.hi 9f; "
    + _BOUNDS
    + "add x10,x22,x10; add x11,x22,x11; sub x13,x10,x11; cmp x13,x12; b.lo 1f; "
    + _bytes(
        "ldr q1,[x11],#16; str q1,[x10],#16; sub x12,x12,#16", "ldrb w13,[x11],#1; strb w13,[x10],#1; sub x12,x12,#1"
    )
    + "1: "
    + _bytes(
        "sub x12,x12,#16; ldr q1,[x11,x12]; str q1,[x10,x12]", "sub x12,x12,#1; ldrb w13,[x11,x12]; strb w13,[x10,x12]"
    )
    + "3: ret; 9: "
    + _call("leave", "br"),
    "rt_fill": "ldr w10,[x9]; ldr w12,[x9,#16]; add x13,x10,x12; cmp x13,x25; b.hi 9f; "
    + _BOUNDS
    + "ldr w11,[x9,#8]; add x10,x22,x10; dup v1.16b,w11; "
    + _bytes("str q1,[x10],#16; sub x12,x12,#16", "strb w11,[x10],#1; sub x12,x12,#1")
    + "3: ret; 9: "
    + _call("leave", "br"),
    # Python has unwound to a handler.
    "rt_land": _RELOAD
    + f"ldr x28,[x20,#{Activation.TARGET_SP}]; ldr x21,[x20,#{Activation.TARGET_FRAME}]; "
    + f"ldr x16,[x20,#{Activation.TARGET}]; br x16",
    # Throws tag x10 with the payload from x9 on; w8 is the rule for what is not usual.
    "rt_throw": f"ldr x3,[x20,#{Activation.CAUGHT}]; cbz x3,9f; ldr x4,[x3,#{Caught.OWNER}]; cmp x4,x27; b.ne 9f; "
    f"mov x11,xzr; {_call('unwind', 'br')} 9: {_call('leave', 'br')}",
    # The same for the reference in the slot x9 points to, which must be one to an entry.
    "rt_throw_ref": f"ldr x11,[x9]; ldr x3,[x20,#{Activation.CAUGHT}]; cbz x3,9f; ldr x4,[x3,#{Caught.FIRST}]; "
    f"sub x10,x11,x4; movz x4,#{_ENTRIES_MAX >> 16},lsl #16; cmp x10,x4; b.hs 9f; "
    f"add x9,x3,x10,lsl #{_ENTRY_LOG2}; add x9,x9,#{Caught.ENTRIES}; ldr x4,[x3,#{Caught.NEXT}]; cmp x9,x4; b.hs 9f; "
    f"ldr x10,[x9],#8; {_call('unwind', 'br')} 9: {_call('leave', 'br')}",
    "rt_unwind": "".join(_UNWIND),
    # A function without code yet: w8 is its index; Python answers with where its code is.
    "rt_lazy": _PUSH + _exit(Status.LAZY) + _RELOAD + f"ldr x16,[x20,#{Activation.ARGUMENT}]; {_POP} br x16",
    # Calls descriptor x8 of another instance, or of the host.
    "rt_cross": f"ldr x9,[x8,#{Descriptor.INSTANCE}]; cbz x9,1f; stp x27,x30,[x28,#-16]!; mov x27,x9; "
    f"ldr x9,[x20,#{Activation.DEPTH_LIMIT}]; sub x9,x9,#16; str x9,[x20,#{Activation.DEPTH_LIMIT}]; {_MEMORY}"
    f"ldr x16,[x8,#{Descriptor.CODE}]; blr x16; .globl rt_crossed; rt_crossed: ldp x27,x30,[x28],#16; "
    f"ldr x9,[x20,#{Activation.DEPTH_LIMIT}]; add x9,x9,#16; str x9,[x20,#{Activation.DEPTH_LIMIT}]; {_MEMORY} ret; "
    f"1: {_PUSH}" + _exit(Status.HOST) + _RELOAD + _POP + "ret",
    **{f"rt_trap{number}": _PUSH + _exit(Status.TRAP + number) + "brk #1" for number in range(len(Activation.TRAPS))},
}

_ENTER_CALL = _hole("add x21,x21", "HA")
_LEAVE_CALL = _hole("sub x21,x21", "HA")
_THROUGH = (  # the descriptor is in x8
    f"{_ENTER_CALL} ldr x9,[x8,#{Descriptor.INSTANCE}]; cmp x9,x27; b.ne 1f; ldr x16,[x8,#{Descriptor.CODE}]; blr x16; "
    f"{_LEAVE_CALL} b 2f; 1: {_call('cross')} {_LEAVE_CALL} 2:"
)
_TABLE = (  # the index is in x23; leaves the descriptor in x8
    f"ldr x9,[x27,:lo12:HB]; ldr x10,[x9,#{Table.SIZE}]; cmp x23,x10; b.lo 1f; {_trap(TrapCode.UNDEFINED_ELEMENT)}"
    f"1: ldr x9,[x9,#{Table.ELEMENTS}]; ldr x8,[x9,x23,lsl #3]; cbnz x8,1f; {_trap(TrapCode.UNINITIALIZED_ELEMENT)}"
    f"1: ldr x9,[x27,:lo12:HC]; ldr x10,[x8,#{Descriptor.TYPE}]; cmp x9,x10; b.eq 1f; str x8,[x21,:lo12:KD]; "
    f"movz w8,#:abs_g0:WA; {_call('leave')} ldr x8,[x21,:lo12:KD]; 1: "
)
_FUNC = f"ldr x8,[x27,#{Instance.FUNCS}]; "
_CHECK = f"cbnz x23,1f; {_trap(TrapCode.NULL_FUNCTION_REFERENCE)} 1: "

FRAGMENTS: dict[str, str] = {
    "ldR": "ldr x23,[x21,:lo12:HA]",
    "stR": "str x23,[x21,:lo12:HA]",
    "stF": "str d0,[x21,:lo12:HA]",
    "stV": "str q0,[x21,:lo12:HA]",
    "ldV": "ldr q0,[x21,:lo12:HA]",
    "immR": "movz w23,#:abs_g0:WA",
    "imm64R": "movz x23,#:abs_g0:HQ",
    "imm64S": "movz x8,#:abs_g0:HQ; str x8,[x21,:lo12:HA]",
    "mov": "ldr x8,[x21,:lo12:HB]; str x8,[x21,:lo12:HA]",
    "movV": "ldr q1,[x21,:lo12:HB]; str q1,[x21,:lo12:HA]",
    "stC": "movz x8,#:abs_g0:KB; str x8,[x21,:lo12:HA]",
    "zero": "str x8,[x21,:lo12:HA]",
    "zeroA": "mov x8,xzr",
    "R2F": "fmov d0,x23",
    "zeros": _hole("add x8,x21", "HA") + "movz w9,#:abs_g0:WA; 1: str xzr,[x8],#8; subs w9,w9,#1; b.ne 1b",
    "copy": _hole("add x8,x21", "HB") + _hole("add x9,x21", "HA") + "movz w10,#:abs_g0:WA; "
    "1: ldr x11,[x8],#8; str x11,[x9],#8; subs w10,w10,#1; b.ne 1b",
    "gget": "ldr x8,[x27,:lo12:HA]; ldr x23,[x8]",
    "ggetF": "ldr x8,[x27,:lo12:HA]; ldr d0,[x8]",
    "ggetV": "ldr x8,[x27,:lo12:HA]; ldr q0,[x8]",
    "gset": "ldr x8,[x27,:lo12:HA]; str x23,[x8]",
    "gsetF": "ldr x8,[x27,:lo12:HA]; str d0,[x8]",
    "gsetV": "ldr x8,[x27,:lo12:HA]; str q0,[x8]",
    "sub": _hole("sub x24,x24", "HA"),
    # The rare parts stand before the entry, so that no branch is taken on the way in.
    "enter": f"1: {_call('exhausted')} 2: {_call('yield')} b 3f; .globl enter_entry; enter_entry: {_PUSH}"
    f"ldr x9,[x20,#{Activation.DEPTH_LIMIT}]; cmp x28,x9; b.lo 1b; {_hole('subs x26,x26', 'HA')} b.mi 1b; "
    f"{_hole('subs x24,x24', 'HB')} b.mi 2b; 3:",
    "loop": f"b 1f; 2: {_call('yield')} b 3f; .globl loop_head; loop_head: 1: {_hole('subs x24,x24', 'HA')} b.mi 2b; "
    "3:",
    "check": f"{_hole('subs x24,x24', 'HA')} b.pl 1f; {_call('yield')} 1:",
    "call": f"{_FUNC} {_ENTER_CALL} ldr x16,[x8,:lo12:HB]; blr x16; {_LEAVE_CALL}",
    "call_import": "ldr x8,[x27,:lo12:HB]; " + _THROUGH,
    "call_table": _TABLE + _THROUGH,
    "call_reg": f"{_CHECK} mov x8,x23; " + _THROUGH,
    "ret": _hole("add x26,x26", "HA") + _POP + "ret",
    "tail": f"{_FUNC} {_hole('add x26,x26', 'HA')} {_POP} ldr x16,[x8,:lo12:HB]; br x16",
    "descriptor_import": "ldr x23,[x27,:lo12:HB]",
    "descriptor_table": _TABLE + "mov x23,x8",
    "descriptor_check": _CHECK,
    # Behind a call that crossed there is a frame already that restores the caller's instance.
    "tail_through": f"{_hole('add x26,x26', 'HA')} {_POP} mov x8,x23; ldr x9,[x8,#{Descriptor.INSTANCE}]; "
    f"cmp x9,x27; b.ne 1f; ldr x16,[x8,#{Descriptor.CODE}]; br x16; "
    f"1: cbz x9,2f; ldr x10,[x20,#{Activation.CROSSED}]; cmp x10,x30; b.ne 2f; mov x27,x9; "
    f"{_MEMORY} ldr x16,[x8,#{Descriptor.CODE}]; br x16; 2: {_call('cross', 'br')}",
    "unreachable": _trap(TrapCode.UNREACHABLE),
    "brR.t": "cbnz w23,TARGET",
    "brR.f": "cbz w23,TARGET",
    "brS.t": "ldr w8,[x21,:lo12:HA]; cbnz w8,TARGET",
    "brS.f": "ldr w8,[x21,:lo12:HA]; cbz w8,TARGET",
    "br64R.t": "cbnz x23,TARGET",
    "br64R.f": "cbz x23,TARGET",
    "br_table": "movz w8,#:abs_g0:WA; cmp w23,w8; csel w8,w23,w8,lo; adr x9,1f; ldrsw x8,[x9,x8,lsl #2]; "
    "add x9,x9,x8; br x9; 1:",
    "selectR": "ldr x8,[x21,:lo12:HA]; ldr x9,[x21,:lo12:HB]; cmp w23,#0; csel x23,x8,x9,ne",
    "selectV": "ldr q0,[x21,:lo12:HA]; cbnz w23,1f; ldr q0,[x21,:lo12:HB]; 1:",
    "shuffle": "movz x8,#:abs_g0:HQ; fmov d2,x8; movz x8,#:abs_g0:HQ2; mov v2.d[1],x8; ldr q0,[x21,:lo12:HA]; "
    "tbl v0.16b,{v0.16b},v2.16b; movz x8,#:abs_g0:HQ3; fmov d2,x8; movz x8,#:abs_g0:HQ4; mov v2.d[1],x8; "
    "ldr q3,[x21,:lo12:HB]; tbl v3.16b,{v3.16b},v2.16b; orr v0.16b,v0.16b,v3.16b",
    # What OUTFIX leads to; the processor itself makes NaNs canonical.
    "out": _trap(TrapCode.MEMORY_OUT_OF_BOUNDS),
    "isnullR": "cmp x23,#0; cset x23,eq",
    "nonnullR": f"cbnz x23,1f; {_trap(TrapCode.NULL_REFERENCE)} 1:",
    "size0": "movz w8,#:abs_g0:WA; lsr x23,x25,x8",
    "size": f"ldr x8,[x27,:lo12:HA]; ldr x23,[x8,#{Memory.NBYTES}]; movz w9,#:abs_g0:WA; lsr x23,x23,x9",
    "table_size": f"ldr x8,[x27,:lo12:HA]; ldr x23,[x8,#{Table.SIZE}]",
    "zextR": "mov w23,w23",
    "offset": "movz x8,#:abs_g0:HQ; add x23,x23,x8",
    "offset64": f"movz x8,#:abs_g0:HQ; adds x23,x23,x8; b.cc 1f; {_trap(TrapCode.MEMORY_OUT_OF_BOUNDS)} 1:",
    "leave": f"movz w8,#:abs_g0:WA; {_call('leave')}",
    "throw": f"{_hole('add x9,x21', 'HA')} ldr x10,[x27,:lo12:HB]; movz w8,#:abs_g0:WA; {_call('throw')}",
    "throw_ref": f"{_hole('add x9,x21', 'HA')} movz w8,#:abs_g0:WA; {_call('throw_ref')}",
    "bulk_copy": f"{_hole('add x9,x21', 'HA')} movz w8,#:abs_g0:WA; {_call('copy')}",
    "bulk_fill": f"{_hole('add x9,x21', 'HA')} movz w8,#:abs_g0:WA; {_call('fill')}",
}
