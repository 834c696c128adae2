"""The direct interpreter: an execution as a list of explicit frames, run by one loop over prepared operators.

State is data: frames of plain values, whenever the execution is not running and at any depth of guest calls. It calls
the standard's operators (`engine.operators`) and rules (`rules.py`) only, and is meant to be checked against the
standard by eye. Fuel is charged by CHARGE and CHECK operators, so a pause at a check point leaves nothing owed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any

from aiowasm.engine.base import NO_LIMIT, HostReturned, Outcome, Thrown
from aiowasm.engine.func import FuncInst
from aiowasm.engine.heap import ExnInst
from aiowasm.engine.instance import function_name
from aiowasm.engine.interpreter.prepare import DELEGATE, Handler, Kind, Label, Prepared, prepare
from aiowasm.errors import FrameInfo, OutOfFuel, Trap, TrapCode
from aiowasm.syntax.matching import close_rectype
from aiowasm.syntax.types import FuncType, NumType, RecType, RefType, SubType

if TYPE_CHECKING:
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.engine.memory import Waiter
    from aiowasm.validation.record import FunctionRecord

__all__ = ("Frame", "Machine", "evaluate")

_SLOTS_PER_FRAME = 4


class Frame:
    """One guest frame: a function, where it goes on, its locals and operands."""

    __slots__ = ("caught", "func", "instance", "locals", "pc", "prepared", "slots", "stack")

    def __init__(self, func: FuncInst, instance: ModuleInst, prepared: Prepared, arguments: list[Any]) -> None:
        self.func = func
        self.instance = instance
        self.prepared = prepared
        self.pc = 0
        record = prepared.record
        self.locals = arguments
        for valtype in islice(record.locals, len(arguments), None):
            self.locals.append(_zero(valtype))
        self.stack: list[Any] = []
        self.caught: dict[int, ExnInst] = {}
        """What the legacy try that starts at an operator has caught last."""
        self.slots = len(self.locals) + record.max_height + _SLOTS_PER_FRAME


def _zero(valtype: NumType | RefType) -> Any:
    if isinstance(valtype, RefType):
        return None
    if valtype in (NumType.F32, NumType.F64):
        return 0.0
    return bytes(16) if valtype is NumType.V128 else 0


class _HostFailed(Exception):  # noqa: N818 - a signal
    """Carries what a host function raised past the handlers of traps."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class Machine:
    """An execution on the direct interpreter (the `Execution` protocol of `engine.base`)."""

    def __init__(
        self,
        func: FuncInst,
        arguments: tuple[Any, ...],
        *,
        limit: int = NO_LIMIT,
        call_depth: int = 10_000,
        stack_slots: int = 65_536,
    ) -> None:
        self.results: tuple[Any, ...] = ()
        self.trap: Trap | None = None
        self.exception: ExnInst | None = None
        self.error: BaseException | None = None
        self.host: FuncInst | None = None
        self.arguments: tuple[Any, ...] = ()
        self.caller: ModuleInst | None = None
        self.consumed = 0
        self.limit = limit
        self._frames: list[Frame] = []
        self._described: tuple[FrameInfo, ...] = ()
        self._call_depth = call_depth
        self._slots_left = stack_slots
        self._entry: tuple[FuncInst, list[Any]] | None = (func, list(arguments))
        self._thrown: ExnInst | None = None
        self._waiter: Waiter | None = None

    # Answers to a host call

    def deliver(self, results: tuple[Any, ...]) -> None:
        """Answer a host call with *results* in engine form, or a wait with its result."""
        self.host = None
        self._wait_no_more()
        if self._frames:
            self._frames[-1].stack.extend(results)
        else:
            self.results = results

    def _wait_no_more(self) -> None:
        if self._waiter is not None:
            self._waiter.cancel()
            self._waiter = None

    def throw(self, exception: ExnInst) -> None:
        """Answer a host call by throwing *exception* into the guest at that call."""
        self.host = None
        self._thrown = exception

    # What rules ask of the machine

    def charge(self, units: int) -> None:
        """Charge *units* of a bulk operation; trap before it writes anything if they exceed the limit."""
        self.consumed += units
        if self.consumed > self.limit:
            raise OutOfFuel

    # Running

    def frames(self) -> tuple[FrameInfo, ...]:
        """Return the guest frames, innermost first."""
        return self._described or tuple(self._describe(frame) for frame in reversed(self._frames))

    def instances(self) -> set[ModuleInst]:
        """Return the instances that have a live frame."""
        return {frame.instance for frame in self._frames}

    def discard(self) -> None:
        """Drop all frames."""
        self._wait_no_more()
        self._frames.clear()

    def resume(self, slice_fuel: int) -> Outcome:
        """Run until the guest returns, traps, throws, calls the host, or has used *slice_fuel* at a check point."""
        if self.host is not None or self._waiter is not None:
            raise RuntimeError("a host call or a wait is unanswered")
        try:
            if self._entry is not None:
                func, arguments = self._entry
                self._entry = None
                if self._enter(func, arguments):
                    return self._left()
            if self._thrown is not None:
                exception, self._thrown = self._thrown, None
                if not self._catch(exception):
                    return Outcome.THROWN
            if not self._frames:
                return Outcome.RETURNED
            return self._run(self.consumed + slice_fuel)
        except Trap as trap:
            return self._trapped(trap)
        except _HostFailed as failed:
            self.error = failed.error
            self._described = self.frames()
            self._frames.clear()
            return Outcome.FAILED

    def _trapped(self, trap: Trap) -> Outcome:
        frames = tuple(self._describe(frame) for frame in reversed(self._frames))
        trap.frames = frames
        self.trap = trap
        self._frames.clear()
        return Outcome.TRAPPED

    def _describe(self, frame: Frame) -> FrameInfo:
        where = frame.prepared.where
        index = where[max(frame.pc - 1, 0)]
        offset = frame.prepared.record.offsets[index] if index >= 0 else None
        funcidx = frame.func.funcidx or 0
        return FrameInfo(frame.instance.name, function_name(frame.instance, funcidx), funcidx, offset)

    def _enter(self, func: FuncInst, arguments: list[Any]) -> bool:
        """Push a frame for *func*, or leave for the host: True."""
        instance = func.instance
        if instance is None or func.funcidx is None:
            caller = self._frames[-1].instance if self._frames else None
            if func.host is not None:
                return self._call_host(func, func.host, caller, arguments)
            self.host = func
            self.arguments = tuple(arguments)
            self.caller = caller
            return True
        if instance.error is not None:
            raise _HostFailed(instance.error)
        try:
            prepared: Prepared = func.cell.cell_contents
        except ValueError:  # an empty cell: the first call
            prepared = func.cell.cell_contents = _prepare(func.funcidx, instance)
        if len(self._frames) >= self._call_depth:
            raise Trap(TrapCode.CALL_STACK_EXHAUSTED)
        frame = Frame(func, instance, prepared, arguments)
        if frame.slots > self._slots_left:
            raise Trap(TrapCode.CALL_STACK_EXHAUSTED)
        self._slots_left -= frame.slots
        self._frames.append(frame)
        return False

    def _left(self) -> Outcome:
        """Why the loop was left by a call of the host."""
        return Outcome.HOST_CALL if self.host is not None else Outcome.PAUSED

    def _call_host(
        self, func: FuncInst, host: Callable[..., Any], caller: ModuleInst | None, arguments: list[Any]
    ) -> bool:
        """Call a host function that does not wait; True: it wants the execution to pause."""
        pause = False
        try:
            result = host(caller, *arguments)
        except Thrown as thrown:
            self._thrown = thrown.exception
            return True
        except HostReturned as returned:
            result = returned.result
            pause = True
        except BaseException as error:
            raise _HostFailed(error) from None
        count = len(func.deftype.comptype.results)  # type: ignore[union-attr]
        self.deliver(() if not count else (result,) if count == 1 else result)
        return pause

    def _leave(self) -> Frame:
        frame = self._frames.pop()
        self._slots_left += frame.slots
        return frame

    def _catch(self, exception: ExnInst) -> bool:
        """Unwind to the innermost handler of *exception*; False: there is none."""
        while self._frames:
            frame = self._frames[-1]
            handler = _handler(frame, exception)
            if handler is not None:
                values = list(exception.values) if handler.kind < 2 else []
                if handler.kind & 1:
                    values.append(exception)
                if handler.keeps:
                    frame.caught[handler.start] = exception
                frame.stack[handler.label.height :] = values
                frame.pc = handler.label.pc
                return True
            self._leave()
        self.exception = exception
        return False

    def _run(self, until: int) -> Outcome:
        """The loop. Names for the frame's state; the frame's own `pc` is written where something may look at it."""
        while True:
            frame = self._frames[-1]
            code = frame.prepared.code
            local = frame.locals
            stack = frame.stack
            push, pop = stack.append, stack.pop
            pc = frame.pc
            while True:
                kind, operand = code[pc]
                pc += 1
                if kind == Kind.LOCAL_GET:
                    push(local[operand])
                elif kind == Kind.CONST:
                    push(operand)
                elif kind == Kind.BINARY:
                    frame.pc = pc
                    right = pop()
                    stack[-1] = operand(stack[-1], right)
                elif kind == Kind.LOCAL_SET:
                    local[operand] = pop()
                elif kind == Kind.LOCAL_TEE:
                    local[operand] = stack[-1]
                elif kind == Kind.LOAD:
                    frame.pc = pc
                    load, offset, cell, nbytes, misaligned = operand
                    view = cell.cell_contents
                    address = stack[-1] + offset
                    if address & misaligned:
                        raise Trap(TrapCode.UNALIGNED_ATOMIC)
                    if address + nbytes > len(view):
                        raise Trap(TrapCode.MEMORY_OUT_OF_BOUNDS)
                    stack[-1] = load(view, address)
                elif kind == Kind.STORE:
                    frame.pc = pc
                    store, offset, cell, nbytes, misaligned = operand
                    value = pop()
                    view = cell.cell_contents
                    address = pop() + offset
                    if address & misaligned:
                        raise Trap(TrapCode.UNALIGNED_ATOMIC)
                    if address + nbytes > len(view):
                        raise Trap(TrapCode.MEMORY_OUT_OF_BOUNDS)
                    store(view, address, value)
                elif kind == Kind.BR_IF:
                    if pop():
                        pc = _branch(stack, operand)
                elif kind == Kind.CHARGE:
                    self.consumed += operand
                elif kind == Kind.CHECK:
                    self.consumed += operand
                    if self.consumed >= until or self.consumed > self.limit:
                        frame.pc = pc
                        if self.consumed > self.limit:
                            raise OutOfFuel
                        return Outcome.PAUSED
                elif kind == Kind.UNARY:
                    frame.pc = pc
                    stack[-1] = operand(stack[-1])
                elif kind == Kind.BR:
                    pc = _branch(stack, operand)
                elif kind == Kind.IF:
                    if not pop():
                        pc = operand
                elif kind == Kind.RULE:
                    frame.pc = pc
                    operand[0](self, frame, operand[1])
                elif kind == Kind.LEAVE:
                    frame.pc = pc
                    if self._call(operand[0](self, frame, operand[1]), stack):
                        return self._left()
                    break
                elif kind == Kind.RETURN:
                    results = stack[len(stack) - operand :]
                    self._leave()
                    if not self._frames:
                        self.results = tuple(results)
                        return Outcome.RETURNED
                    self._frames[-1].stack.extend(results)
                    break
                elif kind == Kind.DROP:
                    pop()
                elif kind == Kind.SELECT:
                    condition = pop()
                    second = pop()
                    if not condition:
                        stack[-1] = second
                elif kind == Kind.BR_TABLE:
                    index = pop()
                    pc = _branch(stack, operand[index] if index < len(operand) else operand[-1])
                elif kind == Kind.BR_ON:
                    frame.pc = pc
                    if operand[0](self, frame, operand[1]):
                        pc = _branch(stack, operand[2])
                elif kind == Kind.TAIL:
                    frame.pc = pc
                    func = operand[0](self, frame, operand[1])
                    arguments = _arguments(func, stack)
                    self._leave()
                    if self._enter(func, arguments):
                        return self._left()
                    if not self._frames:
                        return Outcome.RETURNED
                    break
                elif kind == Kind.WAIT:
                    frame.pc = pc
                    waiting = operand[0](self, frame, operand[1])
                    if waiting is not None:
                        self.arguments = waiting
                        self._waiter = waiting[0]
                        return Outcome.WAIT
                else:
                    frame.pc = pc
                    if not self._catch(operand[0](self, frame, operand[1])):
                        return Outcome.THROWN
                    break

    def _call(self, func: FuncInst, stack: list[Any]) -> bool:
        return self._enter(func, _arguments(func, stack))


