"""What a caller is told in the words of both SQLAlchemy and this pool."""

from __future__ import annotations

import sqlalchemy.exc

from poolscope import errors


class PoolTimeoutError(errors.PoolTimeoutError, sqlalchemy.exc.TimeoutError):
    """No connection could be had within `pool_timeout`; `stats` says how the pool was."""

    code = "3o7r"
    """What SQLAlchemy's own pool says, and its documentation explains."""

    @classmethod
    def of(cls, error: errors.PoolTimeoutError) -> PoolTimeoutError:
        """Return the same error for those who catch SQLAlchemy's."""
        same = cls(str(error), error.stats)
        same.__cause__ = error.__cause__
        return same
