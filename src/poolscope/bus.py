"""The event bus: who wants to hear of what, and how each hears of it without harm to the pool.

A bus has two lanes. A *handler* is called with an event. A *tap* is called with the fields of the
event instead (`pool, time, sequence, ...`), so that no event has to be built: that is for the few
subscribers that see every acquire and release. `hooks` holds, per event type, what to call.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from poolscope.buffer import Buffer, Origin
from poolscope.events import (
    EVENT_TYPES,
    ConnectionAcquired,
    ConnectionReleased,
    ConnectionRequested,
    Event,
    SubscriberFailed,
)
from poolscope.faults import shown, where

logger = logging.getLogger("poolscope")

Handler = Callable[[Any], object]
Tap = Callable[..., object]

FAILURES_ALLOWED = 10
CALM_AGAIN = 60.0
"""Seconds without a failure after which failures count anew, as after a handler's success."""

# Held while subscriptions change, never while events are delivered.
_lock = threading.RLock()


class Owner(Protocol):
    """Whose events a bus carries."""

    def subscriber_failed(self, name: str, error: BaseException, detached: bool) -> None:
        """Hear which subscriber raised what, and whether it was detached for it."""


def _nobody() -> None:
    return None


def _name(call: Callable[..., object]) -> str:
    return str(getattr(call, "__qualname__", type(call).__qualname__))


class Subscription:
    """A place on a bus. `unsubscribe()` leaves it; so does leaving its `with` block."""

    def __init__(
        self,
        bus: EventBus,
        call: Handler | None,
        kinds: tuple[type[Event], ...],
        taps: Mapping[type[Event], Tap],
    ) -> None:
        """Describe who wants to hear of what."""
        self.buffer: Buffer | None = None
        """Where events wait for the handler, if it is called from a thread of its own."""
        self._bus = weakref.ref(bus)
        self.in_a_row = 0
        self._failed_at = 0.0
        self.call = call
        """The handler; None for taps."""
        self.kinds = kinds
        self.taps = taps
        self.failures = 0
        """How often it raised."""

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.unsubscribe()

    def unsubscribe(self) -> None:
        """Hear no more. Safe to call again, and from within the handler."""
        if bus := self._bus():
            bus._drop(self)
        if self.buffer is not None:
            self.buffer.close()

    @property
    def dropped(self) -> int:
        """Return how many events were dropped because the handler was too slow."""
        return self.buffer.dropped if self.buffer is not None else 0

    @property
    def name(self) -> str:
        """Return the name of the function that is called."""
        return _name(next(iter(self.taps.values())) if self.call is None else self.call)

    def failed(self, kind: type[Event], error: BaseException, bus: EventBus) -> None:
        """Count a failure; log the first, and detach after ten with no calm between them."""
        now = time.monotonic()
        if now - self._failed_at > CALM_AGAIN:
            self.in_a_row = 0
        self._failed_at = now
        self.failures += 1
        self.in_a_row += 1
        detached = self.in_a_row >= FAILURES_ALLOWED
        if detached:
            self.unsubscribe()
        bus.note_failure(self.name, kind, error, detached)
        if self.failures == 1 or detached:
            self._log(error, f" {FAILURES_ALLOWED} times in a row and is detached" * detached)

    def deliver_late(self, event: Event, bus: Origin) -> None:
        """Call the handler from the buffer's thread. It stays attached: it delays nobody."""
        assert self.call is not None
        try:
            self.call(event)
        except BaseException as error:
            self.failures += 1
            bus.count_failure()
            if self.failures == 1:
                self._log(error)

    def _log(self, error: BaseException, how_often: str = "") -> None:
        with suppress(Exception):  # whoever reads the log must not harm the pool either
            text = "subscriber %s failed%s; the pool goes on without it: %s"
            logger.error(text, self.name, how_often, where(error))


