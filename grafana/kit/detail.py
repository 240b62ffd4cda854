"""The board about some pools: what callers feel above, what explains it below."""

from __future__ import annotations

from grafana.kit import board, detail_causes, detail_outcome, links
from grafana.kit.layout import Row
from grafana.kit.settings import Settings
from grafana.kit.targets import _ENVIRONMENT, _INSTANCE, _JOB, Json


def build(settings: Settings) -> Json:
    """Return the board."""
    return board.board(
        links.DETAIL,
        """Is a pool hurting its callers, and why? From top to bottom: how it is now, what callers
        feel, whether pool, holders or server are the limit, and where to look next.""",
        rows(settings),
        variables(),
        annotations=[board.alerts(), board.restarts()],
    )
