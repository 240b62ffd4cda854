"""Measure poolscope beside other pools, and print Markdown tables."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import (
    collection,
    contended,
    contestants,
    foreign,
    listening,
    memory,
    observed,
    sdk,
    telemetry,
    thread_contestants,
    threads,
    uncontended,
)
from benchmarks.plan import Plan, make_plan
from benchmarks.section import Section
from benchmarks.server import Server, postgres

SECTIONS: dict[str, Callable[[Server, Plan], Coroutine[Any, Any, list[Section]]]] = {
    "uncontended": uncontended.measure,
    "contended": contended.measure,
    "threads": threads.measure,
    "engines": observed.measure,
    "foreign": foreign.measure,
    "memory": memory.measure,
    "listening": listening.measure,
    "telemetry": telemetry.measure,
    "collection": collection.measure,
}
DISTRIBUTIONS = (
    *contestants.DISTRIBUTIONS,
    *thread_contestants.DISTRIBUTIONS,
    *sdk.DISTRIBUTIONS,
)
NEEDS_NO_SERVER = {"listening", "telemetry", "collection"}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=SECTIONS, default=list(SECTIONS),
        help=f"measure only these: {', '.join(SECTIONS)}",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="a glance: few and short rounds, and no servers"
    )
    parser.add_argument("--rounds", type=_positive, help="how often each case is timed (21)")
    parser.add_argument("--seed", type=int, help="repeat the order of an earlier run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to a file")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 and name the goals that were missed"
    )
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1: got {number}")
    return number


def environment(plan: Plan) -> dict[str, str]:
    facts = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rounds": f"{plan.rounds} of {plan.slice_seconds * 1000:g} ms",
        "seed": str(plan.seed),
    }
    for name in DISTRIBUTIONS:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "missing"
    return facts


def save(path: Path, facts: dict[str, str], sections: Sequence[Section]) -> None:
    goals: list[dict[str, Any]] = [
        asdict(goal) | {"is_met": goal.is_met} for section in sections for goal in section.goals
    ]
    measured = {section.title: section.data for section in sections}
    report = {"environment": facts, "goals": goals, "measured": measured}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    plan = make_plan(quick=options.quick, rounds=options.rounds, seed=options.seed)
    facts = environment(plan)
    print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)
    sections: list[Section] = []
    wanted = not options.quick and not NEEDS_NO_SERVER.issuperset(options.only)
    with postgres(wanted=wanted) as server:
        for name in options.only:
            measured = asyncio.run(SECTIONS[name](server, plan))
            print(*(f"\n{section.markdown()}" for section in measured), sep="\n", flush=True)
            sections += measured
    if options.json:
        save(options.json, facts, sections)
    missed = [goal for section in sections for goal in section.goals if not goal.is_met]
    if options.check:
        for goal in missed:
            print(f"missed: {goal}", file=sys.stderr)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
