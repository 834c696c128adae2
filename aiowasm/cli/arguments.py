"""Kinds of command line arguments, and options that several commands share."""

from __future__ import annotations

import argparse
import math
from typing import NamedTuple

from aiowasm.features import PROFILES, Feature, Features

__all__ = (
    "ENGINES",
    "Address",
    "Directory",
    "add_engine",
    "add_features",
    "address",
    "directory",
    "features",
    "natural",
    "seconds",
    "variable",
)

ENGINES = ("auto", "native", "interpreter")
_MAX_PORT = 0xFFFF


class Directory(NamedTuple):
    """A folder of the host and what the guest knows it as."""

    host: str
    guest: str
    read_only: bool


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int


def natural(text: str) -> int:
    """A number that is not negative, in decimal or with a prefix like 0x."""
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a natural number")
    return value


def seconds(text: str) -> float:
    """A finite number of seconds, not negative."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def variable(text: str) -> tuple[str, str]:
    """K=V."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form K=V")
    return name, value


def directory(text: str) -> Directory:
    """HOST[::GUEST][:ro]; the guest knows a folder by the host's name unless told otherwise."""
    rest = text.removesuffix(":ro")
    host, colons, guest = rest.partition("::")
    if not host or (colons and not guest):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HOST[::GUEST][:ro]")
    return Directory(host, guest or host, rest != text)


def address(text: str) -> Address:
    """HOST:PORT; a host with colons in brackets."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    # Only what int() and all systems take for a number: digits of ASCII.
    if not host or not colon or not (port.isascii() and port.isdigit()) or int(port) > _MAX_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form HOST:PORT")
    return Address(host, int(port))


def features(text: str) -> Features:
    """Names of features and of sets of them, separated by commas; `-` before one takes it away.

    Starts from the default set, unless the first one is the name of a set.
    """
    names = text.split(",")
    chosen: Features = frozenset() if names[0] in PROFILES else PROFILES["default"]
    known: dict[str, Features] = {feature.value: frozenset({feature}) for feature in Feature} | PROFILES
    for name in names:
        found = known.get(name.removeprefix("-"))
        if found is None:
            raise argparse.ArgumentTypeError(f"unknown feature {name!r}; known are {', '.join(known)}")
        chosen = chosen - found if name.startswith("-") else chosen | found
    return chosen


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add --engine."""
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="what runs the code (default: auto)")


def add_features(parser: argparse.ArgumentParser, default: str = "default") -> None:
    """Add --features, whose value is None if it is not given."""
    parser.add_argument(
        "--features",
        metavar="LIST",
        type=features,
        help=f"features and sets of them ({', '.join(PROFILES)}), separated by commas; -NAME takes one away; "
        f"without a set they are added to the default one (default: {default})",
    )
