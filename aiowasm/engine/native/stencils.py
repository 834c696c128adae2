"""The stencils at run time: loads a blob, chooses stencils for operands, remembers the patched bytes.

All but branches are position independent, so that one copy serves every function and module that needs the same
operator on the same operands. Operands are small numbers: a slot of the frame, a register, or a constant.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Final

from aiowasm.engine.native.encoding import ENCODINGS, Hole, Kept
from aiowasm.engine.native.encoding.operands import C32, C64, CF, constant, signed, slot
from aiowasm.engine.storage import WIDTHS
from aiowasm.syntax.instructions import INSTRUCTIONS

__all__ = ("C32", "C64", "CF", "KEPT", "LOADED", "NEAR", "PAD", "F", "Memo", "R", "Stencils", "V", "slot")

# Entries of the compiler's operand stack: slots from 0, then what follows.
R: Final = -1
"""In the integer register."""
F: Final = -2
"""In the float register."""
V: Final = -3
"""A v128 in the float register."""
PAD: Final = -4
"""The second slot of the v128 below."""
KEPT: Final = -(1 << 40)
"""From here to 7 more: in the float register of that number, which the loop keeps it in. Never on the stack."""

_RESULT_PLACE: Final = {"i32": R, "i64": R, "f32": F, "f64": F, "v128": V}
LOADED: Final = {
    row.code: _RESULT_PLACE[row.operation.shape]
    for row in INSTRUCTIONS
    if row.operation is not None and row.operation.family in ("load", "store", "load_splat", "load_extend", "load_zero")
}
"""Register of the value that a load makes or a store takes."""
NEAR: Final = (1 << 31) - 64
"""The largest offset of a load or store that fits an instruction."""

_MASK64: Final = (1 << 64) - 1
_MEMO_ENTRIES: Final = 100_000


_STORES: Final = {R: "stR", F: "stF", V: "stV"}
_HOLES: Final = tuple(("H" + letter, "K" + letter, "W" + letter) for letter in "ABC")
"""Where an operand goes: a slot, a constant, the lower half of a constant."""


class Memo(dict[Any, Any]):
    """Patched code by what it depends on; forgets everything when it has grown too large."""

    def __init__(self, make: Callable[..., Any]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: Any) -> Any:
        if len(self) > _MEMO_ENTRIES:
            self.clear()
        value = self[key] = self._make(*key) if isinstance(key, tuple) else self._make(key)
        return value


Access = tuple[str, int, int, int]
"""What an access adds: variant of the address, offset, bytes, place of the memory's pointer in the instance."""


