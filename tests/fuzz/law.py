"""The law: any bytes decode and validate, or raise MalformedError or InvalidError with an offset; nothing else.

Within 20 MB plus 100 times the input's size, and 1 s plus 20 us per byte. Likewise any text is a module or raises
MalformedError with line and column. What is valid also survives encoding, printing and parsing.

    python -m tests.fuzz.law --minutes 10 [--first-seed N]

Seeds are the modules of the suite (WASM_TESTSUITE) where it is there, and those of the generator.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random

from aiowasm.binary.decoder import decode
from aiowasm.binary.encoder import encode
from aiowasm.errors import InvalidError, MalformedError
from aiowasm.features import ALL, DEFAULT, WASM_1, WASM_2, WASM_3, Features
from aiowasm.syntax.module import Module
from aiowasm.text.parser import parse_module
from aiowasm.text.printer import print_module
from aiowasm.text.script import ModuleCommand, ModuleDefinition, parse_script
from aiowasm.validation.module import validate_module
from tests.fuzz.differential import program_of
from tests.fuzz.mutate import mutate, mutate_text

__all__ = ("BrokenLawError", "check_binary", "check_text", "seeds", "text_seeds")

_FEATURES = (ALL, ALL, ALL, DEFAULT, WASM_3, WASM_2, WASM_1)


class BrokenLawError(Exception):
    """An input that broke the law."""


def check_binary(data: bytes, features: Features = ALL, traced: bool = False) -> str:
    """Decode and validate *data*; say what came of it: "valid", "invalid" or "malformed".

    Raises:
        BrokenLawError: If it broke the law; memory is looked at if *traced*.
    """
    return _check(lambda: validate_module(decode(data, features), features), len(data), traced, _placed_in_binary)


def check_text(data: bytes, traced: bool = False) -> str:
    """Parse *data*; say what came of it.

    Raises:
        BrokenLawError: If it broke the law.
    """
    return _check(lambda: parse_module(data, ALL), len(data), traced, _placed_in_text)


def _placed_in_binary(error: InvalidError | MalformedError) -> bool:
    return error.offset is not None


def _placed_in_text(error: InvalidError | MalformedError) -> bool:
    return isinstance(error, InvalidError) or (error.line is not None and error.column is not None)


def _check(
    action: Callable[[], object], nbytes: int, traced: bool, placed: Callable[[InvalidError | MalformedError], bool]
) -> str:
    if traced:
        tracemalloc.start()
    start = time.process_time()
    try:
        action()
        outcome = "valid"
    except (MalformedError, InvalidError) as error:
        outcome = "malformed" if isinstance(error, MalformedError) else "invalid"
        if not placed(error):
            raise BrokenLawError(f"no place: {error!r}") from error
    except Exception as error:
        raise BrokenLawError(f"another exception: {error!r}") from error
    finally:
        seconds = time.process_time() - start
        peak = tracemalloc.get_traced_memory()[1] if traced else 0
        if traced:
            tracemalloc.stop()
    if peak > 20e6 + 100 * nbytes:
        raise BrokenLawError(f"{peak:,} bytes of memory for {nbytes:,} bytes")
    if not traced and seconds > 1 + 20e-6 * nbytes:
        raise BrokenLawError(f"{seconds:.3f} s for {nbytes:,} bytes")
    return outcome


def check_round_trip(data: bytes) -> None:
    """What decodes and validates is the same module after encoding, and after printing and parsing.

    Raises:
        BrokenLawError: If not.
    """
    module = decode(data, ALL)
    if decode(encode(module), ALL) != module:
        raise BrokenLawError("another module after encoding")
    text = print_module(module)
    try:
        parsed = parse_module(text, ALL)
    except (MalformedError, InvalidError) as error:
        raise BrokenLawError(f"the printed text does not parse: {error!r}") from error
    if _code(parsed) != _code(module):
        raise BrokenLawError("another module after printing")


def _code(module: Module) -> tuple[object, ...]:
    """A module without its custom sections, which text keeps in another order."""
    names = ("types", "imports", "funcs", "tables", "mems", "tags", "globals", "exports", "start", "elems", "datas")
    return tuple(getattr(module, name) for name in names)


def seeds(count: int = 60) -> list[bytes]:
    """Modules to mutate: of the suite where WASM_TESTSUITE is set, and *count* of the generator."""
    made = [program_of(seed)[0].binary for seed in range(count)]
    for source in _suite():
        try:
            made.append(encode(parse_module(source, ALL)) if source.lstrip()[:1] == b"(" else bytes(source))
        except (MalformedError, InvalidError):
            continue
    return [data for data in made if len(data) < 20_000]


def text_seeds(count: int = 20) -> list[bytes]:
    """Texts to mutate: modules of the suite, and of the generator as they are printed."""
    made = [print_module(decode(program_of(seed)[0].binary, ALL)).encode()[:5000] for seed in range(count)]
    return made + [source for source in _suite() if source.lstrip()[:1] == b"(" and len(source) < 20_000]


def _suite() -> list[bytes]:
    folder = os.environ.get("WASM_TESTSUITE")
    found = []
    for path in sorted(Path(folder).rglob("*.wast")) if folder else []:
        try:
            commands = parse_script(path.read_bytes())
        except MalformedError:
            continue
        for command in commands:
            if isinstance(command, ModuleCommand | ModuleDefinition):
                source = command.module.source
                found.append(source.encode() if isinstance(source, str) else bytes(source))
    return found


def run(seed: int, binaries: list[bytes], texts: list[bytes]) -> tuple[str, bytes, BrokenLawError | None]:
    """Check the mutation of *seed*; return what came of it, the input, and how it broke the law if it did."""
    rng = Random(seed)
    if texts and seed % 4 == 3:
        data = mutate_text(rng, texts)
        try:
            return "text " + check_text(data, traced=rng.random() < 0.05), data, None
        except BrokenLawError as error:
            return "text", data, error
    data = mutate(rng, binaries)
    features = rng.choice(_FEATURES)
    try:
        outcome = check_binary(data, features, traced=rng.random() < 0.05)
        if outcome == "valid" and rng.random() < 0.05:
            check_round_trip(data)
    except BrokenLawError as error:
        return "binary", data, error
    return outcome, data, None


def main() -> None:
    """Check mutations for some minutes; keep what breaks the law as files and end with status 1 if there was one."""
    parser = argparse.ArgumentParser(description="Check the fuzz law")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that break the law")
    arguments = parser.parse_args()
    binaries, texts = seeds(), text_seeds()
    print(f"{len(binaries)} binary and {len(texts)} text modules to mutate", flush=True)
    end = time.monotonic() + 60 * arguments.minutes
    counts: dict[str, int] = {}
    seen: dict[str, int] = {}
    seed = arguments.first_seed
    while time.monotonic() < end:
        outcome, data, broken = run(seed, binaries, texts)
        counts[outcome] = counts.get(outcome, 0) + 1
        if broken:
            # One input per message is enough to work with.
            message = str(broken).partition("(at")[0][:60]
            seen[message] = seen.get(message, 0) + 1
            if seen[message] == 1:
                print(f"seed {seed}: {outcome}: {broken}", flush=True)
                if arguments.keep:
                    (arguments.keep / f"{seed}.{'wat' if outcome == 'text' else 'wasm'}").write_bytes(data)
        seed += 1
    print(f"{seed - arguments.first_seed} inputs: {counts}; broken: {seen}")
    sys.exit(1 if seen else 0)


if __name__ == "__main__":
    main()
