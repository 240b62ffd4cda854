"""Programs that end, or fork, while their pool is busy: quickly, in silence, and without harm."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from poolscope import ConnectionPool, ConnectionPoolSettings
from poolscope.testing import FakeConnection, Ledger, Replay
from poolscope.testing.ledger import never
from poolscope.testing.postgres import PostgresServer
from tests.behaviour.ending import WAYS
from tests.behaviour.forking import MOMENTS
from tests.support import run

pytestmark = pytest.mark.driver("asyncio")

STRICT = ("-X", "dev", "-W", "error")
STATUS = 7
"""What the programs end with."""


def run_program(name: str, *arguments: str) -> tuple[str, float]:
    """Run a program beside this file; return its output, and when it ended."""
    path = str(Path(__file__).with_name(name))
    command = [sys.executable, *STRICT, path, *arguments]
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
    last_act, ended = run_program("ending.py", way, postgres.dsn)
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


def make_pool(ledger: Ledger, replay: Replay) -> ConnectionPool[FakeConnection]:
    settings = ConnectionPoolSettings(min_size=2, max_size=3)
    hooks = (ledger.validate, ledger.close)
    pool = ConnectionPool(ledger.open, settings, *hooks, reset_func=ledger.reset)
    pool.bus.subscribe(replay)
    return pool


def test_a_pool_can_be_used_on_one_loop_after_the_other() -> None:
    async def use(*, and_close: bool = False) -> None:
        await pool.initialize()
        async with pool.connection() as connection:
            await connection.execute()
        replay.check(pool.stats())
        assert len(ledger.open_connections) == pool.stats().size
        if and_close:
            await pool.close()

    ledger, replay = Ledger(), Replay()
    pool = make_pool(ledger, replay)
    run(use())
    run(use())
    run(use(and_close=True))
    ledger.audit()


@pytest.mark.parametrize("hook", ["open", "validate", "reset", "close"])
def test_a_pool_can_be_used_on_the_next_loop_whatever_the_last_one_was_doing(hook: str) -> None:
    async def use() -> None:
        async with pool.connection() as connection:
            await connection.execute()

    async def leave_in_the_midst() -> None:
        await pool.initialize()
        ledger.script(hook, [never] * 9)
        kept.extend(asyncio.create_task(use()) for _ in range(9))
        await pool.drain()
        for _ in range(20):
            await asyncio.sleep(0)

    async def use_and_close() -> None:
        await asyncio.gather(*(use() for _ in range(9)))
        replay.check(pool.stats())
        await pool.close()

    kept: list[asyncio.Task[None]] = []
    ledger, replay = Ledger(), Replay()
    pool = make_pool(ledger, replay)
    asyncio.run(leave_in_the_midst())
    ledger.scripts[hook].clear()
    run(use_and_close())
    ledger.audit()
