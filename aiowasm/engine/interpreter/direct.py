"""The direct interpreter: one loop over prepared operators. The readable reference, and what runs cold code.

It calls the standard's operators (`engine.operators`) and rules (`rules`) only, never a template, and is meant to be
checked against the standard by eye. Calls of its own functions are frames in a list, not Python calls; generated code
and host functions are called like Python functions. To stop, it raises a signal (`signals`), as generated code does:
its frames are found in the traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CellType, CodeType
from typing import TYPE_CHECKING, Any, Final

from aiowasm.engine.base import Thrown
from aiowasm.engine.interpreter.frames import Frame
from aiowasm.engine.interpreter.prepare import Kind, Label
from aiowasm.engine.interpreter.signals import Deep, Promote, Suspend, Tail, WaitFor
from aiowasm.errors import Trap, TrapCode

if TYPE_CHECKING:
    from aiowasm.engine.interpreter.engine import Interpreter

__all__ = ("RUN_CODE", "make_run")

Run = Callable[[list[Frame], int], Any]


def make_run(engine: Interpreter) -> tuple[Run, CellType]:
    """Return the loop for *engine*, and the cell of the fuel it counts down, which generated code shares."""
    fuel = 0
    entry, tire = engine.entry, engine.tire

    def run(frames: list[Frame], d: int) -> Any:
        """Run the youngest of *frames* until the oldest returns; *d* stack slots are left on this Python stack.

        Returns what functions return: None, the value, or a tuple of several; or a `Tail`.
        """
        nonlocal fuel
        while True:
            frame = frames[-1]
            instance = frame.instance
            kinds, operands = frame.prepared.kinds, frame.prepared.operands
            mems = instance.mems
            local = frame.locals
            stack = frame.stack
            push, pop = stack.append, stack.pop
            pc = frame.pc
            try:
                while True:
                    kind = kinds[pc]
                    operand = operands[pc]
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
                        load, offset, memidx, nbytes, misaligned = operand
                        view = mems[memidx].view
                        address = stack[-1] + offset
                        if address & misaligned:
                            raise Trap(TrapCode.UNALIGNED_ATOMIC)
                        if address + nbytes > len(view):
                            raise Trap(TrapCode.MEMORY_OUT_OF_BOUNDS)
                        stack[-1] = load(view, address)
                    elif kind == Kind.STORE:
                        frame.pc = pc
                        store, offset, memidx, nbytes, misaligned = operand
                        value = pop()
                        view = mems[memidx].view
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
                        fuel -= operand
                    elif kind == Kind.CHECK:
                        fuel -= operand[0]
                        if fuel < 0:
                            frame.pc = pc
                            raise Suspend
                        if operand[1] >= 0:  # a loop header
                            body = frame.code
                            body.heat += 1
                            if body.heat > body.hot and not body.refused:
                                frame.pc = pc
                                raise Promote(body)
                    elif kind == Kind.UNARY:
                        frame.pc = pc
                        stack[-1] = operand(stack[-1])
                    elif kind == Kind.GLOBAL_GET:
                        push(instance.globals[operand].value)
                    elif kind == Kind.BR:
                        pc = _branch(stack, operand)
                    elif kind == Kind.IF:
                        if not pop():
                            pc = operand
                    elif kind == Kind.GLOBAL_SET:
                        instance.globals[operand].value = pop()
                    elif kind == Kind.RULE:
                        frame.pc = pc
                        operand[0](engine, frame, operand[1])
                    elif kind == Kind.LEAVE:
                        frame.pc = pc
                        func = operand[0](engine, frame, operand[1])
                        functype = func.deftype.comptype
                        arguments = _arguments(len(functype.params), stack)
                        target = entry(func, instance)
                        cold = getattr(target, "cold", None)
                        if cold is not None and cold.can_stay_cold():
                            cold.heat += 1
                            if cold.weight:
                                tire(cold.weight)
                            frames.append(Frame(func, func.instance, cold, arguments))
                            d -= cold.slots
                            if d < 0:
                                raise Deep
                            break
                        frame.receive(target(*arguments, d), len(functype.results))
                    elif kind == Kind.RETURN:
                        frames.pop()
                        if not frames:
                            if operand == 1:
                                return stack[-1]
                            return tuple(stack[len(stack) - operand :]) if operand else None
                        d += frame.code.slots
                        if operand:
                            frames[-1].stack.extend(stack[len(stack) - operand :])
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
                        if operand[0](engine, frame, operand[1]):
                            pc = _branch(stack, operand[2])
                    elif kind == Kind.TAIL:
                        frame.pc = pc
                        func = operand[0](engine, frame, operand[1])
                        functype = func.deftype.comptype
                        arguments = _arguments(len(functype.params), stack)
                        if len(frames) == 1:
                            return Tail(func, arguments)
                        target = entry(func, instance)
                        frames.pop()
                        d += frame.code.slots
                        cold = getattr(target, "cold", None)
                        if cold is not None and cold.can_stay_cold():
                            cold.heat += 1
                            if cold.weight:
                                tire(cold.weight)
                            frames.append(Frame(func, func.instance, cold, arguments))
                            d -= cold.slots
                            if d < 0:
                                raise Deep
                        else:
                            frames[-1].receive(target(*arguments, d), len(functype.results))
                        break
                    elif kind == Kind.WAIT:
                        frame.pc = pc
                        waiting = operand[0](engine, frame, operand[1])
                        if waiting is not None:
                            raise WaitFor(*waiting)
                    else:
                        frame.pc = pc
                        raise Thrown(operand[0](engine, frame, operand[1]))
            except Thrown as thrown:
                exception = thrown.exception
                # Whoever raised it, it goes to the innermost handler of these frames, or on.
                while not frames[-1].catch(exception, engine.tire):
                    d += frames.pop().code.slots
                    if not frames:
                        raise

    return run, _cell_of(run, "fuel")


RUN_CODE: Final = next(
    constant for constant in make_run.__code__.co_consts if isinstance(constant, CodeType) and constant.co_name == "run"
)
"""The code object of the loop: its frames are known by it."""


def _cell_of(function: Any, name: str) -> CellType:
    cells: tuple[CellType, ...] = function.__closure__
    return cells[list[str](function.__code__.co_freevars).index(name)]


def _arguments(count: int, stack: list[Any]) -> tuple[Any, ...]:
    if not count:
        return ()
    arguments = tuple(stack[-count:])
    del stack[-count:]
    return arguments


def _branch(stack: list[Any], label: Label) -> int:
    pc, height, arity = label
    if height >= 0 and len(stack) != height + arity:
        del stack[height : len(stack) - arity]
    return pc
