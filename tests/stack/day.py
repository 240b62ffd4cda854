"""What is to happen on a day of the stack, and what has."""

import time
from bisect import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from grafana.kit import names
from stack.prometheus import Answer
from stack.topology import Stack
from stack.webhook import HEARTBEAT, Told

SPEED = 40
"""How many times faster than usual the day goes by: ten minutes are fifteen seconds."""

FIRES = {
    # A process that starts again connects anew, which on a slow machine takes longer than allowed.
    (names.BURN, "1h"): {"burst", "slow", "leak", "outage", "restart"},
    (names.BURN, "6h"): {"burst", "recovery", "slow", "calm", "leak", "outage", "restart"},
    (names.EXHAUSTED, ""): {"burst", "leak"},
    (names.WAIT_NEAR_TIMEOUT, ""): {"burst", "leak", "recovery"},
    (names.PENDING_SUSTAINED, ""): {"burst", "leak"},
    (names.UTILIZATION_HIGH, ""): {"slow", "leak", "recovery"},
    (names.LEAK, "threshold"): {"leak"},
    (names.LEAK, "age"): {"leak"},
    (names.STUCK, ""): {"leak"},
    (names.ERROR_RATE_HIGH, ""): {"leak", "outage"},
    (names.ACQUIRE_TIMEOUTS, ""): {"leak", "outage", "recovery"},
    (names.CONNECT_FAILING, ""): {"outage"},
}
"""The alerts on pools that fire, by what tells two of one name apart, and when they may begin."""

SILENCED = {
    names.PENDING_SUSTAINED: f"{names.EXHAUSTED} says the same, and more",
}
"""Those of them that nobody is told, and why."""

OUTLIVES = {
    (names.BURN, "1d"): "its short window of 2h ends hours after the last failure of the day",
    (names.BURN, "3d"): "it waits for three hours, and the day is hardly longer",
    (names.CHURN_HIGH, ""): "counted by the minute, a few connects are many in fast motion",
}
"""Those that may fire, but need not end before the day does."""

QUIET = {
    names.BROKEN_SPIKE: "when one is found broken, SQLAlchemy's pool closes the others as stale",
    names.SERVER_CAPACITY: "the server takes more than both pools may open",
    names.TELEMETRY_STALE: "one replica always reports",
    names.TELEMETRY_LOST: "one replica always reports",
    names.NO_TELEMETRY: "one replica always reports",
    names.COLLECTOR_DOWN: "the Collector runs all day",
    names.COLLECTOR_EXPORT_FAILING: "what it sends to runs all day",
    names.COLLECTOR_QUEUE_NEAR_FULL: "what it sends to runs all day",
    names.COLLECTOR_REFUSING: "it has memory enough",
    names.RULE_FAILURES: "no rule is wrong",
    names.NOTIFICATIONS_FAILING: "Alertmanager runs all day",
}
"""Those that must not fire, and why."""

NO_FAILURE = "the Collector has no series for what never failed"
NO_LOGS = "nobody sends logs"
NO_QUERIES = "the example has no instrumentation that times its queries"
EMPTY = {
    "detail: Queries, A": NO_QUERIES,
    "detail: Share of queries that fail, A": NO_QUERIES,
    "detail: Time of a query, A": NO_QUERIES,
    "detail: Metric points, E": NO_FAILURE,
    "detail: Metric points, F": NO_FAILURE,
    "collector: Metric points, E": NO_FAILURE,
    "collector: Metric points, F": NO_FAILURE,
    "collector: Spans, E": NO_FAILURE,
    "collector: Spans, F": NO_FAILURE,
    **{f"collector: Log records, {query}": NO_LOGS for query in "ABCDEF"},
}
"""The queries of boards that no day answers, and why."""

NO_SERVER = "nobody relabels the server in, as grafana/prometheus/prometheus.yaml says how to"
EMPTY_SCRAPED = {
    "detail: Connections promised to each server, A": NO_SERVER,
    "detail: Connections promised to each server, B": NO_SERVER,
    "detail: Connections promised to each server, C": NO_SERVER,
    "detail: Connections open at each server, by database, A": NO_SERVER,
}
"""Those that are not answered for pools that are scraped, and why."""

SILENT = {
    "otelcol_exporter_send_failed_": NO_FAILURE,
    "otelcol_exporter_enqueue_failed_": NO_FAILURE,
    "otelcol_receiver_refused_log_records": NO_LOGS,
}
"""The series that alerts ask for and nobody has, by how their names begin, and why."""

Sign = tuple[str, str]


def sign(labels: Mapping[str, str]) -> Sign:
    """Return what the tables above know an alert by."""
    return labels["alertname"], labels.get("long_window") or labels.get("sign", "")


@dataclass
class Day:
    """A day that is over; what was watched then is still there to be asked."""

    stack: Stack
    began: float = field(default_factory=time.time)
    ended: float = 0.0
    silenced: set[tuple[str, str]] = field(default_factory=set)
    """Alerts that Alertmanager held back because of another, and their jobs."""

    def live(self) -> None:
        """Let it pass."""
        while self.stack.load.is_running:
            self.stack.live(0.5)
            for alert in self.stack.alertmanager.alerts():
                if alert["status"]["inhibitedBy"]:
                    labels = alert["labels"]
                    self.silenced.add((labels["alertname"], labels.get("job", "")))
        self.ended = time.time()
        while self.unresolved() and time.time() < self.ended + 60:
            time.sleep(0.5)

    def ask(self, promql: str, step: float = 1.0) -> Answer:
        """Evaluate an expression at every moment of the day."""
        return self.stack.prometheus.query_range(promql, self.began, self.ended, step)

    def phase(self, moment: float) -> str:
        """Return the phase of a moment."""
        begins = [said for said in self.stack.said if said.event == "begins"]
        place = bisect([said.time for said in begins], moment)
        return begins[place - 1].phase if place else "before"

    def told(self, status: str, job: str = "") -> list[Told]:
        """Return what the webhook was told; of a status and a job, or of any."""
        return [
            told
            for told in list(self.stack.webhook.told)
            if status in ("", told.status)
            and told.receiver != HEARTBEAT
            and job in ("", told.labels.get("job"))
        ]

    def unresolved(self, job: str = "") -> set[Sign]:
        """Return what is still said to fire, and should not outlive the day."""
        last = {frozenset(told.labels.items()): told for told in self.told("", job)}
        firing = {sign(told.labels) for told in last.values() if told.status == "firing"}
        return firing - OUTLIVES.keys()

    def starts(self) -> Iterator[tuple[dict[str, str], str]]:
        """Yield the labels of each alert that began to fire, and the phase of that."""
        for series in self.ask('ALERTS{alertstate="firing", alertname!="Watchdog"}', 0.5):
            last = 0.0
            for moment, _ in series["values"]:
                if moment - last > 2:
                    yield series["metric"], self.phase(moment)
                last = moment
