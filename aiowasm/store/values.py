"""Values between host form and engine form: the converters of arguments, results, globals and table elements.

Engine form: i32 and i64 are canonical unsigned ints, f32 (already rounded) and f64 floats, v128 bytes(16), a null
reference is None. Host form: i32 and i64 are signed ints (unsigned where a host function says u32 or u64), v128 is
bytes, a function is a handle, an externref any object. What a handle is belongs to the store: it comes in as
`References`. Converters are closures, made once per signature, since each call runs them; nothing here knows functions
or instances.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import copysign, inf
from operator import call, index
from struct import Struct
from types import CoroutineType
from typing import Final, NamedTuple

from aiowasm.syntax.types import AbsHeapType, NumType, RefType, ValType

__all__ = (
    "NO_REFERENCES",
    "References",
    "arguments_to_engine",
    "arguments_to_host",
    "engine_converter",
    "from_engine",
    "host_converter",
    "results_to_engine",
    "results_to_host",
    "to_engine",
)

Converter = Callable[[object], object]
ManyConverter = Callable[[Sequence[object]], tuple[object, ...]]


def _identity(value: object) -> object:
    return value


class References(NamedTuple):
    """How a store's handles stand for references other than null and external ones.

    `accepts(value, reftype)`: whether a host value is a handle of this store whose reference matches the type.
    """

    accepts: Callable[[object, RefType], bool]
    to_engine: Converter = _identity
    to_host: Converter = _identity


def _accepts_none(_value: object, _reftype: RefType) -> bool:
    return False


NO_REFERENCES: Final = References(_accepts_none)
"""For values without a store: null and external references only."""


def _got(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _integer_to_engine(bits: int, where: str) -> Converter:
    low, mask = -(1 << (bits - 1)), (1 << bits) - 1

    def convert(value: object) -> object:
        # What is true of most arguments comes first: calls are bound by this.
        if type(value) is int and 0 <= value <= mask:
            return value
        try:
            number = index(value)  # type: ignore[arg-type]
        except TypeError:
            if hasattr(type(value), "__index__"):
                raise
            raise TypeError(f"{where}expected an int for i{bits}, got {_got(value)}") from None
        if low <= number <= mask:
            return number & mask
        raise OverflowError(f"{where}out of range for i{bits}: {_shorten(number)}")

    return convert


def _shorten(number: int) -> str:
    # str() of an int of many digits is slow, and refused by Python beyond its limit.
    return str(number) if number.bit_length() <= 128 else f"an int of {number.bit_length()} bits"


_F32 = Struct("<f")


def _to_float(value: object, name: str, where: str) -> float:
    # float() would parse strings, which is not a conversion of numbers.
    if not hasattr(type(value), "__float__") and not hasattr(type(value), "__index__"):
        raise TypeError(f"{where}expected a float for {name}, got {_got(value)}")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise OverflowError(f"{where}out of range for {name}: an int too large for a float") from None


def _round_f32(number: float) -> float:
    try:
        rounded: float = _F32.unpack(_F32.pack(number))[0]
    except OverflowError:
        return copysign(inf, number)
    return rounded


def _round_to_odd(number: int) -> int:
    """Return an int of at most 50 significant bits that rounds to f32 as *number* does, without double rounding."""
    excess = number.bit_length() - 50
    if excess <= 0:
        return number
    sticky = (number >> excess) << excess != number
    return ((number >> excess) | sticky) << excess


def _f32_to_engine(where: str) -> Converter:
    pack, unpack = _F32.pack, _F32.unpack

    def convert(value: object) -> object:
        if type(value) is float:
            try:
                return unpack(pack(value))[0]
            except OverflowError:
                return copysign(inf, value)
        if isinstance(value, int):
            value = _round_to_odd(int(value))
        return _round_f32(_to_float(value, "f32", where))

    return convert


def _f64_to_engine(where: str) -> Converter:
    def convert(value: object) -> object:
        return value if type(value) is float else _to_float(value, "f64", where)

    return convert


def _v128_to_engine(where: str) -> Converter:
    def convert(value: object) -> object:
        if type(value) is not bytes:
            try:
                view = memoryview(value)  # type: ignore[arg-type]
            except TypeError:
                raise TypeError(f"{where}expected 16 bytes for v128, got {_got(value)}") from None
            with view:
                if view.nbytes != 16:  # before the copy
                    raise TypeError(f"{where}expected 16 bytes for v128, got {view.nbytes}")
                return view.tobytes()
        if len(value) != 16:
            raise TypeError(f"{where}expected 16 bytes for v128, got {len(value)}")
        return value

    return convert


def _reference_to_engine(reftype: RefType, references: References, where: str) -> Converter:
    nullable, external = reftype.nullable, reftype.heaptype is AbsHeapType.EXTERN
    accepts, unwrap = references.accepts, references.to_engine

    def convert(value: object) -> object:
        if value is None:
            if nullable:
                return None
        elif external:
            return value
        elif accepts(value, reftype):
            return unwrap(value)
        raise TypeError(f"{where}expected {reftype}, got {_got(value)}")

    return convert


def engine_converter(valtype: ValType, references: References = NO_REFERENCES, where: str = "") -> Converter:
    """Return the function that converts one host value to engine form.

    It raises TypeError for what is no value of the type and OverflowError for an integer beyond both the signed and the
    unsigned range. *where* starts the messages: "argument 1: ".
    """
    if isinstance(valtype, RefType):
        return _reference_to_engine(valtype, references, where)
    if valtype is NumType.I32:
        return _integer_to_engine(32, where)
    if valtype is NumType.I64:
        return _integer_to_engine(64, where)
    if valtype is NumType.F32:
        return _f32_to_engine(where)
    return _f64_to_engine(where) if valtype is NumType.F64 else _v128_to_engine(where)


def _i32_to_host(value: object) -> object:
    return value - 0x1_0000_0000 if value > 0x7FFF_FFFF else value  # type: ignore[operator]


def _i64_to_host(value: object) -> object:
    return value - 0x1_0000_0000_0000_0000 if value > 0x7FFF_FFFF_FFFF_FFFF else value  # type: ignore[operator]


def host_converter(
    valtype: ValType, references: References = NO_REFERENCES, *, unsigned: bool = False
) -> Converter | None:
    """Return the function that converts one engine value to host form, None where both forms are one."""
    if isinstance(valtype, RefType):
        if valtype.heaptype is AbsHeapType.EXTERN or references.to_host is _identity:
            return None
        wrap = references.to_host
        return lambda value: None if value is None else wrap(value)
    if unsigned:
        return None
    return {NumType.I32: _i32_to_host, NumType.I64: _i64_to_host}.get(valtype)


def to_engine(valtype: ValType, value: object, references: References = NO_REFERENCES) -> object:
    """Convert one value to engine form; for many values of one type keep an `engine_converter`."""
    return engine_converter(valtype, references)(value)


def from_engine(
    valtype: ValType, value: object, references: References = NO_REFERENCES, *, unsigned: bool = False
) -> object:
    """Convert one value to host form; for many values of one type keep a `host_converter`."""
    convert = host_converter(valtype, references, unsigned=unsigned)
    return value if convert is None else convert(value)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _many(converters: tuple[Converter, ...], noun: str, verb: str) -> ManyConverter:
    """One function for a whole signature, written out for the usual lengths: unpacking checks the arity for free."""
    count = len(converters)

    def wrong(values: Sequence[object]) -> TypeError:
        return TypeError(f"{verb} {_plural(count, noun)}, got {len(values)}")

    if count == 0:

        def none(values: Sequence[object]) -> tuple[object, ...]:
            if values:
                raise wrong(values)
            return ()

        return none
    if count == 1:
        (only,) = converters

        def one(values: Sequence[object]) -> tuple[object, ...]:
            if len(values) != 1:
                raise wrong(values)
            return (only(values[0]),)

        return one
    if count == 2:
        first, second = converters

        def two(values: Sequence[object]) -> tuple[object, ...]:
            if len(values) != 2:
                raise wrong(values)
            a, b = values
            return first(a), second(b)

        return two
    if count in (3, 4):
        first, second, third, *rest = converters
        fourth = rest[0] if rest else None

        def three_or_four(values: Sequence[object]) -> tuple[object, ...]:
            if len(values) != count:
                raise wrong(values)
            if fourth is None:
                a, b, c = values
                return first(a), second(b), third(c)
            a, b, c, d = values
            return first(a), second(b), third(c), fourth(d)

        return three_or_four

    def more(values: Sequence[object]) -> tuple[object, ...]:
        if len(values) != count:
            raise wrong(values)
        return tuple(map(call, converters, values))

    return more


def arguments_to_engine(valtypes: Sequence[ValType], references: References = NO_REFERENCES) -> ManyConverter:
    """Return the function that checks and converts the arguments of a call by the host."""
    converters = tuple(
        engine_converter(valtype, references, f"argument {position}: ") for position, valtype in enumerate(valtypes, 1)
    )
    return _many(converters, "argument", "expected")


def arguments_to_host(
    valtypes: Sequence[ValType], references: References = NO_REFERENCES, unsigned: Sequence[bool] = ()
) -> ManyConverter:
    """Return the function that converts the arguments of a call by the guest.

    *unsigned* says for each parameter whether the host function takes it unsigned; empty: none.
    """
    flags = tuple(unsigned) or (False,) * len(valtypes)
    converters = [
        host_converter(valtype, references, unsigned=flag) for valtype, flag in zip(valtypes, flags, strict=True)
    ]
    if not any(converters):
        return tuple
    return _many(tuple(convert or _identity for convert in converters), "argument", "expected")


def results_to_host(
    valtypes: Sequence[ValType], references: References = NO_REFERENCES
) -> Callable[[Sequence[object]], object]:
    """Return the function that makes what the host sees of a guest's results: None, the one value, or a tuple."""
    if not valtypes:
        return lambda values: None
    if len(valtypes) == 1:
        convert = host_converter(valtypes[0], references)
        if convert is None:
            return lambda values: values[0]
        return lambda values: convert(values[0])
    return arguments_to_host(valtypes, references)


