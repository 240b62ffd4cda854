"""How long Prometheus takes to answer what boards ask, and what rules spare it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from grafana import asked
from grafana.asked import Json, Span
from grafana.kit import names, rules, settings
from poolscope.telemetry import catalog
from stack.prometheus import Answer, Prometheus
from stack.server import get

BOARDS = ("fleet", "detail", "slo")
RECORDED = (
    names.UTILIZATION_MAX,
    names.acquires("5m"),
    names.slo_errors("5m"),
    names.slo_errors("1h"),
    names.quantile(catalog.WAIT_TIME, "p99"),
    names.quantile(catalog.USE_TIME, "p99"),
)
"""What boards and alerts ask for most, each a recording rule."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that a number of queries took, one after the other."""

    queries: int
    total: float
    processor: float
    """How long Prometheus was at work meanwhile, on all processors."""
    slowest: float
    what: str
    """The panel that was the slowest."""


def boards(prometheus: Prometheus, span: Span, job: str) -> Iterator[tuple[str, Times]]:
    """Ask all that boards ask, of everything and of one service."""
    for name in filter(lambda n: (asked.BOARDS / f"{n}.json").exists(), BOARDS):
        board = asked.load(name)
        for words, chosen in ((name, {}), (f"{name}, one service", {"job": job})):
            yield words, _board(prometheus, board, span, chosen)


def recorded(prometheus: Prometheus, span: Span) -> Iterator[tuple[str, float, float, bool]]:
    """Ask for what rules record, by its name and anew: how much work is it for the processors?

    Yields also whether both have the same groups.
    """
    for name in RECORDED:
        kept, quick = _work(prometheus, name, span)
        anew, slow = _work(prometheus, expanded(name), span)
        yield name, quick, slow, len(kept) == len(anew) > 0


def expanded(name: str) -> str:
    """Return the expression of a recording rule, with no other rule in it."""
    expressions = {
        rule["record"]: rule["expr"]
        for group in rules.build(settings.load())["recording.yaml"]["groups"]
        for rule in group["rules"]
    }
    return _expand(name, expressions)


def _expand(promql: str, expressions: Mapping[str, str]) -> str:
    return re.sub(
        r"\w+:[\w:]+",
        lambda match: f"({_expand(expressions[match[0]], expressions)})",
        promql,
    )


def _board(prometheus: Prometheus, board: Json, span: Span, chosen: Mapping[str, str]) -> Times:
    variables = asked.choices(board, **chosen) | span.variables()
    times: list[tuple[float, str]] = []
    before = _processor(prometheus)
    for panel in asked.panels(board, collapsed=False):
        for target in asked.queries(panel):
            promql = asked.fill(target["expr"], variables)
            _, took = _time(prometheus, promql, span, instant=target.get("instant", False))
            times.append((took, panel["title"]))
    slowest, what = max(times)
    total = sum(took for took, _ in times)
    return Times(len(times), total, _processor(prometheus) - before, slowest, what)


def _work(prometheus: Prometheus, promql: str, span: Span) -> tuple[Answer, float]:
    before = _processor(prometheus)
    answer, _ = _time(prometheus, promql, span)
    return answer, _processor(prometheus) - before


def _processor(prometheus: Prometheus) -> float:
    """Return the seconds that its process has had, on all processors."""
    page = get(f"{prometheus.url}/metrics")
    return float(re.findall(r"^process_cpu_seconds_total (\S+)", page, re.MULTILINE)[0])


def _time(
    prometheus: Prometheus, promql: str, span: Span, *, instant: bool = False
) -> tuple[Answer, float]:
    begin = time.perf_counter()
    if instant:
        answer = prometheus.query(promql, span.end)
    else:
        answer = prometheus.query_range(promql, span.start, span.end, span.step)
    return answer, time.perf_counter() - begin
