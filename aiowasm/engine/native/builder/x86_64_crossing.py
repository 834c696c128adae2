"""The functions behind the built-ins of `native.crossing`, as x86-64 assembly text: from Python into a guest and back.

`direct` converts exact ints and floats, runs the guest, and answers; all that is unusual is left to Python. CPython
is called through the table whose address is in the hole HQ. Registers of `direct`: rbx its block, rbp arguments, r12
table, r13 number of arguments, r14 guard, then activation, r15 index of an argument.
"""

from __future__ import annotations

from aiowasm.engine.native.layout import Activation, Api, Berth, Direct, Guard

__all__ = ("CROSSING",)

_SELF = "24(%rsp)"
_SLOT = f"{Activation.NBYTES}(%r14,%r15,8)"
_RESULT = f"{Activation.NBYTES}(%r14)"
_REFUSE, _FINISH, _LEAVE = "7f", "8f", "6f"


def _call(name: str) -> str:
    return f"call *{Api.offset(name)}(%r12); "


_GUARD = (
    f"movq {Direct.GUARD}(%rbx),%r14; cmpq $0,{Guard.OPEN}(%r14); je {_REFUSE}; "
    + _call("PyThread_get_thread_ident")
    + f"movq {Guard.THREAD}(%r14),%rcx; cmpq (%rcx),%rax; jne {_REFUSE}; "
    + "".join(
        f"movq {field}(%r14),%rdi; {_call('PyList_Size')} testq %rax,%rax; jne {_REFUSE}; "
        for field in (Guard.FIRST, Guard.SECOND)
    )
    + f"movq {Guard.VARIABLE}(%r14),%rdi; xorl %esi,%esi; movq %rsp,%rdx; {_call('PyContextVar_Get')} "
    + "movl %eax,%ecx; xorl %eax,%eax; testl %ecx,%ecx; jne 9f; "
    + f"movq (%rsp),%rdi; movq {Api.offset('None')}(%r12),%rcx; subq %rdi,%rcx; movq %rcx,8(%rsp); "
    + _call("Py_DecRef")
    + f"cmpq $0,8(%rsp); jne {_REFUSE}; "
    + f"movq {Direct.BERTH}(%rbx),%rax; movq {Berth.ACTIVATION}(%rax),%r14; testq %r14,%r14; je {_REFUSE}; "
)

_ARGUMENTS = (
    "xorl %r15d,%r15d; "
    "1: cmpq %r13,%r15; je 5f; "
    f"movq (%rbp,%r15,8),%rdi; movzbl {Direct.TYPES}(%rbx,%r15),%eax; cmpl ${Direct.F32},%eax; jae 3f; "
    # An int.
    f"movq {Api.offset('int')}(%r12),%rcx; cmpq %rcx,{Api.OBJECT_TYPE}(%rdi); jne {_REFUSE}; "
    f"movq %rsp,%rsi; {_call('PyLong_AsLongLongAndOverflow')} cmpl $0,(%rsp); jne {_REFUSE}; "
    f"cmpb ${Direct.I64},{Direct.TYPES}(%rbx,%r15); je 2f; "
    "movl %eax,%ecx; movslq %eax,%rdx; cmpq %rcx,%rax; sete %sil; cmpq %rdx,%rax; sete %dil; orb %sil,%dil; "
    f"je {_REFUSE}; movq %rcx,%rax; "
    f"2: movq %rax,{_SLOT}; incq %r15; jmp 1b; "
    # A float.
    f"3: movq {Api.offset('float')}(%r12),%rcx; cmpq %rcx,{Api.OBJECT_TYPE}(%rdi); jne {_REFUSE}; "
    f"{_call('PyFloat_AsDouble')} cmpb ${Direct.F64},{Direct.TYPES}(%rbx,%r15); je 4f; "
    f"ucomisd %xmm0,%xmm0; jp {_REFUSE}; cvtsd2ss %xmm0,%xmm0; "
    f"4: movq %xmm0,%rax; jmp 2b; "
)

