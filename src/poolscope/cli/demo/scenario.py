"""What happens in the demo, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phase:
    """A kind of load, and what it does to a pool. Times are means, in seconds."""

    name: str
    story: str
    callers: int
    """Each of them, over and over: think, ask for a connection, query, give it back."""
    think: float
    query: float
    leaks: int = 0
    """Callers who keep a connection to the end of the phase."""
    outage: bool = False
    """Whether the database is stopped for a while."""

    @property
    def key(self) -> str:
        """Return the name as it is written on a command line."""
        return self.name.replace(" ", "-")


@dataclass(frozen=True, slots=True)
class Stage:
    """A phase and how long it lasts."""

    phase: Phase
    seconds: float


PHASES = (
    Phase(
        "calm",
        "A few callers with short queries. Nobody waits.",
        callers=8,
        think=0.2,
        query=0.015,
    ),
    Phase(
        "burst",
        "Many callers at once. The pool grows to its limit; then they stand in line.",
        callers=50,
        think=0.02,
        query=0.02,
    ),
    Phase(
        "slow queries",
        "Fewer callers, but each query takes long. Some callers lose patience.",
        callers=26,
        think=0.1,
        query=0.6,
    ),
    Phase(
        "leak",
        "Some callers keep their connections. Fewer and fewer are left for the others.",
        callers=12,
        think=0.1,
        query=0.02,
        leaks=10,
    ),
    Phase(
        "restart",
        "The database goes down and comes back. The pool replaces what broke.",
        callers=12,
        think=0.1,
        query=0.03,
        outage=True,
    ),
    Phase(
        "recovery",
        "Calm again. Connections nobody needs any more are closed.",
        callers=8,
        think=0.2,
        query=0.015,
    ),
)


def plan(scenario: str, seconds: float) -> tuple[Stage, ...]:
    """Return the stages of a scenario, `all` or the key of a phase, which last so long together."""
    phases = [phase for phase in PHASES if scenario in ("all", phase.key)]
    return tuple(Stage(phase, seconds / len(phases)) for phase in phases)
