"""Alerts on what will be felt, or explains it: connects, leaks, churn, and the server's limit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grafana.kit import names
from grafana.kit.alerting import DURATION, FLEET, NUMBER, SHARE, WHO, Kit
from grafana.kit.names import SERVER, G
from grafana.kit.settings import Alert
from poolscope.reasons import CloseReason

_FAULTY = f'{names.REASON}=~"{CloseReason.BROKEN}|{CloseReason.VALIDATION}"'


def rules(kit: Kit) -> Iterator[dict[str, Any]]:
    """Yield the alerts."""
    yield _connect_failing(kit)
    yield _utilization_high(kit)
    yield _leak(kit)
    yield _old_lease(kit)
    yield _churn_high(kit)
    yield _broken_spike(kit)
    yield _server_capacity(kit)


def _connect_failing(kit: Kit) -> dict[str, Any]:
    name = names.CONNECT_FAILING
    return kit.alert(
        name,
        f"{names.CONNECT_FAILURE_RATIO} > {kit.above(name)}",
        f"{WHO} cannot connect",
        f"{SHARE} of the tries to open a connection fail.",
    )


def _utilization_high(kit: Kit) -> dict[str, Any]:
    """Ask only those that are still there: a mean outlives its process."""
    name = names.UTILIZATION_HIGH
    mean = f"avg_over_time({names.UTILIZATION}[{kit.window(name)}])"
    return kit.alert(
        name,
        f"""\
        max by ({G}) (
          {mean}
          and on ({names.EACH})
          {names.UTILIZATION}
        ) > {kit.above(name)}""",
        f"{WHO} is nearly full",
        f"""In the fullest process {SHARE} of the connections were in use, on average over
        {kit.window(name)}.""",
    )


def _leak(kit: Kit) -> dict[str, Any]:
    """Tell at once: the pool has waited for leak_threshold already."""
    name = names.LEAK
    given = kit.settings.alerts[name]
    return kit.alert(
        name,
        f"""\
        sum by ({G}) (
          increase({names.LEAKS}[{kit.window(name)}])
        ) > 0""",
        f"{WHO} may leak connections",
        f"""About {NUMBER} connections were in use for longer than leak_threshold in the last
        {kit.window(name)}. The log names the place that took them.""",
        given=Alert(given.severity, "0m"),
        sign="threshold",
    )


def _old_lease(kit: Kit) -> dict[str, Any]:
    """Serve pools without a leak_threshold, as are those of other libraries."""
    name = names.LEAK
    return kit.alert(
        name,
        f"""\
        max by ({G}) (
          {names.USE_OLDEST}
        ) > {kit.age(name)}""",
        f"{WHO} has lent a connection for long",
        f"One connection has been in use for {DURATION}.",
        sign="age",
    )


def _churn_high(kit: Kit) -> dict[str, Any]:
    """Leave out pools that keep nothing, to which every connection is a new one."""
    name = names.CHURN_HIGH
    window = kit.window(name)
    opened = f'rate({names.CREATE_COUNT}{{{names.ERROR_TYPE}=""}}[{window}])'
    return kit.alert(
        name,
        f"""\
        60 * sum by ({G}) (
          {opened}
        )
        /
        (
          sum by ({G}) (
            avg_over_time({names.COUNT}[{window}])
          ) > 0
        )
        > {kit.above(name)}
        and
        max by ({G}) (
          {names.IDLE_MAX}
        ) > 0""",
        f"{WHO} opens connections all the time",
        f"Each minute {SHARE} of its connections are replaced by new ones.",
    )


def _broken_spike(kit: Kit) -> dict[str, Any]:
    name = names.BROKEN_SPIKE
    closed = f"{names.CLOSED}{{{_FAULTY}}}[{kit.window(name)}]"
    return kit.alert(
        name,
        f"""\
        sum by ({G}) (
          increase({closed})
        )
        /
        (
          sum by ({G}) (
            {names.MAX}
          ) > 0
        )
        > {kit.above(name)}""",
        f"connections of {WHO} break",
        f"""In the last {kit.window(name)} as many connections broke or failed their validation as
        are {SHARE} of the pool.""",
    )


def _server_capacity(kit: Kit) -> dict[str, Any]:
    """Compare what all pools may open together with what the server takes."""
    name = names.SERVER_CAPACITY
    return kit.alert(
        name,
        f"""\
        {names.SERVER_PROMISED}
        / on ({SERVER})
        (max by ({SERVER}) ({names.SERVER_MAX}) > 0)
        > {kit.above(name)}""",
        f"pools may open more connections than {{{{ $labels.{SERVER} }}}} has",
        f"""Together the pools may open {SHARE} of the connections that the server
        {{{{ $labels.{SERVER} }}}} allows. When all are busy, it refuses.""",
        board=FLEET,
    )
