"""Several addresses, read again and again: pages, their series, numbers of pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from poolscope.cli.stats.address import Address
from poolscope.cli.stats.fetch import Fetcher, Page, Problem
from poolscope.cli.stats.parse import PoolKey, PoolSeries, parse
from poolscope.cli.stats.pools import Pool


@dataclass(frozen=True, slots=True)
class View:
    """What was read at one time: the pools, the worst first, and why addresses show none."""

    pools: list[Pool]
    problems: list[Problem]


class Reader:
    """Reads the same addresses again and again, and remembers what it read the time before."""

    def __init__(self, addresses: Sequence[Address], fetcher: Fetcher) -> None:
        """Remember nothing yet."""
        self._addresses = addresses
        self._fetcher = fetcher
        self._before: dict[Address, tuple[float, dict[PoolKey, PoolSeries]]] = {}

    def read(self) -> View:
        """Read all, within the timeout of one request."""
        pools: list[Pool] = []
        problems: list[Problem] = []
        for address, page in self._fetcher.fetch(self._addresses).items():
            try:
                pools += self._pools(address, page)
            except Problem as problem:
                problems.append(problem)
        pools.sort(key=lambda p: (p.badness, p.address, p.job or "", p.instance or "", p.pool))
        return View(pools, problems)

    def _pools(self, address: Address, page: Page | Problem) -> list[Pool]:
        if isinstance(page, Problem):
            raise page
        try:
            found = parse(page.body, page.openmetrics)
        except ValueError:
            what, remedy = "its answer is no text of metrics", "name the path of its metrics"
            raise Problem(address.name, what, remedy) from None
        if not found:
            remedy = "is it the right process, and does it serve the metrics of its pools?"
            raise Problem(address.name, "it shows no open pool", remedy)
        last, before = self._before.get(address, (page.time, {}))
        self._before[address] = page.time, found
        nothing = PoolSeries()
        return [
            Pool.read(
                address.name, key, series, before.get(key, nothing),
                page.time - last if key in before else None,
            )
            for key, series in found.items()
        ]  # fmt: skip