_RUN = (
    f"5: movq {Direct.BERTH}(%rbx),%rcx; movq {Berth.SLOTS}(%rcx),%rax; movq %rax,{Activation.SLOTS}(%r14); "
    f"movq {Berth.DEPTH_LIMIT}(%rcx),%rax; movq %rax,{Activation.DEPTH_LIMIT}(%r14); "
    f"movq $0,{Activation.CAUGHT}(%r14); movq {Berth.SP}(%rcx),%rax; movq %rax,{Activation.GUEST_SP}(%r14); "
    # As the switch would have pushed them: r15 r14 r13 r12 rbx rbp, then where to go on.
    f"movq {Direct.INSTANCE}(%rbx),%rdx; movq %rdx,(%rax); movq $0,8(%rax); movq %r14,16(%rax); movq $0,24(%rax); "
    f"movq {Direct.DESCRIPTOR}(%rbx),%rdx; movq %rdx,32(%rax); "
    f"leaq {Activation.NBYTES + Activation.BIAS}(%r14),%rdx; movq %rdx,40(%rax); "
    f"movq {Api.offset('entry')}(%r12),%rdx; movq %rdx,48(%rax); movq $0,56(%rax); "
    f"movq {Direct.UNITS}(%rbx),%rcx; decq %rcx; movq %rcx,{Activation.FUEL}(%r14); "
    f"movq %r14,%rdi; {_call('resume')} testq %rax,%rax; jne {_LEAVE}; "
    # It has returned. A NaN of 32 bits has no float of its own payload: Python knows what to do.
    f"movzbl {Direct.RESULT}(%rbx),%r15d; cmpl ${Direct.F32},%r15d; jne 1f; "
    f"movss {_RESULT},%xmm0; ucomiss %xmm0,%xmm0; jp {_LEAVE}; "
    f"1: movq {Direct.UNITS}(%rbx),%rcx; decq %rcx; subq {Activation.FUEL}(%r14),%rcx; "
    f"movq {Direct.GUARD}(%rbx),%rax; addq %rcx,{Guard.METER}(%rax); "
    f"cmpl ${Direct.I64},%r15d; ja 3f; movq {_RESULT},%rdi; je 2f; movslq %edi,%rdi; "
    f"2: {_call('PyLong_FromLongLong')} jmp {_FINISH}; "
    f"3: cmpl ${Direct.F64},%r15d; ja 5f; je 4f; "
    f"cvtss2sd %xmm0,%xmm0; {_call('PyFloat_FromDouble')} jmp {_FINISH}; "
    f"4: movsd {_RESULT},%xmm0; {_call('PyFloat_FromDouble')} jmp {_FINISH}; "
    f"5: movq {Api.offset('None')}(%r12),%rbx; movq %rbx,%rdi; {_call('Py_IncRef')} movq %rbx,%rax; jmp {_FINISH}; "
)

CROSSING: dict[str, str] = {
    # C: PyObject *step(PyObject *self, PyObject *const *args, Py_ssize_t nargs): the status after running the guest of
    # the activation at address args[0] with args[1] for FUEL.
    "step": "pushq %rbx; pushq %r12; subq $8,%rsp; movq %rsi,%rbx; movabsq $HQ,%r12; "
    f"movq (%rbx),%rdi; {_call('PyLong_AsLongLong')} movq %rax,(%rsp); "
    f"movq 8(%rbx),%rdi; {_call('PyLong_AsLongLong')} movq (%rsp),%rdi; movq %rax,{Activation.FUEL}(%rdi); "
    f"{_call('resume')} movq %rax,%rdi; {_call('PyLong_FromLongLong')} addq $8,%rsp; popq %r12; popq %rbx; ret",
    # C: PyObject *direct(PyObject *self, PyObject *const *args, Py_ssize_t nargs), a METH_FASTCALL.
    "direct": "pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15; subq $40,%rsp; "
    f"movq %rdi,{_SELF}; movq %rsi,%rbp; movq %rdx,%r13; movabsq $HQ,%r12; "
    + _call("PyByteArray_AsString")
    + f"movq %rax,%rbx; cmpq {Direct.COUNT}(%rbx),%r13; jne {_REFUSE}; "
    + _GUARD
    + _ARGUMENTS
    + _RUN
    + f"6: movq {Api.offset('leave')}(%r12),%rdi; movq {_SELF},%rsi; {_call('PyObject_CallOneArg')} jmp 9f; "
    + f"7: movq {Api.offset('refused')}(%r12),%rbx; movq %rbx,%rdi; {_call('Py_IncRef')} movq %rbx,%rax; "
    + "8: 9: addq $40,%rsp; popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret",
}
