"""Pools for SQLAlchemy, by one argument: `create_engine(url, poolclass=ObservedPool)`."""

from poolscope.sqlalchemy.aio import AsyncObservedPool
from poolscope.sqlalchemy.errors import PoolTimeoutError
from poolscope.sqlalchemy.sync import ObservedPool

__all__ = ["AsyncObservedPool", "ObservedPool", "PoolTimeoutError"]
