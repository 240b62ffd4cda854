"""Programs that end, or fork, while their pool is busy: quickly, in silence, and without harm."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.testing import FakeConnection, Ledger, Replay
from poolscope.testing.postgres import PostgresServer
from tests.behaviour.ending import WAYS
from tests.behaviour.forking import MOMENTS
from tests.support import run

STRICT = ("-X", "dev", "-W", "error")
STATUS = 7
"""What the programs end with."""


def run_program(name: str, *arguments: str, options: tuple[str, ...] = STRICT) -> tuple[str, float]:
    """Run a program beside this file; return its output, and when it ended."""
    path = str(Path(__file__).with_name(name))
    command = [sys.executable, *options, path, *arguments]
    program = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    ended = time.monotonic()
    assert (program.returncode, program.stderr) == (STATUS, "")
    return program.stdout, ended


@pytest.mark.parametrize("way", [way.__name__ for way in WAYS])
def test_a_program_ends_at_once_and_without_a_word(way: str) -> None:
    last_act, ended = run_program("ending.py", way)
    assert ended - float(last_act) < 1.0


@pytest.mark.parametrize(
    "way", ["idle", "in_use", "waited_for", "asking", "used_on_two_loops_in_turn"]
)
def test_a_program_with_connections_to_a_real_server_ends_as_quietly(
    postgres: PostgresServer, way: str
) -> None:
    # Not -W error: asyncpg and asyncio rightly warn of connections that nobody has closed.
    last_act, ended = run_program("ending.py", way, postgres.dsn, options=())
    assert ended - float(last_act) < 1.0


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_forked_child_and_its_parent_never_touch_connections_of_the_other(
    moment: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    run_program("forking.py", moment, str(ledger))
    deeds = [line.split() for line in ledger.read_text().splitlines()]
    assert len({process for process, *_ in deeds}) == 2
    assert all(process == owner for process, _, owner, _ in deeds)
    opened = {(owner, serial) for _, deed, owner, serial in deeds if deed == "open"}
    assert opened == {(owner, serial) for _, deed, owner, serial in deeds if deed == "close"}


@pytest.mark.parametrize("moment", ["unopened", "idle", "waited_for"])
def test_the_numbers_of_a_forked_child_start_at_zero(moment: str, tmp_path: Path) -> None:
    output, _ = run_program("forking.py", moment, str(tmp_path / "ledger"))
    unused, used = json.loads(output)
    assert unused == [0, 0, 0, 0]
    assert used == [30, 30, 3, 3]


def test_a_pool_can_be_used_on_one_loop_after_the_other() -> None:
    async def use_and_leave_open() -> None:
        async with pool.connection() as connection:
            await connection.execute()
        replay.check(pool.stats())

    async def use_and_close() -> None:
        await use_and_leave_open()
        assert len(ledger.open_connections) == pool.stats().size
        await pool.close()
        replay.check(pool.stats())

    ledger, replay = Ledger(), Replay()
    pool: ConnectionPool[FakeConnection] = ConnectionPool(
        ledger.open, ConnectionPoolSettings(min_size=2), close_func=ledger.close
    )
    pool.bus.subscribe(replay)
    run(use_and_leave_open())
    run(use_and_leave_open())
    run(use_and_close())
    ledger.audit()
