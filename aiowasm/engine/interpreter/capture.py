"""From a Python stack or traceback to explicit frames, and from Python's exceptions to traps.

Generated code is known by its globals, the direct interpreter by its code object. An exception of Python is a trap only
if it was raised by generated code itself, on a line marked as able to raise it: a host function's IndexError is none.
"""

from __future__ import annotations

import struct
import sys
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final

from aiowasm.engine.interpreter.code import FunctionCode
from aiowasm.engine.interpreter.direct import RUN_CODE
from aiowasm.engine.interpreter.expressions import NAMES
from aiowasm.engine.interpreter.frames import AnyFrame, CodeFrame
from aiowasm.errors import Trap, TrapCode

if TYPE_CHECKING:
    from aiowasm.engine.func import FuncInst
    from aiowasm.engine.interpreter.machine import Machine

__all__ = ("capture", "running_frames", "trap_of")

_TRAPS: Final[dict[str, dict[type[Exception], TrapCode]]] = {
    "t": dict.fromkeys((IndexError, struct.error, OverflowError), TrapCode.MEMORY_OUT_OF_BOUNDS),
    "z": {ZeroDivisionError: TrapCode.INTEGER_DIVIDE_BY_ZERO},
    "b": {IndexError: TrapCode.TABLE_OUT_OF_BOUNDS},
    "s": {AttributeError: TrapCode.NULL_STRUCTURE_REFERENCE},
    "a": {AttributeError: TrapCode.NULL_ARRAY_REFERENCE, IndexError: TrapCode.ARRAY_OUT_OF_BOUNDS},
}


def _function(frame: FrameType) -> tuple[FuncInst, FunctionCode, Any]:
    variables = frame.f_locals
    func: FuncInst = variables["this"]
    code: FunctionCode = func.state
    return func, code, variables


def _code_frame(frame: FrameType, line: int) -> tuple[CodeFrame, int]:
    """The explicit frame for generated code that is at *line*, and what its check point will charge again."""
    func, code, variables = _function(frame)
    # All names are parameters, so none is unbound.
    values = [variables[name] for name in code.generated.names]  # type: ignore[union-attr]
    kind, pc, extra = code.mark(line)
    if kind == "k":
        return CodeFrame(func, code, pc, values, 0), extra
    return CodeFrame(func, code, pc, values, extra), 0


def capture(frames: list[AnyFrame], traceback: TracebackType | None) -> int:
    """Append the frames of *traceback* to *frames*; return what the youngest's check point will charge again."""
    owed = 0
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_globals is NAMES:
            made, owed = _code_frame(frame, traceback.tb_lineno)
            frames.append(made)
        elif frame.f_code is RUN_CODE:
            frames.extend(frame.f_locals["frames"])
            owed = 0
        traceback = traceback.tb_next
    return owed


def running_frames(machine: Machine) -> list[AnyFrame]:
    """Return the frames of *machine* on the Python stack, oldest first; for code called by them."""
    found: list[AnyFrame] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals is NAMES:
            found.append(_code_frame(frame, frame.f_lineno)[0])
        elif frame.f_code is RUN_CODE:
            found.extend(reversed(frame.f_locals["frames"]))
        elif frame.f_code.co_name == "resume" and isinstance(frame.f_locals.get("self"), type(machine)):
            if frame.f_locals["self"] is machine:
                break
            found.clear()
        frame = frame.f_back
    found.reverse()
    return found


def trap_of(error: Exception, traceback: TracebackType | None) -> Trap | None:
    """The trap that *error* stands for, or None."""
    if isinstance(error, Trap):
        error.__context__ = error.__cause__ = None
        return error
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback.tb_frame.f_globals is not NAMES:
        return None
    _, code, _ = _function(traceback.tb_frame)
    trap = _TRAPS.get(code.mark(traceback.tb_lineno).kind, {}).get(type(error))
    return None if trap is None else Trap(trap)
