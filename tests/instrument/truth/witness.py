"""Puts a pool under load, disturbs it, and compares what is told of it with what a server shows.

While everybody moves, the server may show no fewer connections than were open all the time, and no
more than were open or being opened at some time, while it was asked. While everybody stands still,
both are equal: in number, for idle and used each, and one by one where callers know the server's
numbers.
"""

import gc
import os
import random
import time
from collections import Counter
from contextlib import closing
from itertools import cycle

from poolscope import instrument, registry, uninstrument
from poolscope.bus import ROOT
from poolscope.stats import PoolStats
from poolscope.telemetry.prometheus import PoolCollector
from tests.instrument.truth.load import Load
from tests.instrument.truth.subjects import PATIENCE, Subject
from tests.instrument.truth.views import View
from tests.servers.traces import soon
from tests.telemetry.series import Series, key, of_families, scrape

REST = 10.0
"""Seconds in which everything must come to rest."""
EVERY = 10
"""Each which moment all stand still."""

POOL = "db_client_connection_pool_name"
COUNT = "db_client_connection_count"
STATE = "db_client_connection_state"
PENDING = "db_client_connection_pending_requests"


class Witness:
    def __init__(self, load: Load, rng: random.Random) -> None:
        self.load = load
        self.random = rng
        self.deeds = cycle(["kill", "disturb", "linger"])
        self.tides = cycle([True, True, False])
        self.killed: set[int] = set()
        self.seen: Counter[str] = Counter()
        self.trouble = ""
        """Why the last comparison at rest failed."""

    # Those who disturb

    def disturb(self) -> None:
        chance = self.random.random()
        if chance < 0.15:
            self.kill()
        elif chance < 0.4:
            caller = self.random.choice(self.load.callers)
            self.load.stage.give_up(caller, caller.may_give_up)
        elif chance < 0.5 and not self.load.subject.gentle:
            self.load.disturb()
            self.seen["disturbed"] += 1

    def disturb_at_rest(self) -> None:
        deed = next(self.deeds)
        if deed == "kill":
            self.kill()
        elif deed == "disturb":
            if self.load.disturb():
                self.killed.update(self.held)
            self.seen["disturbed"] += 1
        else:
            time.sleep(2.5 * PATIENCE)  # for requests to time out

    def kill(self) -> None:
        """Have the server end a connection that callers know, and wait until it is gone."""
        known = set(self.load.books.numbers.values()) & self.load.view.seen().keys()
        if alive := known - self.killed - self.load.kept:
            doomed = self.random.choice(sorted(alive))
            self.killed.add(doomed)
            self.load.view.kill(doomed)
            assert soon(lambda: doomed not in self.load.view.seen())
            self.seen["killed"] += 1

    # Those who look

    def watch(self, moments: int) -> None:
        for moment in range(moments):
            self.disturb()
            time.sleep(self.random.expovariate(250))
            if moment % EVERY:
                self.look_at_motion()
            else:
                self.look_at_rest()
            self.seen["moments"] += 1

    def look_at_motion(self) -> None:
        """Compare one moment, at which nobody is asked to stand still."""
        load, books = self.load, self.load.books
        books.settle()
        lost, leaving = self.lost(self.killed | load.cut), self.leaving()
        before, begun, gone = self.levels(), books.begun, books.gone
        shown = self.shown().keys()
        told = self.told(of_families(PoolCollector().collect()))
        begun, gone, after = books.begun - begun, books.gone - gone, self.levels()
        open_ = [sum(levels[:2]) for levels in (before, after)]
        most = max(open_) + before[2] + begun
        least = min(open_) - gone
        books.settle()
        lost |= self.lost(self.killed | load.cut)
        # What they are at closing is not closed until that is done.
        leaving |= self.leaving()
        shown_least = least - len(lost) - len(leaving)
        stats = f"{before}, {after}; begun {begun}, gone {gone}, lost {lost}; {load.source}"
        assert shown_least <= len(shown), f"{len(shown)} at the server, not {stats}"
        assert least <= sum(told) <= most, f"{told} told, not {stats}"
        self.seen["exact in motion"] += shown_least == most == len(shown)
        # What was closed just before may take the server a moment to see.
        assert soon(lambda: len(shown & self.shown().keys()) <= most), (
            f"{len(shown)} at the server, not {stats}"
        )

    def levels(self) -> tuple[int, int, int]:
        stats = self.load.source.stats()
        return stats.idle, stats.in_use, stats.connecting

    def shown(self) -> dict[int, bool]:
        kept = self.load.kept.copy()  # before it is asked: these are none of the pool's
        return {id_: held for id_, held in self.load.view.seen().items() if id_ not in kept}

    def lost(self, broken: set[int]) -> set[int]:
        """Return the numbers of those broken connections that the books have as open."""
        numbers = self.load.books.numbers
        return {numbers.get(each, 0) for each in self.load.books.replay.open} & broken

    def leaving(self) -> set[object]:
        """Return which callers may be at closing what they have, or had."""
        places = [caller.place for caller in self.load.callers]
        leaving = {n for n, place in enumerate(places) if place in ("leaving", "parting")}
        return leaving | self.load.subject.beginning

    @property
    def held(self) -> set[int]:
        """Return the numbers of the connections that callers hold, while all stand still."""
        return {caller.number for caller in self.load.callers if caller.place == "holding"}

    def told(self, series: Series) -> tuple[float, float]:
        name = self.load.source.name
        idle, used = (series[key(COUNT, **{POOL: name, STATE: s})] for s in ("idle", "used"))
        return idle, used

    def told_waiting(self, series: Series) -> float:
        return series[key(PENDING, **{POOL: self.load.source.name})]

    def look_at_rest(self) -> None:
        """Compare two moments at which everybody stands still, with a disturbance in between."""
        self.load.halted = True
        self.agree()
        self.disturb_at_rest()
        self.agree()
        self.load.tide = next(self.tides)
        self.load.halted = False

    def agree(self) -> None:
        deadline = time.monotonic() + REST
        while not self.agrees():
            if time.monotonic() > deadline:
                places = Counter(caller.place for caller in self.load.callers)
                raise AssertionError(f"{self.trouble}; {self.load.source}; callers {places}")
            time.sleep(0.001)

    def agrees(self) -> bool:
        """Tell whether server, events and telemetry agree; False, too, while anything moves."""
        load, books = self.load, self.load.books
        stats = load.source.stats()
        if not load.rests or stats.connecting or books.settle() != stats.sequence:
            self.trouble = f"no rest: {books.settle()} events were heard"
            return False
        shown, series = self.shown(), scraped()
        told = (*self.told(series), self.told_waiting(series))
        counted = books.differences(load.source)
        if not load.rests or same(load.source.stats()) != same(stats):
            self.trouble = "no rest"
            return False
        self.trouble = self.difference(stats, shown)
        if self.trouble:
            return False
        books.replay.check(stats)
        assert not counted, counted
        assert told == (stats.idle, stats.in_use, stats.waiting), f"{told} told of {stats}"
        self.note(stats)
        return True

    def difference(self, stats: PoolStats, shown: dict[int, bool]) -> str:
        """Compare the server's view with the pool's, connection by connection."""
        replay, lost = self.load.books.replay, self.lost(self.killed)
        alive = self.held - self.killed
        used = len(alive if self.load.subject.notices else self.held)
        held = {number for number, is_held in shown.items() if is_held}
        said = f"{stats}; of it {lost} are lost; callers hold {self.held}; {replay.leases}"
        if stats.idle + stats.in_use != len(replay.open):
            return f"by the events {replay.open} are open; {said}"
        if stats.in_use != len(replay.leases) or stats.in_use != used:
            return f"by the events {len(replay.leases)} are in use, by the callers {used}; {said}"
        if len(shown) != len(replay.open) - len(lost) or held != alive:
            return f"the server shows {shown}; {said}"
        return ""

    def note(self, stats: PoolStats) -> None:
        self.seen.update(rests=1, lost=bool(self.lost(self.killed)), kept=self.is_at("keeping"))
        self.seen.update(idle=stats.idle > 0, used=stats.in_use > 0, waiting=stats.waiting > 0)

    def is_at(self, place: str) -> bool:
        return any(caller.place == place for caller in self.load.callers)


