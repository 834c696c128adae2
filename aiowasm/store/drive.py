"""The drive loop: the only place that awaits a guest, and its synchronous sibling.

`run` takes an activation through its life: the lock of its group, the gate, slices, host calls, and the end, whichever
it is. What ends badly is settled in `settle`, synchronously: which instances close, with which code. Cancellation is
never translated: the caller gets its event loop's own exception.
"""

from __future__ import annotations

import warnings
from math import inf
from threading import get_ident
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
from anyio import CancelScope, WouldBlock
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from aiowasm.engine.base import NO_LIMIT, Execution, Outcome
from aiowasm.engine.func import FuncInst
from aiowasm.errors import (
    EXIT_CANCELLED,
    EXIT_DEADLINE,
    DeadlineError,
    ExitError,
    OutOfFuel,
    Trap,
    TrapCode,
    WasmException,
)
from aiowasm.store.activation import CURRENT, MAX_NESTED, MAX_NESTED_SYNC, Activation, State
from aiowasm.store.delays import DELAY_NS, delayed
from aiowasm.store.fuel import charge, remaining
from aiowasm.store.growth import grow, may_grow
from aiowasm.store.hostcalls import HostBinding
from aiowasm.store.interrupts import interruptible
from aiowasm.store.linkage import group_of, link_now
from aiowasm.store.traces import annotate, without_driver

__all__ = (
    "account",
    "admit",
    "begin",
    "drive",
    "enter_gate",
    "go_on",
    "leave",
    "run",
    "run_now",
    "settle",
    "within_timeout",
)

if TYPE_CHECKING:
    from aiowasm.store.instance import Instance

# Looking members up takes Python 3.11 as long as a call (benchmarks/crossing.py).
_RUNNING, _YIELDED, _IN_HOST, _DONE = State.RUNNING, State.YIELDED, State.IN_HOST, State.DONE
_RETURNED, _PAUSED, _HOST_CALL, _WAIT = Outcome.RETURNED, Outcome.PAUSED, Outcome.HOST_CALL, Outcome.WAIT
_LOOK_NS = 1_000_000
_FATAL = (KeyboardInterrupt, SystemExit, GeneratorExit)


def fresh(error: BaseException) -> BaseException:
    """Return an error like *error*, without its history: the same closed instance ends many calls."""
    if type(error) is ExitError:
        return ExitError(error.exit_code, error.cause)
    return error


# Beginning and end


async def admit(activation: Activation) -> None:
    """Wait until *activation* may run: the lock of its group, then a turn at the gate if the loop's budget is used up.

    Cancellation: nothing has happened to any instance.

    Raises:
        ExitError: The instance is closed.
        LimitError: Too many callers wait.
        ReentrancyError: The call would wait for itself.
        Trap: "call stack exhausted": too many calls are nested.
    """
    store, instance = activation.store, activation.instance
    gate = activation.gate = store.bind()
    if activation.depth > MAX_NESTED:
        raise Trap(TrapCode.CALL_STACK_EXHAUSTED, "(calls nested through host functions)")
    if store.strict_checkpoints:
        await checkpoint()
    instance.check()
    if not instance.group.try_enter(activation):
        gate.check()
        while not await instance.group.enter(activation, instance.limits.waiters):
            await checkpoint_if_cancelled()  # who is cancelled too is told that
            instance.check()
    try:
        await enter_gate(activation)
        if instance.exit is not None:
            await checkpoint_if_cancelled()
            instance.check()
    except BaseException:
        gate.release(activation)
        instance.group.leave(activation)
        raise


async def enter_gate(activation: Activation) -> None:
    """Wait for a turn where the loop's budget is used up."""
    gate = activation.gate
    if perf_counter_ns() >= gate.deadline:
        gate.check()
        await gate.enter(activation, activation.store.tick_budget_ns)


def leave(activation: Activation) -> None:
    """Give back all that *activation* holds; no guest code runs."""
    if not activation.abandoned:
        _give_back(activation)


def _give_back(activation: Activation) -> None:
    execution = activation.execution
    if execution is not None:
        if execution.consumed != activation.accounted:
            account(activation)
        if activation.state is not _DONE or activation.exit is not None:
            execution.discard()
    activation.state = _DONE
    gate = activation.gate
    if gate.holder is activation:
        gate.release(activation)
    if activation.parked is not None:
        activation.parked.unpark(activation)
        activation.parked.free()
        activation.over()
    else:
        activation.instance.group.leave(activation)


