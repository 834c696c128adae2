"""Stand-ins for functions that nobody provides."""

from __future__ import annotations

import pytest

from aiowasm import HostModule, LinkError, Module, Store, Trap, TrapCode, i32, stub_imports
from aiowasm.host.wasi import Wasi
from aiowasm.store.engines import available

pytestmark = pytest.mark.anyio

GUEST = """(module
  (import "env" "f" (func $f (param i32) (result i32)))
  (import "env" "f" (func $again (param i32) (result i32)))
  (import "other" "g" (func $g (param i64 f32 f64 v128 externref) (result funcref)))
  (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
  (import "wasi_unstable" "sched_yield" (func (result i32)))
  (func $inner (export "f") (result i32) (call $f (i32.const 1)))
  (func (export "g")
    (drop (call $g (i64.const 0) (f32.const 0) (f64.const 0) (v128.const i64x2 0 0) (ref.null extern)))))
"""


@pytest.mark.parametrize("engine", available())
async def test_calls_trap_with_the_stack_of_the_caller(engine: str) -> None:
    module = await Module.from_text(GUEST)
    stubs = stub_imports(module)
    assert {name: list(host.definitions) for name, host in stubs.items()} == {"env": ["f"], "other": ["g"]}
    async with Store(engine=engine) as store:
        guest = await store.instantiate(module, imports={**stubs, **Wasi().imports(module)})
        for name, function in (("f", "$inner"), ("g", "$6")):
            with pytest.raises(Trap) as caught:
                await guest.call(name)
            assert caught.value.code is TrapCode.UNREACHABLE
            assert "unknown import: " in caught.value.detail
            assert [frame.function for frame in caught.value.frames] == [function]
            assert not hasattr(caught.value, "__notes__")


async def test_what_is_there_goes_on_top() -> None:
    env = HostModule("env")

    @env.function
    def f(a: i32) -> i32:
        return a + 1

    module = await Module.from_text(GUEST)
    async with Store() as store:
        guest = await store.instantiate(module, imports={**stub_imports(module), **Wasi().imports(module), "env": env})
        assert await guest.call("f") == 2


async def test_only_functions_have_stubs() -> None:
    module = await Module.from_text('(module (import "env" "m" (memory 1)) (import "env" "t" (tag)))')
    assert stub_imports(module) == {}
    async with Store() as store:
        with pytest.raises(LinkError, match="unknown import"):
            await store.instantiate(module, imports=stub_imports(module))
