"""An execution on a guest stack (the `Execution` protocol of `engine.base`).

`resume` switches to the guest and looks at why it came back. No Python runs on a guest stack: rules, host functions and
compilation run between two switches. What the stack holds is read in `.frames`, handlers are found in `.unwinding`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from struct import Struct
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final
from weakref import ref

from aiowasm.engine.base import HostReturned, Outcome, Thrown
from aiowasm.engine.func import FuncInst
from aiowasm.engine.heap import ExnInst
from aiowasm.engine.native.caught import Caught
from aiowasm.engine.native.handles import Handles
from aiowasm.engine.native.layout import Activation, Saved, Status
from aiowasm.engine.native.rules import Call, finish_growth
from aiowasm.engine.native.unwinding import Unwinding
from aiowasm.errors import FrameInfo, LinkError, OutOfFuel, Trap, TrapCode
from aiowasm.syntax.types import FuncType

if TYPE_CHECKING:
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.engine.memory import Waiter
    from aiowasm.engine.native.engine import Native
    from aiowasm.engine.native.instance import NativeFunction
    from aiowasm.engine.native.rules import Site
    from aiowasm.engine.native.stack import Contents, GuestStack

__all__ = ("NativeExecution",)

_FUEL: Final = Activation.FUEL // 8
_SLOTS: Final = Activation.SLOTS // 8
_SP: Final = Activation.GUEST_SP // 8
_ARGUMENT: Final = Activation.ARGUMENT // 8
_FRAME: Final = Activation.FRAME // 8
_INSTANCE: Final = Activation.INSTANCE // 8
_DEPTH_LIMIT: Final = Activation.DEPTH_LIMIT // 8
_TARGET: Final = Activation.TARGET // 8
_CAUGHT: Final = Activation.CAUGHT // 8
_BIAS: Final = Activation.BIAS
_MASK: Final = (1 << 64) - 1
_FARTHEST: Final = 1 << 62
_SHORT_UNITS: Final = 20_000
"""Fuel that is run holding the GIL: about 20 us. Whoever needs more releases it."""
_COMPILE_NS: Final = 500_000


# Looking members up takes Python 3.11 as long as a call (benchmarks/crossing.py).
_RETURNED, _PAUSED, _HOST_CALL = Outcome.RETURNED, Outcome.PAUSED, Outcome.HOST_CALL
_THROWN: Final = Outcome.THROWN
_NOTHING: Final[Any] = {}


_first_words = Struct("<8q").pack_into
_left_words = Struct("<24xq8x3q").unpack_from
"""GUEST_SP, ARGUMENT, FRAME and INSTANCE at once (benchmarks/crossing.py)."""
_RETURN: Final = Saved.WORDS


class NativeExecution(Unwinding):
    """One call into a guest. Takes its stack when it is first resumed, gives it back when it is over."""

    __slots__ = (
        "__weakref__",
        "_aside",
        "_asking",
        "_call_depth",
        "_compile_until",
        "_compiling",
        "_described",
        "_ending",
        "_finished_host",
        "_func",
        "_hosts",
        "_instances",
        "_landing_due",
        "_over",
        "_stack_slots",
        "_started",
        "_ticket",
        "_until",
        "_waiter",
        "_waiting",
        "_working",
        "arguments",
        "caller",
        "consumed",
        "error",
        "growing",
        "host",
        "limit",
        "results",
        "trap",
    )

    def __init__(
        self,
        engine: Native,
        func: FuncInst,
        arguments: tuple[Any, ...],
        limit: int,
        call_depth: int,
        stack_slots: int,
    ) -> None:
        self.results: tuple[Any, ...] = ()
        self.trap: Trap | None = None
        self.exception: ExnInst | None = None
        self.error: BaseException | None = None
        self.host: FuncInst | None = None
        self.arguments: tuple[Any, ...] = arguments
        self.caller: ModuleInst | None = None
        self.consumed = 0
        self.limit = limit
        self.engine = engine
        self.growing: tuple[Any, int] | None = None
        self._func = func
        self._call_depth = call_depth
        self._stack_slots = stack_slots
        self._stack: GuestStack | None = None
        self._aside: Contents | None = None
        """What was on its stack, if that was needed elsewhere while the guest waits."""
        self._waiting = False
        """Whether the guest waits in a host function, and its stack may be needed elsewhere."""
        self._longs: Any = None
        self._started = False
        self._over = False
        self._asking: Call | None = None
        self._waiter: Waiter | None = None
        self._caught: dict[tuple[int, int], ExnInst] | None = None
        self._refs_caught: Caught | None = None
        self._compile_until = 0
        self._compiling: Generator[None, None, None] | None = None
        self._working: Generator[None, None, None] | None = None
        self._landing_due: ExnInst | None = None
        self._finished_host = False
        self._described: tuple[FrameInfo, ...] = ()
        self._ending: Outcome | None = None
        self._handles: Handles | None = None
        self._kept: set[FuncInst] | None = None
        self._hosts: dict[int, _HostCall] = {}
        self._instances: dict[int, tuple[ModuleInst, list[Site]]] = {}
        self._ticket = 0

    # The protocol

    def charge(self, units: int) -> None:
        """Add *units* to what is consumed; the next check point compares with the limit."""
        self.consumed += units

    def charge_bulk(self, units: int) -> bool:
        """Charge a bulk operation; trap before it writes anything if that exceeds the limit.

        Returns whether the slice is used up: the operation is then for the next one.
        """
        self.consumed += units
        if self.consumed > self.limit:
            raise OutOfFuel
        return self.consumed > self._until

    def deliver(self, results: tuple[Any, ...]) -> None:
        """Answer a host call, a growth or a wait with *results* in engine form."""
        asking, self._asking = self._asking, None
        if asking is not None and self._wait_no_more():
            asking.results(*results)
            return
        if asking is not None:
            finish_growth(asking, results)
            self.growing = None
            return
        host, self.host = self.host, None
        if host is None:
            raise RuntimeError("nothing was asked")
        self._wait_no_longer()
        self._answer(host, results)

    def _answer(self, host: FuncInst, results: tuple[Any, ...]) -> None:
        stack = self._stack
        if stack is None:
            self.results = results
            self._finished_host = True
            return
        known = self._host_call(self._longs[_ARGUMENT])
        address = self._longs[_FRAME] - _BIAS
        if known.encode is not None:
            known.encode(stack.view, address - stack.activation, *results)
        else:
            self.write(address, known.functype.results, results)

    def _host_call(self, descriptor: int) -> _HostCall:
        known = self._hosts.get(descriptor)
        if known is None:
            func = self.engine.function_at(descriptor)
            known = self._hosts[descriptor] = _HostCall(func, self.engine.function(func))
        return known

    def throw(self, exception: ExnInst) -> None:
        """Answer a host call by throwing *exception* into the guest at that call."""
        self._wait_no_longer()
        self.host = None
        self._landing_due = exception

    # A guest that waits, and its stack

    def _begin_to_wait(self, stack: GuestStack) -> None:
        """The guest waits in a host function: `put_aside` may be called from now on."""
        self._waiting = True
        self.engine.pool.waiting[stack] = ref(self)

    def _wait_no_longer(self) -> None:
        """Have the stack at hand, and keep it."""
        if not self._waiting:
            return
        self._waiting = False
        if self._stack is not None:
            self.engine.pool.waiting.pop(self._stack, None)
            return
        contents = self._aside
        if contents is None:
            raise RuntimeError("the execution is over")
        stack = self.engine.pool.take(self._stack_slots, self._call_depth)
        self.engine.prepare(stack)
        self._stack, self._longs, self._aside = stack, stack.longs, None
        self._hosts, self._instances = {}, {}
        moved = stack.put_back(contents)
        if self._caught:
            self._caught = {(frame + moved, start): caught for (frame, start), caught in self._caught.items()}

    def put_aside(self) -> None:
        """Copy what is in use of the stack, which somebody else gets. Only while the guest waits in a host function."""
        stack, host = self._stack, self.host
        if not self._waiting or stack is None or host is None:
            raise RuntimeError("the guest does not wait")
        # Above the arguments of the host function nothing is in use.
        end = self._longs[_FRAME] - _BIAS + 8 * self.engine.function(host).slots
        self._aside = stack.contents(end)
        self._longs[_CAUGHT] = 0
        self._stack = self._longs = None
        self._hosts = self._instances = _NOTHING

    def _at_hand(self) -> None:
        """Have the stack at hand to look at it."""
        if self._aside is not None:
            self._wait_no_longer()
            if self._stack is not None:
                self._begin_to_wait(self._stack)

    def discard(self) -> None:
        """Drop all frames and give back what they hold."""
        self._over = True
        self._wait_no_more()
        self._release()

    def resume(self, slice_fuel: int) -> Outcome:
        """Run until something happens, for about *slice_fuel* units."""
        if self.host is not None or self._asking is not None:
            raise RuntimeError("a host call is unanswered")
        if self._over:
            raise RuntimeError("the execution is over")
        self._until = self.consumed + slice_fuel
        self._compile_until = 0
        try:
            if not self._started:
                outcome = self._start()
                if outcome is not None:
                    return outcome
            if self._finished_host:
                return self._end(_RETURNED)
            if self._landing_due is not None:
                exception, self._landing_due = self._landing_due, None
                if self._stack is None:
                    self.exception = exception
                    return self._end(_THROWN)
                outcome = self.unwind(exception, called=True)
                if outcome is not None:
                    return self._end(outcome)
            if self._working is not None:
                outcome = self.work(self._working)
                if outcome is not None:
                    return outcome
            if self._ending is not None:
                return self._ended(self._ending)
            if self._compiling is not None:
                outcome = self._compile(self._compiling)
                if outcome is not None:
                    return outcome
            return self._run(self._until)
        except Trap as trap:
            return self._trapped(trap)

    def take_over(self, stack: GuestStack, units: int) -> None:
        """Become the execution of a guest that began without one, on *stack* and with *units* of fuel, and has left."""
        self._stack, self._longs = stack, stack.longs
        self._ticket = self.engine.enter()
        self.consumed = units - 1 - stack.longs[_FUEL]

    def _start(self) -> Outcome | None:
        self._started = True
        if self._stack is not None:
            return self._look()
        func, arguments = self._func, self.arguments
        if func.instance is None:
            if func.host is None:
                self.host = func
                return _HOST_CALL
            return self._call_host(func, arguments)
        if func.instance.error is not None:
            return self._failed(func.instance.error)
        self.arguments = ()
        engine = self.engine
        stack = engine.pool.take(self._stack_slots, self._call_depth)
        self._stack = stack
        self._ticket = engine.enter()
        longs = self._longs = stack.longs
        engine.prepare(stack)
        known = engine.function(func)
        if known.slots > self._stack_slots:
            raise Trap(TrapCode.CALL_STACK_EXHAUSTED)
        activation, top = stack.activation, stack.top
        longs[_SLOTS] = self._stack_slots
        longs[_DEPTH_LIMIT] = top - 8 - 8 * self._call_depth
        sp = longs[_SP] = top - 64
        # As the switch would have pushed them: r15 r14 r13 r12 rbx rbp, then where to go on.
        _first_words(
            *(stack.view, sp - activation, engine.native(func.instance).address, 0, activation, 0, known.address),
            *(stack.values + _BIAS, engine.entry, 0),
        )
        if known.params is not None:
            known.params.pack_into(stack.view, Activation.NBYTES, *arguments)
        else:
            self.write(stack.values, known.functype.params, arguments)
        return None

    def _look(self) -> Outcome | None:
        """Deal with why the guest left that was taken over."""
        status = self._longs[Activation.STATUS // 8]
        if status == Status.RETURNED:
            return self._returned()
        if status != Status.YIELD:
            return self._dispatch(status)
        if self.consumed > self.limit:
            raise OutOfFuel
        return _PAUSED if self.consumed >= self._until else None

    def _returned(self) -> Outcome:
        known, stack = self.engine.function(self._func), self._stack
        if stack is None:
            raise RuntimeError("the execution is over")
        if known.results is not None:
            self.results = known.results.unpack_from(stack.view, Activation.NBYTES)
        else:
            self.results = tuple(self.read(stack.values, known.functype.results))
        return self._end(_RETURNED)

    def _run(self, until: int) -> Outcome:
        longs = self._longs
        stack = self._stack
        if stack is None:
            raise RuntimeError("the execution is over")
        activation = stack.activation
        step = self.engine.step
        while True:
            room = until - self.consumed if until <= self.limit else self.limit + 1 - self.consumed
            units = max(room, -_FARTHEST) if room < _SHORT_UNITS else _SHORT_UNITS
            status = step(activation, units - 1)
            self.consumed += units - 1 - longs[_FUEL]
            if status == Status.HOST:
                outcome = self._host()
                if outcome is not None:
                    return outcome
                continue
            if status == Status.YIELD and room > units:
                status = self._run_long(until, stack)
            if status == Status.YIELD:
                if self.consumed > self.limit:
                    raise OutOfFuel
                if self.consumed >= until:
                    return _PAUSED
                continue
            if status == Status.RETURNED:
                return self._returned()
            outcome = self._dispatch(status)
            if outcome is not None:
                return outcome

    def _run_long(self, until: int, stack: GuestStack) -> int:
        """Go on after a yield without holding the GIL."""
        longs = self._longs
        units = min(until, self.limit + 1, self.consumed + _FARTHEST) - self.consumed
        if units <= 0:
            return Status.YIELD
        longs[_FUEL] = units - 1
        status: int = self.engine.resume_releasing(stack.activation)
        self.consumed += units - 1 - longs[_FUEL]
        return status

    def _dispatch(self, status: int) -> Outcome | None:
        longs = self._longs
        if status == Status.HOST:
            return self._host()
        if status == Status.RULE:
            instance, sites = self._instance_at(longs[_INSTANCE])
            site = sites[longs[_ARGUMENT] & 0xFFFFFFFF]
            answer: Outcome | None = site.rule(Call(self, instance, site, longs[_FRAME]))
            return self._end(answer) if answer is _THROWN else answer
        if status == Status.LAZY:
            return self._lazy()
        if status == Status.EXHAUSTED:
            raise Trap(TrapCode.CALL_STACK_EXHAUSTED)
        code = Activation.TRAPS[status - Status.TRAP]
        if code is TrapCode.UNINITIALIZED_ELEMENT:
            index = longs[self._at(longs[_SP]) + Saved.R]
            raise Trap(code, str(index & _MASK))
        raise Trap(code)

    def _host(self) -> Outcome | None:
        """A call of the host: once per host function and execution what `_HostCall` says is looked up."""
        longs, stack = self._longs, self._stack
        if stack is None:
            raise RuntimeError("the execution is over")
        view, activation, engine = stack.view, stack.activation, self.engine
        sp, descriptor, frame, address = _left_words(view)
        known = self._hosts.get(descriptor) or self._host_call(descriptor)
        offset = frame - _BIAS - activation
        arguments: Sequence[Any]
        if known.decode is not None:
            arguments = known.decode(view, offset)
        else:
            arguments = self.read(activation + offset, known.functype.params)
        # Behind a tail call to the host its caller is who called the function that is gone.
        returns_to = longs[(sp - activation >> 3) + _RETURN]
        if returns_to in (engine.entered, engine.crossed):
            self.caller = self._innermost()
        else:
            site = self._instances.get(address) or self._instance_at(address)
            self.caller = site[0]
        if known.host is None:
            self.host = known.func
            self.arguments = tuple(arguments)
            self._begin_to_wait(stack)
            return _HOST_CALL
        pause = None
        try:
            result = known.host(self.caller, *arguments)
        except Thrown as thrown:
            self._landing_due = thrown.exception
            return _PAUSED
        except HostReturned as returned:
            result = returned.result
            pause = _PAUSED
        except BaseException as error:
            return self._failed(error)
        count = known.count
        if count == 0:
            return pause
        if known.encode is None:
            values = (result,) if count == 1 else result
            self.write(activation + offset, known.functype.results, values)
        elif count == 1:
            known.encode(view, offset, result)
        else:
            known.encode(view, offset, *result)
        return pause

    def _instance_at(self, address: int) -> tuple[ModuleInst, list[Site]]:
        """The instance whose block is at *address*, and the sites of its code."""
        known = self._instances.get(address)
        if known is None:
            native = self.engine.instances[address]
            instance = native.instance()
            if instance is None:
                raise RuntimeError("an instance is gone that has a frame")
            known = self._instances[address] = (instance, native.code.sites)
        return known

    def _call_host(self, func: FuncInst, arguments: Sequence[Any]) -> Outcome | None:
        """Call a host function that does not wait, without a guest around it."""
        host = func.host
        if host is None:
            raise RuntimeError("not a host function")
        pause = None
        try:
            result = host(None, *arguments)
        except Thrown as thrown:
            self._landing_due = thrown.exception
            return _PAUSED
        except HostReturned as returned:
            result = returned.result
            pause = _PAUSED
        except BaseException as error:
            return self._failed(error)
        count = len(_functype(func).results)
        self._answer(func, () if not count else (result,) if count == 1 else result)
        return pause

    def _lazy(self) -> Outcome | None:
        native = self.engine.instances[self._longs[_INSTANCE]]
        index = self._longs[_ARGUMENT] & 0xFFFFFFFF
        instance = native.instance()
        if instance is not None and instance.error is not None:
            return self._failed(instance.error)
        if native.code.is_compiled(index):
            self._longs[_ARGUMENT] = native.publish(index)
            return None
        return self._compile(native.code.compile_steps(index))

    def _compile(self, steps: Generator[None, None, None]) -> Outcome | None:
        """Go on with a compilation until the time is up that all those of one slice share."""
        end = self._compile_until
        if not end:
            end = self._compile_until = perf_counter_ns() + _COMPILE_NS
        self._compiling = steps
        try:
            for _ in steps:
                if perf_counter_ns() > end:
                    return _PAUSED
        except Exception as error:
            self._compiling = None
            return self._failed(error)
        self._compiling = None
        native = self.engine.instances[self._longs[_INSTANCE]]
        self._longs[_ARGUMENT] = native.publish(self._longs[_ARGUMENT] & 0xFFFFFFFF)
        return Outcome.PAUSED if perf_counter_ns() > end else None

    def work(self, steps: Generator[None, None, None], *, later: bool = False) -> Outcome | None:
        """Go on with a bulk operation, in steps, until its time is up; begin in the next slice if *later*."""
        end = perf_counter_ns() + _COMPILE_NS
        self._working = steps
        if later:
            return _PAUSED
        for _ in steps:
            if perf_counter_ns() > end:
                return _PAUSED
        self._working = None
        return None

    def ask(self, outcome: Outcome, arguments: tuple[Any, ...], call: Call) -> Outcome:
        """Leave for something that only the store can do."""
        self.growing = (arguments[0], arguments[1])
        self._asking = call
        self.arguments = arguments
        return outcome

    def wait(self, waiter: Waiter, timeout_ns: int, call: Call) -> Outcome:
        """Leave for memory.atomic.wait."""
        self._waiter = waiter
        self._asking = call
        self.arguments = (waiter, timeout_ns)
        return Outcome.WAIT

    def _wait_no_more(self) -> bool:
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            return False
        waiter.cancel()
        return True

    # How it ends

    def _end(self, outcome: Outcome) -> Outcome:
        self._over = True
        self._release()
        return outcome

    def _failed(self, error: BaseException) -> Outcome:
        self.error = error
        return self._end_with(Outcome.FAILED)

    def _trapped(self, trap: Trap) -> Outcome:
        self.trap = trap
        return self._end_with(Outcome.TRAPPED)

    def _end_with(self, outcome: Outcome) -> Outcome:
        """End once it is known where the frames are, which takes steps where functions are large."""
        self._ending = outcome
        return self.work(self._trace_steps()) or self._ended(outcome)

    def _trace_steps(self) -> Generator[None, None, None]:
        if self._stack is not None:
            for function in {id(place.function): place.function for place in self._walk()}.values():
                yield from function.trace_steps()

    def _ended(self, outcome: Outcome) -> Outcome:
        self._ending = None
        frames = self.frames()
        if self.trap is not None:
            self.trap.frames = frames
        else:
            self._described = frames
        return self._end(outcome)

    def _release(self) -> None:
        stack, self._stack = self._stack, None
        self._compiling = self._working = None
        if stack is not None:
            if self._refs_caught is not None:
                stack.longs[_CAUGHT] = 0
            self._longs = None
            self.engine.leave(self._ticket)
            if self._waiting:
                self.engine.pool.waiting.pop(stack, None)
            self.engine.give(stack)
        elif self._aside is not None:
            self._aside = None
            self.engine.leave(self._ticket)
        self._waiting = False
        self._handles = self._kept = self._caught = self._refs_caught = None
        self._hosts.clear()
        self._instances.clear()

    def __del__(self) -> None:
        if self._stack is not None or self._aside is not None:
            self._release()

    # Frames

    def frames(self) -> tuple[FrameInfo, ...]:
        """Return the guest frames, innermost first."""
        self._at_hand()
        if self._described or self._stack is None:
            return self._described
        places = self._walk()
        return tuple(place.function.describe(place.offset, place.instance) for place in places)

    def instances(self) -> set[ModuleInst]:
        """Return the instances that have a live frame."""
        self._at_hand()
        if self._stack is None:
            return set()
        return {place.instance for place in self._walk()}


class _HostCall:
    """What calling a host function takes."""

    __slots__ = ("count", "decode", "encode", "func", "functype", "host")

    def __init__(self, func: FuncInst, known: NativeFunction) -> None:
        self.func = func
        self.host = func.host
        self.functype = known.functype
        self.count = len(known.functype.results)
        self.decode = None if known.params is None else known.params.unpack_from
        self.encode = None if known.results is None else known.results.pack_into


def _functype(func: FuncInst) -> FuncType:
    comptype = func.deftype.comptype
    if not isinstance(comptype, FuncType):
        raise LinkError("a function without a function type")
    return comptype
