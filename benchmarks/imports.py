"""How long `import aiowasm` takes in a fresh interpreter, and what else a program imports by its first call.

    python benchmarks/imports.py [runs]

The bound for `import aiowasm` is 60 ms. Each number is the best of several runs, in processor time.
"""

from __future__ import annotations

import subprocess
import sys

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


def seconds(statement: str) -> float:
    """The time of one statement in a new interpreter."""
    program = f"import time; start = time.process_time(); {statement}\nprint(time.process_time() - start)"
    return float(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure."""
    runs = int(sys.argv[1]) if sys.argv[1:] else 10
    for statement in STATEMENTS:
        print(f"{1000 * min(seconds(statement) for _ in range(runs)):7.1f} ms  {statement}")


if __name__ == "__main__":
    main()
