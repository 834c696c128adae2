"""WASI preview 1: guests as programs, with what the application gives them and nothing else."""

from aiowasm.host.wasi.clocks import Clock, FakeClock, SeededRandom, SystemClock
from aiowasm.host.wasi.filesystem import Directory, Entry, File, FileSystem, Stat
from aiowasm.host.wasi.hostdir import HostDir
from aiowasm.host.wasi.memfs import MemFS, Symlink
from aiowasm.host.wasi.overlay import Overlay
from aiowasm.host.wasi.readonly import ResourceFS, ZipFS
from aiowasm.host.wasi.wasi import CommandResult, Wasi

__all__ = (
    "Clock",
    "CommandResult",
    "Directory",
    "Entry",
    "FakeClock",
    "File",
    "FileSystem",
    "HostDir",
    "MemFS",
    "Overlay",
    "ResourceFS",
    "SeededRandom",
    "Stat",
    "Symlink",
    "SystemClock",
    "Wasi",
    "ZipFS",
)
