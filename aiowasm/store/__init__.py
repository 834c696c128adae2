"""The store: instances, calls, limits and the only place that awaits a guest."""
