"""Calls from Python into a guest without Python in between: built-in functions on machine code.

A built-in converts exact ints and floats, runs the guest on a stack that lies ready (a berth), and returns what it
returned. `Unfinished` is for all the rest: arguments, or a moment, that need a closer look, and guests that are not
done at once, whose execution is made then and goes on as any other. What is assumed of CPython is tested in `_table`.
"""

from __future__ import annotations

import ctypes
import struct
import sys
import sysconfig
from array import array
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from aiowasm.engine.base import NO_LIMIT, Unfinished
from aiowasm.engine.native.execution import NativeExecution
from aiowasm.engine.native.layout import Activation, Api, Berth, Direct, Guard
from aiowasm.syntax.types import NumType

if TYPE_CHECKING:
    from aiowasm.engine.func import FuncInst
    from aiowasm.engine.native.engine import Native
    from aiowasm.engine.native.stack import GuestStack
    from aiowasm.engine.native.stencils import Stencils

__all__ = ("Crossing", "NativeBerth", "NativeGuard", "direct")

_FASTCALL: Final = 0x80
_KINDS: Final = {
    NumType.I32: Direct.I32,
    NumType.I64: Direct.I64,
    NumType.F32: Direct.F32,
    NumType.F64: Direct.F64,
}


class _MethodDef(ctypes.Structure):
    """The C API's PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("function", ctypes.c_void_p),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    )


def _table(objects: dict[str, Any], routines: dict[str, int]) -> array[int] | None:
    """Return what machine code needs of this CPython, or None if it is one that we do not know."""
    if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return None
    api = ctypes.pythonapi
    try:
        functions = {name: ctypes.cast(getattr(api, name), ctypes.c_void_p).value for name in Api.FUNCTIONS}
        current, main = api.PyInterpreterState_Get, api.PyInterpreterState_Main
    except AttributeError:
        return None
    current.restype = main.restype = ctypes.c_void_p
    if current() != main():
        return None
    for value in (1, 1 << 70, 1.5):
        if ctypes.c_void_p.from_address(id(value) + Api.OBJECT_TYPE).value != id(type(value)):
            return None
    addresses = functions | {name: id(value) for name, value in objects.items()} | routines
    return array("Q", [addresses[name] or 0 for name in Api.NAMES])


class Crossing:
    """The functions behind all built-ins; `make` is None where there are none.

    `step(activation, fuel)` runs a guest holding the GIL and returns its status. The objects that the table points to
    are kept here.
    """

    def __init__(self, stencils: Stencils, put: Callable[[bytes], int], resume: int, entry: int) -> None:
        self.make: Callable[[Any], Callable[..., Any]] | None = None
        self.step: Callable[[int, int], int] = _stepper(resume)
        if "direct" not in stencils:
            return
        self._objects = {"None": None, "int": int, "float": float, "leave": _leave, "refused": REFUSED}
        table = self._table = _table(self._objects, {"resume": resume, "entry": entry})
        if table is None:
            return
        new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)(
            ("PyCFunction_NewEx", ctypes.pythonapi)
        )
        self._definitions = []
        for name in ("direct", "step"):
            code, _ = stencils.patch(name, False, {"HQ": table.buffer_info()[0]})
            self._definitions.append(_MethodDef(name.encode(), put(code), _FASTCALL, None))
        direct, step = map(ctypes.addressof, self._definitions)
        self.make = lambda block: new(direct, block, None)
        self.step = new(step, None, None)


def _stepper(resume: int) -> Callable[[int, int], int]:
    """The same as `Crossing.step`, through ctypes."""
    call = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(resume)

    def step(activation: int, fuel: int) -> int:
        ctypes.c_int64.from_address(activation + Activation.FUEL).value = fuel
        status: int = call(activation)
        return status

    return step


REFUSED: Final = Unfinished(None)


class NativeGuard:
    """Says when the built-ins of one instance may run, and counts the fuel that they use."""

    __slots__ = ("_block", "_kept", "address")

    def __init__(self, thread: array[int], variable: ContextVar[Any]) -> None:
        self._block = array("q", (0, 0, thread.buffer_info()[0], 0, 0, id(variable)))
        self._kept: tuple[Any, ...] = (thread, variable)
        self.address = self._block.buffer_info()[0]

    def open(self, first: list[Any], second: list[Any]) -> None:
        """Let them run while these lists are empty."""
        block = self._block
        self._kept = (*self._kept[:2], first, second)
        block[Guard.FIRST // 8], block[Guard.SECOND // 8] = id(first), id(second)
        block[Guard.OPEN // 8] = 1

    def close(self) -> None:
        """Let none run any more."""
        self._block[Guard.OPEN // 8] = 0

    def take(self) -> int:
        """Return the fuel used since the last time."""
        used = self._block[Guard.METER // 8]
        self._block[Guard.METER // 8] = 0
        return used


class NativeBerth:
    """The place of a stack that lies ready for the next such call, one for all functions with the same limits."""

    __slots__ = ("_block", "address", "stack")

    def __init__(self, slots: int) -> None:
        self._block = array("Q", (0, 0, slots, 0))
        self.address = self._block.buffer_info()[0]
        self.stack: GuestStack | None = None

    def lay(self, stack: GuestStack) -> None:
        """Lay *stack* ready, which is prepared."""
        block = self._block
        self.stack = stack
        block[Berth.SP // 8] = stack.top - 64
        block[Berth.DEPTH_LIMIT // 8] = stack.top - 8 - 8 * stack.depth
        block[Berth.ACTIVATION // 8] = stack.activation

    def take(self) -> GuestStack | None:
        """Take the stack away, if one is there."""
        self._block[Berth.ACTIVATION // 8] = 0
        stack, self.stack = self.stack, None
        return stack


class _Block(bytearray):
    """What the built-in of one function is bound to: `layout.Direct`, and what it points to."""

    __slots__ = ("berth", "call_depth", "engine", "func", "guard", "stack_slots", "units")

    berth: NativeBerth
    call_depth: int
    engine: Native
    func: FuncInst
    guard: NativeGuard
    stack_slots: int
    units: int


def direct(
    engine: Native, func: FuncInst, guard: NativeGuard, *, units: int, call_depth: int, stack_slots: int
) -> Callable[..., Any] | None:
    """Return the built-in for *func*, or None if there cannot be one."""
    known = engine.function(func)
    params, results = known.functype.params, known.functype.results
    make = engine.crossing.make
    if (
        make is None
        or func.instance is None
        or not set(params) | set(results) <= _KINDS.keys()
        or len(results) > 1
        or len(params) > min(Direct.PARAMS_MAX, stack_slots)
    ):
        return None
    block = _Block(Direct.NBYTES)
    block.engine, block.func, block.guard, block.units = engine, func, guard, units
    block.call_depth, block.stack_slots = call_depth, stack_slots
    block.berth = engine.berth(stack_slots, call_depth)
    kinds: Sequence[int] = [_KINDS[each] for each in (*results, *params) if isinstance(each, NumType)]
    struct.pack_into(
        "<6Q16B",
        block,
        0,
        *(guard.address, block.berth.address, engine.native(func.instance).address, known.address, units, len(params)),
        *(*(() if results else (Direct.NONE,)), *kinds),
        *bytes(Direct.PARAMS_MAX - len(params)),
    )
    return make(block)


def _leave(block: _Block) -> Unfinished:
    """Make an execution of what the guest has left as, for a reason that only Python can deal with."""
    stack = block.berth.take()
    if stack is None:
        raise RuntimeError("a guest without a stack")
    execution = NativeExecution(
        block.engine,
        block.func,
        (),
        limit=NO_LIMIT,
        call_depth=block.call_depth,
        stack_slots=block.stack_slots,
    )
    execution.take_over(stack, block.units)
    return Unfinished(execution)
