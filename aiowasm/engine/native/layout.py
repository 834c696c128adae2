"""Where machine code finds things: offsets in bytes, shared by the runtime's assembly, the stencils and Python.

An *activation* (register r13) is one execution's block, an *instance* (r15) one module instance's, a *descriptor* what
a function reference points to. Nothing here allocates.
"""

from __future__ import annotations

from typing import Final

from aiowasm.errors import TrapCode

__all__ = ("Activation", "Caught", "Descriptor", "Handler", "Instance", "Memory", "Saved", "Status", "Table")


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
    MXCSR: Final = 124
    HOST_MXCSR: Final = 128
    CROSSED: Final = 136
    """The address in `rt_cross` behind its call: what a callee sees that was entered from another instance."""
    ROUTINES: Final = 144
    """Pointers to the runtime's routines, in the order of `ROUTINES` below; then one for each trap."""

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
