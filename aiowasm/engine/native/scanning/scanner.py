"""Runs the walk over bodies of one module, and makes records of what it wrote down."""

from __future__ import annotations

import ctypes
import mmap
from array import array
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final

from aiowasm.engine.native.code import CodeSpace
from aiowasm.engine.native.scanning import names as n
from aiowasm.engine.native.scanning.tables import ModuleTables
from aiowasm.features import Feature
from aiowasm.syntax.code import read_instruction
from aiowasm.syntax.guard import Guard
from aiowasm.syntax.types import FuncType, ValType
from aiowasm.validation.context import Context
from aiowasm.validation.record import Block, FunctionRecord
from aiowasm.validation.rules import RULES, fixed_type

if TYPE_CHECKING:
    from aiowasm.engine.native.stencils import Stencils
    from aiowasm.validation.module import ValidatedModule

__all__ = ("Scanner", "scanner_steps")

MOST_NBYTES: Final = 1 << 17
"""Larger bodies are walked in steps, by others: this many take a millisecond."""
_NOPERANDS: Final = 1 << 16
_NCTRL: Final = 1 << 12
_NAMES: Final = {
    n.FUNCTION: "func",
    n.OP_BLOCK: "block",
    n.OP_LOOP: "loop",
    n.OP_IF: "if",
    n.OP_TRY: "try",
    n.OP_TRY_TABLE: "try_table",
}

