"""Makes the stencils when a wheel is built. Needs llvmlite; nothing here is used at run time."""
