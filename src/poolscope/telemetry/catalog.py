"""Every metric and span: names, instruments, units, meanings, attributes, buckets. Only here.

Names, units and instruments of `db.client.connection.*` are those of the OpenTelemetry semantic
conventions 1.44 (model/db/metrics.yaml), which give no buckets: those are ours. So is everything
that begins with `poolscope.`, and the names of the spans, for which there is no convention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

POOL_NAME = "db.client.connection.pool.name"
STATE = "db.client.connection.state"
STATE_IDLE = "idle"
STATE_USED = "used"
ERROR_TYPE = "error.type"
REASON = "reason"
OVERFLOW = "otel.metric.overflow"
"""Stands in place of the pool's name on the series that sum up the pools beyond the limit."""
MOST_POOLS = 2000
"""Pools that have series of their own, at most; the limit of the metrics SDK specification."""

SCOPE = "poolscope"
"""The instrumentation scope of metrics and spans."""

ACQUIRE_SPAN = "pool.acquire"
USE_SPAN = "pool.use"
CONNECT_SPAN = "pool.connect"
SYSTEM = "db.system.name"
NAMESPACE = "db.namespace"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ACQUIRE_SOURCE = "poolscope.acquire.source"
ACQUIRE_ATTEMPTS = "poolscope.acquire.attempts"
CONNECT_ATTEMPT = "poolscope.connect.attempt"
CONNECTION_ID = "poolscope.connection.id"
REQUEST_WAIT_TIME = "poolscope.request.wait_time"
"""On the span of an HTTP request, as the two below: seconds, followed by the pool's name."""
REQUEST_USE_TIME = "poolscope.request.use_time"
REQUEST_ACQUIRED = "poolscope.request.acquired"
"""How many connections."""
LINK = "poolscope.link"
"""Why a span is linked: it was the `holder` of a connection, or the `connect` that opened it."""
LINK_HOLDER = "holder"
LINK_CONNECT = "connect"

WAIT_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0
)  # fmt: skip
"""Seconds; 0.1 is the bound of the service level objective."""
CREATE_BUCKETS = WAIT_BUCKETS
USE_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0, 120.0, 300.0, 600.0
)  # fmt: skip
"""Seconds; the tail shows leaks."""

Kind = Literal["counter", "updowncounter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """What an instrument is made from."""

    name: str
    kind: Kind
    unit: str
    help: str
    attributes: tuple[str, ...] = (POOL_NAME,)
    buckets: tuple[float, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """Return the name without suffix, as OTLP through a Collector gives it to Prometheus."""
        name = self.name.replace(".", "_")
        return f"{name}_seconds" if self.unit == "s" else name


def prometheus_label(attribute: str) -> str:
    """Return the label an attribute becomes in Prometheus."""
    return attribute.replace(".", "_")


COUNT = Metric(
    "db.client.connection.count",
    "updowncounter",
    "{connection}",
    "Connections that are idle or used, as the state says",
    (POOL_NAME, STATE),
)
IDLE_MAX = Metric(
    "db.client.connection.idle.max",
    "updowncounter",
    "{connection}",
    "Idle connections kept at most",
)
IDLE_MIN = Metric(
    "db.client.connection.idle.min",
    "updowncounter",
    "{connection}",
    "Connections kept open even when nobody asks",
)
MAX = Metric(
    "db.client.connection.max", "updowncounter", "{connection}", "Connections open at most"
)
PENDING_REQUESTS = Metric(
    "db.client.connection.pending_requests",
    "updowncounter",
    "{request}",
    "Requests waiting for a connection now",
)
TIMEOUTS = Metric(
    "db.client.connection.timeouts",
    "counter",
    "{timeout}",
    "Requests that got no connection within their deadline",
)
CREATE_TIME = Metric(
    "db.client.connection.create_time",
    "histogram",
    "s",
    "Time until a connect ended, with error.type when it opened no connection",
    (POOL_NAME, ERROR_TYPE),
    CREATE_BUCKETS,
)
WAIT_TIME = Metric(
    "db.client.connection.wait_time",
    "histogram",
    "s",
    "Time until a request ended, with error.type when it got no connection",
    (POOL_NAME, ERROR_TYPE),
    WAIT_BUCKETS,
)
USE_TIME = Metric(
    "db.client.connection.use_time",
    "histogram",
    "s",
    "Time between acquiring a connection and giving it back",
    buckets=USE_BUCKETS,
)

POOLS = Metric("poolscope.pools", "updowncounter", "{pool}", "Pools that are open", ())
FAILURES = Metric(
    "poolscope.acquire.failures",
    "counter",
    "{request}",
    "Requests that got no connection, by why",
    (POOL_NAME, ERROR_TYPE),
)
CONNECT_FAILURES = Metric(
    "poolscope.connect.failures",
    "counter",
    "{attempt}",
    "Connects that failed, by why: timeout, refused, auth or other",
    (POOL_NAME, ERROR_TYPE),
)
CLOSED = Metric(
    "poolscope.connection.closed",
    "counter",
    "{connection}",
    "Connections that were closed, by why",
    (POOL_NAME, REASON),
)
OPENING = Metric(
    "poolscope.connection.opening",
    "updowncounter",
    "{connection}",
    "Connections being opened now",
)
LEAKS = Metric(
    "poolscope.connection.leaks",
    "counter",
    "{leak}",
    "Leases that lasted longer than leak_threshold",
)
USED_PEAK = Metric(
    "poolscope.connection.used.peak",
    "gauge",
    "{connection}",
    "The most connections in use at a time, in the last 60 s",
)
USE_OLDEST = Metric(
    "poolscope.use.oldest", "gauge", "s", "How long the longest present lease has lasted"
)
WAIT_OLDEST = Metric(
    "poolscope.wait.oldest", "gauge", "s", "How long the first in line has been waiting"
)
ACQUIRE_TIMEOUT = Metric("poolscope.acquire.timeout", "gauge", "s", "The setting acquire_timeout")
SATURATION_TIME = Metric(
    "poolscope.saturation.time",
    "counter",
    "s",
    "Time during which requests waited while all connections were in use",
)
SUBSCRIBER_ERRORS = Metric(
    "poolscope.subscriber.errors",
    "counter",
    "{error}",
    "How often a subscriber raised over an event of the pool",
)
EVENTS_DROPPED = Metric(
    "poolscope.events.dropped",
    "counter",
    "{event}",
    "Events lost because a buffered subscriber was too slow",
)

METRICS = (
    COUNT,
    IDLE_MAX,
    IDLE_MIN,
    MAX,
    PENDING_REQUESTS,
    TIMEOUTS,
    CREATE_TIME,
    WAIT_TIME,
    USE_TIME,
    POOLS,
    FAILURES,
    CONNECT_FAILURES,
    CLOSED,
    OPENING,
    LEAKS,
    USED_PEAK,
    USE_OLDEST,
    WAIT_OLDEST,
    ACQUIRE_TIMEOUT,
    SATURATION_TIME,
    SUBSCRIBER_ERRORS,
    EVENTS_DROPPED,
)