class Stencils:
    """A blob: `labels` are offsets in certain stencils, `pool` the constants that code refers to."""

    def __init__(self, path: Path, *, far: bool = False) -> None:
        self._path = path
        data = path.read_bytes()
        (length,) = struct.unpack_from("<I", data)
        header = json.loads(data[4 : 4 + length])
        body = data[4 + length :]
        self.pool: bytes = body[: header["pool"]]
        self.labels: dict[str, int] = header["labels"]
        code: dict[str, bytes] = {}
        holes: dict[str, Sequence[Hole]] = {}
        at, parts = len(self.pool), iter(header["holes"])
        each = zip(parts, parts, parts, parts, strict=True)
        for name, nbytes, count in zip(header["names"], header["sizes"], header["counts"], strict=True):
            code[name] = body[at : at + nbytes]
            holes[name] = tuple(islice(each, count))
            at += nbytes
        self.encoding = ENCODINGS[header["machine"]](code, holes, frozenset(header["fixed"]))
        self.encoding.far = far
        self._names = code.keys()
        self.patch = self.encoding.patch
        """Of name, whether the length may change, values by the name of the hole: code, and the fixups in it."""
        self.code = Memo(self._operator)
        self.store = Memo(self._store)
        self.branch = Memo(self._branch)
        self.truth = Memo(self._truth)
        """Branches on an i32."""
        self.fragment = Memo(self._fragment)
        self.access = Memo(self._access)
        """With where it branches to if the address is out of bounds."""
        self.load = Memo(self._load)
        self.save = Memo(self._save)
        """The same for the usual accesses, to memory 0 with addresses of 32 bits; None: it is something else."""
        self.vector = Memo(self._vector)
        self.unchecked = Memo(self._unchecked)
        """As `vector`, for results of which nothing can tell which NaN they are."""
        self.call = Memo(self._call)
        self.zeros = Memo(self._zeros)
        """Code that clears slots: the first, and how many."""
        self.charge = Memo(self.encoding.charge)
        self.takes_kept = Memo(self._takes_kept)
        self.float = Memo(self._float)
        """With where it branches to if the result is a NaN."""

    def __contains__(self, name: str) -> bool:
        return name in self._names

    @cached_property
    def far(self) -> Stencils:
        """The same with branches that reach farther, for large functions."""
        return Stencils(self._path, far=True)

    def raw(self, name: str) -> bytes:
        """Return the bytes of a routine, which has no holes."""
        if any(symbol for _, _, symbol, _ in self.encoding.holes[name]):
            raise RuntimeError(f"{name} has holes")
        return self.encoding.code[name]

    # What the memos make

    def _operator(self, code: int, a: int, b: int | None = None) -> bytes:
        return self._select(f"{code:x}", "", (a,) if b is None else (a, b), None)[0]

    def _access(self, code: int, a: int, b: int | None, access: Access) -> tuple[bytes, tuple[int, ...]]:
        return self._select(f"{code:x}", "", (a,) if b is None else (a, b), access)

    def _load(self, code: int, address: int, immediate: Any) -> tuple[bytes, int] | None:
        return self._usual(code, address, None, immediate) if LOADED[code] == R else None

    def _save(self, code: int, address: int, value: int, immediate: Any) -> tuple[bytes, int] | None:
        if value >= CF or LOADED[code] == V or (address >= C32 and value >= C32):
            return None
        return self._usual(code, address, value, immediate)

    def _usual(self, code: int, address: int, value: int | None, immediate: Any) -> tuple[bytes, int] | None:
        if isinstance(immediate, tuple) or immediate > NEAR:
            return None
        entries = (address,) if value is None else (address, value)
        made, targets = self._select(f"{code:x}", "", entries, ("", immediate, WIDTHS[code], 0))
        return (made, targets[0]) if len(targets) == 1 else None

    def _branch(self, code: int, a: int, b: int | None, sense: str) -> tuple[bytes, tuple[int, ...]]:
        return self._select(f"{code:x}", sense, (a,) if b is None else (a, b), None)

    def _truth(self, entry: int, sense: str) -> tuple[bytes, tuple[int, ...]]:
        if 0 <= entry < C32:
            return self.patch("brS" + sense, True, {"HA": slot(entry)})
        before = self.integer(entry)
        code, targets = self.patch("brR" + sense, False, {})
        return before + code, tuple(target + len(before) for target in targets)

    def _float(self, code: int, *entries: int) -> tuple[bytes, tuple[int, ...]]:
        return self._select(f"{code:x}", "", entries, None)

    def _vector(self, name: str, *entries: int) -> tuple[bytes, tuple[int, ...]]:
        return self._select(name, "", entries, None)

    def _unchecked(self, name: str, *entries: int) -> tuple[bytes, tuple[int, ...]]:
        return self.encoding.without_check(*self._select(name, "", entries, None))

    def _select(
        self, name: str, sense: str, entries: tuple[int, ...], access: Access | None
    ) -> tuple[bytes, tuple[int, ...]]:
        """The stencil for operands; of constants only, the first goes through R."""
        values: dict[str, int] = {}
        if access is not None:
            memory, offset, nbytes, pointer = access
            values = {"HO": offset, "HE": offset + nbytes, "HM": pointer}
            name += f".{memory}" if memory else ""
        kinds = ""
        kept: Kept = ()
        for entry, (hole, whole, half) in zip(entries, _HOLES, strict=False):
            if entry >= C32:
                kinds += "C"
                values[whole] = value = constant(entry)
                values[half] = value & 0xFFFFFFFF
            elif entry >= 0:
                kinds += "S"
                values[hole] = slot(entry)
            elif entry < PAD:
                kinds += "S"
                values[hole] = 0
                kept += ((hole, entry - KEPT),)
            else:
                kinds += "R" if entry == R else "F"
        full = f"{name}.{kinds}{sense}"
        if entries[0] < C32 or full in self._names or kinds.strip("C"):
            return self.patch(full, True, values, kept)
        before = self.integer(entries[0])
        code, targets = self.patch(f"{name}.R{kinds[1:]}{sense}", True, values, kept)
        return before + code, tuple(target + len(before) for target in targets)

    def _takes_kept(self, name: str, senses: tuple[str, ...], *kinds: str) -> bool:
        """Whether stencils exist with operands in kept registers where *kinds* says K."""
        full = "".join(kinds).replace("K", "S")
        return all(
            self.encoding.takes_kept(f"{name}.{full}{sense}", "H" + hole)
            for sense in senses
            for kind, hole in zip(kinds, "ABC", strict=False)
            if kind == "K"
        )

    def integer(self, entry: int) -> bytes:
        """Code that brings an integer entry into R."""
        if entry == R:
            return b""
        if entry < C32:
            return self.patch("ldR", True, {"HA": slot(entry)})[0]
        value = constant(entry)
        if entry < C64 or 0 <= value < 1 << 32:
            return self.patch("immR", False, {"WA": value & 0xFFFFFFFF})[0]
        return self.patch("imm64R", False, {"HQ": value})[0]

    def _store(self, entry: int, index: int) -> bytes:
        """Code that puts an entry of any type but v128 constants into a slot."""
        place = slot(index)
        if 0 <= entry < C32:
            return self.patch("mov", True, {"HA": place, "HB": slot(entry)})[0]
        if entry >= C32:
            bits = (entry - CF if entry >= CF else entry - C64 if entry >= C64 else entry - C32) & _MASK64
            # The upper half of an i32 means nothing, so that every i32 fits.
            value = signed(bits & 0xFFFFFFFF, 32) if entry < C64 else signed(bits, 64)
            if -(1 << 31) <= value < 1 << 31:
                return self.patch("stC", True, {"HA": place, "KB": value})[0]
            return self.patch("imm64S", True, {"HA": place, "HQ": value})[0]
        return self.patch(_STORES[entry], True, {"HA": place})[0]

    def _call(self, frame: int, place: int) -> bytes:
        return self.patch("call", False, {"HA": frame, "HB": place})[0]

    def _zeros(self, first: int, count: int) -> bytes:
        clears = [self.patch("zero", True, {"HA": slot(at)})[0] for at in range(first, first + count)]
        return self.raw("zeroA") + b"".join(clears)

    def _fragment(self, name: str, *values: int | str) -> bytes:
        """A fragment with holes given as name, value, name, value ...; displacements keep their size."""
        holes = dict(zip(values[::2], values[1::2], strict=True))
        return self.patch(name, False, holes)[0]  # type: ignore[arg-type]
