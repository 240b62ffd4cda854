"""Signal handlers that raise in the main thread, every 200 us, whatever it is doing: nothing is
lost, and what was raised always comes out.

`POOLSCOPE_SEED=<number>` repeats what the program does, though not when it is struck.
"""

import os
import random

import pytest

from tests.threads.programs import report_of

FRESH_SEED = int(os.environ.get("POOLSCOPE_SEED") or random.SystemRandom().getrandbits(32))
MODES = ("plain", "careful", "prompt", "inline", "crowded")
HOW = [("exception", mode) for mode in MODES] + [
    ("keyboard", "plain"),
    ("keyboard", "inline"),
    ("sigint", "careful"),
    ("partial", "plain"),
    ("object", "prompt"),
]


def interrupt(handler: str, mode: str, seconds: float) -> None:
    report = report_of("interrupted.py", handler, mode, seconds, FRESH_SEED)
    assert report["struck"] > 100 * seconds
    # Of two that strike in one call the second may come out of the next.
    assert report["struck"] <= report["came_out"] <= report["raised"]
    assert report["swallowed"] == []


@pytest.mark.parametrize(("handler", "mode"), HOW)
def test_an_interrupt_always_comes_out_and_nothing_is_lost(handler: str, mode: str) -> None:
    interrupt(handler, mode, 0.4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_lost_in_ten_seconds_of_interrupts(mode: str) -> None:
    interrupt("exception", mode, 10)


@pytest.mark.parametrize("mode", ["plain", "careful", "inline"])
def test_a_handler_that_uses_the_pool_succeeds_or_is_told_why_not(mode: str) -> None:
    report = report_of("interrupted.py", "user", mode, 0.4, FRESH_SEED)
    assert report["answers"].pop("success") > 10
    assert set(report["answers"]) <= {"PoolTimeoutError", "PoolError"}
