"""`python -m stack.fleet`: measure what a fleet asks of a Collector and a Prometheus."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from stack.fleet.trial import Plan, table, tried
from stack.server import ServerError


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each size, one after the other, and print a table of Markdown."""
    options = vars(_options(arguments))
    sizes, plan = options.pop("instances"), Plan(**options)
    try:
        columns = [(f"{size} instances", dict(tried(size, plan))) for size in sizes]
    except ServerError as error:
        sys.exit(f"fleet: {error}")
    print(table(columns))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stack.fleet", description=__doc__)
    add, plan = parser.add_argument, Plan()
    add("--instances", type=int, nargs="+", default=[50, 200, 500], help="sizes, one by one")
    add("--pools", type=int, default=plan.pools, help="of each instance")
    add("--minutes", type=float, default=plan.minutes, help="of pushing at an interval")
    add("--history", type=float, default=plan.history, help="minutes before, pushed at once")
    add("--interval", type=float, default=plan.interval, help="seconds between exports")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
