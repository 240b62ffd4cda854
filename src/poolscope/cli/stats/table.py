"""The pools as a table that fits: where room is scarce, what matters least is left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from textwrap import wrap

from poolscope.cli.stats.layout import MARK, Column, rows
from poolscope.cli.stats.pools import TROUBLES, Pool, Trouble
from poolscope.cli.stats.reader import View
from poolscope.cli.stats.words import NOTHING, amount, duration, rate

REMEDIES: dict[Trouble, str] = {
    "saturated": "all connections are used and requests wait; where the oldest use is long, look "
    "for a leak or a slow query, elsewhere raise max_size",
    "connects_fail": "the database is down, unreachable or full, or refuses the login; see its log",
    "leak": "a connection was kept longer than leak_threshold; the event LeakSuspected says where",
}


def _name(title: str, text: Callable[[Pool], str]) -> Column:
    return Column(("", title), 0, text, str.ljust, is_name=True)


ADDRESS = _name("address", lambda pool: pool.address)
JOB = _name("job", lambda pool: pool.job or NOTHING)
INSTANCE = _name("instance", lambda pool: pool.instance or NOTHING)
NAME = _name("pool", lambda pool: pool.pool)
LEVELS = (
    Column(("", "used/max"), 0, lambda pool: f"{amount(pool.used)}/{amount(pool.max)}"),
    Column(("", "idle"), 10, lambda pool: amount(pool.idle)),
    Column(("", "opening"), 8, lambda pool: amount(pool.opening)),
    Column(("", "waiting"), 0, lambda pool: amount(pool.waiting)),
    Column(("oldest", "wait"), 2, lambda pool: duration(pool.oldest_wait_seconds)),
    Column(("oldest", "use"), 2, lambda pool: duration(pool.oldest_use_seconds)),
    Column(("peak", "used"), 9, lambda pool: amount(pool.used_peak)),
    Column(("wait", "p99"), 2, lambda pool: duration(pool.wait_p99_seconds)),
    Column(("use", "p99"), 4, lambda pool: duration(pool.use_p99_seconds)),
)
REQUESTS = Column(("", "requests"), 6, lambda pool: amount(pool.requests))
RATE = Column(("requests", "/s"), 6, lambda pool: rate(pool.requests_per_second))
COUNTS = (
    Column(("", "errors"), 3, lambda pool: amount(pool.errors)),
    Column(("time-", "outs"), 5, lambda pool: amount(pool.timeouts)),
    Column(("failed", "connects"), 3, lambda pool: amount(pool.connect_failures)),
    Column(("", "leaks"), 3, lambda pool: amount(pool.leaks)),
    Column(("time", "saturated"), 7, lambda pool: duration(pool.saturated_seconds)),
)
TROUBLE = Column(("", "trouble"), 1, lambda pool: ", ".join(map(_plain, pool.trouble)), str.ljust)


def table(
    view: View, now: datetime, *, width: int, height: int | None = None, colour: bool = False
) -> list[str]:
    """Return lines of `width` characters; if `height` is given no more, and the worst pools.

    A `!` marks a pool in trouble; with colour its line is red.
    """
    pools = view.pools
    texts = [f"{_plain(t)}: {REMEDIES[t]}" for t in TROUBLES if any(t in p.trouble for p in pools)]
    texts += map(str, view.problems)
    notes = [line for text in texts for line in _wrapped(text, width)]
    # Besides them there are a heading, two lines of titles, a word on the rest, and the cursor.
    room = len(pools) if height is None else max(1, height - len(notes) - 5)
    if len(pools) > room:
        notes.insert(0, f"... and {len(pools) - room} more, in less trouble")
        pools = pools[:room]
    return [_heading(view.pools, now)[:width], *rows(_columns(view), pools, width, colour), *notes]


def _heading(pools: Sequence[Pool], now: datetime) -> str:
    """Say how many there are, and of what time the numbers are."""
    many = f"{now:%H:%M:%S}  {len(pools)} pool{'' if len(pools) == 1 else 's'}"
    interval = max((pool.interval_seconds or 0.0 for pool in pools), default=0.0)
    if interval:
        return f"{many}; p99 and requests/s of the last {interval:.1f} s, counts since the start"
    return f"{many}; p99 and counts since the start"


def _plain(trouble: Trouble) -> str:
    return trouble.replace("_", " ")


def _wrapped(text: str, width: int) -> list[str]:
    return wrap(f"{MARK}{text}", max(width, 20), subsequent_indent=" " * len(MARK))


def _columns(view: View) -> list[Column]:
    """Choose what there is anything to say in."""
    pools = view.pools
    places = {pool.address for pool in pools} | {problem.address for problem in view.problems}
    return [
        *([ADDRESS] if len(places) > 1 else []),
        *([JOB] if any(pool.job for pool in pools) else []),
        *([INSTANCE] if any(pool.instance for pool in pools) else []),
        NAME,
        *LEVELS,
        RATE if any(pool.requests_per_second is not None for pool in pools) else REQUESTS,
        *COUNTS,
        *([TROUBLE] if any(pool.trouble for pool in pools) else []),
    ]
