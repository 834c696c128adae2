"""The execution of the interpreter: explicit frames, and the loop that runs the youngest and takes what comes back.

While guest code runs, its frames are on the Python stack, in generated code and in the direct interpreter's list; when
it stops they are read from the traceback (`capture`) and become explicit frames here: plain data. At most
`_STACK_SLOTS` of them are on the Python stack at once, so stopping costs at most 0.1 ms however deep the guest is.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

from aiowasm.engine.base import HostReturned, Outcome, Thrown
from aiowasm.engine.instance import function_name
from aiowasm.engine.interpreter.capture import capture, running_frames, trap_of
from aiowasm.engine.interpreter.code import INLINE_NBYTES, INLINE_OPERATORS, FunctionCode
from aiowasm.engine.interpreter.frames import AnyFrame, CodeFrame, Entry, Frame
from aiowasm.engine.interpreter.signals import Ask, Bulk, Deep, Failed, Leave, Load, Promote, Suspend, Tail, WaitFor
from aiowasm.errors import FrameInfo, InvalidError, OutOfFuel, Trap, TrapCode
from aiowasm.syntax.types import FuncType

if TYPE_CHECKING:
    from aiowasm.engine.func import FuncInst
    from aiowasm.engine.heap import ExnInst
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.engine.interpreter.engine import Interpreter
    from aiowasm.engine.memory import Waiter

__all__ = ("Machine",)

# Looking members up takes Python 3.11 as long as a call (benchmarks/calls.py).
_RETURNED, _PAUSED, _HOST_CALL = Outcome.RETURNED, Outcome.PAUSED, Outcome.HOST_CALL
_STACK_SLOTS: Final = 300
_SMALLEST_FRAME: Final = 4


class Machine:
    """An `Execution` of `engine.base`."""

    # Most executions begin and end in one slice: what only others need is not assigned (benchmarks/calls.py).
    results: tuple[Any, ...] = ()
    trap: Trap | None = None
    exception: ExnInst | None = None
    error: BaseException | None = None
    host: FuncInst | None = None
    arguments: tuple[Any, ...] = ()
    caller: ModuleInst | None = None
    _described: tuple[FrameInfo, ...] = ()
    _count = 0
    """Results of the function whose return is awaited."""
    _thrown: ExnInst | None = None
    _waiter: Waiter | None = None
    _asked: Ask | None = None
    _work: Generator[None, None, None] | None = None
    """Something long that comes before the youngest frame goes on."""
    _base = 0
    """Fuel used before the slice that runs, or all of it when none does."""
    _granted = 0
    _owed = 0
    """What the check point that execution stopped at will charge again."""
    _hot: AnyFrame | None = None
    """A frame at a loop header, waiting for its code."""
    _used = 0
    """Stack slots of the explicit frames."""
    _running = False
    _parked = 0
    """Fuel left of the slice while another execution runs inside a host function of this one."""

    def __init__(
        self,
        engine: Interpreter,
        func: FuncInst,
        arguments: tuple[Any, ...],
        *,
        limit: int,
        call_depth: int,
        stack_slots: int,
    ) -> None:
        self.engine = engine
        self.limit = limit
        self._frames: list[AnyFrame] = [Entry(func, arguments)]
        self._call_depth = call_depth
        self._stack_slots = stack_slots

    # Fuel

    @property
    def consumed(self) -> int:
        """Fuel used so far."""
        if not self._running:
            return self._base
        left: int = self.engine.fuel.cell_contents if self.engine.machine is self else self._parked
        return self._base + self._granted - left

    def charge(self, units: int) -> None:
        """Add *units* to what was used."""
        if not self._running:
            self._base += units
        elif self.engine.machine is self:
            self.engine.fuel.cell_contents -= units
        else:
            self._parked -= units

    def shorten(self, units: int) -> None:
        """Count *units* less of the slice as granted: the engine has taken them off already."""
        self._granted -= units

    # Answers

    def deliver(self, results: tuple[Any, ...]) -> None:
        """Answer HOST_CALL, GROW or WAIT with *results* in engine form."""
        self.host = None
        self._drop_waiter()
        if self._asked is not None:
            asked, self._asked = self._asked, None
            if results[0] >= 0:
                self.charge(asked.units)
            results = (results[0] & ((1 << asked.entity.addrtype.value) - 1),)
        if self._frames:
            count = len(results)
            self._frames[-1].receive(results[0] if count == 1 else results, count)  # type: ignore[union-attr]
        else:
            self.results = results

    def throw(self, exception: ExnInst) -> None:
        """Answer HOST_CALL by throwing *exception* into the guest at that call."""
        self.host = None
        self._thrown = exception

    def _drop_waiter(self) -> None:
        if self._waiter is not None:
            self._waiter.cancel()
            self._waiter = None

    # Looking at it

    def frames(self) -> tuple[FrameInfo, ...]:
        """Return the guest frames, innermost first."""
        if self._described:
            return self._described
        frames = [*self._frames, *(running_frames(self) if self._running else ())]
        return tuple(_describe(frame) for frame in reversed(frames) if frame.instance is not None)

    def instances(self) -> set[ModuleInst]:
        """Return the instances that have a live frame."""
        frames = [*self._frames, *(running_frames(self) if self._running else ())]
        return {frame.instance for frame in frames if frame.instance is not None}

    def discard(self) -> None:
        """Drop all frames."""
        self._drop_waiter()
        self._frames.clear()
        self._work = self._asked = None
        self.host = None

    # Running

    def resume(self, slice_fuel: int) -> Outcome:
        """Run until something happens, for about *slice_fuel* units at most."""
        if self.host is not None or self._waiter is not None or self._asked is not None:
            raise RuntimeError("a host call, a wait or a growth is unanswered")
        engine = self.engine
        fuel, outer = engine.fuel, engine.machine
        if outer is not None:
            outer._parked = fuel.cell_contents
        owed = self._owed
        base = self._base - owed
        left = self.limit - base - owed
        self._granted = fuel.cell_contents = (slice_fuel if slice_fuel < left else left if left > 0 else 0) + owed
        self._base = base
        self._owed = 0
        self._running = True
        engine.machine = self
        try:
            outcome = None
            while outcome is None:
                outcome = self._step()
        except BaseException:
            self._frames.clear()
            raise
        finally:
            self._base += self._granted - fuel.cell_contents
            self._running = False
            engine.machine = outer
            fuel.cell_contents = outer._parked if outer is not None else 0
        return outcome

    def _step(self) -> Outcome | None:
        """Run the youngest frame, or go on with what is before it. None: there is more to do."""
        frames = self._frames
        before = len(frames)
        try:
            frame = frames[-1] if frames else None
            if frame.__class__ is Entry and (code := frame.func.state).__class__ is FunctionCode and code.settled:
                result = self._call(frame, code)
            elif self._work is not None:
                return self._continue_work()
            elif self._thrown is not None:
                exception, self._thrown = self._thrown, None
                return self._unwind(exception)
            elif frame is None:
                return _RETURNED
            else:
                result = self._run()
                if result is _AGAIN:
                    return None
            if frames or result.__class__ is Tail:
                return self._returned(result)
            count = self._count
            self.results = (result,) if count == 1 else tuple(result) if count else ()
            return _RETURNED
        except Exception as signal:
            return self._signalled(signal, before)
        except Failed as failed:
            capture(frames, failed.__traceback__)
            return self._failed(failed.error)

    def _signalled(self, signal: Exception, before: int) -> Outcome | None:
        """Deal with what was raised, above the *before* frames that had been explicit.

        In a frame of its own: the traceback holds that of `_step`, which must not hold the traceback.
        """
        # The traceback is read and left behind: a kept error must keep no instance alive.
        traceback, signal.__traceback__ = signal.__traceback__, None
        frames = self._frames
        before = min(before, len(frames))
        owed = capture(frames, traceback)
        for frame in frames[before:]:
            if frame.__class__ is not Entry:
                self._used += frame.code.slots  # type: ignore[union-attr]
        handle = _SIGNALS.get(type(signal))
        if handle is None:
            trap = trap_of(signal, traceback)
            if trap is None:
                raise signal.with_traceback(traceback) from None
            return self._trapped(trap)
        self._owed = owed
        handled: Outcome | None = handle(self, signal)
        return handled

    def _continue_work(self) -> Outcome | None:
        """One step of what is long; the next comes in the next slice."""
        try:
            next(self._work)  # type: ignore[arg-type]
        except StopIteration:
            self._work = None
            return None
        except InvalidError as error:
            self._work = None
            raise Failed(error) from None
        return _PAUSED

    def _run(self) -> Any:
        """Run the youngest frame as far as it goes; `_AGAIN` if something else has to come first."""
        frames = self._frames
        frame = frames[-1]
        if isinstance(frame, Entry):
            return self._begin(frame)
        if frame is self._hot and isinstance(frame, Frame):
            self._hot = None
            frame = self._to_code(frame)
        frames.pop()
        code = frame.code
        self._used -= code.slots
        self._count = code.nresults
        d = self._budget(code.slots)
        if isinstance(frame, Frame):
            return self.engine.run([frame], d - code.slots)
        values, nparams = frame.values, code.nparams
        return self.engine.body(frame.func)(*values[:nparams], d, frame.pc, *values[nparams:])

    def _begin(self, entry: Entry) -> Any:
        """Begin a call, once its function is ready and fits."""
        func, instance, frames = entry.func, entry.instance, self._frames
        if instance is None or func.funcidx is None:
            frames.pop()
            self._count = _result_count(func)
            return self.engine.entry(func, None)(*entry.arguments, 0)
        if instance.error is not None:
            raise Failed(instance.error)
        self.engine.entry(func, None)
        code: FunctionCode = func.state
        if code.prepared is None:
            return self._later(code.prepare_steps(instance.validated), small=code.nbytes <= INLINE_NBYTES)
        if code.heat > code.hot and code.compiled is None and not code.refused:
            small = code.noperators <= INLINE_OPERATORS
            return self._later(code.compile_steps(instance.validated), small=small)
        return self._call(entry, code)

    def _call(self, entry: Any, code: FunctionCode) -> Any:
        """Begin a call whose function is ready: if it fits."""
        frames, slots, used = self._frames, code.slots, self._used
        left = self._call_depth - len(frames)
        frames.pop()
        if left < 0 or used + slots > self._stack_slots:
            raise Trap(TrapCode.CALL_STACK_EXHAUSTED)
        self._count = code.nresults
        if used + _STACK_SLOTS <= self._stack_slots and left * _SMALLEST_FRAME >= _STACK_SLOTS >= slots:
            budget = _STACK_SLOTS
        else:
            budget = self._budget(slots)
        return entry.func.cell.cell_contents(*entry.arguments, budget)

    def _later(self, work: Generator[None, None, None], *, small: bool) -> object:
        """Do *work* before anything else: now if it is small, else in steps with pauses between."""
        self._work = work
        while small and self._work is not None:
            self._continue_work()
        return _AGAIN

    def _budget(self, slots: int) -> int:
        """Stack slots that may be used on this Python stack, at least those of the frame that is run."""
        frames_left = self._call_depth - len(self._frames)
        if slots <= _STACK_SLOTS <= self._stack_slots - self._used and frames_left * _SMALLEST_FRAME >= _STACK_SLOTS:
            return _STACK_SLOTS  # almost always
        return max(slots, min(_STACK_SLOTS, self._stack_slots - self._used, _SMALLEST_FRAME * frames_left))

    def _to_code(self, frame: Frame) -> Frame | CodeFrame:
        """Let a frame that is at a loop header go on in generated code, if there is any."""
        code, func = frame.code, frame.func
        if self.engine.promote(func, code) is None or code.generated is None:
            return frame
        cost, index = frame.prepared.operands[frame.pc - 1]
        values = [*frame.locals, *frame.stack]
        values += [0] * (len(code.generated.names) - len(values))
        self.engine.fuel.cell_contents += cost  # which generated code charges again
        return CodeFrame(func, code, index + 1, values, 0)

    # What comes back

    def _returned(self, result: Any) -> Outcome | None:
        if result.__class__ is Tail:
            self._frames.append(Entry(result.func, result.arguments))
            return None
        return self._deliver_result(result, self._count)

    def _deliver_result(self, result: Any, count: int) -> Outcome | None:
        if self._frames:
            self._frames[-1].receive(result, count)  # type: ignore[union-attr]
            return None
        self.results = (result,) if count == 1 else tuple(result) if count else ()
        return _RETURNED

    def _unwind(self, exception: ExnInst) -> Outcome | None:
        """Go on at the innermost handler of *exception* in the explicit frames."""
        frames = self._frames
        while frames:
            frame = frames[-1]
            if isinstance(frame, Frame):
                if frame.catch(exception, self.engine.tire):
                    return None
            elif isinstance(frame, CodeFrame):
                landing = frame.code.landing(frame.index, exception, frame.instance.tags, self.engine.tire)
                if landing is not None:
                    return self._land(frame, *landing)
            self._used -= 0 if isinstance(frame, Entry) else frame.code.slots
            frames.pop()
        self.exception = exception
        return Outcome.THROWN

    def _land(self, frame: CodeFrame, number: int, values: list[Any]) -> Outcome | None:
        pc, first, count = frame.code.generated.clauses[number]  # type: ignore[union-attr]
        if pc < 0:  # the handler is the function's end
            self._frames.pop()
            self._used -= frame.code.slots
            return self._deliver_result(values[0] if count == 1 else values, count)
        frame.pc = pc
        frame.values[first : first + count] = values
        return None

    def _suspended(self, _signal: Suspend) -> Outcome:
        if self.consumed > self.limit:
            return self._trapped(OutOfFuel())
        return _PAUSED

    def _deep(self, _signal: Deep) -> Outcome | None:
        """The callee is the youngest frame."""
        self._owed = 0
        if len(self._frames) > self._call_depth or self._used > self._stack_slots:
            self._frames.pop()
            return self._trapped(Trap(TrapCode.CALL_STACK_EXHAUSTED))
        return None

    def _load(self, signal: Load) -> None:
        self._frames.append(Entry(signal.func, signal.arguments))

    def _promote(self, signal: Promote) -> None:
        self._hot = frame = self._frames[-1]
        self._work = signal.code.compile_steps(frame.instance.validated)  # type: ignore[union-attr]

    def _leave(self, signal: Leave) -> Outcome:
        self.host, self.arguments, self.caller = signal.func, signal.arguments, signal.caller
        return _HOST_CALL

    def _host_returned(self, signal: HostReturned) -> Outcome:
        self._deliver_result(signal.result, signal.count)
        return _PAUSED

    def _ask(self, signal: Ask) -> Outcome:
        self._asked = signal
        self.arguments = (signal.entity, signal.delta, signal.init)
        return Outcome.GROW

    def _wait(self, signal: WaitFor) -> Outcome:
        self._waiter = signal.waiter
        self.arguments = (signal.waiter, signal.timeout_ns)
        return Outcome.WAIT

    def _bulk(self, signal: Bulk) -> Outcome | None:
        self._work = signal.chunks
        return _PAUSED if self.engine.fuel.cell_contents < 0 else None

    def _trapped(self, trap: Trap) -> Outcome:
        trap.frames = self.frames_now()
        self.trap = trap
        self._frames.clear()
        return Outcome.TRAPPED

    def _failed(self, error: BaseException) -> Outcome:
        self.error = error
        self._described = self.frames_now()
        self._frames.clear()
        return Outcome.FAILED

    def frames_now(self) -> tuple[FrameInfo, ...]:
        """Describe the explicit frames, innermost first."""
        return tuple(_describe(frame) for frame in reversed(self._frames) if frame.instance is not None)


def _result_count(func: FuncInst) -> int:
    functype = func.deftype.comptype
    return len(functype.results) if isinstance(functype, FuncType) else 0


def _describe(frame: AnyFrame) -> FrameInfo:
    instance, funcidx = frame.instance, frame.func.funcidx or 0
    if instance is None:
        return FrameInfo(None, frame.func.name, funcidx, None)
    index = frame.index
    offset = None if index < 0 or isinstance(frame, Entry) else frame.code.offsets[index]
    return FrameInfo(instance.name, function_name(instance, funcidx), funcidx, offset)


_AGAIN: Final = object()
_SIGNALS: Final[dict[type[Exception], Any]] = {
    Suspend: Machine._suspended,
    Deep: Machine._deep,
    Load: Machine._load,
    Promote: Machine._promote,
    Leave: Machine._leave,
    HostReturned: Machine._host_returned,
    Ask: Machine._ask,
    WaitFor: Machine._wait,
    Bulk: Machine._bulk,
    Thrown: lambda machine, thrown: machine._unwind(thrown.exception),
}
