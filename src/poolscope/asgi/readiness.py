"""Whether to send requests here: told at once from the state of the pools, without a query.

A pool that is saturated works; to take its process out of service would make it worse for the
others. What counts is that a pool has no connection open and cannot get one.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from poolscope.asgi.types import Scope, Send
from poolscope.manager import PoolHealth, PoolManager

PATIENCE = 10.0
"""Seconds for which a failed connect counts against a pool that does not try again by itself.

A pool without `min_size` connects when somebody asks, and nobody asks a service that is not ready.
"""


class Readiness(NamedTuple):
    """The answer, and what it is based on, ready for JSON."""

    ok: bool
    report: dict[str, Any]


def readiness(manager: PoolManager) -> Readiness:
    """Tell whether each pool has, or could have, a connection.

    The report says `ready`, and of each of `pools` its state, its levels, and the `reason` why it
    is not ready: it is closed, its first connection is still being opened, or connects fail.
    Safe from any thread.
    """
    pools = {name: _report(health) for name, health in manager.get_health().items()}
    ok = all(pool["ready"] for pool in pools.values())
    return Readiness(ok, {"ready": ok, "pools": pools})


def _report(health: PoolHealth) -> dict[str, Any]:
    stats, reason = health.stats, _reason(health)
    return {
        "ready": reason is None,
        "reason": reason,
        "state": stats.state,
        "in_use": stats.in_use,
        "idle": stats.idle,
        "connecting": stats.connecting,
        "waiting": stats.waiting,
        "max_size": stats.max_size,
        "saturated_for": round(stats.saturated_for, 3),
        "failing_for": round(health.failing_for, 3),
    }


def _reason(health: PoolHealth) -> str | None:
    """Return why a pool is not ready, None if it is. Nothing here is a text of somebody else."""
    stats = health.stats
    if stats.state in ("closing", "closed"):
        return "closed"
    if stats.idle + stats.in_use:
        return None
    keeps_trying = stats.min_size or stats.waiting or stats.connecting
    if health.fault is not None and (keeps_trying or health.last_failure < PATIENCE):
        return f"connects fail ({health.fault.value})"
    if not health.opened and stats.connecting:
        return "opening"
    return None


async def answer(readiness: Readiness, scope: Scope, send: Send) -> None:
    """Answer an HTTP request: 200 or 503, with the report as JSON."""
    body = json.dumps(readiness.report).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    status = 200 if readiness.ok else 503
    await send({"type": "http.response.start", "status": status, "headers": headers})
    body = b"" if scope["method"] == "HEAD" else body
    await send({"type": "http.response.body", "body": body})
