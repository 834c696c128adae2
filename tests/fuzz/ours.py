"""Programs on an engine of aiowasm, driven without a store."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextvars import ContextVar
from random import Random
from threading import get_ident
from typing import Any

from aiowasm.binary.decoder import decode
from aiowasm.engine.base import NO_LIMIT, Engine, HostReturned, Outcome, Unfinished
from aiowasm.engine.func import FuncInst
from aiowasm.engine.heap import Heap
from aiowasm.engine.instance import ModuleInst
from aiowasm.engine.instantiate import Bounds, instantiate
from aiowasm.engine.memory import MemInst
from aiowasm.features import ALL
from aiowasm.syntax.floats import bits_from_f64, f64_from_bits
from aiowasm.syntax.matching import close_rectype
from aiowasm.syntax.types import F64, I32, NumType, RecType, SubType
from aiowasm.validation.module import validate_module
from tests.fuzz.generator import Call, Program
from tests.fuzz.hosts import HOSTS
from tests.fuzz.links import HOST, LIBRARY
from tests.fuzz.seen import MAX_MEMORY_NBYTES, DifferenceError, HostCall, Run, Seen

__all__ = ("Direct", "Ours")


class Ours:
    """An engine of aiowasm, driven without a store.

    Args:
        name: For messages.
        engine: Makes an engine.
        slice_fuel: What every slice is given, None: anything; no choice of it may change anything.
        hosts: How host functions answer: inside ("call"), with a pause ("pause"), or as an outcome ("leave"), as growth
            does then.
        limit: The fuel limit of each call.
        call_depth: How many frames a call may have.
        stack_slots: How many slots their values may take.
    """

    exact_fuel = True

    def __init__(
        self,
        name: str,
        engine: Callable[[], Engine],
        slice_fuel: int | None = 1_000_000,
        limit: int = NO_LIMIT,
        call_depth: int = 1000,
        stack_slots: int = 65_536,
        hosts: str = "call",
    ) -> None:
        self.name = name
        self.engine = engine
        self.slice_fuel = slice_fuel
        self.limit = limit
        self.call_depth = call_depth
        self.stack_slots = stack_slots
        self.hosts = hosts
        self._execution: Any = None
        self._guard: Any = None
        self._run = Run()

    def run(self, program: Program) -> Run:
        """Run all calls of *program* in a new instance."""
        engine = self.engine()
        run = self._run = Run()
        spaces: dict[str, dict[str, Any]] = {HOST: {name: self._host(name) for name in HOSTS}}
        heap = Heap()
        if program.library is not None:
            spaces[LIBRARY] = _exports(self._instance(program.library, engine, spaces, heap))
        instance = self._instance(program.binary, engine, spaces, heap)
        exports = _exports(instance)
        if (start := instance.validated.module.start) is not None:
            run.calls.append(self._call(engine, instance.funcs[start], Call("start", (), (), ())))
        if all(seen.outcome == "returned" for seen in run.calls):
            run.calls += [self._call(engine, exports[call.name], call) for call in program.calls]
        for owner, space in spaces.items():
            run.look(f"{owner}.", space)
        run.look("", exports)
        return run

    def _instance(self, binary: bytes, engine: Engine, spaces: dict[str, dict[str, Any]], heap: Heap) -> ModuleInst:
        validated = validate_module(decode(binary, ALL), ALL)
        imports = [spaces[each.module][each.name] for each in validated.module.imports]
        instance = instantiate(validated, imports, engine, bounds=Bounds(heap, memory_nbytes=MAX_MEMORY_NBYTES))
        if self.hosts == "leave":
            for entity in (*instance.mems, *instance.tables):
                entity.asks = True
        return instance

    def _host(self, name: str) -> FuncInst:
        host = HOSTS[name]

        def function(_caller: object, *arguments: Any) -> Any:
            results = self._answer(name, arguments)
            returned = None if not results else results[0] if len(results) == 1 else results
            if self.hosts == "pause":
                raise HostReturned(returned)
            return returned

        deftype = close_rectype(RecType((SubType(True, (), host.functype),)), 0, [])[0]
        return FuncInst(deftype, host=None if self.hosts == "leave" else function, name=name)

    def _answer(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        host, execution = HOSTS[name], self._execution
        bits = [bits_from_f64(value) if isinstance(value, float) else value for value in arguments]
        self._run.log.append(HostCall(name, bits, execution.consumed, execution.frames()))
        results = host.compute(*bits)
        return tuple(
            f64_from_bits(value) if t is F64 else value for value, t in zip(results, host.results, strict=True)
        )

    def _begin(self, engine: Engine, func: FuncInst, call: Call, bounds: dict[str, int], sizes: Random) -> Any:
        """Start a call: give its execution."""
        return engine.call(func, call.arguments, limit=self.limit, **bounds)

    def _call(self, engine: Engine, func: Any, call: Call) -> Seen:
        bounds = {"call_depth": self.call_depth, "stack_slots": self.stack_slots}
        sizes = Random(call.name)
        execution = self._begin(engine, func, call, bounds, sizes)
        if isinstance(execution, Seen):
            return execution
        self._execution = execution
        while True:
            outcome = execution.resume(self.slice_fuel or 1 << sizes.randrange(12))
            if outcome is Outcome.WAIT:
                execution.deliver((2,))  # nobody will notify
            elif outcome is Outcome.HOST_CALL and execution.host is not None:
                execution.deliver(self._answer(execution.host.name, execution.arguments))
            elif outcome is Outcome.GROW:
                entity, delta, init = execution.arguments
                previous = entity.grow(delta) if isinstance(entity, MemInst) else entity.grow(delta, init)
                execution.deliver((previous,))
            elif outcome is not Outcome.PAUSED:
                break
        fuel = execution.consumed
        if outcome is Outcome.RETURNED:
            return Seen("returned", tuple(execution.results), fuel)
        if outcome is Outcome.THROWN:
            return Seen("thrown", (), fuel)
        if outcome is Outcome.TRAPPED and execution.trap is not None:
            return Seen(execution.trap.code.value, (), fuel, execution.trap.frames)
        raise DifferenceError(f"{self.name}: {call.name} ended with {outcome}: {execution.error!r}")


class Direct(Ours):
    """The native engine's direct calls: built-ins that go on as an execution at some point, or need none."""

    def _begin(self, engine: Engine, func: FuncInst, call: Call, bounds: dict[str, int], sizes: Random) -> Any:
        """Start a call: give its execution, or what came of it if it is over already."""
        if self._guard is None:
            self._kept = array("Q", (get_ident(),)), ContextVar("nobody", default=None), [], []
            self._guard = engine.guard(*self._kept[:2])  # type: ignore[attr-defined]
            self._guard.open(*self._kept[2:])
        units = 1 << sizes.randrange(12)
        direct = engine.direct(func, self._guard, units=units, **bounds)  # type: ignore[attr-defined]
        answer: Any = Unfinished(None)
        if direct is not None:
            answer = direct(*map(_signed, call.arguments, call.params))
        if isinstance(answer, Unfinished):
            return answer.execution or super()._begin(engine, func, call, bounds, sizes)
        results = () if answer is None else (answer & (1 << (32 if call.results[0] is I32 else 64)) - 1,)
        return Seen("returned", results, self._guard.take())


def _signed(bits: int, valtype: NumType) -> int:
    """An integer as the host knows it."""
    width = 32 if valtype is I32 else 64
    return bits - (1 << width) if bits >> width - 1 else bits


def _exports(instance: ModuleInst) -> dict[str, Any]:
    """The entities that an instance exports, by name."""
    return {each.name: instance.entity(each) for each in instance.validated.module.exports}
