"""The machine code of one module, shared by all its instances: compiled function by function, kept while it is used."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import aiowasm.engine.native.operators  # noqa: F401 - fills the compiler's table
from aiowasm.engine.instance import function_name
from aiowasm.engine.native.code import CodeSpace, find
from aiowasm.engine.native.compiled import Compiled, Landing, Layout
from aiowasm.engine.native.compiler import compile_function
from aiowasm.engine.native.handlers import Handlers
from aiowasm.engine.native.layout import Activation
from aiowasm.engine.native.scanning.scanner import scanner_steps
from aiowasm.errors import FrameInfo, InvalidError, LimitError, MalformedError
from aiowasm.syntax.guard import Guard
from aiowasm.syntax.steps import finish
from aiowasm.validation.module import validate_function_steps

if TYPE_CHECKING:
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.engine.native.rules import Site
    from aiowasm.engine.native.stencils import Stencils
    from aiowasm.validation.module import ValidatedModule
    from aiowasm.validation.record import FunctionRecord

__all__ = ("Function", "ModuleCode", "code_steps", "function_at")

_making: Final = Guard()
_CODE_PER_BYTE = 6  # of wasm; only a guess at how much address space to take
_STUBS_PER_STEP = 8192


class Function:
    """A compiled function, for traces and for unwinding: made when one of them comes across it."""

    __slots__ = ("_offsets", "_traced", "code", "entry", "index", "landings", "slots")

    def __init__(self, code: ModuleCode, index: int, slots: int, landings: Sequence[Landing]) -> None:
        self.code = code
        self.index = index
        self.slots = slots
        self.landings = landings
        self.entry = code.entries[index]
        self._traced: Compiled | None = None
        self._offsets: Any = ()

    def trace_steps(self) -> Generator[None, None, Compiled]:
        """Find out where each operator's code is, yielding now and then.

        Compiling again is deterministic, and traps are rare: nothing is kept for them.
        """
        if self._traced is None:
            record = yield from self.code.record_steps(self.index)
            layout, stencils = self.code.layout, self.code.stencils
            traced = yield from compile_function(self.code.validated, record, layout, stencils, [], [])
            self._offsets = record.offsets
            self._traced = traced
        return self._traced

    def operator(self, offset: int) -> int:
        """Index in the record of the operator whose code contains *offset*; -1: the function's entry."""
        return finish(self.trace_steps()).operator(offset)

    def describe(self, offset: int, instance: ModuleInst) -> FrameInfo:
        """What an error says of a frame that is at *offset* of this function's code."""
        at = self.operator(offset)
        funcidx = self.index + self.code.validated.nimported_funcs
        return FrameInfo(
            instance.name, function_name(instance, funcidx), funcidx, self._offsets[at] if at >= 0 else None
        )


class ModuleCode:
    """Code of the functions compiled so far.

    `entries` has an address for every defined function: code or a stub. Instances point to it, so it never moves.
    """

    def __init__(self, validated: ValidatedModule, stencils: Stencils) -> None:
        self.validated = validated
        self.stencils = stencils
        self.layout = Layout(validated)
        self.sites: list[Site] = []
        self.handlers = Handlers()
        self._errors: dict[int, Exception] = {}
        self._landings: dict[int, Sequence[Landing]] = {}
        self._functions: dict[int, Function] = {}
        funcs = validated.module.funcs
        count = len(funcs)
        self._stub_nbytes = stencils.encoding.stub_nbytes
        nbytes = max(funcs.ends[-1] - funcs.starts[0], 0) if count else 0
        self._space = CodeSpace(self._stub_nbytes * count + _CODE_PER_BYTE * nbytes, self)
        self._slots = array("I", bytes(4 * count))
        self.entries = array("Q")
        self._stubs_start = self._stubs_end = 0

    def stub_steps(self) -> Generator[None, None, None]:
        """Fill `entries` with stubs, which lie one behind the other."""
        encoding, lazy = self.stencils.encoding, Activation.routine("lazy")
        count, nbytes = len(self._slots), self._stub_nbytes
        for first in range(0, count, _STUBS_PER_STEP):
            numbers = range(first, min(first + _STUBS_PER_STEP, count))
            start = self._space.put(encoding.stubs(numbers, lazy))
            if not first:
                self._stubs_start = self._stubs_end = start
            if start != self._stubs_end:
                raise RuntimeError("the stubs of a module are apart")
            self._stubs_end += nbytes * len(numbers)
            self.entries.extend(range(start, self._stubs_end, nbytes))
            yield

    def stub(self, index: int) -> int:
        """Address of the code that asks for the defined function *index* to be compiled."""
        return self._stubs_start + self._stub_nbytes * index

    @cached_property
    def stubs(self) -> array[int]:
        """Addresses of that code for all defined functions: what closed instances call."""
        return array("Q", range(self._stubs_start, self._stubs_end, self._stub_nbytes))

    def is_compiled(self, index: int) -> bool:
        """Whether the defined function *index* has code."""
        return not self._stubs_start <= self.entries[index] < self._stubs_end

    def record_steps(self, index: int) -> Generator[None, None, FunctionRecord]:
        """Validate the defined function *index*, yielding now and then; return its record.

        Raises:
            InvalidError, MalformedError: If its body is not valid.
        """
        scanner = yield from scanner_steps(self.validated, self.stencils)
        record = yield from scanner.record_steps(self.validated, index)
        if record is None:
            record = yield from validate_function_steps(self.validated, index)
        return record

    def compile_steps(self, index: int) -> Generator[None, None, None]:
        """Validate and compile the defined function *index*, yielding now and then.

        Raises:
            InvalidError, MalformedError: If its body is not valid.
            LimitError: If its code would be unreasonably large.
        """
        failed = self._errors.get(index)
        if failed is not None:
            raise failed
        try:
            record = yield from self.record_steps(index)
            yield
            compiled = yield from compile_function(self.validated, record, self.layout, self.stencils, self.sites)
        except (InvalidError, MalformedError, LimitError) as error:
            self._errors[index] = error
            raise
        self._slots[index] = compiled.slots
        if compiled.landings:
            self._landings[index] = compiled.landings
        self.entries[index] = self._space.put(compiled.code, index) + compiled.entry

    def function(self, index: int) -> Function:
        """The compiled function *index*."""
        function = self._functions.get(index)
        if function is None:
            function = Function(self, index, self._slots[index], self._landings.get(index, ()))
            self._functions[index] = function
        return function


def function_at(address: int) -> tuple[int, Function] | None:
    """Return where the code at *address* starts and the function it belongs to; None: it is not a guest's."""
    found = find(address)
    if found is None:
        return None
    start, code, index = found
    return (start, code.function(index)) if isinstance(code, ModuleCode) and index >= 0 else None


def code_steps(validated: ValidatedModule, stencils: Stencils) -> Generator[None, None, ModuleCode]:
    """Return the code of *validated*, which all instances share, made in steps if there is none yet."""
    if not isinstance(validated.engine_code, ModuleCode):
        code = ModuleCode(validated, stencils)
        yield from code.stub_steps()
        with _making:
            if not isinstance(validated.engine_code, ModuleCode):  # else others have made it meanwhile
                validated.engine_code = code
    return validated.engine_code
