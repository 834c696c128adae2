"""The choice of an engine: the one place that knows which there are and which can run here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from aiowasm.engine.base import Engine
from aiowasm.validation.module import Scan

__all__ = ("available", "first_slice", "make_engine", "scan", "unavailable")


def _interpreter() -> Engine:
    from aiowasm.engine.interpreter.engine import Interpreter  # noqa: PLC0415 - chosen at run time

    return Interpreter()


def _native() -> Engine:
    """The native engine, if its package is there and says that it runs on this machine."""
    # By name: the package may not be part of this installation.
    package = import_module("aiowasm.engine.native")
    why = package.why_not() if hasattr(package, "why_not") else "it is not part of this installation"
    if why is not None:
        raise ImportError(why)
    engine: Engine = package.Native()
    return engine


# In the order of preference.
_ENGINES: dict[str, Callable[[], Engine]] = {"native": _native, "interpreter": _interpreter}


def unavailable(name: str) -> str | None:
    """Return why the engine *name* cannot run here, or None."""
    try:
        _ENGINES[name]()
    except ImportError as error:
        return str(error)
    return None


def available() -> tuple[str, ...]:
    """Return the names of the engines that run here, the preferred one first."""
    return tuple(name for name in _ENGINES if unavailable(name) is None)


def make_engine(name: str) -> Engine:
    """Return a new engine of the kind *name*: "auto", "native" or "interpreter".

    Raises:
        ValueError: There is no such engine.
        RuntimeError: It does not run here; the message says why.
    """
    if name == "auto":
        for make in _ENGINES.values():
            try:
                return make()
            except ImportError:
                continue
    if name not in _ENGINES:
        raise ValueError(f"engine must be auto, {', '.join(_ENGINES)}, not {name!r}")
    try:
        return _ENGINES[name]()
    except ImportError as error:
        raise RuntimeError(f"the {name} engine is not available: {error}") from None


def scan() -> Scan | None:
    """Return what validates most bodies fast on this machine, or None."""
    try:
        package = import_module("aiowasm.engine.native")
        found: Scan | None = package.scan if package.why_not() is None else None
    except (ImportError, AttributeError):
        return None
    return found


def first_slice(engine: Engine) -> int:
    """Return the fuel of an instance's first slice: less than a millisecond of cold code; slices adapt."""
    return 500_000 if engine.name == "native" else 2_000