# What the walk fills in, in the order of its parameters: format, elements.
_SCRATCH: Final = {
    "stack": ("B", _NOPERANDS),
    "locals": ("B", n.MOST_LOCALS),
    "ctrl": ("q", n.CTRL * _NCTRL),
    "ops": ("H", MOST_NBYTES),
    "imms": ("Q", MOST_NBYTES),
    "offsets": ("I", MOST_NBYTES),
    "cost_at": ("q", MOST_NBYTES),
    "cost_units": ("q", MOST_NBYTES),
    "checks": ("q", MOST_NBYTES),
    "nones": ("I", MOST_NBYTES),
    "fix_at": ("I", MOST_NBYTES),
    "fix_what": ("I", MOST_NBYTES),
    "again": ("I", MOST_NBYTES),
    "pairs": ("I", MOST_NBYTES),
    "blocks": ("q", n.BLOCK * MOST_NBYTES // 2),
    "labels": ("I", MOST_NBYTES),
    "tabled": ("I", 3 * MOST_NBYTES // 2),
    "catches": ("I", n.CATCH * MOST_NBYTES // 2),
}
_COUNTS: Final = {
    "locals": (n.NLOCALS, 1),
    **dict.fromkeys(("ops", "imms", "offsets"), (n.NOPS, 1)),
    **dict.fromkeys(("cost_at", "cost_units"), (n.NCOSTS, 1)),
    "checks": (n.NCHECKS, 1),
    "nones": (n.NNONES, 1),
    **dict.fromkeys(("fix_at", "fix_what"), (n.NFIXES, 1)),
    "again": (n.NAGAIN, 1),
    "pairs": (n.NPAIRS, 1),
    "blocks": (n.NBLOCKS, n.BLOCK),
    "labels": (n.NLABELS, 1),
    "tabled": (n.NTABLES, 3),
    "catches": (n.NCATCHES, 1),
}
"""Where the walk says how much of it there is, and in what units."""
_EVERY: Final = 1000


class _Scratch:
    """Where the walk writes: one for all modules, in pages that exist once they are written to."""

    def __init__(self) -> None:
        self.guard = Guard()
        self.views: dict[str, memoryview[int]] = {}
        self.places: list[int] = []
        for name, (kind, count) in _SCRATCH.items():
            nbytes = count * array(kind).itemsize
            area = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            view: Any = memoryview(area)[:nbytes].cast(kind)  # type: ignore[call-overload]
            self.views[name] = view
            self.places += [ctypes.addressof(ctypes.c_char.from_buffer(area)), count]


class _Machine:
    """The walk's machine code, and what it works in."""

    def __init__(self, stencils: Stencils) -> None:
        self._space = CodeSpace()
        # Python's lock is held: what it takes is less than what others would need to notice.
        self.run: Callable[[int], int] = ctypes.PYFUNCTYPE(ctypes.c_ssize_t, ctypes.c_void_p)(
            self._space.put(stencils.raw("validate"))
        )
        self.scratch = _Scratch()


_machines: dict[Stencils, _Machine] = {}
_making: Final = Guard()


def _machine(stencils: Stencils) -> _Machine:
    with _making:
        if stencils not in _machines:
            _machines[stencils] = _Machine(stencils)
        return _machines[stencils]


def scanner_steps(validated: ValidatedModule, stencils: Stencils) -> Generator[None, None, Scanner]:
    """Return what validates bodies of *validated* fast, made in steps if there is none yet.

    Args:
        validated: The module, validated but for its bodies.
        stencils: Those for this processor, with the walk's machine code.
    """
    scanner = validated.scanner
    if not isinstance(scanner, Scanner):
        tables = ModuleTables(validated)
        yield from tables.fill(validated)
        scanner = validated.scanner = Scanner(validated, tables, _machine(stencils))
    return scanner


class Scanner:
    """Validates bodies of a module, which it does not keep: the module keeps it."""

    def __init__(self, context: Context, tables: ModuleTables, machine: _Machine) -> None:
        self._run, self._scratch = machine.run, machine.scratch
        self._tables = tables
        self._funcs = context.module.funcs
        self._nimported = context.nimported_funcs
        self._state = array("q", bytes(8 * n.STATE))
        buffer = self._funcs.buffer
        address = ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p).value or 0
        codes = tables.opcodes
        arrays: list[array[int]] = [
            *(codes.kinds, codes.params, codes.results, codes.details, codes.costs),
            *(
                tables.sigs,
                tables.sigtypes,
                tables.funcs,
                tables.globals,
                tables.tables,
                tables.mems,
                tables.tags,
                tables.valtypes,
            ),
        ]
        places = [part for one in arrays for part in one.buffer_info()]
        self._arrays = array("Q", [*self._state.buffer_info(), address, len(buffer), *places, *self._scratch.places])
        self._address = self._arrays.buffer_info()[0]
        self._state[n.MULTI_VALUE] = Feature.MULTI_VALUE in context.features
        self._state[n.EXN], self._state[n.EXNREF] = tables.exn, tables.exnref
        self._blocktypes: dict[int, tuple[tuple[ValType, ...], tuple[ValType, ...]]] = {0: ((), ())}

    def accepts(self, index: int) -> bool:
        """Whether the body of the defined function *index* is valid for certain; if not, it may be."""
        with self._scratch.guard:
            return self._walk(index)

    def record_steps(self, context: Context, index: int) -> Generator[None, None, FunctionRecord | None]:
        """Return the record of the defined function *index* if its body is valid for certain; yields now and then.

        It is exactly what the validator's walk records.

        Args:
            context: The module.
            index: Of the function.
        """
        with self._scratch.guard:
            if not self._walk(index):
                return None
            views, state = self._scratch.views, self._state
            written = {name: views[name][: state[count] * each] for name, (count, each) in _COUNTS.items()}
            ops, offsets = written.pop("ops").tobytes(), written.pop("offsets").tobytes()
            lists = {name: view.tolist() for name, view in written.items()}
            max_height = state[n.MAX_HEIGHT]
        functype = context.func_comptype(self._tables.funcs[self._nimported + index])
        locals_ = tuple([self._tables.types[number] for number in lists["locals"]])
        record = FunctionRecord(locals_, len(functype.params), functype.results)
        record.ops.frombytes(ops)
        record.offsets.frombytes(offsets)
        record.max_height = max_height
        yield from self._fill(record, context, functype, lists)
        return record

    def _walk(self, index: int) -> bool:
        start, end = self._funcs.starts[index], self._funcs.ends[index]
        if end - start > MOST_NBYTES:
            return False
        state = self._state
        state[n.START], state[n.END] = start, end
        state[n.FUNC] = self._tables.funcs[self._nimported + index]
        return self._run(self._address) == n.YES

    def _fill(
        self, record: FunctionRecord, context: Context, functype: FuncType, written: dict[str, list[int]]
    ) -> Generator[None, None, None]:
        types = self._tables.types
        immediates: list[Any] = written["imms"]
        record.immediates = immediates
        record.cost = dict(zip(written["cost_at"], written["cost_units"], strict=True))
        record.checks = {-1, *written["checks"]}
        blocks = record.blocks = yield from self._block_steps(context, functype, written["blocks"])
        record.tries = [block for block in blocks if block.kind in ("try", "try_table")]
        _enter_catches(blocks, written["catches"])
        objects: list[Any] = [*types, *[None] * (n.NTYPES - len(types)), *blocks]
        for at in written["nones"]:
            immediates[at] = None
        for at, what in zip(written["fix_at"], written["fix_what"], strict=True):
            immediates[at] = objects[what]
        for at in written["pairs"]:
            immediates[at] = (immediates[at] & 0xFFFF_FFFF, immediates[at] >> 32)
        places, labels = iter(written["tabled"]), written["labels"]
        for at, first, count in zip(places, places, places, strict=True):
            immediates[at] = tuple([objects[what] for what in labels[first : first + count]])
        for number, at in enumerate(written["again"], 1):
            immediates[at] = self._immediate(context, record.offsets[at])
            if not number % _EVERY:
                yield

    def _block_steps(
        self, context: Context, functype: FuncType, written: list[int]
    ) -> Generator[None, None, list[Block]]:
        fields = iter(written)
        blocks = []
        for kind, blocktype, start, else_, end, targeted, has_call, has_loop, height, depth in zip(
            *[fields] * n.BLOCK, strict=True
        ):
            params, results = self._blocktypes.get(blocktype) or self._blocktype(context, blocktype)
            block = Block(_NAMES[kind], params, results, height, depth)
            block.start, block.else_, block.end = start, else_, end
            if targeted:
                block.targeted = True
            if has_call:
                block.has_call = True
            if has_loop:
                block.has_loop = True
            blocks.append(block)
            if not len(blocks) % _EVERY:
                yield
        blocks[0].results = functype.results
        return blocks

    def _blocktype(self, context: Context, number: int) -> tuple[tuple[ValType, ...], tuple[ValType, ...]]:
        if number < n.NTYPES:
            made: tuple[tuple[ValType, ...], tuple[ValType, ...]] = ((), (self._tables.types[number],))
        else:
            functype = context.func_comptype(number - n.NTYPES)
            made = (functype.params, functype.results)
        self._blocktypes[number] = made
        return made

    def _immediate(self, context: Context, offset: int) -> object:
        """What the validator's walk records of the instruction at *offset*."""
        row, read, _ = read_instruction(self._funcs.buffer, offset)
        rule = RULES.get(row.name)
        return (fixed_type(context, row, read) if rule is None else rule(context, False, *read))[2]


def _enter_catches(blocks: list[Block], written: list[int]) -> None:
    clauses: dict[int, list[tuple[int, int | None, Block | int]]] = {}
    fields = iter(written)
    for number, kind, tag, target in zip(*[fields] * n.CATCH, strict=True):
        place = target if kind & n.AT_OPERATOR else blocks[target]
        clauses.setdefault(number, []).append((kind & ~n.AT_OPERATOR, None if tag == n.NO_TAG else tag, place))
    for number, found in clauses.items():
        blocks[number].catches = tuple(found)
