"""Under gevent, whose timeouts and kills strike wherever a greenlet waits."""

import os
import random

import pytest

from tests.threads.programs import report_of

FRESH_SEED = int(os.environ.get("POOLSCOPE_SEED") or random.SystemRandom().getrandbits(32))


@pytest.mark.parametrize("seed", [1, FRESH_SEED], ids="seed_{}".format)
@pytest.mark.parametrize("patched", ["before", "after"])
def test_greenlets_share_a_pool_whatever_strikes_them(patched: str, seed: int) -> None:
    pytest.importorskip("gevent")
    report = report_of("greenlets.py", patched, seed, flags=())
    outcomes = report["outcomes"]
    assert outcomes["done"] > 100
    assert outcomes["struck"] > 10
    assert set(outcomes) <= {"done", "struck"}
    assert report["served"] == list(range(10, 50))
