"""Host modules as definitions."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from aiowasm.errors import InvalidError, LinkError
from aiowasm.host.module import HostFunction, HostGlobal, HostMemory, HostModule, HostTable, HostTag
from aiowasm.host.types import externref, f32, funcref, i32, u32, u64
from aiowasm.syntax.types import (
    EXTERNREF,
    F32,
    FUNCREF,
    I32,
    I64,
    AddressType,
    FuncType,
    GlobalType,
    Limits,
    MemType,
    TableType,
)


def test_functions_are_returned_unchanged() -> None:
    env = HostModule("env")

    @env.function
    def double(a: i32) -> i32:
        return 2 * a

    @env.function(name="mix", fuel=10)
    async def other(a: u64, b: u64) -> u64:
        return a ^ b

    assert double(21) == 42
    assert list(env.definitions) == ["double", "mix"]
    mix = env.definitions["mix"]
    assert mix == HostFunction("mix", FuncType((I64, I64), (I64,)), other, True, False, 10, (True, True))


def test_converters_follow_the_annotations() -> None:
    env = HostModule("env")

    @env.function
    def function(a: i32, b: u32) -> tuple[u32, f32]:
        return b, a

    definition = env.definitions["function"]
    assert isinstance(definition, HostFunction)
    arguments, results = definition.converters()
    assert arguments((0xFFFF_FFFF, 0xFFFF_FFFF)) == (-1, 0xFFFF_FFFF)
    assert results((-1, 0.1)) == (0xFFFF_FFFF, 0.10000000149011612)


def test_partials_need_a_name() -> None:
    def function(state: object, a: i32) -> None: ...

    env = HostModule("env")
    bound = functools.partial(function, None)
    with pytest.raises(TypeError, match="give name="):
        env.function(bound)
    assert env.function(bound, name="bound") is bound


def test_definitions_of_every_kind() -> None:
    env = HostModule("env")
    env.memory("memory", 1, 2)
    env.table("table", funcref, 10)
    env.global_("counter", i32, -1, mutable=True)
    env.tag("error", [i32, externref])
    env.global_("object", EXTERNREF, env)
    assert list(env.definitions.values()) == [
        HostMemory("memory", MemType(Limits(1, 2))),
        HostTable("table", TableType(Limits(10), FUNCREF)),
        HostGlobal("counter", GlobalType(I32, True), -1),
        HostTag("error", FuncType((I32, EXTERNREF), ())),
        HostGlobal("object", GlobalType(EXTERNREF, False), env),
    ]
    with pytest.raises(TypeError):
        env.definitions["x"] = env.definitions["memory"]  # type: ignore[index]


def test_a_name_is_taken_once_for_all_kinds() -> None:
    env = HostModule("env")
    env.memory("it", 1)
    with pytest.raises(LinkError, match="duplicate export name") as caught:
        env.tag("it")
    assert (caught.value.module, caught.value.name) == ("env", "it")
    with pytest.raises(LinkError, match="duplicate export name"):

        @env.function
        def it() -> None: ...


@pytest.mark.parametrize(
    ("define", "phrase"),
    [
        (lambda env: env.memory("m", 65_537), "memory size must be at most 65536 pages"),
        (lambda env: env.memory("m", 2, 1), "size minimum must not be greater than maximum"),
        (lambda env: env.memory("m", MemType(Limits(1), page_size_log2=40)), "invalid custom page size"),
        (lambda env: env.memory("m", -1), "size minimum"),
        (lambda env: env.memory("m", MemType(Limits(1 << 49), AddressType.I64)), "memory size"),
        (lambda env: env.memory("m", MemType(Limits(1), shared=True)), "shared memory must have maximum"),
        (lambda env: env.table("t", funcref, 1 << 32), "table size"),
    ],
)
def test_types_that_are_not_valid(define: Callable[[HostModule], None], phrase: str) -> None:
    with pytest.raises(InvalidError, match=phrase):
        define(HostModule("env"))


def test_values_and_names_are_checked() -> None:
    env = HostModule("env")
    with pytest.raises(OverflowError, match="global 'g'"):
        env.global_("g", I32, 1 << 32)
    with pytest.raises(TypeError, match="expected a float for f32"):
        env.global_("g", F32, "1")
    with pytest.raises(TypeError, match="a table holds references"):
        env.table("t", i32)
    with pytest.raises(TypeError, match="no value type"):
        env.tag("e", [int])
    with pytest.raises(ValueError, match="surrogates"):
        env.tag("\ud800")
    with pytest.raises(ValueError, match="bytes"):
        HostModule("x" * 100_001)
    with pytest.raises(TypeError, match="must be a str"):
        HostModule(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fuel"):
        env.function(fuel=-1)
    with pytest.raises(TypeError, match="fuel"):
        env.function(fuel="1")  # type: ignore[call-overload]
    assert not env.definitions
