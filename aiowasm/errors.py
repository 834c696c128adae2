"""Every exception of aiowasm and the codes of traps, in the standard's words.

One class per failure of the standard (malformed, invalid, unlinkable, trap, exception), plus those of running guests in
an application (exit, deadline, limit, reentrancy). A message starts with the standard's phrase and ends with the place.
Nothing here knows engines or stores: frames and instances are carried as data.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = (
    "EXIT_CANCELLED",
    "EXIT_DEADLINE",
    "AiowasmError",
    "DeadlineError",
    "ExitError",
    "FrameInfo",
    "InvalidError",
    "LimitError",
    "LinkError",
    "MalformedError",
    "OutOfFuel",
    "ReentrancyError",
    "Trap",
    "TrapCode",
    "WasmException",
)

EXIT_CANCELLED = 0xFFFF_FFFF
"""Exit code of an instance whose caller was cancelled."""
EXIT_DEADLINE = 0xEFFF_FFFF
"""Exit code of an instance that outlived a deadline."""


class AiowasmError(Exception):
    """Base class of every error that aiowasm raises itself."""


class MalformedError(AiowasmError):
    """Binary or text that is not a module (the standard's *malformed*).

    `reason` starts with the standard's phrase. `offset` is the byte where binary decoding stopped; `line` and `column`
    (both from 1) the place in text.
    """

    def __init__(
        self, reason: str, *, offset: int | None = None, line: int | None = None, column: int | None = None
    ) -> None:
        place = ""
        if line is not None:
            place = f" (at line {line}, column {column})"
        elif offset is not None:
            place = f" (at offset {offset:#x})"
        super().__init__(reason + place)
        self.reason = reason
        self.offset = offset
        self.line = line
        self.column = column


class InvalidError(AiowasmError):
    """A module that is well-formed but breaks a validation rule (the standard's *invalid*).

    `reason` starts with the standard's phrase. `offset` is a byte of the binary, or None for a module made from text;
    `funcidx` and `instruction` (a mnemonic) say where in the code; `feature` is the name of the flag that would admit
    the module, if one would. `line` and `column` (both from 1) are the place in a text, where that is known.
    """

    def __init__(
        self,
        reason: str,
        *,
        offset: int | None = None,
        line: int | None = None,
        column: int | None = None,
        funcidx: int | None = None,
        instruction: str | None = None,
        feature: str | None = None,
    ) -> None:
        place = []
        if line is not None:
            place.append(f"at line {line}, column {column}")
        if offset is not None:
            place.append(f"at offset {offset:#x}")
        if funcidx is not None:
            place.append(f"function {funcidx}")
        if instruction is not None:
            place.append(instruction)
        super().__init__(reason + (f" ({', '.join(place)})" if place else ""))
        self.reason = reason
        self.offset = offset
        self.line = line
        self.column = column
        self.funcidx = funcidx
        self.instruction = instruction
        self.feature = feature


class LinkError(AiowasmError):
    """Imports that cannot be resolved, or a name already taken (the standard's *unlinkable*).

    `module` and `name` are those of the (first) import concerned, or None.
    """

    def __init__(self, reason: str, *, module: str | None = None, name: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.module = module
        self.name = name


class TrapCode(Enum):
    """Why a guest trapped; the value is the standard's phrase."""

    UNREACHABLE = "unreachable"
    INTEGER_DIVIDE_BY_ZERO = "integer divide by zero"
    INTEGER_OVERFLOW = "integer overflow"
    INVALID_CONVERSION = "invalid conversion to integer"
    MEMORY_OUT_OF_BOUNDS = "out of bounds memory access"
    TABLE_OUT_OF_BOUNDS = "out of bounds table access"
    ARRAY_OUT_OF_BOUNDS = "out of bounds array access"
    UNDEFINED_ELEMENT = "undefined element"
    UNINITIALIZED_ELEMENT = "uninitialized element"
    INDIRECT_CALL_TYPE_MISMATCH = "indirect call type mismatch"
    NULL_REFERENCE = "null reference"
    NULL_FUNCTION_REFERENCE = "null function reference"
    NULL_STRUCTURE_REFERENCE = "null structure reference"
    NULL_ARRAY_REFERENCE = "null array reference"
    NULL_I31_REFERENCE = "null i31 reference"
    NULL_EXCEPTION_REFERENCE = "null exception reference"
    CAST_FAILURE = "cast failure"
    CALL_STACK_EXHAUSTED = "call stack exhausted"
    HEAP_EXHAUSTED = "heap exhausted"
    UNALIGNED_ATOMIC = "unaligned atomic"
    EXPECTED_SHARED_MEMORY = "expected shared memory"
    OUT_OF_FUEL = "out of fuel"


@dataclass(frozen=True, slots=True)
class FrameInfo:
    """One guest frame of a trap or a host exception, innermost first in a list of them.

    `offset` is the instruction's byte in the module's binary, or None where that is unknown (a host function).
    """

    module: str | None
    function: str
    funcidx: int
    offset: int | None

    def __str__(self) -> str:
        where = "" if self.offset is None else f" @ {self.offset:#x}"
        module = f"{self.module}!" if self.module else ""
        return f"{module}{self.function}{where}"


class Trap(AiowasmError):
    """A guest trapped. `code` says why, `frames` where: innermost first."""

    def __init__(self, code: TrapCode, detail: str = "", frames: tuple[FrameInfo, ...] = ()) -> None:
        super().__init__(code, detail, frames)
        self.code = code
        self.detail = detail
        self.frames = frames

    def __str__(self) -> str:
        text = self.code.value + (f" {self.detail}" if self.detail else "")
        return "\n".join([text, *(f"    at {frame}" for frame in self.frames)])


class OutOfFuel(Trap):
    """A tank of fuel ran dry."""

    def __init__(self, detail: str = "", frames: tuple[FrameInfo, ...] = ()) -> None:
        super().__init__(TrapCode.OUT_OF_FUEL, detail, frames)
        # Exception.args must rebuild the object (copy, pickle): ours are (detail, frames).
        self.args = (detail, frames)


class ExitError(AiowasmError):
    """An instance, namespace or store is closed; `exit_code` is an unsigned 32-bit integer, 0 is success."""

    def __init__(self, exit_code: int, cause: str = "") -> None:
        super().__init__(exit_code, cause)
        self.exit_code = exit_code
        self.cause = cause

    def __str__(self) -> str:
        return f"closed with exit code {self.exit_code}" + (f": {self.cause}" if self.cause else "")


class DeadlineError(ExitError, TimeoutError):
    """A timeout of ours ran out; the instances involved are closed with `EXIT_DEADLINE`.

    `result` is what a WASI command had produced so far, if one was running.
    """

    def __init__(self, cause: str = "deadline exceeded", result: object = None) -> None:
        ExitError.__init__(self, EXIT_DEADLINE, cause)
        self.args = (cause, result)
        self.result = result


class LimitError(AiowasmError):
    """The host asked for more than a limit allows; `limit` is the name of the field of `Limits`."""

    def __init__(self, reason: str, *, limit: str) -> None:
        super().__init__(reason)
        self.limit = limit


class WasmException(AiowasmError):
    """An exception of the standard: thrown by a guest and caught by no frame, or raised by a host function for a guest.

    `tag` is the tag (a handle of this store), `values` a tuple of its parameters in host form.
    """

    def __init__(self, tag: object, values: tuple[object, ...] = ()) -> None:
        super().__init__("uncaught exception")
        self.tag = tag
        self.values = values


class ReentrancyError(AiowasmError, RuntimeError):
    """A call that could never proceed: it would wait for itself, or suspend where nothing can wait."""
