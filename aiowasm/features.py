"""Proposals of WebAssembly and the feature flags that admit them.

A `Feature` is one proposal, under the name its flag has on the command line. A set of features is a frozenset; the
named sets are the versions of the standard. What a feature changes is not here: the instruction table names the feature
of each row, and decoder, parser and validator name it where a proposal widens a rule.
"""

from __future__ import annotations

from enum import Enum

__all__ = ("ALL", "DEFAULT", "PROFILES", "WASM_1", "WASM_2", "WASM_3", "Feature", "Features")


class Feature(Enum):
    """One proposal; its value is the flag's name."""

    MUTABLE_GLOBALS = "mutable-globals"
    SIGN_EXTENSION = "sign-extension"
    MULTI_VALUE = "multi-value"
    SATURATING_FLOAT_TO_INT = "saturating-float-to-int"
    BULK_MEMORY = "bulk-memory"
    REFERENCE_TYPES = "reference-types"
    SIMD = "simd"
    RELAXED_SIMD = "relaxed-simd"
    TAIL_CALLS = "tail-calls"
    EXTENDED_CONST = "extended-const"
    EXCEPTIONS = "exceptions"
    FUNCTION_REFERENCES = "function-references"
    GC = "gc"
    MULTI_MEMORY = "multi-memory"
    MEMORY64 = "memory64"
    THREADS = "threads"
    LEGACY_EXCEPTIONS = "legacy-exceptions"
    CUSTOM_PAGE_SIZES = "custom-page-sizes"
    WIDE_ARITHMETIC = "wide-arithmetic"

    # Identity hashing: features are looked up on hot paths of validation.
    __hash__ = object.__hash__


Features = frozenset[Feature]

WASM_1: Features = frozenset({Feature.MUTABLE_GLOBALS})

WASM_2: Features = WASM_1 | {
    Feature.SIGN_EXTENSION,
    Feature.MULTI_VALUE,
    Feature.SATURATING_FLOAT_TO_INT,
    Feature.BULK_MEMORY,
    Feature.REFERENCE_TYPES,
    Feature.SIMD,
}

WASM_3: Features = WASM_2 | {
    Feature.RELAXED_SIMD,
    Feature.TAIL_CALLS,
    Feature.EXTENDED_CONST,
    Feature.EXCEPTIONS,
    Feature.FUNCTION_REFERENCES,
    Feature.GC,
    Feature.MULTI_MEMORY,
    Feature.MEMORY64,
}

DEFAULT: Features = WASM_3 | {Feature.THREADS, Feature.LEGACY_EXCEPTIONS}
"""What browsers run; custom page sizes and wide arithmetic are opt-in."""

ALL: Features = frozenset(Feature)

PROFILES: dict[str, Features] = {
    "wasm1": WASM_1,
    "wasm2": WASM_2,
    "wasm3": WASM_3,
    "default": DEFAULT,
    "all": ALL,
}
"""Named sets, as `--features` accepts them."""
