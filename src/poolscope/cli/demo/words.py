"""Events in plain words, and numbers as people read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from poolscope.events import (
    AcquireFailed,
    AcquireTimedOut,
    CloseFailed,
    CloseReason,
    ConnectFailed,
    ConnectionClosed,
    ConnectionDetached,
    ConnectionOpened,
    Event,
    FailureReason,
    LeakReclaimed,
    LeakReturned,
    LeakSuspected,
    MisuseDetected,
    PoolClosed,
    PoolDrained,
    PoolOpened,
    PoolResized,
    SaturationEnded,
    SaturationStarted,
    SubscriberFailed,
)

Tone = Literal["good", "plain", "warning", "bad", "aside"]

_CLOSE_REASONS = {
    CloseReason.IDLE: "nobody needs it",
    CloseReason.LIFETIME: "it is old",
    CloseReason.VALIDATION: "it was found dead",
    CloseReason.RESET: "it broke while in use",
    CloseReason.DIRTY: "its caller left in the middle of something",
    CloseReason.BROKEN: "it broke while in use",
    CloseReason.STALE: "the pool was drained",
    CloseReason.LEAK: "its holder lost it",
    CloseReason.EXCESS: "enough others are idle",
    CloseReason.POOL_CLOSED: "the pool closes",
    CloseReason.FORKED: "it belongs to the parent process",
}

_FAILURES = {
    FailureReason.TIMEOUT: "time was up",
    FailureReason.QUEUE_FULL: "too many wait already",
    FailureReason.CLOSED: "the pool closes",
    FailureReason.CONNECT_FAILED: "no connection can be opened",
    FailureReason.VALIDATION_FAILED: "new connections are no good",
    FailureReason.CANCELLED: "its caller took it back",
}


def duration(seconds: float | None) -> str:
    """Return a time with about three digits, in the unit that suits it."""
    if seconds is None:
        return "-"
    if seconds >= 1:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    ms = seconds * 1000
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def clock(seconds: float) -> str:
    """Return a time since the start as minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def short(place: str) -> str:
    """Return `file:line` without the folders."""
    return place.replace("\\", "/").rpartition("/")[2]


def _opened(event: ConnectionOpened) -> str:
    return f"connection {event.connection_id} opened in {duration(event.create)}"


def _closed(event: ConnectionClosed) -> str:
    reason = _CLOSE_REASONS[event.reason]
    return f"connection {event.connection_id} closed after {duration(event.age)}: {reason}"


def _connect_failed(event: ConnectFailed) -> str:
    return f"connecting failed, try {event.attempt}: {type(event.error).__name__}"


def _timed_out(event: AcquireTimedOut) -> str:
    stats = event.stats
    levels = f"{stats.in_use}/{stats.max_size} in use, {stats.waiting} waiting"
    cause = ", connects fail" if event.error else ""
    return f"request gave up after {duration(event.wait)}: {levels}{cause}"


def _failed(event: AcquireFailed) -> str:
    return f"request failed after {duration(event.wait)}: {_FAILURES[event.reason]}"


def _suspected(event: LeakSuspected) -> str:
    held = f"held for {duration(event.use)}"
    place = f" by {short(event.acquired_at)}" if event.acquired_at else ""
    return f"connection {event.connection_id} {held}{place}: a leak?"


def _returned(event: LeakReturned) -> str:
    return f"connection {event.connection_id} came back after {duration(event.use)}"


def _saturation_ended(event: SaturationEnded) -> str:
    return f"a place is free after {duration(event.duration)}; {event.peak_waiting} waited at most"


_Phrase = tuple[Tone, Callable[[Any], str]]

_PHRASES: dict[type[Event], _Phrase] = {
    PoolOpened: ("plain", lambda _: "pool opened"),
    PoolResized: ("plain", lambda e: f"pool resized: {e.min_size} to {e.max_size} connections"),
    PoolDrained: ("plain", lambda _: "pool drained: every connection is replaced"),
    PoolClosed: ("plain", lambda _: "pool closed"),
    ConnectionOpened: ("good", _opened),
    ConnectionClosed: ("plain", _closed),
    ConnectFailed: ("bad", _connect_failed),
    CloseFailed: ("warning", lambda e: f"connection {e.connection_id} could not say goodbye"),
    ConnectionDetached: ("plain", lambda e: f"connection {e.connection_id} left the pool for good"),
    AcquireTimedOut: ("bad", _timed_out),
    AcquireFailed: ("bad", _failed),
    SaturationStarted: ("warning", lambda _: "all connections are in use, and requests wait"),
    SaturationEnded: ("plain", _saturation_ended),
    LeakSuspected: ("warning", _suspected),
    LeakReturned: ("good", _returned),
    LeakReclaimed: ("warning", lambda e: f"connection {e.connection_id} was taken back by force"),
    MisuseDetected: ("warning", lambda e: f"the pool was misused: {e.misuse.value}"),
    SubscriberFailed: ("warning", lambda e: f"subscriber {e.subscriber} failed"),
}

NOTEWORTHY = tuple(_PHRASES)
"""The kinds of events there are words for: all that do not happen with every request."""


@dataclass(slots=True)
class Note:
    """An event in words, or several of a kind that came at once. Or a word from the demo."""

    kind: type[Event] | None
    first: float
    text: str
    tone: Tone
    times: int = 1


class Notebook:
    """Keeps the last events in words. A flood of one kind becomes a line that counts."""

    def __init__(self, kept: int = 50, together: float = 1.0) -> None:
        """Keep so many lines; events of a kind within `together` seconds share one."""
        self._kept = kept
        self._together = together
        self.notes: list[Note] = []

    def add(self, event: Event) -> None:
        """Write down an event."""
        kind = type(event)
        tone, phrase = _PHRASES[kind]
        for note in reversed(self.notes):
            if event.time - note.first > self._together:
                break
            if note.kind is kind:
                note.text, note.times = phrase(event), note.times + 1
                return
        self._append(Note(kind, event.time, phrase(event), tone))

    def tell(self, now: float, text: str) -> None:
        """Write down what the pool cannot know."""
        self._append(Note(None, now, text, "aside"))

    def _append(self, note: Note) -> None:
        self.notes.append(note)
        del self.notes[: -self._kept]
