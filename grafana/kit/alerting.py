"""What all alerts have: labels, and annotations that lead to the runbook and to a dashboard."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent
from typing import Any

from grafana.kit.names import ENVIRONMENT, JOB, POOL
from grafana.kit.pace import Pace
from grafana.kit.settings import Alert, Settings

OF_JOB = f"{{{{ $labels.{JOB} }}}}{{{{ with $labels.{ENVIRONMENT} }}}} in {{{{ . }}}}{{{{ end }}}}"
WHO = f"pool {{{{ $labels.{POOL} }}}} of {OF_JOB}"
"""The pool an alert is about, in words."""
SHARE = "{{ $value | humanizePercentage }}"
DURATION = "{{ $value | humanizeDuration }}"
NUMBER = '{{ $value | printf "%.0f" }}'
PIPELINE = "telemetry-pipeline"
"""The scope of the alerts that silence each other when telemetry does not arrive."""

_VARIABLES = (
    f"?var-job={{{{$labels.{JOB}|urlquery}}}}"
    f"&var-pool={{{{$labels.{POOL}|urlquery}}}}"
    f"{{{{with $labels.{ENVIRONMENT}}}}}&var-env={{{{.|urlquery}}}}{{{{end}}}}"
)
DETAIL = f"pool-detail{_VARIABLES}"
SLO = f"pool-slo{_VARIABLES}"
FLEET = "pool-fleet"
COLLECTOR = "pool-collector"


@dataclass(frozen=True, slots=True)
class Kit:
    """Makes alerts by the settings, at a pace."""

    settings: Settings
    at: Pace

    def window(self, name: str) -> str:
        """Return the window of an alert."""
        return self.at(self.settings.alerts[name].window)

    def above(self, name: str) -> str:
        """Return the fraction from which an alert fires."""
        return f"{self.settings.alerts[name].above:g}"

    def age(self, name: str) -> str:
        """Return the seconds from which an alert fires."""
        return self.at.seconds(self.settings.alerts[name].age)

    def alert(
        self,
        name: str,
        expr: str,
        summary: str,
        description: str,
        *,
        board: str = DETAIL,
        given: Alert | None = None,
        **labels: str,
    ) -> dict[str, Any]:
        """Return a rule; `given` stands for the settings of its name. Sentences lack no capital."""
        given = given or self.settings.alerts[name]
        links = self.settings.links
        waits = {"for": given.wait, "keep_firing_for": given.keep}
        return {
            "alert": name,
            "expr": dedent(expr).strip(),
            **{key: self.at(wait) for key, wait in waits.items() if wait not in ("", "0m")},
            "labels": {
                "severity": given.severity,
                "team": self.settings.labels.team,
                "component": "pool",
                **labels,
            },
            "annotations": {
                "summary": _sentence(summary),
                "description": _sentence(description),
                "runbook_url": f"{links.runbook}#{name.lower()}",
                "dashboard_url": f"{links.grafana}/d/{board}",
            },
        }


def _sentence(text: str) -> str:
    words = " ".join(text.split())
    return words[0].upper() + words[1:]
