"""Which engine runs what in one store: the fastest that can, and one for all that share state."""

from __future__ import annotations

import pytest

from aiowasm import HostModule, Limits, LinkError, Module, Store, i32
from aiowasm.store.engines import available

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif("native" not in available(), reason="there is one engine here"),
]

PLAIN = '(module (memory (export "memory") 1) (func (export "f") (result i32) (i32.const 1)))'
STRUCT = """(module (type $s (struct (field i32)))
  (memory (export "memory") 1) (table (export "table") 1 funcref) (global (export "g") (mut i32) (i32.const 5))
  (func (export "f") (result i32) (struct.get $s 0 (struct.new $s (i32.const 2)))))"""
USER = '(module (import "m" "f" (func $f (result i32))) (func (export "f") (result i32) (call $f)))'
READER = """(module (import "m" "memory" (memory 1))
  (func (export "f") (result i32) (i32.load8_u (i32.const 0))))"""
COUNTER = """(module (import "m" "g" (global $g (mut i32)))
  (func (export "f") (result i32) (global.set $g (i32.add (global.get $g) (i32.const 1))) (global.get $g)))"""
CALLER = """(module (import "m" "table" (table 1 funcref)) (type $t (func (result i32)))
  (elem (i32.const 0) $own) (func $own (result i32) (i32.const 8))
  (func (export "f") (result i32) (call_indirect (type $t) (i32.const 0))))"""


async def test_each_group_has_the_fastest_engine_that_can_run_it() -> None:
    async with Store() as store:
        plain = await store.instantiate(await Module.from_text(PLAIN))
        struct = await store.instantiate(await Module.from_text(STRUCT))
        assert (plain.engine, struct.engine) == ("native", "interpreter")
        assert (await plain.exports.f(), await struct.exports.f()) == (1, 2)


@pytest.mark.parametrize(
    ("text", "result"), [(USER, 2), (READER, 42), (COUNTER, 6), (CALLER, 8)], ids=["func", "memory", "global", "table"]
)
async def test_what_imports_from_the_interpreter_runs_there(text: str, result: int) -> None:
    async with Store() as store:
        struct = await store.instantiate(await Module.from_text(STRUCT), name="m")
        assert struct.memory is not None
        struct.memory.write(0, b"\x2a")
        user = await store.instantiate(await Module.from_text(text))
        assert user.engine == "interpreter"
        assert await user.exports.f() == result


async def test_linking_what_only_the_interpreter_runs_into_a_native_group_names_the_feature() -> None:
    text = STRUCT.replace('(memory (export "memory") 1)', "").replace(
        "(table", '(import "m" "memory" (memory 1)) (table'
    )
    async with Store() as store:
        await store.instantiate(await Module.from_text(PLAIN), name="m")
        with pytest.raises(LinkError, match="native engine does not have the feature gc"):
            await store.instantiate(await Module.from_text(text), name="struct")
        assert "struct" not in store
    async with Store(engine="native") as store:
        with pytest.raises(LinkError, match="native engine does not have the feature gc"):
            await store.instantiate(await Module.from_text(STRUCT))


async def test_functions_do_not_cross_between_engines_through_handles() -> None:
    text = '(module (table (export "t") 1 funcref) (func (export "take") (param funcref)))'
    async with Store() as store:
        native = await store.instantiate(await Module.from_text(text))
        struct = await store.instantiate(await Module.from_text(STRUCT))
        assert native.engine == "native"
        with pytest.raises(LinkError):
            native.tables["t"][0] = struct.exports.f
        with pytest.raises(LinkError):
            await native.exports.take(struct.exports.f)
        with pytest.raises(LinkError):
            struct.tables["table"][0] = native.exports.take
        assert native.tables["t"][0] is None


async def test_host_modules_serve_both_engines() -> None:
    env = HostModule("env")

    @env.function
    def twice(value: i32) -> i32:
        return 2 * value

    @env.function
    async def thrice(value: i32) -> i32:
        return 3 * value

    env.global_("base", i32, 100)
    env.global_("counter", i32, 0, mutable=True)
    texts = [
        f"""(module {extra} (import "env" "base" (global $base i32))
        (import "env" "twice" (func $twice (param i32) (result i32)))
        (import "env" "thrice" (func $thrice (param i32) (result i32)))
        (func (export "f") (param i32) (result i32)
          (i32.add (global.get $base) (call $twice (call $thrice (local.get 0))))))"""
        for extra in ("", "(type $s (struct (field i32)))")
    ]
    async with Store(limits=Limits(fuel=10**6)) as store:
        await store.instantiate(env)
        for text in texts:
            guest = await store.instantiate(await Module.from_text(text))
            assert await guest.exports.f(7) == 142
        with pytest.raises(LinkError, match="gc"):
            await store.instantiate(
                await Module.from_text(
                    """(module (type $s (struct (field i32))) (import "env" "counter" (global (mut i32))))"""
                )
            )
