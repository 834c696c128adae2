"""What errors show of guests: notes with the guest's frames, tracebacks without ours."""

from __future__ import annotations

from types import TracebackType

from aiowasm.errors import AiowasmError, FrameInfo, Trap

__all__ = ("annotate", "trim", "without_driver")

_MAX_CONTEXTS = 10
_OURS = ("aiowasm.engine.", "aiowasm.store.")


def annotate(error: BaseException, frames: tuple[FrameInfo, ...]) -> None:
    """Add *frames* to *error*: as a note, or as its own frames if it is a trap that has none, raised by the host."""
    if isinstance(error, Trap) and not error.frames:
        error.frames = frames
    elif frames:
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


def trim(error: BaseException) -> None:
    """Cut our frames from *error* and from what it was raised in: a kept error keeps no instance alive.

    An error that we made by mistake keeps them: somebody has to find it.
    """
    current: BaseException | None = error
    for _ in range(_MAX_CONTEXTS):
        if current is None:
            return
        traceback = current.__traceback__
        kept = without_driver(traceback)
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        ours = traceback is not None and str(traceback.tb_frame.f_globals.get("__name__")).startswith(_OURS)
        if not ours or isinstance(current, AiowasmError | TypeError | OverflowError):
            current.__traceback__ = kept
        current = current.__cause__ or current.__context__
