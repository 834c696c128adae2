"""Which features a script of the upstream suite assumes: its folder says so."""

from __future__ import annotations

from pathlib import Path

from aiowasm.features import DEFAULT, WASM_2, Feature, Features

__all__ = ("UNSUPPORTED", "profile")

_PROFILES: dict[str, Features] = {
    # Its scripts assert that several memories or tables are invalid: they are older than reference types.
    "threads": WASM_2 - {Feature.REFERENCE_TYPES, Feature.SIMD} | {Feature.THREADS},
    "custom-page-sizes": DEFAULT | {Feature.CUSTOM_PAGE_SIZES},
    "wide-arithmetic": DEFAULT | {Feature.WIDE_ARITHMETIC},
}

UNSUPPORTED = frozenset({"custom-descriptors"})
"""Proposals whose features aiowasm does not have."""


def profile(path: Path) -> Features | str:
    """Return the features that a script assumes, or the name of the proposal that is not supported."""
    folders = path.absolute().parent.parts
    # Below proposals/ the next folder counts, elsewhere the script's own: someone may have copied it.
    last = len(folders) - 1 - folders[::-1].index("proposals") if "proposals" in folders[:-1] else len(folders) - 2
    proposal = folders[last + 1]
    if proposal in UNSUPPORTED:
        return proposal
    return _PROFILES.get(proposal, DEFAULT)
