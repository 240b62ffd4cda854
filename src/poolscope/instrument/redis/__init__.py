"""Pools of redis-py, for threads and for asyncio.

What redis-py lends are objects that connect when they are first lent, and connect anew by
themselves when their socket broke. `idle` are those whose sockets are open; a lent one counts as in
use until it is given back, as does a broken one of any library. `CLIENT LIST` shows as many, but
for lent ones that broke and have not been used since.
"""

from __future__ import annotations

from poolscope.instrument.redis.family import Family


class Redis(Family):
    """Observes pools of redis-py."""

    name = distribution = "redis"
    tried = "5.0.1 to 8.1"
    client = "Redis"


LIBRARY = Redis()
