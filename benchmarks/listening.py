"""What it costs that somebody listens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from benchmarks import contestants
from benchmarks.case import Case, Opener, enter
from benchmarks.figures import compare, summarize
from benchmarks.plan import Plan
from benchmarks.section import Section, ratio
from benchmarks.server import Server
from benchmarks.timing import time_cycles

EXPLANATION = (
    "The uncontended cycle again. A handler is an empty function that `bus.subscribe` calls with "
    "every event, of which a cycle causes three."
)
METRICS = "metrics (the default)"


@asynccontextmanager
async def _with_handlers(handlers: int, name: str, _: Server) -> AsyncIterator[Case]:
    async with contestants.our_pool() as pool:
        for _number in range(handlers):
            pool.bus.subscribe(lambda event: None)
        yield Case(name, contestants.FAKE, pool.connection)


OPENERS: Mapping[str, Opener] = {
    contestants.SILENT: contestants.silent,
    **{
        name: partial(_with_handlers, handlers, name)
        for name, handlers in {
            METRICS: 0,
            "metrics, 1 handler": 1,
            "metrics, 3 handlers": 3,
        }.items()
    },
}


async def measure(server: Server, plan: Plan) -> list[Section]:
    async with AsyncExitStack() as stack:
        field = await enter(stack, OPENERS, server)
        times = await time_cycles(field.cases, plan)
    section = Section("Cost of listening", EXPLANATION, ["listening", "ns per cycle", "ratio"])
    section.data = {"ns_per_cycle": times}
    for name, own in times.items():
        nanoseconds = f"{summarize(own).median:,.0f}"
        section.rows.append([name, nanoseconds, ratio(compare(own, times[METRICS]))])
    return [section]
