"""What panels ask Prometheus: PromQL in which the variables of a board stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

from grafana.kit.names import (
    ENVIRONMENT,
    ERROR_TYPE,
    FAILURES,
    INSTANCE,
    JOB,
    POOL,
    SLO_OBJECTIVE,
    WAIT_COUNT,
)
from poolscope.reasons import FailureReason

Json = dict[str, Any]

PROMETHEUS = {"type": "prometheus", "uid": "${datasource}"}

BY_JOB = f'{JOB}=~"$job"'
BY_INSTANCE = f'{INSTANCE}=~"$instance"'
BY_ENVIRONMENT = f'{ENVIRONMENT}=~"$env"'
BY_POOL = f'{POOL}=~"$pool"'
OF_POOLS = (BY_JOB, BY_INSTANCE, BY_ENVIRONMENT, BY_POOL)
"""Picks the pools that are chosen above the board."""
OF_PROCESSES = (BY_JOB, BY_INSTANCE, BY_ENVIRONMENT)
"""Picks processes, for series that say nothing of a pool."""
OF_TARGETS = (BY_JOB, BY_INSTANCE)
"""Picks what is no service, as a Collector."""
OF_GROUPS = (BY_JOB, BY_ENVIRONMENT, BY_POOL)
"""Picks the series of recording rules, which know no instance."""

WELL = f'{ERROR_TYPE}=""'
"""No error, whether the label is absent or empty."""
COUNTED = f'{ERROR_TYPE}!="{FailureReason.CANCELLED}"'
"""To cancel is the caller's choice: it counts neither as good nor as bad."""

PER_POOL = (JOB, POOL)
PER_INSTANCE = (JOB, INSTANCE, POOL)
POOL_LEGEND = f"{{{{{POOL}}}}}"
INSTANCE_LEGEND = f"{{{{{POOL}}}}} · {{{{{INSTANCE}}}}}"


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel, and what its series are called."""

    expr: str
    legend: str = ""
    exemplars: bool = False
    kind: Literal["time_series", "heatmap", "table"] = "time_series"
    instant: bool = False


def targets(queries: Sequence[Query]) -> list[Json]:
    """Return queries as a panel has them."""
    return [_target(query, ref) for query, ref in zip(queries, ascii_uppercase, strict=False)]


def _target(query: Query, ref: str) -> Json:
    return {
        "refId": ref,
        "datasource": PROMETHEUS,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "format": query.kind,
        "instant": query.instant,
        "range": not query.instant,
        "exemplar": query.exemplars,
        "editorMode": "code",
    }


def of(series: str, *more: str, which: Sequence[str] = OF_POOLS) -> str:
    """Return the selector of those series that are chosen above the board."""
    return f"{series}{{{', '.join([*which, *more])}}}"


def rate(selector: str) -> str:
    """Return the rate of a counter per second, over what suits the width of the panel."""
    return f"rate({selector}[$__rate_interval])"


def increase(selector: str, window: str = "$__range") -> str:
    """Return what was counted in a window, by default the time range of the board."""
    return f"increase({selector}[{window}])"


def total(expr: str, *by: str) -> str:
    """Return a sum, for each of some labels if any are given."""
    return _aggregate("sum", expr, by)


def highest(expr: str, *by: str) -> str:
    """Return a maximum, for each of some labels if any are given."""
    return _aggregate("max", expr, by)


def _aggregate(how: str, expr: str, by: Sequence[str]) -> str:
    return f"{how} by ({', '.join(by)}) ({expr})" if by else f"{how}({expr})"


def either(counter: str, which: Sequence[str]) -> str:
    """Return the rate of a counter of the Collector, by whichever of two names it has.

    What it shows to be scraped has no suffix, what it sends by OTLP gets one.
    """
    return " or ".join(rate(of(name, which=which)) for name in (counter, f"{counter}_total"))


def share(part: str, whole: str) -> str:
    """Return a fraction; there is none where the whole is 0."""
    return f"{part}\n/\n({whole} > 0)"


def quantile(q: str, buckets: str, *by: str) -> str:
    """Return a quantile of the summed buckets, nothing where there was nothing."""
    return f"histogram_quantile({q}, {total(rate(buckets), *by, 'le')}) >= 0"


def requests(*by: str, which: Sequence[str] = OF_POOLS) -> str:
    """Return the requests per second, cancelled ones left out.

    What failed is counted from zero on; a histogram of failures begins with the first.
    """
    well, failed = of(WAIT_COUNT, WELL, which=which), of(FAILURES, COUNTED, which=which)
    return total(f"{rate(well)} or {rate(failed)}", *by)


def failed(*by: str, which: Sequence[str] = OF_POOLS) -> str:
    """Return the requests per second that got no connection, cancelled ones left out."""
    return total(rate(of(FAILURES, COUNTED, which=which)), *by)


def budget_left(errors: str) -> str:
    """Return what is left of the error budget, as a share, if there were such errors."""
    return f"1 - {per_budget(errors)}"


def per_budget(errors: str) -> str:
    """Return errors in relation to the budget: at 1 they use it up, no faster."""
    return f"{errors}\n/ on () group_left ()\n(1 - max({SLO_OBJECTIVE}))"
