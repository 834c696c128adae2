"""What kept the event loop from running for more than 10 ms, for the log: a slice of a guest, a `def` host function.

asyncio's debug mode would see it too late, at 100 ms, and not who it was. Programs that do not configure logging do not
see it: their standard error is theirs.
"""

from __future__ import annotations

import logging
from typing import Final

__all__ = ("DELAY_NS", "delayed")

DELAY_NS: Final = 10_000_000

_logger: Final = logging.getLogger("aiowasm.delays")
logging.getLogger("aiowasm").addHandler(logging.NullHandler())


def delayed(what: object, nanoseconds: int) -> None:
    """Log that *what* took so long."""
    _logger.warning("%s kept the event loop waiting for %.1f ms", what, nanoseconds / 1e6)
