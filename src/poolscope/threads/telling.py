"""Publishing from a thread in which a signal handler may raise at any moment."""

from __future__ import annotations

from typing import Any, Protocol

from poolscope.bus import EventBus, Tap
from poolscope.events import Event

_TRIES = 3
"""How often a subscriber is told of one event, if interrupts keep it from hearing."""


class Teller(Protocol):
    """Who publishes."""

    bus: EventBus

    def is_interrupt(self, error: BaseException) -> bool:
        """Tell whether an error is not the subscriber's, but meant for whoever runs here."""


def tell(
    engine: Teller, kind: type[Event], hooks: tuple[Tap, ...], fields: tuple[Any, ...]
) -> BaseException | None:
    """Tell all who want to know; return what interrupted that, if anything did."""
    done = 0
    try:
        for hook in hooks:
            hook(*fields)
            done += 1
    except BaseException as error:
        return go_on(engine, kind, hooks, fields, done, error)
    return None


def go_on(
    engine: Teller,
    kind: type[Event],
    hooks: tuple[Tap, ...],
    fields: tuple[Any, ...],
    done: int,
    error: BaseException,
) -> BaseException | None:
    """Go on where `error` came up, after `done` hooks; return it if it was an interrupt.

    Who was interrupted is told again: a tap does what counts in its last steps, in which no
    interrupt can come. What a subscriber raises itself is reported, and harms nobody.
    """
    struck: BaseException | None = None
    tries = 1
    while True:
        if engine.is_interrupt(error):
            struck = error
        if done < len(hooks) and (struck is not error or tries == _TRIES):
            engine.bus.report(hooks[done], kind, error)
            done, tries = done + 1, 0
        tries += 1
        try:
            while done < len(hooks):
                hooks[done](*fields)
                done, tries = done + 1, 1
            return struck
        except BaseException as raised:
            error = raised
