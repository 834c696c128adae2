"""How long `import aiowasm` takes in a fresh interpreter, and what else a program imports by its first call.

    python benchmarks/imports.py [runs]

The bound for `import aiowasm` is 60 ms. Each number is the best of several runs, in processor time, with compiled
bytecode at hand, as it is after the first import of an installed package.
"""

from __future__ import annotations

import os
import subprocess
import sys
from tempfile import TemporaryDirectory

STATEMENTS = (
    "pass",
    "import aiowasm",
    "import aiowasm; aiowasm.Store, aiowasm.Module",
    "import anyio",
    "import aiowasm.syntax.instructions",
    "import aiowasm.binary.decoder",
    "import aiowasm.validation.module",
    "import aiowasm.engine.interpreter.engine",
    "import aiowasm.text.parser",
)


def seconds(statement: str, environment: dict[str, str]) -> float:
    """The time of one statement in a new interpreter."""
    program = f"import time; start = time.process_time(); {statement}\nprint(time.process_time() - start)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=environment)
    return float(done.stdout)


def main() -> None:
    """Measure."""
    runs = int(sys.argv[1]) if sys.argv[1:] else 10
    with TemporaryDirectory() as bytecode:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for statement in STATEMENTS:
            best = min(seconds(statement, environment) for _ in range(runs + 1))
            print(f"{1000 * best:7.1f} ms  {statement}")


if __name__ == "__main__":
    main()