class EventBus(Origin):
    """Deliver events to those who want them, in order, in the context of whoever caused them.

    A bus may have a parent: who subscribes there hears of the events of all its children. Every
    pool has a bus of its own, a child of `ROOT` unless told otherwise. Subscribing is safe from
    any thread and at any time; whoever subscribes late hears of what comes after.
    """

    def __init__(self, parent: EventBus | None = None) -> None:
        """Make a bus nobody listens to."""
        self.hooks: dict[type[Event], tuple[Tap, ...]] = dict.fromkeys(EVENT_TYPES, ())
        """What to call for each event type. The mapping stays the same object for ever."""
        self.request_hooks: tuple[tuple[Tap, ...], tuple[Tap, ...]] = ((), ())
        """Those of ConnectionRequested and ConnectionAcquired, for who is in a hurry."""
        self.release_hooks: tuple[Tap, ...] = ()
        self.forget()
        self.owner: Callable[[], Owner | None] = _nobody
        """Returns who is told when a subscriber raises: weakly, as the owner holds the bus."""
        self.raised: dict[tuple[Subscription, int], tuple[type[Event], BaseException]] | None = None
        """What handlers raised, for an owner who judges whether it is their failure."""
        self._parent = parent
        self._subscriptions: tuple[Subscription, ...] = ()
        self._children: weakref.WeakSet[EventBus] | None = None
        if parent is not None:
            with _lock:
                if parent._children is None:
                    parent._children = weakref.WeakSet()
                parent._children.add(self)
                self._compile()

    def subscribe(self, handler: Handler, *event_types: type[Event]) -> Subscription:
        """Call `handler(event)` for events of these types, or of all types if none is named."""
        return self._add(Subscription(self, handler, event_types or EVENT_TYPES, {}))

    def tap(self, taps: Mapping[type[Event], Tap], *, early: bool = False) -> Subscription:
        """Call `taps[event_type](pool, time, sequence, *other_fields)` for each type named.

        Taps are called before handlers, in the order of their coming, `early` ones first; those of
        a pool's own bus before those of its parent.
        """
        return self._add(Subscription(self, None, tuple(taps), taps), early)

    def buffered(
        self, handler: Handler, maxsize: int = 1024, *event_types: type[Event]
    ) -> Subscription:
        """Call `handler(event)` from a thread of its own, for a sink that may be slow.

        Of more than `maxsize` events waiting the oldest are dropped; `dropped` counts them, and
        the bus each was published on does.
        """
        subscription = Subscription(self, handler, event_types or EVENT_TYPES, {})
        subscription.buffer = Buffer(weakref.WeakMethod(subscription.deliver_late), maxsize)
        weakref.finalize(subscription, subscription.buffer.close, 0).atexit = False
        return self._add(subscription)

    def publish(self, kind: type[Event], *fields: Any) -> None:
        """Tell everyone who wants to know. `fields` are all fields of the event, in order."""
        for hook in self.hooks[kind]:
            try:
                hook(*fields)
            except BaseException as error:  # a subscriber must not harm the pool
                self.report(hook, kind, error)

    def report(self, hook: Tap, kind: type[Event], error: BaseException) -> None:
        """Count the failure of something in `hooks`."""
        for subscription in self._everyone():
            if subscription.taps.get(kind) == hook:
                return subscription.failed(kind, error, self)
        self.note_failure(_name(hook), kind, error, detached=True)  # it left before it raised

    def _add(self, subscription: Subscription, early: bool = False) -> Subscription:
        for kind in subscription.kinds:
            if kind not in self.hooks:
                name = kind.__name__ if isinstance(kind, type) else shown(kind)
                raise ValueError(f"{name} is no event type; see poolscope.events.EVENT_TYPES")
        for each in subscription.taps.values() or (subscription.call,):
            if not callable(each):
                raise ValueError(f"a subscriber must be callable: got {shown(each)}")
        with _lock:
            others = self._subscriptions
            self._subscriptions = (subscription, *others) if early else (*others, subscription)
            self._compile()
        return subscription

    def _drop(self, subscription: Subscription) -> None:
        with _lock:
            self._subscriptions = tuple(s for s in self._subscriptions if s is not subscription)
            self._compile()

    def _everyone(self) -> tuple[Subscription, ...]:
        inherited = self._parent._everyone() if self._parent else ()
        return self._subscriptions + inherited

    def _compile(self) -> None:
        """Work out once what has to be called for each event type, here and in all children."""
        everyone = self._everyone()
        for kind in EVENT_TYPES:
            taps = tuple(s.taps[kind] for s in everyone if kind in s.taps)
            handlers = [s for s in everyone if s.call is not None and kind in s.kinds]
            self.hooks[kind] = (*taps, *(_tap_for(self, kind, each) for each in handlers))
        self.request_hooks = (self.hooks[ConnectionRequested], self.hooks[ConnectionAcquired])
        self.release_hooks = self.hooks[ConnectionReleased]
        for child in tuple(self._children or ()):
            child._compile()

    def note_failure(
        self, name: str, kind: type[Event], error: BaseException, detached: bool
    ) -> None:
        """Count that a subscriber raised over an event of this bus, and tell its owner."""
        self.count_failure()
        if kind is not SubscriberFailed and (owner := self.owner()) is not None:
            owner.subscriber_failed(name, error, detached)


def _tap_for(bus: EventBus, kind: type[Event], subscription: Subscription) -> Tap:
    """Return a tap that builds an event and hands it to a handler; a failure goes no further.

    If it raises itself, a signal handler did, and the handler has not heard: once it was called,
    nothing more is called here that could be interrupted.
    """
    bus_ref = weakref.ref(bus)  # the bus holds this tap
    call, buffer = subscription.call, subscription.buffer
    assert call is not None

    def build_and_deliver(*fields: Any) -> None:
        event = kind(*fields)
        origin = bus_ref()
        assert origin is not None
        raised = origin.raised
        try:
            if buffer is not None:
                buffer.put(event, origin)
            else:
                call(event)
            subscription.in_a_row = 0
        except BaseException as error:  # a subscriber must not harm the pool
            if raised is None:
                subscription.failed(kind, error, origin)
            else:
                raised[subscription, event.sequence] = (kind, error)

    return build_and_deliver


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

ROOT = EventBus()
"""The parent of every pool's bus, unless the pool was given another."""
