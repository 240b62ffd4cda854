"""Pools for SQLAlchemy, by one argument: `create_engine(url, poolclass=ObservedPool)`."""

from poolscope.sqlalchemy.aio import AsyncObservedPool
from poolscope.sqlalchemy.errors import PoolTimeoutError

__all__ = ["AsyncObservedPool", "PoolTimeoutError"]
