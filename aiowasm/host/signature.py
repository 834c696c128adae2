"""The signature of a host function, read from its annotations when it is defined.

Everything that cannot be mapped is a TypeError that names the function, the parameter and the annotation: nothing is
guessed and nothing is left to the first call. Which annotations exist is in `aiowasm.host.types`.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, NoReturn, get_args, get_origin, get_type_hints

from aiowasm.host import types as host_types
from aiowasm.host.types import Value
from aiowasm.limits import MAX_PARAMS, MAX_RESULTS
from aiowasm.store.caller import Caller
from aiowasm.syntax.types import FuncType

__all__ = ("Signature", "signature_of", "value_of")

_HINTS = {
    int: "an int is i32, u32, i64 or u64",
    bool: "a bool is i32",
    float: "a float is f32 or f64",
    bytes: "bytes are v128; longer data goes through a memory",
    str: "a string goes through a memory",
    object: "an object is externref",
}
# Names that a string annotation may use even where they are imported for type checkers only.
_NAMES: dict[str, object] = {name: getattr(host_types, name) for name in host_types.__all__} | {"Caller": Caller}


@dataclass(frozen=True, slots=True)
class Signature:
    """What annotations say: the function type, which parameters arrive unsigned, and how the function is called."""

    functype: FuncType
    unsigned: tuple[bool, ...]
    takes_caller: bool
    is_async: bool


def value_of(annotation: object) -> Value | None:
    """Return the value type that *annotation* stands for, or None.

    Aliases of the aliases are followed: `Annotated[i32, "a key"]`, `NewType`, `type Key = i32`.
    """
    for _ in range(100):  # an alias may be defined by itself
        if isinstance(annotation, Value):
            return annotation
        if get_origin(annotation) is Annotated:
            marks = [mark for mark in get_args(annotation)[1:] if isinstance(mark, Value)]
            if marks:
                return marks[0] if len(marks) == 1 else None
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # Python 3.12
            annotation = annotation.__value__  # type: ignore[attr-defined]
        else:
            return None
    return None


def signature_of(function: Callable[..., object]) -> Signature:
    """Return the signature of *function*.

    Functions, methods, `functools.partial` and objects with `__call__` all do.

    Raises:
        TypeError: An annotation is missing or maps to no value type, or the function cannot be called by position.
    """
    if not callable(function):
        raise TypeError(f"a host function must be callable, got {type(function).__name__}")
    called = _called(function)
    if inspect.isclass(called):
        raise TypeError(f"a class cannot be a host function: {called.__qualname__}")
    name = getattr(called, "__qualname__", repr(called))
    if inspect.isgeneratorfunction(called) or inspect.isasyncgenfunction(called):
        raise TypeError(f"host function {name}: a generator cannot be a host function")
    try:
        signature = inspect.signature(function)
    except (ValueError, NameError) as error:
        raise TypeError(f"host function {name}: it has no signature that can be read ({error})") from None
    bound = _bound_keywords(function)
    resolve = _Resolver(called, name)
    takes_caller = False
    values = []
    for position, parameter in enumerate(p for p in signature.parameters.values() if p.name not in bound):
        _check_kind(parameter, name)
        annotation = resolve(parameter.name, parameter.annotation)
        if _is_caller(annotation):
            if position:
                raise TypeError(f"host function {name}: Caller must be the first parameter, not {parameter.name!r}")
            takes_caller = True
        else:
            values.append(_value(annotation, f"host function {name}: parameter {parameter.name!r}"))
    results = _results(resolve("return", signature.return_annotation), f"host function {name}: result")
    if len(values) > MAX_PARAMS or len(results) > MAX_RESULTS:
        raise TypeError(f"host function {name}: more than {MAX_PARAMS} parameters or {MAX_RESULTS} results")
    return Signature(
        FuncType(tuple(value.valtype for value in values), tuple(value.valtype for value in results)),
        tuple(value.unsigned for value in values),
        takes_caller,
        inspect.iscoroutinefunction(called),
    )


def _called(function: Callable[..., object]) -> Callable[..., Any]:
    """Return what has the annotations and the flags: below partials, and `__call__` of an object."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function):
        return function
    return type(function).__call__ if not inspect.isclass(function) else function


def _bound_keywords(function: Callable[..., object]) -> set[str]:
    """Return the keyword arguments that partials have given: no longer parameters, whatever `inspect` says."""
    names: set[str] = set()
    while isinstance(function, functools.partial):
        names.update(function.keywords)
        function = function.func
    return names


class _Resolver:
    """Evaluates the annotations of one function one by one, so that errors can name the parameter."""

    def __init__(self, called: Callable[..., object], name: str) -> None:
        self._globals = _NAMES | getattr(inspect.unwrap(called), "__globals__", {})
        self._name = name

    def __call__(self, parameter: str, annotation: object) -> object:
        if annotation is inspect.Parameter.empty:
            what = "its result has" if parameter == "return" else f"parameter {parameter!r} has"
            hint = "; a function without results says -> None" if parameter == "return" else ""
            raise TypeError(f"host function {self._name}: {what} no annotation{hint}")
        if annotation is None:
            return type(None)
        try:
            return self._evaluate(annotation)
        except Exception as error:
            # `Caller[State]` is a caller even where State is imported for type checkers only.
            head, bracket, _ = annotation.partition("[") if isinstance(annotation, str) else ("", "", "")
            if bracket and self._is_caller_name(head):
                return Caller
            what = "its result" if parameter == "return" else f"parameter {parameter!r}"
            raise TypeError(
                f"host function {self._name}: {what}: annotation {annotation!r} cannot be resolved ({error})"
            ) from error

    def _evaluate(self, annotation: object) -> object:
        holder: Any = SimpleNamespace(__annotations__={"it": annotation})
        return get_type_hints(holder, globalns=self._globals, include_extras=True)["it"]

    def _is_caller_name(self, head: str) -> bool:
        try:
            return _is_caller(self._evaluate(head))
        except Exception:
            return False


def _is_caller(annotation: object) -> bool:
    return annotation is Caller or get_origin(annotation) is Caller


def _check_kind(parameter: inspect.Parameter, name: str) -> None:
    what = f"host function {name}: parameter {parameter.name!r}"
    if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
        raise TypeError(f"{what} takes any number of arguments: a WebAssembly function has a fixed number")
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
        raise TypeError(f"{what} is keyword-only: guests pass arguments by position (functools.partial can bind it)")
    if parameter.default is not inspect.Parameter.empty:
        raise TypeError(f"{what} has a default: guests pass every argument, so it would never be used")


def _value(annotation: object, what: str) -> Value:
    value = value_of(annotation)
    if value is None:
        # object is the base of all, and bool a subclass of int: look for the class itself.
        hint = _HINTS.get(annotation) if isinstance(annotation, type) else None
        shown = annotation.__name__ if isinstance(annotation, type) and hint else annotation
        raise TypeError(f"{what}: annotation {shown} is no value type" + (f": {hint}" if hint else ""))
    return value


def _results(annotation: object, what: str) -> list[Value]:
    # A function that never returns has no results either.
    if annotation in (type(None), NoReturn, typing.Never):
        return []
    if get_origin(annotation) is not tuple:
        return [_value(annotation, what)]
    members = get_args(annotation)
    if Ellipsis in members:
        raise TypeError(f"{what}: {annotation} has no fixed length")
    if len(members) < 2:
        raise TypeError(f"{what}: {annotation}: only several results are a tuple; none is None, one stands alone")
    return [_value(member, what) for member in members]
