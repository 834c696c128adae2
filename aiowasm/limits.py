"""Implementation limits: one constant each, with its source.

The standard (appendix "Implementation Limitations") lets an engine restrict sizes; exceeding one is an error that says
so. JS-API: https://webassembly.github.io/spec/js-api/#limits. What a *guest at run time* may hoard is `aiowasm.Limits`.
"""

from __future__ import annotations

from typing import Final

MAX_MODULE_NBYTES: Final = 1_073_741_824  # JS-API: the maximum size of a module is 1 GiB
MAX_TYPES: Final = 1_000_000  # JS-API
MAX_RECGROUP_TYPES: Final = 1_000_000  # JS-API: types in a recursion group
MAX_SUBTYPING_DEPTH: Final = 63  # JS-API: maximum depth of a subtype hierarchy
MAX_FUNCTIONS: Final = 1_000_000  # JS-API
MAX_IMPORTS: Final = 1_000_000  # JS-API
MAX_EXPORTS: Final = 1_000_000  # JS-API
MAX_GLOBALS: Final = 1_000_000  # JS-API
MAX_TAGS: Final = 1_000_000  # JS-API
MAX_DATA_SEGMENTS: Final = 100_000  # JS-API
MAX_ELEM_SEGMENTS: Final = 10_000_000  # JS-API
MAX_TABLES: Final = 100_000  # JS-API
MAX_MEMORIES: Final = 100  # JS-API
MAX_TABLE_ELEMENTS: Final = 10_000_000  # JS-API: maximum size of a table
MAX_PARAMS: Final = 1_000  # JS-API: parameters of a function or block type
MAX_RESULTS: Final = 1_000  # JS-API: results of a function or block type
MAX_STRUCT_FIELDS: Final = 10_000  # JS-API: fields in a structure type
MAX_ARRAY_NEW_FIXED: Final = 10_000  # JS-API: operands of array.new_fixed
MAX_LOCALS: Final = 50_000  # JS-API: locals of a function, parameters included
MAX_FUNCTION_NBYTES: Final = 7_654_321  # JS-API: size of a function body
MAX_BR_TABLE_LABELS: Final = 1_000_000  # ours: the body's size bounds it anyway; V8 has 65,520 for the same reason
MAX_CATCHES: Final = 4_000  # ours: clauses of a try_table
MAX_OPERANDS: Final = 1_000_000  # ours: operands on the stack; a thousand of them are pushed by a call of two bytes
MAX_NESTING: Final = 100_000  # ours: labels open at once in a body; text and binary share it
MAX_TEXT_NESTING: Final = 100_000  # ours: parentheses open at once in text
MAX_NAME_NBYTES: Final = 100_000  # ours: import, export and custom section names (JS engines use 100,000)
