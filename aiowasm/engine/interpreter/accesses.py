"""How generated code reads and writes memory: forms by `Instruction.code`, and the helpers they call.

`{m}` is a view of exactly the memory, `{a}` a canonical unsigned address: never negative, so Python's own checks of
bounds are those of the standard, and its IndexError or struct.error is the trap. Where Python does not check (slices),
a helper does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from aiowasm.engine.interpreter.expressions import EXACT, NAMES
from aiowasm.engine.storage import LOAD_LANES, LOADS, STORE_LANES, STORES, WIDTHS
from aiowasm.errors import Trap, TrapCode
from aiowasm.syntax.instructions import INSTRUCTIONS

__all__ = ("LOAD_FORMS", "STORE_FORMS")

_INTEGER_LOADS: Final = {
    "i8_u": ("{m}[{a}]", 0xFF),
    "i8_s": ("i1({m},{a})[0]", -8),
    "i16_u": ("u2({m},{a})[0]", 0xFFFF),
    "i16_s": ("i2({m},{a})[0]", -16),
    "i32_u": ("u4({m},{a})[0]", 0xFFFF_FFFF),
    "i32_s": ("i4({m},{a})[0]", -32),
    "i32": ("u4({m},{a})[0]", 0xFFFF_FFFF),
    "i64": ("u8({m},{a})[0]", 0xFFFF_FFFF_FFFF_FFFF),
    # struct's 'f' makes signalling NaNs quiet, so NaNs are read again as bits.
    "f32": ("(t if (t:=uf({m},(u:={a}))[0])==t else lf({m},u))", EXACT),
    "f64": ("ud({m},{a})[0]", EXACT),
}
_STORES: Final = {
    "i8": ("{m}[{a}]={v}", 0xFF),
    "i16": ("p2({m},{a},{v})", 0xFFFF),
    "i32": ("p4({m},{a},{v})", 0xFFFF_FFFF),
    "i64": ("p8({m},{a},{v})", 0xFFFF_FFFF_FFFF_FFFF),
    "f32": ("pf({m},{a},{v})", 0),
    "f64": ("pd({m},{a},{v})", 0),
}

LOAD_FORMS: dict[int, tuple[str, int]] = {}
"""Code -> (form, bound of the result)."""
STORE_FORMS: dict[int, tuple[str, str, int]] = {}
"""Code -> (form, shape of the value, mask for integers or 0)."""


def _checked(access: Callable[..., Any], nbytes: int) -> Callable[..., Any]:
    """*access* with the check of bounds that slices lack."""

    def check(view: memoryview, address: int, *rest: Any) -> Any:
        if address + nbytes > len(view):
            raise Trap(TrapCode.MEMORY_OUT_OF_BOUNDS)
        return access(view, address, *rest)

    return check


def _aligned(access: Callable[..., Any], nbytes: int) -> Callable[..., Any]:
    """An atomic *access*: alignment is checked before bounds."""
    checked = _checked(access, nbytes)

    def check(view: memoryview, address: int, *rest: Any) -> Any:
        if address & (nbytes - 1):
            raise Trap(TrapCode.UNALIGNED_ATOMIC)
        return checked(view, address, *rest)

    return check


def _register() -> None:
    masks = {"i32": 0xFFFF_FFFF, "i64": 0xFFFF_FFFF_FFFF_FFFF}
    for row in INSTRUCTIONS:
        operation = row.operation
        if operation is None or row.code not in WIDTHS:
            continue
        code, nbytes, storage = row.code, WIDTHS[row.code], operation.operator
        wrap = _aligned if operation.family.startswith("atomic") else _checked
        if operation.family == "load" and storage in _INTEGER_LOADS:
            LOAD_FORMS[code] = _INTEGER_LOADS[storage]
        elif operation.family == "store" and storage in _STORES:
            form, mask = _STORES[storage]
            STORE_FORMS[code] = (form, operation.shape, mask)
        elif code in LOADS:
            NAMES[f"A{code}"] = wrap(LOADS[code], nbytes)
            LOAD_FORMS[code] = (f"A{code}({{m}},{{a}})", masks.get(operation.shape, EXACT))
        elif code in STORES:
            NAMES[f"A{code}"] = wrap(STORES[code], nbytes)
            STORE_FORMS[code] = (f"A{code}({{m}},{{a}},{{v}})", operation.shape, masks.get(operation.shape, 0))
        elif code in LOAD_LANES or code in STORE_LANES:
            NAMES[f"A{code}"] = _checked((LOAD_LANES if code in LOAD_LANES else STORE_LANES)[code], nbytes)


def _register_singles() -> None:
    """The paths of single-precision NaNs."""
    for row in INSTRUCTIONS:
        operation = row.operation
        if operation is not None and operation.operator == "f32":
            if operation.family == "load":
                NAMES["lf"] = LOADS[row.code]
            elif operation.family == "store":
                NAMES["sf"] = _checked(STORES[row.code], 4)


_register()
_register_singles()