def _prepare(funcidx: int, instance: ModuleInst) -> Prepared:
    validated = instance.validated
    return prepare(validated.record(funcidx - validated.nimported_funcs), instance)


def _handler(frame: Frame, exception: ExnInst) -> Handler | None:
    """The innermost handler of *exception* around where *frame* is."""
    at = frame.prepared.where[frame.pc - 1]
    outermost = at
    for handler in frame.prepared.handlers:
        if handler.start > outermost or not handler.start < at < handler.end:
            continue
        if handler.kind == DELEGATE:
            outermost = handler.label.pc
        elif handler.kind > 1 or frame.instance.tags[handler.tagidx or 0] is exception.tag:
            return handler
    return None


def _arguments(func: FuncInst, stack: list[Any]) -> list[Any]:
    functype = func.deftype.comptype
    if not isinstance(functype, FuncType):
        raise RuntimeError("a function without a function type")
    count = len(functype.params)
    if not count:
        return []
    arguments = stack[-count:]
    del stack[-count:]
    return arguments


def _branch(stack: list[Any], label: Label) -> int:
    pc, height, arity = label
    if height >= 0 and len(stack) != height + arity:
        del stack[height : len(stack) - arity]
    return pc


def evaluate(record: FunctionRecord, instance: ModuleInst) -> Any:
    """Return the value of a constant expression, given as the record of its validation.

    Raises:
        Trap: If it traps; constants of GC types can exhaust the heap.
    """
    func = FuncInst(_CONSTANT, instance, 0)
    func.cell.cell_contents = prepare(record, instance)
    machine = Machine(func, ())
    if machine.resume(NO_LIMIT) is not Outcome.RETURNED:
        raise machine.trap or RuntimeError("a constant expression did not end")
    return machine.results[0]


_CONSTANT = close_rectype(RecType((SubType(True, (), FuncType((), ())),)), 0, [])[0]
"""The type of the function that a constant expression is evaluated in; its result is the operand left on the stack."""
