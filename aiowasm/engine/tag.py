"""Tag instances (the standard's chapter 4.2.10). Throwing and catching is the business of engines."""

from __future__ import annotations

from aiowasm.syntax.matching import DefType

__all__ = ("TagInst",)


class TagInst:
    """A tag of closed type `deftype`; its identity is what handlers compare. `owner` is the store's."""

    __slots__ = ("__weakref__", "deftype", "owner")

    def __init__(self, deftype: DefType) -> None:
        self.deftype = deftype
        self.owner: object = None
