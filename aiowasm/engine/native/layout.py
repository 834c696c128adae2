"""Where machine code finds things: offsets in bytes, shared by the runtime's assembly, the stencils and Python.

An *activation* (register r13) is one execution's block, an *instance* (r15) one module instance's, a *descriptor* what
a function reference points to. Nothing here allocates.
"""

from __future__ import annotations

from typing import Final

from aiowasm.errors import TrapCode

__all__ = (
    "Activation",
    "Api",
    "Berth",
    "Caught",
    "Descriptor",
    "Direct",
    "Guard",
    "Handler",
    "Instance",
    "Memory",
    "Saved",
    "Status",
    "Table",
)


class Activation:
    """One execution: its fuel, its stacks, why it left the guest. The first 128 bytes are cheap to address."""

    FUEL: Final = 0
    """Units left minus one when the guest is not running; negative: a check point leaves."""
    SLOTS: Final = 8
    """What is left of the logical stack limit."""
    HOST_SP: Final = 16
    GUEST_SP: Final = 24
    STATUS: Final = 32
    ARGUMENT: Final = 40
    """What goes with the status: a descriptor, a function index, the number of a rule."""
    FRAME: Final = 48
    """The guest's frame pointer when it left (biased)."""
    INSTANCE: Final = 56
    DEPTH_LIMIT: Final = 64
    """The lowest stack pointer with which a function may be entered."""
    CAUGHT: Final = 72
    """Pointer to the exceptions caught by reference (`Caught`); zero: throwing is Python's business."""
    STATE_NBYTES: Final = 80
    """Before this come the words that differ between executions that have left."""
    POOL: Final = 80
    TARGET: Final = 88
    """Where `rt_land` goes on, with TARGET_SP and TARGET_FRAME."""
    TARGET_SP: Final = 96
    TARGET_FRAME: Final = 104
    NAN64: Final = 112
    NAN32: Final = 120
    CONTROL: Final = 124
    """Of floating point: what the register is in guests."""
    HOST_CONTROL: Final = 128
    CROSSED: Final = 136
    """The address in `rt_cross` behind its call: what a callee sees that was entered from another instance."""
    STACK: Final = 144
    """Where signals find the stack pointer, if return addresses have one of their own (AArch64)."""
    ROUTINES: Final = 152
    """Pointers to the runtime's routines, in the order of `ROUTINES` below; then one for each trap."""

    BIAS: Final = 128
    """What a frame pointer is ahead of its frame, so that displacements of 32 slots are short."""
    ROUTINE_NAMES: Final = (
        *("yield", "exhausted", "leave", "cross", "lazy", "switch", "copy", "fill"),
        *("throw", "throw_ref", "unwind"),
    )
    TRAPS: Final = (
        TrapCode.UNREACHABLE,
        TrapCode.INTEGER_DIVIDE_BY_ZERO,
        TrapCode.INTEGER_OVERFLOW,
        TrapCode.INVALID_CONVERSION,
        TrapCode.MEMORY_OUT_OF_BOUNDS,
        TrapCode.TABLE_OUT_OF_BOUNDS,
        TrapCode.UNDEFINED_ELEMENT,
        TrapCode.UNINITIALIZED_ELEMENT,
        TrapCode.INDIRECT_CALL_TYPE_MISMATCH,
        TrapCode.NULL_REFERENCE,
        TrapCode.NULL_FUNCTION_REFERENCE,
        TrapCode.UNALIGNED_ATOMIC,
    )
    LOOP_SLOTS: Final = 480
    """What registers have around a loop while they hold values of its own; nothing leaves the guest meanwhile."""
    LOOP_INSTANCE: Final = 488
    LOOP_NBYTES: Final = 496
    NBYTES: Final = 512

    @classmethod
    def routine(cls, name: str) -> int:
        """Return the offset of the pointer to a routine."""
        return cls.ROUTINES + 8 * cls.ROUTINE_NAMES.index(name)

    @classmethod
    def trap(cls, code: TrapCode) -> int:
        """Return the offset of the pointer to the routine of a trap."""
        return cls.ROUTINES + 8 * (len(cls.ROUTINE_NAMES) + cls.TRAPS.index(code))


class Saved:
    """What the switch has pushed when a guest has left: words from its stack pointer on."""

    ACTIVATION: Final = 2
    R: Final = 4
    FRAME: Final = 5
    WORDS: Final = 7
    """With the return address of the switch itself."""


class Status:
    """Why the guest left; the traps come after TRAP in the order of `Activation.TRAPS`."""

    RETURNED: Final = 0
    YIELD: Final = 1
    EXHAUSTED: Final = 2
    RULE: Final = 3
    HOST: Final = 4
    LAZY: Final = 5
    TRAP: Final = 16


