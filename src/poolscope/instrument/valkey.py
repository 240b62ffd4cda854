"""Pools of valkey-py, the twin of redis-py."""

from __future__ import annotations

from poolscope.instrument.redis.family import Family


class Valkey(Family):
    """Observes pools of valkey-py."""

    name = distribution = "valkey"
    tried = "6.0 to 6.2"
    client = "Valkey"


LIBRARY = Valkey()
