"""The smallest useful program: a guest that calls a coroutine of the host, and one that does not know when to stop."""

import anyio

from aiowasm import Caller, HostModule, Module, Store, i32

GUEST = """(module
  (import "env" "fetch" (func $fetch (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "greet") (param i32) (result i32) (call $fetch (local.get 0)))
  (func (export "spin") (loop (br 0))))"""

env = HostModule("env")


@env.function
async def fetch(caller: Caller, key: i32) -> i32:
    await anyio.sleep(0.01)  # a database, another service: the guest waits, the event loop does not
    return caller.memory.write_string(0, f"hello, user {key}")


async def main() -> None:
    module = await Module.from_text(GUEST)
    async with Store() as store:
        await store.instantiate(env)
        plugin = await store.instantiate(module, name="plugin")
        nbytes = await plugin.exports.greet(7)
        print(plugin.memory.read_string(0, nbytes))
        with anyio.move_on_after(0.1):
            await plugin.exports.spin()
        print(f"stopped with exit code {plugin.exit_code:#x}, {plugin.fuel_consumed:,} units of fuel used")


anyio.run(main)
