"""What the boards ask has an answer, by whichever way the metrics of pools come."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from grafana.kit import names, settings
from grafana.kit.promql import Selector, selectors
from poolscope.telemetry import catalog
from poolscope.testing import run_virtual
from tests.grafana.boards import ROOT, asked, filled
from tests.grafana.test_dashboards_contract import FOREIGN
from tests.stack.exposition import exposition, read
from tests.stack.scene import STRANGE, every_state
from tests.stack.tools import find_tool

# The same with every Python.
pytestmark = pytest.mark.slow

RULES = sorted((ROOT / "grafana" / "rules").glob("*.yaml"))
SAMPLES = 65
"""Every two minutes. The rule on the objective takes one of them an hour."""
UNLIMITED = {
    catalog.MAX,
    catalog.IDLE_MAX,
    catalog.IDLE_MIN,
    catalog.ACQUIRE_TIMEOUT,
    catalog.LEAKS,
}
"""What SQLAlchemy's NullPool cannot tell."""

Labels = dict[str, str]
Way = Callable[[str, Labels], Labels | None]
"""Returns the labels with which a series arrives, if it does."""


def by_otlp(name: str, labels: Labels) -> Labels | None:
    resource = {names.ENVIRONMENT: "prod", names.SERVER: "db"}
    return labels | resource | {names.JOB: "shop/orders", names.INSTANCE: "a"}


def scraped(name: str, labels: Labels) -> Labels | None:
    return labels | {names.JOB: "orders", names.INSTANCE: "10.0.0.1:9464"}


def without_limits(name: str, labels: Labels) -> Labels | None:
    unknown = {metric.prometheus_name for metric in UNLIMITED}
    return None if name.removesuffix("_total") in unknown else by_otlp(name, labels)


SERVERS = {
    # Where the pools' server is not told by a resource, and nobody relabels it in.
    "detail: Connections promised to each server, A",
    "detail: Connections promised to each server, B",
    "detail: Connections promised to each server, C",
    "detail: Connections open at each server, by database, A",
    "fleet: Connections promised to each server, A",
    "fleet: Connections promised to each server, C",
    "fleet: Promised, against the limit, A",
}
LIMITS = SERVERS | {
    "detail: Fullest pool, A",
    "detail: Wait for a connection, D",
    "detail: Connections, C",
    "detail: Connections, D",
    "detail: Connections, E",
    "detail: Utilization of each process, A",
    "detail: First in line has been waiting, B",
    "detail: Utilization over the time range, A",
    "detail: Size: what is set, and what is needed, B",
    "detail: Size: what is set, and what is needed, E",
    "detail: Size: what is set, and what is needed, F",
    "detail: Size: what is set, and what is needed, G",
    "detail: Idle connections, B",
    "detail: Idle connections, C",
    "detail: Suspected leaks per minute, A",
    "fleet: Pools, worst first, I",
    "fleet: Pools, worst first, J",
    "fleet: Fullest, A",
}


@pytest.mark.parametrize(
    ("way", "silent"),
    [(by_otlp, set()), (scraped, SERVERS), (without_limits, LIMITS)],
    ids=["otlp", "scraped", "without limits"],
)
def test_each_query_is_answered_but_those_about_what_is_not_told(
    way: Way, silent: set[str], tmp_path: Path
) -> None:
    assert _unanswered([*_of_pools(way), *_of_others()], tmp_path) == silent


def _of_pools(way: Way) -> Iterator[str]:
    """Yield the series of live pools in every state, which go on as they did until now."""

    async def main() -> str:
        async with every_state():
            return exposition(openmetrics=False)

    for family in read(run_virtual(main())).values():
        rises = family.kind in ("counter", "histogram")
        for (name, labels), value in family.samples.items():
            arrived = way(name, dict(labels))
            if arrived is not None and STRANGE not in arrived.values():
                yield _written(name, arrived, value, rises=rises)


def _of_others() -> Iterator[str]:
    """Yield the series that no pool exports, as they are asked for."""
    wanted: dict[str, list[Selector]] = {}
    for query in asked():
        for selector in selectors(query.expr):
            wanted.setdefault(selector.name, []).append(selector)
    for name, all_of_it in wanted.items():
        if name.startswith(tuple(FOREIGN)) and not name.startswith("ALERTS") and not _twin(name):
            for labels in _labels_of(name, all_of_it):
                yield _written(name, labels, 5, rises=bool(all_of_it[0].window))


def _twin(name: str) -> bool:
    """Tell whether it is the other name of a series of the Collector: it has one of them."""
    return name.startswith("otelcol_") and name.endswith(
        ("_total", "_rss_bytes", "_seconds_bucket")
    )


def _labels_of(name: str, wanted: list[Selector]) -> Iterator[Labels]:
    jobs = settings.load().labels
    job = jobs.prometheus if name.startswith("prometheus_") else jobs.collector
    labels = {names.JOB: job, names.INSTANCE: "i", names.SERVER: "db"}
    if any(names.ERROR_TYPE in selector.matchers for selector in wanted):
        labels[names.ERROR_TYPE] = "57014"
    if not name.endswith("_bucket"):
        yield labels
    else:
        yield from (labels | {"le": bound} for bound in ("0.1", "1.0", "+Inf"))


def _written(name: str, labels: Labels, value: float, *, rises: bool) -> str:
    matchers = ", ".join(f"{key}={json.dumps(text)}" for key, text in labels.items())
    return f"{name}{{{matchers}}} {value:f}+{value if rises else 0:f}x{SAMPLES}"


def _unanswered(series: list[str], folder: Path) -> set[str]:
    """Evaluate all queries and return the places of those that have no result."""
    count = "clamp_max(count({}), 1) or vector(0)"
    places: dict[str, set[str]] = {}
    for asking in asked():
        query = count.format(filled(asking.expr, asking.board, rate="5m"))
        places.setdefault(query, set()).add(asking.place)
    split = (each.rpartition("} ") for each in series)
    test = {
        "interval": "2m",
        "input_series": [{"series": head + "}", "values": values} for head, _, values in split],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": f"{2 * SAMPLES}m",
                "exp_samples": [{"labels": "{}", "value": 1}],
            }
            for query in places
        ],
    }
    # JSON is YAML.
    file = folder / "test.yaml"
    rules = [str(path) for path in RULES]
    whole = {"rule_files": rules, "evaluation_interval": "2m", "tests": [test]}
    file.write_text(json.dumps(whole))
    result = subprocess.run(
        [find_tool("promtool"), "test", "rules", file],
        capture_output=True,
        text=True,
        check=False,
    )
    said = result.stdout + result.stderr
    assert "err:" not in said, said
    failed = re.findall(r'expr: ("(?:[^"\\]|\\.)*"), time', said)
    assert bool(failed) == bool(result.returncode), said
    return {place for each in failed for place in places[json.loads(each)]}
