"""Programs on wasmtime from PyPI, and what its traps mean in the standard's words."""

from __future__ import annotations

from typing import Any

from aiowasm.errors import FrameInfo, TrapCode
from aiowasm.syntax.floats import bits_from_f64, f64_from_bits
from aiowasm.syntax.types import F64, I32, I64
from tests.fuzz.generator import Call, Program
from tests.fuzz.hosts import HOSTS
from tests.fuzz.links import HOST, LIBRARY
from tests.fuzz.seen import MAX_MEMORY_NBYTES, HostCall, Run, Seen

__all__ = ("Wasmtime",)

_WASMTIME_TRAPS = {
    "wasm `unreachable` instruction executed": TrapCode.UNREACHABLE,
    "integer divide by zero": TrapCode.INTEGER_DIVIDE_BY_ZERO,
    "integer overflow": TrapCode.INTEGER_OVERFLOW,
    "invalid conversion to integer": TrapCode.INVALID_CONVERSION,
    "out of bounds memory access": TrapCode.MEMORY_OUT_OF_BOUNDS,
    "undefined element: out of bounds table access": TrapCode.TABLE_OUT_OF_BOUNDS,
    "uninitialized element": TrapCode.UNINITIALIZED_ELEMENT,
    "indirect call type mismatch": TrapCode.INDIRECT_CALL_TYPE_MISMATCH,
    "null reference": TrapCode.NULL_REFERENCE,
    "out of bounds array access": TrapCode.ARRAY_OUT_OF_BOUNDS,
    "cast failure": TrapCode.CAST_FAILURE,
    "unaligned atomic": TrapCode.UNALIGNED_ATOMIC,
    "atomic wait on non-shared memory": TrapCode.EXPECTED_SHARED_MEMORY,
    "call stack exhausted": TrapCode.CALL_STACK_EXHAUSTED,
}
# Wasmtime has one code where the standard's suite has several phrases.


class Wasmtime:
    """Wasmtime from PyPI, with canonical NaNs and the deterministic relaxed instructions, counting fuel."""

    name = "wasmtime"
    exact_fuel = False

    def __init__(self) -> None:
        import wasmtime  # noqa: PLC0415 - a rival that need not be installed

        self._wasmtime = wasmtime
        config = wasmtime.Config()
        for name in (
            "consume_fuel",
            "cranelift_nan_canonicalization",
            "wasm_relaxed_simd",
            "wasm_relaxed_simd_deterministic",
            "wasm_multi_memory",
            "wasm_memory64",
            "wasm_threads",
            "wasm_tail_call",
            "wasm_function_references",
            "wasm_gc",
            "wasm_exceptions",
            "wasm_wide_arithmetic",
            "wasm_custom_page_sizes",
        ):
            _set(config, name)
        config.cranelift_opt_level = "none"
        self.engine = wasmtime.Engine(config)

    def run(self, program: Program) -> Run:
        """Run all calls of *program* in a new instance."""
        store = self._wasmtime.Store(self.engine)
        store.set_limits(memory_size=MAX_MEMORY_NBYTES)
        store.set_fuel(1 << 40)
        run = self._run = Run()
        # Not even the types of entities may be asked for: the package ends the process if there is a v128 in them.
        linker = self._wasmtime.Linker(self.engine)
        instances = {}
        if program.library is not None:
            for name in HOSTS:
                linker.define(store, HOST, name, self._host(store, name))
            instances[f"{LIBRARY}."] = linker.instantiate(store, self._wasmtime.Module(self.engine, program.library))
            linker.define_instance(store, LIBRARY, instances[f"{LIBRARY}."])
        module = self._wasmtime.Module(self.engine, program.binary)
        try:
            instance = instances[""] = linker.instantiate(store, module)
        except (self._wasmtime.Trap, self._wasmtime.WasmtimeError) as error:
            # What the start function left is not seen: there is no instance to look at.
            run.calls.append(self._failed(store, error))
            return run
        exports = instance.exports(store)
        run.calls += [Seen("returned")] * program.starts
        run.calls += [self._call(store, exports[call.name], call) for call in program.calls]
        for prefix, each in instances.items():
            self._look(store, prefix, each.exports(store))
        return run

    def _host(self, store: Any, name: str) -> Any:
        host, kinds = HOSTS[name], self._wasmtime.ValType
        of = {I32: kinds.i32(), I64: kinds.i64(), F64: kinds.f64()}

        def function(*arguments: Any) -> Any:
            bits = [
                bits_from_f64(value) if isinstance(value, float) else value & ((1 << (32 if t is I32 else 64)) - 1)
                for value, t in zip(arguments, host.params, strict=True)
            ]
            self._run.log.append(HostCall(name, bits))
            results = [
                f64_from_bits(value) if t is F64 else _signed(value, t.name)
                for value, t in zip(host.compute(*bits), host.results, strict=True)
            ]
            return None if not results else results[0] if len(results) == 1 else results

        functype = self._wasmtime.FuncType([of[t] for t in host.params], [of[t] for t in host.results])
        return self._wasmtime.Func(store, functype, function)

    def _look(self, store: Any, prefix: str, exports: Any) -> None:
        run = self._run
        for name, entity in exports.items():
            if isinstance(entity, self._wasmtime.Memory):
                run.memories[prefix + name] = bytes(entity.read(store))
            elif isinstance(entity, self._wasmtime.Global) and name[0] == "g":
                kind = str(entity.type(store).content)
                run.globals[prefix + name] = entity.value(store) & ((1 << int(kind[1:])) - 1)

    def _failed(self, store: Any, error: Exception) -> Seen:
        phrase = _phrase(error)
        frames = getattr(error, "frames", ()) if phrase != "thrown" else ()
        places = tuple(FrameInfo(None, "", frame.func_index, frame.module_offset) for frame in frames)
        return Seen(phrase, (), (1 << 40) - store.get_fuel(), places)

    def _call(self, store: Any, func: Any, call: Call) -> Seen:
        arguments = [_signed(bits, t.name) for bits, t in zip(call.arguments, call.params, strict=True)]
        store.set_fuel(1 << 40)
        try:
            results = func(store, *arguments)
        except (self._wasmtime.Trap, self._wasmtime.WasmtimeError) as error:
            return self._failed(store, error)
        fuel = (1 << 40) - store.get_fuel()
        listed = [] if results is None else results if isinstance(results, list) else [results]
        masks = [(1 << (32 if t.name == "I32" else 64)) - 1 for t in call.results]
        return Seen("returned", tuple(value & mask for value, mask in zip(listed, masks, strict=True)), fuel)


def _set(config: Any, name: str) -> None:
    """Switch an option on, also one that the package has no property for."""
    if isinstance(getattr(type(config), name, None), property):
        setattr(config, name, True)
        return
    from wasmtime import _bindings  # noqa: PLC0415

    getattr(_bindings, f"wasmtime_config_{name}_set")(config.ptr(), True)


def _signed(bits: int, kind: str) -> int:
    width = 32 if kind == "I32" else 64
    return bits - (1 << width) if bits >> (width - 1) else bits


def _phrase(error: Exception) -> str:
    text = str(error)
    for words, code in _WASMTIME_TRAPS.items():
        if words in text:
            return code.value
    if "thrown" in text or "exception" in text:
        return "thrown"
    return text