class Instance:
    """One module instance. Behind the first pointers come areas whose places the module's layout knows."""

    MEMORY: Final = 0
    """Pointer to the memory with index 0 (or an empty one)."""
    FUNCS: Final = 8
    """Pointer to the entry addresses of the functions that the module defines, which its instances share."""
    HANDLERS: Final = 16
    """Pointer to the pointer to the module's table of handlers (`Handler`)."""
    AREAS: Final = 24


class Memory:
    """What an instance points to for each memory."""

    BASE: Final = 0
    NBYTES: Final = 8


class Table:
    """What an instance points to for each table of functions."""

    ELEMENTS: Final = 0
    SIZE: Final = 8


class Descriptor:
    """A function reference in a slot or a table is a pointer to this; null is zero."""

    CODE: Final = 0
    TYPE: Final = 8
    INSTANCE: Final = 16
    """Zero for a function of the host."""
    INDEX: Final = 24
    """Of the function among those that the instance defines; for Python."""
    NBYTES: Final = 32


class Handler:
    """A record of where exceptions go from a return address; buckets of a table are lists of them."""

    BUCKETS: Final = 1024
    """By the lower bits of the return address."""
    ADDRESS: Final = 0
    NEXT: Final = 8
    DELTA: Final = 16
    """What the code at the address takes off the frame pointer."""
    CLAUSES: Final = 24

    KIND: Final = 0
    """Of a clause, in bits: by reference, of any tag, none but the end of the list, for Python only."""
    REF: Final = 1
    ALL: Final = 2
    END: Final = 6
    LEAVE: Final = 8
    TAG: Final = 4
    """Place of the tag in the instance; of the end: the slots of the function's frame."""
    TARGET: Final = 8
    SLOT: Final = 16
    COUNT: Final = 20
    """Slots of the payload, at SLOT from the frame pointer."""
    CLAUSE_NBYTES: Final = 24


class Caught:
    """What an activation points to: entries of caught exceptions, referred to by FIRST plus their number."""

    OWNER: Final = 0
    """The instance that may throw without Python."""
    NEXT: Final = 8
    END: Final = 16
    FIRST: Final = 24
    ENTRIES: Final = 32
    """Each has the tag and the payload."""
    ENTRY_NBYTES: Final = 64
    PAYLOAD_SLOTS: Final = 6


# What built-ins for calls from Python need (`native.crossing`).


class Direct:
    """One such built-in: the function, and what goes over the border."""

    GUARD: Final = 0
    BERTH: Final = 8
    INSTANCE: Final = 16
    DESCRIPTOR: Final = 24
    UNITS: Final = 32
    """The fuel it may use."""
    COUNT: Final = 40
    """The number of parameters."""
    RESULT: Final = 48
    TYPES: Final = 49
    """One byte for each parameter: a number below."""
    PARAMS_MAX: Final = 15
    NBYTES: Final = 64

    I32: Final = 0
    I64: Final = 1
    F32: Final = 2
    F64: Final = 3
    NONE: Final = 4
    """No result."""


class Guard:
    """Whether calls of an instance may go this way now."""

    OPEN: Final = 0
    """Zero: no."""
    METER: Final = 8
    """Fuel that they have used."""
    THREAD: Final = 16
    """Pointer to the identity of the only thread that may."""
    FIRST: Final = 24
    """A list that must be empty, and a second one."""
    SECOND: Final = 32
    VARIABLE: Final = 40
    """A context variable that must be None."""
    NBYTES: Final = 48


class Berth:
    """A stack that lies ready, with its limits; ACTIVATION is zero while it is in use."""

    ACTIVATION: Final = 0
    SP: Final = 8
    SLOTS: Final = 16
    DEPTH_LIMIT: Final = 24
    NBYTES: Final = 32


class Api:
    """The table through which machine code calls CPython: functions, objects, and routines of ours."""

    FUNCTIONS: Final = (
        "PyByteArray_AsString",
        "PyContextVar_Get",
        "PyFloat_AsDouble",
        "PyFloat_FromDouble",
        "PyList_Size",
        "PyLong_AsLongLong",
        "PyLong_AsLongLongAndOverflow",
        "PyLong_FromLongLong",
        "PyObject_CallOneArg",
        "PyThread_get_thread_ident",
        "Py_DecRef",
        "Py_IncRef",
    )
    NAMES: Final = (*FUNCTIONS, "None", "int", "float", "leave", "refused", "resume", "entry")
    OBJECT_TYPE: Final = 8
    """Where the type of an object is in it, which is tested."""

    @classmethod
    def offset(cls, name: str) -> int:
        """Return the offset of an entry."""
        return 8 * cls.NAMES.index(name)
