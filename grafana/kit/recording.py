"""Recording rules: what alerts and dashboards ask for again and again.

Their names keep the windows that are set, at any pace, so whoever asks for them need not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import dedent
from typing import Any

from grafana.kit import names
from grafana.kit.names import CREATE_COUNT, ERROR_TYPE, FAILURES, WAIT_BUCKET, WAIT_COUNT, G
from grafana.kit.pace import Pace
from grafana.kit.settings import Settings
from poolscope.reasons import FailureReason
from poolscope.telemetry.catalog import Metric

Rule = dict[str, Any]
OFTEN = "30s"
SELDOM = "2m"
"""How often rules are evaluated; the second must stay below Prometheus' lookback of 5m."""

_RAW = ("5m", "30m", "1h", "2h")
"""Rates over these are taken from the series themselves.

Longer ones are the mean of the recorded rates, or a fleet's evaluation would load days of samples
of every process.
"""
_WELL = f'{ERROR_TYPE}=""'
_COUNTED = f'{ERROR_TYPE}!="{FailureReason.CANCELLED}"'
"""To cancel is the caller's choice: it counts neither as good nor as bad."""


def groups(settings: Settings, at: Pace) -> Iterator[dict[str, Any]]:
    """Yield the groups of rules."""
    for window in names.WINDOWS:
        interval = OFTEN if window in _RAW else SELDOM
        rates = _rates(window, settings, at) if window in _RAW else _long_rates(window, at)
        yield _group(f"acquires-{window}", at(interval), [*rates, *_ratios(window)])
    yield _group("objective", at(SELDOM), _objective(settings, at))
    yield _group("levels", at(OFTEN), _levels())
    yield _group("connects", at(OFTEN), [_connect_failures(at)])
    for metric in names.DURATIONS:
        quantiles = [_quantile(metric, name, at) for name in names.QUANTILES]
        yield _group(metric.name.rpartition(".")[2].replace("_", "-"), at(OFTEN), quantiles)


def _group(name: str, interval: str, rules: list[Rule]) -> dict[str, Any]:
    return {"name": f"poolscope-{name}", "interval": interval, "rules": rules}


def _record(name: str, expr: str) -> Rule:
    return {"record": name, "expr": dedent(expr).strip()}


def _rates(window: str, settings: Settings, at: Pace) -> list[Rule]:
    """Take the failures from counters that begin at zero; a failed histogram does not.

    Requests are what went well and what failed; a pool has the series of both from the beginning.
    """
    requests, w = names.acquires(window), at(window)
    good = f'{WAIT_BUCKET}{{{_WELL}, le="{settings.slo.seconds}"}}'
    return [
        _record(
            requests,
            f"""\
            sum by ({G}) (
              rate({WAIT_COUNT}{{{_WELL}}}[{w}])
              or
              rate({FAILURES}{{{_COUNTED}}}[{w}])
            )""",
        ),
        _record(
            names.acquires_failed(window),
            f"""\
            sum by ({G}) (
              rate({FAILURES}{{{_COUNTED}}}[{w}])
            )
            or
            0 * {requests}""",
        ),
        _record(
            names.acquires_good(window),
            f"""\
            sum by ({G}) (
              rate({good}[{w}])
            )
            or
            0 * {requests}""",
        ),
    ]


def _long_rates(window: str, at: Pace) -> list[Rule]:
    return [
        _record(rate(window), f"avg_over_time({rate('5m')}[{at(window)}])")
        for rate in (names.acquires, names.acquires_failed, names.acquires_good)
    ]


def _ratios(window: str) -> list[Rule]:
    """Give no sample while nothing is asked of a pool."""
    requests = names.acquires(window)
    return [
        _record(
            names.acquire_failures(window),
            f"{names.acquires_failed(window)}\n/\n({requests} > 0)",
        ),
        _record(
            names.slo_errors(window),
            f"""\
            clamp_min(
              1
              -
              {names.acquires_good(window)}
              /
              ({requests} > 0),
              0
            )""",
        ),
    ]


def _objective(settings: Settings, at: Pace) -> list[Rule]:
    """Weigh the budget's period by traffic: an hour without requests counts for nothing."""
    hours = f"[{at(settings.slo.period)}:{at('1h')}]"
    return [
        _record(names.SLO_OBJECTIVE, f"vector({settings.slo.objective})"),
        _record(
            names.SLO_ERRORS_30D,
            f"""\
            clamp_min(
              1
              -
              avg_over_time({names.acquires_good("1h")}{hours})
              /
              (avg_over_time({names.acquires("1h")}{hours}) > 0),
              0
            )""",
        ),
    ]


def _levels() -> list[Rule]:
    used, most = f"{names.COUNT}{{{names.USED}}}", names.MAX
    return [
        _record(
            names.UTILIZATION,
            f"""\
            sum by ({names.EACH}) (
              {used}
            )
            /
            (
              sum by ({names.EACH}) (
                {most}
              ) > 0
            )""",
        ),
        _record(names.UTILIZATION_MAX, f"max by ({G}) ({names.UTILIZATION})"),
        _record(names.UTILIZATION_AVG, f"avg by ({G}) ({names.UTILIZATION})"),
        _record(names.SERVER_PROMISED, f'sum by ({names.SERVER}) ({most}{{{names.SERVER}!=""}})'),
    ]


def _connect_failures(at: Pace) -> Rule:
    failed = f"rate({names.CONNECT_FAILURES}[{at('5m')}])"
    return _record(
        names.CONNECT_FAILURE_RATIO,
        f"""\
        sum by ({G}) (
          {failed}
        )
        /
        (
          sum by ({G}) (
            rate({CREATE_COUNT}{{{_WELL}}}[{at("5m")}])
            or
            {failed}
          ) > 0
        )""",
    )


def _quantile(metric: Metric, name: str, at: Pace) -> Rule:
    """Drop what is no number: the quantile of a pool that nobody asks."""
    bucket = names.series(metric, "bucket")
    return _record(
        names.quantile(metric, name),
        f"""\
        histogram_quantile(
          {names.QUANTILES[name]},
          sum by ({G}, le) (
            rate({bucket}[{at("5m")}])
          )
        ) >= 0""",
    )
