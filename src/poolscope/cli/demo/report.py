"""What the demo ends with: what became of each phase, and of every request."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table

from poolscope.cli.demo.show import Row
from poolscope.cli.demo.words import duration
from poolscope.metrics import ConnectionPoolMetrics

COLUMNS = (
    "phase",
    "requests",
    "acquired",
    "timeouts",
    "errors",
    "queries\nlost",
    "wait\np99",
    "peak\nin use",
)


def print_summary(
    console: Console | None, rows: Sequence[Row], metrics: ConnectionPoolMetrics
) -> None:
    """Print what became of each phase: drawn on a console, else as aligned text."""
    texts = [_texts(row) for row in rows]
    if console is None:
        names = [column.replace("\n", " ") for column in COLUMNS]
        print("", *_aligned([names, *texts]), "", sep="\n")
    else:
        console.print(_table(texts))
    print(_balance(metrics), flush=True)


def _balance(metrics: ConnectionPoolMetrics) -> str:
    """Return the law of requests as a sentence, in numbers."""
    ends = (
        (metrics.acquired, "acquired"),
        (metrics.connection_timeouts, "timed out"),
        (metrics.connection_errors, "failed"),
        (metrics.connection_cancellations, "cancelled"),
    )
    parts = " + ".join(f"{count} {word}" for count, word in ends)
    return f"{metrics.connection_requests} requests = {parts}"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return cells as lines of text: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])])
        for first, *rest in lines
    ]


def _texts(row: Row) -> tuple[str, ...]:
    counts = row.counts
    numbers = (counts.requests, counts.acquired, counts.timeouts, counts.errors, row.lost)
    return (row.name, *map(str, numbers), duration(counts.wait(0.99)), str(row.peak))


def _table(rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, header_style="dim", padding=(0, 1, 0, 0))
    for column in COLUMNS:
        justify: JustifyMethod = "left" if column == "phase" else "right"
        table.add_column(column, justify=justify, vertical="bottom", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
