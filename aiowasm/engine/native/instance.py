"""What generated code sees of module instances and functions: a block of pointers, and descriptors.

A reference to a function is the address of a descriptor, which is laid out when the first one is made. Functions become
objects of Python only when somebody there asks for them.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final
from weakref import ref

from aiowasm.engine.func import FuncInst
from aiowasm.engine.native.entities import NativeGlobal, NativeMemory, NativeTable
from aiowasm.engine.native.layout import Descriptor, Instance
from aiowasm.engine.native.values import codec, slots_of
from aiowasm.errors import LinkError
from aiowasm.syntax.steps import Steps
from aiowasm.syntax.types import FuncType

if TYPE_CHECKING:
    from aiowasm.engine.instance import ModuleInst
    from aiowasm.engine.native.engine import Native
    from aiowasm.engine.native.module import ModuleCode

__all__ = ("NativeFunction", "NativeInstance", "known")

_EMPTY_MEMORY: Final = (ctypes.c_uint64 * 2)()
_PER_STEP: Final = 5000


class NativeInstance:
    """What generated code sees of a module instance: a block of pointers at `address`."""

    __slots__ = ("__weakref__", "_block", "_descriptors", "_known", "_shut", "address", "code", "instance")

    def __init__(self, instance: ModuleInst, code: ModuleCode) -> None:
        self.instance = ref(instance)
        self.code = code
        self._block = array("Q", bytes(code.layout.nbytes))
        self.address = self._block.buffer_info()[0]
        self._block[Instance.HANDLERS // 8] = code.handlers.address
        self._descriptors: list[array[int]] = []
        self._known: dict[int, int] | None = None
        """Addresses of descriptors by the index of the defined function; None while there are few, of one each."""
        self._shut = False

    def fill_steps(self, instance: ModuleInst, engine: Native) -> Steps[None]:
        """Point to the entities of *instance*, which is complete but for its segments."""
        layout, block = self.code.layout, self._block
        block[Instance.MEMORY // 8] = ctypes.addressof(_EMPTY_MEMORY)
        for area, entities, kind in (
            (layout.mems, instance.mems, NativeMemory),
            (layout.tables, instance.tables, NativeTable),
            (layout.globals, instance.globals, NativeGlobal),
        ):
            for number, entity in enumerate(entities):
                if not isinstance(entity, kind):
                    raise LinkError("an import belongs to another engine")
                block[area // 8 + number] = entity.address
                if not (number + 1) % _PER_STEP:
                    yield
        if instance.mems:
            block[Instance.MEMORY // 8] = block[layout.mems // 8]
        for area, things in ((layout.types, instance.deftypes), (layout.tags, instance.tags)):
            for number, thing in enumerate(things):
                block[area // 8 + number] = id(thing)
                if not (number + 1) % _PER_STEP:
                    yield
        imported = instance.validated.nimported_funcs
        for number in range(imported):
            block[layout.imports // 8 + number] = engine.descriptor(instance.funcs[number])
            if not (number + 1) % _PER_STEP:
                yield
        block[Instance.FUNCS // 8] = self.code.entries.buffer_info()[0]

    def publish(self, index: int) -> int:
        """Let references of this instance lead to the code of a defined function that is compiled now.

        Returns its address.
        """
        entry = self.code.entries[index]
        address = self._address(index)
        if address is not None:
            ctypes.c_uint64.from_address(address + Descriptor.CODE).value = entry
        return entry

    def shut(self) -> None:
        """Let every later call of a function come back to Python, which looks at the instance's error."""
        self._shut = True
        stubs = self.code.stubs
        self._block[Instance.FUNCS // 8] = stubs.buffer_info()[0]
        for block in self._descriptors:
            block[_CODE::_WORDS] = array("Q", map(stubs.__getitem__, block[_INDEX::_WORDS]))

    # Descriptors

    def descriptor(self, funcidx: int) -> int:
        """The address of the descriptor of a defined function, by its index in the instance's index space."""
        index = funcidx - self.code.validated.nimported_funcs
        address = self._address(index)
        if address is not None:
            return address
        block = self._lay_out((index,))
        if self._known is not None:
            self._note(block, self._known)
        elif len(self._descriptors) > _FEW:
            self._index()
        return block.buffer_info()[0]

    def descriptors(self, funcidxs: Sequence[int]) -> array[int]:
        """The addresses of the descriptors of functions of the instance's index space."""
        imported, known = self.code.validated.nimported_funcs, self._index()
        missing = {funcidx for funcidx in funcidxs if funcidx >= imported and funcidx - imported not in known}
        if missing:
            self._note(self._lay_out(funcidx - imported for funcidx in missing), known)
        first = self.code.layout.imports // 8
        return array(
            "Q",
            [
                known[funcidx - imported] if funcidx >= imported else self._block[first + funcidx]
                for funcidx in funcidxs
            ],
        )

    def _address(self, index: int) -> int | None:
        """The address of the descriptor of a defined function, if it has one."""
        if self._known is not None:
            return self._known.get(index)
        return next((block.buffer_info()[0] for block in self._descriptors if block[_INDEX] == index), None)

    def _index(self) -> dict[int, int]:
        """All addresses: most instances of a store of thousands do without (benchmarks/scale.py)."""
        known = self._known
        if known is None:
            known = self._known = {}
            for block in self._descriptors:
                self._note(block, known)
        return known

    @staticmethod
    def _note(block: array[int], known: dict[int, int]) -> None:
        start = block.buffer_info()[0]
        for number, index in enumerate(block[_INDEX::_WORDS]):
            known[index] = start + Descriptor.NBYTES * number

    def _lay_out(self, indices: Iterable[int]) -> array[int]:
        code = self.code
        imported, funcs = code.validated.nimported_funcs, code.validated.funcs
        entries = code.stubs if self._shut else code.entries
        block = array("Q")
        for index in indices:
            block.extend((entries[index], id(funcs[imported + index]), self.address, index))
        self._descriptors.append(block)
        return block

    def function_at(self, address: int) -> FuncInst:
        """The defined function whose descriptor is at *address*."""
        instance = self.instance()
        index = ctypes.c_uint64.from_address(address + Descriptor.INDEX).value
        if instance is None or self._address(index) != address:
            raise RuntimeError("no function has this descriptor")
        return instance.funcs[self.code.validated.nimported_funcs + index]


_FEW: Final = 8
_CODE: Final = Descriptor.CODE // 8
_INDEX: Final = Descriptor.INDEX // 8
_WORDS: Final = Descriptor.NBYTES // 8


class NativeFunction:
    """What this engine keeps of a function that Python knows: its descriptor, and how its values get into slots.

    Args:
        func: The function.
        address: Of its descriptor; None: it is the host's, and has one of its own.
    """

    __slots__ = ("_block", "address", "functype", "params", "results", "serial", "slots")

    def __init__(self, func: FuncInst, address: int | None) -> None:
        comptype = func.deftype.comptype
        if not isinstance(comptype, FuncType):
            raise LinkError("a function without a function type")
        self._block: array[int] | None = None
        if address is None:
            self._block = array("Q", (0, id(func.deftype), 0, 0))
            address = self._block.buffer_info()[0]
        self.address = address
        self.functype = comptype
        self.params = codec(comptype.params)
        self.results = codec(comptype.results)
        self.slots = slots_of(comptype.params)
        self.serial = 0
        """Of the engine that knows the address; functions of the host may be used by several."""


def known(func: FuncInst) -> NativeFunction | None:
    """What the engine keeps of *func* already."""
    # `cell` is the interpreter's: a function of the host may be used by both engines.
    found = func.state
    return found if isinstance(found, NativeFunction) else None
