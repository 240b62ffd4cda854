"""The slots of a pool: who is where, and the one function that moves them."""

from __future__ import annotations

from operator import attrgetter
from typing import Generic

from poolscope.core.slot import CLOSING, CONNECTING, IDLE, VACANT, C, Slot, SlotState

_state = attrgetter("state")


class Places(Generic[C]):
    """All slots of a pool. `idle` is a stack: the last one used is the first one reused."""

    __slots__ = ("_by_connection", "closing", "connecting", "idle", "slots", "vacant")

    def __init__(self, size: int) -> None:
        """Make that many vacant slots."""
        self.slots: list[Slot[C]] = [Slot() for _ in range(size)]
        self.vacant = self.slots[::-1]
        self.idle: list[Slot[C]] = []
        self.connecting = 0
        self.closing = 0
        self._by_connection: dict[int, Slot[C]] = {}

    def move(self, slot: Slot[C], to: SlotState, now: float) -> None:
        """Change the state of a slot. Nothing else does.

        IDLE and VACANT are entered at the end of their lists, so that leaving them is a pop.
        """
        if to not in slot.state.successors:
            raise AssertionError(f"a slot cannot go from {slot.state.name} to {to.name}")
        slot.state = to
        slot.since = now

    @property
    def in_use(self) -> int:
        """Return how many connections are out, or being validated or reset."""
        return len(self.slots) - len(self.vacant) - len(self.idle) - self.connecting - self.closing

    @property
    def open(self) -> int:
        """Return how many connections are of service: idle and in use."""
        return len(self.slots) - len(self.vacant) - self.connecting - self.closing

    @property
    def taken(self) -> int:
        """Return how many slots are needed: all but the vacant and those being closed."""
        return len(self.slots) - len(self.vacant) - self.closing

    def begin_connecting(self, now: float) -> Slot[C]:
        """Take a vacant slot for a new connection."""
        slot = self.vacant.pop()
        self.move(slot, CONNECTING, now)
        self.connecting += 1
        return slot

    def fill(self, slot: Slot[C], connection: C) -> None:
        """Put an opened connection into its slot."""
        self.connecting -= 1
        slot.connection = connection
        slot.holder = None
        self._by_connection[id(connection)] = slot

    def put_idle(self, slot: Slot[C], now: float) -> None:
        """Lay a connection on the stack."""
        self.move(slot, IDLE, now)
        self.idle.append(slot)

    def begin_closing(self, slot: Slot[C], now: float) -> None:
        """Take a connection out of service; its place stays taken until it is closed."""
        if slot.state is IDLE:
            self.idle.remove(slot)
        del self._by_connection[id(slot.connection)]
        self.move(slot, CLOSING, now)
        slot.end_lease()
        self.closing += 1

    def vacate(self, slot: Slot[C], now: float, max_size: int) -> None:
        """Free a slot, or drop it when there are more than `max_size`."""
        if slot.state is CONNECTING and slot.connection is None:
            self.connecting -= 1
        elif slot.state is CLOSING:
            self.closing -= 1
        self._by_connection.pop(id(slot.connection), None)
        self.move(slot, VACANT, now)
        slot.vacate()
        if len(self.slots) > max_size:
            self.slots.remove(slot)
        else:
            self.vacant.append(slot)

    def resize(self, size: int) -> None:
        """Add vacant slots, or drop as many as can be spared; the rest goes when vacated."""
        while len(self.slots) > size and self.vacant:
            self.slots.remove(self.vacant.pop())
        while len(self.slots) < size:
            slot: Slot[C] = Slot()
            self.slots.append(slot)
            self.vacant.insert(0, slot)

    def states(self) -> list[SlotState]:
        """Return the state of every slot, read in one step even while another thread moves them.

        `map` over `attrgetter` runs without giving up the interpreter lock.
        """
        return list(map(_state, self.slots))

    def find(self, connection: object) -> Slot[C] | None:
        """Return the slot a connection is in; None if it is not of this pool."""
        slot = self._by_connection.get(id(connection))
        return slot if slot is not None and slot.connection is connection else None
