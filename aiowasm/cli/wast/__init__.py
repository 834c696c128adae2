"""Running `.wast` scripts, the format of the standard's test suite."""
