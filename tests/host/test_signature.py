"""Signatures of host functions from annotations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NewType, NoReturn

import pytest

from aiowasm.host.signature import signature_of
from aiowasm.host.types import Value, externref, f32, f64, funcref, i32, i64, u32, u64, v128
from aiowasm.store.caller import Caller
from aiowasm.syntax.types import ANYREF, EXTERNREF, F32, F64, FUNCREF, I32, I64, V128

if TYPE_CHECKING:
    from somewhere import State  # type: ignore[import-not-found]

Key = NewType("Key", i32)
AnyRef = Annotated[object, Value(ANYREF)]
Documented = Annotated[u32, "an address"]


def test_every_type() -> None:
    def function(
        a: i32,
        b: u32,
        c: i64,
        d: u64,
        e: f32,
        f: f64,
        g: v128,
        h: externref,
        i: funcref,
        j: Annotated[object, Value(ANYREF)],
    ) -> i32:
        return a

    signature = signature_of(function)
    assert signature.functype.params == (I32, I32, I64, I64, F32, F64, V128, EXTERNREF, FUNCREF, ANYREF)
    assert signature.functype.results == (I32,)
    assert signature.unsigned == (False, True, False, True, *(False,) * 6)
    assert not signature.takes_caller
    assert not signature.is_async


async def with_caller(caller: Caller[State], key: Key, where: Documented) -> tuple[i32, f64]:
    return key, 1.0


def test_caller_async_and_several_results() -> None:
    signature = signature_of(with_caller)
    assert signature.takes_caller
    assert signature.is_async
    assert signature.functype.params == (I32, I32)
    assert signature.unsigned == (False, True)
    assert signature.functype.results == (I32, F64)


def test_no_results() -> None:
    def nothing(caller: Caller) -> None: ...  # type: ignore[type-arg]

    def never() -> NoReturn:
        raise SystemExit

    assert signature_of(nothing).functype.results == ()
    assert signature_of(nothing).takes_caller
    assert signature_of(never).functype.results == ()


class Service:
    def method(self, a: i32) -> i64:
        return a

    async def __call__(self, a: f32) -> None: ...


def test_methods_partials_and_objects() -> None:
    service = Service()
    assert signature_of(service.method).functype.params == (I32,)
    assert signature_of(service).functype.params == (F32,)
    assert signature_of(service).is_async

    def function(state: dict[str, int], caller: Caller[Any], a: i32, b: i64) -> None: ...

    signature = signature_of(functools.partial(function, {}, b=1))
    assert signature.takes_caller
    assert signature.functype.params == (I32,)
    assert signature_of(functools.partial(with_caller)).is_async


def test_wrapped_functions() -> None:
    @functools.wraps(with_caller)
    async def wrapper(*args: Any, **kwargs: Any) -> Any: ...

    assert signature_of(wrapper).functype.params == (I32, I32)


def unannotated(a) -> None: ...  # type: ignore[no-untyped-def]


def no_result(a: i32): ...  # type: ignore[no-untyped-def]


def plain_int(a: int) -> None: ...


def plain_float(a: i32) -> float:
    return a


def text(name: str) -> None: ...


def unknown(a: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821


def optional(a: i32 | None) -> None: ...


def variadic(*args: i32) -> None: ...


def keywords(**kwargs: i32) -> None: ...


def keyword_only(*, a: i32) -> None: ...


def two(a: i32, b: i32) -> None: ...


def default(a: i32 = 1) -> None: ...


def late_caller(a: i32, caller: Caller[Any]) -> None: ...


def empty_tuple() -> tuple[()]:
    return ()


def one_tuple() -> tuple[i32]:
    return (1,)


def open_tuple() -> tuple[i32, ...]:
    return ()


def generator() -> i32:  # type: ignore[misc]
    yield 1


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (unannotated, "unannotated: parameter 'a' has no annotation"),
        (no_result, "no_result: its result has no annotation; .* -> None"),
        (plain_int, "plain_int: parameter 'a': annotation int is no value type: an int is i32, u32, i64 or u64"),
        (plain_float, "plain_float: result: annotation float is no value type: a float is f32 or f64"),
        (text, "parameter 'name': annotation str .* goes through a memory"),
        (unknown, "parameter 'a': annotation 'Missing' cannot be resolved .*'Missing' is not defined"),
        (optional, "parameter 'a': annotation .* is no value type"),
        (variadic, "parameter 'args' takes any number"),
        (keywords, "parameter 'kwargs' takes any number"),
        (keyword_only, "parameter 'a' is keyword-only"),
        (default, "parameter 'a' has a default"),
        (late_caller, "Caller must be the first parameter, not 'caller'"),
        (empty_tuple, "only several results are a tuple"),
        (one_tuple, "only several results are a tuple"),
        (open_tuple, "no fixed length"),
        (generator, "a generator cannot be a host function"),
        (Service, "a class cannot be a host function"),
        (functools.partial(Service), "a class cannot be a host function"),
        (functools.partial(two, a=1), "parameter 'b' is keyword-only"),
        (5, "must be callable, got int"),
    ],
)
def test_what_cannot_be_mapped(function: Callable[..., object], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        signature_of(function)
