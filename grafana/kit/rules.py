"""Recording rules and alerts, as the files that Prometheus reads."""

from __future__ import annotations

from collections.abc import Mapping

from grafana.kit.settings import Settings


def files(settings: Settings) -> Mapping[str, str]:
    """Return the texts of the rule files by their paths below `grafana`."""
    return {}
