"""Type identity and matching (the standard's chapter 3.3).

A `DefType` is one type of a closed recursion group. Groups are interned process-wide by structure, weakly, so that
types of all modules compare by identity and nothing is kept when the last user is gone. Supertypes are recorded as a
display: a subtype test is one comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from operator import is_
from weakref import ref

from aiowasm.syntax.guard import Guard
from aiowasm.syntax.steps import finish
from aiowasm.syntax.types import (
    AbsHeapType,
    ArrayType,
    Bot,
    CompType,
    FieldType,
    FuncType,
    HeapType,
    PackedType,
    RecType,
    RefType,
    StorageType,
    StructType,
    SubType,
    ValType,
)

__all__ = (
    "DefType",
    "close_rectype",
    "close_rectype_steps",
    "is_defaultable",
    "kind_of",
    "map_comptype",
    "map_valtype",
    "matches_comptype",
    "matches_field",
    "matches_functype",
    "matches_heaptype",
    "matches_reftype",
    "matches_valtype",
    "one_reftype",
)


_Change = Callable[[HeapType], HeapType]


class _Group:
    """An interned recursion group: `key` is its structure with references inside the group as negative numbers."""

    __slots__ = ("__weakref__", "deftypes", "key")

    key: tuple[SubType, ...]
    deftypes: tuple[DefType, ...]


class DefType:
    """One type of a closed recursion group; compares by identity.

    `comptype` has closed types throughout. `supertypes` is the chain of supertypes, outermost first, ending in the type
    itself: the display that makes a subtype test one comparison.
    """

    __slots__ = ("__weakref__", "comptype", "final", "group", "index", "nonnull", "nullable", "supertypes")

    group: _Group
    index: int
    final: bool
    comptype: CompType
    supertypes: tuple[DefType, ...]
    nonnull: RefType | None
    nullable: RefType | None

    def __init__(self) -> None:
        self.nonnull = self.nullable = None

    def __str__(self) -> str:
        # Types within stand as their kinds: written out they may be endless, or double at every level.
        return str(map_comptype(self.comptype, lambda t: kind_of(t) if isinstance(t, DefType) else t))

    def is_subtype_of(self, other: DefType) -> bool:
        """Whether *other* is this type or one of its declared supertypes."""
        depth = len(other.supertypes) - 1
        return depth < len(self.supertypes) and self.supertypes[depth] is other


class _Weak(ref[_Group]):
    """A weak reference that knows under which number it is kept."""

    __slots__ = ("number",)
    number: int


_groups: dict[int, tuple[_Weak, ...]] = {}
"""Hash of the key -> the groups that are alive. Not a weak dictionary: large keys are hashed and compared in steps."""
_guard = Guard()
"""For those who change them."""

_STEP = 300


def close_rectype(rectype: RecType, first: int, deftypes: list[DefType]) -> tuple[DefType, ...]:
    """Return the defined types of *rectype*, whose first type has index *first*.

    *deftypes* are the closed types of all lower indices. Every type index must be below
    `first + len(rectype.subtypes)`: validation has checked it. Spec: `$rolldt`, `$clos_deftype`.
    """
    return finish(close_rectype_steps(rectype, first, deftypes))


def close_rectype_steps(
    rectype: RecType, first: int, deftypes: list[DefType]
) -> Generator[None, None, tuple[DefType, ...]]:
    """Like `close_rectype`, yielding after some hundreds of types."""

    def roll(heaptype: HeapType) -> HeapType:
        if isinstance(heaptype, int):
            return deftypes[heaptype] if heaptype < first else first - heaptype - 1
        return heaptype

    rolled = []
    number = 0
    for index, subtype in enumerate(rectype.subtypes):
        mapped = _map_subtype(subtype, roll)
        rolled.append(mapped)
        number = hash((number, mapped))
        if index % _STEP == _STEP - 1:
            yield
    key = tuple(rolled)
    group = yield from _find(number, key, set())
    if group is None:
        made = yield from _make_group(key)
        weak = _Weak(made, _forget)
        weak.number = number
        while group is None:
            # Someone else may have made it between two steps, or may be making it in another thread.
            known = _groups.get(number, ())
            group = yield from _find(number, key, set())
            with _guard:
                if group is None and _groups.get(number, ()) is known:
                    _groups[number] = (*known, weak)
                    group = made
    return group.deftypes


def _find(number: int, key: tuple[SubType, ...], seen: set[int]) -> Generator[None, None, _Group | None]:
    """Look for a group that is alive; groups that appear meanwhile are looked at, too."""
    while True:
        alive = [group for weak in _groups.get(number, ()) if (group := weak()) is not None and id(group) not in seen]
        if not alive:
            return None
        for group in alive:
            seen.add(id(group))
            if len(group.key) == len(key):
                for at in range(0, len(key), _STEP):
                    if at:
                        yield
                    if group.key[at : at + _STEP] != key[at : at + _STEP]:
                        break
                else:
                    return group


def _forget(gone: ref[_Group]) -> None:
    if isinstance(gone, _Weak):
        with _guard:
            weaks = tuple([weak for weak in _groups.get(gone.number, ()) if weak is not gone])
            if weaks:
                _groups[gone.number] = weaks
            else:
                _groups.pop(gone.number, None)


def _make_group(key: tuple[SubType, ...]) -> Generator[None, None, _Group]:
    group = _Group()
    group.key = key
    made = []
    for index in range(len(key)):
        made.append(DefType())
        if index % _STEP == _STEP - 1:
            yield

    def unroll(heaptype: HeapType) -> HeapType:
        return made[-heaptype - 1] if isinstance(heaptype, int) else heaptype

    for index, subtype in enumerate(key):
        deftype = made[index]
        closed = _map_subtype(subtype, unroll)
        deftype.group = group
        deftype.index = index
        deftype.final = closed.final
        deftype.comptype = closed.comptype
        above = closed.supertypes[0] if closed.supertypes else None
        # A supertype has a lower index (validation), so its display exists.
        deftype.supertypes = (*above.supertypes, deftype) if isinstance(above, DefType) else (deftype,)
        if index % _STEP == _STEP - 1:
            yield
    group.deftypes = tuple(made)
    return group


def _map_subtype(subtype: SubType, change: _Change) -> SubType:
    supertypes = tuple([change(heaptype) for heaptype in subtype.supertypes])
    comptype = map_comptype(subtype.comptype, change)
    if comptype is subtype.comptype and supertypes == subtype.supertypes:
        return subtype
    return SubType(subtype.final, supertypes, comptype)


def map_comptype(comptype: CompType, change: _Change) -> CompType:
    """Return *comptype* with *change* applied to every heap type in it: itself if nothing changes."""
    if isinstance(comptype, FuncType):
        params, results = _map_valtypes(comptype.params, change), _map_valtypes(comptype.results, change)
        same = params is comptype.params and results is comptype.results
        return comptype if same else FuncType(params, results)
    if isinstance(comptype, StructType):
        # Ten thousand fields are a handful of objects: the decoder shares them, and so does this.
        fields = {id(field): field for field in comptype.fields}
        changed = {number: _map_field(field, change) for number, field in fields.items()}
        if all(changed[number] is field for number, field in fields.items()):
            return comptype
        return StructType(tuple([changed[id(field)] for field in comptype.fields]))
    field = _map_field(comptype.field, change)
    return comptype if field is comptype.field else ArrayType(field)


def _map_valtypes(valtypes: tuple[ValType, ...], change: _Change) -> tuple[ValType, ...]:
    if not any(isinstance(valtype, RefType) for valtype in valtypes):
        return valtypes
    mapped = tuple([map_valtype(valtype, change) for valtype in valtypes])
    return valtypes if all(map(is_, mapped, valtypes)) else mapped


def _map_field(field: FieldType, change: _Change) -> FieldType:
    if isinstance(field.storage, RefType):
        storage = map_valtype(field.storage, change)
        return field if storage is field.storage else FieldType(storage, field.mutable)
    return field


def map_valtype(valtype: ValType, change: _Change) -> ValType:
    """Return *valtype* with *change* applied to its heap type, if it has one."""
    if isinstance(valtype, RefType):
        heaptype = change(valtype.heaptype)
        # Types in open form, by index, are not kept as one object: they stay as they are.
        return (
            valtype
            if isinstance(heaptype, int) and heaptype == valtype.heaptype
            else one_reftype(valtype.nullable, heaptype)
        )
    return valtype


def one_reftype(nullable: bool, heaptype: HeapType) -> RefType:
    """Return the reference type; of closed types always the same object, so that equal ones are identical."""
    if isinstance(heaptype, DefType):
        made = heaptype.nullable if nullable else heaptype.nonnull
        if made is None:
            made = RefType(nullable, heaptype)
            if nullable:
                heaptype.nullable = made
            else:
                heaptype.nonnull = made
        return made
    return RefType(nullable, heaptype) if isinstance(heaptype, int) else _ABSTRACT[heaptype][nullable]


_A = AbsHeapType

_ABOVE: dict[AbsHeapType, frozenset[AbsHeapType]] = {
    _A.ANY: frozenset({_A.ANY}),
    _A.EQ: frozenset({_A.EQ, _A.ANY}),
    _A.I31: frozenset({_A.I31, _A.EQ, _A.ANY}),
    _A.STRUCT: frozenset({_A.STRUCT, _A.EQ, _A.ANY}),
    _A.ARRAY: frozenset({_A.ARRAY, _A.EQ, _A.ANY}),
    _A.NONE: frozenset({_A.NONE, _A.I31, _A.STRUCT, _A.ARRAY, _A.EQ, _A.ANY}),
    _A.FUNC: frozenset({_A.FUNC}),
    _A.NOFUNC: frozenset({_A.NOFUNC, _A.FUNC}),
    _A.EXTERN: frozenset({_A.EXTERN}),
    _A.NOEXTERN: frozenset({_A.NOEXTERN, _A.EXTERN}),
    _A.EXN: frozenset({_A.EXN}),
    _A.NOEXN: frozenset({_A.NOEXN, _A.EXN}),
    _A.BOT: frozenset(_A),
}
"""Abstract heap type -> the abstract heap types it matches."""


_ABSTRACT = {heaptype: (RefType(False, heaptype), RefType(True, heaptype)) for heaptype in _A}


def kind_of(deftype: DefType) -> AbsHeapType:
    """Return the abstract heap type just above *deftype*: func, struct or array."""
    comptype = deftype.comptype
    if isinstance(comptype, FuncType):
        return _A.FUNC
    return _A.STRUCT if isinstance(comptype, StructType) else _A.ARRAY


def matches_heaptype(sub: HeapType, sup: HeapType) -> bool:
    """Whether *sub* matches *sup*; both closed. Spec: `Heaptype_sub`."""
    if sub is sup:
        return True
    if isinstance(sub, DefType):
        if isinstance(sup, DefType):
            return sub.is_subtype_of(sup)
        return isinstance(sup, AbsHeapType) and sup in _ABOVE[kind_of(sub)]
    if not isinstance(sub, AbsHeapType):
        return False
    if isinstance(sup, DefType):
        bottom = _A.NOFUNC if kind_of(sup) is _A.FUNC else _A.NONE
        return sub is bottom or sub is _A.BOT
    return sup in _ABOVE[sub]


def matches_reftype(sub: RefType, sup: RefType) -> bool:
    """Whether *sub* matches *sup*; both closed. Spec: `Reftype_sub`."""
    return (sup.nullable or not sub.nullable) and matches_heaptype(sub.heaptype, sup.heaptype)


def matches_valtype(sub: ValType | Bot, sup: ValType) -> bool:
    """Whether *sub* matches *sup*; both closed. Spec: `Valtype_sub`."""
    if sub is sup or isinstance(sub, Bot):
        return True
    return isinstance(sub, RefType) and isinstance(sup, RefType) and matches_reftype(sub, sup)


def _matches_all(subs: tuple[ValType, ...], sups: tuple[ValType, ...]) -> bool:
    return len(subs) == len(sups) and all(matches_valtype(sub, sup) for sub, sup in zip(subs, sups, strict=True))


def matches_functype(sub: FuncType, sup: FuncType) -> bool:
    """Whether *sub* matches *sup*: parameters contravariant, results covariant. Spec: `Comptype_sub/func`."""
    return _matches_all(sup.params, sub.params) and _matches_all(sub.results, sup.results)


def _matches_storage(sub: StorageType, sup: StorageType) -> bool:
    if isinstance(sub, PackedType) or isinstance(sup, PackedType):
        return sub is sup
    return matches_valtype(sub, sup)


def matches_field(sub: FieldType, sup: FieldType) -> bool:
    """Whether *sub* matches *sup*: mutable fields are invariant. Spec: `Fieldtype_sub`."""
    if sub.mutable != sup.mutable or not _matches_storage(sub.storage, sup.storage):
        return False
    return not sub.mutable or _matches_storage(sup.storage, sub.storage)


def matches_comptype(sub: CompType, sup: CompType) -> bool:
    """Whether *sub* matches *sup*. Spec: `Comptype_sub`."""
    if isinstance(sub, FuncType) and isinstance(sup, FuncType):
        return matches_functype(sub, sup)
    if isinstance(sub, StructType) and isinstance(sup, StructType):
        return len(sub.fields) >= len(sup.fields) and all(
            matches_field(mine, theirs) for mine, theirs in zip(sub.fields, sup.fields, strict=False)
        )
    return isinstance(sub, ArrayType) and isinstance(sup, ArrayType) and matches_field(sub.field, sup.field)


def is_defaultable(storage: StorageType) -> bool:
    """Whether *storage* has a default value: a number, a vector, a packed field or a nullable reference."""
    return not isinstance(storage, RefType) or storage.nullable
