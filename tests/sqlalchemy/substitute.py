"""A plugin for SQLAlchemy's own test run: in it, QueuePool is ours."""

from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection() -> None:
    """Put ours in its place; not before SQLAlchemy's own plugin has begun."""
    import sqlalchemy.pool
    from sqlalchemy.pool import impl

    from poolscope.sqlalchemy import ObservedPool

    class QueuePool(ObservedPool):
        """Says under the private names these tests use what ours says in public."""

        _sqla_logger_namespace = "sqlalchemy.pool.impl.QueuePool"

        @property
        def _overflow(self) -> int:
            # QueuePool counts records without a connection too, of which it keeps `pool_size`.
            return max(0, self.overflow())

        @property
        def _pool(self) -> Any:
            return _Queue(self)

    QueuePool.__module__ = impl.__name__
    sqlalchemy.pool.QueuePool = sqlalchemy.QueuePool = impl.QueuePool = QueuePool  # type: ignore


class _Queue:
    """What the tests ask of the queue inside a QueuePool."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self.use_lifo = pool._use_lifo
        self.queue: list[Any] = []  # never a record without a connection

    def empty(self) -> bool:
        return bool(self._pool.checkedin() == 0)
