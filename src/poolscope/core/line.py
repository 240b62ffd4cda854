"""The callers in line: first in, first out, each until its own deadline."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice, takewhile
from typing import Generic

from poolscope.core.slot import C
from poolscope.core.ticket import Ticket


class Line(Generic[C]):
    """Tickets not yet settled, oldest first. Leaving is O(1) from any place."""

    __slots__ = ("due", "tickets")

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self.tickets: OrderedDict[int, Ticket[C]] = OrderedDict()
        self.due = math.inf
        """No deadline is earlier than this."""

    def __len__(self) -> int:
        return len(self.tickets)

    def __iter__(self) -> Iterator[Ticket[C]]:
        return iter(self.tickets.values())

    def join(self, ticket: Ticket[C]) -> None:
        """Stand at the end."""
        self.tickets[ticket.id] = ticket
        if ticket.deadline < self.due:
            self.due = ticket.deadline

    def rejoin(self, ticket: Ticket[C]) -> int:
        """Stand where one stood: before all who came later. Return the place, from 1."""
        older = list(takewhile(lambda other: other.id < ticket.id, self))
        self.join(ticket)
        for each in (ticket, *reversed(older)):
            self.tickets.move_to_end(each.id, last=False)
        return len(older) + 1

    def leave(self, ticket: Ticket[C]) -> bool:
        """Leave; False when the ticket was not in line."""
        return self.tickets.pop(ticket.id, None) is not None

    def first(self) -> Ticket[C] | None:
        """Return the longest waiting ticket."""
        try:
            return next(iter(self.tickets.values()), None)
        except RuntimeError:  # another thread took a snapshot while the line changed
            return None

    def place(self, number: int) -> int:
        """Return the request that stands in this place, from 0; 0 when nobody does."""
        return next(islice(self.tickets, number, None), 0)

    def pop(self) -> Ticket[C]:
        """Take the longest waiting ticket out."""
        return self.tickets.popitem(last=False)[1]

    def expire(self, now: float) -> list[Ticket[C]]:
        """Take out every ticket whose deadline has passed."""
        if now < self.due:
            return []
        late = [ticket for ticket in self if ticket.deadline <= now]
        for ticket in late:
            del self.tickets[ticket.id]
        self.due = min((ticket.deadline for ticket in self), default=math.inf)
        return late
