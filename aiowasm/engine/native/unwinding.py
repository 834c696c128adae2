"""Exceptions that machine code does not deal with alone: finding their handler, and telling machine code of it.

Frame pointers follow from what the instruction behind a call subtracts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiowasm.engine.base import Outcome
from aiowasm.engine.heap import ExnInst
from aiowasm.engine.native.caught import Caught
from aiowasm.engine.native.compiled import DELEGATE
from aiowasm.engine.native.frames import GuestFrames
from aiowasm.engine.native.layout import Activation, Handler, Saved
from aiowasm.engine.native.module import Function, function_at
from aiowasm.engine.native.values import slots_of
from aiowasm.syntax.types import AbsHeapType, FuncType, RefType, ValType

if TYPE_CHECKING:
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.engine.native.compiled import Landing
    from aiowasm.engine.native.encoding import Encoding
    from aiowasm.engine.native.handlers import Clause
    from aiowasm.engine.native.instance import NativeInstance

__all__ = ("Unwinding",)

_SLOTS: Final = Activation.SLOTS // 8
_SP: Final = Activation.GUEST_SP // 8
_FRAME: Final = Activation.FRAME // 8
_INSTANCE: Final = Activation.INSTANCE // 8
_DEPTH_LIMIT: Final = Activation.DEPTH_LIMIT // 8
_TARGET: Final = Activation.TARGET // 8
_CAUGHT: Final = Activation.CAUGHT // 8
_EXNREF: Final = RefType(True, AbsHeapType.EXN)


class Unwinding(GuestFrames):
    """Frames that exceptions can be thrown through."""

    __slots__ = ("_caught", "exception")

    exception: ExnInst | None
    _caught: dict[tuple[int, int], ExnInst] | None
    """What legacy tries have caught, by their frame and first operator."""

    def unwind(self, exception: ExnInst, *, called: bool = False) -> Outcome | None:
        """Go on at the innermost handler of *exception*; THROWN if there is none, and the execution is to end.

        Real programs throw often (setjmp in C), so this is `_walk` without its generality (benchmarks/native.py, eh).
        """
        longs, engine = self._longs, self.engine
        returns = engine.returns()
        index = self._at(longs[_SP]) + Saved.WORDS
        native = engine.instances[longs[_INSTANCE]]
        frame = longs[_FRAME]
        slots = room = 0
        while True:
            address = longs[index]
            if address == engine.crossed:
                native = engine.instances[longs[index + 1]]
                room += 16
                index += 2
                continue
            known = returns.get(address)
            if known is None:
                known = _Return.at(address, engine.stencils.encoding)
                if known is None:
                    self.exception = exception
                    return Outcome.THROWN
                returns[address] = known
                known.publish(address, known.function.entry - engine.entry_offset)
            if called:
                frame -= known.delta
            called = True
            for landing in known.landings:
                if landing.kind < 2:
                    instance = native.instance()
                    if instance is None or instance.tags[landing.tagidx or 0] is not exception.tag:
                        continue
                longs[_SLOTS] += slots
                longs[_DEPTH_LIMIT] += room
                self._land(native, known.function, frame, index, landing, exception)
                return None
            slots += known.function.slots
            index += 1

    def let_throw(self, instance: ModuleInst) -> None:
        """Let code of *instance* throw by itself from now on, if its heap has room; one instance in each execution."""
        caught = self._refs_caught
        if not Caught.is_affordable(instance):
            self._longs[_CAUGHT] = 0
            return
        if caught is None:
            caught = self._refs_caught = Caught(instance, self.engine.native(instance).address)
        elif caught.is_full:
            caught.renew(self._words())
        self._longs[_CAUGHT] = caught.address

    def rethrow(self, start: int) -> Outcome | None:
        """Throw again what the legacy try that starts at operator *start* of the innermost frame caught last."""
        if self._caught is None:
            raise RuntimeError("nothing was caught")
        return self.unwind(self._caught[self._longs[_FRAME], start])

    def _land(
        self,
        native: NativeInstance,
        function: Function,
        frame: int,
        index: int,
        landing: Landing,
        exception: ExnInst,
    ) -> None:
        """Go on at *landing* of the frame whose return address is at *index* of the stack."""
        longs = self._longs
        address = frame + landing.slot
        types: tuple[ValType, ...] = ()
        if landing.kind < 2:
            comptype = exception.tag.deftype.comptype
            types = comptype.params if isinstance(comptype, FuncType) else ()
            self.write(address, types, exception.values)
        if landing.keeps:
            if self._caught is None:
                self._caught = {}
            self._caught[frame, landing.start] = exception
        if landing.kind & 1:
            longs[self._at(address) + slots_of(types)] = self._raw(_EXNREF, exception)
        sp = self._at(longs[_SP])
        longs[sp] = native.address
        longs[sp + Saved.WORDS - 1] = self.engine.routines["rt_land"]
        start = function.entry - self.engine.entry_offset
        longs[_TARGET] = start + landing.offset
        longs[_TARGET + 1] = longs[_SP] + 8 * (index + 1 - sp)
        longs[_TARGET + 2] = frame


class _Return:
    """What unwinding needs to know of a return address; does not change while the code is there."""

    __slots__ = ("delta", "function", "landings")

    def __init__(self, function: Function, delta: int, landings: tuple[Landing, ...]) -> None:
        self.function = function
        self.delta = delta
        self.landings = landings

    @classmethod
    def at(cls, address: int, encoding: Encoding) -> _Return | None:
        """Find out; None: not in a function of a guest."""
        found = function_at(address - 1)
        if found is None:
            return None
        start, function = found
        delta = encoding.frame_delta(address)
        landings: list[Landing] = []
        if function.landings:
            outermost = at = function.operator(address - 1 - start)
            for landing in function.landings:
                if landing.start > outermost or not landing.start < at < landing.end:
                    continue
                if landing.kind == DELEGATE:
                    outermost = landing.outer
                else:
                    landings.append(landing)
        return cls(function, delta, tuple(landings))

    def publish(self, address: int, start: int) -> None:
        """Let generated code unwind through *address*, which is in code that begins at *start*."""
        code = self.function.code
        clauses: list[Clause] = []
        for landing in self.landings:
            place = count = 0
            if landing.tagidx is not None:
                comptype = code.validated.tags[landing.tagidx].comptype
                place = code.layout.tags + 8 * landing.tagidx
                count = slots_of(comptype.params) if isinstance(comptype, FuncType) else 0
            kind = landing.kind | (Handler.LEAVE if landing.keeps else 0)
            clauses.append((kind, place, start + landing.offset, landing.slot, count))
        code.handlers.add(address, self.delta, self.function.slots, clauses)
