"""Binding generated code to an instance: what fills the cells that it closes over.

An instance shares code objects with all others of its module; its own are function objects and these cells. Entities
bring their cells along, so growth, assignment and tier changes need no invalidation: whoever closes over a cell sees
them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CellType, FunctionType
from typing import TYPE_CHECKING, Any, cast

import aiowasm.engine.interpreter.accesses  # noqa: F401 - fills NAMES
from aiowasm.engine.base import HostReturned, HostWaits, Thrown
from aiowasm.engine.func import FuncInst
from aiowasm.engine.heap import ExnInst, StructInst, ref_eq, ref_matches, struct_nbytes
from aiowasm.engine.interpreter.expressions import NAMES
from aiowasm.engine.interpreter.frames import Operands
from aiowasm.engine.interpreter.prepare import rule_of
from aiowasm.engine.interpreter.rules import pack
from aiowasm.engine.interpreter.shapes import signature
from aiowasm.engine.interpreter.signals import Deep, Failed, Leave, Suspend, Tail, WaitFor
from aiowasm.errors import Trap, TrapCode
from aiowasm.syntax.floats import f64_from_bits
from aiowasm.syntax.instructions import BY_CODE
from aiowasm.syntax.types import FuncType, PackedType, StructType

if TYPE_CHECKING:
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.engine.interpreter.code import FunctionCode
    from aiowasm.engine.interpreter.engine import Interpreter

__all__ = ("InstanceState", "bind", "host_entry")


class InstanceState:
    """What the interpreter keeps of an instance: cells that its functions share."""

    __slots__ = ("cells", "hosts")

    def __init__(self) -> None:
        self.cells: dict[tuple[str, Any], CellType] = {}
        self.hosts: dict[FuncInst, Callable[..., Any]] = {}
        """Entries of host functions, which this instance calls in its own name."""


# Names in the globals of generated code


def _unreachable() -> None:
    raise Trap(TrapCode.UNREACHABLE)


def _throw_ref(exception: ExnInst | None) -> None:
    if exception is None:
        raise Trap(TrapCode.NULL_EXCEPTION_REFERENCE)
    raise Thrown(exception)


def _nonnull_func(func: FuncInst | None) -> FuncInst:
    if func is None:
        raise Trap(TrapCode.NULL_FUNCTION_REFERENCE)
    return func


NAMES.update(
    Suspend=Suspend,
    Deep=Deep,
    Thrown=Thrown,
    Tail=Tail,
    V0=bytes(16),
    f64_from_bits=f64_from_bits,
    ref_eq=ref_eq,
    unreachable=_unreachable,
    throw_ref=_throw_ref,
    nonnull_func=_nonnull_func,
)


# Kinds of cells

Binder = Callable[["Interpreter", "ModuleInst", Any], Any]


def _matches(_engine: Interpreter, _instance: ModuleInst, reftype: Any) -> Any:
    return lambda reference: ref_matches(reference, reftype)


def _func(_engine: Interpreter, instance: ModuleInst, funcidx: Any) -> Any:
    return instance.funcs[funcidx]


def _lookup(_engine: Interpreter, instance: ModuleInst, immediate: Any) -> Any:
    """The check of call_indirect: index -> function."""
    typeidx, tableidx = immediate
    elements = instance.tables[tableidx].elements
    expected = instance.deftypes[typeidx]

    def lookup(index: int) -> FuncInst:
        if index >= len(elements):
            raise Trap(TrapCode.UNDEFINED_ELEMENT)
        func: FuncInst | None = elements[index]
        if func is None:
            raise Trap(TrapCode.UNINITIALIZED_ELEMENT, str(index))
        if func.deftype is not expected and not func.deftype.is_subtype_of(expected):
            raise Trap(TrapCode.INDIRECT_CALL_TYPE_MISMATCH)
        return func

    return lookup


def _indirect(engine: Interpreter, instance: ModuleInst, immediate: Any) -> Any:
    typeidx, tableidx = immediate
    elements = instance.tables[tableidx].elements
    expected = instance.deftypes[typeidx]
    lookup, entry = _lookup(engine, instance, immediate), engine.entry

    def indirect(index: int) -> Callable[..., Any]:
        if index < len(elements):
            func = elements[index]
            if func is not None and func.deftype is expected and func.instance is not None:
                try:
                    target: Callable[..., Any] = func.cell.cell_contents
                except ValueError:  # an empty cell: the first call
                    target = entry(func, instance)
                return target
        return entry(lookup(index), instance)

    return indirect


def _callee(engine: Interpreter, instance: ModuleInst, _immediate: Any) -> Any:
    return lambda func: engine.entry(_nonnull_func(func), instance)


def _throw(_engine: Interpreter, instance: ModuleInst, tagidx: Any) -> Any:
    tag = instance.tags[tagidx]

    def throw(*values: Any) -> None:
        raise Thrown(ExnInst(instance.heap, tag, values))

    return throw


def _rule(engine: Interpreter, instance: ModuleInst, immediate: Any) -> Any:
    """Any other instruction: its rule, on an operand stack of its own."""
    code, own = immediate
    row = BY_CODE[code]
    if row is None:
        raise RuntimeError(f"unknown operator {code:#x}")
    special = _SPECIAL.get(row.name)
    if special is not None:
        return special(engine, instance, own)
    rule, operand = rule_of(row, own)
    nresults = len(signature(instance.validated, code, own)[1])

    def apply(*operands: Any) -> Any:
        frame = Operands(instance, list(operands))
        waiting = rule(engine, frame, operand)
        if waiting is not None:
            raise WaitFor(*waiting)
        return frame.stack[0] if nresults == 1 else tuple(frame.stack)

    return apply


def _struct_new(_engine: Interpreter, instance: ModuleInst, typeidx: Any) -> Any:
    deftype, heap = instance.deftypes[typeidx], instance.heap
    nbytes = struct_nbytes(deftype)
    comptype = deftype.comptype
    fields = comptype.fields if isinstance(comptype, StructType) else ()
    if not any(isinstance(field.storage, PackedType) for field in fields):
        return lambda *values: StructInst(heap, deftype, list(values), nbytes)
    return lambda *values: StructInst(heap, deftype, list(map(pack, fields, values)), nbytes)


_SPECIAL: dict[str, Binder] = {"struct.new": _struct_new}
_BINDERS: dict[str, Binder] = {
    "matches": _matches,
    "func": _func,
    "lookup": _lookup,
    "indirect": _indirect,
    "callee": _callee,
    "throw": _throw,
    "rule": _rule,
}


def _cell(engine: Interpreter, instance: ModuleInst, state: InstanceState, key: tuple[str, Any]) -> CellType:
    kind, immediate = key
    if kind == "M":
        return cast("CellType", instance.mems[immediate].cell)
    if kind == "g":
        return cast("CellType", instance.globals[immediate].cell)
    if kind == "F":
        func = instance.funcs[immediate]
        if func.instance is not None:
            engine.entry(func, instance)  # fills the cell
            return func.cell
    cell = state.cells.get(key)
    if cell is None:
        made: Any
        if kind == "F":
            made = engine.entry(instance.funcs[immediate], instance)
        elif kind == "T":
            made = instance.tables[immediate].elements
        else:
            made = _BINDERS[kind](engine, instance, immediate)
        cell = state.cells[key] = CellType(made)
    return cell


def _catcher(
    code: FunctionCode, instance: ModuleInst, tire: Callable[[int], None]
) -> Callable[[Thrown], tuple[int, Any]]:
    def catch(thrown: Thrown) -> tuple[int, Any]:
        traceback = thrown.__traceback__
        if traceback is None:
            raise RuntimeError("an exception without a traceback")
        found = code.landing(code.index_of(traceback.tb_lineno), thrown.exception, instance.tags, tire)
        return (-1, None) if found is None else found

    return catch


def bind(engine: Interpreter, func: FuncInst, code: FunctionCode) -> FunctionType:
    """Return the function object that runs *func* in generated code."""
    instance, generated = func.instance, code.generated
    if instance is None or generated is None or code.compiled is None:
        raise RuntimeError("no code to bind")
    state: InstanceState = instance.state
    cells = []
    for name in code.compiled.co_freevars:
        if name == "fuel":
            cells.append(engine.fuel)
        elif name == "this":
            cells.append(CellType(func))
        elif name == "catch":
            cells.append(CellType(_catcher(code, instance, engine.tire)))
        else:
            cells.append(_cell(engine, instance, state, generated.cells[name]))
    return FunctionType(code.compiled, NAMES, code.compiled.co_name, code.defaults, tuple(cells))


# Host functions


def _call_template(nparams: int) -> Callable[..., Callable[..., Any]]:
    names = "".join(f"a{i}," for i in range(nparams))
    source = (
        f"def make(host,caller,count,HostReturned,Thrown,Failed,HostWaits,leave):\n def call({names}d):\n"
        f"  try:\n   return host(caller,{names})\n"
        "  except HostReturned as returned:\n   returned.count=count\n   raise\n"
        f"  except HostWaits:\n   raise leave(({names})) from None\n"
        "  except Thrown:\n   raise\n  except BaseException as error:\n   raise Failed(error) from None\n"
        " return call\n"
    )
    namespace: dict[str, Any] = {}
    exec(compile(source, "<host call>", "exec"), namespace)
    made: Callable[..., Callable[..., Any]] = namespace["make"]
    return made


_templates: dict[int, Callable[..., Callable[..., Any]]] = {}


def host_entry(func: FuncInst, caller: ModuleInst | None) -> Callable[..., Any]:
    """Return how *caller* calls a host function: with its arguments and a frame budget, like any other function."""
    host = func.host
    if host is None:

        def leave(*arguments: Any) -> None:
            raise Leave(func, arguments[:-1], caller)

        return leave
    functype = func.deftype.comptype
    if not isinstance(functype, FuncType):
        raise TypeError("a function without a function type")
    nparams = len(functype.params)
    template = _templates.get(nparams)
    if template is None:
        template = _templates[nparams] = _call_template(nparams)
    # One wrapper a number of parameters: a call with *arguments costs 0.1 us more (benchmarks/calls.py).
    return template(
        host,
        caller,
        len(functype.results),
        HostReturned,
        Thrown,
        Failed,
        HostWaits,
        lambda arguments: Leave(func, arguments, caller),
    )
