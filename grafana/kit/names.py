"""The names in Prometheus of metrics, labels, recording rules and alerts. Only here.

Metrics and labels come from the catalogue; what they mean is said there.
"""

from __future__ import annotations

from typing import Literal

from poolscope.telemetry import catalog
from poolscope.telemetry.catalog import Metric, prometheus_label

# Labels

JOB = "job"
INSTANCE = "instance"
ENVIRONMENT = "deployment_environment_name"
VERSION = "service_version"
POOL = prometheus_label(catalog.POOL_NAME)
STATE = prometheus_label(catalog.STATE)
ERROR_TYPE = prometheus_label(catalog.ERROR_TYPE)
REASON = prometheus_label(catalog.REASON)
SERVER = prometheus_label(catalog.SERVER_ADDRESS)

GROUP = (JOB, ENVIRONMENT, POOL)
"""What makes a pool, whatever process it is in.

Where the environment is not a label of the metrics, grouping by it changes nothing.
"""
G = ", ".join(GROUP)
EACH = f"{INSTANCE}, {G}"
"""What makes a pool of one process."""
USED = f'{STATE}="{catalog.STATE_USED}"'
IDLE = f'{STATE}="{catalog.STATE_IDLE}"'

# Metrics


def series(metric: Metric, part: Literal["", "bucket", "count", "sum"] = "") -> str:
    """Return the name of a metric's series; of a histogram those of one part."""
    suffix = {"counter": "_total", "histogram": f"_{part}"}.get(metric.kind, "")
    return metric.prometheus_name + suffix


COUNT = series(catalog.COUNT)
IDLE_MAX = series(catalog.IDLE_MAX)
IDLE_MIN = series(catalog.IDLE_MIN)
MAX = series(catalog.MAX)
PENDING = series(catalog.PENDING_REQUESTS)
TIMEOUTS = series(catalog.TIMEOUTS)
WAIT_BUCKET = series(catalog.WAIT_TIME, "bucket")
WAIT_COUNT = series(catalog.WAIT_TIME, "count")
WAIT_SUM = series(catalog.WAIT_TIME, "sum")
USE_BUCKET = series(catalog.USE_TIME, "bucket")
USE_COUNT = series(catalog.USE_TIME, "count")
USE_SUM = series(catalog.USE_TIME, "sum")
CREATE_BUCKET = series(catalog.CREATE_TIME, "bucket")
CREATE_COUNT = series(catalog.CREATE_TIME, "count")
CREATE_SUM = series(catalog.CREATE_TIME, "sum")
POOLS = series(catalog.POOLS)
FAILURES = series(catalog.FAILURES)
CONNECT_FAILURES = series(catalog.CONNECT_FAILURES)
CLOSED = series(catalog.CLOSED)
OPENING = series(catalog.OPENING)
LEAKS = series(catalog.LEAKS)
USED_PEAK = series(catalog.USED_PEAK)
USE_OLDEST = series(catalog.USE_OLDEST)
WAIT_OLDEST = series(catalog.WAIT_OLDEST)
ACQUIRE_TIMEOUT = series(catalog.ACQUIRE_TIMEOUT)
SATURATION_TIME = series(catalog.SATURATION_TIME)
SUBSCRIBER_ERRORS = series(catalog.SUBSCRIBER_ERRORS)
EVENTS_DROPPED = series(catalog.EVENTS_DROPPED)

SERVER_MAX = "postgresql_connection_max"
"""Not ours: the limit of a PostgreSQL, from the Collector's receiver `postgresql`."""

# Recording rules

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
"""Over which rates are recorded."""
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
DURATIONS = (catalog.WAIT_TIME, catalog.USE_TIME, catalog.CREATE_TIME)
"""Whose quantiles are recorded."""

_PREFIX = "db_client_connection"
UTILIZATION = f"instance_pool:{_PREFIX}_utilization:ratio"
UTILIZATION_MAX = f"job_pool:{_PREFIX}_utilization:max"
UTILIZATION_AVG = f"job_pool:{_PREFIX}_utilization:avg"
CONNECT_FAILURE_RATIO = f"job_pool:{_PREFIX}_connect_failures:ratio_rate5m"
SERVER_PROMISED = f"server:{_PREFIX}_max:sum"
SLO_ERRORS_30D = f"job_pool:{_PREFIX}_acquire_slo_errors:ratio_rate30d"
SLO_OBJECTIVE = "poolscope_slo_objective:ratio"


def acquires(window: str) -> str:
    """Return the name of the requests per second, cancelled ones left out."""
    return f"job_pool:{_PREFIX}_acquires:rate{window}"


def acquires_failed(window: str) -> str:
    """Return the name of the requests per second that got no connection."""
    return f"job_pool:{_PREFIX}_acquires_failed:rate{window}"


def acquires_good(window: str) -> str:
    """Return the name of the requests per second that got one in time for the objective."""
    return f"job_pool:{_PREFIX}_acquires_good:rate{window}"


def acquire_failures(window: str) -> str:
    """Return the name of the share of requests that got no connection."""
    return f"job_pool:{_PREFIX}_acquire_failures:ratio_rate{window}"


def slo_errors(window: str) -> str:
    """Return the name of the share of requests that failed or took too long."""
    return f"job_pool:{_PREFIX}_acquire_slo_errors:ratio_rate{window}"


def quantile(metric: Metric, name: str) -> str:
    """Return the name of a quantile of a duration over 5 minutes; `name` is one of QUANTILES."""
    return f"job_pool:{metric.prometheus_name}:{name}_rate5m"


# Alerts

BURN = "PoolAcquireErrorBudgetBurn"
ERROR_RATE_HIGH = "PoolAcquireErrorRateHigh"
ACQUIRE_TIMEOUTS = "PoolAcquireTimeouts"
EXHAUSTED = "PoolExhausted"
UTILIZATION_HIGH = "PoolUtilizationHigh"
PENDING_SUSTAINED = "PoolPendingSustained"
WAIT_NEAR_TIMEOUT = "PoolWaitP99NearTimeout"
LEAK = "PoolConnectionLeak"
STUCK = "PoolConnectionsStuck"
CONNECT_FAILING = "PoolConnectFailures"
CHURN_HIGH = "PoolConnectionChurnHigh"
BROKEN_SPIKE = "PoolBrokenConnectionsSpike"
SERVER_CAPACITY = "PoolServerCapacityRisk"
TELEMETRY_STALE = "PoolTelemetryStale"
TELEMETRY_LOST = "PoolTelemetryLost"
NO_TELEMETRY = "PoolNoTelemetryAtAll"
COLLECTOR_DOWN = "CollectorDown"
COLLECTOR_EXPORT_FAILING = "CollectorExportFailing"
COLLECTOR_QUEUE_NEAR_FULL = "CollectorQueueNearFull"
COLLECTOR_REFUSING = "CollectorRefusing"
RULE_FAILURES = "PrometheusRuleFailures"
NOTIFICATIONS_FAILING = "PrometheusNotificationsFailing"
WATCHDOG = "Watchdog"
