"""How long and how often to measure."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Slices time uncontended cycles; boxes are the stretches in which many tasks compete.

    A period is a slice long enough for what happens once in a while, an export or a scrape.
    """

    rounds: int
    slice_seconds: float
    boxes: int
    box_seconds: float
    periods: int
    period_seconds: float
    crowds: tuple[int, int, int, int]
    """How many pools metrics are collected from."""
    seed: int
    random: random.Random


def make_plan(*, quick: bool, rounds: int | None, seed: int | None) -> Plan:
    rounds = rounds or (5 if quick else 21)
    seed = random.SystemRandom().getrandbits(32) if seed is None else seed
    return Plan(
        rounds=rounds,
        slice_seconds=0.002 if quick else 0.02,
        boxes=max(1, rounds // 4),
        box_seconds=0.1 if quick else 0.5,
        periods=1 if quick else max(1, rounds // 2),
        period_seconds=0.4 if quick else 1.0,
        crowds=(1, 10, 50, 100) if quick else (10, 100, 1000, 2000),
        seed=seed,
        random=random.Random(seed),
    )