async def run(activation: Activation, func: FuncInst, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Call *func* with *values* in engine form and return its results in engine form."""
    await admit(activation)
    previous = CURRENT.get()
    CURRENT.set(activation)
    try:
        begin(activation, func, values)
        return await drive(activation)
    finally:
        # A coroutine that is dropped may be closed in another context, whose variable is not ours.
        if CURRENT.get() is activation:
            CURRENT.set(previous)
        leave(activation)


async def go_on(activation: Activation, outcome: Outcome) -> tuple[Any, ...]:
    """Like `run` for a call that has begun and come to *outcome* in its first slice."""
    try:
        activation.state = _YIELDED
        _look_at_slice(activation)
        account(activation)
        return await drive(activation, outcome)
    finally:
        if CURRENT.get() is activation:
            CURRENT.set(None)
        leave(activation)


async def within_timeout(seconds: float, activation: Activation, func: FuncInst, values: tuple[Any, ...]) -> Any:
    """Like `run`, but for at most *seconds*, queueing and host functions included.

    Raises:
        DeadlineError: They are over. The instances involved are closed unless no guest code ran.
    """
    if seconds <= 0:
        raise DeadlineError
    with CancelScope(deadline=anyio.current_time() + seconds):
        return await run(activation, func, values)
    raise DeadlineError


def begin(activation: Activation, func: FuncInst, values: tuple[Any, ...]) -> None:
    """Make the execution of a call; nothing runs yet."""
    instance = activation.instance
    limits = instance.limits
    if activation.store.restore_stack_pointer:
        activation.stack_pointers = [
            (member.stack_pointer, member.stack_pointer.value)
            for member in instance.group.members
            if member.stack_pointer is not None
        ]
    activation.execution = activation.instance.backend.call(
        func,
        values,
        limit=NO_LIMIT,
        call_depth=limits.call_depth,
        stack_slots=limits.stack_slots,
    )


# Slices


def account(activation: Activation) -> None:
    """Charge the tanks for what the execution has used since the last time."""
    consumed = activation.execution.consumed  # type: ignore[union-attr]
    charge(activation.tanks, consumed - activation.accounted)
    activation.accounted = consumed


def set_limit(activation: Activation) -> None:
    """Let the execution use what is left in the tanks; all of its fuel is accounted for."""
    left = remaining(activation.tanks)
    activation.execution.limit = NO_LIMIT if left == NO_LIMIT else activation.accounted + left  # type: ignore[union-attr]


def step(activation: Activation) -> Outcome:
    """Let the guest run for a slice."""
    execution: Any = activation.execution
    store, instance, tanks = activation.store, activation.instance, activation.tanks
    slice_fuel = store.fixed_slice or instance.slice_fuel
    if tanks is not instance.tanks or not instance.plain:  # else no tank has a limit
        left = remaining(tanks)
        if left != NO_LIMIT:
            if store.on_out_of_fuel is None:
                execution.limit = activation.accounted + left
            else:  # pause where it would trap: the callback may refuel
                execution.limit = NO_LIMIT
                slice_fuel = min(slice_fuel, left)
    activation.state = _RUNNING
    activation.slice_start = start = perf_counter_ns()
    activation.slice_end = activation.gate.deadline
    outcome: Outcome = execution.resume(slice_fuel)
    activation.state = _YIELDED
    if perf_counter_ns() - start > DELAY_NS:
        _look_at_slice(activation)
    # As `account`, for which a call would be a tenth of all this (benchmarks/crossing.py).
    consumed = execution.consumed
    used = consumed - activation.accounted
    for tank in tanks:
        tank.used += used
    activation.accounted = consumed
    return outcome


def _look_at_slice(activation: Activation) -> None:
    took_ns = perf_counter_ns() - activation.slice_start
    if took_ns > DELAY_NS:
        delayed(f"a slice of {activation.instance!r}", took_ns)


async def pause(activation: Activation, used: int) -> None:
    """After a slice of *used* units: adapt its size, and let other tasks run where the loop's budget is used up."""
    store = activation.store
    now = perf_counter_ns()
    instance = activation.instance
    full = used * 2 >= instance.slice_fuel
    if full and store.fixed_slice is None:
        instance.adapt(now - activation.slice_start, store.tick_budget_ns)
    if activation.exit is not None:
        raise fresh(activation.exit)
    if store.on_out_of_fuel is not None and remaining(activation.tanks) == 0:
        await _refuel(activation)
    asked = activation.stopping
    activation.stopping = False
    if full or asked or store.fixed_slice is not None or now >= activation.gate.deadline:
        await _yield(activation)


async def _yield(activation: Activation) -> None:
    instance = activation.instance
    activation.weight = instance.weight
    if instance.listeners is not None:
        instance.listeners.yielded(activation)
    _look_at_deadline(activation)
    await activation.gate.enter(activation, activation.store.tick_budget_ns)
    if activation.exit is not None:
        await checkpoint_if_cancelled()
        raise fresh(activation.exit)


def _look_at_deadline(activation: Activation) -> None:
    """Remember when the task will be cancelled: once it is, there is no way to know whether a deadline did it."""
    deadline = anyio.current_effective_deadline()
    if deadline != -inf:  # what says that it is cancelled already
        activation.deadline = deadline


@interruptible
async def _refuel(activation: Activation) -> None:
    """Ask for more fuel, where the tanks are used up: exactly where the guest would trap."""
    dry = [tank for tank in activation.tanks if tank.limit is not None and tank.used > tank.limit]
    if not dry:
        return
    suspend(activation, State.LIMITER)
    added = await activation.store.on_out_of_fuel(activation.instance)  # type: ignore[misc]
    await resumed(activation)
    for tank in dry:
        tank.add(added or 0)
    if any(tank.limit is not None and tank.used > tank.limit for tank in dry):
        activation.state = _DONE
        raise OutOfFuel(frames=activation.execution.frames())  # type: ignore[union-attr]


def suspend(activation: Activation, state: State) -> None:
    """Prepare to await something of the host's: let nested calls in, let the baton go."""
    activation.state = state
    activation.in_host = True
    # The scopes around a call stay the same while it lasts, but for their deadlines: a look now and then will do.
    if activation.slice_start - activation.looked_at > _LOOK_NS:
        activation.looked_at = activation.slice_start
        _look_at_deadline(activation)
    if activation.gate.holder is activation:
        activation.gate.release(activation)
    group = activation.instance.group
    if activation.instance.interleave and state is _IN_HOST:
        activation.parked = group
        group.park(activation)
    elif group.queue:
        group.wake()


async def resumed(activation: Activation) -> None:
    """The host function is done: wait for calls nested in it, for the group, for the gate."""
    activation.in_host = False
    while activation.children:
        activation.ended = anyio.Event()
        await activation.ended.wait()
    if activation.parked is not None:
        await _unpark(activation)
    if activation.exit is not None:
        raise fresh(activation.exit)
    if perf_counter_ns() >= activation.gate.deadline:
        await _yield(activation)
    activation.state = _YIELDED


async def _unpark(activation: Activation) -> None:
    instance = activation.instance
    if not instance.group.try_enter(activation) and not await instance.group.enter(activation, NO_LIMIT):
        raise fresh(activation.exit or ExitError(EXIT_CANCELLED))
    instance.group.unpark(activation)
    activation.parked = None


# The loop


async def drive(activation: Activation, outcome: Outcome | None = None) -> tuple[Any, ...]:
    """Go on after *outcome* until the guest is done, and return its results in engine form."""
    execution: Any = activation.execution
    scope: CancelScope | None = None
    failure: BaseException | None = None
    try:
        if outcome is None:
            outcome = step(activation)
        while outcome is not _RETURNED:
            before = activation.accounted
            if scope is None and _calls_out(activation, outcome):
                scope = activation.scope = CancelScope()
                scope.__enter__()
            if outcome is _PAUSED:
                await pause(activation, before - activation.resumed_at)
            elif outcome is _HOST_CALL or outcome is _WAIT:
                await (host_call(activation) if outcome is _HOST_CALL else wait(activation))
            elif outcome is Outcome.GROW:
                await _grow(activation)
            else:
                _ended(activation, outcome)
            activation.resumed_at = activation.accounted
            outcome = step(activation)
        activation.state = _DONE
    except BaseException as error:
        settle(activation, error)
        failure = error
    if scope is not None and not activation.abandoned:
        failure = _leave_scope(activation, scope, failure)
    if failure is not None:
        raise failure
    return execution.results  # type: ignore[no-any-return]


def _calls_out(activation: Activation, outcome: Outcome) -> bool:
    """Whether code of the application is awaited now: closing cancels it through a scope around all such code."""
    if outcome is _HOST_CALL or outcome is _WAIT:
        return True
    store = activation.store
    if outcome is Outcome.GROW:
        return store.growth_limiter is not None
    return outcome is _PAUSED and store.on_out_of_fuel is not None


def _leave_scope(activation: Activation, scope: CancelScope, failure: BaseException | None) -> BaseException | None:
    activation.scope = None
    try:
        swallowed = scope.__exit__(
            type(failure) if failure else None, failure, None if failure is None else failure.__traceback__
        )
    except BaseException as error:
        # Without its loop (a coroutine that was dropped) a scope cannot be left properly.
        return failure or error
    return fresh(activation.exit) if swallowed and activation.exit is not None else failure


@interruptible
async def host_call(activation: Activation) -> None:
    """Await the `async def` function that the guest called, and answer it."""
    execution: Any = activation.execution
    func: FuncInst = execution.host
    binding = func.owner
    if not isinstance(binding, HostBinding):
        raise TypeError("a host function without a definition")
    work, activation.deferred = activation.deferred, None
    if work is None:  # else the call has begun, and been heard and charged, inside the engine
        if execution.caller is not None and execution.caller.owner.listeners is not None:
            execution.caller.owner.listeners.host_call(func)
        if binding.definition.fuel:
            execution.charge(binding.definition.fuel)
    suspend(activation, _IN_HOST)
    try:
        if work is None:
            arguments = binding.arguments(activation, execution.caller, execution.arguments)
            work = binding.definition.function(*arguments)  # type: ignore[assignment]
        results = binding.to_engine(await work)  # type: ignore[misc]
    except WasmException as error:
        exception = activation.store.exception_of(error, execution.caller)
        await resumed(activation)
        execution.throw(exception)
        return
    if binding.gives_references:
        link_now([activation.instance.group, *filter(None, map(group_of, results))], activation)
    activation.in_host = False
    if (
        activation.children
        or activation.parked is not None
        or activation.exit is not None
        or perf_counter_ns() >= activation.gate.deadline
    ):
        await resumed(activation)
    execution.deliver(results)


async def wait(activation: Activation) -> None:
    """memory.atomic.wait: wait for a notification or the timeout."""
    execution: Any = activation.execution
    waiter, timeout_ns = execution.arguments
    event = anyio.Event()
    waiter.on_wake = event.set
    if waiter.woken:
        event.set()
    suspend(activation, _IN_HOST)
    with anyio.move_on_after(None if timeout_ns < 0 else timeout_ns / 1e9):
        await event.wait()
    waiter.cancel()
    await resumed(activation)
    execution.deliver((0 if waiter.woken else 2,))


@interruptible
async def _grow(activation: Activation) -> None:
    execution: Any = activation.execution
    entity, delta, init = execution.arguments
    limiter = activation.store.growth_limiter
    granted = True
    if limiter is not None and activation.in_limiter():
        granted = False  # the limiter must not be asked for what it needs itself
    elif limiter is not None and may_grow(entity, delta):
        suspend(activation, State.LIMITER)
        granted = bool(await limiter(activation.instance, entity, delta))
        await resumed(activation)
    execution.deliver((grow(entity, delta, init) if granted else -1,))
    if perf_counter_ns() >= activation.gate.deadline:
        await _yield(activation)


def _ended(activation: Activation, outcome: Outcome) -> NoReturn:
    """Raise what ended the execution."""
    execution: Any = activation.execution
    activation.state = _DONE
    if outcome is Outcome.TRAPPED:
        trap = execution.trap
        trap.__traceback__ = trap.__context__ = None
        if activation.store.close_on_trap:
            activation.instance.shut(EXIT_CANCELLED, f"trap: {trap.code.value}")
        raise trap from None
    if outcome is Outcome.THROWN:
        raise activation.store.wasm_exception(execution.exception) from None
    if outcome is not Outcome.FAILED:
        raise RuntimeError(f"unexpected outcome {outcome}")
    if activation.exit is not None and isinstance(execution.error, Exception):
        raise fresh(activation.exit) from None
    error: BaseException = fresh(execution.error)
    if not isinstance(error, Exception):
        for instance in _torn(activation):
            instance.shut(EXIT_CANCELLED, f"{type(error).__name__} in a running guest")
    if not isinstance(error, ExitError) and not (isinstance(error, Trap) and error.frames):
        annotate(error, execution.frames())
        activation.store.restore_stack_pointers(activation)
    error.__traceback__ = without_driver(error.__traceback__)
    if isinstance(error, StopIteration):
        raise RuntimeError("host function raised StopIteration") from error
    raise error


def settle(activation: Activation, error: BaseException) -> None:
    """Close what *error* leaves torn. Synchronous: nothing can come between, whatever cancels the task."""
    store, state = activation.store, activation.state
    if isinstance(error, GeneratorExit) and activation.gate.thread != get_ident() and state is not _DONE:
        # A dropped coroutine may be finalised in any thread; queues and events belong to the loop's.
        activation.abandoned = True
        store.soon(lambda: _abandon(activation))
        return
    if state is _DONE:
        return
    in_host = state is _IN_HOST or state is State.LIMITER
    activation.in_host = False
    if activation.exit is not None:
        code, cause = activation.exit.exit_code, activation.exit.cause
    elif in_host and isinstance(error, Exception):
        annotate(error, activation.execution.frames())  # type: ignore[union-attr]
        store.restore_stack_pointers(activation)
        return
    elif state is _RUNNING:
        for instance in _torn(activation):
            instance.shut(EXIT_CANCELLED, f"{type(error).__name__} in a running guest")
        return
    else:
        if store.on_cancel == "unwind":
            return
        code, cause = _cancelled(activation, error)
    for instance in activation.live_instances():
        instance.shut(code, cause)
    if isinstance(error, GeneratorExit):
        warnings.warn(f"a call of {activation.instance!r} was abandoned", ResourceWarning, stacklevel=2)


def _torn(activation: Activation) -> list[Instance]:
    """Return the instances whose code an error has hit in the middle.

    An engine may not know any more which instances had frames: then it can be any that the group links.
    """
    return activation.live_instances() or list(activation.instance.group.members)


def _abandon(activation: Activation) -> None:
    """On the loop's thread: close and give back what a call held that was dropped in another thread."""
    for instance in activation.live_instances():
        instance.shut(EXIT_CANCELLED, "abandoned")
    _give_back(activation)


def _cancelled(activation: Activation, error: BaseException) -> tuple[int, str]:
    if isinstance(error, GeneratorExit):
        return EXIT_CANCELLED, "abandoned"
    if isinstance(error, _FATAL):
        return EXIT_CANCELLED, type(error).__name__
    if anyio.current_time() >= activation.deadline:
        return EXIT_DEADLINE, "deadline exceeded"
    return EXIT_CANCELLED, "cancelled"


# Without waiting


def run_now(
    activation: Activation, func: FuncInst, values: tuple[Any, ...], sync_fuel: int, execution: Execution | None = None
) -> tuple[Any, ...]:
    """Call *func* without yielding to the loop, for at most *sync_fuel* units; *execution* goes on if it has begun.

    Raises:
        WouldBlock: The group is busy, the guest has to wait, or the fuel is used up. Its frames are discarded; the
            instances stay open.
    """
    instance = activation.instance
    activation.gate = activation.store.bind_now()
    instance.check()
    if activation.depth > MAX_NESTED or activation.sync_depth > MAX_NESTED_SYNC:
        raise Trap(TrapCode.CALL_STACK_EXHAUSTED, "(calls nested through host functions)")
    if not instance.group.try_enter(activation):
        raise WouldBlock("the group of the instance is busy")
    parent = activation.parent
    if parent is not None and parent.in_host and parent.state is _RUNNING:
        account(parent)
    previous = CURRENT.get()
    CURRENT.set(activation)
    try:
        if execution is None:
            begin(activation, func, values)
        else:
            activation.execution = execution
        return _drive_now(activation, sync_fuel)
    except BaseException as error:
        settle(activation, error)
        raise
    finally:
        CURRENT.set(previous)
        leave(activation)
        if parent is not None and parent.in_host and parent.state is _RUNNING:
            set_limit(parent)


@interruptible
def _drive_now(activation: Activation, sync_fuel: int) -> tuple[Any, ...]:
    execution: Any = activation.execution
    activation.slice_end = NO_LIMIT
    while True:
        set_limit(activation)
        activation.state = _RUNNING
        outcome = execution.resume(sync_fuel - execution.consumed)
        account(activation)
        activation.state = _YIELDED
        if outcome is _RETURNED:
            activation.state = _DONE
            return execution.results  # type: ignore[no-any-return]
        if outcome is Outcome.GROW and activation.store.growth_limiter is None:
            execution.deliver((grow(*execution.arguments),))
        elif outcome is _PAUSED and activation.exit is not None:
            raise fresh(activation.exit)
        elif outcome is _PAUSED and execution.consumed < sync_fuel:
            activation.stopping = False
        elif outcome in (Outcome.TRAPPED, Outcome.THROWN, Outcome.FAILED):
            _ended(activation, outcome)
        else:
            activation.state = _DONE
            execution.discard()
            raise WouldBlock(_why(outcome))


def _why(outcome: Outcome) -> str:
    if outcome is _PAUSED:
        return "the call needs more fuel than Limits.sync_fuel"
    if outcome is _HOST_CALL:
        return "the guest calls an async host function"
    return "the guest has to wait"
