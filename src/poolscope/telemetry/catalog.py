"""Every metric: its name, instrument, unit, meaning, attributes and buckets. Written only here.

Names, units and instruments of `db.client.connection.*` are those of the OpenTelemetry semantic
conventions 1.44 (model/db/metrics.yaml), which give no buckets: those are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

POOL_NAME = "db.client.connection.pool.name"
STATE = "db.client.connection.state"
STATE_IDLE = "idle"
STATE_USED = "used"
ERROR_TYPE = "error.type"

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

Kind = Literal["counter", "updowncounter", "histogram"]


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
    "Time it took to open a connection, failed attempts included",
    buckets=CREATE_BUCKETS,
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
)
