"""Whether a descriptor of the host can be read or written without waiting, asked without waiting."""

from __future__ import annotations

import select

__all__ = ("is_ready",)


def is_ready(fd: int, *, write: bool) -> bool:
    """Return whether reading (or writing) *fd* would not wait; an error or a hang-up counts, as reading reports it."""
    if hasattr(select, "poll"):  # select() knows no descriptor above 1023, of which a server has many
        asked = select.poll()
        asked.register(fd, select.POLLOUT if write else select.POLLIN)
        return bool(asked.poll(0))
    readable, writable, _ = select.select([] if write else [fd], [fd] if write else [], [], 0)
    return bool(readable or writable)
