"""`python -m aiowasm` is the command `aiowasm`."""

import sys

from aiowasm.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
