"""Listeners ready to use: a profile of fuel in speedscope's format, and a log of host calls."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiowasm.store.activation import CURRENT
from aiowasm.store.listeners import Listener

if TYPE_CHECKING:
    from os import PathLike

    from aiowasm.errors import FrameInfo
    from aiowasm.store.instance import Instance

__all__ = ("HostCallLogger", "Profiler")


class Profiler(Listener):
    """Where fuel goes: a sample of the guest's stack whenever a call lets other tasks run, weighted by its fuel.

    `Store(fixed_slice=...)` says how much fuel lies between two samples; what a call uses after its last one is not in
    the profile. The file is for https://www.speedscope.app.
    """

    def __init__(self, name: str = "aiowasm") -> None:
        self.name = name
        self.samples: list[tuple[tuple[str, ...], int]] = []

    def yielded(self, instance: Instance, fuel: int) -> None:
        """Take a sample."""
        activation = CURRENT.get()
        if activation is not None and activation.execution is not None:
            frames = activation.execution.frames()
            self.samples.append((tuple(map(_label, reversed(frames))), fuel))

    def speedscope(self) -> dict[str, Any]:
        """Return the profile as speedscope's file format has it."""
        numbers: dict[str, int] = {}
        stacks = [[numbers.setdefault(label, len(numbers)) for label in stack] for stack, _ in self.samples]
        weights = [fuel for _, fuel in self.samples]
        return {
            "$schema": "https://www.speedscope.app/file-format-schema.json",
            "name": self.name,
            "exporter": "aiowasm",
            "activeProfileIndex": 0,
            "shared": {"frames": [{"name": label} for label in numbers]},
            "profiles": [
                {
                    "type": "sampled",
                    "name": self.name,
                    "unit": "none",
                    "startValue": 0,
                    "endValue": sum(weights),
                    "samples": stacks,
                    "weights": weights,
                }
            ],
        }

    def write(self, path: str | PathLike[str]) -> None:
        """Write the profile to a file; blocking."""
        Path(path).write_text(json.dumps(self.speedscope()), encoding="utf-8")


def _label(frame: FrameInfo) -> str:
    return f"{frame.module}!{frame.function}" if frame.module else frame.function


class HostCallLogger(Listener):
    """Logs each call from a guest to the host."""

    def __init__(self, logger: logging.Logger | None = None, level: int = logging.INFO) -> None:
        self._logger = logging.getLogger("aiowasm.host_calls") if logger is None else logger
        self._level = level

    def host_call(self, function: Any) -> None:
        """Log it."""
        self._logger.log(self._level, "host call: %s", function.name)
