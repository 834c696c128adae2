"""What guests may consume: the limits an application sets, finite by default for all that can be hoarded."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ("Limits",)

_OPTIONAL = ("fuel", "timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a store, a namespace or an instance; where several apply, the smallest does.

    Args:
        memory_pages: Pages of 64 KiB that one instance's memories may have together with their growth, each.
        table_elements: Elements that each table of one instance may have.
        heap_bytes: Bytes of structures, arrays and exception objects of one instance.
        total_memory_pages: Pages of all memories of a store or namespace.
        total_table_elements: Elements of all tables of a store or namespace.
        total_heap_bytes: Bytes of all heaps of a store or namespace.
        instances: Instances of modules open at once in a store or namespace; host modules do not count.
        call_depth: Guest frames of one call.
        stack_slots: Parameters, locals, operands and 4 more for each guest frame of one call.
        sync_fuel: Fuel of one synchronous call (`nowait`, `call_sync`).
        waiters: Callers that may queue for one group of linked instances.
        fuel: What the store, namespace or instance it is given for may use in its life; None: no limit.
        timeout: Seconds of wall-clock time for each outermost call and each instantiation; None: no limit.

    Raises:
        ValueError: A limit is negative.
        TypeError: A limit is no number.
    """

    memory_pages: int = 16_384
    table_elements: int = 1_000_000
    heap_bytes: int = 268_435_456
    total_memory_pages: int = 65_536
    total_table_elements: int = 10_000_000
    total_heap_bytes: int = 1_073_741_824
    instances: int = 100_000
    call_depth: int = 10_000
    stack_slots: int = 65_536
    sync_fuel: int = 1_000_000
    waiters: int = 10_000
    fuel: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.name in _OPTIONAL:
                continue
            allowed = (int, float) if field.name == "timeout" else (int,)
            if isinstance(value, bool) or not isinstance(value, allowed):
                raise TypeError(f"limit {field.name} must be a number, got {type(value).__name__}")
            if not value >= 0:  # NaN too
                raise ValueError(f"limit {field.name} must not be negative, got {value}")

    def within(self, outer: Limits) -> Limits:
        """Return the smaller of each limit of this and of *outer*; `fuel` is this one's: tanks nest by themselves."""
        if self is outer:
            return self
        smaller = {}
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(outer, field.name)
            smaller[field.name] = theirs if mine is None else mine if theirs is None else min(mine, theirs)
        smaller["fuel"] = self.fuel
        return Limits(**smaller)
