"""The walk of machine code over bodies against the validator's: what it accepts is valid, and recorded alike.

    python -m tests.fuzz.scanned --seconds 60 --first-seed 1000

Bodies are those of the generators' programs, most of them with some bytes changed.
"""

from __future__ import annotations

import argparse
import sys
import time
from random import Random
from typing import Any

from aiowasm.binary.decoder import decode
from aiowasm.engine.native.platform import load_stencils
from aiowasm.engine.native.scanning.scanner import Scanner, scanner_steps
from aiowasm.errors import InvalidError, MalformedError
from aiowasm.features import ALL, Features
from aiowasm.syntax.steps import finish
from aiowasm.validation.module import ValidatedModule, validate_shell_steps
from aiowasm.validation.record import Block, FunctionRecord
from tests.fuzz.differential import program_of
from tests.fuzz.generator import Options, generate
from tests.fuzz.seen import DifferenceError

__all__ = ("changed", "check", "scanned", "seen")

_BLOCK = (
    *("kind", "params", "results", "height", "depth", "start", "else_", "end"),
    *("targeted", "has_call", "has_loop", "catches"),
)
_BYTES = (0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F, 0x10, 0x11, 0x1A, 0x1B, 0x20, 0x21, 0x22)
_BYTES += (0x23, 0x24, 0x28, 0x36, 0x3F, 0x40, 0x41, 0x42, 0x45, 0x6A, 0x7C, 0x7F, 0x80, 0xFC, 0xFD, 0xFE, 0xFF)


def _immediate(value: Any) -> Any:
    if isinstance(value, Block):
        return ("block", value.start, value.depth)
    if isinstance(value, tuple):
        return tuple(map(_immediate, value))
    return value


def seen(record: FunctionRecord) -> dict[str, Any]:
    """Everything that engines see of *record*."""
    return {
        "ops": list(record.ops),
        "immediates": [_immediate(value) for value in record.immediates],
        "offsets": list(record.offsets),
        "locals": tuple(record.locals),
        "nparams": record.nparams,
        "results": record.results,
        "max_height": record.max_height,
        "cost": dict(record.cost),
        "checks": set(record.checks),
        "blocks": [tuple(_immediate(getattr(block, name)) for name in _BLOCK) for block in record.blocks],
        "tries": [block.start for block in record.tries],
    }


def scanned(data: bytes, features: Features) -> tuple[ValidatedModule, Scanner]:
    """The module of *data*, but for its bodies, and what scans them."""
    validated = finish(validate_shell_steps(decode(data, features), features))
    return validated, finish(scanner_steps(validated, load_stencils()))


def check(data: bytes, features: Features = ALL) -> tuple[int, int, int]:
    """Compare all bodies of a module; return how many were accepted, were valid all the same, and were not valid.

    Raises:
        DifferenceError: If one was accepted that is not valid, or was recorded otherwise.
        MalformedError, InvalidError: If the module is not valid apart from its bodies.
    """
    validated, scanner = scanned(data, features)
    accepted = valid = 0
    count = len(validated.module.funcs)
    for index in range(count):
        mine = finish(scanner.record_steps(validated, index))
        try:
            expected = validated.record(index)
        except (InvalidError, MalformedError) as error:
            if mine is not None:
                raise DifferenceError(f"function {index} was accepted: {error}") from None
            continue
        if mine is None:
            valid += 1
            continue
        accepted += 1
        one, other = seen(mine), seen(expected)
        for name, value in other.items():
            if one[name] != value:
                raise DifferenceError(f"function {index}: {name} is {one[name]}, not {value}")
    return accepted, valid, count - accepted - valid


def changed(data: bytes, rng: Random) -> bytes:
    """*data* with some bytes of its bodies changed, moved or doubled; their sizes stay."""
    funcs = decode(data, ALL).funcs
    if not funcs:
        return data
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        index = rng.randrange(len(funcs))
        start, end = funcs.starts[index], funcs.ends[index]
        at = rng.randrange(start, end)
        match rng.randrange(4):
            case 0:
                out[at] = rng.choice(_BYTES)
            case 1:
                out[at] = rng.randrange(256)
            case 2:
                out[at] ^= 1 << rng.randrange(8)
            case _:
                count = min(rng.randrange(1, 6), end - at)
                other = rng.randrange(start, end - count + 1)
                out[at : at + count] = out[other : other + count]
    return bytes(out)


def program(seed: int) -> bytes:
    """A random program."""
    return generate(seed, Options()).binary if seed % 2 else program_of(seed)[0].binary


def main() -> None:
    """Compare until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first-seed", type=int, default=1)
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    seed, totals = options.first_seed, [0, 0, 0]
    while time.monotonic() < end:
        rng = Random(seed)
        data = program(seed)
        for _ in range(60):
            try:
                found = check(changed(data, rng))
            except DifferenceError as error:
                sys.exit(f"seed {seed}: {error}")
            totals = [total + more for total, more in zip(totals, found, strict=True)]
        seed += 1
    accepted, valid, invalid = totals
    print(f"seeds {options.first_seed} to {seed - 1}: {accepted:,} accepted, {valid:,} declined, {invalid:,} not valid")


if __name__ == "__main__":
    main()
