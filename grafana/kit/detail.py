"""The board about some pools: what callers feel above, what explains it below."""

from __future__ import annotations

from grafana.kit import board, detail_around, detail_callers, detail_lives, detail_state, links
from grafana.kit.layout import Row
from grafana.kit.settings import Settings
from grafana.kit.targets import BY_ENVIRONMENT, BY_INSTANCE, BY_JOB, Json


def build(settings: Settings) -> Json:
    """Return the board."""
    return board.board(
        links.DETAIL,
        """Do pools hurt their callers, and why? From top to bottom: how it is now, what callers
        feel, whether the pool, its holders or the server is the limit, and where to look next.""",
        _rows(settings),
        [
            board.traces(),
            board.environment(),
            board.job(BY_ENVIRONMENT),
            board.instance(BY_ENVIRONMENT, BY_JOB),
            board.pool(BY_ENVIRONMENT, BY_JOB, BY_INSTANCE),
            board.quantile(),
        ],
        annotations=[board.alerts(), board.restarts()],
    )


def _rows(settings: Settings) -> list[Row]:
    return [
        Row("Health: is a pool hurting now?", detail_callers.health(settings)),
        Row("Acquire: what do callers feel?", detail_callers.acquire(settings)),
        Row(
            "State: is the pool full, are holders slow, or is the server the limit?",
            detail_state.panels(settings),
        ),
        Row("Lifecycle: do connections come and go, or fail?", detail_lives.lifecycle(settings)),
        Row("Leaks and holders: who does not give back?", detail_lives.holders(settings)),
        Row("Server: is there room for what pools may open?", detail_around.server(settings)),
        Row("SLO and alerts: how fast is the budget spent?", detail_around.objective(settings)),
        Row(
            "Database operations: is it the queries?",
            detail_around.operations(settings),
            folded=True,
        ),
        Row(
            "Telemetry: can this board be believed?", detail_around.telemetry(settings), folded=True
        ),
    ]
