"""The runtime's routines and the stencils that touch the stack or the frame pointer, as x86-64 assembly text.

Registers: r13 activation, rbp frame (biased by 128), r12 base and rsi bytes of memory 0, rbx R, xmm1 F, r14 fuel,
r8 slots left, rdi constant pool, r15 instance, xmm2 to xmm6 what a loop keeps there; rax rcx rdx r10 r11 xmm0 xmm7
scratch. Holes: HA HB (displacements), KA KB WA WB (constants), HQ (64 bits), TARGET.
"""

from __future__ import annotations

from aiowasm.engine.native.builder.x86_64_crossing import CROSSING
from aiowasm.engine.native.layout import Activation, Caught, Descriptor, Handler, Instance, Memory, Status, Table
from aiowasm.errors import TrapCode

__all__ = ("FRAGMENTS", "ROUTINES")

_SAVED = ["rbp", "rbx", "r12", "r13", "r14", "r15"]
_PUSH = "".join(f"pushq %{register}; " for register in _SAVED)
_POP = "".join(f"popq %{register}; " for register in reversed(_SAVED))
_SAVE = (
    f"movq %rax,{Activation.ARGUMENT}(%r13); movq %rbp,{Activation.FRAME}(%r13); movq %r14,{Activation.FUEL}(%r13); "
    f"movq %r8,{Activation.SLOTS}(%r13); movq %r15,{Activation.INSTANCE}(%r13); "
)
_MEMORY = f"movq (%r15),%rcx; movq {Memory.BASE}(%rcx),%r12; movq {Memory.NBYTES}(%rcx),%rsi; "
_RELOAD = (
    f"movq {Activation.FUEL}(%r13),%r14; movq {Activation.SLOTS}(%r13),%r8; movq {Activation.POOL}(%r13),%rdi; "
    + _MEMORY
)


KEPT = range(2, 7)
_LARGE = 1 << 20  # a pause is possible after so many bytes


def _trap(code: TrapCode) -> str:
    return f"call *{Activation.trap(code)}(%r13)"


def _exit(status: int) -> str:
    return _SAVE + f"movq ${status},{Activation.STATUS}(%r13); call *{Activation.routine('switch')}(%r13); "


_ENTRIES_MAX = 1 << 20
_UNWIND = (
    # Look for a handler: rsi the return address's place, rdi its frame, rbx its instance, r9 slots and r12 bytes of the
    # frames before. r11 is the exception's reference if it has one. Nothing is changed before one is found.
    f"movq %rax,{Activation.ARGUMENT}(%r13); movq %rsp,%rsi; movq %rbp,%rdi; movq %r15,%rbx; xorl %r9d,%r9d; ",
    f"xorl %r12d,%r12d; 1: movq (%rsi),%rcx; cmpq {Activation.CROSSED}(%r13),%rcx; je 7f; ",
    f"movq {Instance.HANDLERS}(%rbx),%rax; movq (%rax),%rax; andl ${Handler.BUCKETS - 1},%ecx; ",
    "movq (%rax,%rcx,8),%rax; movq (%rsi),%rcx; ",
    f"21: testq %rax,%rax; je 8f; cmpq {Handler.ADDRESS}(%rax),%rcx; je 22f; movq {Handler.NEXT}(%rax),%rax; jmp 21b; ",
    f"22: cmpq %rsp,%rsi; je 2f; subq {Handler.DELTA}(%rax),%rdi; 2: addq ${Handler.CLAUSES},%rax; ",
    f"3: movl {Handler.KIND}(%rax),%ecx; testl ${Handler.ALL},%ecx; jne 4f; movl {Handler.TAG}(%rax),%ecx; ",
    f"cmpq (%rbx,%rcx),%r10; je 5f; addq ${Handler.CLAUSE_NBYTES},%rax; jmp 3b; ",
    f"4: cmpl ${Handler.END},%ecx; jne 5f; movl {Handler.TAG}(%rax),%ecx; addq %rcx,%r9; addq $8,%rsi; jmp 1b; ",
    "7: movq 8(%rsi),%rbx; addl $16,%r12d; addq $16,%rsi; jmp 1b; ",
    f"8: movq {Activation.ARGUMENT}(%r13),%rax; jmp *{Activation.routine('leave')}(%r13); ",
    # Found: make an entry of it if it is caught by reference and has none.
    f"5: testl ${Handler.LEAVE},{Handler.KIND}(%rax); jne 8b; testl ${Handler.REF},{Handler.KIND}(%rax); je 6f; ",
    f"testq %r11,%r11; jne 6f; movq {Activation.CAUGHT}(%r13),%rcx; movq {Caught.NEXT}(%rcx),%r11; ",
    f"cmpq {Caught.END}(%rcx),%r11; jae 8b; addq ${Caught.ENTRY_NBYTES},{Caught.NEXT}(%rcx); movq %r10,(%r11); ",
    "movups (%rdx),%xmm0; movups %xmm0,8(%r11); movups 16(%rdx),%xmm0; movups %xmm0,24(%r11); ",
    "movups 32(%rdx),%xmm0; movups %xmm0,40(%r11); subq %rcx,%r11; ",
    # ENTRIES is less than an entry, so that this is its number.
    f"shrq ${Caught.ENTRY_NBYTES.bit_length() - 1},%r11; addq {Caught.FIRST}(%rcx),%r11; ",
    # Go there. The payload moves down, if at all.
    f"6: movslq {Handler.SLOT}(%rax),%r10; addq %rdi,%r10; movl {Handler.COUNT}(%rax),%ecx; ",
    "61: decl %ecx; js 62f; movq (%rdx),%xmm0; movq %xmm0,(%r10); addq $8,%rdx; addq $8,%r10; jmp 61b; ",
    f"62: testl ${Handler.REF},{Handler.KIND}(%rax); je 63f; movq %r11,(%r10); ",
    f"63: addq %r9,%r8; addq %r12,{Activation.DEPTH_LIMIT}(%r13); movq %rbx,%r15; movq %rdi,%rbp; leaq 8(%rsi),%rsp; ",
    f"movq {Handler.TARGET}(%rax),%rax; movq {Activation.POOL}(%r13),%rdi; {_MEMORY} jmp *%rax",
)

