"""`python -m stack.fleet`: measure what a fleet asks of a Collector and a Prometheus."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as Direct

from grafana.asked import Span
from grafana.kit import settings
from stack.fleet import questions
from stack.fleet.figures import Block, figures
from stack.fleet.fleet import NAMESPACE, Fleet
from stack.fleet.servers import Administered, servers
from stack.server import ServerError

Row = tuple[str, str]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each size, one after the other, and print a table of Markdown."""
    options = _options(arguments)
    try:
        columns = [dict(measure(size, options)) for size in options.instances]
    except ServerError as error:
        sys.exit(f"fleet: {error}")
    print(table(options.instances, options.pools, columns))


def measure(instances: int, options: argparse.Namespace) -> Iterator[Row]:
    """Yield what one size asks, by name."""
    with servers() as (collector, prometheus):
        begin = time.time() - options.history * 60
        fleet = Fleet(instances, options.pools, begin - options.interval)
        direct = Direct(prometheus.otlp_metrics_endpoint)
        tell(f"{instances} instances: {options.history:g} minutes of history")
        # Without the Collector, whose senders work side by side: samples are to come in order.
        fleet.catch_up(direct, begin, time.time(), options.interval)
        tell(f"{instances} instances: {options.minutes:g} minutes")
        exporter = OTLPMetricExporter(collector.grpc_endpoint, insecure=True)
        fleet.run(exporter, options.minutes * 60, options.interval)
        for sender in (direct, exporter):
            sender.shutdown()
        tell(f"{instances} instances: measuring")
        window = settings.written(options.minutes * 60)
        yield from figures(prometheus, Block.read(prometheus.snapshot()), window)
        yield "exports that failed", f"{fleet.failed} of {fleet.exports}"
        yield "exports late, at most", f"{fleet.late:.1f} s"
        yield from answers(prometheus, begin, options.interval)


def answers(prometheus: Administered, begin: float, interval: float) -> Iterator[Row]:
    """Yield how long Prometheus takes to answer, over the last hour or as much as there is."""
    end = time.time()
    span = Span(max(begin, end - 3600), end, step=15, interval=interval)
    for board, times in questions.boards(prometheus, span, f"{NAMESPACE}/service-00"):
        yield (
            f"board {board}: {times.queries} queries",
            f"{times.total:.1f} s; slowest {times.slowest:.2f} s ({times.what})",
        )
    for name, quick, slow, _ in questions.recorded(prometheus, span):
        yield f"`{name}`", f"{quick * 1000:.0f} ms; anew {slow * 1000:,.0f} ms"


def table(sizes: Sequence[int], pools: int, columns: Sequence[dict[str, str]]) -> str:
    """Return a table of Markdown, a column for each size."""
    heads = ["", *(f"{size} instances of {pools} pools" for size in sizes)]
    lines = [heads, ["---"] * len(heads)]
    lines += [[name, *(column[name] for column in columns)] for name in columns[0]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tell(what: str) -> None:
    """Say on standard error what is being done."""
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stack.fleet", description=__doc__)
    add = parser.add_argument
    add("--instances", type=int, nargs="+", default=[50, 200, 500], help="sizes, one by one")
    add("--pools", type=int, default=4, help="of each instance")
    add("--minutes", type=float, default=5, help="of pushing at an interval")
    add("--history", type=float, default=30, help="minutes before, pushed as fast as it goes")
    add("--interval", type=float, default=15, help="seconds between exports of an instance")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
