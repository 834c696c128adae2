"""Where in a text the code of its functions stands, so that errors of validation can say line and column."""

from __future__ import annotations

from array import array
from bisect import bisect_right

from aiowasm.errors import InvalidError

__all__ = ("Positions",)


class Positions:
    """Filled by the parser: for each instruction its offset in `Module.funcs.buffer`, and in the text."""

    __slots__ = ("_codes", "_texts", "source")

    def __init__(self) -> None:
        self.source = ""
        self._codes: array[int] = array("Q")
        self._texts: array[int] = array("Q")

    def add(self, code: int, text: int) -> None:
        """Note that what comes next in the code, at offset *code*, stands at offset *text* of the text."""
        self._codes.append(code)
        self._texts.append(text)

    def place(self, code: int) -> tuple[int, int] | None:
        """Return line and column (both from 1) of the instruction around offset *code* of the code."""
        index = bisect_right(self._codes, code) - 1
        if index < 0:
            return None
        at = self._texts[index]
        return self.source.count("\n", 0, at) + 1, at - self.source.rfind("\n", 0, at)

    def located(self, error: InvalidError) -> InvalidError:
        """Return an error of validation with its place in the text: offsets in code that was a text say nothing."""
        place = None
        if error.funcidx is not None and error.offset is not None:
            place = self.place(error.offset)
        line, column = place or (None, None)
        return InvalidError(
            error.reason,
            line=line,
            column=column,
            funcidx=error.funcidx,
            instruction=error.instruction,
            feature=error.feature,
        )
