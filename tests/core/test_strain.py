import itertools
import pickle
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolscope.strain import PEAK_STEP, PEAK_WINDOW, Strain


def strain_after(*uses: tuple[float, int]) -> Strain:
    """A strain that was told how many were in use, and when."""
    strain = Strain()
    for now, used in uses:
        note(strain, used, now)
    return strain


def note(strain: Strain, used: int, now: float) -> None:
    strain.step(used, now)
    strain.peak = max(strain.peak, used)


# The peak


def test_at_first_there_is_no_peak():
    assert Strain().used_peak(0, 0) == 0
    assert Strain().used_peak(3, 0) == 3


@pytest.mark.parametrize("start", [0.0, 12345.6, -1000.0])
def test_a_peak_is_forgotten_sixty_to_seventy_seconds_after_it(start):
    strain = strain_after((start, 5), (start + 1, 2))
    assert strain.used_peak(0, start + 1) == 5
    strain.step(1, start + PEAK_STEP)
    assert strain.used_peak(1, start + 69.9) == 5
    assert strain.used_peak(1, start + 70) == 1


def test_a_peak_is_forgotten_even_if_nobody_looks_after_the_pool():
    strain = strain_after((0, 5))
    assert strain.used_peak(0, 69.9) == 5
    assert strain.used_peak(0, 70) == 0
    strain.step(0, 1000)
    assert strain.used_peak(0, 1000) == 0


def test_of_several_peaks_the_highest_that_is_not_yet_forgotten_counts():
    strain = strain_after((0, 9), (10, 1), (20, 5), (30, 1))
    shown = {now: strain.used_peak(1, now) for now in (30, 69, 70, 89, 90)}
    assert shown == {30: 9, 69: 9, 70: 5, 89: 5, 90: 1}


@given(
    st.lists(st.tuples(st.sampled_from([0.5, 3.0, 10.0, 25.0]), st.integers(0, 9)), min_size=1),
    st.sampled_from([0.0, 30.0, 65.0]),
)
def test_a_peak_is_never_below_the_last_minute_nor_above_the_last_seventy_seconds(uses, later):
    times = list(itertools.accumulate(gap for gap, _ in uses))
    told = list(zip(times, [used for _, used in uses], strict=True))
    now, used = times[-1] + later, uses[-1][1]
    peak = strain_after(*told).used_peak(used, now)
    within = [[n for time, n in told if time > now - span] for span in (60, 70)]
    assert max(within[0], default=0) <= peak <= max([used, *within[1]])


def test_hours_of_steps_take_no_more_room_than_minutes():
    strain = Strain()
    sizes = []
    for step in range(3000):
        note(strain, step % 7, step * PEAK_STEP)
        sizes.append(len(pickle.dumps(strain)))
    assert sizes[-1] == sizes[int(2 * PEAK_WINDOW / PEAK_STEP)]


# Saturation


def test_saturation_adds_up_and_the_present_one_counts():
    strain = Strain()
    strain.begin(10, 1)
    assert (strain.since, strain.saturated_for(13), strain.saturation_time(13)) == (10, 3, 3)
    assert strain.saturated
    assert strain.end(14) == 4
    assert (strain.since, strain.saturated_for(20), strain.saturation_time(20)) == (None, 0, 4)
    strain.begin(20, 1)
    assert strain.saturation_time(22) == 6
    strain.end(25)
    assert strain.saturation_time(99) == 9


def test_a_reading_from_before_the_beginning_is_not_negative():
    strain = Strain()
    strain.begin(10, 1)
    assert (strain.saturated_for(9.9), strain.saturation_time(9.9)) == (0, 0)


def test_a_reset_forgets_everything():
    strain = strain_after((0, 5))
    strain.begin(0, 1)
    strain.reset()
    assert (strain.used_peak(0, 1), strain.since, strain.saturation_time(1)) == (0, None, 0)
    assert not strain.saturated


# Readers in other threads


def interrupted_reads(
    read: Callable[[], Any], prepare: Callable[[], Callable[[], object]]
) -> Iterator[Any]:
    """Read while something is written, before the 1st instruction, the 2nd, and so on."""
    read_interrupted(read, prepare(), 0)  # CPython 3.12 traces instructions from the second time on
    for moment in itertools.count(1):
        result, reached = read_interrupted(read, prepare(), moment)
        if not reached:
            return
        yield result


def read_interrupted(
    read: Callable[[], Any], write: Callable[[], object], moment: int
) -> tuple[Any, bool]:
    passed = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal passed
        frame.f_trace_opcodes = True
        if event == "opcode":
            passed += 1
            if passed == moment:
                write()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return read(), passed >= moment
    finally:
        sys.settrace(before)


def test_a_peak_is_seen_even_if_its_step_ends_at_that_moment():
    strain = Strain()

    def prepare():
        strain.reset()
        note(strain, 5, 0)
        return lambda: strain.step(0, PEAK_STEP)

    shown = list(interrupted_reads(lambda: strain.used_peak(0, PEAK_STEP), prepare))
    assert len(shown) > 20
    assert set(shown) == {5}


@pytest.mark.parametrize("again", [False, True])
def test_the_time_saturated_never_goes_back_even_if_it_ends_at_that_moment(again):
    strain = Strain()

    def prepare():
        strain.reset()
        strain.begin(0, 1)
        return end

    def end():
        strain.end(10)
        if again:
            strain.begin(10, 1)

    shown = list(interrupted_reads(lambda: strain.saturation_time(10), prepare))
    assert len(shown) > 5
    assert set(shown) == {10}
    shown = list(interrupted_reads(lambda: strain.saturated_for(10), prepare))
    assert set(shown) == {0, 10}
