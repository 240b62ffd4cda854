import pytest

from benchmarks.case import Borrow, Case, Field
from benchmarks.contest import Contest
from benchmarks.crowd import Outcome
from benchmarks.plan import make_plan
from benchmarks.section import Section
from tests.support import run


def outcome(longest: float, turns: float = 1.0, rate: float = 100.0, starved: int = 0) -> Outcome:
    return Outcome(rate, 0.001, longest, turns, starved)


def hold(
    ours: list[Outcome], fair: Outcome, throughput: float | None = None, exact: bool = True
) -> Section:
    """Return the table of a contest with these outcomes."""
    left = [*ours]
    borrows = {"ours": lambda: left.pop(0), "fair": lambda: fair, "floor": lambda: fair}

    async def give(borrow: Borrow, _seconds: float) -> Outcome:
        return borrow()

    contest = Contest(
        "Title", "{boxes} of {seconds} s.", "5 threads", give, floor="floor", ours="ours",
        longest_wait=3.0, throughput=throughput, noise="fair", turns_are_exact=exact,
    )  # fmt: skip
    field = Field([Case(name, "fake", borrow) for name, borrow in borrows.items()])
    return run(contest.measure(field, make_plan(quick=True, rounds=4 * len(ours), seed=1)))


def test_a_long_wait_is_a_missed_goal_if_a_fair_pool_had_none() -> None:
    section = hold([outcome(4.0)], fair=outcome(2.0))
    (longest,) = [goal for goal in section.goals if not goal.is_met]
    assert str(longest) == "longest wait to median with 5 threads is 4, to be ≤ 3"
    assert section.unchecked == []


def test_a_long_wait_is_blamed_on_a_machine_that_slows_a_fair_pool_too() -> None:
    section = hold([outcome(4.0)], fair=outcome(3.5))
    assert all(goal.is_met for goal in section.goals)
    assert section.unchecked == [
        "longest wait to median with 5 threads is 4, to be ≤ 3, but the machine was too busy: "
        "fair's own is 3.5"
    ]


@pytest.mark.parametrize(("exact", "met"), [(True, False), (False, True)])
def test_where_turns_are_exact_the_worst_box_counts_elsewhere_the_median(
    exact: bool, met: bool
) -> None:
    ours = [outcome(1.0, turns=turns) for turns in (2.0, 2.0, 9.0)]
    section = hold(ours, fair=outcome(1.0), exact=exact)
    (turns,) = [goal for goal in section.goals if "in turns" in goal.what]
    assert turns.is_met is met


def test_one_who_starved_in_one_box_is_one_too_many() -> None:
    section = hold([outcome(1.0), outcome(1.0, starved=1), outcome(1.0)], fair=outcome(1.0))
    assert [goal.what for goal in section.goals if not goal.is_met] == [
        "number of starved of 5 threads"
    ]


def test_throughput_is_a_goal_only_where_one_is_set() -> None:
    slow = outcome(1.0, rate=40.0)
    assert all(goal.is_met for goal in hold([slow], fair=outcome(1.0)).goals)
    section = hold([slow], fair=outcome(1.0), throughput=0.5)
    assert [goal.value for goal in section.goals if not goal.is_met] == [0.4]
