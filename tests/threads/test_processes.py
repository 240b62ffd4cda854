"""Programs that end, or fork, while threads use their pool: quickly, in silence, without harm."""

import json
from pathlib import Path

import pytest

from tests.threads.ending import WAYS
from tests.threads.forking import MOMENTS
from tests.threads.programs import STATUS, STRICT, run_program

# From 3.12 on Python warns of every fork of a process that has threads.
FORKING = (*STRICT, "-W", "ignore:This process:DeprecationWarning")


@pytest.mark.parametrize("way", [way.__name__ for way in WAYS])
def test_a_program_ends_at_once_and_without_a_word(way: str) -> None:
    last_act, ended = run_program("ending.py", way, status=STATUS)
    assert ended - float(last_act) < 1.0


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_forked_child_and_its_parent_never_touch_connections_of_the_other(
    moment: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    output, _ = run_program("forking.py", moment, ledger, status=STATUS, flags=FORKING)
    deeds = [line.split() for line in ledger.read_text().splitlines()]
    assert len({process for process, *_ in deeds}) == 2
    assert all(process == owner for process, _, owner, _ in deeds)
    opened = {(owner, serial) for _, deed, owner, serial in deeds if deed == "open"}
    assert opened == {(owner, serial) for _, deed, owner, serial in deeds if deed == "close"}
    unused, used = json.loads(output)
    assert unused == [0, 0, 0, 0]
    assert used == [120, 120, 3, 3]
