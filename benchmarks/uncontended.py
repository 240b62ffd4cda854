"""The cost of `async with pool.connection(): pass` when a connection is free."""

from __future__ import annotations

from benchmarks import contestants
from benchmarks.comparison import Comparison
from benchmarks.plan import Plan
from benchmarks.section import Section
from benchmarks.server import Server

COMPARISON = Comparison(
    title="Uncontended",
    explanation=(
        "One task, ten warm connections. A ratio is the median of the ratios of all rounds, with "
        "its quartiles."
    ),
    openers={
        contestants.BARE_LEASE: contestants.bare_lease,
        contestants.OURS: contestants.ours,
        contestants.CHECKING: contestants.checking,
        contestants.SILENT: contestants.silent,
        **contestants.PEERS,
    },
    floor=contestants.BARE_LEASE,
    ours=contestants.OURS,
    limits={contestants.QUEUE_POOL: 0.7, contestants.PSYCOPG: 0.3},
)


async def measure(server: Server, plan: Plan) -> list[Section]:
    return [await COMPARISON.measure(server, plan)]
