"""What is to happen on a day of the stack, and what has."""

import time
from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field

from grafana.kit import names
from stack.prometheus import Answer
from stack.topology import Stack
from stack.webhook import HEARTBEAT, Told

SPEED = 30
"""How many times faster than usual the day goes by: five minutes are ten seconds."""

FIRES = {
    (names.BURN, "1h"): {"burst", "leak", "outage"},
    (names.BURN, "6h"): {"burst", "recovery", "slow", "calm", "leak", "outage"},
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
}
"""Those that may fire, but not end before the day does."""

QUIET = {
    names.CHURN_HIGH: "connections stay, but for those of the outage",
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


def sign(labels: dict[str, str]) -> tuple[str, str]:
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

    def ask(self, promql: str, step: float = 1.0) -> Answer:
        """Evaluate an expression at every moment of the day."""
        return self.stack.prometheus.query_range(promql, self.began, self.ended, step)

    def phase(self, moment: float) -> str:
        """Return the phase of a moment."""
        begins = [said for said in self.stack.said if said.event == "begins"]
        place = bisect([said.time for said in begins], moment)
        return begins[place - 1].phase if place else "before"

    def told(self, status: str, job: str = "") -> list[Told]:
        """Return of what the webhook was told; of a job, or of any."""
        return [
            told
            for told in list(self.stack.webhook.told)
            if told.status == status
            and told.receiver != HEARTBEAT
            and job in ("", told.labels.get("job"))
        ]

    def starts(self) -> Iterator[tuple[dict[str, str], str]]:
        """Yield the labels of each alert that began to fire, and the phase of that."""
        for series in self.ask('ALERTS{alertstate="firing", alertname!="Watchdog"}', 0.5):
            last = 0.0
            for moment, _ in series["values"]:
                if moment - last > 2:
                    yield series["metric"], self.phase(moment)
                last = moment
