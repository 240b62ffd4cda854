"""Alerts on what callers feel: failures, timeouts, waiting, and pools in which nothing moves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grafana.kit import names
from grafana.kit.alerting import DURATION, NUMBER, SHARE, SLO, WHO, Kit
from grafana.kit.names import EACH, G
from grafana.kit.settings import Alert, Burn
from poolscope.reasons import FailureReason


def rules(kit: Kit) -> Iterator[dict[str, Any]]:
    """Yield the alerts."""
    for burn in kit.settings.slo.burns:
        yield _burn(kit, burn)
    yield _error_rate_high(kit)
    yield _acquire_timeouts(kit)
    yield _exhausted(kit)
    yield _stuck(kit)
    yield _pending_sustained(kit)
    yield _wait_near_timeout(kit)


def _burn(kit: Kit, burn: Burn) -> dict[str, Any]:
    slo = kit.settings.slo
    limit = f"{burn.factor:g} * {slo.budget:g}"
    return kit.alert(
        names.BURN,
        f"""\
        {names.slo_errors(burn.long)} > {limit}
        and
        {names.slo_errors(burn.short)} > {limit}
        and
        {names.acquires(burn.long)} > {slo.guard:g}""",
        f"{WHO} burns its error budget over {burn.factor:g} times as fast as it may",
        f"""In the last {burn.long}, {SHARE} of the requests for a connection failed or took longer
        than {slo.seconds:g} s, and it goes on. The objective allows {slo.budget * 100:g}% of them
        in {slo.period}.""",
        board=SLO,
        given=Alert(burn.severity, burn.wait),
        long_window=burn.long,
        short_window=burn.short,
    )


def _error_rate_high(kit: Kit) -> dict[str, Any]:
    name = names.ERROR_RATE_HIGH
    counted = f'{names.FAILURES}{{{names.ERROR_TYPE}!="{FailureReason.CANCELLED}"}}'
    return kit.alert(
        name,
        f"""\
        {names.acquire_failures("5m")} > {kit.above(name)}
        and
        sum by ({G}) (
          increase({counted}[{kit.window(name)}])
        ) >= {kit.settings.alerts[name].failures}""",
        f"{WHO} refuses requests",
        f"{SHARE} of the requests for a connection get none.",
    )


def _acquire_timeouts(kit: Kit) -> dict[str, Any]:
    name = names.ACQUIRE_TIMEOUTS
    return kit.alert(
        name,
        f"""\
        sum by ({G}) (
          increase({names.TIMEOUTS}[{kit.window(name)}])
        ) > 0""",
        f"requests to {WHO} time out",
        f"""About {NUMBER} requests got no connection within acquire_timeout in the last
        {kit.window(name)}.""",
    )


def _exhausted(kit: Kit) -> dict[str, Any]:
    """Both must be true of the same process: one may be full while another only starts."""
    name = names.EXHAUSTED
    window = kit.window(name)
    return kit.alert(
        name,
        f"""\
        max by ({G}) (
          min_over_time({names.UTILIZATION}[{window}]) >= {kit.above(name)}
          and on ({EACH})
          min_over_time({names.PENDING}[{window}]) > 0
        )""",
        f"{WHO} is exhausted, and requests wait",
        """In at least one process all connections are in use and requests have been waiting for
        minutes. Who waits longer than acquire_timeout fails.""",
    )


def _stuck(kit: Kit) -> dict[str, Any]:
    name = names.STUCK
    window, lately = kit.window(name), kit.window(names.PENDING_SUSTAINED)
    return kit.alert(
        name,
        f"""\
        count by ({G}) (
          min_over_time({names.COUNT}{{{names.USED}}}[{window}]) > 0
          and on ({EACH})
          rate({names.USE_COUNT}[{window}]) == 0
          and on ({EACH})
          min_over_time({names.PENDING}[{lately}]) > 0
        )""",
        f"{WHO} is stuck: nobody gives a connection back",
        f"""In {NUMBER} processes no connection has come back for {window}, while requests wait.""",
    )


def _pending_sustained(kit: Kit) -> dict[str, Any]:
    name = names.PENDING_SUSTAINED
    return kit.alert(
        name,
        f"""\
        max by ({G}) (
          min_over_time({names.PENDING}[{kit.window(name)}])
        ) > 0""",
        f"requests always wait for {WHO}",
        f"""In the fullest process at least {NUMBER} requests have been waiting at every moment of
        the last {kit.window(name)}.""",
    )


def _wait_near_timeout(kit: Kit) -> dict[str, Any]:
    """Leave out timeouts of 0, which try once and never wait."""
    name = names.WAIT_NEAR_TIMEOUT
    return kit.alert(
        name,
        f"""\
        {names.quantile(names.DURATIONS[0], "p99")}
        >
        {kit.above(name)}
        *
        max by ({G}) (
          {names.ACQUIRE_TIMEOUT} > 0
        )""",
        f"requests to {WHO} wait nearly until they time out",
        f"""One request in a hundred waits {DURATION} or longer, more than
        {kit.settings.alerts[name].above:.0%} of acquire_timeout.""",
    )
