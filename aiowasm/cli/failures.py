"""Exit statuses, and failures as one line: what, where, the standard's words."""

from __future__ import annotations

from aiowasm.errors import AiowasmError, InvalidError, LinkError, MalformedError

__all__ = (
    "BROKEN_PIPE",
    "DEADLINE",
    "FAILED",
    "INTERRUPTED",
    "TRAPPED",
    "FileError",
    "MissingImportsError",
    "describe",
    "printable",
)

FAILED = 1
DEADLINE = 124
INTERRUPTED = 130
TRAPPED = 134
BROKEN_PIPE = 141

_MAX_LENGTH = 4000


class FileError(Exception):
    """A failure that concerns one file."""

    def __init__(self, path: str, error: Exception) -> None:
        super().__init__(path, error)
        self.path = path
        self.error = error


class MissingImportsError(LinkError):
    """Nobody provides these imports: (module, name, type)."""

    def __init__(self, missing: list[tuple[str, str, str]]) -> None:
        super().__init__("unknown import: these are missing:", module=missing[0][0], name=missing[0][1])
        self.missing = missing


def printable(text: str) -> str:
    """*text* on one line, safe for a terminal: names in a module are whatever its author wanted."""
    if len(text) > _MAX_LENGTH:
        text = text[:_MAX_LENGTH] + "..."
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def describe(error: BaseException) -> str:
    """The line for a failure."""
    if isinstance(error, FileError):
        return f"{printable(error.path)}: {describe(error.error)}"
    if isinstance(error, MalformedError):
        return f"malformed module: {printable(str(error))}"
    if isinstance(error, InvalidError):
        hint = "" if error.feature is None else f"; --features {error.feature} would admit it"
        return f"invalid module: {printable(str(error))}{hint}"
    if isinstance(error, LinkError):
        missing = error.missing if isinstance(error, MissingImportsError) else ()
        lines = [f"\n  {printable(f'{module}.{name} {type_}')}" for module, name, type_ in missing]
        return f"unlinkable module: {printable(str(error))}{''.join(lines)}"
    if isinstance(error, AiowasmError):
        return printable(str(error))
    if isinstance(error, OSError):
        # BrokenPipeError included where it is a file's.
        reason = error.strerror or str(error)
        return printable(f"{error.filename}: {reason}" if error.filename and not error.filename2 else reason)
    if isinstance(error, MemoryError):
        return "out of memory"
    return f"internal error, please report it: {printable(repr(error))} (python -X dev shows where)"
