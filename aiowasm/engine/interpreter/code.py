"""What the interpreter keeps of a function of a module, for all its instances: prepared and generated code, and heat.

Both are made when they are first needed, in steps: walking and preparing a body of megabytes takes seconds, and what
holds an event loop up is made a piece at a time. Only Python's own compile() cannot be interrupted, so functions beyond
`MAX_COMPILED_OPERATORS` stay with the direct interpreter (20,000 operators take it about 70 ms).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from types import CodeType
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from aiowasm.engine.interpreter.generate import Generated
from aiowasm.engine.interpreter.generate import Generator as CodeGenerator
from aiowasm.engine.interpreter.prepare import Prepared, prepare_steps
from aiowasm.engine.interpreter.shapes import Unsupported
from aiowasm.syntax.types import FuncType, NumType, RefType, ValType
from aiowasm.validation.code import validate_function_steps
from aiowasm.validation.module import ValidatedModule
from aiowasm.validation.record import LocalTypes

if TYPE_CHECKING:
    from aiowasm.validation.record import FunctionRecord

__all__ = ("FunctionCode", "code_of")

HOT: Final = 32
"""Calls and loop iterations after which code is generated: what it costs is saved in about as many."""
MAX_COMPILED_OPERATORS: Final = 20_000
MAX_COMPILED_LOCALS: Final = 500
MAX_COMPILED_WIDTH: Final = 4_000
"""Labels of br_table and clauses of try_table: few operators may have many."""
LARGE_OPERATORS: Final = 2_000
"""Above, a function has to be hotter: Python's compile() holds the loop up for more than 8 ms."""
INLINE_NBYTES: Final = 1_000
"""A body up to this size is made ready inside a slice (about 1 ms)."""
INLINE_OPERATORS: Final = 300
"""Code up to this size is generated inside a slice (about 2 ms)."""

_SLOTS_PER_FRAME: Final = 4
_FREED_AT_ONCE: Final = 200_000


def zero_of(valtype: ValType) -> Any:
    """The default value of a type, in engine form."""
    if isinstance(valtype, RefType):
        return None
    if valtype in (NumType.F32, NumType.F64):
        return 0.0
    return bytes(16) if valtype is NumType.V128 else 0


def _zeros(record: FunctionRecord, nparams: int) -> tuple[Any, ...]:
    if isinstance(record.locals, LocalTypes):  # tens of thousands, in a few runs
        runs = [(zero_of(valtype),) * count for count, valtype in record.locals.runs()]
        return tuple(zero for run in runs for zero in run)[nparams:]
    return tuple([zero_of(valtype) for valtype in record.locals[nparams:]])


class Mark(NamedTuple):
    """What generated code says about a line: see `generate`.

    `pc` is where to go on, or the operator that traps plus one; `extra` the cost of a check point, or the first
    variable that takes a call's results.
    """

    kind: str
    pc: int
    extra: int


