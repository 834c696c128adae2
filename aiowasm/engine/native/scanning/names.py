"""What the walk and those who read what it wrote call by name: treatments of opcodes, fields of records, limits."""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Final

from aiowasm.syntax.instructions import BY_NAME

__all__ = ()

Bytes = MutableSequence[int]
Halves = MutableSequence[int]
Words = MutableSequence[int]
Longs = MutableSequence[int]
"""Arrays of unsigned integers of 8, 16, 32 and 64 bits."""

NO: Final = -1
YES: Final = 0

# How an opcode is treated.
DECLINED: Final = 0
FIXED: Final = 1
LOCAL_GET: Final = 2
I32_CONST: Final = 3
ACCESS: Final = 4
LOCAL_SET: Final = 5
LOCAL_TEE: Final = 6
CONTROL: Final = 7
I64_CONST: Final = 8
GLOBAL_GET: Final = 9
GLOBAL_SET: Final = 10
DROP: Final = 11
SELECT: Final = 12
FLOAT_CONST: Final = 13
BYTES: Final = 14
LANES: Final = 15
BULK: Final = 16
ATOMIC: Final = 17

# Of `state`: what is given,
START: Final = 0
END: Final = 1
FUNC: Final = 2
MULTI_VALUE: Final = 3
EXN: Final = 4
EXNREF: Final = 5
# what comes back,
NLOCALS: Final = 6
NOPS: Final = 7
NCOSTS: Final = 8
NCHECKS: Final = 9
NNONES: Final = 10
NFIXES: Final = 11
NAGAIN: Final = 12
NPAIRS: Final = 13
NBLOCKS: Final = 14
NTABLES: Final = 15
NCATCHES: Final = 16
NLABELS: Final = 17
MAX_HEIGHT: Final = 18
# what has been read last (a number, a block type),
VALUE: Final = 19
BLOCK_TYPE: Final = 20
BLOCK_PARAMS: Final = 21
BLOCK_NPARAMS: Final = 22
BLOCK_NRESULTS: Final = 23
# and how many operands of long lists have been moved.
WORK: Final = 24
STATE: Final = 25

# Of an entry of `ctrl`.
KIND: Final = 0
PARAMS: Final = 1
NPARAMS: Final = 2
RESULTS: Final = 3
NRESULTS: Final = 4
HEIGHT: Final = 5
UNREACHABLE: Final = 6
LIVE: Final = 7
ELSED: Final = 8
CAUGHT_ALL: Final = 9
NUMBER: Final = 10
CTRL: Final = 11

# Of an entry of `blocks`, which has its KIND first too.
TYPE: Final = 1
BEGIN: Final = 2
ELSE: Final = 3
FINISH: Final = 4
TARGETED: Final = 5
HAS_CALL: Final = 6
HAS_LOOP: Final = 7
BASE: Final = 8
DEPTH: Final = 9
BLOCK: Final = 10

# Of an entry of `catches`: number of the block, kind (AT_OPERATOR added where the target is an operator), tag, target.
CATCH: Final = 4
CATCH_TAG: Final = 0
CATCH_ALL: Final = 2
CATCH_DELEGATE: Final = 4
AT_OPERATOR: Final = 16
NO_TAG: Final = 0xFFFF_FFFF

NTYPES: Final = 256
"""Block types from here on are type indices; those below are types, and 0 none."""

FUNCTION: Final = 0
OP_UNREACHABLE: Final = BY_NAME["unreachable"].code
OP_NOP: Final = BY_NAME["nop"].code
OP_BLOCK: Final = BY_NAME["block"].code
OP_LOOP: Final = BY_NAME["loop"].code
OP_IF: Final = BY_NAME["if"].code
OP_ELSE: Final = BY_NAME["else"].code
OP_TRY: Final = BY_NAME["try"].code
OP_CATCH: Final = BY_NAME["catch"].code
OP_THROW: Final = BY_NAME["throw"].code
OP_RETHROW: Final = BY_NAME["rethrow"].code
OP_THROW_REF: Final = BY_NAME["throw_ref"].code
OP_END: Final = BY_NAME["end"].code
OP_BR: Final = BY_NAME["br"].code
OP_BR_IF: Final = BY_NAME["br_if"].code
OP_BR_TABLE: Final = BY_NAME["br_table"].code
OP_RETURN: Final = BY_NAME["return"].code
OP_CALL: Final = BY_NAME["call"].code
OP_CALL_INDIRECT: Final = BY_NAME["call_indirect"].code
OP_RETURN_CALL: Final = BY_NAME["return_call"].code
OP_RETURN_CALL_INDIRECT: Final = BY_NAME["return_call_indirect"].code
OP_DELEGATE: Final = BY_NAME["delegate"].code
OP_CATCH_ALL: Final = BY_NAME["catch_all"].code
OP_SELECT_T: Final = BY_NAME["select_t"].code
OP_TRY_TABLE: Final = BY_NAME["try_table"].code
OP_I32_CONST: Final = BY_NAME["i32.const"].code
OP_I64_CONST: Final = BY_NAME["i64.const"].code
OP_MEMORY_GROW: Final = BY_NAME["memory.grow"].code

I32: Final = 1
CHECK_EVERY: Final = 4096
MOST_WORK: Final = 1_000_000
"""Operands of long lists that a body may move before the walk that yields takes over."""
MANY: Final = 8
MOST_PARAMS: Final = 1000
"""What is no function type has more."""
MOST_LOCALS: Final = 1000
"""Up to here the types of locals are a tuple."""
MOST_CATCHES: Final = 1000
CATCH_WORK: Final = 500
"""So that a body has fewer catches than the limit on those of one block."""
MEMORY_INDEX: Final = 0x40
"""The flag of an alignment that a memory's index follows."""