def same(stats: PoolStats) -> tuple[object, ...]:
    return stats.sequence, stats.idle, stats.in_use, stats.connecting, stats.waiting


def scraped() -> Series:
    return of_families(scrape())


def conclude(load: Load, witness: Witness) -> None:
    """Check what is left when all callers have gone, and then when the pool is closed."""
    source, books = load.source, load.books
    witness.agree()
    stats, replay = source.stats(), books.replay
    assert (stats.in_use, stats.waiting, stats.connecting) == (0, 0, 0), stats
    assert not replay.leases
    assert not replay.requests
    asked = sum(caller.asked for caller in load.callers)
    requests = source.metrics.connection_requests
    assert requests == asked, f"{requests} requests, and {asked} were made"
    load.close()
    gc.collect()  # for what SQLAlchemy leaves to that
    assert soon(lambda: not load.view.seen()), load.view.seen()
    assert witness.levels() == (0, 0, 0)
    if not load.subject.ends:
        source.close()
    assert source not in registry.live()
    assert not any((POOL, source.name) in labels for _, labels in scraped())
    books.settle()
    assert not replay.faults, replay.faults[:5]
    assert not replay.open | replay.connecting, f"never closed: {replay.open}"
    assert not (counted := books.differences(source)), counted


def seed() -> int:
    """Return what all that is random begins with, and say how to have the same again."""
    chosen = int(os.environ.get("POOLSCOPE_TRUTH_SEED") or random.SystemRandom().getrandbits(32))
    print(f"repeat with POOLSCOPE_TRUTH_SEED={chosen}")
    return chosen


def compared(subject: type[Subject], view: View, seed: int, moments: int) -> Counter[str]:
    """Compare so many moments; return how often what was seen."""
    rng = random.Random(seed)
    load = Load(subject(view, random.Random(rng.random())), view, rng)
    witness = Witness(load, rng)
    instrument(subject.library)
    try:
        with ROOT.subscribe(load.books), load.stage, closing(load):
            with load.under_way():
                witness.watch(moments)
            conclude(load, witness)
    finally:
        uninstrument(subject.library)
        print(subject.__name__, witness.seen, load.outcomes, load.books.replay.reasons)
    return witness.seen + load.outcomes