class FunctionCode:
    """One function of a module. `slots` is what a frame of it costs of the limit on stack slots."""

    __slots__ = (
        "__weakref__",
        "_marks",
        "_texts",
        "compiled",
        "defaults",
        "funcidx",
        "generated",
        "heat",
        "hot",
        "nbytes",
        "noperators",
        "nparams",
        "nresults",
        "offsets",
        "prepared",
        "record",
        "refused",
        "settled",
        "slots",
        "tail",
        "weight",
        "zeros",
    )

    def __init__(self, funcidx: int, functype: FuncType, nbytes: int, hot: int = HOT) -> None:
        self.funcidx = funcidx
        self.nparams = len(functype.params)
        self.nresults = len(functype.results)
        self.nbytes = nbytes
        self.slots = 0
        self.weight = 0
        """What entering the function takes of the slice, beyond its fuel: see `Interpreter.tire`."""
        self.zeros: tuple[Any, ...] = ()
        self.record: FunctionRecord | None = None
        """Kept until code is generated from it."""
        self.prepared: Prepared | None = None
        self.generated: Generated | None = None
        self.compiled: CodeType | None = None
        self.defaults: tuple[Any, ...] = ()
        self.refused = False
        self.settled = False
        """Calls need nothing made first: there is code, or there never will be."""
        """Code will not be generated."""
        self.heat = 0
        self.hot = hot
        """Heat above which code is generated."""
        self.noperators = 0
        self.tail = False
        self.offsets: Any = ()
        self._texts: dict[int, str] | None = None
        self._marks: dict[int, Mark] = {}

    def adopt(self, record: FunctionRecord, prepared: Prepared) -> None:
        """Take a record and its prepared form."""
        nlocals = len(record.locals)
        self.zeros = _zeros(record, self.nparams)
        self.weight = len(self.zeros) // 32 if len(self.zeros) > 64 else 0
        self.slots = nlocals + record.max_height + _SLOTS_PER_FRAME
        self.noperators = len(record.ops)
        self.offsets = record.offsets
        self.refused = (
            self.noperators > MAX_COMPILED_OPERATORS
            or nlocals > MAX_COMPILED_LOCALS
            or prepared.width > MAX_COMPILED_WIDTH
        )
        if self.noperators > LARGE_OPERATORS:
            self.hot = self.hot * self.noperators // 500
        self.record = None if self.refused else record
        self.settled = self.refused
        self.prepared = prepared

    def can_stay_cold(self) -> bool:
        """Whether the direct interpreter can run it now and should."""
        return self.compiled is None and self.prepared is not None and (self.heat < self.hot or self.refused)

    def prepare_steps(self, validated: ValidatedModule) -> Generator[None, None, None]:
        """Walk the body (validating it) and prepare it, yielding now and then.

        Raises:
            InvalidError: The body is not valid, and was not validated before.
        """
        record = yield from validate_function_steps(validated, self.funcidx - validated.nimported_funcs)
        self.adopt(record, (yield from prepare_steps(record)))
        if self.record is None:
            # Freeing millions of references at once would hold the loop up for 10 ms.
            while record.immediates:
                del record.immediates[-_FREED_AT_ONCE:]
                yield

    def compile_steps(self, validated: ValidatedModule) -> Generator[None, None, None]:
        """Generate the function's code, yielding now and then; afterwards it is there or `refused`."""
        record = self.record
        if record is None:
            return
        try:
            generated = yield from CodeGenerator(record, validated, self.funcidx).steps()
        except Unsupported:
            self.refused = self.settled = True
            self.record = None
            return
        yield
        outer = compile(generated.source, f"<wasm function {self.funcidx}>", "exec", dont_inherit=True)
        maker = next(constant for constant in outer.co_consts if isinstance(constant, CodeType))
        self.generated = generated
        self.tail = generated.has_tail
        values = {"0": 0, "0.0": 0.0, "V0": bytes(16), "None": None}
        self.defaults = (0, *(values[text] for text in generated.defaults))
        # Last, for stores of other threads that share the module.
        self.compiled = next(constant for constant in maker.co_consts if isinstance(constant, CodeType))
        self.settled = True
        self.record = None

    # Generated code, read backwards

    def mark(self, line: int) -> Mark:
        """What the source says about *line*."""
        mark = self._marks.get(line)
        return self._read_mark(line) if mark is None else mark

    def _read_mark(self, line: int) -> Mark:
        if self._texts is None:
            source = self.generated.source if self.generated is not None else ""
            self._texts = {
                number: text.rsplit("#", 1)[1] for number, text in enumerate(source.split("\n"), start=2) if "#" in text
            }
        text = self._texts[line]
        numbers = [int(number) for number in text[1:].split(":")] if text != "D" else [0]
        pc = numbers[0] if text[0] in "Dkc" else numbers[0] + 1
        mark = self._marks[line] = Mark(text[0], pc, numbers[1] if len(numbers) > 1 else 0)
        return mark

    def index_of(self, line: int) -> int:
        """The operator that *line* of the source executes; -1 before the first."""
        return self.mark(line).pc - 1

    def landing(
        self, index: int, exception: Any, tags: Any, tire: Callable[[int], None]
    ) -> tuple[int, list[Any]] | None:
        """The innermost clause for an exception thrown at operator *index*: (its number, the values it carries)."""
        found = None if self.generated is None else self.generated.handlers.find(index, exception, tags, tire)
        if found is None:
            return None
        _start, (kind, _tagidx, number) = found
        values = list(exception.values) if kind < 2 else []
        return number, [*values, exception] if kind & 1 else values


_codes: WeakKeyDictionary[ValidatedModule, dict[int, FunctionCode]] = WeakKeyDictionary()


def code_of(validated: ValidatedModule, funcidx: int, hot: int = HOT) -> FunctionCode:
    """The code of a function that *validated* defines; not ready when it is new."""
    codes = _codes.get(validated)
    if codes is None:
        codes = _codes[validated] = {}
    code = codes.get(funcidx)
    if code is None:
        functype = validated.funcs[funcidx].comptype
        if not isinstance(functype, FuncType):
            raise TypeError("a function without a function type")
        nbytes = validated.module.funcs[funcidx - validated.nimported_funcs].nbytes
        code = codes[funcidx] = FunctionCode(funcidx, functype, nbytes, hot)
    return code
