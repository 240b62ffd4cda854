"""The libraries' own tests of their pools end alike, whether the pools are instrumented or not."""

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest

from poolscope.testing.server import ServerMissingError
from tests.instrument.own_suites.runs import Result, Test, side_by_side
from tests.instrument.own_suites.suites import SUITES, Suite

AGAIN = 3
"""How often tests that ended differently are run again: what we cause happens each time."""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.library)
def test_their_tests_end_alike_instrumented_and_not(suite: Suite, tmp_path: Path) -> None:
    plain, observed = both(suite, tmp_path / "first")
    for told in observed:
        assert told.readings
        assert not told.complaints
        no_more_ends_than_beginnings(Counter(told.counts))
    assert sum(told.counts.get("ConnectionRequested", 0) for told in observed) >= suite.least
    different = differing(suite, plain, observed)
    for time in range(AGAIN):
        if different:
            print(f"ended differently, and are run again: {different}")
            again = differing(suite, *both(suite, tmp_path / f"again-{time}", different))
            different = {test: again[test] for test in different if test in again}
    assert not different


def no_more_ends_than_beginnings(counts: Counter[str]) -> None:
    """What their tests leave open, or lent, has no end; but nothing ends twice."""
    acquired, opened = counts["ConnectionAcquired"], counts["ConnectionOpened"]
    ended = acquired + counts["AcquireTimedOut"] + counts["AcquireFailed"]
    assert ended <= counts["ConnectionRequested"], counts
    back = counts["ConnectionReleased"] + counts["LeakReclaimed"] + counts["ConnectionDetached"]
    assert back <= acquired, counts
    assert opened + counts["ConnectFailed"] <= counts["ConnectStarted"], counts
    assert counts["PoolClosed"] <= counts["PoolOpened"], counts


def both(suite: Suite, folder: Path, only: Collection[Test] = ()) -> tuple[list[Result], ...]:
    try:
        plain, observed = side_by_side(suite, folder, only)
    except ServerMissingError as missing:
        if "CI" in os.environ:
            raise
        pytest.skip(str(missing))
    for what, results in ("plain", plain), ("instrumented", observed):
        number = sum(len(told.outcomes) for told in results)
        failed = sorted(name for told in results for name in told.failures())
        print(f"{suite.library}, {what}: {number} tests; failed: {', '.join(failed) or 'none'}")
    print(f"seen: {[told.counts for told in observed]}, {[told.readings for told in observed]}")
    return plain, observed


def differing(
    suite: Suite, plain: list[Result], observed: list[Result]
) -> dict[Test, tuple[list[str], list[str]]]:
    expected, found = outcomes(plain), outcomes(observed)
    return {
        test: (expected.get(test, []), found.get(test, []))
        for test in expected.keys() | found.keys()
        if expected.get(test) != found.get(test) and test[1] not in suite.left_out
    }


def outcomes(results: list[Result]) -> dict[Test, list[str]]:
    return {(told.part, name): ends for told in results for name, ends in told.outcomes.items()}
