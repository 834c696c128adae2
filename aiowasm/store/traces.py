"""What errors show of guests: notes with the guest's frames, tracebacks without ours."""

from __future__ import annotations

from types import TracebackType

from aiowasm.errors import FrameInfo

__all__ = ("annotate", "without_driver")

_OURS = ("aiowasm.engine.", "aiowasm.store.")


def annotate(error: BaseException, frames: tuple[FrameInfo, ...]) -> None:
    """Add *frames* to *error* as a note."""
    if frames:
        error.add_note("wasm frames, innermost first:\n" + "\n".join(f"    at {frame}" for frame in frames))


def without_driver(traceback: TracebackType | None) -> TracebackType | None:
    """Return *traceback* without frames of engines and of the store: they would keep instances alive."""
    kept: list[TracebackType] = []
    while traceback is not None:
        name = traceback.tb_frame.f_globals.get("__name__", "aiowasm.engine.")
        if not str(name).startswith(_OURS):
            kept.append(traceback)
        traceback = traceback.tb_next
    result: TracebackType | None = None
    for entry in reversed(kept):
        result = TracebackType(result, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return result
