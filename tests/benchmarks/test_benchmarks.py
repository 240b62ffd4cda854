import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks import __main__ as program
from benchmarks import contestants
from benchmarks.case import SIZE, Case, UnsoundError, inspect
from benchmarks.crowd import TaskBox
from benchmarks.figures import compare, summarize
from benchmarks.plan import Plan
from benchmarks.section import Goal, Section
from benchmarks.server import Server
from tests.support import run

ROOT = Path(__file__).parent.parent.parent


def test_a_glance_prints_our_rows_without_any_server() -> None:
    command = [sys.executable, "-m", "benchmarks", "--quick", "--only", "uncontended"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    rows = {line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("|")}
    assert {contestants.BARE_LEASE, contestants.OURS, contestants.SILENT} <= rows
    assert "seed" in done.stdout
    assert f"Left out: {contestants.PSYCOPG}: " in done.stdout
    assert "Goal not checked: poolscope's cycle to psycopg_pool's." in done.stdout


def test_ratios_are_taken_within_rounds() -> None:
    figure = compare([1.0, 20.0, 3.0], [2.0, 10.0, 3.0])
    assert (figure.low, figure.median, figure.high) == (0.75, 1.0, 1.5)
    # The machine was slow in the second round. The ratio of the medians would be 1.
    assert compare([1.0, 30.0, 2.0], [2.0, 60.0, 1.0]).median == 0.5
    with pytest.raises(ValueError, match="shorter"):
        compare([1.0, 2.0], [1.0])


def test_one_round_is_its_own_median() -> None:
    figure = summarize([3.0])
    assert figure.low == figure.median == figure.high == 3.0


@pytest.mark.parametrize(
    ("value", "at_least", "is_met"),
    [(0.7, False, True), (0.71, False, False), (0.7, True, True), (0.69, True, False)],
)
def test_a_goal_bounds_one_side(value: float, at_least: bool, is_met: bool) -> None:
    assert Goal("it", value, 0.7, at_least).is_met is is_met


def test_starvation_cannot_hide() -> None:
    async def main() -> None:
        box_is_over = asyncio.Event()
        favourite: list[object] = []

        @asynccontextmanager
        async def borrow() -> AsyncIterator[None]:
            favourite.append(asyncio.current_task())
            if asyncio.current_task() is not favourite[0]:
                await box_is_over.wait()
            yield

        async with asyncio.TaskGroup() as group:
            box = group.create_task(TaskBox(borrow, crowd=5).run(seconds=0.02))
            asyncio.get_running_loop().call_later(0.05, box_is_over.set)
        outcome = box.result()
        assert outcome.starved == 4
        assert outcome.longest_to_median > 10
        assert outcome.longest_to_median_turns > 10

    run(main())


def test_a_fair_pool_is_seen_to_be_fair() -> None:
    async def main() -> None:
        async with contestants.semaphore(Server(None)) as case:
            outcome = await TaskBox(case.borrow, crowd=100).run(seconds=0.05)
        assert outcome.starved == 0
        assert outcome.longest_to_median_turns < 1.5

    run(main())


def test_a_pool_that_lends_too_much_is_not_measured() -> None:
    @asynccontextmanager
    async def borrow() -> AsyncIterator[object]:
        yield object()

    async def main() -> None:
        with pytest.raises(UnsoundError, match=f"generous does not lend {SIZE} connections"):
            await inspect(Case("generous", "fake", borrow))

    run(main())


def test_check_names_each_missed_goal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def measure(_server: Server, _plan: Plan) -> list[Section]:
        goals = [Goal("speed", 2.0, 1.0), Goal("thrift", 1.0, 1.0)]
        return [Section("Title", "Explanation.", ["pool"], goals=goals)]

    monkeypatch.setitem(program.SECTIONS, "memory", measure)
    arguments = ["--quick", "--only", "memory"]
    assert program.main(arguments) == 0
    assert capsys.readouterr().err == ""
    assert program.main([*arguments, "--check"]) == 1
    assert capsys.readouterr().err == "missed: speed is 2, to be ≤ 1\n"
