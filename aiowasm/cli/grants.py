"""What `aiowasm run` gives a guest: the streams of the process, and what the command line names."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from aiowasm.cli.arguments import Address, Directory
from aiowasm.cli.failures import FileError
from aiowasm.cli.numbers import ArgumentError
from aiowasm.host.wasi import HostDir, Wasi
from aiowasm.store.limits import Limits

__all__ = ("granted", "limits")


@contextmanager
def granted(options: argparse.Namespace) -> Iterator[Wasi]:
    """Return what the guest is given; the addresses are listened at until the block ends.

    Raises:
        ArgumentError: No guest can be given that.
        FileError: A folder or an address cannot be used.
    """
    with ExitStack() as stack:
        try:
            wasi = Wasi(
                [Path(options.file).name, *([] if options.invoke else options.args)],
                {**(_environment() if options.env_inherit else {}), **dict(options.env)},
                stdin=sys.stdin.buffer,
                stdout=sys.stdout.buffer,
                stderr=sys.stderr.buffer,
                fs=_directories(options.dir),
                listeners=[stack.enter_context(_listening(address)) for address in options.listen],
            )
        except ValueError as error:
            raise ArgumentError(str(error)) from None
        yield wasi


def limits(options: argparse.Namespace) -> Limits:
    """Return the limits of the store."""
    standard = Limits()
    pages = standard.memory_pages if options.memory_pages is None else options.memory_pages
    return Limits(memory_pages=pages, total_memory_pages=max(pages, standard.total_memory_pages), fuel=options.fuel)


def _environment() -> dict[str, str]:
    # Windows keeps the folders of its drives in variables like "=C:", which are nobody's business.
    return {name: value for name, value in os.environ.items() if name and "=" not in name}


def _directories(directories: list[Directory]) -> Mapping[str, HostDir]:
    mounted: dict[str, HostDir] = {}
    for directory in directories:
        if directory.guest in mounted:
            raise ArgumentError(f"two folders would be {directory.guest!r} for the guest")
        try:
            mounted[directory.guest] = HostDir(directory.host, read_only=directory.read_only)
        except OSError as error:
            error.filename = None
            raise FileError(directory.host, error) from None
        except (NotImplementedError, ValueError) as error:
            raise ArgumentError(f"--dir {directory.host}: {error}") from None
    return mounted


def _listening(address: Address) -> socket.socket:
    place = f"[{address.host}]" if ":" in address.host else address.host
    try:
        family, _, _, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        found = socket.create_server(where, family=family)
    except OSError as error:
        raise FileError(f"{place}:{address.port}", error) from None
    except ValueError as error:  # no name a host could have
        raise FileError(f"{place}:{address.port}", OSError(None, str(error))) from None
    if not address.port:  # any free one: nobody could know which
        print(f"aiowasm: listening at {place}:{found.getsockname()[1]}", file=sys.stderr, flush=True)
    return found
