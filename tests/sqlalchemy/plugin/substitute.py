"""A plugin for SQLAlchemy's own test run: in it, its queue pools are ours."""

from typing import Any

import pytest


class Names:
    """Says under the private names these tests use what ours says in public."""

    @property
    def _overflow(self: Any) -> int:
        # A QueuePool counts records without a connection too, of which it keeps `pool_size`.
        return max(0, self.overflow())

    @property
    def _pool(self) -> Any:
        return Queue(self)


class Queue:
    """What the tests ask of the queue inside a QueuePool."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.use_lifo = pool._use_lifo
        self.queue: list[Any] = []  # never a record without a connection

    def empty(self) -> bool:
        return bool(self._pool.checkedin() == 0)


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Put ours in their places; not before SQLAlchemy's own plugin has begun."""
    import sqlalchemy.pool
    from sqlalchemy.pool import impl

    from poolscope.sqlalchemy import AsyncObservedPool, ObservedPool

    for name, ours in ("QueuePool", ObservedPool), ("AsyncAdaptedQueuePool", AsyncObservedPool):
        logger = f"{impl.__name__}.{name}"
        body = {"__module__": impl.__name__, "_sqla_logger_namespace": logger}
        substitute = type(name, (Names, ours), body)
        for module in sqlalchemy, sqlalchemy.pool, impl:
            setattr(module, name, substitute)
