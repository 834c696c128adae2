"""Event loops and engines as for the store's tests."""

from tests.store.conftest import anyio_backend, engine

__all__ = ("anyio_backend", "engine")
