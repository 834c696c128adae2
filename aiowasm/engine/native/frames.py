"""What is on a guest stack: values in slots, and frames behind return addresses. How guests run is `.execution`.

Return addresses name functions; where another instance was called, the stack says from which.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiowasm.engine.func import FuncInst
from aiowasm.engine.native.caught import FIRST_REFERENCE, Caught
from aiowasm.engine.native.handles import Handles
from aiowasm.engine.native.layout import Activation, Saved, Status
from aiowasm.engine.native.module import Function, function_at
from aiowasm.engine.native.values import from_slots, is_function_type, to_slots
from aiowasm.syntax.types import NumType, RefType, ValType

if TYPE_CHECKING:
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.engine.native.engine import Native
    from aiowasm.engine.native.stack import GuestStack

__all__ = ("GuestFrames",)

_SP: Final = Activation.GUEST_SP // 8
_FRAME: Final = Activation.FRAME // 8
_INSTANCE: Final = Activation.INSTANCE // 8
_MASK: Final = (1 << 64) - 1


class _Place(NamedTuple):
    """A frame: function, offset in its code, instance."""

    function: Function
    offset: int
    instance: ModuleInst


class GuestFrames:
    """Access to the stack of an execution. Executions set the fields: each call makes one."""

    __slots__ = ("_handles", "_kept", "_longs", "_refs_caught", "_stack", "engine")

    engine: Native
    _stack: GuestStack | None
    _longs: Any
    """The stack as 64-bit words, from the activation block on."""
    _handles: Handles | None
    _kept: set[FuncInst] | None
    """Functions that slots refer to."""
    _refs_caught: Caught | None

    # Values on the stack

    def _at(self, address: int) -> int:
        stack = self._stack
        if stack is None:
            raise RuntimeError("the execution is over")
        return (address - stack.activation) >> 3

    def read(self, address: int, types: tuple[ValType, ...]) -> list[Any]:
        """Return values of *types* whose slots start at *address*, in engine form."""
        index = self._at(address)
        longs = self._longs
        values = []
        for valtype in types:
            low = longs[index] & _MASK
            index += 1
            if isinstance(valtype, RefType):
                values.append(self._reference(valtype, low))
            elif valtype is NumType.V128:
                values.append(from_slots(valtype, low, longs[index] & _MASK))
                index += 1
            else:
                values.append(from_slots(valtype, low, 0))
        return values

    def write(self, address: int, types: tuple[ValType, ...], values: tuple[Any, ...]) -> None:
        """Put *values* of *types* into slots from *address* on."""
        index = self._at(address)
        longs = self._longs
        for valtype, value in zip(types, values, strict=True):
            if isinstance(valtype, RefType):
                low, high = self._raw(valtype, value), 0
            else:
                low, high = to_slots(valtype, value)
            longs[index] = low
            index += 1
            if valtype is NumType.V128:
                longs[index] = high
                index += 1

    def _reference(self, reftype: RefType, low: int) -> Any:
        if not low:
            return None
        if is_function_type(reftype):
            return self.engine.function_at(low)
        return self._object(low)

    def _object(self, handle: int) -> Any:
        if self._refs_caught is not None and handle >= FIRST_REFERENCE:
            return self._refs_caught.get(handle)
        if self._handles is None:
            raise RuntimeError("a slot without a handle")
        return self._handles.get(handle)

    def _raw(self, reftype: RefType, value: Any) -> int:
        if value is None:
            return 0
        if is_function_type(reftype):
            if self._kept is None:
                self._kept = set()
            self._kept.add(value)
            return self.engine.descriptor(value)
        handles = self._handles
        if handles is None:
            handles = self._handles = Handles()
        handle = handles.find(value)
        if handle is None:
            if handles.is_full():
                handles.sweep(self._words())
            handle = handles.make(value)
        return handle

    def _words(self) -> array[int]:
        """All slots in use: none is above the innermost frame and what it may just have been given."""
        if self._stack is None:
            return array("q")
        slots = next((place.function.slots for place in self._walk()), 0)
        top = self._at(self._longs[_FRAME]) + 2 * (slots + 1000)
        return array("q", bytes(memoryview(self._longs).cast("B")[: 8 * top]))

    def function_at(self, address: int) -> FuncInst | None:
        """The function whose descriptor is in the slot at *address*."""
        low = self._longs[self._at(address)]
        return self.engine.function_at(low) if low else None

    def handle_at(self, address: int) -> Any:
        """The object whose handle is in the slot at *address*."""
        low = self._longs[self._at(address)]
        return self._object(low) if low else None

    # Frames

    def _innermost(self) -> ModuleInst | None:
        """The instance whose code called last."""
        for place in self._walk():
            return place.instance
        return None

    def _walk(self) -> Generator[_Place, None, None]:
        """Go through the frames, innermost first."""
        longs = self._longs
        engine = self.engine
        if self._stack is None:
            return
        status = longs[Activation.STATUS // 8]
        index = self._at(longs[_SP]) + Saved.WORDS
        if status == Status.EXHAUSTED:
            index += 1
        instance = engine.instances[longs[_INSTANCE]].instance()
        while True:
            address = longs[index]
            if address == engine.crossed:
                instance = engine.instances[longs[index + 1]].instance()
                index += 2
                continue
            found = function_at(address - 1)
            if found is None or instance is None:
                return
            start, function = found
            yield _Place(function, address - 1 - start, instance)
            index += 1
