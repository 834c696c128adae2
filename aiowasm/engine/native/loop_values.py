"""Where the values of a loop are while it is compiled: registers, slots, constants, and who needs them still.

A `local.set` gives a value another name and makes no code. At labels every local is at home (in its register, or in its
slot) and every operand in its own slot, so that all ways to a label agree. Everything here is bounded by the plan:
searches go through some dozens of values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aiowasm.engine.native.encoding.operands import C32, C64

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiowasm.engine.native.encoding.x86_64_integers import IntegerCode
    from aiowasm.engine.native.loop_plan import Plan

__all__ = ("NotTaken", "Value", "Values")

_NEVER: Final = 1 << 30


class NotTaken(Exception):  # noqa: N818 - no error: the loop becomes code in the usual way
    """A loop needs more than is done here."""


class Value:
    """What a local or an operand is. It may be in a register and in a slot at once; `references` counts its names."""

    __slots__ = ("bits", "checked_nbytes", "place", "references", "register", "wide")

    def __init__(self, wide: bool, *, register: int = -1, place: int = -1, bits: int = -1) -> None:
        self.wide = wide
        self.register = register
        self.place = place
        self.bits = bits
        self.references = 0
        self.checked_nbytes = 0
        """So many bytes from this address on are known to be in memory."""

    @property
    def operand(self) -> int:
        """As an operand of instructions: a register at best."""
        if self.register >= 0:
            return ~self.register
        if self.bits >= 0:
            return (C64 if self.wide else C32) + self.bits
        if self.place < 0:
            raise NotTaken
        return self.place


class Values:
    """All values of a loop at one point of its code.

    Args:
        code: Where instructions go.
        plan: The loop's.
        places: Slot of each local.
        base: Slot of the first operand in the loop.
    """

    def __init__(self, code: IntegerCode, plan: Plan, places: Sequence[int], base: int) -> None:
        self.code = code
        self.plan = plan
        self.places = places
        self.base = base
        self.stack: list[Value] = []
        self.locals: dict[int, Value] = {}
        self.registers: dict[int, Value] = {}
        self.slots: dict[int, Value] = {}
        self.used: set[int] = set()
        """Registers that have been used at all."""
        self.index = 0
        """The operator that is being compiled."""

    # Names

    def start(self, height: int = 0) -> None:
        """What is true at a label: locals are at home, *height* operands (by the stack that is left) in their slots."""
        plan = self.plan
        kinds = [value.wide for value in self.stack[:height]]
        self.registers, self.slots, self.locals, self.stack = {}, {}, {}, []
        for local, wide in plan.is_wide.items():
            if plan.is_absent(local, self.index):
                self.locals[local] = Value(wide)
                self.locals[local].references = 1
                continue
            register = plan.homes.get(local, -1)
            value = Value(wide, register=register)
            if register >= 0:
                self.registers[register] = value
                self.used.add(register)
            if register < 0 or local not in plan.set_locals:
                self._keep_in_slot(value, self.places[local])
            value.references = 1
            self.locals[local] = value
        for at, wide in enumerate(kinds):
            value = Value(wide)
            self._keep_in_slot(value, self.base + at)
            self.push(value)

    def _keep_in_slot(self, value: Value, place: int) -> None:
        value.place = place
        self.slots[place] = value

    def push(self, value: Value) -> None:
        """Make a value the top operand."""
        value.references += 1
        self.stack.append(value)

    def pop(self) -> Value:
        """Take the top operand; whoever takes it gives it back to `release`."""
        return self.stack.pop()

    def release(self, value: Value) -> None:
        """Forget one name of a value; its register is free after the last."""
        value.references -= 1
        if value.references:
            return
        if value.register >= 0:
            del self.registers[value.register]
            value.register = -1
        if value.place >= 0 and self.slots.get(value.place) is value:
            del self.slots[value.place]

    def name(self, local: int, value: Value) -> None:
        """Let a local be a value."""
        value.references += 1
        self.release(self.locals[local])
        self.locals[local] = value

    # Registers

    def take(self, register: int, value: Value) -> None:
        """Let a register, which is free, hold a value."""
        self.registers[register] = value
        value.register = register
        self.used.add(register)

    def free_register(self, *pinned: Value) -> int:
        """A register that nothing is in; *pinned* values stay where they are."""
        register = self.spare()
        if register >= 0:
            return register
        held = sorted(
            (value for value in self.registers.values() if not any(value is each for each in pinned)),
            key=lambda value: (self._next_use(value), value.place >= 0), reverse=True,
        )  # fmt: skip
        for value in held:
            register = value.register
            if self._leave(value):
                return register
        raise NotTaken

    def spare(self) -> int:
        """A register that is free, or -1."""
        for register in self.plan.registers:
            if register not in self.registers:
                return register
        return -1

    def in_register(self, value: Value, *pinned: Value) -> int:
        """Bring a value into a register."""
        if value.register < 0:
            operand = value.operand
            register = self.free_register(value, *pinned)
            self.code.move(register, operand, value.wide)
            self.take(register, value)
        return value.register

    def is_used_again(self, value: Value) -> bool:
        """Whether another operator will take a value that was just popped."""
        return value.references > 1 and self._next_use(value) < _NEVER

    def _next_use(self, value: Value) -> int:
        """About when a value is used next; `_NEVER`: its locals are set first."""
        found = _NEVER
        for depth, operand in enumerate(reversed(self.stack)):
            if operand is value:
                return self.index + depth
        plan, end = self.plan, self.plan.barriers[-1]
        for local, named in self.locals.items():
            if named is not value:
                continue
            access = plan.next_access(local, self.index)
            if access < 0:
                found = min(found, end)
            elif access in plan.reads:
                found = min(found, access)
            elif plan.next_barrier(self.index) < access:
                found = min(found, end)
        return found

    def _leave(self, value: Value) -> bool:
        """Take a value out of its register, into a slot if it is needed and has none; False: there is no slot."""
        if value.place < 0 and value.bits < 0 and self._next_use(value) < _NEVER:
            place = self._own_place(value)
            if place < 0:
                return False
            self.code.store(place, value.operand)
            self._keep_in_slot(value, place)
        del self.registers[value.register]
        value.register = -1
        return True

    def _own_place(self, value: Value) -> int:
        """A slot for a value that nothing else needs: of a local that has it, or of where it is on the stack."""
        places = [self.places[local] for local, named in self.locals.items() if named is value]
        places += [self.base + at for at, operand in enumerate(self.stack) if operand is value]
        for place in places:
            owner = self.slots.get(place)
            if owner is None or owner is value:
                return place
            if owner.register >= 0 or owner.bits >= 0:
                owner.place = -1
                return place
        return -1

    # Labels and ways out

    def snapshot(self) -> Callable[[], None]:
        """Return what brings everything back to where it is now, for code on another path."""
        registers, slots = self.registers.copy(), self.slots.copy()
        held = {
            id(value): value for value in (*self.stack, *self.locals.values(), *registers.values(), *slots.values())
        }
        where = [(value, value.register, value.place) for value in held.values()]

        def restore() -> None:
            self.registers, self.slots = registers, slots
            for value, register, place in where:
                value.register, value.place = register, place

        return restore

    def go_home(self, height: int, at: int) -> None:
        """Bring locals and the lowest *height* operands to where the label at operator *at* expects them.

        The flags stay as they are.
        """
        plan = self.plan
        pending: dict[int, Value] = {self.base + number: value for number, value in enumerate(self.stack[:height])}
        for local, value in self.locals.items():
            if plan.is_absent(local, at):
                continue
            if local in plan.homes:
                pending[~plan.homes[local]] = value
            elif local in plan.set_locals:
                pending[self.places[local]] = value
        self._move_all({to: value for to, value in pending.items() if not self._is_at(value, to)})

    @staticmethod
    def _is_at(value: Value, to: int) -> bool:
        return value.register == ~to if to < 0 else value.place == to

    def _move_all(self, pending: dict[int, Value]) -> None:
        """Move values at the same time, as it were: into registers (complements of their numbers) and slots."""
        parked: Value | None = None
        while pending:
            moved = False
            for to, value in list(pending.items()):
                owner = self.registers.get(~to) if to < 0 else self.slots.get(to)
                is_needed = any(each is owner for each in pending.values()) and owner is not parked
                if owner is not None and owner is not value and is_needed and self._is_only_at(owner, to):
                    continue
                self._put(to, value, owner, parked)
                del pending[to]
                moved = True
            if moved:
                continue
            if parked is not None:
                raise NotTaken
            to = next(iter(pending))
            parked = self.registers[~to] if to < 0 else self.slots[to]
            self.code.park(~parked.register if parked.register >= 0 else parked.place)

    @staticmethod
    def _is_only_at(owner: Value, to: int) -> bool:
        """Whether a value would be lost if *to* were overwritten."""
        if owner.bits >= 0:
            return False
        return owner.place < 0 if to < 0 else owner.register < 0

    def _put(self, to: int, value: Value, owner: Value | None, parked: Value | None) -> None:
        if owner is not None and owner is not value:
            if to < 0:
                owner.register = -1
            else:
                owner.place = -1
        if value is parked:
            self.code.unpark(to, value.wide)
        elif to < 0:
            self.code.move(~to, value.operand, value.wide)
        else:
            self.code.store(to, value.operand)
        if to < 0:
            self.registers[~to] = value
            if value.register < 0:
                value.register = ~to
        else:
            self.slots[to] = value
            if value.place < 0:
                value.place = to

    def leave_slots(self, results: int, to: int, *, keep_locals: bool) -> None:
        """Code that brings locals to their slots and the top operands to slots from *to* on; changes no value.

        It stands where the loop is left, and may use no register but the scratch ones.
        """
        pending: dict[int, Value] = {}
        if keep_locals:
            for local in self.plan.set_locals:
                pending[self.places[local]] = self.locals[local]
        for at, value in enumerate(self.stack[len(self.stack) - results :] if results else ()):
            pending[to + at] = value
        restore = self.snapshot()
        self._move_all({place: value for place, value in pending.items() if value.place != place})
        restore()
