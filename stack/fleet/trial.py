"""One size of a fleet, tried: pushed for a while, and measured."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as Direct

from grafana.asked import Span
from grafana.kit import settings
from stack.collector import Collector
from stack.fleet import questions
from stack.fleet.figures import Block, figures
from stack.fleet.fleet import NAMESPACE, Fleet
from stack.fleet.servers import Administered, servers

Row = tuple[str, str]
_HOUR = 3600
_STEP = 15


@dataclass(frozen=True, slots=True)
class Plan:
    """How a fleet is tried; `history` is what was sent before, as fast as it was taken."""

    pools: int = 4
    minutes: float = 5
    history: float = 30
    interval: float = 15
    """Seconds between the exports of an instance."""
    speed: float = 1
    """How many times faster than usual the servers scrape and evaluate rules."""


def tried(instances: int, plan: Plan) -> Iterator[Row]:
    """Yield what one size asks, by name.

    Raises:
        ServerError: a server has not been built, or does not start.
    """
    with servers(plan.speed) as (collector, prometheus):
        begin = time.time() - plan.history * 60
        fleet = Fleet(instances, plan.pools, begin - plan.interval)
        _push(fleet, begin, collector, prometheus, plan)
        _tell(f"{instances} instances: measuring")
        window = settings.written(plan.minutes * 60)
        yield from figures(prometheus, Block.read(prometheus.snapshot()), window)
        yield "exports that failed", f"{fleet.failed} of {fleet.exports}"
        yield "exports late, at most", f"{fleet.late:.1f} s"
        yield from _answers(prometheus, begin, plan.interval)


def table(columns: Sequence[tuple[str, dict[str, str]]]) -> str:
    """Return a table of Markdown of the rows that were yielded, a column for each size."""
    heads = ["", *(head for head, _ in columns)]
    lines = [heads, ["---"] * len(heads)]
    lines += [[name, *(rows[name] for _, rows in columns)] for name in columns[0][1]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _push(
    fleet: Fleet, begin: float, collector: Collector, prometheus: Administered, plan: Plan
) -> None:
    direct = Direct(prometheus.otlp_metrics_endpoint)
    exporter = OTLPMetricExporter(collector.grpc_endpoint, insecure=True)
    try:
        _tell(f"{fleet.size} instances: {plan.history:g} minutes of history")
        # Without the Collector, whose senders work side by side: samples are to come in order.
        fleet.catch_up(direct, begin, time.time(), plan.interval)
        _tell(f"{fleet.size} instances: {plan.minutes:g} minutes")
        fleet.run(exporter, plan.minutes * 60, plan.interval)
    finally:
        direct.shutdown()
        exporter.shutdown()


def _answers(prometheus: Administered, begin: float, interval: float) -> Iterator[Row]:
    """Yield how long Prometheus takes to answer, over the last hour or as much as there is."""
    end = time.time()
    steps = min(end - begin, _HOUR) // _STEP
    # The last step is now: what rules made may have only just begun.
    span = Span(end - steps * _STEP, end, _STEP, interval)
    for board, times in questions.boards(prometheus, span, f"{NAMESPACE}/service-00"):
        took = f"{times.total:.1f} s, work {times.processor:.1f} s"
        slowest = f"slowest {times.slowest:.2f} s, {times.what}"
        yield f"board {board}: {times.queries} queries", f"{took}; {slowest}"
    for name, quick, slow, alike in questions.recorded(prometheus, span):
        other = "" if alike else ", of other groups"
        yield f"`{name}`", f"work {quick:.2f} s; anew {slow:.2f} s{other}"


def _tell(what: str) -> None:
    """Say on standard error what is being done."""
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr, flush=True)