def results_to_engine(
    valtypes: Sequence[ValType], references: References = NO_REFERENCES
) -> Callable[[object], tuple[object, ...]]:
    """Return the function that checks and converts what a host function returned.

    A coroutine is never a result: a plain function that returned one forgot `async def`. It is closed, then TypeError.
    """
    if not valtypes:

        def nothing(result: object) -> tuple[object, ...]:
            if result is not None:
                _refuse_coroutine(result)
                raise TypeError(f"expected no result, got {_got(result)}")
            return ()

        return nothing
    if len(valtypes) == 1:
        convert = engine_converter(valtypes[0], references, "result: ")

        def single(result: object) -> tuple[object, ...]:
            if type(result) is CoroutineType:
                _refuse_coroutine(result)
            return (convert(result),)

        return single
    converters = tuple(
        engine_converter(valtype, references, f"result {position}: ") for position, valtype in enumerate(valtypes, 1)
    )
    many = _many(converters, "result", "expected")
    count = len(converters)

    def several(result: object) -> tuple[object, ...]:
        if not isinstance(result, tuple):
            _refuse_coroutine(result)
            raise TypeError(f"expected a tuple of {count} results, got {_got(result)}")
        return many(result)

    return several


def _refuse_coroutine(result: object) -> None:
    if isinstance(result, CoroutineType):
        result.close()  # else Python warns that it was never awaited
        raise TypeError("the host function returned a coroutine: it must be declared with async def")