ROUTINES: dict[str, str] = {
    # C: long resume(activation). Leaves the host's stack, enters the guest's.
    "rt_resume": _PUSH
    + f"stmxcsr {Activation.HOST_CONTROL}(%rdi); ldmxcsr {Activation.CONTROL}(%rdi); "
    + f"movq %rsp,{Activation.HOST_SP}(%rdi); movq {Activation.GUEST_SP}(%rdi),%rsp; "
    + _POP
    + "ret",
    # The way back; returns to the caller of `resume` the status.
    "rt_switch": _PUSH
    + f"movq %rsp,{Activation.GUEST_SP}(%r13); movq {Activation.HOST_SP}(%r13),%rsp; "
    + f"ldmxcsr {Activation.HOST_CONTROL}(%r13); movq {Activation.STATUS}(%r13),%rax; "
    + _POP
    + "ret",
    # The first frame of a guest: rbx points to the descriptor of the function to call.
    "rt_entry": f"movq %rbx,%rax; {_RELOAD} call *(%rax); .globl rt_entered; rt_entered: "
    + _exit(Status.RETURNED)
    + "ud2",
    "rt_yield": _exit(Status.YIELD) + _RELOAD + "ret",
    "rt_exhausted": _exit(Status.EXHAUSTED) + "ud2",
    "rt_leave": _exit(Status.RULE) + _RELOAD + "ret",
    # memory.copy and memory.fill of memory 0: operands from rdx on, eax the rule for what is rare here: out of bounds,
    # large, or more than the fuel that is left.
    "rt_copy": "movl (%rdx),%r10d; movl 8(%rdx),%r11d; movl 16(%rdx),%ecx; "
    "leaq (%r10,%rcx),%rdx; cmpq %rsi,%rdx; ja 9f; leaq (%r11,%rcx),%rdx; cmpq %rsi,%rdx; ja 9f; "
    f"cmpl ${_LARGE},%ecx; ja 9f; movl %ecx,%edx; shrl $6,%edx; cmpq %rdx,%r14; jl 9f; subq %rdx,%r14; "
    "movq %rsi,%rax; leaq (%r12,%r10),%rdi; leaq (%r12,%r11),%rsi; movq %rdi,%rdx; subq %rsi,%rdx; "
    "cmpq %rcx,%rdx; jb 1f; rep movsb; jmp 3f; "
    "1: cmpl $16,%ecx; jb 2f; movups -16(%rsi,%rcx),%xmm0; movups %xmm0,-16(%rdi,%rcx); subl $16,%ecx; jmp 1b; "
    "2: testl %ecx,%ecx; je 3f; movb -1(%rsi,%rcx),%dl; movb %dl,-1(%rdi,%rcx); decl %ecx; jmp 2b; "
    f"3: movq %rax,%rsi; movq {Activation.POOL}(%r13),%rdi; ret; 9: jmp *{Activation.routine('leave')}(%r13)",
    "rt_fill": "movl (%rdx),%r10d; movl 16(%rdx),%ecx; leaq (%r10,%rcx),%r11; cmpq %rsi,%r11; ja 9f; "
    f"cmpl ${_LARGE},%ecx; ja 9f; movl %ecx,%r11d; shrl $6,%r11d; cmpq %r11,%r14; jl 9f; subq %r11,%r14; "
    "movl 8(%rdx),%eax; leaq (%r12,%r10),%rdi; rep stosb; "
    f"movq {Activation.POOL}(%r13),%rdi; ret; 9: jmp *{Activation.routine('leave')}(%r13)",
    # Python has unwound to a handler.
    "rt_land": _RELOAD
    + f"movq {Activation.TARGET_SP}(%r13),%rsp; movq {Activation.TARGET_FRAME}(%r13),%rbp; "
    + f"jmp *{Activation.TARGET}(%r13)",
    # Throws tag r10 with the payload from rdx on; eax is the rule for what is not usual.
    "rt_throw": f"movq {Activation.CAUGHT}(%r13),%rcx; testq %rcx,%rcx; je 9f; cmpq %r15,{Caught.OWNER}(%rcx); jne 9f; "
    f"xorl %r11d,%r11d; jmp *{Activation.routine('unwind')}(%r13); 9: jmp *{Activation.routine('leave')}(%r13)",
    # The same for the reference in the slot rdx points to, which must be one to an entry.
    "rt_throw_ref": f"movq (%rdx),%r11; movq {Activation.CAUGHT}(%r13),%rcx; testq %rcx,%rcx; je 9f; movq %r11,%r10; "
    f"subq {Caught.FIRST}(%rcx),%r10; cmpq ${_ENTRIES_MAX},%r10; jae 9f; imulq ${Caught.ENTRY_NBYTES},%r10,%r10; "
    f"leaq {Caught.ENTRIES}(%rcx,%r10),%rdx; cmpq {Caught.NEXT}(%rcx),%rdx; jae 9f; movq (%rdx),%r10; addq $8,%rdx; "
    f"jmp *{Activation.routine('unwind')}(%r13); 9: jmp *{Activation.routine('leave')}(%r13)",
    "rt_unwind": "".join(_UNWIND),
    # A function without code yet: eax is its index; Python answers with where its code is.
    "rt_lazy": _exit(Status.LAZY) + _RELOAD + f"movq {Activation.ARGUMENT}(%r13),%rax; jmp *%rax",
    # Calls descriptor rax of another instance, or of the host.
    "rt_cross": f"movq {Descriptor.INSTANCE}(%rax),%rcx; testq %rcx,%rcx; je 1f; "
    f"pushq %r15; subq $16,{Activation.DEPTH_LIMIT}(%r13); movq %rcx,%r15; {_MEMORY} call *{Descriptor.CODE}(%rax); "
    f".globl rt_crossed; rt_crossed: popq %r15; addq $16,{Activation.DEPTH_LIMIT}(%r13); {_MEMORY} ret; 1: "
    + _exit(Status.HOST)
    + _RELOAD
    + "ret",
    **{f"rt_trap{number}": _exit(Status.TRAP + number) + "ud2" for number in range(len(Activation.TRAPS))},
}

