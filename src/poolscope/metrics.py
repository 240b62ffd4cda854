"""The numbers of a pool, as people and exporters read them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from poolscope.events import AcquireSource, FailureReason
from poolscope.stats import PoolStats
from poolscope.tally import Tally


class ConnectionPoolMetrics(Tally):
    """Count what happens to one pool. Memory is bounded; reading is safe from any thread.

    A pool subscribes its metrics to its own bus. The levels (`total_connections`,
    `active_connections`, `idle_connections`, `max_connections`) are then read from the pool's
    state; without a pool they follow the `record_*` calls, or what is assigned to them.
    `reset()` sets counts to zero and never touches levels.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self._levels = {"total": 0, "active": 0, "idle": 0, "max": 0}
        super().__init__()

    def reset(self) -> None:
        """Set all counts to zero and start the clock anew."""
        with self._lock:
            super().reset()
            self._begin_by_hand()

    def _begin_by_hand(self) -> None:
        self.start_time = time.time()
        self._started = time.monotonic()
        self._requested = 0
        self._errors = 0
        self._released_by_hand = 0

    # By hand

    def record_connection_request(self) -> None:
        """Count a request."""
        with self._lock:
            self._requested += 1

    def record_connection_acquire(self, connection_id: str, acquisition_time: float) -> None:
        """Count an acquired connection; `acquisition_time` in seconds."""
        with self._lock:
            self._acquired("", 0.0, 0, 0, acquisition_time, AcquireSource.IDLE, connection_id)
            levels = self._levels
            levels["active"] += 1
            levels["idle"] = max(0, levels["idle"] - 1)
            levels["total"] = max(levels["total"], levels["active"] + levels["idle"])
            levels["max"] = max(levels["max"], levels["total"])

    def record_connection_release(self, connection_id: str, release_time: float) -> None:
        """Count a released connection; `release_time`, in seconds, is how long releasing took."""
        with self._lock:
            self.release_times.append(release_time * 1000)
            self._release_time += release_time
            self._released_by_hand += 1
            if self._levels["active"]:
                self._levels["active"] -= 1
                self._levels["idle"] += 1

    def record_connection_timeout(self) -> None:
        """Count a request that reached its deadline."""
        with self._lock:
            self.failures[FailureReason.TIMEOUT] += 1

    def record_connection_error(self) -> None:
        """Count a request that failed otherwise."""
        with self._lock:
            self._errors += 1

    # Levels

    def _levels_of(self, stats: PoolStats | None) -> dict[str, int]:
        """Return the levels of one moment."""
        if stats is None:
            return self._levels.copy()
        total, idle = stats.idle + stats.in_use, stats.idle
        return {"total": total, "active": stats.in_use, "idle": idle, "max": stats.max_size}

    @property
    def total_connections(self) -> int:
        """Return how many connections are open: idle and in use."""
        return self._levels_of(self.stats())["total"]

    @total_connections.setter
    def total_connections(self, value: int) -> None:
        self._levels["total"] = value

    @property
    def active_connections(self) -> int:
        """Return how many connections are in use."""
        return self._levels_of(self.stats())["active"]

    @active_connections.setter
    def active_connections(self, value: int) -> None:
        self._levels["active"] = value

    @property
    def idle_connections(self) -> int:
        """Return how many connections are idle."""
        return self._levels_of(self.stats())["idle"]

    @idle_connections.setter
    def idle_connections(self, value: int) -> None:
        self._levels["idle"] = value

    @property
    def max_connections(self) -> int:
        """Return how many connections may be open at most; without a pool, how many ever were."""
        return self._levels_of(self.stats())["max"]

    @max_connections.setter
    def max_connections(self, value: int) -> None:
        self._levels["max"] = value

    # Counts and rates

    @property
    def acquired(self) -> int:
        """Return how many requests got a connection."""
        return self.wait.count

    @property
    def released(self) -> int:
        """Return how many connections were given back."""
        with self._lock:
            return self.use.count - self.reclaimed - self.detached + self._released_by_hand

    @property
    def connection_requests(self) -> int:
        """Return how many requests were made, those still waiting included."""
        return self._requests(self.stats())

    def _requests(self, stats: PoolStats | None) -> int:
        with self._lock:
            ended = self.acquired + sum(self.failures.values()) + self._errors
            return ended + stats.waiting if stats else max(self._requested, ended)

    @property
    def connection_timeouts(self) -> int:
        """Return how many requests reached their deadline."""
        return self.failures[FailureReason.TIMEOUT]

    @property
    def connection_errors(self) -> int:
        """Return how many requests failed otherwise; a cancelled request is not a failed one."""
        no_errors = (FailureReason.TIMEOUT, FailureReason.CANCELLED)
        with self._lock:
            return self._errors + sum(n for r, n in self.failures.items() if r not in no_errors)

    @property
    def connection_cancellations(self) -> int:
        """Return how many requests their callers gave up."""
        return self.failures[FailureReason.CANCELLED]

    @property
    def avg_acquisition_time(self) -> float:
        """Return the mean wait of requests that got a connection, in ms."""
        return self.wait.mean * 1000

    @property
    def avg_release_time(self) -> float:
        """Return the mean time a release took, in ms."""
        with self._lock:
            return _share(self._release_time * 1000, self.released)

    @property
    def pool_utilization(self) -> float:
        """Return active / open connections, 0 to 1."""
        levels = self._levels_of(self.stats())
        return _share(levels["active"], levels["total"])

    @property
    def saturation(self) -> float:
        """Return active connections / `max_size`, 0 to 1; dashboards call it utilization."""
        levels = self._levels_of(self.stats())
        return _share(levels["active"], levels["max"])

    @property
    def error_rate(self) -> float:
        """Return (timeouts + errors) / requests, 0 to 1."""
        return self._error_rate(self.stats())

    def _error_rate(self, stats: PoolStats | None) -> float:
        with self._lock:
            failed = self.connection_timeouts + self.connection_errors
            return _share(failed, self._requests(stats))

    # Reports

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, of one moment; times are named with their unit."""
        stats = self.stats()  # outside of the lock: a pool has its own
        with self._lock:
            return self._to_dict(stats, self._levels_of(stats))

    def _to_dict(self, stats: PoolStats | None, levels: dict[str, int]) -> dict[str, Any]:
        return {
            "timestamp": datetime.now(UTC).isoformat(),
            "duration_seconds": time.monotonic() - self._started,
            "total_connections": levels["total"],
            "active_connections": levels["active"],
            "idle_connections": levels["idle"],
            "max_connections": levels["max"],
            "connection_requests": self._requests(stats),
            "connection_timeouts": self.connection_timeouts,
            "connection_errors": self.connection_errors,
            "connection_cancellations": self.connection_cancellations,
            "avg_acquisition_time_ms": self.avg_acquisition_time,
            "avg_release_time_ms": self.avg_release_time,
            "pool_utilization": _share(levels["active"], levels["total"]),
            "saturation": _share(levels["active"], levels["max"]),
            "error_rate": self._error_rate(stats),
            "wait_p99_ms": self.wait.quantile(0.99) * 1000,
            "use_p99_ms": self.use.quantile(0.99) * 1000,
            "failures": {reason.value: n for reason, n in self.failures.items() if n},
            "closed": {reason.value: n for reason, n in self.closed.items() if n},
        }

    def to_json(self, pretty: bool = True) -> str:
        """Return `to_dict()` as JSON."""
        return json.dumps(self.to_dict(), indent=2 if pretty else None)

    def save(self, file_path: str | Path) -> None:
        """Write `to_json()` to a file."""
        Path(file_path).write_text(self.to_json() + "\n", encoding="utf-8")

    def print_summary(self) -> None:
        """Print what matters on a few lines."""
        print(
            f"connections  {self.active_connections} active, {self.idle_connections} idle, "
            f"{self.max_connections} at most\n"
            f"requests     {self.connection_requests}, {self.connection_timeouts} timed out, "
            f"{self.connection_errors} failed, {self.connection_cancellations} cancelled "
            f"(error rate {self.error_rate:.1%})\n"
            f"wait         {self.avg_acquisition_time:.2f} ms mean, "
            f"{self.wait.quantile(0.99) * 1000:.2f} ms p99\n"
            f"use          {self.use.mean * 1000:.2f} ms mean, "
            f"{self.use.quantile(0.99) * 1000:.2f} ms p99"
        )


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0