_THROUGH = (  # the descriptor is in rax
    f"addq $HA,%rbp; cmpq {Descriptor.INSTANCE}(%rax),%r15; jne 1f; call *{Descriptor.CODE}(%rax); "
    ".byte 0x48,0x81,0xed; .long HA; jmp 2f; "
    f"1: call *{Activation.routine('cross')}(%r13); .byte 0x48,0x81,0xed; .long HA; 2:"
)
_TABLE = (  # the index is in rbx; leaves the descriptor in rax
    f"movq HB(%r15),%rcx; cmpq {Table.SIZE}(%rcx),%rbx; jb 1f; {_trap(TrapCode.UNDEFINED_ELEMENT)}; "
    f"1: movq {Table.ELEMENTS}(%rcx),%rcx; movq (%rcx,%rbx,8),%rax; testq %rax,%rax; jne 1f; "
    f"{_trap(TrapCode.UNINITIALIZED_ELEMENT)}; 1: movq HC(%r15),%rcx; cmpq {Descriptor.TYPE}(%rax),%rcx; je 1f; "
    f"movq %rax,KD(%rbp); movl $WA,%eax; call *{Activation.routine('leave')}(%r13); movq KD(%rbp),%rax; 1:"
)

FRAGMENTS: dict[str, str] = {
    **CROSSING,
    "ldR": "movq HA(%rbp),%rbx",
    "stR": "movq %rbx,HA(%rbp)",
    "stF": "movsd %xmm1,HA(%rbp)",
    "stV": "movups %xmm1,HA(%rbp)",
    "ldV": "movups HA(%rbp),%xmm1",
    "immR": "movl $WA,%ebx",
    "imm64R": "movabsq $HQ,%rbx",
    "imm64S": "movabsq $HQ,%rax; movq %rax,HA(%rbp)",
    "mov": "movq HB(%rbp),%rax; movq %rax,HA(%rbp)",
    "movV": "movups HB(%rbp),%xmm0; movups %xmm0,HA(%rbp)",
    "stC": "movq $KB,HA(%rbp)",
    "zero": "movq %rax,HA(%rbp)",
    "zeroA": "xorl %eax,%eax",
    "R2F": "movq %rbx,%xmm1",
    "zeros": "leaq HA(%rbp),%rax; movl $WA,%ecx; 1: movq $0,(%rax); addq $8,%rax; decl %ecx; jne 1b",
    "copy": "leaq HB(%rbp),%rax; leaq HA(%rbp),%rdx; movl $WA,%ecx; 1: movq (%rax),%r10; movq %r10,(%rdx); "
    "addq $8,%rax; addq $8,%rdx; decl %ecx; jne 1b",
    "gget": "movq HA(%r15),%rax; movq (%rax),%rbx",
    "ggetF": "movq HA(%r15),%rax; movsd (%rax),%xmm1",
    "ggetV": "movq HA(%r15),%rax; movups (%rax),%xmm1",
    "gset": "movq HA(%r15),%rax; movq %rbx,(%rax)",
    "gsetF": "movq HA(%r15),%rax; movsd %xmm1,(%rax)",
    "gsetV": "movq HA(%r15),%rax; movups %xmm1,(%rax)",
    "sub": "subq $HA,%r14",
    # The rare parts stand before the entry, so that no branch is taken on the way in.
    "enter": f"1: call *{Activation.routine('exhausted')}(%r13); 2: call *{Activation.routine('yield')}(%r13); jmp 3f; "
    f".globl enter_entry; enter_entry: cmpq {Activation.DEPTH_LIMIT}(%r13),%rsp; jb 1b; subq $HA,%r8; "
    "js 1b; subq $HB,%r14; js 2b; 3:",
    "loop": f"jmp 1f; 2: call *{Activation.routine('yield')}(%r13); jmp 3f; "
    ".globl loop_head; loop_head: 1: subq $HA,%r14; js 2b; 3:",
    # A loop that keeps values in registers: with its loads between these.
    "yield": f"call *{Activation.routine('yield')}(%r13)",
    "head": "subq $HA,%r14; js TARGET",
    **{f"keepF{register}": f"movaps %xmm1,%xmm{register}" for register in KEPT},
    **{f"keepS{register}": f"movsd HA(%rbp),%xmm{register}" for register in KEPT},
    **{f"keepV{register}": f"movups HA(%rbp),%xmm{register}" for register in KEPT},
    **{f"keepC{register}": f"movabsq $HQ,%rax; movq %rax,%xmm{register}" for register in KEPT},
    **{
        f"keepW{register}": f"movabsq $HQ,%rax; movq %rax,%xmm{register}; "
        f"movabsq $HQ2,%rax; pinsrq $1,%rax,%xmm{register}"
        for register in KEPT
    },
    "check": f"subq $HA,%r14; jns 1f; call *{Activation.routine('yield')}(%r13); 1:",
    "call": f"movq {Instance.FUNCS}(%r15),%rax; addq $HA,%rbp; call *HB(%rax); .byte 0x48,0x81,0xed; .long HA",
    "call_import": "movq HB(%r15),%rax; " + _THROUGH,
    "call_table": _TABLE + _THROUGH,
    "call_reg": f"testq %rbx,%rbx; jne 1f; {_trap(TrapCode.NULL_FUNCTION_REFERENCE)}; 1: movq %rbx,%rax; " + _THROUGH,
    "ret": "addq $HA,%r8; ret",
    "tail": f"movq {Instance.FUNCS}(%r15),%rax; addq $HA,%r8; jmp *HB(%rax)",
    "descriptor_import": "movq HB(%r15),%rbx",
    "descriptor_table": _TABLE + " movq %rax,%rbx",
    "descriptor_check": f"testq %rbx,%rbx; jne 1f; {_trap(TrapCode.NULL_FUNCTION_REFERENCE)}; 1:",
    # Behind a call that crossed there is a frame already that restores the caller's instance.
    "tail_through": f"addq $HA,%r8; movq %rbx,%rax; movq {Descriptor.INSTANCE}(%rax),%rcx; cmpq %rcx,%r15; jne 1f; "
    f"jmp *{Descriptor.CODE}(%rax); 1: testq %rcx,%rcx; je 2f; movq {Activation.CROSSED}(%r13),%rdx; "
    f"cmpq %rdx,(%rsp); jne 2f; movq %rcx,%r15; {_MEMORY} jmp *{Descriptor.CODE}(%rax); "
    f"2: jmp *{Activation.routine('cross')}(%r13)",
    "unreachable": _trap(TrapCode.UNREACHABLE),
    "brR.t": "testl %ebx,%ebx; jne TARGET",
    "brR.f": "testl %ebx,%ebx; je TARGET",
    "brS.t": "cmpl $0,HA(%rbp); jne TARGET",
    "brS.f": "cmpl $0,HA(%rbp); je TARGET",
    "br64R.t": "testq %rbx,%rbx; jne TARGET",
    "br64R.f": "testq %rbx,%rbx; je TARGET",
    "br_table": "movl $WA,%eax; cmpl %eax,%ebx; cmovbl %ebx,%eax; leaq 1f(%rip),%rcx; movslq (%rcx,%rax,4),%rax; "
    "addq %rcx,%rax; jmp *%rax; 1:",
    "selectR": "testl %ebx,%ebx; movq HA(%rbp),%rbx; cmoveq HB(%rbp),%rbx",
    "selectV": "testl %ebx,%ebx; leaq HA(%rbp),%rax; leaq HB(%rbp),%rcx; cmoveq %rcx,%rax; movups (%rax),%xmm1",
    "shuffle": "movabsq $HQ,%rax; movq %rax,%xmm7; movabsq $HQ2,%rax; pinsrq $1,%rax,%xmm7; movups HA(%rbp),%xmm1; "
    "pshufb %xmm7,%xmm1; movabsq $HQ3,%rax; movq %rax,%xmm7; movabsq $HQ4,%rax; pinsrq $1,%rax,%xmm7; "
    "movups HB(%rbp),%xmm0; pshufb %xmm7,%xmm0; por %xmm0,%xmm1",
    # What OUTFIX and NANFIX lead to.
    "out": _trap(TrapCode.MEMORY_OUT_OF_BOUNDS),
    "nan.f64": f"movsd {Activation.NAN64}(%r13),%xmm1",
    "nan.f32": f"movss {Activation.NAN32}(%r13),%xmm1",
    "nan.f64x2": f"movsd {Activation.NAN64}(%r13),%xmm0; unpcklpd %xmm0,%xmm0; andpd %xmm7,%xmm0; andnpd %xmm1,%xmm7; "
    "orpd %xmm0,%xmm7; movaps %xmm7,%xmm1",
    "nan.f32x4": f"movss {Activation.NAN32}(%r13),%xmm0; shufps $0,%xmm0,%xmm0; andps %xmm7,%xmm0; andnps %xmm1,%xmm7; "
    "orps %xmm0,%xmm7; movaps %xmm7,%xmm1",
    "isnullR": "xorl %eax,%eax; testq %rbx,%rbx; sete %al; movq %rax,%rbx",
    "nonnullR": f"testq %rbx,%rbx; jne 1f; {_trap(TrapCode.NULL_REFERENCE)}; 1:",
    "size0": "movq %rsi,%rbx; movl $WA,%ecx; shrq %cl,%rbx",
    "size": f"movq HA(%r15),%rax; movq {Memory.NBYTES}(%rax),%rbx; movl $WA,%ecx; shrq %cl,%rbx",
    "table_size": f"movq HA(%r15),%rax; movq {Table.SIZE}(%rax),%rbx",
    "zextR": "movl %ebx,%ebx",
    "offset": "movabsq $HQ,%rax; addq %rax,%rbx",
    "offset64": f"movabsq $HQ,%rax; addq %rax,%rbx; jnc 1f; {_trap(TrapCode.MEMORY_OUT_OF_BOUNDS)}; 1:",
    "leave": f"movl $WA,%eax; call *{Activation.routine('leave')}(%r13)",
    "throw": f"leaq HA(%rbp),%rdx; movq HB(%r15),%r10; movl $WA,%eax; call *{Activation.routine('throw')}(%r13)",
    "throw_ref": f"leaq HA(%rbp),%rdx; movl $WA,%eax; call *{Activation.routine('throw_ref')}(%r13)",
    "bulk_copy": f"leaq HA(%rbp),%rdx; movl $WA,%eax; call *{Activation.routine('copy')}(%r13)",
    "bulk_fill": f"leaq HA(%rbp),%rdx; movl $WA,%eax; call *{Activation.routine('fill')}(%r13)",
}
